//! What main tells a node: the orders, and the jobs that they carry.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};

use crate::cluster::input::Input;
use crate::cluster::stream::Chunk;
use crate::error::Tree;
use crate::event::ToolEvent;
use crate::remote::guard;
use crate::remote::protocol::{Names, Prefix};
use crate::remote::script::Script;
use crate::ssh::process::TerminalSize;

/// What a node is told.
pub(crate) enum Order {
    /// The host key that the node asked about is the right one.
    Trust,
    /// It is not, for this reason.
    Distrust(Tree),
    /// Start a guard.
    Guard(Arc<guard::Arguments>),
    /// Let the guard go, and wait.
    Unlock,
    /// Have the guard make the run directory of this id.
    MakeRunDirectory(Arc<str>),
    /// Run this.
    Run(Arc<Job>),
    /// Run this, which takes an upload, and feed it from here.
    Unpack(Arc<Job>, Receiver<Chunk>),
    /// Give this to the sync tool.
    Tell(Arc<[u8]>),
    /// Give the sync tool end of file.
    Close,
    /// The sync tool has failed, for this reason.
    FailTool(Tree),
    /// All is over.
    Release,
}

/// Something to run on many hosts.
pub(crate) struct Job {
    /// What each host runs.
    pub(crate) script: Script,
    /// What its streams are connected to.
    pub(crate) kind: JobKind,
    /// How long it may take on each host.
    pub(crate) timeout: Option<Duration>,
    /// The run directory, if there is one, is the job's from now on.
    pub(crate) keeps_run_directory: bool,
}

/// What the streams of a job are connected to.
pub(crate) enum JobKind {
    /// The user's command: output to the printer, stdin from `-i`.
    Command {
        /// The stdin of all hosts; end of file at once without.
        input: Option<Arc<Input>>,
        /// The type and size of the pseudo-terminal, if the command gets one.
        terminal: Option<(String, TerminalSize)>,
    },
    /// A sync tool that talks to those on the other hosts.
    Tool(Protocol),
    /// A script of ours that takes an upload.
    Unpack,
    /// Another script of ours.
    Internal,
}

impl Job {
    /// A script of ours.
    pub(crate) fn internal(script: Script) -> Self {
        Self {
            script,
            kind: JobKind::Internal,
            timeout: None,
            keeps_run_directory: false,
        }
    }

    /// The type and size of its pseudo-terminal, if it gets one.
    pub(super) fn terminal(&self) -> Option<&(String, TerminalSize)> {
        match &self.kind {
            JobKind::Command { terminal, .. } => terminal.as_ref(),
            JobKind::Tool(_) | JobKind::Unpack | JobKind::Internal => None,
        }
    }
}

/// How the sync tools of a run talk.
#[derive(Clone)]
pub(crate) struct Protocol {
    /// The beginning of each message.
    pub(crate) prefix: Prefix,
    /// The names of the nodes.
    pub(crate) names: Arc<Names>,
    /// The way to the coordinator. Unbounded: the coordinator never waits, and the
    /// inbox of each tool bounds what may be said.
    pub(crate) events: Sender<ToolEvent>,
}
