//! Output that is kept until its turn comes: a little of it in memory, the rest
//! in one temporary file that has no name.
//!
//! Used by [`super::grouped`] and [`super::folded`]. What a node said is a chain
//! of records (a stream, and bytes), in the order in which it came. It is cut into
//! extents of a handy size, which stay in memory as long as all of them together
//! are few, and go to the file when they are not. There each node gets regions that
//! grow with what it has to say: a long output is a few long extents.
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

/// What may be in memory of all nodes together before anything is spilled.
const IN_MEMORY: usize = 1024 * 1024;

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

/// A node's first region in the file, and the longest.
const REGIONS: (u64, u64) = (64 * 1024, 64 * 1024 * 1024);

/// What is read back at once: more than a record, or the end of one could be
/// missing.
const WINDOW: u64 = 2 * EXTENT as u64;

/// How much has to be passed before the file gives it back.
const HOLE: u64 = 64 * 1024;

/// The output of all nodes.
pub struct Store {
    nodes: Vec<Kept>,
    spill: Option<File>,
    /// Where the last region of the file ends.
    end: u64,
    /// Bytes of extents in memory.
    memory: usize,
    /// Where spilling begins.
    limit: usize,
    /// Why the file could not be written, until somebody has asked.
    problem: Option<io::Error>,
    /// What is in the buffer: from where in the file.
    loaded: u64,
    buffer: Vec<u8>,
}

/// The output of one node.
#[derive(Default)]
struct Kept {
    /// One after the other, without gaps.
    extents: VecDeque<Extent>,
    /// What follows the extents.
    tail: Vec<u8>,
    /// Where the tail begins in the chain.
    tail_start: u64,
    /// Where in the tail the last record begins, if it may still grow.
    last: Option<usize>,
    /// The node's next region in the file.
    region: u64,
}

/// A piece of the chain.
struct Extent {
    /// Where in the chain it begins.
    start: u64,
    place: Place,
}

enum Place {
    Memory(Box<[u8]>),
    /// A part of a region.
    File {
        at: u64,
        length: u64,
        /// How much more the region can take.
        room: u64,
    },
}

impl Extent {
    fn end(&self) -> u64 {
        let length = match &self.place {
            Place::Memory(bytes) => bytes.len() as u64,
            Place::File { length, .. } => *length,
        };
        self.start + length
    }
}

/// How far somebody has read what a node said.
#[derive(Debug, Default)]
pub struct Cursor {
    /// Where in the chain it stands.
    at: u64,
    /// Of the record at hand: its stream, and how much is left.
    record: Option<(Stream, usize)>,
    /// Up to where the file has given back what was passed.
    freed: u64,
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
            problem: None,
            loaded: 0,
            buffer: Vec::new(),
        }
    }

    /// Keeps bytes of a node.
    pub fn add(&mut self, node: NodeId, stream: Stream, bytes: &[u8]) {
        for bytes in bytes.chunks(RECORD) {
            let kept = &mut self.nodes[node.0];
            kept.add(stream, bytes);
            if kept.tail.len() >= EXTENT {
                self.put_tail_away(node);
            }
        }
    }

    fn put_tail_away(&mut self, node: NodeId) {
        let kept = &mut self.nodes[node.0];
        let bytes = std::mem::take(&mut kept.tail);
        let start = kept.tail_start;
        kept.tail_start += bytes.len() as u64;
        kept.last = None;
        let index = kept.extents.len();
        if self.memory + bytes.len() <= self.limit {
            self.keep_in_memory(node, start, bytes);
            return;
        }
        match self.spill(node, index, &bytes) {
            Ok(None) => {}
            Ok(Some(place)) => self.nodes[node.0]
                .extents
                .push_back(Extent { start, place }),
            Err(error) => {
                self.problem = Some(error);
                self.keep_in_memory(node, start, bytes);
            }
        }
    }

    fn keep_in_memory(&mut self, node: NodeId, start: u64, bytes: Vec<u8>) {
        self.memory += bytes.len();
        let place = Place::Memory(bytes.into());
        self.nodes[node.0]
            .extents
            .push_back(Extent { start, place });
    }

    /// Whether more is in memory than should be, because the file cannot be
    /// written.
    pub fn is_over_limit(&self) -> bool {
        self.memory > self.limit
    }

    /// Why the file could not be written, if that has happened since the last
    /// call.
    pub fn take_problem(&mut self) -> Option<io::Error> {
        self.problem.take()
    }

    /// Moves extents to the file until memory is within its limit again.
    ///
    /// # Errors
    /// The file still cannot be written.
    pub fn make_room(&mut self) -> io::Result<()> {
        for node in (0..self.nodes.len()).map(NodeId) {
            let mut index = 0;
            while self.is_over_limit() && index < self.nodes[node.0].extents.len() {
                let is_merged = self.move_to_file(node, index)?;
                index += usize::from(!is_merged);
            }
        }
        Ok(())
    }

    /// Moves an extent to the file. True if it is a part of the one before it then.
    fn move_to_file(&mut self, node: NodeId, index: usize) -> io::Result<bool> {
        let place = &mut self.nodes[node.0].extents[index].place;
        let Place::Memory(bytes) = place else {
            return Ok(false);
        };
        let bytes = std::mem::take(bytes);
        let spilled = self.spill(node, index, &bytes);
        let extents = &mut self.nodes[node.0].extents;
        match spilled {
            Ok(place) => {
                self.memory -= bytes.len();
                let is_merged = place.is_none();
                match place {
                    Some(place) => extents[index].place = place,
                    None => drop(extents.remove(index)),
                }
                Ok(is_merged)
            }
            Err(error) => {
                extents[index].place = Place::Memory(bytes);
                Err(error)
            }
        }
    }

    /// Writes bytes of a chain to the file, where they become the extent with this
    /// index, or a part of the one before it (`None`).
    fn spill(&mut self, node: NodeId, index: usize, bytes: &[u8]) -> io::Result<Option<Place>> {
        let file = match &mut self.spill {
            Some(file) => file,
            None => self.spill.insert(tempfile::tempfile()?),
        };
        let more = bytes.len() as u64;
        let kept = &mut self.nodes[node.0];
        let before = index.checked_sub(1).and_then(|at| kept.extents.get_mut(at));
        if let Some(Extent { place, .. }) = before
            && let Place::File { at, length, room } = place
            && *room >= more
        {
            file.write_all_at(bytes, *at + *length)?;
            *length += more;
            *room -= more;
            return Ok(None);
        }
        file.write_all_at(bytes, self.end)?;
        let (first, longest) = REGIONS;
        let region = kept.region.max(first).max(more);
        kept.region = (region * 2).min(longest);
        let place = Place::File {
            at: self.end,
            length: more,
            room: region - more,
        };
        self.end += region;
        Ok(Some(place))
    }

    /// The next piece of what a node said, from where the cursor stands.
    pub fn read(&mut self, node: NodeId, cursor: &mut Cursor) -> Option<(Stream, &[u8])> {
        let extents = &self.nodes[node.0].extents;
        let next = extents.partition_point(|extent| extent.end() <= cursor.at);
        if let Some(extent) = extents.get(next)
            && let Place::File { at, length, .. } = extent.place
        {
            let (from, end) = (at + (cursor.at - extent.start), extent.end());
            if self.load(from, at + length).is_err() {
                cursor.at = end;
                cursor.record = None;
                return Some((Stream::Stderr, LOST));
            }
        }
        let kept = &mut self.nodes[node.0];
        let chain = if let Some(Extent { start, place }) = kept.extents.get(next) {
            let offset = cursor.at - start;
            match place {
                Place::Memory(bytes) => bytes.get(index(offset)..),
                Place::File { at, .. } => self.buffer.get(index(at + offset - self.loaded)..),
            }
        } else {
            // What is being read must not grow in the middle.
            kept.last = None;
            kept.tail.get(index(cursor.at - kept.tail_start)..)
        };
        let chain = chain.filter(|chain| !chain.is_empty())?;
        let (stream, left, body) = match cursor.record.take() {
            Some((stream, left)) => (stream, left, chain),
            None => {
                let (header, body) = chain.split_at_checked(HEADER)?;
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

    /// Gets the file's bytes from here on into the buffer, up to there and as many
    /// as there may be in a piece.
    fn load(&mut self, from: u64, to: u64) -> io::Result<()> {
        let loaded = self.loaded..self.loaded + self.buffer.len() as u64;
        let needed = to.min(from + (HEADER + PIECE) as u64);
        if loaded.contains(&from) && needed <= loaded.end {
            return Ok(());
        }
        self.buffer.clear();
        self.buffer.resize(index(WINDOW.min(to - from)), 0);
        self.loaded = from;
        let Some(file) = &self.spill else {
            return Err(io::ErrorKind::NotFound.into());
        };
        file.read_exact_at(&mut self.buffer, from)
            .inspect_err(|_| self.buffer.clear())
    }

    /// Gives back what the cursor has passed; nobody will read it again. To be
    /// called after each read by whoever reads once only.
    pub fn forget(&mut self, node: NodeId, cursor: &mut Cursor) {
        let kept = &mut self.nodes[node.0];
        while let Some(extent) = kept.extents.front() {
            let passed = cursor.at.min(extent.end());
            let is_passed = passed == extent.end();
            match &extent.place {
                Place::Memory(bytes) if is_passed => self.memory -= bytes.len(),
                Place::Memory(_) => break,
                Place::File { at, .. } => {
                    let from = cursor.freed.max(extent.start);
                    if !is_passed && passed - from < HOLE {
                        break;
                    }
                    if let Some(file) = &self.spill {
                        // Where holes cannot be made, the file just stays.
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
            kept.extents.pop_front();
        }
        if kept.extents.is_empty() && cursor.at == kept.tail_start + kept.tail.len() as u64 {
            kept.tail = Vec::new();
            kept.tail_start = cursor.at;
            kept.last = None;
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

/// Where that is in something that is in memory.
fn index(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
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
                let in_file = |extent: &&Extent| matches!(extent.place, Place::File { .. });
                // However long it gets: 64 KiB, and twice that, and so on.
                assert!(kept.extents.iter().filter(in_file).count() <= 7);
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
            // It works, then it does not, and then it does again.
            match round {
                3 => store.spill = Some(read_only()),
                15 => store.spill = None,
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
            assert!(store.nodes[node].extents.len() < 10);
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
