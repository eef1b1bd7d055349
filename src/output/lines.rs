//! Cuts packets of bytes into lines.
//!
//! Each node has one unfinished line per stream, so lines of different hosts never mix.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

use memchr::memchr;

use crate::event::{NodeId, Stream};

/// A longer line is continued on a new output line.
pub(crate) const LONGEST_LINE: usize = 1024 * 1024;

/// Bytes of an unfinished line that a stream may hold in memory: the least and the most.
/// The rest of the line is in a temporary file.
const SHARES: (usize, usize) = (16 * 1024, 128 * 1024);

/// Bytes that the unfinished lines of few nodes may hold in memory together.
const TOGETHER: usize = 512 * 1024;

/// A longer line is passed on in pieces, because displays make more bytes of it (escapes,
/// base64).
const PIECE: usize = 32 * 1024;

/// Shown in place of bytes that cannot be read back.
const LOST: &[u8] = b"[orgalorg: part of a long line was lost]";

/// A line of a host.
pub(crate) struct Line<'a> {
    /// The beginning of a long line; `memory` follows it.
    file: Option<&'a File>,
    memory: &'a [u8],
    end: &'a [u8],
}

impl<'a> Line<'a> {
    /// A newline, or nothing.
    #[inline]
    #[must_use]
    pub(crate) fn end(&self) -> &'a [u8] {
        self.end
    }

    /// The line without its end, if it is short.
    #[inline]
    #[must_use]
    pub(crate) fn short(&self) -> Option<&'a [u8]> {
        (self.file.is_none() && self.memory.len() <= PIECE).then_some(self.memory)
    }

    /// Passes the line on without its end, in pieces. No piece ends within a UTF-8
    /// character.
    pub(crate) fn pieces(&self, mut take: impl FnMut(&[u8])) {
        if let Some(short) = self.short() {
            return take(short);
        }
        let mut piece = Vec::with_capacity(PIECE);
        let mut add = |bytes: &[u8]| {
            piece.extend_from_slice(bytes);
            let whole = piece.len() - unfinished_character(&piece);
            take(&piece[..whole]);
            piece.drain(..whole);
        };
        if let Some(file) = self.file
            && read_all(file, &mut add).is_err()
        {
            add(LOST);
        }
        self.memory.chunks(PIECE / 2).for_each(&mut add);
        take(&piece);
    }
}

fn read_all(file: &File, add: &mut impl FnMut(&[u8])) -> io::Result<()> {
    let mut buffer = [0; PIECE / 2];
    let mut at = 0;
    loop {
        match file.read_at(&mut buffer, at) {
            Ok(0) => return Ok(()),
            Ok(read) => {
                add(&buffer[..read]);
                at += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// The length of an incomplete UTF-8 character at the end.
fn unfinished_character(bytes: &[u8]) -> usize {
    // A character has at most four bytes.
    let is_unfinished = |length: &usize| {
        let end = bytes.len().checked_sub(*length).map(|at| &bytes[at..]);
        end.and_then(|end| std::str::from_utf8(end).err())
            .is_some_and(|error| error.valid_up_to() == 0 && error.error_len().is_none())
    };
    (1..=3).rev().find(is_unfinished).unwrap_or(0)
}

/// The unfinished lines of all nodes.
pub(crate) struct Lines {
    /// Ends a line that has no newline.
    added_end: &'static [u8],
    unfinished: Vec<[Unfinished; 2]>,
    /// Bytes of each in memory.
    share: usize,
}

impl Lines {
    /// No unfinished lines of this number of nodes. `added_end` ends lines that have no
    /// newline.
    #[must_use]
    pub(crate) fn new(nodes: usize, added_end: &'static [u8]) -> Self {
        Self {
            added_end,
            unfinished: (0..nodes).map(|_| Default::default()).collect(),
            share: (TOGETHER / nodes.max(1)).clamp(SHARES.0, SHARES.1),
        }
    }

    /// Adds bytes of a node. `write` gets the lines that they finish.
    pub(crate) fn feed(
        &mut self,
        node: NodeId,
        stream: Stream,
        bytes: &[u8],
        mut write: impl FnMut(Line<'_>),
    ) {
        let mut rest = bytes;
        while let Some(at) = memchr(b'\n', rest) {
            let (memory, after) = rest.split_at(at);
            let (end, after) = after.split_at(1);
            if self.kept(node, stream) == 0 && at <= LONGEST_LINE {
                let file = None;
                write(Line { file, memory, end });
            } else {
                self.keep(node, stream, memory, &mut write);
                self.release(node, stream, end, &mut write);
            }
            rest = after;
        }
        self.keep(node, stream, rest, &mut write);
    }

    /// Ends a stream of a node. `write` gets its unfinished line, if there is one.
    pub(crate) fn end(&mut self, node: NodeId, stream: Stream, mut write: impl FnMut(Line<'_>)) {
        if self.kept(node, stream) > 0 {
            self.release(node, stream, self.added_end, &mut write);
        }
    }

    fn kept(&self, node: NodeId, stream: Stream) -> usize {
        self.unfinished[node.0][stream as usize].length
    }

    /// Adds to the unfinished line. `write` gets it whenever it reaches [`LONGEST_LINE`].
    fn keep(
        &mut self,
        node: NodeId,
        stream: Stream,
        mut bytes: &[u8],
        write: &mut impl FnMut(Line<'_>),
    ) {
        while !bytes.is_empty() {
            if self.kept(node, stream) == LONGEST_LINE {
                self.release(node, stream, self.added_end, write);
            }
            let unfinished = &mut self.unfinished[node.0][stream as usize];
            let room = LONGEST_LINE - unfinished.length;
            let (now, later) = bytes.split_at(bytes.len().min(room));
            unfinished.push(now, self.share);
            bytes = later;
        }
    }

    /// Ends the unfinished line, and passes it to `write`.
    fn release(
        &mut self,
        node: NodeId,
        stream: Stream,
        end: &[u8],
        write: &mut impl FnMut(Line<'_>),
    ) {
        let unfinished = std::mem::take(&mut self.unfinished[node.0][stream as usize]);
        let (file, memory) = (unfinished.file.as_ref(), &unfinished.memory);
        write(Line { file, memory, end });
    }
}

/// A line without its end.
#[derive(Debug, Default)]
struct Unfinished {
    memory: Vec<u8>,
    /// The beginning of a long line; `memory` follows it.
    file: Option<File>,
    length: usize,
}

impl Unfinished {
    fn push(&mut self, bytes: &[u8], share: usize) {
        self.length += bytes.len();
        // If the file cannot be written, memory takes the line: it is at most 1 MiB.
        if self.memory.len() + bytes.len() <= share || self.spill(bytes).is_err() {
            self.memory.extend_from_slice(bytes);
        }
    }

    /// Moves `memory`, and `more`, to an unnamed temporary file.
    fn spill(&mut self, more: &[u8]) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert(tempfile::tempfile()?),
        };
        let end = file.seek(SeekFrom::End(0))?;
        let written = file.write_all(&self.memory);
        if let Err(error) = written.and_then(|()| file.write_all(more)) {
            file.set_len(end)?;
            return Err(error);
        }
        self.memory.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OUT: Stream = Stream::Stdout;

    fn bytes(line: &Line<'_>) -> Vec<u8> {
        let mut bytes = Vec::new();
        line.pieces(|piece| bytes.extend_from_slice(piece));
        [&bytes, line.end()].concat()
    }

    /// All lines of some packets, each with the number of its node before it.
    fn lines(lines: &mut Lines, packets: &[(usize, &[u8])]) -> Vec<(usize, Vec<u8>)> {
        let mut all = Vec::new();
        for (node, bytes) in packets {
            let mut write = |line: Line<'_>| all.push((*node, self::bytes(&line)));
            lines.feed(NodeId(*node), OUT, bytes, &mut write);
        }
        for node in [0, 1] {
            lines.end(NodeId(node), OUT, |line| all.push((node, bytes(&line))));
        }
        all
    }

    fn text(packets: &[(usize, &[u8])]) -> String {
        let lines = lines(&mut Lines::new(2, b"\n"), packets);
        let texts = lines
            .iter()
            .map(|(node, line)| format!("{node} {}", String::from_utf8_lossy(line)));
        texts.collect()
    }

    #[test]
    fn lines_of_two_hosts_do_not_mix() {
        let packets: [(usize, &[u8]); 4] = [(0, b"a"), (1, b"x\n"), (0, b"b\nc"), (1, b"y")];
        assert_eq!(text(&packets), "1 x\n0 ab\n0 c\n1 y\n");
    }

    #[test]
    fn a_very_long_line_is_continued() {
        let long = vec![b'x'; LONGEST_LINE];
        let exact = [long.as_slice(), b"\n"].concat();
        assert_eq!(lines(&mut Lines::new(2, b"\n"), &[(0, &exact)]).len(), 1);
        let longer = [long.as_slice(), b"y\nz\n"].concat();
        let output = text(&[(0, &longer)]);
        assert!(output.ends_with("x\n0 y\n0 z\n"));
    }

    #[test]
    fn long_lines_of_several_hosts_follow_each_other() {
        let mut lines = Lines::new(2, b"\n");
        let (mut out, mut expected) = (Vec::new(), Vec::new());
        for (node, letter) in [(0, b'a'), (1, b'b'), (0, b'c')] {
            let line = [vec![letter; LONGEST_LINE - 1], vec![b'\n']].concat();
            for piece in line.chunks(30_000) {
                lines.feed(NodeId(node), OUT, piece, |line| out.extend(bytes(&line)));
            }
            // The other host is in the middle of one too.
            lines.feed(NodeId(1 - node), OUT, b"-", |line| out.extend(bytes(&line)));
            let begun = if expected.is_empty() { "" } else { "-" };
            expected.extend_from_slice(&[begun.as_bytes(), &line].concat());
        }
        assert_eq!(out.len(), expected.len());
        assert!(out == expected);
    }

    #[test]
    fn many_long_lines_go_to_disk_and_come_back() {
        let render = |share| {
            let mut lines = Lines::new(2, b"\n");
            let mut out = Vec::new();
            lines.share = share;
            for piece in 0..20 {
                let piece = vec![b'a' + piece; 30_000];
                for node in [0, 1] {
                    lines.feed(NodeId(node), OUT, &piece, |line| out.extend(bytes(&line)));
                    assert!(lines.unfinished[node][0].memory.len() <= share);
                }
            }
            for node in [0, 1] {
                lines.feed(NodeId(node), OUT, b"end\n", |line| out.extend(bytes(&line)));
            }
            out
        };
        let (on_disk, in_memory) = (render(20_000), render(LONGEST_LINE));
        assert_eq!(on_disk.len(), 2 * ("end\n".len() + 600_000));
        assert!(on_disk == in_memory);
    }

    #[test]
    fn no_piece_of_a_long_line_ends_within_a_character() {
        let text = "x".to_owned() + &"\u{fc}\u{20ac}\u{10348}".repeat(40_000);
        for share in [20_000, LONGEST_LINE] {
            let mut lines = Lines::new(1, b"");
            lines.share = share;
            let (mut found, mut count) = (String::new(), 0);
            for piece in text.as_bytes().chunks(10_000) {
                lines.feed(NodeId(0), OUT, piece, |_| panic!("it has not ended"));
            }
            lines.end(NodeId(0), OUT, |line| {
                assert!(line.short().is_none());
                line.pieces(|piece| {
                    assert!(piece.len() <= PIECE);
                    found.push_str(std::str::from_utf8(piece).unwrap());
                    count += 1;
                });
            });
            assert!(found == text && count > 10);
        }
        for (bytes, length) in [
            (&b"a\xc3"[..], 1),
            (b"\xe2\x82", 2),
            (b"\xf0\x90\x8d", 3),
            (b"\xff\xff", 0),
            (b"a", 0),
            (b"", 0),
        ] {
            assert_eq!(unfinished_character(bytes), length);
        }
    }

    proptest! {
        #[test]
        fn it_does_not_matter_where_packets_are_cut(
            body in prop::collection::vec(prop_oneof![Just(b'\n'), any::<u8>()], 0..200),
            cuts in prop::collection::vec(0usize..200, 0..8),
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().filter(|&cut| cut < body.len()).collect();
            cuts.extend([0, body.len()]);
            cuts.sort_unstable();
            let pieces: Vec<(usize, &[u8])> =
                cuts.windows(2).map(|pair| (0, &body[pair[0]..pair[1]])).collect();
            prop_assert_eq!(text(&pieces), text(&[(0, &body)]));
        }
    }
}
