//! One piece of work on its channel: the process, sudo in front of it, its clock.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cluster::job::Job;
use crate::cluster::sudo_dialog::SudoDialog;
use crate::cluster::work::{ChannelState, Kind, Work};
use crate::event::{NodeEvent, Outcome, Status, Stream};
use crate::ssh::process::{Exit, Ports, Process, Step, Supply};
use crate::ssh::session::{Session, SessionError};

/// A job that runs on this node.
pub(super) struct Task {
    job: Arc<Job>,
    process: Process,
    streams: Streams,
    started: Option<Instant>,
    ending: Option<Ending>,
}

/// A task that is being ended.
struct Ending {
    /// How the task ends, whatever the process says.
    outcome: Outcome,
    /// The task is not waited for any longer than this.
    limit: Instant,
}

/// What the process is connected to.
struct Streams {
    sudo: Option<SudoDialog>,
    work: Work,
}

/// How a task stands after a step.
pub(super) enum Progress {
    /// It goes on.
    Running,
    /// It has to be ended, for this reason.
    ToBeEnded(Outcome),
    /// It is over.
    Over(Outcome),
}

impl Task {
    /// The job on this process, which is not started yet.
    pub(super) fn new(
        job: Arc<Job>,
        process: Process,
        sudo: Option<SudoDialog>,
        work: Work,
    ) -> Self {
        Self {
            job,
            process,
            streams: Streams { sudo, work },
            started: None,
            ending: None,
        }
    }

    /// Keeps the process from being started, or no longer.
    pub(super) fn hold(&mut self, held: bool) {
        self.process.hold(held);
    }

    /// Whether the task is being ended.
    pub(super) fn is_ending(&self) -> bool {
        self.ending.is_some()
    }

    /// The sync tool, if the task is one.
    pub(super) fn tool(&mut self) -> Option<&mut super::work::ToolWork> {
        self.streams.work.tool()
    }

    /// Moves bytes both ways.
    ///
    /// # Errors
    /// The connection is lost, or the host refuses to start the process.
    pub(super) fn step(&mut self, session: &mut Session) -> Result<Step, SessionError> {
        self.process.step(session, &mut self.streams)
    }

    /// Whether the process has been started since this was asked last.
    pub(super) fn has_just_started(&mut self, now: Instant) -> bool {
        if self.started.is_some() || !self.process.has_started() {
            return false;
        }
        self.started = Some(now);
        self.work().started();
        true
    }

    /// What main has to hear, once.
    pub(super) fn news(&mut self) -> Option<NodeEvent> {
        self.work().news()
    }

    /// Whether main hears of the start. (Of an upload it hears when the host is
    /// ready for it.)
    pub(super) fn is_upload(&self) -> bool {
        matches!(self.streams.work, Work::Unpack(_))
    }

    /// How the task stands.
    pub(super) fn progress(
        &mut self,
        now: Instant,
        send_timeout: Duration,
        session: &Session,
    ) -> Progress {
        let exit = self.process.exit().filter(|_| self.process.is_over());
        let exit = exit.cloned();
        if let Some(ending) = &self.ending {
            let is_over = exit.is_some() || now >= ending.limit;
            return match is_over {
                true => Progress::Over(ending.outcome.clone()),
                false => Progress::Running,
            };
        }
        let state = ChannelState {
            now,
            send_timeout,
            process: &self.process,
            session,
        };
        // Asked at every step: it watches how far the host is.
        let problem = self.streams.work.kind_mut().problem(&state);
        if let Some(exit) = exit {
            return Progress::Over(self.outcome(&exit));
        }
        if let Some((status, reason)) = problem {
            return Progress::ToBeEnded(Outcome {
                status,
                reason,
                duration: Duration::ZERO,
            });
        }
        if self.deadline().is_some_and(|limit| now >= limit) {
            let limit = self.job.timeout.unwrap_or_default().as_secs_f64();
            let reason = format!("longer than {limit}s");
            return Progress::ToBeEnded(Outcome::failed(Status::Timeout, reason.into()));
        }
        Progress::Running
    }

    /// Ends the task with this outcome, and waits for the process until `limit`.
    pub(super) fn end(&mut self, outcome: Outcome, limit: Instant) {
        let outcome = Outcome {
            duration: self.duration(),
            ..outcome
        };
        // A process must not start behind the order to stop.
        self.process.hold(true);
        self.ending = Some(Ending { outcome, limit });
    }

    /// The processes have ended: only the last output is still waited for.
    pub(super) fn expect_last_output(&mut self, limit: Instant) {
        if let Some(ending) = &mut self.ending {
            ending.limit = limit;
        }
    }

    /// The task is over. Returns its channel and what main hears.
    pub(super) fn finish(mut self, outcome: Outcome) -> (Process, NodeEvent) {
        self.cut_output(self.ending.is_none());
        let event = self.work().ended(outcome);
        (self.process, event)
    }

    /// No more output comes: the process has ended by itself, or was cut off.
    pub(super) fn cut_output(&mut self, by_itself: bool) {
        if let Some(sudo) = &mut self.streams.sudo {
            let (stream, rest) = sudo.finish();
            self.work().output(stream, rest);
        }
        self.work().finish(by_itself);
    }

    /// How the task has ended, if its process has.
    pub(super) fn outcome_of_process(&self) -> Option<Outcome> {
        self.process.exit().map(|exit| self.outcome(exit))
    }

    /// How long the process has run.
    pub(super) fn duration(&self) -> Duration {
        self.started
            .map_or(Duration::ZERO, |started| started.elapsed())
    }

    /// When the task has to be looked at again, if nothing happens before.
    pub(super) fn next_look(&self, send_timeout: Duration, session: &Session) -> Option<Instant> {
        if let Some(ending) = &self.ending {
            return Some(ending.limit);
        }
        let state = ChannelState {
            now: Instant::now(),
            send_timeout,
            process: &self.process,
            session,
        };
        let stuck = self.streams.work.kind().next_look(&state);
        [self.deadline(), stuck].into_iter().flatten().min()
    }

    fn work(&mut self) -> &mut dyn Kind {
        self.streams.work.kind_mut()
    }

    /// When the process has to have ended. The time that the reader of our output
    /// takes does not count.
    fn deadline(&self) -> Option<Instant> {
        if self.process.is_all_here() {
            return None;
        }
        Some(self.started? + self.job.timeout?)
    }

    fn outcome(&self, exit: &Exit) -> Outcome {
        let work = self.streams.work.kind();
        let closed = self.streams.sudo.as_ref().filter(|sudo| !sudo.has_let_in());
        let (status, reason) = match closed {
            Some(sudo) => (Status::Auth, Some(sudo.refusal(&work.last_words()))),
            None => work.verdict(exit),
        };
        Outcome {
            status,
            reason,
            duration: self.duration(),
        }
    }
}

impl Ports for Streams {
    fn room(&mut self) -> usize {
        self.work.kind().port().room()
    }

    fn output(&mut self, stream: Stream, bytes: Vec<u8>) {
        let bytes = match &mut self.sudo {
            Some(sudo) => sudo.output(stream, bytes),
            None => bytes,
        };
        self.work.kind_mut().output(stream, bytes);
    }

    fn input(&mut self, buffer: &mut Vec<u8>) -> Supply {
        let from_sudo = self.sudo.as_mut().and_then(|sudo| sudo.input(buffer));
        from_sudo.unwrap_or_else(|| self.work.kind_mut().input(buffer))
    }
}
