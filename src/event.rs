//! The words that all parts of the program share: nodes, their events, and how they
//! can end.
//!
//! Nothing here does anything; `cluster` and `ssh` make these values, `output`
//! shows them and `run` judges them.

use std::fmt;
use std::time::Duration;

use crate::error::Tree;

/// A node of this run: its place in the target order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct NodeId(pub(crate) usize);

/// The number of what a node does: main counts it up whenever the node is to begin
/// something new, and the node's events carry it. So an event that was on its way when
/// something new began is told from an event of the new thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct Attempt(pub(crate) u32);

impl Attempt {
    /// The number of what is begun next.
    #[must_use]
    pub(crate) fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// Which of a remote command's two outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Stream {
    /// File descriptor 1.
    Stdout,
    /// File descriptor 2.
    Stderr,
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        })
    }
}

/// How important a log line is, most important last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// `-vv`: every step.
    Trace,
    /// `-v`: what one needs to find out why something does not work.
    Debug,
    /// What happens.
    Info,
    /// Something is not as it should be, and the run goes on.
    Warn,
    /// Something failed.
    Error,
    /// The run failed because of this.
    Fatal,
}

impl Level {
    /// The name in log lines.
    #[must_use]
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Trace => "TRACE",
            Self::Debug => "DEBUG",
            Self::Info => "INFO",
            Self::Warn => "WARN",
            Self::Error => "ERROR",
            Self::Fatal => "FATAL",
        }
    }
}

/// How a host ended, without the details.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Status {
    /// The command ended with status 0.
    Ok,
    /// The command ended with this status, which is not 0.
    Exit(i32),
    /// The command was ended by this signal (`TERM`, `KILL`, … as in RFC 4254
    /// section 6.10).
    Signal(String),
    /// The command ran longer than `--timeout`.
    Timeout,
    /// The connection was lost after it had been made.
    Connection,
    /// The host let us in, but does not start what it is asked for. (JSON results call
    /// it `connection`.)
    Refused,
    /// No connection could be made.
    Unreachable,
    /// The host, or sudo on it, did not let us in.
    Auth,
    /// The host's key was refused.
    HostKey,
    /// The host could not be locked.
    Lock,
    /// The lock was lost while the run went on.
    LockLost,
    /// The host did not take all of the upload, or it could not be put in place.
    Upload,
    /// The run stopped before this host had finished, or before it started.
    Cancelled,
}

/// How a host ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// The kind of end.
    pub(crate) status: Status,
    /// What exactly happened, where the status does not say it all.
    pub(crate) reason: Option<Tree>,
    /// How long the command ran (zero where it never started).
    pub(crate) duration: Duration,
}

impl Outcome {
    /// An end before any command ran.
    #[must_use]
    pub(crate) fn failed(status: Status, reason: Tree) -> Self {
        Self {
            status,
            reason: Some(reason),
            duration: Duration::ZERO,
        }
    }

    /// The same end, of a host that has lost its lock, which is what counts then.
    #[must_use]
    pub(crate) fn without_lock(self, reason: &Tree) -> Self {
        Self {
            status: Status::LockLost,
            reason: Some(reason.clone()),
            ..self
        }
    }

    /// Whether all is well.
    #[must_use]
    pub(crate) fn is_ok(&self) -> bool {
        self.status == Status::Ok
    }

    /// The end of a host that the run did not wait for.
    #[must_use]
    pub(crate) fn cancelled() -> Self {
        Self {
            status: Status::Cancelled,
            reason: None,
            duration: Duration::ZERO,
        }
    }
}

/// The key that a server showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostKey {
    /// The key in SSH wire format (RFC 4253 section 6.6).
    pub(crate) blob: Vec<u8>,
    /// Its algorithm, as in `ssh-ed25519`.
    pub(crate) algorithm: String,
    /// `SHA256:…`, as `ssh-keygen -l` prints it.
    pub(crate) fingerprint: String,
}

/// Why there is no lock on a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LockRefusal {
    /// Another run, or another program, has it.
    Held {
        /// What is locked.
        identity: Identity,
        /// The holder; empty where that cannot be told.
        holder: String,
    },
    /// There is no flock(1).
    NoFlock,
    /// There is nothing that could be locked, for this reason.
    NoTarget(String),
    /// The user may not make or open what should be locked, for this reason.
    Forbidden(String),
}

/// A file or directory on a host, by boot id, device and inode: what was locked, or
/// where an upload goes. Two targets of a run may turn out to be one machine.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Identity(pub(crate) String);

impl Identity {
    /// Whether two targets have locked the same thing. Not if it could not be
    /// found out what they have locked.
    #[must_use]
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self == other && self.is_known()
    }

    /// Whether it could be found out what it is.
    #[must_use]
    pub(crate) fn is_known(&self) -> bool {
        !self.0.starts_with(':') && !self.0.ends_with(':')
    }
}

/// What a node thread tells the main thread.
#[derive(Debug, Clone)]
pub(crate) enum NodeEvent {
    /// Logged in and ready for a command.
    Connected,
    /// The server's key is unknown; the node waits for an answer.
    UnknownHostKey(HostKey),
    /// The guard runs, and has locked this (nothing if it was not asked to).
    Guarded(Option<Identity>),
    /// There is no lock, and no guard; the node is still there.
    Refused(LockRefusal),
    /// The guard has gone, as it was told; the node is still there.
    Unlocked,
    /// The run directory is there.
    RunDirectory,
    /// What takes the upload on the host waits for it, in this directory.
    Awaiting(Identity),
    /// The host has taken all of the upload, and how it would end with that.
    Uploaded(Outcome),
    /// The remote command has been started.
    Started,
    /// The remote command has ended; the guard is still there.
    Finished(Outcome),
    /// Something is left in this run directory.
    Left(String),
    /// The guard has not said in time that it goes: commands may still be about to
    /// end, and the lock be held until then.
    NotLetGo,
    /// The lock is not (certainly) ours any more, for this reason.
    LockLost(Tree),
    /// What the commands are to read cannot be read (a local problem, not the
    /// node's).
    InputFailed(Tree),
    /// Nothing more will come from this node.
    Ended(Outcome),
}

impl NodeEvent {
    /// Whether this is about the connection and its guard, and not about the attempt
    /// that it comes from.
    #[must_use]
    pub(crate) fn is_about_connection(&self) -> bool {
        matches!(
            self,
            Self::Left(_)
                | Self::NotLetGo
                | Self::LockLost(_)
                | Self::InputFailed(_)
                | Self::Ended(_)
        )
    }
}

/// What happens to a sync tool, for the coordinator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ToolEvent {
    /// It has been started.
    Started(NodeId),
    /// It has said SYNC, with this description.
    Sync(NodeId, Vec<u8>),
    /// It has ended, or never started, or its host is lost.
    Ended(NodeId, ToolEnd),
}

/// How a sync tool has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ToolEnd {
    /// With status 0.
    Succeeded,
    /// In any other way: it cannot be counted on to have done its part.
    Failed,
}

/// Where a part of the program says what it does. `output` shows it.
pub(crate) trait Log {
    /// Whether a line of this level is shown: for lines that cost something to make.
    fn enabled(&self, level: Level) -> bool;

    /// Says it.
    fn log(&self, level: Level, text: Tree);
}
