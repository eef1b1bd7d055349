//! What the user sees: everything on stdout and stderr goes through here.
//!
//! Node threads and the main thread hand [`Message`]s to a [`Display`]; one
//! thread, the [`printer`], turns them into bytes with a renderer ([`text`]) and
//! is the only one that writes. [`credit`] keeps what is on the way bounded.
//! [`tree`] and [`summary`] lay out errors and results, [`sanitize`] makes
//! remote bytes harmless on a terminal.

pub mod credit;
pub mod printer;
pub mod sanitize;
pub mod summary;
pub mod text;
pub mod tree;

use crossbeam_channel::Sender;

use crate::error::Tree;
use crate::event::{Level, Log, NodeId, Stream};

use credit::Loan;

/// What the printer is told.
#[derive(Debug)]
pub enum Message {
    /// Bytes of a remote command, in the order in which they came.
    Output {
        /// Who sent them.
        node: NodeId,
        /// On which stream.
        stream: Stream,
        /// As they came: lines are put together by the renderer.
        bytes: Vec<u8>,
        /// Goes back when they have been written.
        loan: Loan,
    },
    /// Both streams of a node have ended.
    EndOfOutput {
        /// Whose.
        node: NodeId,
    },
    /// How far the run is, for the status bar.
    Progress(Progress),
    /// A log line.
    Log {
        /// How important it is.
        level: Level,
        /// What it says, with causes below it.
        text: Tree,
    },
    /// Write out everything, then answer.
    Flush(Sender<()>),
}

/// What a run is busy with, in the order in which it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Hosts are being connected.
    Connect,
    /// They are being locked.
    Lock,
    /// Files are on the way.
    Upload,
    /// Commands are being started.
    Exec,
    /// They run, and are waited for.
    Wait,
}

impl Phase {
    /// The name on screen.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Connect => "CONNECT",
            Self::Lock => "LOCK",
            Self::Upload => "UPLOAD",
            Self::Exec => "EXEC",
            Self::Wait => "WAIT",
        }
    }
}

/// How far a run is. Rate and time left are found out by whoever shows it, from
/// when this comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What is being done.
    pub phase: Phase,
    /// Hosts that are through with it, those that failed included.
    pub done: usize,
    /// Hosts that it is done with.
    pub total: usize,
    /// Hosts that have failed so far.
    pub failed: usize,
    /// Bytes sent and bytes in all, where there are bytes to be sent.
    pub bytes: Option<(u64, u64)>,
}

/// A way to the printer, for any thread. Sending never blocks.
///
/// The channel is unbounded; what keeps it short is the credit of each node for
/// output, and that everything else is said seldom.
#[derive(Debug, Clone)]
pub struct Display {
    messages: Sender<Message>,
    least: Level,
}

impl Display {
    /// A way to whoever receives these messages, with log lines from `least` up.
    #[must_use]
    pub fn new(messages: Sender<Message>, least: Level) -> Self {
        Self { messages, least }
    }

    /// Hands over a message. After the printer has ended (its output was closed)
    /// messages are dropped: the run is being stopped already.
    pub fn send(&self, message: Message) {
        let _ = self.messages.send(message);
    }

    /// A log that puts the node before each text.
    #[must_use]
    pub fn about<'a>(&'a self, node: &'a str) -> NodeLog<'a> {
        NodeLog {
            display: self,
            node,
        }
    }
}

impl Log for Display {
    fn enabled(&self, level: Level) -> bool {
        level >= self.least
    }

    fn log(&self, level: Level, text: Tree) {
        if self.enabled(level) {
            self.send(Message::Log { level, text });
        }
    }
}

/// See [`Display::about`].
#[derive(Debug, Clone, Copy)]
pub struct NodeLog<'a> {
    display: &'a Display,
    node: &'a str,
}

impl Log for NodeLog<'_> {
    fn enabled(&self, level: Level) -> bool {
        self.display.enabled(level)
    }

    fn log(&self, level: Level, text: Tree) {
        let message = format!("{} {}", self.node, text.message);
        self.display.log(level, Tree { message, ..text });
    }
}
