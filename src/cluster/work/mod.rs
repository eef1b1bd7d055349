//! The kinds of work that a node does on a channel.
//!
//! Each kind knows where the streams of its process lead, when the process counts as
//! stuck, and what its end means: [`command`], [`tool`], [`unpack`], [`internal`].
//! [`Work`] is one of them. The `task` around it has the process, the clock and sudo.

mod command;
mod internal;
mod tool;
mod unpack;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cluster::input::Reader;
use crate::cluster::job::{Job, JobKind};
use crate::cluster::output_port::OutputPort;
use crate::cluster::stream::Tap;
use crate::error::Tree;
use crate::event::{NodeEvent, NodeId, Outcome, Status, Stream};
use crate::remote::script::Script;
use crate::ssh::process::{Exit, Process, Supply};
use crate::ssh::session::Session;

use command::CommandWork;
use internal::InternalWork;
pub(super) use tool::ToolWork;
use unpack::UnpackWork;

/// How something ended, and why, where the status does not say it all.
pub(super) type Verdict = (Status, Option<Tree>);

/// Work of one kind.
pub(super) trait Kind {
    /// Where its output goes.
    fn port(&self) -> &OutputPort;

    /// Takes what the process has written.
    fn output(&mut self, stream: Stream, bytes: Vec<u8>);

    /// Adds input to the (empty) buffer.
    fn input(&mut self, buffer: &mut Vec<u8>) -> Supply;

    /// The last line of what came on stderr.
    fn last_words(&self) -> String;

    /// Nothing more comes: the process has ended by itself, or was cut off.
    fn finish(&mut self, by_itself: bool);

    /// What the end of the process means.
    fn verdict(&self, exit: &Exit) -> Verdict;

    /// The host has started the process.
    fn started(&mut self) {}

    /// What main has to hear, once.
    fn news(&mut self) -> Option<NodeEvent> {
        None
    }

    /// Why the process has to be ended, if it has to. The verdict is then this one.
    fn problem(&mut self, _state: &ChannelState<'_>) -> Option<Verdict> {
        None
    }

    /// When [`Kind::problem`] has to be asked again, if nothing happens before.
    fn next_look(&self, _state: &ChannelState<'_>) -> Option<Instant> {
        None
    }

    /// The task is over, with this outcome. Returns what main hears of it.
    fn ended(&mut self, outcome: Outcome) -> NodeEvent {
        NodeEvent::Finished(outcome)
    }
}

/// What a kind of work may look at to tell whether its process is stuck.
pub(super) struct ChannelState<'a> {
    /// The time.
    pub(super) now: Instant,
    /// How long a host may take no data.
    pub(super) send_timeout: Duration,
    /// The process.
    pub(super) process: &'a Process,
    /// Its connection.
    pub(super) session: &'a Session,
}

/// One of the kinds.
pub(super) enum Work {
    /// A command of the user, or a sync tool that does not talk.
    Command(CommandWork),
    /// A sync tool that talks.
    Tool(ToolWork),
    /// Takes an upload.
    Unpack(UnpackWork),
    /// Another script of ours.
    Internal(InternalWork),
}

impl Work {
    /// The work of this job on this node. What takes an upload takes it from
    /// `archive`.
    pub(super) fn new(job: &Job, node: NodeId, port: OutputPort, archive: Option<Tap>) -> Self {
        match (&job.kind, archive) {
            (JobKind::Unpack, Some(archive)) => Self::Unpack(UnpackWork::new(port, archive)),
            (JobKind::Tool(protocol), _) => {
                Self::Tool(ToolWork::new(node, port, protocol, needs_bash(&job.script)))
            }
            (JobKind::Command { input, .. }, _) => {
                let input = input
                    .as_ref()
                    .map(|input| Reader::new(Arc::clone(input), node));
                Self::Command(CommandWork::new(port, input, needs_bash(&job.script)))
            }
            (JobKind::Internal | JobKind::Unpack, _) => {
                let is_placing = matches!(job.script, Script::Place);
                Self::Internal(InternalWork::new(port, is_placing))
            }
        }
    }

    /// The sync tool, if the work is one that talks.
    pub(super) fn tool(&mut self) -> Option<&mut ToolWork> {
        match self {
            Self::Tool(tool) => Some(tool),
            _ => None,
        }
    }

    /// What all kinds have in common.
    pub(super) fn kind(&self) -> &dyn Kind {
        match self {
            Self::Command(work) => work,
            Self::Tool(work) => work,
            Self::Unpack(work) => work,
            Self::Internal(work) => work,
        }
    }

    /// As [`Work::kind`].
    pub(super) fn kind_mut(&mut self) -> &mut dyn Kind {
        match self {
            Self::Command(work) => work,
            Self::Tool(work) => work,
            Self::Unpack(work) => work,
            Self::Internal(work) => work,
        }
    }
}

/// Whether a missing bash needs a hint: the user may not know that the default shell
/// is used.
fn needs_bash(script: &Script) -> bool {
    matches!(script, Script::Command(line) if line.shell.is_default())
}
