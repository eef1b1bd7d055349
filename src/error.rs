//! Errors for people, and what they mean for whoever called us: the error tree
//! and the exit status.
//!
//! Each area has its own error type next to its code; here they become trees
//! (rendered by `output`) and one exit status per run.

use std::error::Error;

use crate::event::Status;

/// An error with its causes, as a tree of sentences.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    /// What happened: a lowercase fragment, possibly of several lines.
    pub message: String,
    /// Why.
    pub causes: Vec<Tree>,
}

impl Tree {
    /// A sentence without a cause.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            causes: Vec::new(),
        }
    }

    /// The same sentence with one more cause.
    #[must_use]
    pub fn because(mut self, cause: impl Into<Tree>) -> Self {
        self.causes.push(cause.into());
        self
    }

    /// An error and the chain of its sources.
    pub fn from_error(error: &dyn Error) -> Self {
        let tree = Self::new(plain_message(error));
        match error.source() {
            Some(source) => tree.because(Self::from_error(source)),
            None => tree,
        }
    }

    /// An error of this machine's system, with what can be done about it where
    /// that is for sure.
    #[must_use]
    pub fn from_io(error: &std::io::Error) -> Self {
        let tree = Self::new(io_message(error).to_lowercase());
        if error.raw_os_error() == Some(rustix::io::Errno::MFILE.raw_os_error()) {
            return tree.because("a host takes three: raise the limit with ulimit -n");
        }
        tree
    }

    /// The sentence and its causes on one line: `what: why; why not`.
    #[must_use]
    pub fn flat(&self) -> String {
        if self.causes.is_empty() {
            return self.message.clone();
        }
        let causes: Vec<String> = self.causes.iter().map(Self::flat).collect();
        format!("{}: {}", self.message, causes.join("; "))
    }
}

impl From<&str> for Tree {
    fn from(message: &str) -> Self {
        Self::new(message)
    }
}

impl From<String> for Tree {
    fn from(message: String) -> Self {
        Self::new(message)
    }
}

/// The text of an error, without the `(os error 2)` that std adds to what the
/// system says: it helps nobody who reads a terminal.
fn plain_message(error: &dyn Error) -> String {
    let text = error.to_string();
    match text.rfind(" (os error ") {
        Some(at) if text.ends_with(')') => text[..at].to_owned(),
        _ => text,
    }
}

/// The system's message for an I/O error, without std's `(os error N)`.
#[must_use]
pub fn io_message(error: &std::io::Error) -> String {
    plain_message(error)
}

/// How the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    /// All hosts are ok.
    Success,
    /// A command failed on some host.
    Failed,
    /// Usage, local input or local output.
    Usage,
    /// Hosts unreachable, not authenticated, host keys refused, connection lost.
    Connection,
    /// A host could not be locked.
    Lock,
    /// A lock was lost during the run.
    LockLost,
    /// Ended by this signal, after cleaning up.
    Signal(i32),
    /// Whoever read our stdout has gone.
    BrokenPipe,
}

impl ExitStatus {
    /// The number that the calling process sees. (For a signal: what a shell
    /// makes of it.)
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Connection => 3,
            Self::Lock => 4,
            Self::LockLost => 5,
            Self::Signal(number) => 128u8.wrapping_add(u8::try_from(number).unwrap_or(0)),
            Self::BrokenPipe => 141,
        }
    }

    /// The status of a run whose hosts ended like this. Where several apply, a
    /// problem with the connection counts more than a failed command: the
    /// caller cannot know then what state the host is in.
    pub fn of<'a>(statuses: impl IntoIterator<Item = &'a Status>) -> Self {
        statuses
            .into_iter()
            .map(|status| match status {
                Status::Ok | Status::Cancelled => Self::Success,
                Status::Exit(_) | Status::Signal(_) | Status::Timeout | Status::Upload => {
                    Self::Failed
                }
                Status::Connection
                | Status::Refused
                | Status::Unreachable
                | Status::Auth
                | Status::HostKey => Self::Connection,
                Status::Lock => Self::Lock,
                Status::LockLost => Self::LockLost,
            })
            .max_by_key(|status| status.code())
            .unwrap_or(Self::Success)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_connection_counts_more_than_a_failed_command() {
        let statuses = [Status::Exit(17), Status::Connection, Status::Ok];
        assert_eq!(ExitStatus::of(&statuses), ExitStatus::Connection);
        assert_eq!(ExitStatus::of(&statuses[..1]), ExitStatus::Failed);
        assert_eq!(ExitStatus::of(&statuses[2..]), ExitStatus::Success);
        assert_eq!(ExitStatus::of(&[]), ExitStatus::Success);
    }

    #[test]
    fn every_way_of_not_getting_in_is_a_connection_problem() {
        for status in [
            Status::Unreachable,
            Status::Refused,
            Status::Auth,
            Status::HostKey,
        ] {
            assert_eq!(ExitStatus::of(&[status]), ExitStatus::Connection);
        }
    }

    #[test]
    fn a_tree_is_flattened_with_colons_and_semicolons() {
        let tree = Tree::new("a")
            .because(Tree::new("b").because("c"))
            .because("d");
        assert_eq!(tree.flat(), "a: b: c; d");
    }

    #[test]
    fn the_number_of_a_system_error_is_not_shown() {
        let error = std::io::Error::from_raw_os_error(2);
        assert_eq!(io_message(&error), "No such file or directory");
        let tree = Tree::from_error(&error);
        assert_eq!(tree.message, "No such file or directory");
    }
}
