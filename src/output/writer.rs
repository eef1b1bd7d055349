//! Rendered bytes, and the way they are written.
//!
//! A display that keeps nothing writes in the printer thread: the printer then waits
//! for the reader of our stdout, and through their credit so do the hosts. A display
//! that keeps output must go on keeping it meanwhile, so one more thread writes for
//! it, one buffer at a time.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};

use crate::event::Stream;
use crate::output::credit::Loan;
use crate::output::message::Progress;
use crate::output::screen::Screen;

/// The printer writes once this many bytes are buffered.
pub(crate) const FULL: usize = 64 * 1024;

/// How long a piece of a message waits for the writer thread. A reader that is slow for a
/// moment costs no memory so. One that has stopped holds up the printer once: the other
/// pieces of the message do not wait.
const PATIENCE: Duration = Duration::from_millis(200);

/// Bytes for both descriptors.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    /// For file descriptor 1.
    pub(crate) stdout: Vec<u8>,
    /// For file descriptor 2.
    pub(crate) stderr: Vec<u8>,
}

/// Buffers for stdout and stderr, and what writes them.
pub(crate) struct Writer {
    /// For file descriptor 1.
    pub(crate) stdout: Vec<u8>,
    /// For file descriptor 2.
    pub(crate) stderr: Vec<u8>,
    /// Both descriptors are one file, so all bytes go into `stdout`, in order.
    is_one_file: bool,
    target: Target,
}

enum Target {
    /// The bytes stay in the buffers.
    Memory,
    /// The calling thread writes.
    Screen(Box<Screen>),
    /// The writer thread writes.
    Thread(WriterThread),
}

/// The printer's end of the writer thread.
struct WriterThread {
    jobs: Sender<Job>,
    /// Answers each [`Job::Write`] and [`Job::HideBar`] with empty buffers.
    done: Receiver<Buffers>,
    is_busy: bool,
    spare: Buffers,
    /// How long the next piece of this message waits.
    patience: Duration,
}

/// What the writer thread is told.
enum Job {
    Write(Buffers, Vec<Loan>),
    HideBar,
    Progress(Progress),
}

impl Writer {
    /// A writer that leaves all bytes in its buffers.
    #[must_use]
    pub(crate) fn in_memory() -> Self {
        Self::new(false, Target::Memory)
    }

    /// A writer that writes in the calling thread.
    #[must_use]
    pub(crate) fn direct(screen: Screen) -> Self {
        Self::new(screen.is_one_file(), Target::Screen(Box::new(screen)))
    }

    /// A writer with a thread of its own. The thread ends with the writer.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub(crate) fn threaded(screen: Screen) -> io::Result<Self> {
        let is_one_file = screen.is_one_file();
        let thread = WriterThread::start(screen)?;
        Ok(Self::new(is_one_file, Target::Thread(thread)))
    }

    fn new(is_one_file: bool, target: Target) -> Self {
        Self {
            stdout: Vec::new(),
            stderr: Vec::new(),
            is_one_file,
            target,
        }
    }

    /// The buffer of a stream.
    pub(crate) fn buffer(&mut self, stream: Stream) -> &mut Vec<u8> {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }

    /// Whether [`FULL`] bytes are buffered.
    #[must_use]
    pub(crate) fn is_full(&self) -> bool {
        self.stdout.len() + self.stderr.len() >= FULL
    }

    /// Moves stderr behind stdout where both are one file. To be called after each
    /// message, so that their order stays.
    pub(crate) fn join(&mut self) {
        if self.is_one_file && !self.stderr.is_empty() {
            self.stdout.append(&mut self.stderr);
        }
    }

    /// Writes a part of a long line if the buffers are full.
    pub(crate) fn flush_if_full(&mut self) {
        if self.is_full() {
            self.flush_now();
        }
    }

    /// Writes the buffers in the middle of a message. If the writer thread is busy for
    /// longer than a moment, they stay and grow: the printer must not wait for a reader.
    pub(crate) fn flush_now(&mut self) {
        self.join();
        if let Target::Thread(thread) = &mut self.target {
            thread.wait_patiently();
        }
        if !self.is_busy() {
            self.write_piece(Vec::new());
        }
    }

    /// Writes the buffers after a message, or has the idle writer thread do it, and
    /// returns the loans afterwards.
    pub(crate) fn write(&mut self, loans: Vec<Loan>) {
        if let Target::Thread(thread) = &mut self.target {
            thread.patience = PATIENCE;
        }
        self.write_piece(loans);
    }

    fn write_piece(&mut self, loans: Vec<Loan>) {
        match &mut self.target {
            Target::Memory => {}
            Target::Screen(screen) => screen.write(&mut self.stdout, &mut self.stderr),
            Target::Thread(_) if self.stdout.is_empty() && self.stderr.is_empty() => {}
            Target::Thread(thread) => {
                let mut buffers = std::mem::take(&mut thread.spare);
                std::mem::swap(&mut buffers.stdout, &mut self.stdout);
                std::mem::swap(&mut buffers.stderr, &mut self.stderr);
                thread.order(Job::Write(buffers, loans));
                return;
            }
        }
        drop(loans);
    }

    /// Whether the writer thread is writing.
    #[must_use]
    pub(crate) fn is_busy(&self) -> bool {
        matches!(&self.target, Target::Thread(thread) if thread.is_busy)
    }

    /// Waits until the writer thread is idle.
    pub(crate) fn wait(&mut self) {
        if let Target::Thread(thread) = &mut self.target {
            thread.wait();
        }
    }

    /// Receives when the writer thread is done. None if it is idle, or if there is none.
    /// What comes goes to [`Writer::note_done`].
    #[must_use]
    pub(crate) fn done(&self) -> Option<Receiver<Buffers>> {
        match &self.target {
            Target::Thread(thread) if thread.is_busy => Some(thread.done.clone()),
            _ => None,
        }
    }

    /// Takes back the buffers of the writer thread, which is idle now.
    pub(crate) fn note_done(&mut self, buffers: Buffers) {
        if let Target::Thread(thread) = &mut self.target {
            thread.take_back(buffers);
        }
    }

    /// Updates the status bar.
    pub(crate) fn progress(&mut self, progress: Progress) {
        match &mut self.target {
            Target::Memory => {}
            Target::Screen(screen) => screen.progress(progress),
            Target::Thread(thread) => {
                // It ends only after this thread.
                let _ = thread.jobs.send(Job::Progress(progress));
            }
        }
    }

    /// Removes the status bar until the next progress. Returns when that is done.
    pub(crate) fn hide_bar(&mut self) {
        match &mut self.target {
            Target::Memory => {}
            Target::Screen(screen) => screen.hide_bar(),
            Target::Thread(thread) => {
                thread.wait();
                thread.order(Job::HideBar);
                thread.wait();
            }
        }
    }

    /// When [`Writer::tick`] is to be called. The writer thread keeps its own time.
    #[must_use]
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match &self.target {
            Target::Screen(screen) => screen.deadline(),
            Target::Memory | Target::Thread(_) => None,
        }
    }

    /// Draws the status bar if it is due.
    pub(crate) fn tick(&mut self) {
        if let Target::Screen(screen) = &mut self.target {
            screen.tick();
        }
    }
}

impl WriterThread {
    fn start(mut screen: Screen) -> io::Result<Self> {
        // Unbounded: one job that is answered at a time, and progress, which is rare.
        let (jobs, orders) = unbounded();
        let (finished, done) = bounded(1);
        thread::Builder::new()
            .name("writer".into())
            .spawn(move || run(&mut screen, &orders, &finished))?;
        Ok(Self {
            jobs,
            done,
            is_busy: false,
            spare: Buffers::default(),
            patience: PATIENCE,
        })
    }

    /// Sends a job that is answered.
    fn order(&mut self, job: Job) {
        self.is_busy = self.jobs.send(job).is_ok();
    }

    fn wait(&mut self) {
        if self.is_busy {
            let buffers = self.done.recv().unwrap_or_default();
            self.take_back(buffers);
        }
    }

    fn wait_patiently(&mut self) {
        if self.is_busy {
            match self.done.recv_timeout(self.patience) {
                Ok(buffers) => self.take_back(buffers),
                Err(_) => self.patience = Duration::ZERO,
            }
        }
    }

    /// The thread has written these, and is idle. What a long line has made large goes
    /// back to the system.
    fn take_back(&mut self, mut buffers: Buffers) {
        buffers.stdout.shrink_to(2 * FULL);
        buffers.stderr.shrink_to(2 * FULL);
        self.is_busy = false;
        self.spare = buffers;
    }
}

/// The writer thread.
fn run(screen: &mut Screen, jobs: &Receiver<Job>, finished: &Sender<Buffers>) {
    loop {
        let job = match screen.deadline() {
            None => jobs.recv().map_err(RecvTimeoutError::from),
            Some(deadline) => jobs.recv_deadline(deadline),
        };
        let buffers = match job {
            Ok(Job::Write(mut buffers, loans)) => {
                screen.write(&mut buffers.stdout, &mut buffers.stderr);
                drop(loans);
                buffers
            }
            Ok(Job::HideBar) => {
                screen.hide_bar();
                Buffers::default()
            }
            Ok(Job::Progress(progress)) => {
                screen.progress(progress);
                continue;
            }
            Err(RecvTimeoutError::Timeout) => {
                screen.tick();
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => return,
        };
        if finished.send(buffers).is_err() {
            return;
        }
    }
}
