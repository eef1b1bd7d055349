//! What stops a run before its end, and the exit status that follows.

use crossbeam_channel::RecvError;
use signal_hook::consts::SIGTERM;
use signal_hook::low_level::signal_name;

use crate::error::Tree;
use crate::event::Level;
use crate::exit_status::ExitStatus;
use crate::output::OutputError;

/// What stops a run before its end.
#[derive(Debug)]
pub(super) enum Stop {
    /// A signal.
    Signal(i32),
    /// Our stdout is gone, or full.
    Output(OutputError),
    /// Something on this machine: a key, a passphrase, the `-i` file.
    Local(Tree),
    /// A lock was lost, and the user has been told.
    LockLost,
    /// The first failure, under `--fail-fast`.
    FailFast,
    /// A host has not taken the upload, so that nothing may be run anywhere.
    NotUploaded,
    /// Hosts failed, and the user has been told.
    Failed(ExitStatus),
}

impl Stop {
    pub(super) fn signal(received: Result<i32, RecvError>) -> Self {
        Self::Signal(received.unwrap_or(SIGTERM))
    }

    /// The exit status of a run whose hosts give that of `hosts`.
    pub(super) fn status(&self, hosts: ExitStatus) -> ExitStatus {
        match self {
            Self::FailFast | Self::NotUploaded => hosts,
            Self::LockLost => ExitStatus::LockLost,
            Self::Signal(signal) => ExitStatus::Signal(*signal),
            Self::Output(OutputError::Closed) => ExitStatus::BrokenPipe,
            Self::Output(_) | Self::Local(_) => ExitStatus::Usage,
            Self::Failed(status) => *status,
        }
    }

    /// What there is to say about it, if that has not been said.
    pub(super) fn announcement(&self) -> Option<(Level, Tree)> {
        match self {
            Self::Signal(signal) => {
                let name = signal_name(*signal).unwrap_or("a signal");
                let text = format!("{name} received, ending the run (once more: at once)");
                Some((Level::Warn, text.into()))
            }
            Self::Output(OutputError::Closed) => None,
            Self::Output(error) => Some((Level::Fatal, Tree::from_error(error))),
            Self::Local(tree) => Some((Level::Fatal, tree.clone())),
            Self::FailFast | Self::NotUploaded | Self::LockLost | Self::Failed(_) => None,
        }
    }

    /// Whether the results of the hosts are worth telling now.
    pub(super) fn has_results(&self) -> bool {
        matches!(
            self,
            Self::Signal(_) | Self::Local(_) | Self::FailFast | Self::NotUploaded | Self::LockLost
        )
    }
}
