//! What a display is to the printer.

use std::io;

use crate::error::Tree;
use crate::event::{Level, NodeId, Outcome, Stream};
use crate::output::writer::Writer;

/// A display: it turns messages into bytes for stdout and stderr.
///
/// The bytes go into the buffers of a [`Writer`]. In the middle of a long line a
/// display lets the writer write what is buffered ([`Writer::flush_if_full`]); all
/// other writing is up to the printer.
pub(crate) trait Renderer: Send {
    /// Renders or keeps bytes of a node.
    fn output(&mut self, node: NodeId, stream: Stream, bytes: &[u8], out: &mut Writer) -> Fate;

    /// A node's command has ended. The node may run another one.
    fn end_of_output(&mut self, node: NodeId, out: &mut Writer);

    /// Renders the end of a node.
    fn result(&mut self, _node: NodeId, _outcome: &Outcome, _out: &mut Writer) {}

    /// Renders a log line.
    fn log(&mut self, level: Level, text: &Tree, out: &mut Writer);

    /// No node sends anything more.
    fn end_of_run(&mut self, _out: &mut Writer) {}

    /// Renders the next piece of kept output that is due. False if none is due.
    fn render_kept(&mut self, _out: &mut Writer) -> bool {
        false
    }

    /// Whether output of this node would be rendered at once.
    fn is_live(&self, _node: NodeId) -> bool {
        true
    }

    /// Whether this display keeps output of nodes.
    fn keeps_output(&self) -> bool {
        false
    }

    /// Whether a node may send more, after [`Fate::Withheld`].
    fn has_room(&self, _node: NodeId) -> bool {
        true
    }

    /// Tries to move kept output from memory to the temporary file.
    ///
    /// # Errors
    /// Too much of it stays in memory.
    fn make_room(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// Why the temporary file could not be written, if that has happened since the
    /// last call.
    fn take_problem(&mut self) -> Option<io::Error> {
        None
    }
}

/// What a display has done with bytes, which decides when their credit goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Rendered, or part of an unfinished line: credit goes back once they are written.
    Shown,
    /// Kept for later: credit goes back at once.
    Kept,
    /// Kept in memory beyond its limit: credit goes back once
    /// [`Renderer::has_room`] is true.
    Withheld,
}

/// Returns the local time for a log line.
pub(crate) type Clock = Box<dyn FnMut() -> String + Send>;

/// What a descriptor is connected to.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sink {
    /// It is a terminal, which obeys control sequences.
    pub(crate) is_terminal: bool,
    /// Colours are wanted there.
    pub(crate) is_colored: bool,
}

/// The names of a node in output.
#[derive(Debug, Clone)]
pub(crate) struct NodeLabel {
    /// Before its lines: `db7`.
    pub(crate) prefix: String,
    /// In messages and in JSON: `[ops@db7:22]`.
    pub(crate) node: String,
    /// The target as it was typed.
    pub(crate) given: String,
}
