//! The kinds of work that a node does on a channel.
//!
//! Each [`kind`] knows where the streams of its process lead, when the process counts
//! as stuck, and what its end means: [`command`], [`tool`], [`unpack`], [`internal`].
//! [`Work`] is one of them. The `task` around it has the process, the clock and sudo.

mod command;
mod internal;
mod kind;
mod tool;
mod unpack;

use std::sync::Arc;

use crate::cluster::input::Reader;
use crate::cluster::job::{Job, JobKind};
use crate::cluster::output_port::OutputPort;
use crate::cluster::stream::Tap;
use crate::event::NodeId;
use crate::remote::script::Script;

use command::CommandWork;
use internal::InternalWork;
pub(super) use kind::{ChannelState, Kind};
pub(super) use tool::ToolWork;
use unpack::UnpackWork;

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
