//! What the user sees: everything on stdout and stderr goes through here.
//!
//! Node threads and the main thread hand [`Message`]s to a [`Display`]; one
//! thread, the [`printer`], turns them into bytes with a [`Renderer`] and has them
//! written to the [`screen`], below which the [`status`] bar stands. The renderers are [`text`], [`grouped`], [`folded`] and
//! [`json`]; they are pure, but for what [`lines`] and [`store`] keep in files
//! without a name. [`credit`] keeps what is on the way bounded, and [`backlog`] what is
//! kept, where no file can be written. [`logs`], [`tree`]
//! and [`summary`] lay out messages, errors and results, [`sanitize`] makes
//! remote bytes harmless on a terminal, [`template`] and [`theme`] are about
//! looks. [`files`] are those of `--output-dir`.

pub mod backlog;
pub mod credit;
pub mod files;
pub mod folded;
pub mod grouped;
pub mod json;
pub mod lines;
pub mod logs;
pub mod printer;
pub mod sanitize;
pub mod screen;
pub mod status;
pub mod store;
pub mod summary;
pub mod template;
pub mod text;
pub mod theme;
pub mod tree;

use std::io;

use crossbeam_channel::Sender;

use crate::error::Tree;
use crate::event::{Level, Log, NodeId, Outcome, Stream};

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
    /// How a node ended.
    Result {
        /// Which.
        node: NodeId,
        /// How.
        outcome: Outcome,
    },
    /// No node will say anything more: what has been kept of their output comes
    /// out, before any message that follows.
    EndOfRun,
    /// How far the run is, for the status bar.
    Progress(Progress),
    /// The terminal is needed for something else, until the run gets on.
    HideBar,
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

/// A display: what the printer is told, as bytes.
///
/// Pure as far as the outside is concerned: nothing is written, asked or waited
/// for.
pub trait Renderer: Send {
    /// Bytes from a host.
    fn output(&mut self, node: NodeId, stream: Stream, bytes: &[u8], out: &mut Sinks) -> Fate;

    /// A host will say nothing more (until it does: it may run several things).
    fn end_of_output(&mut self, node: NodeId, out: &mut Sinks);

    /// How a host ended.
    fn result(&mut self, _node: NodeId, _outcome: &Outcome, _out: &mut Sinks) {}

    /// A log line.
    fn log(&mut self, level: Level, text: &Tree, out: &mut Sinks);

    /// No host will say anything more.
    fn end_of_run(&mut self, _out: &mut Sinks) {}

    /// Renders a piece of what has been kept and may come out by now. False if
    /// there is nothing.
    fn more(&mut self, _out: &mut Sinks) -> bool {
        false
    }

    /// Whether what this node says now is to be shown at once, by a display that
    /// keeps other output.
    fn shows_at_once(&self, _node: NodeId) -> bool {
        true
    }

    /// Whether this display keeps output, so that nobody has to wait for whoever
    /// reads ours.
    fn keeps(&self) -> bool {
        false
    }

    /// Whether there is room again for output of a node, after [`Fate::Withheld`].
    fn has_room(&self, _node: NodeId) -> bool {
        true
    }

    /// Tries to make room.
    ///
    /// # Errors
    /// There is still none.
    fn make_room(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// Why there is no room, once.
    fn take_problem(&mut self) -> Option<io::Error> {
        None
    }
}

/// What became of bytes that a renderer was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// They are in the sinks (or wait for the rest of their line).
    Shown,
    /// They are kept for later.
    Kept,
    /// They are kept, in memory that should not grow further: the node is to send no
    /// more until [`Renderer::has_room`] says so.
    Withheld,
}

/// Tells the local time for log lines.
pub type Clock = Box<dyn FnMut() -> String + Send>;

/// What a file descriptor is connected to, as far as looks go.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sink {
    /// A terminal, which obeys control sequences.
    pub is_terminal: bool,
    /// Colours are wanted.
    pub colored: bool,
}

/// Who a node is, on screen.
#[derive(Debug, Clone)]
pub struct Label {
    /// What stands before its lines.
    pub prefix: String,
    /// `[user@host:port]`.
    pub node: String,
    /// The target as it was typed.
    pub given: String,
}

/// Writes what is in the sinks, and empties them.
pub type Outlet = Box<dyn FnMut(&mut Sinks) + Send>;

/// Bytes for the two file descriptors.
#[derive(Default)]
pub struct Sinks {
    /// For file descriptor 1.
    pub stdout: Vec<u8>,
    /// For file descriptor 2.
    pub stderr: Vec<u8>,
    outlet: Option<Outlet>,
}

impl Sinks {
    /// Sinks that can be emptied in the middle of a long line.
    #[must_use]
    pub fn with_outlet(outlet: Outlet) -> Self {
        Self {
            outlet: Some(outlet),
            ..Self::default()
        }
    }

    /// How much there is.
    #[must_use]
    pub fn len(&self) -> usize {
        self.stdout.len() + self.stderr.len()
    }

    /// Whether there is nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where both go to one file, they are one, in order.
    fn join(&mut self, one_file: bool) {
        if one_file && !self.stderr.is_empty() {
            self.stdout.append(&mut self.stderr);
        }
    }

    /// There is more of a long line: what there is is written, if it is much.
    fn go_on(&mut self) {
        if self.len() >= printer::FULL {
            self.empty();
        }
    }

    /// A long line has ended, and must not be mixed with the next one.
    fn empty(&mut self) {
        if let Some(mut outlet) = self.outlet.take() {
            outlet(self);
            self.outlet = Some(outlet);
        }
    }

    fn of(&mut self, stream: Stream) -> &mut Vec<u8> {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }
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
    /// Bytes sent and bytes in all, where there are bytes to be sent. Who tells these
    /// tells nothing about hosts, once somebody else has.
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
    /// Somebody looks at a status bar.
    shows_progress: bool,
}

impl Display {
    /// A way to whoever receives these messages, with log lines from `least` up.
    #[must_use]
    pub fn new(messages: Sender<Message>, least: Level, shows_progress: bool) -> Self {
        Self {
            messages,
            least,
            shows_progress,
        }
    }

    /// Whether there is a status bar: for progress that costs something to find
    /// out.
    #[must_use]
    pub fn shows_progress(&self) -> bool {
        self.shows_progress
    }

    /// Tells how far the run is, if anybody wants to know.
    pub fn progress(&self, progress: Progress) {
        if self.shows_progress {
            self.send(Message::Progress(progress));
        }
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
