//! How the process ends, and which failure counts where there are several.

use crate::event::Status;

/// How the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExitStatus {
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
    pub(crate) fn code(self) -> u8 {
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
    pub(crate) fn of<'a>(statuses: impl IntoIterator<Item = &'a Status>) -> Self {
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
}
