//! The stream of an upload: made once, by one thread, for all hosts.
//!
//! Each node has a short queue of its own, and the writer waits for the one that
//! is slowest. So memory is what lies between the fastest and the slowest host,
//! and is shared. A node that has failed drops its end of the queue and is not
//! waited for any more; one that takes nothing has to notice that by itself.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};

use crate::archive::sink::{Sink, SinkError, read_into};
use crate::error::Tree;
use crate::event::NodeId;
use crate::ssh::process::{INPUT_CHUNK, Supply};
use crate::wake::Waker;

/// Bytes in a chunk: several packets, so that few wake-ups are needed.
const CHUNK: usize = 8 * INPUT_CHUNK;

/// Chunks that a host may be ahead of the slowest one.
const QUEUE: usize = 4;

/// A piece of the stream, for every node.
#[derive(Debug, Clone)]
pub(crate) enum Chunk {
    /// A piece.
    Bytes {
        /// Shared by all nodes.
        bytes: Arc<Vec<u8>>,
        /// Nothing comes after it.
        is_last: bool,
    },
    /// The rest will never come.
    Broken(Tree),
}

/// The way to one node.
#[derive(Debug)]
pub(crate) struct Outlet {
    node: NodeId,
    chunks: Sender<Chunk>,
    waker: Waker,
}

impl Outlet {
    /// Sends a whole archive to a node that has not been sent anything yet.
    pub(crate) fn finish(self, archive: Vec<u8>) {
        self.send(Chunk::Bytes {
            bytes: Arc::new(archive),
            is_last: true,
        });
    }

    /// Says that nothing will ever come.
    pub(crate) fn break_off(self, reason: Tree) {
        self.send(Chunk::Broken(reason));
    }

    /// Returns whether the node took it: a failed node does not.
    fn send(&self, chunk: Chunk) -> bool {
        let is_taken = self.chunks.send(chunk).is_ok();
        self.waker.wake();
        is_taken
    }
}

/// The writer's end.
pub(crate) struct Stream {
    outlets: Vec<Outlet>,
    buffer: Vec<u8>,
}

impl Stream {
    /// A stream without nodes.
    #[must_use]
    pub(crate) fn new() -> Self {
        Self {
            outlets: Vec::new(),
            buffer: Vec::with_capacity(CHUNK),
        }
    }

    /// Adds a node, and returns its end.
    pub(crate) fn add(&mut self, node: NodeId, waker: Option<Waker>) -> Receiver<Chunk> {
        let (chunks, receiver) = bounded(QUEUE);
        // (A node that has no thread takes nothing.)
        self.outlets.extend(waker.map(|waker| Outlet {
            node,
            chunks,
            waker,
        }));
        receiver
    }

    /// Takes out a node that gets something else instead.
    pub(crate) fn remove(&mut self, node: NodeId) -> Option<Outlet> {
        let at = self.outlets.iter().position(|outlet| outlet.node == node)?;
        Some(self.outlets.remove(at))
    }

    /// Sends the rest and the end.
    ///
    /// # Errors
    /// No node is left.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.pass_on(true)
    }

    /// Tells all nodes that the rest will never come, and drops them.
    pub(crate) fn break_off(&mut self, reason: &Tree) {
        self.send(&Chunk::Broken(reason.clone()));
        self.outlets.clear();
    }

    fn pass_on(&mut self, is_last: bool) -> io::Result<()> {
        let bytes = std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK));
        self.send(&Chunk::Bytes {
            bytes: Arc::new(bytes),
            is_last,
        });
        if self.outlets.is_empty() {
            return Err(io::Error::new(ErrorKind::BrokenPipe, "no host is left"));
        }
        Ok(())
    }

    fn pass_on_full(&mut self) -> io::Result<()> {
        if self.buffer.len() < CHUNK {
            return Ok(());
        }
        self.pass_on(false)
    }

    fn send(&mut self, chunk: &Chunk) {
        self.outlets.retain(|outlet| outlet.send(chunk.clone()));
    }
}

impl Sink for Stream {
    fn take(&mut self, file: &File, most: u64) -> Result<usize, SinkError> {
        // There always is room: a chunk that is full is on its way.
        let taken = read_into(&mut self.buffer, file, most)?;
        self.pass_on_full().map_err(SinkError::NotTaken)?;
        Ok(taken)
    }
}

impl Default for Stream {
    fn default() -> Self {
        Self::new()
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = CHUNK - self.buffer.len();
        let taken = bytes.len().min(room);
        self.buffer.extend_from_slice(&bytes[..taken]);
        self.pass_on_full()?;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        // Short chunks only cost wake-ups.
        Ok(())
    }
}

/// A node's end.
#[derive(Debug)]
pub(super) struct Tap {
    chunks: Receiver<Chunk>,
    current: Option<(Arc<Vec<u8>>, bool)>,
    /// How much of the current chunk has been taken.
    offset: usize,
    has_ended: bool,
    broken: Option<Tree>,
}

impl Tap {
    pub(super) fn new(chunks: Receiver<Chunk>) -> Self {
        Self {
            chunks,
            current: None,
            offset: 0,
            has_ended: false,
            broken: None,
        }
    }

    /// Adds the next piece to an empty buffer.
    pub(super) fn fill(&mut self, buffer: &mut Vec<u8>) -> Supply {
        if self.has_ended {
            return Supply::End;
        }
        if self.current.is_none() {
            match self.chunks.try_recv() {
                Ok(Chunk::Bytes { bytes, is_last }) => {
                    self.current = Some((bytes, is_last));
                    self.offset = 0;
                }
                Ok(Chunk::Broken(reason)) => self.broken = Some(reason),
                Err(TryRecvError::Empty) => {}
                // The writer has gone without giving a reason.
                Err(TryRecvError::Disconnected) => {
                    self.broken
                        .get_or_insert_with(|| "the upload was broken off".into());
                }
            }
        }
        let Some((bytes, is_last)) = &self.current else {
            return Supply::Nothing;
        };
        let rest = &bytes[self.offset..];
        let piece = &rest[..rest.len().min(INPUT_CHUNK)];
        buffer.extend_from_slice(piece);
        self.offset += piece.len();
        let is_empty = piece.is_empty();
        if self.offset == bytes.len() {
            self.has_ended = *is_last;
            self.current = None;
        }
        if is_empty { Supply::End } else { Supply::Bytes }
    }

    /// Why the rest will never come, if that is so.
    pub(super) fn broken(&self) -> Option<&Tree> {
        self.broken.as_ref()
    }

    /// Whether everything has been taken.
    pub(super) fn has_ended(&self) -> bool {
        self.has_ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wake;

    fn drain(tap: &mut Tap) -> (Vec<u8>, Supply) {
        let mut all = Vec::new();
        loop {
            let mut buffer = Vec::new();
            match tap.fill(&mut buffer) {
                Supply::Bytes => all.extend(buffer),
                other => return (all, other),
            }
        }
    }

    #[test]
    fn every_node_gets_everything_and_the_end() {
        let (waker, _wakeup) = wake::pair().expect("pipe");
        let mut stream = Stream::new();
        let mut taps = [0, 1].map(|_| Tap::new(stream.add(NodeId(0), Some(waker.clone()))));
        let body: Vec<u8> = (0..3 * CHUNK + 5).map(|i| (i % 251) as u8).collect();
        stream.write_all(&body).expect("taken");
        stream.finish().expect("taken");
        for tap in &mut taps {
            assert_eq!(drain(tap), (body.clone(), Supply::End));
            assert!(tap.has_ended());
        }
    }

    #[test]
    fn an_end_at_a_chunk_s_end_is_an_end() {
        let (waker, _wakeup) = wake::pair().expect("pipe");
        let mut stream = Stream::new();
        let mut tap = Tap::new(stream.add(NodeId(1), Some(waker)));
        stream.write_all(&vec![1; CHUNK]).expect("taken");
        assert_eq!(drain(&mut tap).1, Supply::Nothing);
        stream.finish().expect("taken");
        assert_eq!(drain(&mut tap), (vec![], Supply::End));
    }

    #[test]
    fn a_node_that_has_gone_is_not_waited_for() {
        let (waker, _wakeup) = wake::pair().expect("pipe");
        let mut stream = Stream::new();
        let gone = Tap::new(stream.add(NodeId(0), Some(waker.clone())));
        let mut tap = Tap::new(stream.add(NodeId(1), Some(waker)));
        drop(gone);
        for _ in 0..3 * QUEUE {
            stream.write_all(&vec![1; CHUNK]).expect("taken");
            drain(&mut tap);
        }
        drop(tap);
        let last = stream.write_all(&vec![1; CHUNK]);
        assert_eq!(
            last.expect_err("nobody is left").kind(),
            ErrorKind::BrokenPipe
        );
    }

    #[test]
    fn a_node_that_is_taken_out_gets_something_else() {
        let (waker, _wakeup) = wake::pair().expect("pipe");
        let mut stream = Stream::new();
        let [mut first, mut second, mut third] =
            [0, 1, 2].map(|node| Tap::new(stream.add(NodeId(node), Some(waker.clone()))));
        stream
            .remove(NodeId(1))
            .expect("there")
            .finish(b"own".to_vec());
        let outlet = stream.remove(NodeId(2)).expect("there");
        assert!(stream.remove(NodeId(2)).is_none());
        stream.write_all(b"all").expect("taken");
        stream.finish().expect("taken");
        assert_eq!(drain(&mut first), (b"all".to_vec(), Supply::End));
        assert_eq!(drain(&mut second), (b"own".to_vec(), Supply::End));
        assert_eq!(drain(&mut third), (vec![], Supply::Nothing));
        outlet.break_off("the other one has failed".into());
        assert_eq!(drain(&mut third), (vec![], Supply::Nothing));
        assert_eq!(third.broken(), Some(&"the other one has failed".into()));
    }

    #[test]
    fn a_stream_that_breaks_off_says_why() {
        let (waker, _wakeup) = wake::pair().expect("pipe");
        let mut stream = Stream::new();
        let mut tap = Tap::new(stream.add(NodeId(1), Some(waker)));
        stream.write_all(b"half").expect("taken");
        stream.break_off(&"the file shrank".into());
        assert_eq!(drain(&mut tap), (vec![], Supply::Nothing));
        assert_eq!(tap.broken(), Some(&"the file shrank".into()));
        assert!(!tap.has_ended());
    }
}
