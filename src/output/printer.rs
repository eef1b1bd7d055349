//! The printer: the one thread that writes to stdout and stderr.
//!
//! It writes when its buffer is full or when nothing else is waiting, so that a
//! flood costs few system calls and a single line is on the screen at once. When
//! whoever reads our stdout is slow, this thread waits, and nobody else does.

use std::io;
use std::os::fd::BorrowedFd;
use std::thread;

use crossbeam_channel::{Receiver, Sender, TryRecvError};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::output::Message;
use crate::output::credit::Loan;
use crate::output::text::{Sinks, Text};

/// Write when this much has been rendered.
const FULL: usize = 64 * 1024;

/// Render no more at once: each byte may be an empty line, and get a long name
/// before it.
const PIECE: usize = 4 * 1024;

/// What a buffer may keep for the next time: room for a very long line. (It is
/// address space; memory is what gets touched.)
const KEPT: usize = 4 * 1024 * 1024;

/// A pipe that poll(2) finds writable takes this much at once (pipe(7)).
const PIPE_BUF: usize = 4096;

/// Our stdout cannot be written to any more.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// Nobody reads it any more (`| head`).
    #[error("nobody reads the output any more")]
    Closed,
    /// Anything else, such as a full disk.
    #[error("can't write the output")]
    Failed(#[source] io::Error),
}

/// Starts the printer. It ends when all [`super::Display`]s are gone; who wants
/// to be sure that something is written sends [`Message::Flush`].
///
/// # Errors
/// No thread can be started.
pub fn start(
    text: Text,
    messages: Receiver<Message>,
    problems: Sender<OutputError>,
) -> io::Result<()> {
    let mut printer = Printer {
        text,
        sinks: Sinks::default(),
        loans: Vec::new(),
        one_file: is_one_file(),
        broken: false,
        problems,
    };
    thread::Builder::new()
        .name("printer".into())
        .spawn(move || printer.run(&messages))
        .map(drop)
}

struct Printer {
    text: Text,
    sinks: Sinks,
    /// Given back when what they stand for has been written.
    loans: Vec<Loan>,
    /// Stdout and stderr are the same file: everything goes through one of
    /// them, in order.
    one_file: bool,
    broken: bool,
    problems: Sender<OutputError>,
}

impl Printer {
    fn run(&mut self, messages: &Receiver<Message>) {
        loop {
            let message = match messages.try_recv() {
                Ok(message) => message,
                Err(TryRecvError::Empty) => {
                    self.flush();
                    match messages.recv() {
                        Ok(message) => message,
                        Err(_) => break,
                    }
                }
                Err(TryRecvError::Disconnected) => break,
            };
            self.render(message);
        }
        self.flush();
    }

    fn render(&mut self, message: Message) {
        match message {
            Message::Output {
                node,
                stream,
                bytes,
                loan,
            } => {
                let mut pieces = bytes.chunks(PIECE).peekable();
                while let Some(piece) = pieces.next() {
                    self.text.output(node, stream, piece, &mut self.sinks);
                    if pieces.peek().is_some() {
                        self.rendered();
                    }
                }
                self.loans.push(loan);
            }
            Message::EndOfOutput { node } => self.text.end_of_output(node, &mut self.sinks),
            Message::Log { level, text } => self.text.log(level, &text, &mut self.sinks),
            Message::Progress(_) => {}
            Message::Flush(answer) => {
                self.flush();
                // Whoever asked may have stopped waiting.
                let _ = answer.send(());
            }
        }
        self.rendered();
    }

    /// Something has been rendered, and is written if it is much.
    fn rendered(&mut self) {
        if self.one_file && !self.sinks.stderr.is_empty() {
            let stderr = &mut self.sinks.stderr;
            self.sinks.stdout.append(stderr);
        }
        if self.sinks.stdout.len() + self.sinks.stderr.len() >= FULL {
            self.flush();
        }
    }

    fn flush(&mut self) {
        // First, for the other one is more likely to be read slowly.
        if !self.sinks.stderr.is_empty() {
            // There is no place left to say that this failed.
            let _ = write_all(rustix::stdio::stderr(), &self.sinks.stderr);
            recycle(&mut self.sinks.stderr);
        }
        if !self.sinks.stdout.is_empty() {
            if !self.broken
                && let Err(error) = write_all(rustix::stdio::stdout(), &self.sinks.stdout)
            {
                self.broken = true;
                // Main hears of it once; what it does then is its business.
                let _ = self.problems.send(match error {
                    Errno::PIPE => OutputError::Closed,
                    other => OutputError::Failed(other.into()),
                });
            }
            recycle(&mut self.sinks.stdout);
        }
        self.loans.clear();
    }
}

/// What main does in place of the printer when the process must end while the
/// printer waits for somebody to read stdout: log lines still come out.
pub struct LastWords {
    text: Text,
    messages: Receiver<Message>,
}

impl LastWords {
    /// From the queue of the printer, rendered like this.
    #[must_use]
    pub fn new(text: Text, messages: Receiver<Message>) -> Self {
        Self { text, messages }
    }

    /// Writes the log lines that are waiting to stderr, as far as that takes
    /// them at once. Output of hosts is lost then.
    pub fn say(&mut self) {
        let mut sinks = Sinks::default();
        for message in self.messages.try_iter() {
            if let Message::Log { level, text: tree } = message {
                self.text.log(level, &tree, &mut sinks);
            }
        }
        // Where stderr is what is not read, this ends at its first piece.
        for piece in sinks.stderr.chunks(PIPE_BUF) {
            let stderr = rustix::stdio::stderr();
            let mut fds = [PollFd::from_borrowed_fd(stderr, PollFlags::OUT)];
            let takes_a_piece = matches!(poll(&mut fds, Some(&Timespec::default())), Ok(1));
            if !takes_a_piece || write_all(stderr, piece).is_err() {
                return;
            }
        }
    }
}

/// Empties a buffer for the next time.
fn recycle(buffer: &mut Vec<u8>) {
    buffer.clear();
    buffer.shrink_to(KEPT);
}

fn write_all(fd: BorrowedFd<'_>, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::write(fd, bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::INTR) => {}
            // A terminal that some other program has made non-blocking.
            Err(Errno::AGAIN) => {
                let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::OUT)];
                match poll(&mut fds, None) {
                    Ok(_) | Err(Errno::INTR) => {}
                    Err(error) => return Err(error),
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn is_one_file() -> bool {
    let stat = |fd| rustix::fs::fstat(fd).map(|stat| (stat.st_dev, stat.st_ino));
    match (stat(rustix::stdio::stdout()), stat(rustix::stdio::stderr())) {
        (Ok(stdout), Ok(stderr)) => stdout == stderr,
        _ => false,
    }
}
