//! The client's side of the guard on one host: starts it, keeps it alive with
//! heartbeats, and notices when it has gone.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::cluster::heartbeat::{Heartbeat, Signs, Tick, time_since_boot};
use crate::cluster::sudo_dialog::SudoDialog;
use crate::error::Tree;
use crate::event::{Identity, LockRefusal, Stream};
use crate::remote::guard::{AnswerReader, GuardAnswer, GuardOrder, MOST_SAID, SCRIPT};
use crate::remote::words::Tail;
use crate::ssh::process::{Exit, Ports, Process, Step, Supply};
use crate::ssh::session::{Session, SessionError};

/// Bytes of a guard's output that are read in one step.
const MOST_A_STEP: usize = 64 * 1024;

/// News of a guard, besides that it lives.
#[derive(Debug)]
pub(super) enum Notice {
    /// It holds the lock on this (or has none to hold), and waits for orders.
    Ready(Option<Identity>),
    /// There is no lock, for this reason; the guard has ended.
    Refused(LockRefusal),
    /// sudo has not let it in.
    NotLetIn(Tree),
    /// The host does not run it.
    NotStarted(Tree),
    /// The lock is lost, or may be.
    Lost(Tree),
    /// The commands have been ended, except these processes.
    CommandsEnded(String),
    /// The run directory is there, or why not.
    RunDirectory(Result<String, String>),
    /// Something is left in it.
    Left(String),
    /// It has ended as ordered.
    Gone,
}

/// A guard on its channel.
pub(super) struct Guard {
    process: Process,
    streams: GuardStreams,
    heartbeat: Heartbeat,
    stage: Stage,
    identity: Option<Identity>,
    /// A replaced lock file has been reported. (The guard says so at every heartbeat.)
    has_reported_loss: bool,
}

/// How far a guard is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It has until then to say something about the lock.
    Starting(Instant),
    /// It listens to orders.
    Ready,
    /// It was told to go.
    Leaving,
    /// It has ended, or does nothing more for us.
    Over,
}

impl Guard {
    /// A guard that has been given to this process to start.
    pub(super) fn new(
        process: Process,
        sudo: Option<SudoDialog>,
        period: Duration,
        now: Instant,
        ready_by: Instant,
    ) -> Self {
        Self {
            process,
            streams: GuardStreams {
                sudo,
                reader: AnswerReader::default(),
                answers: VecDeque::new(),
                last_words: Tail::default(),
                orders: SCRIPT.as_bytes().to_vec(),
                is_leaving: false,
            },
            heartbeat: Heartbeat::new(period, now),
            stage: Stage::Starting(ready_by),
            identity: None,
            has_reported_loss: false,
        }
    }

    /// Its channel, for a guard that is not needed any more.
    pub(super) fn into_process(self) -> Process {
        self.process
    }

    /// Whether it listens to orders.
    pub(super) fn is_ready(&self) -> bool {
        matches!(self.stage, Stage::Ready)
    }

    /// Whether it has ended, however.
    pub(super) fn is_over(&self) -> bool {
        self.stage == Stage::Over
    }

    /// Sends it an order.
    pub(super) fn order(&mut self, order: GuardOrder) {
        if order == GuardOrder::Done {
            self.streams.is_leaving = true;
            if self.stage != Stage::Over {
                self.stage = Stage::Leaving;
            }
        }
        let line = order.to_string();
        self.streams.orders.extend_from_slice(line.as_bytes());
    }

    /// Whether all orders are on their way to the host.
    pub(super) fn has_been_told(&self) -> bool {
        self.streams.orders.is_empty() && self.process.is_flushed()
    }

    /// Whether something from it has been taken in since its last step.
    pub(super) fn has_news(&self) -> bool {
        // The node does not read the channel of a guard that is over.
        !self.is_over() && self.process.has_news()
    }

    /// When the next step is due, if nothing happens before.
    pub(super) fn due(&self) -> Option<Instant> {
        match self.stage {
            Stage::Starting(ready_by) => Some(ready_by),
            Stage::Ready => Some(self.heartbeat.due()),
            Stage::Leaving | Stage::Over => None,
        }
    }

    /// The time by which a starting guard has to be ready.
    pub(super) fn starting_limit(&self) -> Option<Instant> {
        match self.stage {
            Stage::Starting(ready_by) => Some(ready_by),
            Stage::Ready | Stage::Leaving | Stage::Over => None,
        }
    }

    /// Moves bytes both ways and adds the news to `notices`.
    ///
    /// # Errors
    /// The connection is lost, or nothing comes from the host any more.
    pub(super) fn step(
        &mut self,
        session: &mut Session,
        now: Instant,
        notices: &mut Vec<Notice>,
    ) -> Result<Step, SessionError> {
        if self.is_over() {
            return Ok(Step::default());
        }
        let mut step = self.process.step(session, &mut self.streams)?;
        while let Some(answer) = self.streams.answers.pop_front() {
            self.hear(answer, notices);
        }
        if let Some(exit) = self.process.exit().filter(|_| self.process.is_over()) {
            let exit = exit.clone();
            self.end(&exit, notices);
            self.stage = Stage::Over;
            return Ok(step);
        }
        if self.streams.reader.has_flooded() && self.stage != Stage::Leaving {
            notices.push(self.flooded());
            self.stage = Stage::Over;
        }
        if self.is_ready() {
            self.beat(session, now, &mut step, notices)?;
        }
        Ok(step)
    }

    /// Sends a heartbeat if one is due, and judges those that were not answered.
    fn beat(
        &mut self,
        session: &mut Session,
        now: Instant,
        step: &mut Step,
        notices: &mut Vec<Notice>,
    ) -> Result<(), SessionError> {
        let signs = Signs {
            heard: session.last_heard(),
            is_out: self.has_been_told(),
            awake: time_since_boot(),
        };
        match self.heartbeat.tick(now, signs) {
            Tick::Quiet => {}
            Tick::Doubt => session.probe(now)?,
            Tick::Beat(number) => {
                self.order(GuardOrder::Beat(number));
                self.streams.reader.expect_answer();
                // It goes out in the next step, which must not wait for an event.
                step.progress = true;
            }
            Tick::Silent(since) => {
                let seconds = since.as_secs_f64();
                let text = format!("heartbeat failed: no answer for {seconds:.0}s");
                return Err(SessionError::Lost(text.into()));
            }
            Tick::Deaf(since) => {
                // A guard that does not answer is as good as dead.
                self.stage = Stage::Over;
                let text = format!(
                    "the connection is there, but the lock holder on the host has not answered for {:.0}s",
                    since.as_secs_f64()
                );
                notices.push(Notice::Lost(text.into()));
            }
            Tick::Slept(time) => notices.push(Notice::Lost(
                format!(
                    "this process did not run for {:.0}s, longer than its locks live",
                    time.as_secs_f64()
                )
                .into(),
            )),
        }
        Ok(())
    }

    fn hear(&mut self, answer: GuardAnswer, notices: &mut Vec<Notice>) {
        match answer {
            GuardAnswer::Locked(identity) => self.identity = Some(identity),
            GuardAnswer::Ready => {
                if let Stage::Starting(_) = self.stage {
                    self.stage = Stage::Ready;
                    notices.push(Notice::Ready(self.identity.clone()));
                }
            }
            GuardAnswer::Replaced if self.has_reported_loss => {}
            GuardAnswer::Replaced => {
                self.has_reported_loss = true;
                let what = "the lock file has been removed or replaced";
                notices.push(Notice::Lost(what.into()));
            }
            GuardAnswer::Ended(survivors) => notices.push(Notice::CommandsEnded(survivors)),
            GuardAnswer::RunDirectory(path) => notices.push(Notice::RunDirectory(Ok(path))),
            GuardAnswer::NoRunDirectory(reason) => {
                notices.push(Notice::RunDirectory(Err(reason)));
            }
            GuardAnswer::Left(path) => notices.push(Notice::Left(path)),
            GuardAnswer::Refused(refusal) => notices.push(Notice::Refused(refusal)),
            GuardAnswer::Beat(number) => self.heartbeat.answered(number),
        }
    }

    /// Something that writes this much is no guard, or has come between it and us.
    fn flooded(&self) -> Notice {
        let said = format!("the lock holder on the host has sent more than {MOST_SAID} bytes");
        match self.stage {
            Stage::Starting(_) => Notice::NotStarted(format!("{said} before it was ready").into()),
            _ => Notice::Lost(format!("{said} between two heartbeats").into()),
        }
    }

    /// The guard's process has ended.
    fn end(&self, exit: &Exit, notices: &mut Vec<Notice>) {
        let streams = &self.streams;
        let closed = streams.sudo.as_ref().filter(|sudo| !sudo.has_let_in());
        let is_refused = |notice: &Notice| matches!(notice, Notice::Refused(_));
        match (self.stage, closed) {
            (Stage::Over | Stage::Leaving, _) => notices.push(Notice::Gone),
            (Stage::Ready, _) => {
                notices.push(Notice::Lost("the lock holder on the host has ended".into()));
            }
            (Stage::Starting(_), Some(sudo)) => {
                let last_words = streams.last_words.last_line();
                notices.push(Notice::NotLetIn(sudo.refusal(&last_words)));
            }
            // The refusal has the reason.
            (Stage::Starting(_), None) if notices.iter().any(is_refused) => {}
            (Stage::Starting(_), None) => {
                let what = match exit {
                    Exit::Status(code) => format!("status {code}"),
                    Exit::Signal(name) => format!("signal {name}"),
                };
                let tree = Tree::new(format!("the host does not run the lock holder ({what})"));
                let words = [streams.last_words.last_line(), streams.reader.noise()];
                let words = words.into_iter().filter(|words| !words.is_empty());
                notices.push(Notice::NotStarted(words.fold(tree, Tree::because)));
            }
        }
    }
}

/// What the guard's process is connected to.
struct GuardStreams {
    sudo: Option<SudoDialog>,
    reader: AnswerReader,
    answers: VecDeque<GuardAnswer>,
    /// The end of what it said on stderr.
    last_words: Tail,
    orders: Vec<u8>,
    is_leaving: bool,
}

impl Ports for GuardStreams {
    fn room(&mut self) -> usize {
        MOST_A_STEP
    }

    fn output(&mut self, stream: Stream, bytes: Vec<u8>) {
        if stream == Stream::Stdout {
            return self.reader.read(&bytes, &mut self.answers);
        }
        let bytes = match &mut self.sudo {
            Some(sudo) => sudo.output(stream, bytes),
            None => bytes,
        };
        self.last_words.keep(&bytes);
    }

    fn input(&mut self, buffer: &mut Vec<u8>) -> Supply {
        if let Some(supply) = self.sudo.as_mut().and_then(|sudo| sudo.input(buffer)) {
            return supply;
        }
        match (self.orders.is_empty(), self.is_leaving) {
            (true, true) => Supply::End,
            (true, false) => Supply::Nothing,
            (false, _) => {
                buffer.append(&mut self.orders);
                Supply::Bytes
            }
        }
    }
}
