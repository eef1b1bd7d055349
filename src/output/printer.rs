//! The printer: the one thread that decides what is written next.
//!
//! It writes when its buffers are full or when no message waits. So a flood costs few
//! system calls, and a single line appears at once.

use std::collections::VecDeque;
use std::io;
use std::thread;
use std::time::Instant;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, at, never, select};

use crate::error::Tree;
use crate::event::{Level, NodeId, Stream};
use crate::output::backlog::Backlog;
use crate::output::credit::Loan;
use crate::output::error::OutputError;
use crate::output::files::Files;
use crate::output::message::Message;
use crate::output::renderer::{Fate, Renderer};
use crate::output::screen::Screen;
use crate::output::writer::{Buffers, Writer};

/// How many bytes are rendered in one go. Each of them may be an empty line, which gets
/// a long prefix.
const PIECE: usize = 4 * 1024;

/// What a printer works with.
pub(crate) struct Setup {
    /// The display of the run.
    pub(crate) renderer: Box<dyn Renderer>,
    /// Where it writes.
    pub(crate) screen: Screen,
    /// The files of `--output-dir`.
    pub(crate) files: Option<Files>,
    /// How many nodes the run has.
    pub(crate) nodes: usize,
    /// Warnings are shown.
    pub(crate) wants_warnings: bool,
    /// Hears of failures. Each of them is to end the run.
    pub(crate) problems: Sender<OutputError>,
}

/// Starts the printer. It ends when all senders of `messages` are gone; to be sure that
/// something is written, send [`Message::Flush`].
///
/// # Errors
/// A thread cannot be started.
pub(crate) fn start(setup: Setup, messages: Receiver<Message>) -> io::Result<()> {
    let keeps_output = setup.renderer.keeps_output();
    let mut printer = Printer {
        writer: if keeps_output {
            Writer::threaded(setup.screen)?
        } else {
            Writer::direct(setup.screen)
        },
        renderer: setup.renderer,
        keeps_output,
        queue: VecDeque::new(),
        loans: Vec::new(),
        backlog: Backlog::new(setup.nodes),
        wants_warnings: setup.wants_warnings,
        files: setup.files,
        is_over: false,
        problems: setup.problems,
    };
    thread::Builder::new()
        .name("printer".into())
        .spawn(move || printer.run(&messages))
        .map(drop)
}

struct Printer {
    renderer: Box<dyn Renderer>,
    writer: Writer,
    keeps_output: bool,
    /// Live output that waits until the writer thread is idle. Rendered, it would take
    /// more memory.
    queue: VecDeque<Queued>,
    /// Returned once the buffers are written.
    loans: Vec<Loan>,
    backlog: Backlog,
    /// A warning that there is no room has not been shown yet, and is wanted.
    wants_warnings: bool,
    files: Option<Files>,
    /// No node sends anything more.
    is_over: bool,
    problems: Sender<OutputError>,
}

/// What a node has sent, before it is rendered.
enum Queued {
    Output {
        node: NodeId,
        stream: Stream,
        bytes: Vec<u8>,
        /// How many of the bytes are rendered.
        rendered: usize,
        loan: Loan,
    },
    End(NodeId),
}

/// What the printer has waited for.
enum Event {
    Message(Message),
    /// The writer thread is done.
    Written(Buffers),
    Alarm,
    /// All senders of messages are gone.
    Closed,
}

impl Printer {
    fn run(&mut self, messages: &Receiver<Message>) {
        loop {
            let event = match messages.try_recv() {
                Ok(message) => Event::Message(message),
                Err(TryRecvError::Empty) if self.finish_work() => continue,
                Err(TryRecvError::Empty) => self.wait_for_event(messages),
                Err(TryRecvError::Disconnected) => Event::Closed,
            };
            match event {
                Event::Message(message) => self.handle(message),
                Event::Written(buffers) => self.writer.note_done(buffers),
                Event::Alarm => self.writer.tick(),
                Event::Closed => break,
            }
            self.render_next();
            self.look_for_room();
        }
        self.render_queue();
        self.show_all();
        self.writer.hide_bar();
    }

    /// Renders the next piece of queued or kept output, if the writer thread is idle.
    /// False if there is none.
    fn render_next(&mut self) -> bool {
        if !self.keeps_output || self.writer.is_busy() {
            return false;
        }
        if let Some(queued) = self.queue.pop_front() {
            self.render(queued);
            return true;
        }
        let has_rendered = self.renderer.render_kept(&mut self.writer);
        if has_rendered {
            self.write_if_full();
        }
        has_rendered
    }

    /// Does what can be done before the next message: renders what is due, else writes
    /// what is rendered. True if more may be left to do.
    fn finish_work(&mut self) -> bool {
        if self.writer.is_busy() {
            return false;
        }
        if self.render_next() {
            self.look_for_room();
            return true;
        }
        self.write();
        false
    }

    fn wait_for_event(&self, messages: &Receiver<Message>) -> Event {
        let deadline = [self.writer.deadline(), self.backlog.deadline()];
        let deadline = deadline.into_iter().flatten().min();
        let message = match (self.writer.done(), deadline) {
            (None, None) => messages.recv().map_err(RecvTimeoutError::from),
            (None, Some(deadline)) => messages.recv_deadline(deadline),
            (Some(done), deadline) => {
                let alarm = deadline.map_or_else(never, at);
                select! {
                    recv(messages) -> message => message.map_err(RecvTimeoutError::from),
                    recv(done) -> buffers => {
                        return Event::Written(buffers.unwrap_or_default());
                    }
                    recv(alarm) -> _ => Err(RecvTimeoutError::Timeout),
                }
            }
        };
        match message {
            Ok(message) => Event::Message(message),
            Err(RecvTimeoutError::Timeout) => Event::Alarm,
            Err(RecvTimeoutError::Disconnected) => Event::Closed,
        }
    }

    fn handle(&mut self, message: Message) {
        match message {
            Message::Output {
                node,
                stream,
                bytes,
                loan,
            } => {
                self.backlog.note_output(node);
                self.with_files(|files| files.write(node, stream, &bytes));
                self.render_or_queue(Queued::Output {
                    node,
                    stream,
                    bytes,
                    rendered: 0,
                    loan,
                });
            }
            Message::EndOfOutput { node } => {
                self.backlog.note_end(node);
                self.with_files(|files| files.complete(node));
                self.render_or_queue(Queued::End(node));
            }
            Message::Result { node, outcome } => {
                self.backlog.note_end(node);
                self.renderer.result(node, &outcome, &mut self.writer);
            }
            Message::EndOfRun => self.end_run(),
            // A feeder whose upload was broken off may not know yet that the run is over.
            Message::Progress(_) if self.is_over => {}
            Message::Progress(progress) => self.writer.progress(progress),
            Message::HideBar => self.writer.hide_bar(),
            Message::Log { level, text } => self.renderer.log(level, &text, &mut self.writer),
            Message::Flush(answer) => {
                self.render_queue();
                self.flush();
                // Main may have stopped waiting.
                let _ = answer.send(());
            }
        }
        self.write_if_full();
    }

    /// Writes to the files of `--output-dir`, until that has failed once.
    fn with_files(&mut self, write: impl FnOnce(&mut Files) -> Result<(), OutputError>) {
        if let Some(files) = &mut self.files
            && let Err(error) = write(files)
        {
            self.files = None;
            let _ = self.problems.send(error);
        }
    }

    fn end_run(&mut self) {
        self.is_over = true;
        self.backlog.release(|_| true);
        self.writer.hide_bar();
        self.render_queue();
        self.renderer.end_of_run(&mut self.writer);
        self.show_all();
    }

    /// Renders what a node has sent, unless earlier output of it is still queued.
    fn render_or_queue(&mut self, queued: Queued) {
        if !self.queue.is_empty() && self.renderer.is_live(queued.node()) {
            self.queue.push_back(queued);
        } else {
            self.render(queued);
        }
    }

    /// Renders what a node has sent. Live output goes back to the queue once the writer
    /// thread has something to write.
    fn render(&mut self, mut queued: Queued) {
        let node = queued.node();
        let mut fate = Fate::Kept;
        loop {
            if self.writer.is_busy() && self.renderer.is_live(node) {
                return self.queue.push_front(queued);
            }
            match &mut queued {
                Queued::Output {
                    stream,
                    bytes,
                    rendered,
                    ..
                } if *rendered < bytes.len() => {
                    let piece = &bytes[*rendered..bytes.len().min(*rendered + PIECE)];
                    let out = &mut self.writer;
                    fate = self.renderer.output(node, *stream, piece, out);
                    *rendered += piece.len();
                    if *rendered < bytes.len() {
                        self.write_if_full();
                    }
                }
                Queued::Output { .. } => break,
                Queued::End(node) => {
                    self.renderer.end_of_output(*node, &mut self.writer);
                    break;
                }
            }
        }
        if let Queued::Output { loan, .. } = queued {
            match fate {
                Fate::Shown => self.loans.push(loan),
                Fate::Kept => drop(loan),
                Fate::Withheld => self.backlog.hold(node, loan, Instant::now()),
            }
        }
        self.warn_of_lack_of_room();
        self.write_if_full();
    }

    /// Renders all that is queued, and waits for the writer thread where needed.
    fn render_queue(&mut self) {
        while let Some(queued) = self.queue.pop_front() {
            self.writer.wait();
            self.render(queued);
        }
    }

    /// Returns credit to nodes for which there is room, and tries to make room from time
    /// to time.
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
            let _ = self.problems.send(problem);
        }
    }

    /// Shows a warning that there is no room, once.
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
            self.renderer.log(Level::Warn, &tree, &mut self.writer);
        }
    }

    fn write_if_full(&mut self) {
        self.writer.join();
        if self.writer.is_full() && !self.writer.is_busy() {
            self.write();
        }
    }

    fn write(&mut self) {
        let loans = std::mem::take(&mut self.loans);
        self.writer.write(loans);
    }

    /// Returns once everything rendered so far is written.
    fn flush(&mut self) {
        self.writer.wait();
        self.write();
        self.writer.wait();
    }

    /// Shows all kept output that is due, and returns once it is written.
    fn show_all(&mut self) {
        while self.renderer.render_kept(&mut self.writer) {
            if self.writer.is_full() {
                self.writer.wait();
            }
            self.write_if_full();
        }
        self.flush();
    }
}

impl Queued {
    fn node(&self) -> NodeId {
        match self {
            Self::Output { node, .. } | Self::End(node) => *node,
        }
    }
}
