//! A sync tool that talks to those on the other hosts: its messages go to the
//! coordinator, the coordinator's come to its stdin, all else is output.

use std::sync::Arc;

use crossbeam_channel::Sender;

use super::command::of_command;
use super::kind::{ChannelState, Kind, Verdict};
use crate::cluster::job::Protocol;
use crate::cluster::output_port::OutputPort;
use crate::error::Tree;
use crate::event::{NodeEvent, NodeId, Outcome, Status, Stream, ToolEnd, ToolEvent};
use crate::remote::protocol::{Filter, Inbox};
use crate::remote::words::Tail;
use crate::ssh::process::{Exit, INPUT_CHUNK, Supply};

/// A sync tool.
pub(crate) struct ToolWork {
    port: OutputPort,
    tail: Tail,
    needs_bash: bool,
    /// Takes its messages out of its stdout.
    filter: Filter,
    inbox: Inbox,
    /// It gets end of file behind what is in the inbox.
    is_closed: bool,
    /// Why it has failed, whatever it says itself.
    problem: Option<Tree>,
    coordinator: Coordinator,
}

/// The way to the coordinator.
struct Coordinator {
    node: NodeId,
    events: Sender<ToolEvent>,
    knows_end: bool,
}

impl Coordinator {
    fn tell(&self, event: ToolEvent) {
        // A coordinator that has ended has nothing left to do.
        let _ = self.events.send(event);
    }

    fn tell_end(&mut self, end: ToolEnd) {
        if !std::mem::replace(&mut self.knows_end, true) {
            self.tell(ToolEvent::Ended(self.node, end));
        }
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        // However the work came to its end: the others must not wait for this tool.
        self.tell_end(ToolEnd::Failed);
    }
}

impl ToolWork {
    pub(super) fn new(
        node: NodeId,
        port: OutputPort,
        protocol: &Protocol,
        needs_bash: bool,
    ) -> Self {
        Self {
            port,
            tail: Tail::default(),
            needs_bash,
            filter: Filter::new(&protocol.prefix, Arc::clone(&protocol.names)),
            inbox: Inbox::default(),
            is_closed: false,
            problem: None,
            coordinator: Coordinator {
                node,
                events: protocol.events.clone(),
                knows_end: false,
            },
        }
    }

    /// Puts a message for the tool into its inbox.
    pub(crate) fn deliver(&mut self, text: Arc<[u8]>) {
        if self.is_closed {
            return;
        }
        if let Err(error) = self.inbox.push(text) {
            self.fail(Tree::from_error(&error));
        }
    }

    /// Gives the tool end of file behind what it was sent.
    pub(crate) fn close(&mut self) {
        self.is_closed = true;
    }

    /// Counts the tool as failed, whatever it says itself.
    pub(crate) fn fail(&mut self, problem: Tree) {
        self.problem.get_or_insert(problem);
    }
}

impl Kind for ToolWork {
    fn port(&self) -> &OutputPort {
        &self.port
    }

    fn output(&mut self, stream: Stream, bytes: Vec<u8>) {
        if stream == Stream::Stderr {
            self.tail.keep(&bytes);
            return self.port.print(stream, bytes);
        }
        let mut output = Vec::with_capacity(bytes.len());
        let coordinator = &self.coordinator;
        let fed = self.filter.feed(&bytes, &mut output, |description| {
            coordinator.tell(ToolEvent::Sync(coordinator.node, description));
        });
        if let Err(error) = fed {
            self.fail(Tree::from_error(&error));
        }
        self.port.print(stream, output);
    }

    fn input(&mut self, buffer: &mut Vec<u8>) -> Supply {
        if !self.inbox.is_empty() {
            self.inbox.take(buffer, INPUT_CHUNK);
            Supply::Bytes
        } else if self.is_closed {
            Supply::End
        } else {
            Supply::Nothing
        }
    }

    fn last_words(&self) -> String {
        self.tail.last_line()
    }

    fn finish(&mut self, by_itself: bool) {
        let coordinator = &self.coordinator;
        let rest = if by_itself {
            self.filter.finish(|description| {
                coordinator.tell(ToolEvent::Sync(coordinator.node, description));
            })
        } else {
            self.filter.abandon()
        };
        self.port.print(Stream::Stdout, rest);
        self.port.end();
    }

    fn verdict(&self, exit: &Exit) -> Verdict {
        of_command(exit, self.needs_bash, &self.last_words())
    }

    fn started(&mut self) {
        self.coordinator
            .tell(ToolEvent::Started(self.coordinator.node));
    }

    fn problem(&mut self, _state: &ChannelState<'_>) -> Option<Verdict> {
        let problem = self.problem.clone()?;
        // That is how it will end.
        Some((Status::Signal("TERM".to_owned()), Some(problem)))
    }

    fn ended(&mut self, outcome: Outcome) -> NodeEvent {
        self.coordinator.tell_end(match outcome.status {
            Status::Ok => ToolEnd::Succeeded,
            _ => ToolEnd::Failed,
        });
        NodeEvent::Finished(outcome)
    }
}
