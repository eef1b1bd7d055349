//! The grouped display (`-l`): one host after the other.
//!
//! All hosts run at once. The first one that sends output is shown live. Output of the
//! others is kept and follows host by host, in the order of their first bytes. The
//! lines look as in [`super::text`].

use std::collections::VecDeque;
use std::io;

use crate::error::Tree;
use crate::event::{Level, NodeId, Stream};
use crate::output::renderer::{Fate, Renderer};
use crate::output::store::{Cursor, Store};
use crate::output::text::Text;
use crate::output::writer::Writer;

/// The grouped display.
pub(crate) struct Grouped {
    text: Text,
    store: Store,
    /// The node that is shown, and how far its kept output has been.
    live: Option<(NodeId, Cursor)>,
    /// The nodes that follow.
    queue: VecDeque<NodeId>,
    nodes: Vec<State>,
    is_over: bool,
}

#[derive(Debug, Clone, Copy, Default)]
struct State {
    /// The node is live or in the queue.
    has_turn: bool,
    /// The node's command has ended.
    has_ended: bool,
    /// The store holds output of the node.
    is_kept: bool,
}

impl Grouped {
    /// A display for this number of nodes; `text` lays out their lines.
    #[must_use]
    pub(crate) fn new(text: Text, nodes: usize) -> Self {
        Self {
            text,
            store: Store::new(nodes),
            live: None,
            queue: VecDeque::new(),
            nodes: vec![State::default(); nodes],
            is_over: false,
        }
    }

    fn is_shown(&self, node: NodeId) -> bool {
        self.live.as_ref().is_some_and(|(live, _)| *live == node)
    }

    /// Ends the turn of the live node, and begins that of the next one.
    fn next(&mut self) {
        if let Some((node, _)) = self.live.take() {
            self.nodes[node.0] = State::default();
        }
        self.live = self.queue.pop_front().map(|node| (node, Cursor::default()));
    }
}

impl Renderer for Grouped {
    fn output(&mut self, node: NodeId, stream: Stream, bytes: &[u8], out: &mut Writer) -> Fate {
        if !self.nodes[node.0].has_turn {
            self.nodes[node.0].has_turn = true;
            self.queue.push_back(node);
            if self.live.is_none() {
                self.next();
            }
        }
        if self.is_shown(node) && !self.nodes[node.0].is_kept {
            return self.text.output(node, stream, bytes, out);
        }
        self.nodes[node.0].is_kept = true;
        self.nodes[node.0].has_ended = false;
        self.store.add(node, stream, bytes);
        if self.store.is_over_limit() {
            return Fate::Withheld;
        }
        Fate::Kept
    }

    fn end_of_output(&mut self, node: NodeId, out: &mut Writer) {
        if self.is_shown(node) && !self.nodes[node.0].is_kept {
            self.text.end_of_output(node, out);
            self.next();
        } else {
            self.nodes[node.0].has_ended = true;
        }
    }

    fn log(&mut self, level: Level, text: &Tree, out: &mut Writer) {
        self.text.log(level, text, out);
    }

    fn end_of_run(&mut self, _out: &mut Writer) {
        self.is_over = true;
    }

    fn render_kept(&mut self, out: &mut Writer) -> bool {
        let Some((node, cursor)) = &mut self.live else {
            return false;
        };
        let node = *node;
        if let Some((stream, piece)) = self.store.read(node, cursor) {
            self.text.output(node, stream, piece, out);
            self.store.forget(node, cursor);
            return true;
        }
        self.nodes[node.0].is_kept = false;
        if self.nodes[node.0].has_ended || self.is_over {
            self.text.end_of_output(node, out);
            self.next();
            return true;
        }
        false
    }

    fn is_live(&self, node: NodeId) -> bool {
        let is_first = self.live.is_none() && self.queue.is_empty();
        is_first || (self.is_shown(node) && !self.nodes[node.0].is_kept)
    }

    fn keeps_output(&self) -> bool {
        true
    }

    fn has_room(&self, node: NodeId) -> bool {
        let is_live = self.is_shown(node) && !self.nodes[node.0].is_kept;
        is_live || !self.store.is_over_limit()
    }

    fn make_room(&mut self) -> io::Result<()> {
        self.store.make_room()
    }

    fn take_problem(&mut self) -> Option<io::Error> {
        self.store.take_problem()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::logs::Logs;
    use crate::output::renderer::{NodeLabel, Sink};
    use crate::output::text::TextOptions;
    use crate::output::theme::Theme;

    fn grouped(nodes: usize) -> Grouped {
        let label = |number| NodeLabel {
            prefix: format!("web{number}"),
            node: format!("[ops@web{number}:22]"),
            given: format!("web{number}"),
        };
        let labels: Vec<NodeLabel> = (1..=nodes).map(label).collect();
        let clock = Box::new(|| "2026-01-31 12:00:00".to_owned());
        let logs = Logs::new(Sink::default(), Theme::Default, None, clock);
        Grouped::new(Text::new(TextOptions::default(), labels, logs), nodes)
    }

    /// What happens in a test; nodes count from 1.
    enum Step {
        Says(usize, &'static str),
        Ends(usize),
        Over,
    }
    use Step::{Ends, Over, Says};

    fn shown(steps: &[Step]) -> String {
        let mut grouped = grouped(4);
        let mut out = Writer::in_memory();
        for step in steps {
            match step {
                Says(node, text) => {
                    let bytes = text.as_bytes();
                    grouped.output(NodeId(node - 1), Stream::Stdout, bytes, &mut out);
                }
                Ends(node) => grouped.end_of_output(NodeId(node - 1), &mut out),
                Over => grouped.end_of_run(&mut out),
            }
            while grouped.render_kept(&mut out) {}
        }
        String::from_utf8(out.stdout).unwrap()
    }

    #[test]
    fn the_first_that_speaks_is_live_and_the_others_follow_whole() {
        let steps = [
            Says(2, "a\n"),
            Says(3, "x\n"),
            Says(1, "1\n"),
            Says(2, "b\n"),
        ];
        assert_eq!(shown(&steps), "web2 a\nweb2 b\n");
        let steps = [
            Says(2, "a\n"),
            Says(3, "x\ny"),
            Says(1, "1\n"),
            Says(2, "b\n"),
            Ends(3),
            Ends(2),
            Says(1, "2\n"),
        ];
        let expected = "web2 a\nweb2 b\nweb3 x\nweb3 y\nweb1 1\nweb1 2\n";
        assert_eq!(shown(&steps), expected);
    }

    #[test]
    fn a_host_that_becomes_live_goes_on_where_it_was() {
        let steps = [
            Says(1, "a\n"),
            Says(2, "x"),
            Ends(1),
            Says(2, "y\n"),
            Says(3, "k\n"),
            Says(2, "z\n"),
            Ends(2),
            Ends(3),
        ];
        assert_eq!(shown(&steps), "web1 a\nweb2 xy\nweb2 z\nweb3 k\n");
    }

    #[test]
    fn a_host_that_speaks_again_after_its_end_gets_another_turn() {
        let steps = [
            Says(1, "a\n"),
            Says(2, "x\n"),
            Ends(1),
            Says(1, "b\n"),
            Ends(1),
            Ends(2),
        ];
        assert_eq!(shown(&steps), "web1 a\nweb2 x\nweb1 b\n");
    }

    #[test]
    fn the_end_of_the_run_shows_what_is_left() {
        let steps = [Says(1, "a"), Says(2, "x\n"), Says(3, "k"), Over];
        assert_eq!(shown(&steps), "web1 a\nweb2 x\nweb3 k\n");
    }

    #[test]
    fn only_what_is_live_counts_as_shown() {
        let (mut grouped, mut out) = (grouped(2), Writer::in_memory());
        let live = grouped.output(NodeId(0), Stream::Stdout, b"a\n", &mut out);
        let kept = grouped.output(NodeId(1), Stream::Stderr, b"x\n", &mut out);
        assert_eq!((live, kept), (Fate::Shown, Fate::Kept));
        grouped.end_of_output(NodeId(0), &mut out);
        while grouped.render_kept(&mut out) {}
        let live = grouped.output(NodeId(1), Stream::Stderr, b"y\n", &mut out);
        assert_eq!(live, Fate::Shown);
        assert_eq!(out.stderr, b"web2 x\nweb2 y\n");
    }
}
