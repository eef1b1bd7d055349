//! Keeps the output of all nodes: a little of it in memory, the rest in one unnamed
//! temporary file.
//!
//! The output of a node is a chain of records (a stream, and bytes) in the order in
//! which they came, cut into extents. Extents stay in memory up to a limit for all nodes
//! together, and go to the file beyond it. In the file each node has regions, which
//! double in size, so that a long output has few extents.
//!
//! Where the file cannot be written, extents stay in memory beyond the limit, and
//! [`Store::is_over_limit`] says so. The caller then takes no more from the hosts,
//! and tries [`Store::make_room`] from time to time.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::{FallocateFlags, fallocate};

use crate::event::{NodeId, Stream};

/// Bytes of extents that may be in memory, for all nodes together.
const IN_MEMORY: usize = 1024 * 1024;

/// The size of an extent, which may be up to twice as large. Up to that size the end of
/// a chain stays in memory.
const EXTENT: usize = 16 * 1024;

/// The longest record.
const RECORD: usize = EXTENT - HEADER;

/// The most bytes that one read returns.
const PIECE: usize = 4 * 1024;

/// The header of a record: one byte for its stream, and four for its length.
const HEADER: usize = 5;

/// Shown in place of bytes that cannot be read back.
const LOST: &[u8] = b"\n[orgalorg: kept output was lost: its file cannot be read]\n";

/// The sizes of a node's first region in the file, and of the largest.
const REGIONS: (u64, u64) = (64 * 1024, 64 * 1024 * 1024);

/// How much of the file is read at once: at least a record.
const WINDOW: u64 = 2 * EXTENT as u64;

/// How many bytes of an extent are read before they are freed in the file.
const HOLE: u64 = 64 * 1024;

/// The output of all nodes.
pub(crate) struct Store {
    chains: Vec<Chain>,
    file: Option<File>,
    /// The end of the last region in the file.
    end: u64,
    /// Bytes of extents in memory.
    memory: usize,
    /// Extents go to the file beyond this many bytes in memory.
    limit: usize,
    /// See [`Store::take_problem`].
    problem: Option<io::Error>,
    /// A part of the file, read back, and its offset.
    buffer: Vec<u8>,
    loaded: u64,
}

/// The output of one node.
#[derive(Default)]
struct Chain {
    /// Without gaps.
    extents: VecDeque<Extent>,
    /// The records after the extents.
    tail: Vec<u8>,
    /// The offset of the tail in the chain.
    tail_start: u64,
    /// The offset of the last record in the tail, if the record may still grow.
    last: Option<usize>,
    /// The size of the node's next region in the file.
    region: u64,
}

/// A part of a chain.
struct Extent {
    /// Its offset in the chain.
    start: u64,
    storage: Storage,
}

enum Storage {
    Memory(Box<[u8]>),
    /// A part of a region.
    File {
        at: u64,
        length: u64,
        /// Bytes that are free behind it in the region.
        room: u64,
    },
}

impl Extent {
    fn end(&self) -> u64 {
        let length = match &self.storage {
            Storage::Memory(bytes) => bytes.len() as u64,
            Storage::File { length, .. } => *length,
        };
        self.start + length
    }
}

/// How far a chain has been read.
#[derive(Debug, Default)]
pub(crate) struct Cursor {
    /// An offset in the chain.
    at: u64,
    /// The stream of the current record, and how many bytes of it are left.
    record: Option<(Stream, usize)>,
    /// The file is freed up to this offset in the chain.
    freed: u64,
}

impl Store {
    /// An empty store for this number of nodes.
    #[must_use]
    pub(crate) fn new(nodes: usize) -> Self {
        Self {
            chains: (0..nodes).map(|_| Chain::default()).collect(),
            file: None,
            end: 0,
            memory: 0,
            limit: IN_MEMORY,
            problem: None,
            buffer: Vec::new(),
            loaded: 0,
        }
    }

    /// Keeps bytes of a node.
    pub(crate) fn add(&mut self, node: NodeId, stream: Stream, bytes: &[u8]) {
        for bytes in bytes.chunks(RECORD) {
            let chain = &mut self.chains[node.0];
            chain.add(stream, bytes);
            if chain.tail.len() >= EXTENT {
                self.cut_tail(node);
            }
        }
    }

    /// Makes an extent of the tail.
    fn cut_tail(&mut self, node: NodeId) {
        let chain = &mut self.chains[node.0];
        let bytes = std::mem::take(&mut chain.tail);
        let start = chain.tail_start;
        chain.tail_start += bytes.len() as u64;
        chain.last = None;
        let index = chain.extents.len();
        if self.memory + bytes.len() <= self.limit {
            self.keep_in_memory(node, start, bytes);
            return;
        }
        match self.spill(node, index, &bytes) {
            Ok(None) => {}
            Ok(Some(storage)) => self.chains[node.0]
                .extents
                .push_back(Extent { start, storage }),
            Err(error) => {
                self.problem = Some(error);
                self.keep_in_memory(node, start, bytes);
            }
        }
    }

    fn keep_in_memory(&mut self, node: NodeId, start: u64, bytes: Vec<u8>) {
        self.memory += bytes.len();
        let storage = Storage::Memory(bytes.into());
        self.chains[node.0]
            .extents
            .push_back(Extent { start, storage });
    }

    /// Whether more is in memory than the limit, because the file cannot be written.
    pub(crate) fn is_over_limit(&self) -> bool {
        self.memory > self.limit
    }

    /// The last failure to write the file, if there was one since the last call.
    pub(crate) fn take_problem(&mut self) -> Option<io::Error> {
        self.problem.take()
    }

    /// Moves extents to the file until memory is within its limit again.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn make_room(&mut self) -> io::Result<()> {
        for node in (0..self.chains.len()).map(NodeId) {
            let mut index = 0;
            while self.is_over_limit() && index < self.chains[node.0].extents.len() {
                let is_merged = self.move_to_file(node, index)?;
                index += usize::from(!is_merged);
            }
        }
        Ok(())
    }

    /// Moves an extent to the file. True if it has become a part of the one before it.
    fn move_to_file(&mut self, node: NodeId, index: usize) -> io::Result<bool> {
        let storage = &mut self.chains[node.0].extents[index].storage;
        let Storage::Memory(bytes) = storage else {
            return Ok(false);
        };
        let bytes = std::mem::take(bytes);
        let spilled = self.spill(node, index, &bytes);
        let extents = &mut self.chains[node.0].extents;
        match spilled {
            Ok(storage) => {
                self.memory -= bytes.len();
                let is_merged = storage.is_none();
                match storage {
                    Some(storage) => extents[index].storage = storage,
                    None => drop(extents.remove(index)),
                }
                Ok(is_merged)
            }
            Err(error) => {
                extents[index].storage = Storage::Memory(bytes);
                Err(error)
            }
        }
    }

    /// Writes the extent with this index to the file. None if its bytes have become a
    /// part of the extent before it.
    fn spill(&mut self, node: NodeId, index: usize, bytes: &[u8]) -> io::Result<Option<Storage>> {
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert(tempfile::tempfile()?),
        };
        let more = bytes.len() as u64;
        let chain = &mut self.chains[node.0];
        let before = index.checked_sub(1);
        let before = before.and_then(|before| chain.extents.get_mut(before));
        if let Some(Extent { storage, .. }) = before
            && let Storage::File { at, length, room } = storage
            && *room >= more
        {
            file.write_all_at(bytes, *at + *length)?;
            *length += more;
            *room -= more;
            return Ok(None);
        }
        file.write_all_at(bytes, self.end)?;
        let (first, longest) = REGIONS;
        let region = chain.region.max(first).max(more);
        chain.region = (region * 2).min(longest);
        let storage = Storage::File {
            at: self.end,
            length: more,
            room: region - more,
        };
        self.end += region;
        Ok(Some(storage))
    }

    /// The next piece of a node's output.
    pub(crate) fn read(&mut self, node: NodeId, cursor: &mut Cursor) -> Option<(Stream, &[u8])> {
        let extents = &self.chains[node.0].extents;
        let next = extents.partition_point(|extent| extent.end() <= cursor.at);
        if let Some(extent) = extents.get(next)
            && let Storage::File { at, length, .. } = extent.storage
        {
            let (from, end) = (at + (cursor.at - extent.start), extent.end());
            if self.load(from, at + length).is_err() {
                cursor.at = end;
                cursor.record = None;
                return Some((Stream::Stderr, LOST));
            }
        }
        let chain = &mut self.chains[node.0];
        let rest = if let Some(Extent { start, storage }) = chain.extents.get(next) {
            let offset = cursor.at - start;
            match storage {
                Storage::Memory(bytes) => bytes.get(index(offset)..),
                Storage::File { at, .. } => self.buffer.get(index(at + offset - self.loaded)..),
            }
        } else {
            // The last record must not grow any more: its length is read once.
            chain.last = None;
            chain.tail.get(index(cursor.at - chain.tail_start)..)
        };
        let rest = rest.filter(|rest| !rest.is_empty())?;
        let (stream, left, body) = match cursor.record.take() {
            Some((stream, left)) => (stream, left, rest),
            None => {
                let (header, body) = rest.split_at_checked(HEADER)?;
                cursor.at += HEADER as u64;
                let is_stderr = header[0] == Stream::Stderr as u8;
                let stream = [Stream::Stdout, Stream::Stderr][usize::from(is_stderr)];
                (stream, length(header), body)
            }
        };
        let piece = &body[..left.min(PIECE).min(body.len())];
        cursor.at += piece.len() as u64;
        if piece.len() < left {
            cursor.record = Some((stream, left - piece.len()));
        }
        Some((stream, piece))
    }

    /// Reads the file into the buffer, from an offset, at most to another one.
    fn load(&mut self, from: u64, to: u64) -> io::Result<()> {
        let loaded = self.loaded..self.loaded + self.buffer.len() as u64;
        let needed = to.min(from + (HEADER + PIECE) as u64);
        if loaded.contains(&from) && needed <= loaded.end {
            return Ok(());
        }
        self.buffer.clear();
        self.buffer.resize(index(WINDOW.min(to - from)), 0);
        self.loaded = from;
        let Some(file) = &self.file else {
            return Err(io::ErrorKind::NotFound.into());
        };
        file.read_exact_at(&mut self.buffer, from)
            .inspect_err(|_| self.buffer.clear())
    }

    /// Frees what the cursor has passed. It cannot be read again.
    pub(crate) fn forget(&mut self, node: NodeId, cursor: &mut Cursor) {
        let chain = &mut self.chains[node.0];
        while let Some(extent) = chain.extents.front() {
            let passed = cursor.at.min(extent.end());
            let is_passed = passed == extent.end();
            match &extent.storage {
                Storage::Memory(bytes) if is_passed => self.memory -= bytes.len(),
                Storage::Memory(_) => break,
                Storage::File { at, .. } => {
                    let from = cursor.freed.max(extent.start);
                    if !is_passed && passed - from < HOLE {
                        break;
                    }
                    if let Some(file) = &self.file {
                        // On a file system without holes the file keeps its size.
                        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                        let at = at + (from - extent.start);
                        let _ = fallocate(file, hole, at, passed - from);
                    }
                    cursor.freed = passed;
                    if !is_passed {
                        break;
                    }
                }
            }
            chain.extents.pop_front();
        }
        if chain.extents.is_empty() && cursor.at == chain.tail_start + chain.tail.len() as u64 {
            chain.tail = Vec::new();
            chain.tail_start = cursor.at;
            chain.last = None;
        }
    }

    /// The output of a node on a stream. None if it has more than this many bytes or
    /// lines.
    pub(crate) fn whole(
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

impl Chain {
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

/// An offset in memory.
fn index(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

/// The length of a record, from its header.
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
            for chain in &store.chains {
                assert!(chain.tail.capacity() <= 4 * EXTENT);
                let in_file = |extent: &&Extent| matches!(extent.storage, Storage::File { .. });
                // Regions of 64 KiB, 128 KiB, and so on.
                assert!(chain.extents.iter().filter(in_file).count() <= 7);
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

    /// A file that cannot be written.
    fn read_only() -> File {
        File::open("/dev/null").unwrap()
    }

    #[test]
    fn what_could_not_be_spilled_goes_to_the_file_as_soon_as_there_is_room() {
        let mut store = Store::new(2);
        store.limit = 60_000;
        let said = |round: u8| [b'a' + round; 7000];
        for round in 0..20 {
            match round {
                3 => store.file = Some(read_only()),
                15 => store.file = None,
                _ => {}
            }
            for node in [0, 1] {
                store.add(NodeId(node), Stream::Stdout, &said(round));
            }
            assert_eq!(store.is_over_limit(), (5..16).contains(&round), "{round}");
            assert_eq!(store.make_room().is_ok(), !(5..15).contains(&round));
            assert_eq!(store.is_over_limit(), (5..15).contains(&round), "{round}");
        }
        assert!(store.take_problem().is_some() && store.take_problem().is_none());
        let expected: Vec<u8> = (0..20).flat_map(said).collect();
        for node in [0, 1] {
            let [stdout, stderr] = read_all(&mut store, node);
            assert!(stdout == expected && stderr.is_empty());
            assert!(store.chains[node].extents.len() < 10);
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
