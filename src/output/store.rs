//! Output that is kept until its turn comes: a little of it in memory, the rest
//! in one temporary file that has no name.
//!
//! Used by [`super::grouped`] and [`super::folded`]. What a node said is a chain
//! of records (a stream, and bytes), in the order in which it came. It is cut into
//! extents of a handy size, which stay in memory as long as all of them together
//! are few, and go to the file, wherever that ends, when they are not.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::{FallocateFlags, fallocate};

use crate::event::{NodeId, Stream};

/// What may be in memory of all nodes together before anything is spilled.
const IN_MEMORY: usize = 2 * 1024 * 1024;

/// An extent has at least so much, and less than twice that; what is not one yet
/// stays in memory in any case.
const EXTENT: usize = 16 * 1024;

/// The longest record.
const RECORD: usize = EXTENT - HEADER;

/// What is given out at once.
const PIECE: usize = 4 * 1024;

/// Before the bytes of a record: the stream, and how many there are.
const HEADER: usize = 5;

/// Said in place of what cannot be read back.
const LOST: &[u8] = b"\n[orgalorg: kept output was lost: its file cannot be read]\n";

/// The output of all nodes.
pub struct Store {
    nodes: Vec<Kept>,
    spill: Option<File>,
    /// Where the file ends.
    end: u64,
    /// Bytes of extents in memory.
    memory: usize,
    /// Where spilling begins.
    limit: usize,
    /// The extent in the buffer.
    loaded: Option<(NodeId, usize)>,
    buffer: Vec<u8>,
}

/// The output of one node.
#[derive(Default)]
struct Kept {
    extents: Vec<Extent>,
    /// What follows the extents.
    tail: Vec<u8>,
    /// Where the last record of the tail begins, if it may still grow.
    last: Option<usize>,
}

/// A piece of the chain.
enum Extent {
    Memory(Box<[u8]>),
    /// Where it is in the file, and how long.
    File(u64, usize),
}

impl Extent {
    fn length(&self) -> usize {
        match self {
            Self::Memory(bytes) => bytes.len(),
            Self::File(_, length) => *length,
        }
    }
}

/// How far somebody has read what a node said.
#[derive(Debug, Default)]
pub struct Cursor {
    /// The extent; the tail is the one after the last.
    extent: usize,
    at: usize,
    /// Of the record at hand: its stream, and how much is left.
    record: Option<(Stream, usize)>,
}

impl Store {
    /// An empty one for so many nodes.
    #[must_use]
    pub fn new(nodes: usize) -> Self {
        Self {
            nodes: (0..nodes).map(|_| Kept::default()).collect(),
            spill: None,
            end: 0,
            memory: 0,
            limit: IN_MEMORY,
            loaded: None,
            buffer: Vec::new(),
        }
    }

    /// Keeps bytes of a node.
    pub fn add(&mut self, node: NodeId, stream: Stream, bytes: &[u8]) {
        for bytes in bytes.chunks(RECORD) {
            let kept = &mut self.nodes[node.0];
            kept.add(stream, bytes);
            if kept.tail.len() >= EXTENT {
                kept.last = None;
                let extent = std::mem::take(&mut kept.tail);
                let extent = self.put_away(extent);
                self.nodes[node.0].extents.push(extent);
            }
        }
    }

    fn put_away(&mut self, bytes: Vec<u8>) -> Extent {
        if self.memory + bytes.len() > self.limit
            && let Ok(at) = self.spill(&bytes)
        {
            return Extent::File(at, bytes.len());
        }
        // Without a temporary file, memory has to do.
        self.memory += bytes.len();
        Extent::Memory(bytes.into())
    }

    fn spill(&mut self, bytes: &[u8]) -> io::Result<u64> {
        let file = match &mut self.spill {
            Some(file) => file,
            None => self.spill.insert(tempfile::tempfile()?),
        };
        let at = self.end;
        file.write_all_at(bytes, at)?;
        self.end += bytes.len() as u64;
        Ok(at)
    }

    /// The next piece of what a node said, from where the cursor stands.
    pub fn read(&mut self, node: NodeId, cursor: &mut Cursor) -> Option<(Stream, &[u8])> {
        loop {
            let kept = &mut self.nodes[node.0];
            let extent = kept.extents.get(cursor.extent);
            let is_tail = extent.is_none();
            if cursor.at < extent.map_or(kept.tail.len(), Extent::length) {
                if is_tail {
                    // What is being read must not grow in the middle.
                    kept.last = None;
                } else if let Err(lost) = self.load(node, cursor.extent) {
                    cursor.skip_extent();
                    return Some((Stream::Stderr, lost));
                }
                break;
            }
            if is_tail {
                return None;
            }
            cursor.skip_extent();
        }
        let kept = &self.nodes[node.0];
        let chain = match kept.extents.get(cursor.extent) {
            None => &kept.tail[..],
            Some(Extent::Memory(bytes)) => bytes,
            Some(Extent::File(..)) => &self.buffer,
        };
        let (stream, left) = cursor.record.take().unwrap_or_else(|| {
            let header = &chain[cursor.at..];
            cursor.at += HEADER;
            let is_stderr = header[0] == Stream::Stderr as u8;
            let stream = [Stream::Stdout, Stream::Stderr][usize::from(is_stderr)];
            (stream, length(header))
        });
        let piece = &chain[cursor.at..][..left.min(PIECE)];
        cursor.at += piece.len();
        if piece.len() < left {
            cursor.record = Some((stream, left - piece.len()));
        }
        Some((stream, piece))
    }

    /// Reads an extent back, if it is not in memory.
    fn load(&mut self, node: NodeId, extent: usize) -> Result<(), &'static [u8]> {
        let Extent::File(at, length) = self.nodes[node.0].extents[extent] else {
            return Ok(());
        };
        if self.loaded == Some((node, extent)) {
            return Ok(());
        }
        self.loaded = None;
        self.buffer.resize(length, 0);
        let file = self.spill.as_ref().ok_or(LOST)?;
        file.read_exact_at(&mut self.buffer, at).map_err(|_| LOST)?;
        self.loaded = Some((node, extent));
        Ok(())
    }

    /// Gives back what the cursor has passed; nobody will read it again. To be
    /// called after each read by whoever reads once only.
    pub fn forget(&mut self, node: NodeId, cursor: &mut Cursor) {
        let kept = &mut self.nodes[node.0];
        let Some(extent) = kept.extents.get_mut(cursor.extent) else {
            if cursor.at == kept.tail.len() {
                kept.tail = Vec::new();
                kept.last = None;
                cursor.at = 0;
            }
            return;
        };
        if cursor.at < extent.length() {
            return;
        }
        match extent {
            Extent::Memory(bytes) => {
                self.memory -= bytes.len();
                *extent = Extent::Memory(Box::default());
                cursor.skip_extent();
            }
            Extent::File(at, length) => {
                if let Some(file) = &self.spill {
                    // Where holes cannot be made, the file just stays.
                    let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                    let _ = fallocate(file, hole, *at, *length as u64);
                }
            }
        }
    }

    /// All that a node said on one stream, unless it is too much: more bytes or
    /// more lines.
    pub fn whole(
        &mut self,
        node: NodeId,
        stream: Stream,
        bytes: usize,
        lines: usize,
    ) -> Option<Vec<u8>> {
        let mut cursor = Cursor::default();
        let mut whole = Vec::new();
        let mut count = 0;
        while let Some((of, piece)) = self.read(node, &mut cursor) {
            if of == stream {
                count += memchr::memchr_iter(b'\n', piece).count();
                whole.extend_from_slice(piece);
            }
            if whole.len() > bytes || count > lines {
                return None;
            }
        }
        Some(whole)
    }
}

impl Cursor {
    fn skip_extent(&mut self) {
        self.extent += 1;
        self.at = 0;
        self.record = None;
    }
}

impl Kept {
    fn add(&mut self, stream: Stream, bytes: &[u8]) {
        let end = self.tail.len();
        let grows = self.last.filter(|&at| {
            self.tail[at] == stream as u8 && length(&self.tail[at..]) + bytes.len() <= RECORD
        });
        let at = grows.unwrap_or_else(|| {
            self.tail.push(stream as u8);
            self.tail.extend_from_slice(&[0; HEADER - 1]);
            end
        });
        self.tail.extend_from_slice(bytes);
        let length = u32::try_from(self.tail.len() - at - HEADER).unwrap_or(u32::MAX);
        self.tail[at + 1..at + HEADER].copy_from_slice(&length.to_le_bytes());
        self.last = Some(at);
    }
}

/// How many bytes a record has.
fn length(record: &[u8]) -> usize {
    record[1..HEADER]
        .iter()
        .rev()
        .fold(0, |length, byte| length << 8 | usize::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read_all(store: &mut Store, node: usize) -> [Vec<u8>; 2] {
        let mut cursor = Cursor::default();
        let mut said = [Vec::new(), Vec::new()];
        while let Some((stream, piece)) = store.read(NodeId(node), &mut cursor) {
            assert!(!piece.is_empty() && piece.len() <= PIECE);
            said[stream as usize].extend_from_slice(piece);
        }
        said
    }

    #[test]
    fn what_is_kept_beyond_the_bound_is_not_in_memory() {
        let mut store = Store::new(3);
        for round in 0..1000u32 {
            for node in 0..3 {
                let bytes = [b'a' + u8::try_from(round % 26).unwrap(); 7000];
                store.add(NodeId(node), Stream::Stdout, &bytes);
            }
            for kept in &store.nodes {
                assert!(kept.tail.capacity() <= 4 * EXTENT);
                let extents = kept.extents.iter();
                assert!(
                    extents
                        .map(Extent::length)
                        .all(|length| length < 2 * EXTENT)
                );
            }
            assert!(store.memory <= IN_MEMORY);
        }
        assert!(store.end > 10_000_000);
        for node in 0..3 {
            let [stdout, stderr] = read_all(&mut store, node);
            assert_eq!((stdout.len(), stderr.len()), (7_000_000, 0));
            let mut blocks = stdout.chunks(7000).enumerate();
            assert!(blocks.all(|(round, block)| {
                let letter = b'a' + u8::try_from(round % 26).unwrap();
                block.iter().all(|byte| *byte == letter)
            }));
        }
    }

    #[test]
    fn a_part_can_be_had_whole_unless_it_is_too_much() {
        let mut store = Store::new(1);
        store.add(NodeId(0), Stream::Stdout, b"a\n");
        store.add(NodeId(0), Stream::Stderr, b"x\n");
        store.add(NodeId(0), Stream::Stdout, b"b\n");
        let mut whole = |bytes, lines| store.whole(NodeId(0), Stream::Stdout, bytes, lines);
        assert_eq!(whole(4, 2).unwrap(), b"a\nb\n");
        assert_eq!(whole(3, 2), None);
        assert_eq!(whole(4, 1), None);
    }

    proptest! {
        #[test]
        fn what_is_read_is_what_was_added_also_while_more_is(
            steps in prop::collection::vec(
                (any::<bool>(), prop_oneof![1usize..50, 1000usize..40_000], 0usize..12),
                1..40,
            ),
            limit in prop_oneof![Just(0usize), Just(60_000), Just(IN_MEMORY)],
        ) {
            let mut store = Store::new(2);
            store.limit = limit;
            let mut cursor = Cursor::default();
            let (mut added, mut found) = (Vec::new(), Vec::new());
            let mut letter = 0u8;
            for (is_stderr, size, reads) in steps {
                let stream = [Stream::Stdout, Stream::Stderr][usize::from(is_stderr)];
                letter = letter.wrapping_add(1);
                let bytes = vec![letter; size];
                store.add(NodeId(0), stream, &bytes);
                store.add(NodeId(1), stream, &bytes);
                added.extend(bytes.iter().map(|byte| (stream, *byte)));
                for _ in 0..reads {
                    if let Some((stream, piece)) = store.read(NodeId(0), &mut cursor) {
                        found.extend(piece.iter().map(|byte| (stream, *byte)));
                        store.forget(NodeId(0), &mut cursor);
                    }
                }
            }
            while let Some((stream, piece)) = store.read(NodeId(0), &mut cursor) {
                found.extend(piece.iter().map(|byte| (stream, *byte)));
                store.forget(NodeId(0), &mut cursor);
            }
            prop_assert!(added == found);
            let [stdout, stderr] = read_all(&mut store, 1);
            prop_assert_eq!(stdout.len() + stderr.len(), added.len());
        }
    }
}
