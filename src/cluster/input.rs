//! What `-i` sends to every command: one file or pipe, read by many hosts.
//!
//! From a regular file each host reads at its own pace. The bytes of a pipe
//! or a terminal is read once, by the [`feeder`](start_feeder), into a file
//! without a name, and each host reads that: a slow one holds up nobody, and
//! memory stays out of it. Where the file system can, what all hosts have read
//! is given back to the disk.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use crossbeam_channel::Sender;
use rustix::fs::FallocateFlags;

use crate::event::NodeId;
use crate::ssh::process::{INPUT_CHUNK, Supply};
use crate::wake::Waker;

/// Read from a pipe at once.
const FEED: usize = 64 * 1024;

/// Give disk space back in pieces of this size.
const PUNCH: u64 = 16 * 1024 * 1024;

/// Why commands do not get their input.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InputError {
    /// Whatever `-i` names.
    #[error("can't read the input from {name}")]
    Read {
        /// What it is called.
        name: String,
        /// What the system said.
        source: io::Error,
    },
    /// The temporary file for the bytes of a pipe or terminal.
    #[error(
        "can't keep the input that hosts have not read yet in a temporary file in '{directory}' \
         (TMPDIR names another directory)"
    )]
    Spool {
        /// Where it is.
        directory: String,
        /// What the system said.
        source: io::Error,
    },
    /// No thread can be started.
    #[error("can't start another thread on this machine")]
    Thread(#[source] io::Error),
}

impl InputError {
    fn spool(source: io::Error) -> Self {
        let directory = std::env::temp_dir().display().to_string();
        Self::Spool { directory, source }
    }
}

/// The input of a run; each node makes its own [`Reader`].
#[derive(Debug)]
pub(crate) struct Input {
    name: String,
    file: File,
    start: u64,
    spool: Option<Spool>,
}

/// How far the feeder and the readers are, in bytes from the beginning.
#[derive(Debug)]
struct Spool {
    length: AtomicU64,
    ended: AtomicBool,
    /// One per node; past everything when the node reads no more.
    readers: Vec<AtomicU64>,
}

impl Input {
    /// From a regular file, beginning where its descriptor stands now.
    ///
    /// # Errors
    /// It cannot be read from any place (so it is no regular file).
    pub(crate) fn from_file(mut file: File, name: String) -> Result<Self, InputError> {
        let start = match file.stream_position() {
            Ok(start) => start,
            Err(source) => return Err(InputError::Read { name, source }),
        };
        Ok(Self {
            name,
            file,
            start,
            spool: None,
        })
    }

    /// From a pipe or terminal that `start_feeder` reads, for this number of nodes.
    ///
    /// # Errors
    /// No temporary file can be made.
    pub(crate) fn spooled(name: String, nodes: usize) -> Result<Self, InputError> {
        Ok(Self {
            name,
            file: tempfile::tempfile().map_err(InputError::spool)?,
            start: 0,
            spool: Some(Spool {
                length: AtomicU64::new(0),
                ended: AtomicBool::new(false),
                readers: (0..nodes).map(|_| AtomicU64::new(0)).collect(),
            }),
        })
    }

    fn unreadable(&self, source: io::Error) -> InputError {
        let name = self.name.clone();
        InputError::Read { name, source }
    }

    /// This node will not read (any more).
    pub(crate) fn leave(&self, node: NodeId) {
        if let Some(spool) = &self.spool {
            spool.readers[node.0].store(u64::MAX, Ordering::Release);
        }
    }
}

/// One node's place in the input.
#[derive(Debug)]
pub(crate) struct Reader {
    input: Arc<Input>,
    node: NodeId,
    offset: u64,
}

impl Reader {
    /// At the beginning.
    #[must_use]
    pub(crate) fn new(input: Arc<Input>, node: NodeId) -> Self {
        let offset = input.start;
        Self {
            input,
            node,
            offset,
        }
    }

    /// Adds the next piece to an empty buffer. Never blocks on a pipe.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) fn fill(&mut self, buffer: &mut Vec<u8>) -> Result<Supply, InputError> {
        let (most, at_end) = match &self.input.spool {
            None => (INPUT_CHUNK, true),
            Some(spool) => {
                // In this order: after `ended` the length is final.
                let ended = spool.ended.load(Ordering::Acquire);
                let length = spool.length.load(Ordering::Acquire);
                let left = usize::try_from(length - self.offset).unwrap_or(usize::MAX);
                (left.min(INPUT_CHUNK), ended)
            }
        };
        buffer.resize(most, 0);
        let read = read_at(&self.input.file, buffer, self.offset).map_err(|error| {
            match &self.input.spool {
                None => self.input.unreadable(error),
                Some(_) => InputError::spool(error),
            }
        })?;
        buffer.truncate(read);
        self.offset += read as u64;
        if let Some(spool) = &self.input.spool {
            spool.readers[self.node.0].store(self.offset, Ordering::Release);
        }
        Ok(match read {
            0 if at_end => Supply::End,
            0 => Supply::Nothing,
            _ => Supply::Bytes,
        })
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.input.leave(self.node);
    }
}

fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    loop {
        match file.read_at(buffer, offset) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Starts the thread that reads a pipe or terminal to its end and wakes the
/// nodes. The run never waits for this thread: its `read(2)` cannot be interrupted.
///
/// # Errors
/// No thread can be started.
pub(crate) fn start_feeder(
    source: File,
    input: Arc<Input>,
    wakers: Vec<Waker>,
    problems: Sender<InputError>,
) -> Result<(), InputError> {
    thread::Builder::new()
        .name("feeder".into())
        .spawn(move || {
            if let Err(error) = feed(source, &input, &wakers) {
                // Main may be gone already.
                let _ = problems.send(error);
            }
        })
        .map(drop)
        .map_err(InputError::Thread)
}

fn feed(mut source: File, input: &Input, wakers: &[Waker]) -> Result<(), InputError> {
    let Some(spool) = &input.spool else {
        return Ok(());
    };
    let mut buffer = vec![0; FEED];
    let mut length = 0;
    let mut punched = 0;
    loop {
        let read = match source.read(&mut buffer) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(input.unreadable(error)),
        };
        if read > 0 {
            let new = &buffer[..read];
            input
                .file
                .write_all_at(new, length)
                .map_err(InputError::spool)?;
            length += read as u64;
            spool.length.store(length, Ordering::Release);
        } else {
            spool.ended.store(true, Ordering::Release);
        }
        for waker in wakers {
            waker.wake();
        }
        if read == 0 {
            return Ok(());
        }
        let readers = spool.readers.iter();
        let slowest = readers.map(|reader| reader.load(Ordering::Acquire)).min();
        let unneeded = slowest.unwrap_or(length).min(length);
        if unneeded >= punched + PUNCH {
            let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            // Where that is not possible, disk space is used until the end.
            let _ = rustix::fs::fallocate(&input.file, hole, punched, unneeded - punched);
            punched = unneeded;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn all(reader: &mut Reader) -> (Vec<u8>, Supply) {
        let mut bytes = Vec::new();
        loop {
            let mut buffer = Vec::new();
            match reader.fill(&mut buffer).expect("read") {
                Supply::Bytes => bytes.extend(buffer),
                other => return (bytes, other),
            }
        }
    }

    #[test]
    fn every_reader_of_a_file_gets_all_of_it_from_where_it_stood() {
        let mut file = tempfile::tempfile().expect("file");
        file.write_all(b"skipped").expect("write");
        let body = vec![b'x'; 100_000];
        file.write_all(&body).expect("write");
        file.seek(io::SeekFrom::Start(7)).expect("seek");
        let input = Arc::new(Input::from_file(file, "it".into()).expect("input"));
        for node in [0, 1] {
            let mut reader = Reader::new(Arc::clone(&input), NodeId(node));
            assert_eq!(all(&mut reader), (body.clone(), Supply::End));
        }
    }

    #[test]
    fn a_pipe_is_read_once_and_given_to_all() {
        let (read, mut write) = io::pipe().expect("pipe");
        let input = Arc::new(Input::spooled("it".into(), 2).expect("input"));
        let mut readers = [0, 1].map(|node| Reader::new(Arc::clone(&input), NodeId(node)));
        assert_eq!(all(&mut readers[0]), (vec![], Supply::Nothing));
        write.write_all(b"line\n").expect("write");
        drop(write);
        feed(File::from(std::os::fd::OwnedFd::from(read)), &input, &[]).expect("feed");
        for reader in &mut readers {
            assert_eq!(all(reader), (b"line\n".to_vec(), Supply::End));
        }
    }
}
