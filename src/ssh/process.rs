//! One remote process on one channel, as a state machine that never blocks.
//!
//! The owner calls [`Process::step`] in its loop; where the process's output
//! goes and its input comes from is behind [`Ports`].

use std::io::{self, Read, Write};

use ssh2::{Channel, PtyModes};
use zeroize::Zeroize;

use crate::error::Tree;
use crate::event::Stream;
use crate::ssh::session::{Session, SessionError, classify, is_again, is_denial, is_too_early};

/// How much the host may send before we read: what an unread channel costs.
const WINDOW: u32 = 256 * 1024;

/// The largest packet that libssh2 takes.
const PACKET: u32 = 32 * 1024;

/// The most that libssh2 puts into one packet; smaller writes cost more.
pub(crate) const INPUT_CHUNK: usize = 32_700;

/// The most that is read at once.
const OUTPUT_CHUNK: usize = 256 * 1024;

/// A read of this many bytes means bulk output: reserve a whole chunk.
const MUCH: usize = 16 * 1024;

/// Ctrl-D, as a terminal's end of file (POSIX `VEOF`).
const END_OF_TRANSMISSION: u8 = 4;

/// The size of a pseudo-terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TerminalSize {
    /// Characters per line.
    pub(crate) columns: u16,
    /// Lines.
    pub(crate) rows: u16,
}

/// What to start.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// The string for the login shell.
    pub(crate) command: String,
    /// Ask for a pseudo-terminal: its type and size.
    pub(crate) terminal: Option<(String, TerminalSize)>,
}

/// What a process is connected to.
pub(crate) trait Ports {
    /// How many bytes of output are wanted right now.
    fn room(&mut self) -> usize;

    /// Takes output.
    fn output(&mut self, stream: Stream, bytes: Vec<u8>);

    /// Adds input to the (empty) buffer, at most [`INPUT_CHUNK`] bytes.
    fn input(&mut self, buffer: &mut Vec<u8>) -> Supply;
}

/// What [`Ports::input`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Supply {
    /// Something is in the buffer.
    Bytes,
    /// A secret is in the buffer, which is to be wiped after use.
    Secret,
    /// Nothing now; the owner will be woken when that changes.
    Nothing,
    /// There will be nothing any more.
    End,
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Exit {
    /// By itself, with this status.
    Status(i32),
    /// By this signal (its name without SIG).
    Signal(String),
}

/// How far a process is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd)]
enum Stage {
    /// Waiting for a channel.
    #[default]
    Opening,
    /// There is a channel, and nothing to start on it yet.
    Idle,
    /// Waiting for a pseudo-terminal.
    AskingForTerminal,
    /// There is a terminal, if there is to be one.
    Prepared,
    /// Waiting for the command to be accepted.
    Starting,
    /// Running, with output open.
    Running,
    /// All output has come; the process may still run, and read.
    Closing,
    /// It has ended; our side of the channel is being closed.
    Leaving,
    /// Over.
    Ended,
}

/// What became of a step.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Step {
    /// Something moved, so that another step may be worth while at once.
    pub(crate) progress: bool,
    /// Something came from the host.
    pub(crate) heard: bool,
    /// Something waits for the socket to take data.
    pub(crate) writing: bool,
}

impl Step {
    /// Takes in what another process has done in the same turn.
    pub(crate) fn add(&mut self, other: Self) {
        self.progress |= other.progress;
        self.heard |= other.heard;
        self.writing |= other.writing;
    }
}

/// A remote process.
#[derive(Default)]
pub(crate) struct Process {
    channel: Option<Channel>,
    request: Option<Request>,
    /// The request is not to be made (yet).
    held: bool,
    stage: Stage,
    input: Input,
    /// Output that was queued after the last step, in bytes.
    left: u32,
    /// The host has closed the channel: all that it had to say is here.
    closed: bool,
    exit: Option<Exit>,
}

/// Input on its way.
#[derive(Default)]
struct Input {
    buffer: Vec<u8>,
    sent: usize,
    /// Of all that was ever in the buffer.
    taken: u64,
    /// The length of the write that has to be repeated as it was.
    repeat: Option<usize>,
    /// The buffer holds a secret and is wiped after use.
    is_secret: bool,
    /// Nothing will be added.
    ended: bool,
    /// The other side knows that.
    closed: bool,
    /// The last byte was no newline.
    in_line: bool,
}

impl Process {
    /// What to start, as soon as there is a channel.
    pub(crate) fn start(&mut self, request: Request) {
        self.request = Some(request);
    }

    /// From now on nothing is started that the host has not been asked to start
    /// already; or, after that, it is.
    pub(crate) fn hold(&mut self, held: bool) {
        self.held = held;
    }

    /// Whether the host has accepted the command.
    #[must_use]
    pub(crate) fn has_started(&self) -> bool {
        self.stage >= Stage::Running
    }

    /// How many bytes of input the connection has taken.
    #[must_use]
    pub(crate) fn taken(&self) -> u64 {
        self.input.taken
    }

    /// How many bytes more it lets us send. That grows only when it has read
    /// some, also when all has been sent.
    #[must_use]
    pub(crate) fn window(&self) -> u32 {
        let channel = self.channel.as_ref();
        channel.map_or(0, |channel| channel.write_window().remaining)
    }

    /// Whether all input so far is on its way.
    #[must_use]
    pub(crate) fn is_flushed(&self) -> bool {
        self.input.sent == self.input.buffer.len()
    }

    /// How it ended, once that is known.
    #[must_use]
    pub(crate) fn exit(&self) -> Option<&Exit> {
        self.exit.as_ref()
    }

    /// Whether nothing is left to be done for it.
    #[must_use]
    pub(crate) fn is_over(&self) -> bool {
        self.stage == Stage::Ended
    }

    /// Whether the host has closed the channel. Output may still wait in the queue.
    #[must_use]
    pub(crate) fn is_all_here(&self) -> bool {
        self.closed
    }

    /// Gets a channel for it, and keeps the connection's queue empty until there
    /// is something to start.
    ///
    /// # Errors
    /// The connection is lost, or the host gives no channel.
    pub(crate) fn idle(&mut self, session: &Session) -> Result<Step, SessionError> {
        let before = self.stage;
        if self.stage == Stage::Opening {
            self.advance(session)?;
        } else {
            self.drain(session)?;
        }
        if self.closed {
            return Err(SessionError::Lost("the host closed the session".into()));
        }
        let moved = self.stage != before;
        Ok(Step {
            progress: moved,
            heard: moved,
            writing: false,
        })
    }

    /// Does what can be done without waiting.
    ///
    /// When the connection is lost, what came before is still handed out, and
    /// the error comes after that.
    ///
    /// # Errors
    /// The connection is lost, or the host refuses to start the process.
    pub(crate) fn step(
        &mut self,
        session: &mut Session,
        ports: &mut impl Ports,
    ) -> Result<Step, SessionError> {
        let was_lost = session.lost().cloned();
        let result = self.try_step(session, ports);
        match (result, was_lost) {
            (Err(SessionError::Lost(reason)), None) if self.has_started() => {
                if session.retire(&reason) {
                    Ok(Step {
                        progress: true,
                        ..Step::default()
                    })
                } else {
                    Err(SessionError::Lost(reason))
                }
            }
            (result, None) => result,
            // The rest waits until there is credit for it.
            (Ok(step), Some(_)) if step.progress || (self.left > 0 && ports.room() == 0) => {
                Ok(step)
            }
            (_, Some(reason)) => Err(SessionError::Lost(reason)),
        }
    }

    fn try_step(
        &mut self,
        session: &Session,
        ports: &mut impl Ports,
    ) -> Result<Step, SessionError> {
        let mut step = Step::default();
        let before = self.stage;
        match self.stage {
            Stage::Opening
            | Stage::Idle
            | Stage::AskingForTerminal
            | Stage::Prepared
            | Stage::Starting => self.advance(session)?,
            Stage::Running => {
                self.receive(session, ports, &mut step)?;
                self.send(session, ports, &mut step)?;
            }
            Stage::Closing => {
                self.send(session, ports, &mut step)?;
                self.await_close()?;
            }
            Stage::Leaving => self.leave(session, &mut step)?,
            Stage::Ended => {}
        }
        if self.stage != before {
            step.progress = true;
            step.heard = true;
        }
        Ok(step)
    }

    /// One step on the way to a running process.
    fn advance(&mut self, session: &Session) -> Result<(), SessionError> {
        let (result, next, refusal) = match (&mut self.channel, &self.request) {
            (None, _) => {
                let opened = session
                    .inner()
                    .channel_open("session", WINDOW, PACKET, None);
                (
                    opened.map(|channel| self.channel = Some(channel)),
                    Stage::Idle,
                    "the host allows no (further) session (MaxSessions in its sshd_config?)",
                )
            }
            (Some(_), None) => return Ok(()),
            (Some(channel), Some(request)) => match (&request.terminal, self.stage) {
                (Some((kind, size)), Stage::Idle | Stage::AskingForTerminal) => {
                    self.stage = Stage::AskingForTerminal;
                    let size = (size.columns.into(), size.rows.into(), 0, 0);
                    (
                        channel.request_pty(kind, None::<PtyModes>, Some(size)),
                        Stage::Prepared,
                        "the host gives no pseudo-terminal (PermitTTY in its sshd_config?)",
                    )
                }
                _ if self.held && self.stage != Stage::Starting => return Ok(()),
                _ => {
                    self.stage = Stage::Starting;
                    (
                        channel.exec(&request.command),
                        Stage::Running,
                        "the host does not start commands",
                    )
                }
            },
        };
        match result {
            Ok(()) => {
                self.stage = next;
                Ok(())
            }
            Err(error) if is_again(&error) => Ok(()),
            Err(error) if is_denial(&error) => Err(SessionError::Refused(refusal.into())),
            Err(error) => Err(match classify(&error) {
                SessionError::Refused(reason) => {
                    SessionError::Refused(Tree::new(refusal).because(reason))
                }
                other => other,
            }),
        }
    }

    /// Takes what the socket has into libssh2's queue, which the window bounds;
    /// also when nobody wants output now, or what keeps the connection alive
    /// would stay unread behind it. Once per turn, for all channels: each time
    /// costs a system call at least.
    fn drain(&mut self, session: &Session) -> Result<(), SessionError> {
        let Some(channel) = self.channel.as_mut().filter(|_| !self.closed) else {
            return Ok(());
        };
        // Behind the end of file the first of these reads nothing any more, and
        // what the socket then has would wake us again and again. (Before that,
        // the second one only says so.)
        let result = match session.is_drained() {
            true => Ok(()),
            false => channel.wait_eof(),
        };
        session.set_drained(true);
        match result.and_then(|()| channel.wait_close()) {
            Ok(()) => {
                self.closed = true;
                Ok(())
            }
            Err(error) if is_again(&error) || is_too_early(&error) => Ok(()),
            Err(error) => Err(classify(&error)),
        }
    }

    /// Whether something has come for it since its last step, taken from the
    /// socket by another process of the same session.
    #[must_use]
    pub(crate) fn has_news(&self) -> bool {
        let Some(channel) = self.channel.as_ref() else {
            return false;
        };
        self.stage == Stage::Running && (channel.read_window().available > 0 || channel.eof())
    }

    fn receive(
        &mut self,
        session: &Session,
        ports: &mut impl Ports,
        step: &mut Step,
    ) -> Result<(), SessionError> {
        self.drain(session)?;
        for (id, stream) in [(0, Stream::Stdout), (1, Stream::Stderr)] {
            // One piece in a step: under a flood the owner would never get to see its
            // deadlines and its orders.
            let most = ports.room().min(OUTPUT_CHUNK);
            let (bytes, result) = self.read(id, most, session);
            if !bytes.is_empty() {
                ports.output(stream, bytes);
                step.progress = true;
                step.heard = true;
            }
            result?;
        }
        let Some(channel) = &mut self.channel else {
            return Ok(());
        };
        // A read takes in what the socket has, for the other stream too. What did
        // not change since the last step nobody can read.
        let left = channel.read_window().available;
        step.progress |= left > 0 && left != self.left && ports.room() > 0;
        self.left = left;
        if session.is_blocked_outbound() && ports.room() == 0 {
            // A read may have begun to send a window adjustment. Only a read of
            // the same channel can finish it, and until then nothing else can be
            // sent: one byte beyond what we want is the price.
            let mut byte = vec![0; 1];
            match channel.stream(0).read(&mut byte) {
                Ok(1) => ports.output(Stream::Stdout, byte),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(io_error(&error, session)),
            }
        }
        // True only when nothing is queued any more (libssh2 looks). What is still
        // queued behind the end, and is on neither stream, nobody will read.
        if channel.eof() || (self.closed && !step.progress && ports.room() > 0) {
            self.stage = Stage::Closing;
        }
        Ok(())
    }

    /// Reads up to `most` bytes of a stream. While more is coming it is put
    /// together: to hand something over wakes another thread, and under a flood of
    /// output that would cost more than all else that is ours.
    fn read(
        &mut self,
        id: i32,
        most: usize,
        session: &Session,
    ) -> (Vec<u8>, Result<(), SessionError>) {
        let mut bytes = Vec::new();
        let result = loop {
            let Some(channel) = &mut self.channel else {
                break Ok(());
            };
            let length = bytes.len();
            let available = channel.read_window().available as usize;
            let wanted = available.min(most - length);
            if wanted == 0 {
                break Ok(());
            }
            if bytes.is_empty() {
                let is_flood = wanted >= MUCH;
                bytes.reserve_exact(if is_flood { most } else { wanted });
            }
            bytes.resize(length + wanted, 0);
            let read = channel.stream(id).read(&mut bytes[length..]);
            bytes.truncate(length + *read.as_ref().unwrap_or(&0));
            match read {
                Ok(0) => break Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break Ok(()),
                Err(error) => break Err(io_error(&error, session)),
            }
            if length + wanted < most {
                session.set_drained(false);
                if let Err(error) = self.drain(session) {
                    break Err(error);
                }
            }
        };
        if bytes.len() < bytes.capacity() / 2 {
            bytes.shrink_to_fit();
        }
        (bytes, result)
    }

    /// Sends input while the host takes some, and then the end of it.
    fn send(
        &mut self,
        session: &Session,
        ports: &mut impl Ports,
        step: &mut Step,
    ) -> Result<(), SessionError> {
        let Some(channel) = &mut self.channel else {
            return Ok(());
        };
        let request = self.request.as_ref();
        let has_terminal = request.is_some_and(|request| request.terminal.is_some());
        let input = &mut self.input;
        if input.closed || (session.lost().is_some() && input.repeat.is_none()) {
            return Ok(());
        }
        if input.sent == input.buffer.len() && !input.ended && !input.refill(ports, has_terminal) {
            return Ok(());
        }
        if input.sent < input.buffer.len() {
            return input.write(channel, session, step);
        }
        if input.ended && !has_terminal {
            // Built on libssh2's stack, so not to be begun when it may not fit.
            if session.is_blocked_outbound() || !session.is_writable() {
                step.writing = true;
                return Ok(());
            }
            match channel.send_eof() {
                Ok(()) => {
                    input.closed = true;
                    step.progress = true;
                }
                Err(error) if is_again(&error) => step.writing = true,
                Err(error) => return Err(classify(&error)),
            }
        }
        Ok(())
    }

    /// Waits for the end of the process itself: it may have closed its outputs
    /// and gone on.
    fn await_close(&mut self) -> Result<(), SessionError> {
        let Some(channel) = &mut self.channel else {
            return Ok(());
        };
        match channel.wait_close() {
            Ok(()) => {}
            Err(error) if is_again(&error) => return Ok(()),
            Err(error) => return Err(classify(&error)),
        }
        let signal = channel
            .exit_signal()
            .ok()
            .and_then(|signal| signal.exit_signal);
        self.exit = Some(match signal {
            Some(name) => Exit::Signal(name),
            None => Exit::Status(channel.exit_status().map_err(|error| classify(&error))?),
        });
        self.closed = true;
        self.stage = Stage::Leaving;
        Ok(())
    }

    fn leave(&mut self, session: &Session, step: &mut Step) -> Result<(), SessionError> {
        let Some(channel) = &mut self.channel else {
            return Ok(());
        };
        let input = &mut self.input;
        if let Some(length) = input.repeat.filter(|_| session.is_blocked_outbound()) {
            // A packet is half on its way. The process will never read it, but
            // nothing else can be sent before it.
            let chunk = &input.buffer[input.sent..input.sent + length];
            match channel.write(chunk) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    step.writing = true;
                    return Ok(());
                }
                _ => input.repeat = None,
            }
        }
        if !session.is_writable() {
            step.writing = true;
            return Ok(());
        }
        match channel.close() {
            Ok(()) => {}
            Err(error) if is_again(&error) => {
                step.writing = session.is_blocked_outbound();
                return Ok(());
            }
            // The process has ended, and that is what counts.
            Err(_) => {}
        }
        self.stage = Stage::Ended;
        Ok(())
    }
}

impl Input {
    /// Takes the next piece from the ports. False if there is none yet.
    fn refill(&mut self, ports: &mut impl Ports, has_terminal: bool) -> bool {
        if std::mem::take(&mut self.is_secret) {
            self.buffer.zeroize();
        }
        self.buffer.clear();
        self.sent = 0;
        let supply = ports.input(&mut self.buffer);
        match supply {
            Supply::Nothing => return false,
            Supply::Bytes | Supply::Secret => {
                self.is_secret = supply == Supply::Secret;
                self.in_line = !self.buffer.ends_with(b"\n");
            }
            Supply::End => {
                self.ended = true;
                if has_terminal {
                    // A terminal's end of file is typed: once, or twice behind an
                    // unfinished line.
                    let times = if self.in_line { 2 } else { 1 };
                    self.buffer.extend([END_OF_TRANSMISSION].repeat(times));
                }
            }
        }
        true
    }

    /// Sends the next packet, or the one that is half sent.
    fn write(
        &mut self,
        channel: &mut Channel,
        session: &Session,
        step: &mut Step,
    ) -> Result<(), SessionError> {
        let length = self
            .repeat
            .unwrap_or(self.buffer.len() - self.sent)
            .min(INPUT_CHUNK);
        let chunk = &self.buffer[self.sent..self.sent + length];
        match channel.write(chunk) {
            Ok(0) => {}
            Ok(written) => {
                let written = written.min(length);
                self.sent += written;
                self.taken += written as u64;
                self.repeat = None;
                step.progress = true;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.repeat = Some(length);
                step.writing = session.is_blocked_outbound();
            }
            Err(error) => return Err(io_error(&error, session)),
        }
        Ok(())
    }
}

/// libssh2's errors come as I/O errors from reads and writes, without their numbers.
fn io_error(error: &io::Error, session: &Session) -> SessionError {
    match ssh2::Error::last_session_error(session.inner()) {
        Some(error) => classify(&error),
        None => SessionError::Lost(error.to_string().to_lowercase().into()),
    }
}
