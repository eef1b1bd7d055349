//! The folded display (`--fold`): at the end, each distinct output once, under the names
//! of its hosts; with `--diff` the most common output whole, and the others as
//! differences from it.
//!
//! All output is kept in a [`super::store`], and hashed as it comes. Two hosts are the
//! same if both their streams are. How the bytes of the two streams were mixed does not
//! count: that is chance.

use std::collections::{HashMap, VecDeque};
use std::fmt::Write;
use std::io;

use openssl::sha::Sha256;
use similar::{Algorithm, DiffOp, DiffTag, capture_diff_slices, group_diff_ops};

use crate::error::Tree;
use crate::event::{Level, NodeId, Stream};
use crate::hosts;
use crate::output::lines::{Line, Lines};
use crate::output::logs::Logs;
use crate::output::renderer::{Fate, NodeLabel, Renderer};
use crate::output::store::{Cursor, Store};
use crate::output::template::{brush, paint};
use crate::output::text::TextOptions;
use crate::output::writer::Writer;

/// Longer output is shown whole instead of as a difference, which takes time and memory
/// to find.
const DIFF_BYTES: usize = 1024 * 1024;

/// Output of more lines is shown whole, too.
const DIFF_LINES: usize = 10_000;

/// Equal lines before and after those that differ.
const CONTEXT: usize = 3;

const STREAMS: [Stream; 2] = [Stream::Stdout, Stream::Stderr];

/// The folded display.
pub(crate) struct Folded {
    options: TextOptions,
    /// `--diff`.
    wants_diff: bool,
    /// stdout and stderr are one file, so a group has one heading.
    is_one_file: bool,
    labels: Vec<NodeLabel>,
    logs: Logs,
    store: Store,
    digests: Vec<[StreamDigest; 2]>,
    /// The node has run a command. Nodes that have not are in no group.
    has_run: Vec<bool>,
    /// Cuts output into lines: as it comes for the log lines of `-v`, and at the end.
    lines: Lines,
    /// What is still to be shown.
    plan: VecDeque<Step>,
    /// How far the first step of the plan is.
    cursor: Cursor,
    /// Something has been shown on the descriptor.
    has_shown: [bool; 2],
}

/// The hash and length of one stream of a node.
#[derive(Clone)]
struct StreamDigest {
    hash: Sha256,
    length: u64,
    /// The last line has no newline.
    is_in_line: bool,
}

/// A part of what is shown at the end.
#[derive(Debug)]
enum Step {
    Heading(Stream, String),
    /// All output of a node on a stream.
    Whole(NodeId, Stream),
    /// The difference between two nodes on a stream.
    Difference(NodeId, NodeId, Stream),
}

/// The hashes of both streams: equal for equal output.
type Digest = [[u8; 32]; 2];

impl Folded {
    /// A display for the nodes with these labels.
    #[must_use]
    pub(crate) fn new(
        options: TextOptions,
        wants_diff: bool,
        is_one_file: bool,
        labels: Vec<NodeLabel>,
        logs: Logs,
    ) -> Self {
        let nothing = StreamDigest {
            hash: Sha256::new(),
            length: 0,
            is_in_line: false,
        };
        Self {
            options,
            wants_diff,
            is_one_file,
            store: Store::new(labels.len()),
            digests: vec![[nothing.clone(), nothing]; labels.len()],
            has_run: vec![false; labels.len()],
            lines: Lines::new(labels.len(), b"\n"),
            labels,
            logs,
            plan: VecDeque::new(),
            cursor: Cursor::default(),
            has_shown: [false; 2],
        }
    }

    /// Nodes with the same output: largest groups first, silent nodes last.
    fn groups(&self) -> Vec<Vec<NodeId>> {
        let mut groups: Vec<Vec<NodeId>> = Vec::new();
        let mut index: HashMap<Digest, usize> = HashMap::new();
        let nodes = self.digests.iter().enumerate();
        for (node, digests) in nodes.filter(|(node, _)| self.has_run[*node]) {
            let digest = digests.clone().map(StreamDigest::finish);
            let at = *index.entry(digest).or_insert(groups.len());
            match groups.get_mut(at) {
                Some(group) => group.push(NodeId(node)),
                None => groups.push(vec![NodeId(node)]),
            }
        }
        // A stable sort: groups of one size stay in the order of their first nodes.
        groups.sort_by_key(|group| (self.is_silent(group[0]), std::cmp::Reverse(group.len())));
        groups
    }

    fn is_silent(&self, node: NodeId) -> bool {
        self.digests[node.0].iter().all(|digest| digest.length == 0)
    }

    fn is_same(&self, one: NodeId, other: NodeId, stream: Stream) -> bool {
        let digest = |node: NodeId| self.digests[node.0][stream as usize].clone().finish();
        digest(one) == digest(other)
    }

    fn plan(&mut self) {
        let groups = self.groups();
        let Some(common) = groups.first().map(|group| group[0]) else {
            return;
        };
        if self.is_silent(common) {
            // All nodes are silent, or this group would not be the first.
            return;
        }
        for group in &groups {
            let node = group[0];
            let names = group.iter().map(|node| self.labels[node.0].prefix.as_str());
            let hosts = if group.len() == 1 { "host" } else { "hosts" };
            let silent = if self.is_silent(node) {
                ", no output"
            } else {
                ""
            };
            let heading = format!("{} ({} {hosts}{silent})", hosts::fold(names), group.len());
            let is_other = self.wants_diff && node != common && !self.is_silent(node);
            let mut parts: Vec<Step> = Vec::new();
            for stream in STREAMS {
                let has_output = self.digests[node.0][stream as usize].length > 0;
                if is_other && !self.is_same(node, common, stream) {
                    parts.push(Step::Difference(common, node, stream));
                } else if !is_other && has_output {
                    parts.push(Step::Whole(node, stream));
                }
            }
            self.plan_group(&heading, parts);
        }
    }

    /// Plans a group: a heading on each descriptor that has a part of it, then that part.
    fn plan_group(&mut self, heading: &str, parts: Vec<Step>) {
        if parts.is_empty() {
            let heading = Step::Heading(Stream::Stdout, heading.to_owned());
            self.plan.push_back(heading);
        }
        for (index, part) in parts.into_iter().enumerate() {
            if index == 0 || !self.is_one_file {
                let heading = Step::Heading(part.stream(), heading.to_owned());
                self.plan.push_back(heading);
            }
            self.plan.push_back(part);
        }
    }

    /// Logs the last lines of a node for `-v`, if they have no newline.
    fn end_lines(&mut self, node: NodeId, out: &mut Writer) {
        let Self {
            lines,
            labels,
            logs,
            ..
        } = self;
        for stream in STREAMS {
            lines.end(node, stream, |line| {
                logs.line(&labels[node.0], stream, &line, out);
            });
        }
    }

    fn heading(&mut self, stream: Stream, heading: &str, out: &mut Writer) {
        let out = out.buffer(stream);
        if self.has_shown[stream as usize] {
            out.push(b'\n');
        }
        self.has_shown[stream as usize] = true;
        if self.is_one_file {
            self.has_shown = [true; 2];
        }
        let text = if self.options.sink(stream).is_colored {
            paint(&self.options.theme.heading(), heading)
        } else {
            heading.to_owned()
        };
        out.extend_from_slice(text.as_bytes());
        out.push(b'\n');
    }

    /// Renders the next piece of a node's output on a stream. False at its end.
    fn whole(&mut self, node: NodeId, stream: Stream, out: &mut Writer) -> bool {
        let Self {
            store,
            cursor,
            lines,
            options,
            ..
        } = self;
        let mut write = |line: Line<'_>| options.line_into(stream, &line, out);
        let Some((of, piece)) = store.read(node, cursor) else {
            lines.end(node, stream, write);
            return false;
        };
        if of == stream {
            lines.feed(node, stream, piece, &mut write);
        }
        true
    }

    /// Renders the difference between two nodes. False if their output is too long for
    /// that.
    fn difference(&mut self, old: NodeId, new: NodeId, stream: Stream, out: &mut Writer) -> bool {
        let mut whole = |node| self.store.whole(node, stream, DIFF_BYTES, DIFF_LINES);
        let (Some(old), Some(new)) = (whole(old), whole(new)) else {
            return false;
        };
        let (old, new) = (split(&old), split(&new));
        let ops = capture_diff_slices(Algorithm::Myers, &old, &new);
        for hunk in group_diff_ops(ops, CONTEXT) {
            self.hunk(&hunk, &old, &new, stream, out);
        }
        true
    }

    fn hunk(
        &self,
        hunk: &[DiffOp],
        old: &[&[u8]],
        new: &[&[u8]],
        stream: Stream,
        out: &mut Writer,
    ) {
        let theme = self.options.theme;
        let is_colored = self.options.sink(stream).is_colored;
        let out = out.buffer(stream);
        let header = header(hunk);
        let header = if is_colored {
            paint(&theme.aside(), &header)
        } else {
            header
        };
        out.extend_from_slice(header.as_bytes());
        out.push(b'\n');
        let mut line = |sign: char, text: &[u8]| {
            let style = match sign {
                '-' => Some(theme.bad()),
                '+' => Some(theme.good()),
                _ => None,
            };
            let style = style.filter(|_| is_colored);
            let (open, close) = style.map(|style| brush(&style)).unwrap_or_default();
            // A line with colours of its own would end ours in its middle.
            let is_plain = !text.contains(&0x1b);
            out.extend_from_slice(open.as_bytes());
            out.extend_from_slice(sign.to_string().as_bytes());
            if !is_plain {
                out.extend_from_slice(close.as_bytes());
            }
            self.options.safe_into(stream, text, out);
            if is_plain {
                out.extend_from_slice(close.as_bytes());
            }
            out.push(b'\n');
        };
        for op in hunk {
            let (tag, old_lines, new_lines) = op.as_tag_tuple();
            if tag == DiffTag::Equal {
                old[old_lines].iter().for_each(|text| line(' ', text));
                continue;
            }
            old[old_lines].iter().for_each(|text| line('-', text));
            new[new_lines].iter().for_each(|text| line('+', text));
        }
    }
}

/// The header of a hunk as diff(1) writes it: `@@ -1,3 +1,4 @@`.
fn header(hunk: &[DiffOp]) -> String {
    let mut header = "@@".to_owned();
    let ranges: [fn(&DiffOp) -> std::ops::Range<usize>; 2] =
        [|op| op.old_range(), |op| op.new_range()];
    for (sign, range) in ['-', '+'].into_iter().zip(ranges) {
        let first = hunk.first().map_or(0, |op| range(op).start);
        let after = hunk.last().map_or(0, |op| range(op).end);
        let count = after - first;
        // diff(1) names an empty range by the line before it.
        let first = first + usize::from(count > 0);
        // Writing to a String cannot fail.
        let _ = match count {
            1 => write!(header, " {sign}{first}"),
            _ => write!(header, " {sign}{first},{count}"),
        };
    }
    header + " @@"
}

/// Lines without their newlines.
fn split(text: &[u8]) -> Vec<&[u8]> {
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    if text.is_empty() {
        return Vec::new();
    }
    text.split(|byte| *byte == b'\n').collect()
}

impl Step {
    fn stream(&self) -> Stream {
        match self {
            Self::Heading(stream, _) | Self::Whole(_, stream) | Self::Difference(_, _, stream) => {
                *stream
            }
        }
    }
}

impl StreamDigest {
    fn add(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.length += bytes.len() as u64;
        self.is_in_line = !bytes.ends_with(b"\n");
    }

    /// The hash of the lines. A newline that is missing at the end does not count.
    fn finish(mut self) -> [u8; 32] {
        if self.is_in_line {
            self.hash.update(b"\n");
        }
        self.hash.finish()
    }
}

impl Renderer for Folded {
    fn output(&mut self, node: NodeId, stream: Stream, bytes: &[u8], out: &mut Writer) -> Fate {
        if bytes.is_empty() {
            return Fate::Kept;
        }
        self.has_run[node.0] = true;
        self.digests[node.0][stream as usize].add(bytes);
        self.store.add(node, stream, bytes);
        if self.options.is_verbose {
            let Self {
                lines,
                labels,
                logs,
                ..
            } = self;
            lines.feed(node, stream, bytes, |line| {
                logs.line(&labels[node.0], stream, &line, out);
            });
        }
        if self.store.is_over_limit() {
            Fate::Withheld
        } else if self.options.is_verbose {
            // Credit must wait for the log lines, or they would fill memory.
            Fate::Shown
        } else {
            Fate::Kept
        }
    }

    fn end_of_output(&mut self, node: NodeId, out: &mut Writer) {
        self.has_run[node.0] = true;
        self.end_lines(node, out);
    }

    fn log(&mut self, level: Level, text: &Tree, out: &mut Writer) {
        self.logs.render(level, text, &mut out.stderr);
    }

    fn end_of_run(&mut self, out: &mut Writer) {
        // A command that was ended may have left a line without its newline.
        for node in 0..self.labels.len() {
            self.end_lines(NodeId(node), out);
        }
        self.plan();
    }

    fn render_kept(&mut self, out: &mut Writer) -> bool {
        let Some(step) = self.plan.pop_front() else {
            return false;
        };
        match step {
            Step::Heading(stream, heading) => self.heading(stream, &heading, out),
            Step::Whole(node, stream) => {
                if self.whole(node, stream, out) {
                    self.plan.push_front(Step::Whole(node, stream));
                } else {
                    self.cursor = Cursor::default();
                }
            }
            Step::Difference(old, new, stream) => {
                if !self.difference(old, new, stream, out) {
                    self.plan.push_front(Step::Whole(new, stream));
                }
            }
        }
        true
    }

    fn is_live(&self, _node: NodeId) -> bool {
        // Lines are logged at once under `-v`.
        self.options.is_verbose
    }

    fn keeps_output(&self) -> bool {
        true
    }

    fn has_room(&self, _node: NodeId) -> bool {
        !self.store.is_over_limit()
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
    use crate::output::renderer::Sink;
    use crate::output::theme::Theme;

    fn folded(nodes: usize, diff: bool, one_file: bool) -> Folded {
        let label = |number| NodeLabel {
            prefix: format!("web{number:02}"),
            node: format!("[ops@web{number:02}:22]"),
            given: format!("web{number:02}"),
        };
        let clock = Box::new(|| "2026-01-31 12:00:00".to_owned());
        let logs = Logs::new(Sink::default(), Theme::Default, None, clock);
        let labels = (1..=nodes).map(label).collect();
        Folded::new(TextOptions::default(), diff, one_file, labels, logs)
    }

    /// What is shown after each node has sent this on stdout and on stderr.
    fn shown(mut folded: Folded, said: &[(&str, &str)]) -> (String, String) {
        let mut out = Writer::in_memory();
        for (node, (stdout, stderr)) in said.iter().enumerate() {
            for (stream, text) in [(Stream::Stderr, stderr), (Stream::Stdout, stdout)] {
                let fate = folded.output(NodeId(node), stream, text.as_bytes(), &mut out);
                assert_eq!(fate, Fate::Kept);
            }
            folded.end_of_output(NodeId(node), &mut out);
        }
        assert!(!folded.render_kept(&mut out));
        folded.end_of_run(&mut out);
        while folded.render_kept(&mut out) {}
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (text(out.stdout), text(out.stderr))
    }

    #[test]
    fn identical_output_is_shown_once_most_hosts_first() {
        let said = [
            ("a\n", ""),
            ("b\n", ""),
            ("b", ""),
            ("b\n", ""),
            ("c\n", ""),
        ];
        let (stdout, stderr) = shown(folded(5, false, false), &said);
        let expected = "web[02-04] (3 hosts)\nb\n\nweb01 (1 host)\na\n\nweb05 (1 host)\nc\n";
        assert_eq!(stdout, expected);
        assert_eq!(stderr, "");
    }

    #[test]
    fn stdout_and_stderr_are_compared_together_and_shown_apart() {
        let said = [("a\n", "x\n"), ("a\n", "y\n"), ("a\n", "x\n")];
        let (stdout, stderr) = shown(folded(3, false, false), &said);
        assert_eq!(stdout, "web[01,03] (2 hosts)\na\n\nweb02 (1 host)\na\n");
        assert_eq!(stderr, "web[01,03] (2 hosts)\nx\n\nweb02 (1 host)\ny\n");
        let (stdout, _) = shown(folded(3, false, true), &said);
        assert_eq!(stdout, "web[01,03] (2 hosts)\na\n\nweb02 (1 host)\na\n");
    }

    #[test]
    fn a_silent_host_is_named_where_others_have_spoken() {
        let said = [("", ""), ("a\n", ""), ("", "")];
        let (stdout, _) = shown(folded(3, false, false), &said);
        assert_eq!(
            stdout,
            "web02 (1 host)\na\n\nweb[01,03] (2 hosts, no output)\n"
        );
        let (stdout, _) = shown(folded(2, false, false), &[("", ""), ("", "")]);
        assert_eq!(stdout, "");
    }

    #[test]
    fn a_host_that_has_run_nothing_is_not_silent() {
        let mut folded = folded(3, false, false);
        let mut out = Writer::in_memory();
        folded.output(NodeId(0), Stream::Stdout, b"a\n", &mut out);
        folded.end_of_output(NodeId(1), &mut out);
        folded.end_of_run(&mut out);
        while folded.render_kept(&mut out) {}
        let stdout = String::from_utf8(out.stdout).unwrap();
        assert_eq!(stdout, "web01 (1 host)\na\n\nweb02 (1 host, no output)\n");
    }

    #[test]
    fn others_are_differences_from_the_most_common_output() {
        let usual = "1\n2\n3\n4\n5\n6\n7\n8\n9\n";
        let said = [
            (usual, ""),
            ("1\n2\n3\n4\nfive\n6\n7\n8\n9\n", ""),
            (usual, ""),
            (usual, "oops\n"),
        ];
        let (stdout, stderr) = shown(folded(4, true, false), &said);
        let expected = "\
web[01,03] (2 hosts)
1
2
3
4
5
6
7
8
9

web02 (1 host)
@@ -2,7 +2,7 @@
 2
 3
 4
-5
+five
 6
 7
 8
";
        assert_eq!(stdout, expected);
        assert_eq!(stderr, "web04 (1 host)\n@@ -0,0 +1 @@\n+oops\n");
    }

    #[test]
    fn what_is_too_long_to_compare_is_shown_whole() {
        let long = "x\n".repeat(DIFF_LINES + 1);
        let other = format!("{long}y\n");
        let said = [(long.as_str(), ""), (&long, ""), (&other, "")];
        let (stdout, _) = shown(folded(3, true, false), &said);
        let (usual, rest) = stdout.split_once("\n\nweb03 (1 host)\n").unwrap();
        assert_eq!(usual.len(), "web[01-02] (2 hosts)\n".len() + long.len() - 1);
        assert_eq!(rest, other);
    }

    #[test]
    fn large_output_is_shown_in_small_pieces() {
        let mut folded = folded(2, false, false);
        let mut out = Writer::in_memory();
        let block = b"0123456789abcde\n".repeat(1024);
        for _ in 0..600 {
            for node in [0, 1] {
                folded.output(NodeId(node), Stream::Stdout, &block, &mut out);
            }
        }
        folded.end_of_run(&mut out);
        let mut length = 0;
        while folded.render_kept(&mut out) {
            assert!(out.stdout.len() < 10_000);
            length += out.stdout.len();
            out.stdout.clear();
        }
        assert_eq!(length, "web[01-02] (2 hosts)\n".len() + 600 * block.len());
    }

    #[test]
    fn a_terminal_gets_colours_and_nothing_harmful() {
        let sink = Sink {
            is_terminal: true,
            is_colored: true,
        };
        let mut folded = folded(3, true, true);
        folded.options.stdout = sink;
        let said = [("a\x1b[2J\n", ""), ("a\x1b[2J\n", ""), ("b\n", "")];
        let (stdout, _) = shown(folded, &said);
        assert_eq!(
            stdout,
            "\x1b[1mweb[01-02] (2 hosts)\x1b[0m\na^[[2J\n\n\x1b[1mweb03 (1 host)\x1b[0m\n\
             \x1b[36m@@ -1 +1 @@\x1b[0m\n\x1b[31m-\x1b[0ma^[[2J\n\x1b[32m+b\x1b[0m\n"
        );
    }
}
