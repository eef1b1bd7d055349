//! The way of a node's output to the printer.

use std::sync::Arc;

use crate::event::{NodeId, Stream};
use crate::output::credit::Credit;
use crate::output::{Display, Message};

/// Sends output of one node to the printer, on credit.
pub(super) struct OutputPort {
    node: NodeId,
    display: Display,
    credit: Arc<Credit>,
}

impl OutputPort {
    /// A port with all of this credit.
    pub(super) fn new(node: NodeId, display: Display, credit: Arc<Credit>) -> Self {
        Self {
            node,
            display,
            credit,
        }
    }

    /// How many bytes the printer takes now.
    pub(super) fn room(&self) -> usize {
        self.credit.room()
    }

    /// Hands output over.
    pub(super) fn print(&self, stream: Stream, bytes: Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        self.display.send(Message::Output {
            node: self.node,
            stream,
            loan: self.credit.lend(bytes.len()),
            bytes,
        });
    }

    /// Says that no more output of this process comes.
    pub(super) fn end(&self) {
        self.display.send(Message::EndOfOutput { node: self.node });
    }
}
