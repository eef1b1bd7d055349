//! The printer: the one thread that decides what is written next.
//!
//! It writes when its buffer is full or when nothing else is waiting, so that a
//! flood costs few system calls and a single line is on the screen at once. When
//! whoever reads our stdout is slow, this thread waits, and nobody else does. A
//! display that keeps output does not wait even here: a second thread writes for
//! it, while this one goes on keeping.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{
    Receiver, RecvTimeoutError, Sender, TryRecvError, at, bounded, never, select, unbounded,
};

use crate::error::Tree;
use crate::event::{Level, NodeId, Stream};
use crate::output::backlog::Backlog;
use crate::output::credit::Loan;
use crate::output::files::Files;
use crate::output::screen::{Screen, Standing, write_at_once};
use crate::output::{Fate, Message, Outlet, Progress, Renderer, Sinks};

/// Write when this much has been rendered.
pub const FULL: usize = 64 * 1024;

/// Render no more at once: each byte may be an empty line, and get a long name
/// before it.
const PIECE: usize = 4 * 1024;

/// How long a part of a long line waits until the one before is written.
const MOMENT: Duration = Duration::from_millis(5);

/// Output cannot be written any more.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// Nobody reads it any more (`| head`).
    #[error("nobody reads the output any more")]
    Closed,
    /// Anything else, such as a full disk.
    #[error("can't write the output")]
    Failed(#[source] io::Error),
    /// A file of `--output-dir`.
    #[error("can't write '{}'", .0.display())]
    File(PathBuf, #[source] io::Error),
    /// Kept output fills the memory that it may have, the temporary directory takes
    /// no more, and every host waits for room.
    #[error("the output of the hosts has no room in '{}'", .0.display())]
    NoRoom(PathBuf, #[source] io::Error),
}

/// Starts the printer. It ends when all [`super::Display`]s are gone; who wants
/// to be sure that something is written sends [`Message::Flush`].
///
/// # Errors
/// No thread can be started.
pub fn start(
    renderer: Box<dyn Renderer>,
    screen: Screen,
    files: Option<Files>,
    nodes: usize,
    wants_warnings: bool,
    messages: Receiver<Message>,
    problems: Sender<OutputError>,
) -> io::Result<()> {
    let one_file = screen.is_one_file();
    let way = if renderer.keeps() {
        Way::beside(screen)?
    } else {
        Way::Direct(Box::new(screen))
    };
    let way = Arc::new(Mutex::new(way));
    let sinks = Sinks::with_outlet(outlet(Arc::clone(&way), one_file));
    let mut printer = Printer {
        one_file,
        keeps: renderer.keeps(),
        is_over: false,
        way,
        renderer,
        sinks,
        held: VecDeque::new(),
        loans: Vec::new(),
        backlog: Backlog::new(nodes),
        wants_warnings,
        files,
        problems,
    };
    thread::Builder::new()
        .name("printer".into())
        .spawn(move || printer.run(&messages))
        .map(drop)
}

/// Writes a long line while it is still being rendered. The writer gets a moment for
/// that, but nobody waits for a reader that has stopped.
fn outlet(way: Arc<Mutex<Way>>, one_file: bool) -> Outlet {
    Box::new(move |sinks| {
        sinks.join(one_file);
        let mut way = lock(&way);
        way.wait_a_moment();
        if !way.is_busy() {
            way.submit(sinks, Vec::new());
        }
    })
}

fn lock(way: &Mutex<Way>) -> MutexGuard<'_, Way> {
    way.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Printer {
    renderer: Box<dyn Renderer>,
    sinks: Sinks,
    /// What is to be shown at once, but for which the writer has no time yet.
    held: VecDeque<Held>,
    /// Given back when what they stand for has been written.
    loans: Vec<Loan>,
    /// Not given back until there is room for more.
    backlog: Backlog,
    /// A lack of room is still to be said.
    wants_warnings: bool,
    /// Stdout and stderr are the same file: everything goes through one of
    /// them, in order.
    one_file: bool,
    keeps: bool,
    is_over: bool,
    /// Shared with the outlet of the sinks.
    way: Arc<Mutex<Way>>,
    files: Option<Files>,
    problems: Sender<OutputError>,
}

/// What a node has said that has not been rendered yet.
enum Held {
    Output {
        node: NodeId,
        stream: Stream,
        bytes: Vec<u8>,
        /// How much of it has been rendered.
        done: usize,
        loan: Loan,
    },
    End(NodeId),
}

/// How things get written.
enum Way {
    /// By this thread.
    Direct(Box<Screen>),
    /// By one beside it.
    Beside {
        jobs: Sender<Job>,
        /// What has been written comes back, empty.
        done: Receiver<Sinks>,
        is_busy: bool,
        spare: Sinks,
    },
}

/// What the writing thread is told.
enum Job {
    Write(Sinks, Vec<Loan>),
    Progress(Progress),
    HideBar,
}

impl Printer {
    fn run(&mut self, messages: &Receiver<Message>) {
        loop {
            let message = match messages.try_recv() {
                Ok(message) => Some(message),
                Err(TryRecvError::Empty) => match self.when_nothing_waits(messages) {
                    Ok(message) => message,
                    Err(RecvTimeoutError::Timeout) => None,
                    Err(RecvTimeoutError::Disconnected) => break,
                },
                Err(TryRecvError::Disconnected) => break,
            };
            if let Some(message) = message {
                self.take(message);
            }
            self.go_on();
            self.look_for_room();
        }
        self.show_held();
        self.show_all();
        self.hide_bar();
    }

    /// Renders a piece of what waits here, if the writer has time for it. False if
    /// nothing does.
    fn go_on(&mut self) -> bool {
        if !self.keeps || lock(&self.way).is_busy() {
            return false;
        }
        if let Some(held) = self.held.pop_front() {
            self.render(held);
            return true;
        }
        let has_more = self.renderer.more(&mut self.sinks);
        if has_more {
            self.rendered();
        }
        has_more
    }

    /// Gives credit back to nodes that wait for room, if there is some, and tries to
    /// make some from time to time.
    fn look_for_room(&mut self) {
        if self.backlog.is_empty() {
            return;
        }
        let renderer = &mut self.renderer;
        self.backlog.release(|node| renderer.has_room(node));
        let now = Instant::now();
        if self
            .backlog
            .deadline()
            .is_none_or(|deadline| now < deadline)
        {
            return;
        }
        let Err(error) = renderer.make_room() else {
            return self.backlog.release(|_| true);
        };
        if self.backlog.note_failed_try(now) {
            let problem = OutputError::NoRoom(std::env::temp_dir(), error);
            // Main ends the run.
            let _ = self.problems.send(problem);
        }
    }

    /// Says once that there is no room.
    fn warn_of_lack_of_room(&mut self) {
        let Some(error) = self.renderer.take_problem() else {
            return;
        };
        if std::mem::take(&mut self.wants_warnings) {
            let directory = std::env::temp_dir();
            let text = format!("can't keep output in '{}'", directory.display());
            let advice = "hosts wait until there is room, or until their output is shown; \
                          TMPDIR names another directory";
            let tree = Tree::new(text)
                .because(Tree::from_error(&error))
                .because(advice);
            self.renderer.log(Level::Warn, &tree, &mut self.sinks);
        }
    }

    /// Writes what there is, and waits for more.
    fn when_nothing_waits(
        &mut self,
        messages: &Receiver<Message>,
    ) -> Result<Option<Message>, RecvTimeoutError> {
        if !lock(&self.way).is_busy() {
            if self.go_on() {
                return Ok(None);
            }
            self.submit();
        }
        match &mut *lock(&self.way) {
            Way::Direct(screen) => {
                let message = match screen.deadline() {
                    None => messages.recv().map_err(RecvTimeoutError::from),
                    Some(deadline) => messages.recv_deadline(deadline),
                };
                if matches!(message, Err(RecvTimeoutError::Timeout)) {
                    screen.tick();
                }
                message.map(Some)
            }
            Way::Beside {
                done,
                is_busy,
                spare,
                ..
            } => {
                let alarm = self.backlog.deadline().map_or_else(never, at);
                let idle = never();
                let done = if *is_busy { &*done } else { &idle };
                select! {
                    recv(messages) -> message => {
                        message.map(Some).map_err(RecvTimeoutError::from)
                    }
                    recv(done) -> sinks => {
                        *is_busy = false;
                        *spare = sinks.unwrap_or_default();
                        Ok(None)
                    }
                    recv(alarm) -> _ => Ok(None),
                }
            }
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Output {
                node,
                stream,
                bytes,
                loan,
            } => {
                self.backlog.note_output(node);
                if let Some(files) = &mut self.files
                    && let Err(error) = files.write(node, stream, &bytes)
                {
                    self.files = None;
                    // Main hears of it once.
                    let _ = self.problems.send(error);
                }
                self.hear(Held::Output {
                    node,
                    stream,
                    bytes,
                    done: 0,
                    loan,
                });
            }
            Message::EndOfOutput { node } => {
                self.backlog.note_end(node);
                if let Some(files) = &mut self.files
                    && let Err(error) = files.complete(node)
                {
                    self.files = None;
                    let _ = self.problems.send(error);
                }
                self.hear(Held::End(node));
            }
            Message::Result { node, outcome } => {
                self.backlog.note_end(node);
                self.renderer.result(node, &outcome, &mut self.sinks);
            }
            Message::EndOfRun => {
                self.is_over = true;
                self.backlog.release(|_| true);
                self.hide_bar();
                self.show_held();
                self.renderer.end_of_run(&mut self.sinks);
                self.show_all();
            }
            // An upload that was broken off may not know it yet.
            Message::Progress(_) if self.is_over => {}
            Message::Progress(progress) => lock(&self.way).progress(progress),
            Message::HideBar => self.hide_bar(),
            Message::Log { level, text } => self.renderer.log(level, &text, &mut self.sinks),
            Message::Flush(answer) => {
                self.show_held();
                self.flush();
                // Whoever asked may have stopped waiting.
                let _ = answer.send(());
            }
        }
        self.rendered();
    }

    /// A node has said something: it is kept, or rendered as soon as it can be
    /// written.
    fn hear(&mut self, held: Held) {
        let (Held::Output { node, .. } | Held::End(node)) = held;
        if !self.held.is_empty() && self.renderer.shows_at_once(node) {
            self.held.push_back(held);
        } else {
            self.render(held);
        }
    }

    fn render(&mut self, mut held: Held) {
        let (Held::Output { node, .. } | Held::End(node)) = held;
        let mut fate = Fate::Kept;
        loop {
            if lock(&self.way).is_busy() && self.renderer.shows_at_once(node) {
                return self.held.push_front(held);
            }
            match &mut held {
                Held::Output {
                    stream,
                    bytes,
                    done,
                    ..
                } if *done < bytes.len() => {
                    let piece = &bytes[*done..bytes.len().min(*done + PIECE)];
                    fate = self.renderer.output(node, *stream, piece, &mut self.sinks);
                    *done += piece.len();
                    if *done < bytes.len() {
                        self.rendered();
                    }
                }
                Held::Output { .. } => break,
                Held::End(node) => {
                    self.renderer.end_of_output(*node, &mut self.sinks);
                    break;
                }
            }
        }
        match (held, fate) {
            (Held::Output { loan, .. }, Fate::Shown) => self.loans.push(loan),
            (Held::Output { loan, .. }, Fate::Withheld) => {
                self.backlog.hold(node, loan, Instant::now());
            }
            _ => {}
        }
        self.warn_of_lack_of_room();
        self.rendered();
    }

    /// Has everything rendered that was to be shown at once.
    fn show_held(&mut self) {
        while let Some(held) = self.held.pop_front() {
            lock(&self.way).wait();
            self.render(held);
        }
    }

    /// Something has been rendered, and is written if it is much.
    fn rendered(&mut self) {
        self.sinks.join(self.one_file);
        if self.sinks.len() >= FULL && !lock(&self.way).is_busy() {
            self.submit();
        }
    }

    /// Writes what has been rendered, or has it written.
    fn submit(&mut self) {
        let loans = std::mem::take(&mut self.loans);
        lock(&self.way).submit(&mut self.sinks, loans);
    }

    /// Waits until what has been rendered so far is written.
    fn flush(&mut self) {
        lock(&self.way).wait();
        self.submit();
        lock(&self.way).wait();
    }

    /// Shows everything that was kept and may be shown.
    fn show_all(&mut self) {
        while self.renderer.more(&mut self.sinks) {
            if self.sinks.len() >= FULL {
                lock(&self.way).wait();
            }
            self.rendered();
        }
        self.flush();
    }

    fn hide_bar(&mut self) {
        lock(&self.way).hide_bar();
    }
}

impl Way {
    /// Starts a thread that writes.
    fn beside(mut screen: Screen) -> io::Result<Self> {
        // Unbounded: one write at a time, and progress, of which there is little.
        let (jobs, to_do) = unbounded();
        let (finished, done) = bounded(1);
        thread::Builder::new()
            .name("writer".into())
            .spawn(move || write_beside(&mut screen, &to_do, &finished))?;
        Ok(Self::Beside {
            jobs,
            done,
            is_busy: false,
            spare: Sinks::default(),
        })
    }

    fn is_busy(&self) -> bool {
        matches!(self, Self::Beside { is_busy: true, .. })
    }

    /// Writes what has been rendered, or has it written.
    fn submit(&mut self, sinks: &mut Sinks, loans: Vec<Loan>) {
        match self {
            Self::Direct(screen) => {
                screen.write(sinks);
                drop(loans);
            }
            Self::Beside { .. } if sinks.is_empty() => drop(loans),
            Self::Beside {
                jobs,
                is_busy,
                spare,
                ..
            } => {
                let mut job = std::mem::take(spare);
                std::mem::swap(&mut job.stdout, &mut sinks.stdout);
                std::mem::swap(&mut job.stderr, &mut sinks.stderr);
                // It ends only after this thread.
                *is_busy = jobs.send(Job::Write(job, loans)).is_ok();
            }
        }
    }

    fn hide_bar(&mut self) {
        self.wait();
        match self {
            Self::Direct(screen) => return screen.hide_bar(),
            // It answers this as it answers a write.
            Self::Beside { jobs, is_busy, .. } => *is_busy = jobs.send(Job::HideBar).is_ok(),
        }
        self.wait();
    }

    /// Waits until nothing is being written, but not for long.
    fn wait_a_moment(&mut self) {
        if let Self::Beside {
            done,
            is_busy,
            spare,
            ..
        } = self
            && *is_busy
            && let Ok(sinks) = done.recv_timeout(MOMENT)
        {
            *is_busy = false;
            *spare = sinks;
        }
    }

    /// Waits until nothing is being written.
    fn wait(&mut self) {
        if let Self::Beside {
            done,
            is_busy,
            spare,
            ..
        } = self
            && std::mem::take(is_busy)
        {
            *spare = done.recv().unwrap_or_default();
        }
    }

    fn progress(&mut self, progress: Progress) {
        match self {
            Self::Direct(screen) => screen.progress(progress),
            Self::Beside { jobs, .. } => {
                let _ = jobs.send(Job::Progress(progress));
            }
        }
    }
}

fn write_beside(screen: &mut Screen, jobs: &Receiver<Job>, finished: &Sender<Sinks>) {
    loop {
        let job = match screen.deadline() {
            None => jobs.recv().map_err(RecvTimeoutError::from),
            Some(deadline) => jobs.recv_deadline(deadline),
        };
        let written = match job {
            Ok(Job::Write(mut sinks, loans)) => {
                screen.write(&mut sinks);
                drop(loans);
                sinks
            }
            Ok(Job::HideBar) => {
                screen.hide_bar();
                Sinks::default()
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
        if finished.send(written).is_err() {
            return;
        }
    }
}

/// What main does in place of the printer when the process must end while the
/// printer waits for somebody to read stdout: log lines still come out.
pub struct LastWords {
    renderer: Box<dyn Renderer>,
    messages: Receiver<Message>,
    bar: Arc<Standing>,
}

impl LastWords {
    /// From the queue of the printer, rendered like this.
    #[must_use]
    pub fn new(
        renderer: Box<dyn Renderer>,
        messages: Receiver<Message>,
        bar: Arc<Standing>,
    ) -> Self {
        Self {
            renderer,
            messages,
            bar,
        }
    }

    /// Writes the log lines that are waiting to stderr, as far as that takes
    /// them at once. Output of hosts is lost then.
    pub fn say(&mut self) {
        self.bar.wipe();
        let mut sinks = Sinks::default();
        for message in self.messages.try_iter() {
            if let Message::Log { level, text } = message {
                self.renderer.log(level, &text, &mut sinks);
            }
        }
        // Where stderr is what is not read, this ends at its first piece.
        write_at_once(&sinks.stderr);
    }
}
