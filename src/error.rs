//! Errors for people, as trees of sentences.
//!
//! Each area has its own error type next to its code; here they become trees, which
//! `output` renders.

use std::error::Error;

/// An error with its causes, as a tree of sentences.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tree {
    /// What happened: a lowercase fragment, possibly of several lines.
    pub(crate) message: String,
    /// Why.
    pub(crate) causes: Vec<Tree>,
}

impl Tree {
    /// A sentence without a cause.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            causes: Vec::new(),
        }
    }

    /// The same sentence with one more cause.
    #[must_use]
    pub(crate) fn because(mut self, cause: impl Into<Tree>) -> Self {
        self.causes.push(cause.into());
        self
    }

    /// An error and the chain of its sources.
    pub(crate) fn from_error(error: &dyn Error) -> Self {
        let tree = Self::new(plain_message(error));
        match error.source() {
            Some(source) => tree.because(Self::from_error(source)),
            None => tree,
        }
    }

    /// An error of this machine's system, with what can be done about it where
    /// that is for sure.
    #[must_use]
    pub(crate) fn from_io(error: &std::io::Error) -> Self {
        let tree = Self::new(io_message(error).to_lowercase());
        if error.raw_os_error() == Some(rustix::io::Errno::MFILE.raw_os_error()) {
            return tree.because("a host takes three: raise the limit with ulimit -n");
        }
        tree
    }

    /// The sentence and its causes on one line: `what: why; why not`.
    #[must_use]
    pub(crate) fn flat(&self) -> String {
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

/// The text of an error, without the `(os error 2)` that std adds to the system's
/// message.
fn plain_message(error: &dyn Error) -> String {
    let text = error.to_string();
    match text.rfind(" (os error ") {
        Some(at) if text.ends_with(')') => text[..at].to_owned(),
        _ => text,
    }
}

/// The system's message for an I/O error, without std's `(os error N)`.
#[must_use]
pub(crate) fn io_message(error: &std::io::Error) -> String {
    plain_message(error)
}

#[cfg(test)]
mod tests {
    use super::*;

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
