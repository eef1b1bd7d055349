//! The two descriptors, and the status bar below what is written to them.
//!
//! Lines and bar go out in one write(2): erase the bar, the lines, the bar again. So
//! a terminal never shows lines without the bar below them. The cursor waits at the
//! bar's first column. Anything else that appears there, such as an echoed ^C or the
//! rest of a bar that a narrower window has wrapped, is erased with the bar.
//!
//! A pipe on stdout may end at the same terminal (`| grep`), at any time. So the bar
//! disappears for good at the first output into a pipe.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use rustix::io::Errno;

use crate::output::bar_state::BarState;
use crate::output::descriptors::{
    ERASE, is_gone, is_in_foreground, is_one_file, stdout_is_pipe, write_all,
};
use crate::output::error::OutputError;
use crate::output::message::Progress;
use crate::output::status::StatusBar;

/// The capacity that an empty buffer may keep. Larger ones come from very long lines.
const KEPT_CAPACITY: usize = 256 * 1024;

/// The text of the bar changes at most once in this time.
const CHANGE_INTERVAL: Duration = Duration::from_millis(50);

/// The bar appears this long after the run began: it would only flicker on a shorter
/// one.
const APPEARS_AFTER: Duration = Duration::from_millis(150);

/// The bar has a clock, so it is drawn this often although nothing happens.
const TICK: Duration = Duration::from_secs(1);

/// How much output stands above one bar. The kernel passes a longer write on to the
/// terminal in pieces, and all but the last would be seen without a bar.
const FRAME: usize = 2 * 1024;

/// The width of a terminal that does not know its own.
const DEFAULT_COLUMNS: usize = 80;

/// Writes to stdout and stderr.
pub(crate) struct Screen {
    is_one_file: bool,
    stdout_is_terminal: bool,
    stdout_is_pipe: bool,
    bar: Option<Bar>,
    /// The last byte on the terminal was not a newline: a part of a long line has been
    /// written.
    is_in_line: bool,
    is_stdout_broken: bool,
    is_stderr_broken: bool,
    problems: Sender<OutputError>,
}

impl Screen {
    /// For this process's stdout and stderr. `problems` is told once of each descriptor
    /// that cannot be written.
    #[must_use]
    pub(crate) fn new(
        stdout_is_terminal: bool,
        bar: Option<(StatusBar, Arc<BarState>)>,
        problems: Sender<OutputError>,
    ) -> Self {
        Self {
            is_one_file: is_one_file(),
            stdout_is_terminal,
            stdout_is_pipe: stdout_is_pipe(),
            bar: bar.map(|(status, state)| Bar::new(status, state)),
            is_in_line: false,
            is_stdout_broken: false,
            is_stderr_broken: false,
            problems,
        }
    }

    /// Whether stdout and stderr are one file.
    #[must_use]
    pub(crate) fn is_one_file(&self) -> bool {
        self.is_one_file
    }

    /// Writes both buffers, and empties them.
    pub(crate) fn write(&mut self, stdout: &mut Vec<u8>, stderr: &mut Vec<u8>) {
        if self.stdout_is_pipe && !stdout.is_empty() {
            self.hide_bar();
            self.bar = None;
        }
        let mut needs_bar_below = false;
        if !stderr.is_empty() || (self.stdout_is_terminal && !stdout.is_empty()) {
            needs_bar_below = self.write_with_bar(stdout, stderr);
        }
        // First, because the reader of stdout is more likely to be slow.
        if !stderr.is_empty() {
            let written = write_all(rustix::stdio::stderr(), stderr);
            self.note_stderr(written);
            recycle(stderr);
        }
        if !stdout.is_empty() {
            if !self.is_stdout_broken {
                let written = write_all(rustix::stdio::stdout(), stdout);
                self.note_stdout(written);
            }
            recycle(stdout);
        }
        if needs_bar_below {
            self.draw_bar(Instant::now());
        }
    }

    /// Writes what goes to the bar's terminal together with the bar, and empties its
    /// buffer. True if stdout is the same terminal by another name: then the caller
    /// writes stdout, and draws the bar below it.
    fn write_with_bar(&mut self, stdout: &mut Vec<u8>, stderr: &mut Vec<u8>) -> bool {
        let ends_line = |bytes: &[u8]| bytes.last().is_none_or(|&last| last == b'\n');
        self.is_in_line = !(ends_line(stderr) && (!self.stdout_is_terminal || ends_line(stdout)));
        let now = Instant::now();
        let Some(bar) = &mut self.bar else {
            return false;
        };
        if bar.is_visible && !is_in_foreground() {
            bar.abandon();
        }
        if !bar.is_visible && !bar.is_due(now) {
            return false;
        }
        let is_one_buffer = self.is_one_file || !self.stdout_is_terminal || stdout.is_empty();
        let shown = if self.is_one_file { stdout } else { stderr };
        let written = if is_one_buffer {
            bar.write_above(shown, now)
        } else {
            bar.erase(shown)
        };
        recycle(shown);
        self.note_stderr(written);
        !is_one_buffer && !self.is_in_line
    }

    /// Updates the bar.
    pub(crate) fn progress(&mut self, progress: Progress) {
        let Some(bar) = &mut self.bar else { return };
        bar.update(progress, Instant::now());
        self.tick();
    }

    /// When [`Screen::tick`] is to be called, if nothing is written before.
    #[must_use]
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let bar = self.bar.as_ref().filter(|_| !self.is_in_line);
        bar.and_then(|bar| bar.due)
    }

    /// Draws the bar if it is due.
    pub(crate) fn tick(&mut self) {
        let now = Instant::now();
        if !self.is_in_line && self.bar.as_ref().is_some_and(|bar| bar.is_due(now)) {
            self.draw_bar(now);
        }
    }

    /// Removes the bar until the next progress.
    pub(crate) fn hide_bar(&mut self) {
        if let Some(bar) = &mut self.bar {
            let written = bar.hide();
            self.note_stderr(written);
        }
    }

    fn draw_bar(&mut self, now: Instant) {
        if let Some(bar) = &mut self.bar {
            let written = bar.draw(&[], now);
            self.note_stderr(written);
        }
    }

    fn note_stdout(&mut self, written: Result<(), Errno>) {
        if let Err(error) = written {
            self.is_stdout_broken = true;
            let _ = self.problems.send(match error {
                Errno::PIPE => OutputError::Closed,
                other => OutputError::Failed(other.into()),
            });
        }
    }

    fn note_stderr(&mut self, written: Result<(), Errno>) {
        if let Err(error) = written
            && !is_gone(error)
            && !std::mem::replace(&mut self.is_stderr_broken, true)
        {
            let _ = self.problems.send(OutputError::Failed(error.into()));
        }
    }
}

/// The status bar on the terminal of stderr.
struct Bar {
    status: StatusBar,
    state: Arc<BarState>,
    /// The bar is on the terminal, so it is erased before anything is written.
    is_visible: bool,
    /// The text of the bar, for a terminal of this width.
    text: String,
    columns: usize,
    /// When the text was made.
    changed: Option<Instant>,
    /// When the bar is to be drawn next.
    due: Option<Instant>,
    frame: Vec<u8>,
}

impl Bar {
    fn new(status: StatusBar, state: Arc<BarState>) -> Self {
        Self {
            status,
            state,
            is_visible: false,
            text: String::new(),
            columns: 0,
            changed: None,
            due: None,
            frame: Vec::new(),
        }
    }

    fn is_due(&self, now: Instant) -> bool {
        self.due.is_some_and(|due| now >= due)
    }

    fn update(&mut self, progress: Progress, now: Instant) {
        self.status.update(progress, now);
        let soon = match self.changed {
            None => now + APPEARS_AFTER,
            Some(changed) => now.max(changed + CHANGE_INTERVAL),
        };
        self.due = Some(self.due.map_or(soon, |due| due.min(soon)));
    }

    fn hide(&mut self) -> Result<(), Errno> {
        self.status.forget();
        self.text.clear();
        self.due = None;
        if self.is_visible {
            return self.erase(&[]);
        }
        Ok(())
    }

    /// Writes lines in frames, each with the bar below it. What follows the last
    /// newline has none below it, since the next bytes belong to its line.
    fn write_above(&mut self, mut bytes: &[u8], now: Instant) -> Result<(), Errno> {
        while !bytes.is_empty() {
            let (frame, rest) = bytes.split_at(frame_end(bytes));
            if frame.ends_with(b"\n") {
                self.draw(frame, now)?;
            } else {
                self.erase(frame)?;
                self.due = Some(now);
            }
            bytes = rest;
        }
        Ok(())
    }

    /// Writes lines, and the bar below them, at once.
    fn draw(&mut self, above: &[u8], now: Instant) -> Result<(), Errno> {
        if !is_in_foreground() {
            self.due = Some(now + TICK);
            self.abandon();
            return write_all(rustix::stdio::stderr(), above);
        }
        self.make_text(now);
        if self.text.is_empty() {
            return self.erase(above);
        }
        if !self.state.begin() {
            self.is_visible = false;
            return write_all(rustix::stdio::stderr(), above);
        }
        self.frame.clear();
        if self.is_visible {
            self.frame.extend_from_slice(ERASE);
        }
        self.frame.extend_from_slice(above);
        self.frame.extend_from_slice(self.text.as_bytes());
        self.frame.push(b'\r');
        let written = write_all(rustix::stdio::stderr(), &self.frame);
        recycle(&mut self.frame);
        self.is_visible = true;
        self.state.end(true);
        written
    }

    /// Makes the text of the bar, unless the last one is recent and fits.
    fn make_text(&mut self, now: Instant) {
        let columns = columns();
        let is_recent = self
            .changed
            .is_some_and(|changed| now < changed + CHANGE_INTERVAL);
        if is_recent && columns == self.columns && !self.text.is_empty() {
            return;
        }
        self.text = self.status.line(columns, now).unwrap_or_default();
        self.columns = columns;
        self.changed = Some(now);
        self.due = Some(now + TICK);
    }

    /// Erases the bar, and writes something in its place.
    fn erase(&mut self, instead: &[u8]) -> Result<(), Errno> {
        let may_erase = self.is_visible && self.state.begin();
        self.is_visible = false;
        self.frame.clear();
        if may_erase {
            self.frame.extend_from_slice(ERASE);
        }
        self.frame.extend_from_slice(instead);
        let written = write_all(rustix::stdio::stderr(), &self.frame);
        recycle(&mut self.frame);
        if may_erase {
            self.state.end(false);
        }
        written
    }

    /// Leaves the bar where it stands: another program has the terminal now.
    fn abandon(&mut self) {
        self.is_visible = false;
        if self.state.begin() {
            self.state.end(false);
        }
    }
}

/// The end of the first frame: as many lines as fit into [`FRAME`] bytes, at least one.
/// All bytes if they hold no newline.
fn frame_end(bytes: &[u8]) -> usize {
    let fitting = &bytes[..bytes.len().min(FRAME)];
    let newline = memchr::memrchr(b'\n', fitting).or_else(|| memchr::memchr(b'\n', bytes));
    newline.map_or(bytes.len(), |at| at + 1)
}

fn columns() -> usize {
    let size = rustix::termios::tcgetwinsize(rustix::stdio::stderr());
    match size.map_or(0, |size| usize::from(size.ws_col)) {
        0 => DEFAULT_COLUMNS,
        columns => columns,
    }
}

/// Empties a buffer, and frees an unusually large one.
fn recycle(buffer: &mut Vec<u8>) {
    buffer.clear();
    buffer.shrink_to(KEPT_CAPACITY);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_as_many_whole_lines_as_fit() {
        assert_eq!(frame_end(b"a\nb\nc"), 4);
        assert_eq!(frame_end(b"abc"), 3);
        let long = [vec![b'x'; FRAME], b"\nshort\n".to_vec()].concat();
        assert_eq!(frame_end(&long), FRAME + 1);
        let lines = b"0123456789abcde\n".repeat(FRAME / 8);
        assert_eq!(frame_end(&lines), FRAME);
    }
}
