//! What other threads tell the printer.

use crossbeam_channel::Sender;

use crate::error::Tree;
use crate::event::{Level, NodeId, Outcome, Stream};
use crate::output::credit::Loan;

/// A message to the printer.
#[derive(Debug)]
pub(crate) enum Message {
    /// Bytes of a remote command, in the order in which they came.
    Output {
        /// The node that sent them.
        node: NodeId,
        /// The stream that they came on.
        stream: Stream,
        /// A packet: it may end in the middle of a line or a character.
        bytes: Vec<u8>,
        /// Credit for these bytes. The printer drops it once they are written or kept.
        loan: Loan,
    },
    /// Both streams of the node's command have ended. The node may run another one.
    EndOfOutput {
        /// The node.
        node: NodeId,
    },
    /// How a node ended.
    Result {
        /// The node.
        node: NodeId,
        /// Its end.
        outcome: Outcome,
    },
    /// No node sends anything more. The printer shows kept output before it handles
    /// later messages.
    EndOfRun,
    /// How far the run is, for the status bar.
    Progress(Progress),
    /// Removes the status bar until the next [`Message::Progress`]: a question needs
    /// the terminal.
    HideBar,
    /// A log line.
    Log {
        /// Its level.
        level: Level,
        /// Its text, with causes below it.
        text: Tree,
    },
    /// Asks for an answer once everything before this message is written.
    Flush(Sender<()>),
}

/// What a run is busy with, in the order of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Hosts are being connected.
    Connect,
    /// Hosts are being locked.
    Lock,
    /// Hosts take the upload.
    Upload,
    /// Commands are being started.
    Exec,
    /// Commands run.
    Wait,
}

/// How far a run is in its phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Progress {
    /// The phase.
    pub(crate) phase: Phase,
    /// Hosts that are through with the phase, failed ones included.
    pub(crate) done: usize,
    /// Hosts that take part in the phase.
    pub(crate) total: usize,
    /// Hosts that have failed since the run began.
    pub(crate) failed: usize,
    /// Bytes sent and bytes in all, during an upload. A message with `bytes` updates
    /// only them, if the phase is the same as before.
    pub(crate) bytes: Option<(u64, u64)>,
}
