//! Where a node of a run is.

use crate::event::{HostKey, Identity, LockRefusal, Outcome};
use crate::output::Phase;
use crate::run::schedule::Stage;

/// Where a node is, as far as main knows.
#[derive(Debug, Clone)]
pub(crate) enum State {
    /// Its thread has not been started.
    Waiting,
    /// It connects and logs in.
    Connecting,
    /// It waits for a decision on this key.
    Asking(HostKey),
    /// Its key is trusted, and it waits for its turn to go on.
    Trusted,
    /// Its key is not trusted, and it is about to end.
    Distrusted,
    /// It is logged in, and has no guard.
    Connected,
    /// It starts a guard.
    Locking,
    /// It lets its guard go.
    Unlocking,
    /// It could not be locked.
    Refused(LockRefusal),
    /// Its guard runs, and it is ready for the next step.
    Ready,
    /// It makes the run directory, or starts what takes the upload.
    Preparing,
    /// It waits for the upload, in this directory.
    Awaiting(Identity),
    /// It takes the upload, or waits for another name of its directory to do so.
    Uploading,
    /// It starts the command.
    Starting,
    /// Its command runs.
    Running,
    /// It has done a step of the run that other nodes are still at.
    Passed,
    /// It has done all that it had to, and the guard is still there.
    Finished(Outcome),
    /// Its thread has ended.
    Ended(Outcome),
    /// Its thread has ended, and the run goes on without it (`-w`).
    Skipped,
}

impl State {
    /// No event changes it any more.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self, Self::Ended(_) | Self::Skipped)
    }

    /// Its thread has been started, and has not ended.
    pub(crate) fn is_live(&self) -> bool {
        !matches!(self, Self::Waiting) && !self.is_over()
    }

    pub(crate) fn is_connecting(&self) -> bool {
        matches!(self, Self::Connecting)
    }

    pub(crate) fn is_trusted(&self) -> bool {
        matches!(self, Self::Trusted)
    }

    pub(crate) fn is_connected(&self) -> bool {
        matches!(self, Self::Connected)
    }

    pub(crate) fn is_unlocking(&self) -> bool {
        matches!(self, Self::Unlocking)
    }

    pub(crate) fn is_refused(&self) -> bool {
        matches!(self, Self::Refused(_))
    }

    pub(crate) fn is_ready(&self) -> bool {
        matches!(self, Self::Ready)
    }

    pub(crate) fn is_awaiting(&self) -> bool {
        matches!(self, Self::Awaiting(_))
    }

    pub(crate) fn is_uploading(&self) -> bool {
        matches!(self, Self::Uploading)
    }

    /// Its command has been ordered, and has not ended.
    pub(super) fn is_running(&self) -> bool {
        matches!(self, Self::Starting | Self::Running)
    }

    /// It has been given something to do on the host, and has not ended it.
    pub(super) fn is_at_work(&self) -> bool {
        self.is_running() || matches!(self, Self::Preparing | Self::Awaiting(_) | Self::Uploading)
    }

    /// It is logged in, or about to be, and has something to end before it can go.
    pub(crate) fn is_busy(&self) -> bool {
        self.is_at_work()
            || matches!(
                self,
                Self::Asking(_)
                    | Self::Trusted
                    | Self::Distrusted
                    | Self::Locking
                    | Self::Unlocking
            )
    }

    /// It is logged in, or was, and may hold its lock.
    pub(crate) fn holds_on(&self) -> bool {
        self.is_live() && !self.is_connecting()
    }

    /// How it ended, if it has.
    pub(crate) fn outcome(&self) -> Option<&Outcome> {
        match self {
            Self::Finished(outcome) | Self::Ended(outcome) => Some(outcome),
            _ => None,
        }
    }

    /// How far it is with what it has begun last.
    pub(super) fn stage(&self) -> Stage {
        match self {
            Self::Connecting
            | Self::Locking
            | Self::Unlocking
            | Self::Preparing
            | Self::Starting => Stage::Starting,
            Self::Asking(_)
            | Self::Trusted
            | Self::Distrusted
            | Self::Awaiting(_)
            | Self::Uploading
            | Self::Running => Stage::UnderWay,
            Self::Waiting
            | Self::Connected
            | Self::Refused(_)
            | Self::Ready
            | Self::Passed
            | Self::Finished(_) => Stage::AtRest,
            Self::Ended(_) | Self::Skipped => Stage::Gone,
        }
    }

    /// Whether it counts as failed in the status bar.
    pub(super) fn has_failed(&self) -> bool {
        self.is_refused() || self.outcome().is_some_and(|outcome| !outcome.is_ok())
    }

    /// Whether it is through with a phase of the run. `is_sending`: the upload has begun.
    pub(super) fn is_through(&self, phase: Phase, is_sending: bool) -> bool {
        match (phase, self) {
            (_, Self::Skipped) => false,
            (_, Self::Passed | Self::Ended(_) | Self::Finished(_)) => true,
            (Phase::Connect, _) => !matches!(
                self,
                Self::Waiting
                    | Self::Connecting
                    | Self::Asking(_)
                    | Self::Trusted
                    | Self::Distrusted
            ),
            (Phase::Lock, _) => matches!(self, Self::Refused(_) | Self::Ready),
            // Nothing is sent before all hosts are ready for it.
            (Phase::Upload, _) => self.is_ready() && is_sending,
            (Phase::Exec, _) => self.is_running(),
            (Phase::Wait, _) => false,
        }
    }
}
