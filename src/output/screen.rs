//! The two file descriptors, and the status bar below what is written to them.
//!
//! Output and bar never mix: the bar is taken away before anything is written,
//! and put back afterwards, both in the same write(2) where that is possible. The
//! cursor waits at its beginning, so that whatever else comes onto the terminal
//! (an echoed ^C, a narrower window that wraps it) is taken away with it.
//!
//! What goes into a pipe may end up on the same terminal (`| grep`), and nobody
//! knows when. So there is no bar any more once something has gone there.

use std::os::fd::BorrowedFd;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::FileType;
use rustix::io::Errno;

use crate::output::printer::OutputError;
use crate::output::status::StatusBar;
use crate::output::{Progress, Sinks};

/// What a buffer may keep for the next time. Only very long lines that cannot be
/// written in parts need more.
const KEPT: usize = 256 * 1024;

/// To the first column, and nothing from there on.
const ERASE: &[u8] = b"\r\x1b[J";

/// The bar is not drawn more often.
const INTERVAL: Duration = Duration::from_millis(50);

/// A run that is over sooner has none: it would only flicker.
const PATIENCE: Duration = Duration::from_millis(150);

/// It has a clock, which goes on also when nothing happens.
const TICK: Duration = Duration::from_secs(1);

/// How long the end of the process waits for a bar that is just being drawn.
const MOVING: Duration = Duration::from_millis(100);

/// What a terminal is taken to have that does not say.
const COLUMNS: usize = 80;

/// Writes to stdout and stderr.
pub struct Screen {
    /// Stdout and stderr are the same file: everything goes through one of
    /// them, in order.
    one_file: bool,
    stdout_is_terminal: bool,
    /// Who reads stdout may write to the terminal.
    stdout_has_reader: bool,
    bar: Option<Bar>,
    /// Part of a long line has been written to the terminal, and more is to come.
    is_in_line: bool,
    broken: bool,
    is_stderr_broken: bool,
    problems: Sender<OutputError>,
}

/// The status bar on the terminal.
struct Bar {
    status: StatusBar,
    standing: Arc<Standing>,
    /// There is one, or has been until a moment ago: what stands on its line is
    /// taken away before anything is written.
    is_active: bool,
    /// When it was drawn last.
    drawn: Option<Instant>,
    /// When it is to be drawn next.
    due: Option<Instant>,
    frame: Vec<u8>,
}

impl Screen {
    /// For this process's stdout and stderr. Without a bar there is none.
    #[must_use]
    pub fn new(
        stdout_is_terminal: bool,
        bar: Option<(StatusBar, Arc<Standing>)>,
        problems: Sender<OutputError>,
    ) -> Self {
        Self {
            one_file: is_one_file(),
            stdout_is_terminal,
            stdout_has_reader: has_reader(),
            bar: bar.map(|(status, standing)| Bar {
                status,
                standing,
                is_active: false,
                drawn: None,
                due: None,
                frame: Vec::new(),
            }),
            is_in_line: false,
            broken: false,
            is_stderr_broken: false,
            problems,
        }
    }

    /// Whether all goes to one place.
    #[must_use]
    pub fn is_one_file(&self) -> bool {
        self.one_file
    }

    /// Writes everything, and empties the sinks.
    pub fn write(&mut self, sinks: &mut Sinks) {
        if self.stdout_has_reader && !sinks.stdout.is_empty() {
            self.hide_bar();
            self.bar = None;
        }
        let touches_bar =
            !sinks.stderr.is_empty() || (self.stdout_is_terminal && !sinks.stdout.is_empty());
        if let Some(bar) = &mut self.bar
            && bar.is_active
            && !is_ours()
        {
            bar.abandon();
        }
        if touches_bar {
            let ends = |bytes: &[u8]| bytes.last().is_none_or(|&last| last == b'\n');
            let shows_end = !self.stdout_is_terminal || ends(&sinks.stdout);
            self.is_in_line = !(shows_end && ends(&sinks.stderr));
            if self.bar.as_ref().is_some_and(|bar| bar.is_active) {
                self.write_above_bar(sinks);
            }
        }
        // First, for the other one is more likely to be read slowly.
        if !sinks.stderr.is_empty() {
            if let Err(error) = write_all(rustix::stdio::stderr(), &sinks.stderr)
                && !is_gone(error)
                && !std::mem::replace(&mut self.is_stderr_broken, true)
            {
                // There is no place left to say it, but an exit status for it.
                let _ = self.problems.send(OutputError::Failed(error.into()));
            }
            recycle(&mut sinks.stderr);
        }
        if !sinks.stdout.is_empty() {
            if !self.broken
                && let Err(error) = write_all(rustix::stdio::stdout(), &sinks.stdout)
            {
                self.broken = true;
                // Main hears of it once; what it does then is its business.
                let _ = self.problems.send(match error {
                    Errno::PIPE => OutputError::Closed,
                    other => OutputError::Failed(other.into()),
                });
            }
            recycle(&mut sinks.stdout);
        }
    }

    /// Takes the bar away in one go with what comes in its place on the
    /// terminal, and lets it be drawn again.
    fn write_above_bar(&mut self, sinks: &mut Sinks) {
        let Some(bar) = &mut self.bar else { return };
        let now = Instant::now();
        let is_due = bar.drawn.is_none_or(|drawn| now >= drawn + INTERVAL);
        if self.one_file && sinks.stderr.is_empty() && is_due && !self.is_in_line {
            let shown = std::mem::take(&mut sinks.stdout);
            bar.draw(&shown, now);
            sinks.stdout = shown;
            recycle(&mut sinks.stdout);
            return;
        }
        let shown = std::mem::take(&mut sinks.stderr);
        // What comes next belongs to the same line, and must not erase it.
        bar.is_active = !self.is_in_line;
        bar.take_away(&shown);
        sinks.stderr = shown;
        recycle(&mut sinks.stderr);
        bar.due = Some(bar.drawn.map_or(now, |drawn| drawn + INTERVAL));
    }

    /// The run has got on.
    pub fn progress(&mut self, progress: Progress) {
        let Some(bar) = &mut self.bar else { return };
        let now = Instant::now();
        bar.status.update(progress, now);
        let soon = bar
            .drawn
            .map_or(now + PATIENCE, |drawn| now.max(drawn + INTERVAL));
        bar.due = Some(bar.due.map_or(soon, |due| due.min(soon)));
        self.tick();
    }

    /// When to call [`Screen::tick`], if nothing is written before.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let bar = self.bar.as_ref().filter(|_| !self.is_in_line);
        bar.and_then(|bar| bar.due)
    }

    /// Draws the bar if its time has come.
    pub fn tick(&mut self) {
        let now = Instant::now();
        if let Some(bar) = &mut self.bar
            && !self.is_in_line
            && bar.due.is_some_and(|due| now >= due)
        {
            bar.draw(&[], now);
        }
    }

    /// Takes the bar away until the run gets on again.
    pub fn hide_bar(&mut self) {
        if let Some(bar) = &mut self.bar {
            bar.status.forget();
            bar.due = None;
            if std::mem::take(&mut bar.is_active) {
                bar.take_away(&[]);
            }
        }
    }
}

impl Bar {
    /// Writes what stands above the bar, and the bar.
    fn draw(&mut self, above: &[u8], now: Instant) {
        let columns = rustix::termios::tcgetwinsize(rustix::stdio::stderr())
            .map_or(0, |size| usize::from(size.ws_col));
        let columns = if columns == 0 { COLUMNS } else { columns };
        self.due = Some(now + TICK);
        if !is_ours() {
            // Somebody else has the terminal, who writes and types there.
            self.abandon();
            let _ = write_all(rustix::stdio::stderr(), above);
            return;
        }
        let Some(line) = self.status.line(columns, now) else {
            // There is no room for any.
            return self.take_away(above);
        };
        if !self.standing.begin() {
            // The process is about to end, and has taken the bar away.
            self.is_active = false;
            let _ = write_all(rustix::stdio::stderr(), above);
            return;
        }
        self.frame.clear();
        if self.is_active {
            self.frame.extend_from_slice(ERASE);
        }
        self.frame.extend_from_slice(above);
        self.frame.extend_from_slice(line.as_bytes());
        self.frame.push(b'\r');
        // There is no place left to say that this failed.
        let _ = write_all(rustix::stdio::stderr(), &self.frame);
        recycle(&mut self.frame);
        self.is_active = true;
        self.drawn = Some(now);
        self.standing.end(true);
    }

    /// What stands on its line is none of its business any more.
    fn abandon(&mut self) {
        self.is_active = false;
        if self.standing.begin() {
            self.standing.end(false);
        }
    }

    /// Takes the bar away, and writes what comes in its place.
    fn take_away(&mut self, instead: &[u8]) {
        self.frame.clear();
        let may_draw = self.standing.begin();
        if may_draw {
            self.frame.extend_from_slice(ERASE);
        }
        self.frame.extend_from_slice(instead);
        let _ = write_all(rustix::stdio::stderr(), &self.frame);
        recycle(&mut self.frame);
        if may_draw {
            self.standing.end(self.is_active);
        }
    }
}

/// Whether there is a bar on the terminal, for those who end the process while
/// the printer is busy.
#[derive(Debug, Default)]
pub struct Standing {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Hidden,
    /// It is being drawn or taken away.
    Moving,
    /// It is there, or was a moment ago and will be soon.
    Active,
    /// The process is being stopped: there is none until it goes on.
    Paused,
    /// There shall not be one any more.
    Over,
}

impl Standing {
    /// Says that the bar is about to change; it must not if this is false.
    fn begin(&self) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self
            .changed
            .wait_while(state, |state| *state == State::Paused);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        if *state == State::Over {
            return false;
        }
        *state = State::Moving;
        true
    }

    /// The change is done: there is a bar, or may be one soon, or not.
    fn end(&self, is_active: bool) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if *state == State::Moving {
            *state = if is_active {
                State::Active
            } else {
                State::Hidden
            };
        }
        self.changed.notify_all();
    }

    /// Takes the bar away for good.
    pub fn wipe(&self) {
        self.take_away(State::Over);
    }

    /// Takes the bar away until [`Standing::resume`].
    pub fn pause(&self) {
        self.take_away(State::Paused);
    }

    /// There may be a bar again.
    pub fn resume(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if *state == State::Paused {
            *state = State::Hidden;
        }
        self.changed.notify_all();
    }

    fn take_away(&self, until: State) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self
            .changed
            .wait_timeout_while(state, MOVING, |state| *state == State::Moving);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let was_there = matches!(*state, State::Active | State::Moving);
        if *state != State::Over {
            *state = until;
        }
        if was_there && is_ours() {
            write_at_once(ERASE);
        }
        self.changed.notify_all();
    }
}

/// Writes to stderr as far as that takes it without waiting.
pub fn write_at_once(bytes: &[u8]) {
    /// A pipe that poll(2) finds writable takes this much at once (pipe(7)).
    const PIPE_BUF: usize = 4096;
    for piece in bytes.chunks(PIPE_BUF) {
        let stderr = rustix::stdio::stderr();
        let mut fds = [PollFd::from_borrowed_fd(stderr, PollFlags::OUT)];
        let takes_a_piece = matches!(poll(&mut fds, Some(&Timespec::default())), Ok(1));
        if !takes_a_piece || write_all(stderr, piece).is_err() {
            return;
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

/// Whether the terminal that the bar is on is ours to draw on: not while we are a
/// background job. A terminal that has no jobs is.
fn is_ours() -> bool {
    let foreground = rustix::termios::tcgetpgrp(rustix::stdio::stderr());
    foreground.map_or(true, |group| group == rustix::process::getpgrp())
}

/// Whether this says that nobody is there to read stderr: it is closed, its reader has
/// ended, or its terminal has been taken away. That is no reason to end a run.
fn is_gone(error: Errno) -> bool {
    let is_device = || {
        let stat = rustix::fs::fstat(rustix::stdio::stderr());
        stat.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice)
    };
    matches!(error, Errno::PIPE | Errno::BADF) || (error == Errno::IO && is_device())
}

/// Whether stdout is what another program reads from.
fn has_reader() -> bool {
    let stat = rustix::fs::fstat(rustix::stdio::stdout());
    stat.is_ok_and(|stat| {
        let kind = FileType::from_raw_mode(stat.st_mode);
        matches!(kind, FileType::Fifo | FileType::Socket)
    })
}

/// Whether stdout and stderr are the same.
#[must_use]
pub fn is_one_file() -> bool {
    let stat = |fd| rustix::fs::fstat(fd).map(|stat| (stat.st_dev, stat.st_ino));
    match (stat(rustix::stdio::stdout()), stat(rustix::stdio::stderr())) {
        (Ok(stdout), Ok(stderr)) => stdout == stderr,
        _ => false,
    }
}
