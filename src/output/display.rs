//! The way to the printer, for any thread.

use crossbeam_channel::Sender;

use crate::error::Tree;
use crate::event::{Level, Log};
use crate::output::message::{Message, Progress};

/// Sends messages to the printer, without ever blocking.
///
/// The channel is unbounded. Each node's credit bounds the output in it, and all
/// other messages are rare.
#[derive(Debug, Clone)]
pub(crate) struct Display {
    messages: Sender<Message>,
    least: Level,
    has_bar: bool,
}

impl Display {
    /// Log lines below `least` are dropped, and so is progress unless `has_bar`.
    #[must_use]
    pub(crate) fn new(messages: Sender<Message>, least: Level, has_bar: bool) -> Self {
        Self {
            messages,
            least,
            has_bar,
        }
    }

    /// Whether there is a status bar. Without one, progress need not be computed.
    #[must_use]
    pub(crate) fn shows_progress(&self) -> bool {
        self.has_bar
    }

    /// Updates the status bar, if there is one.
    pub(crate) fn progress(&self, progress: Progress) {
        if self.has_bar {
            self.send(Message::Progress(progress));
        }
    }

    /// Sends a message. It is dropped if the printer has ended.
    pub(crate) fn send(&self, message: Message) {
        // The printer ends early only if it panicked.
        let _ = self.messages.send(message);
    }

    /// A log that begins each text with the name of a node.
    #[must_use]
    pub(crate) fn about<'a>(&'a self, node: &'a str) -> NodeLog<'a> {
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
pub(crate) struct NodeLog<'a> {
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
