//! Bytes that come in packets, made into lines.
//!
//! Each node has one unfinished line per stream, so that lines of different
//! hosts never mix. Used by the displays that write line by line ([`super::text`]
//! and [`super::json`]).

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};

use memchr::memchr;

use crate::event::{NodeId, Stream};

/// A longer line is continued on a new output line.
pub const LONGEST_LINE: usize = 1024 * 1024;

/// How much of an unfinished line each stream may keep in memory of its own.
const OWN_SHARE: usize = 16 * 1024;

/// How many longer lines may be in memory at once; the others wait in temporary
/// files.
const LONG_LINES: usize = 4;

/// The unfinished lines of all nodes.
pub struct Lines {
    /// What ends a line that did not end by itself.
    added_end: &'static [u8],
    unfinished: Vec<[Unfinished; 2]>,
    pool: Pool,
}

impl Lines {
    /// For so many nodes; `added_end` is put where a line did not end by itself.
    #[must_use]
    pub fn new(nodes: usize, added_end: &'static [u8]) -> Self {
        Self {
            added_end,
            unfinished: (0..nodes).map(|_| Default::default()).collect(),
            pool: Pool {
                left: LONG_LINES,
                used: Vec::new(),
                reader: Vec::new(),
            },
        }
    }

    /// Bytes from a host: `write` gets finished lines, the rest is kept.
    pub fn feed(
        &mut self,
        node: NodeId,
        stream: Stream,
        bytes: &[u8],
        mut write: impl FnMut(&[u8]),
    ) {
        let mut rest = bytes;
        while let Some(at) = memchr(b'\n', rest) {
            let (line, after) = rest.split_at(at + 1);
            if self.kept(node, stream) == 0 && at <= LONGEST_LINE {
                write(line);
            } else {
                self.keep(node, stream, &line[..at], &mut write);
                self.release(node, stream, b"\n", &mut write);
            }
            rest = after;
        }
        self.keep(node, stream, rest, &mut write);
    }

    /// A host will say nothing more on this stream: `write` gets its unfinished
    /// line, if there is one.
    pub fn end(&mut self, node: NodeId, stream: Stream, mut write: impl FnMut(&[u8])) {
        if self.kept(node, stream) > 0 {
            self.release(node, stream, self.added_end, &mut write);
        }
    }

    fn kept(&self, node: NodeId, stream: Stream) -> usize {
        self.unfinished[node.0][stream as usize].length
    }

    /// Adds to the unfinished line, which comes out in parts where it grows too
    /// long.
    fn keep(
        &mut self,
        node: NodeId,
        stream: Stream,
        mut bytes: &[u8],
        write: &mut impl FnMut(&[u8]),
    ) {
        while !bytes.is_empty() {
            if self.kept(node, stream) == LONGEST_LINE {
                self.release(node, stream, self.added_end, write);
            }
            let unfinished = &mut self.unfinished[node.0][stream as usize];
            let room = LONGEST_LINE - unfinished.length;
            let (now, later) = bytes.split_at(bytes.len().min(room));
            unfinished.push(now, &mut self.pool);
            bytes = later;
        }
    }

    /// The unfinished line is finished, and comes out.
    fn release(&mut self, node: NodeId, stream: Stream, end: &[u8], write: &mut impl FnMut(&[u8])) {
        let unfinished = &mut self.unfinished[node.0][stream as usize];
        let was_spilled = unfinished.file.is_some();
        let mut line = unfinished.take(&mut self.pool);
        line.extend_from_slice(end);
        write(&line);
        if was_spilled {
            self.pool.reader = line;
        } else {
            self.pool.take_back(line);
        }
    }
}

/// Buffers for long lines. There are few, and they are used again and again:
/// fresh memory costs more than everything else that is done with a line.
struct Pool {
    /// How many more may be made.
    left: usize,
    /// Those that nobody uses now, empty.
    used: Vec<Vec<u8>>,
    /// One more, for lines that come back from files.
    reader: Vec<u8>,
}

impl Pool {
    /// A buffer that any line fits into, if there is one.
    fn lend(&mut self) -> Option<Vec<u8>> {
        self.used.pop().or_else(|| {
            self.left = self.left.checked_sub(1)?;
            // One more for the newline.
            Some(Vec::with_capacity(LONGEST_LINE + 1))
        })
    }

    /// Takes it back, if it is one.
    fn take_back(&mut self, mut buffer: Vec<u8>) {
        if buffer.capacity() > LONGEST_LINE && self.used.len() < LONG_LINES {
            buffer.clear();
            self.used.push(buffer);
        }
    }
}

/// A line whose end has not come yet.
#[derive(Debug, Default)]
struct Unfinished {
    memory: Vec<u8>,
    /// What stands before `memory`, where the line is long and memory is short.
    file: Option<File>,
    length: usize,
}

impl Unfinished {
    fn push(&mut self, bytes: &[u8], pool: &mut Pool) {
        self.length += bytes.len();
        let size = self.memory.len() + bytes.len();
        if size > self.memory.capacity().max(OWN_SHARE) {
            if let Some(buffer) = pool.lend() {
                let short = std::mem::replace(&mut self.memory, buffer);
                self.memory.extend_from_slice(&short);
            } else if self.spill(bytes).is_ok() {
                return;
            }
            // Without a temporary file, memory has to do.
        }
        self.memory.extend_from_slice(bytes);
    }

    /// Moves what is in memory, and more, to a temporary file that has no name.
    fn spill(&mut self, more: &[u8]) -> std::io::Result<()> {
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

    /// The whole line; its memory goes back to the pool afterwards.
    fn take(&mut self, pool: &mut Pool) -> Vec<u8> {
        self.length = 0;
        let memory = std::mem::take(&mut self.memory);
        let Some(mut file) = self.file.take() else {
            return memory;
        };
        let mut whole = std::mem::take(&mut pool.reader);
        whole.clear();
        whole.reserve_exact(LONGEST_LINE + 1);
        // The file has just been written and nobody else has it; should it be
        // unreadable all the same, what can be had is shown.
        let read = file.rewind().and_then(|()| file.read_to_end(&mut whole));
        if read.is_err() {
            whole.extend_from_slice(b"[orgalorg: part of a long line was lost]");
        }
        whole.extend_from_slice(&memory);
        pool.take_back(memory);
        whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OUT: Stream = Stream::Stdout;

    /// All lines of some packets, each with the number of its node before it.
    fn lines(lines: &mut Lines, packets: &[(usize, &[u8])]) -> Vec<(usize, Vec<u8>)> {
        let mut all = Vec::new();
        for (node, bytes) in packets {
            let mut write = |line: &[u8]| all.push((*node, line.to_vec()));
            lines.feed(NodeId(*node), OUT, bytes, &mut write);
        }
        for node in [0, 1] {
            lines.end(NodeId(node), OUT, |line| all.push((node, line.to_vec())));
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
    fn long_lines_of_several_hosts_follow_each_other_in_the_same_memory() {
        let mut lines = Lines::new(2, b"\n");
        let (mut out, mut expected) = (Vec::new(), Vec::new());
        for (node, letter) in [(0, b'a'), (1, b'b'), (0, b'c')] {
            let line = [vec![letter; LONGEST_LINE - 1], vec![b'\n']].concat();
            for piece in line.chunks(30_000) {
                lines.feed(NodeId(node), OUT, piece, |line| out.extend_from_slice(line));
            }
            // The other host is in the middle of one too.
            lines.feed(NodeId(1 - node), OUT, b"-", |line| {
                out.extend_from_slice(line)
            });
            let begun = if expected.is_empty() { "" } else { "-" };
            expected.extend_from_slice(&[begun.as_bytes(), &line].concat());
            assert_eq!(lines.pool.used.len(), 1);
        }
        assert_eq!(out.len(), expected.len());
        assert!(out == expected);
    }

    #[test]
    fn many_long_lines_go_to_disk_and_come_back() {
        let render = |in_memory| {
            let mut lines = Lines::new(2, b"\n");
            let mut out = Vec::new();
            lines.pool.left = in_memory;
            for piece in 0..20 {
                let piece = vec![b'a' + piece; 30_000];
                for node in [0, 1] {
                    lines.feed(NodeId(node), OUT, &piece, |line| {
                        out.extend_from_slice(line)
                    });
                    let memory = &lines.unfinished[node][0].memory;
                    assert!(in_memory > 0 || memory.capacity() <= OWN_SHARE);
                }
            }
            for node in [0, 1] {
                lines.feed(NodeId(node), OUT, b"end\n", |line| {
                    out.extend_from_slice(line)
                });
            }
            out
        };
        let (on_disk, in_memory) = (render(0), render(LONG_LINES));
        assert_eq!(on_disk.len(), 2 * ("end\n".len() + 600_000));
        assert!(on_disk == in_memory);
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
