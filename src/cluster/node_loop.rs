//! The second part of a node's life: what its thread does once it is logged in.
//!
//! One loop around `poll(2)` on the socket and the wake-up pipe, and nothing else
//! in it blocks: orders are taken, the guard and the task move their bytes (output
//! only where there is credit for it), the connection is kept alive and watched.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cluster::guard::{Guard, Notice};
use crate::cluster::job::{Job, Order};
use crate::cluster::node::Node;
use crate::cluster::output_port::OutputPort;
use crate::cluster::stream::Tap;
use crate::cluster::sudo_dialog::SudoDialog;
use crate::cluster::task::{Progress, Task};
use crate::cluster::work::{ToolWork, Work};
use crate::deadlines::{COMMAND_END, GUARD_LEAVES, LAST_OUTPUT};
use crate::error::Tree;
use crate::event::{Level, Log, NodeEvent, Outcome, Status, Stream};
use crate::output::credit::Credit;
use crate::remote::guard::{self, GuardOrder};
use crate::remote::login::Login;
use crate::remote::script::Script;
use crate::ssh::process::{Process, Request, Step, TerminalSize};
use crate::ssh::session::{Session, SessionError};

/// Upper bound of one `poll(2)`.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// How long a guard may take to get ready, however long connecting took.
const LEAST_PATIENCE: Duration = Duration::from_secs(1);

/// A node that is logged in.
pub(super) struct NodeLoop<'a> {
    node: &'a Node,
    session: Session,
    /// How long a guard may take to get ready.
    patience: Duration,
    /// A channel for the next process. While nothing else runs, it keeps the
    /// connection's queue empty. (Servers may allow few channels, so there is at most
    /// one spare.)
    spare: Process,
    guard: Option<Guard>,
    task: Option<Task>,
    /// The name of the run directory, if there is one.
    run_directory: Option<String>,
    /// Channels that are not waited for any more. They go with the session.
    abandoned: Vec<Process>,
    /// The run is being ended, and this node knows.
    is_ending: bool,
    goal: Goal,
}

/// Why the guard is let go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Goal {
    /// It is not.
    Stay,
    /// To wait for another turn; it has until then.
    Wait(Instant),
    /// To end; it has until then.
    Leave(Instant),
}

impl Goal {
    fn limit(self) -> Option<Instant> {
        match self {
            Self::Stay => None,
            Self::Wait(limit) | Self::Leave(limit) => Some(limit),
        }
    }
}

impl<'a> NodeLoop<'a> {
    /// `patience` is what connecting has left of `--conn-timeout`, for the guard
    /// to get ready.
    pub(super) fn new(node: &'a Node, session: Session, patience: Duration) -> Self {
        Self {
            node,
            session,
            patience: patience.max(LEAST_PATIENCE),
            spare: Process::default(),
            guard: None,
            task: None,
            run_directory: None,
            abandoned: Vec::new(),
            is_ending: false,
            goal: Goal::Stay,
        }
    }

    /// Does what it is told until all is over.
    pub(super) fn run(mut self) -> Outcome {
        let outcome = loop {
            match self.turn() {
                Ok(None) => {}
                Ok(Some(outcome)) => break outcome,
                Err(error) => break self.lost(error),
            }
        };
        if let Some(task) = &mut self.task {
            task.cut_output(false);
        }
        self.session.disconnect();
        outcome
    }

    fn log(&self, level: Level, text: impl Into<Tree>) {
        let node = self.node.target.node();
        self.node.display.about(&node).log(level, text.into());
    }

    /// One turn of the loop. An outcome ends it.
    fn turn(&mut self) -> Result<Option<Outcome>, SessionError> {
        self.session.begin_turn();
        if self.node.is_cancelled() && !self.is_ending {
            self.is_ending = true;
            self.end_task(Outcome::cancelled());
        }
        // Those that wait now, and no more: sync tools that flood may cause new ones as
        // fast as these are obeyed.
        for _ in 0..self.node.orders.len() {
            if let Some(order) = self.node.next_order() {
                self.obey(order);
            }
        }
        let now = Instant::now();
        let mut step = Step::default();
        if self.guard.is_none() && self.task.is_none() {
            step = self.spare.idle(&self.session)?;
        }
        // Of a connection that is lost, only the last output is of interest.
        let is_lost = self.session.lost().is_some() && self.task.is_some();
        if !is_lost && let Some(outcome) = self.tend_guard(now, &mut step)? {
            return Ok(Some(outcome));
        }
        self.tend_task(now, &mut step)?;
        self.rest(step)?;
        Ok(None)
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Guard(arguments) => {
                let script = Script::Guard((*arguments).clone());
                self.guard = Some(self.start_guard(&script));
            }
            // The order was on its way when the run was stopped.
            Order::Run(_) | Order::Unpack(..) | Order::MakeRunDirectory(_) if self.is_ending => {
                self.node.tell(NodeEvent::Finished(Outcome::cancelled()));
            }
            Order::Run(job) => self.start_task(job, None),
            Order::Unpack(job, chunks) => self.start_task(job, Some(Tap::new(chunks))),
            Order::MakeRunDirectory(id) => {
                if !self.order_guard(GuardOrder::MakeRunDirectory(id)) {
                    self.fail_upload("the guard that makes the run directory has gone");
                }
            }
            Order::Tell(text) => self.with_tool(|tool| tool.deliver(text)),
            Order::Close => self.with_tool(ToolWork::close),
            Order::FailTool(reason) => self.with_tool(|tool| tool.fail(reason)),
            Order::Unlock => self.let_go(Goal::Wait(Instant::now() + GUARD_LEAVES)),
            Order::Release => self.let_go(Goal::Leave(Instant::now() + GUARD_LEAVES)),
            // Answers to a question that has been answered.
            Order::Trust | Order::Distrust(_) => {}
        }
    }

    /// Tells the guard something, if there is one that listens.
    fn order_guard(&mut self, order: GuardOrder) -> bool {
        let guard = self.guard.as_mut().filter(|guard| guard.is_ready());
        guard.map(|guard| guard.order(order)).is_some()
    }

    /// Does something to the sync tool, if one runs.
    fn with_tool(&mut self, change: impl FnOnce(&mut ToolWork)) {
        if let Some(tool) = self.task.as_mut().and_then(Task::tool) {
            change(tool);
        }
    }

    fn fail_upload(&self, reason: impl Into<Tree>) {
        let outcome = Outcome::failed(Status::Upload, reason.into());
        self.node.tell(NodeEvent::Finished(outcome));
    }

    fn let_go(&mut self, goal: Goal) {
        self.goal = goal;
        if let Some(guard) = &mut self.guard {
            guard.order(GuardOrder::Done);
        }
    }

    /// Answers for a guard that has gone, or was never there.
    fn without_guard(&mut self) -> Option<Outcome> {
        match self.goal {
            Goal::Stay => None,
            Goal::Wait(_) => {
                self.goal = Goal::Stay;
                self.node.tell(NodeEvent::Unlocked);
                None
            }
            Goal::Leave(_) => Some(Outcome::cancelled()),
        }
    }

    /// Renders a script and gives it to the channel that is there already.
    fn launch(&mut self, script: &Script, terminal: Option<(String, TerminalSize)>) -> Process {
        let command = script.render(&Login {
            is_root: self.is_root(),
            sudo: self.node.shared.sudo.as_ref().map(|sudo| &sudo.nonces),
            run_directory: self.run_directory.as_deref(),
        });
        let mut process = std::mem::take(&mut self.spare);
        process.start(Request { command, terminal });
        process
    }

    fn is_root(&self) -> bool {
        self.node.endpoint.user == "root"
    }

    /// The talk with sudo, whose words come on this stream, if there is sudo.
    fn sudo_dialog(&self, stream: Stream) -> Option<SudoDialog> {
        let sudo = self.node.shared.sudo.as_ref();
        let sudo = sudo.filter(|_| !self.is_root())?;
        Some(SudoDialog::new(sudo, stream))
    }

    fn start_guard(&mut self, script: &Script) -> Guard {
        let process = self.launch(script, None);
        let sudo = self.sudo_dialog(Stream::Stderr);
        let now = Instant::now();
        Guard::new(
            process,
            sudo,
            self.node.shared.heartbeat,
            now,
            now + self.patience,
        )
    }

    fn start_task(&mut self, job: Arc<Job>, archive: Option<Tap>) {
        if job.keeps_run_directory {
            // (Only a guard would remove the directory.)
            self.order_guard(GuardOrder::KeepRunDirectory);
        }
        let terminal = job.terminal().cloned();
        // A pseudo-terminal has one output only.
        let stream = match terminal {
            Some(_) => Stream::Stdout,
            None => Stream::Stderr,
        };
        let mut process = self.launch(&job.script, terminal);
        // The guard has to know before: this process can be killed at any moment.
        if self.order_guard(GuardOrder::Starting) {
            process.hold(true);
        }
        let node = self.node;
        let credit = Credit::new(node.shared.credit, node.waker.clone());
        let port = OutputPort::new(node.id, node.display.clone(), credit);
        let work = Work::new(&job, node.id, port, archive);
        let sudo = self.sudo_dialog(stream);
        self.task = Some(Task::new(job, process, sudo, work));
    }

    /// Has the task ended on the host, if one runs.
    fn end_task(&mut self, outcome: Outcome) {
        let Some(task) = self.task.as_mut().filter(|task| !task.is_ending()) else {
            return;
        };
        task.end(outcome, Instant::now() + COMMAND_END);
        if !self.order_guard(GuardOrder::Stop) {
            // The guard is dead: another guard does this part of its work.
            let mut guard = self.start_guard(&Script::Sweep);
            guard.order(GuardOrder::Done);
            self.drop_guard();
            self.guard = Some(guard);
        }
    }

    fn tend_guard(
        &mut self,
        now: Instant,
        step: &mut Step,
    ) -> Result<Option<Outcome>, SessionError> {
        let Some(guard) = self.guard.as_mut().filter(|guard| !guard.is_over()) else {
            return Ok(self.without_guard());
        };
        let mut notices = Vec::new();
        step.add(guard.step(&mut self.session, now, &mut notices)?);
        for notice in notices {
            if let Some(outcome) = self.note(notice, now) {
                return Ok(Some(outcome));
            }
        }
        if self.guard.is_none() {
            return Ok(self.without_guard());
        }
        let is_late = |limit: Option<Instant>| limit.is_some_and(|limit| now >= limit);
        if is_late(self.goal.limit()) {
            return match self.goal {
                Goal::Leave(_) => {
                    self.node.tell(NodeEvent::NotLetGo);
                    Ok(Some(Outcome::cancelled()))
                }
                _ => Err(SessionError::Lost("the guard does not let go".into())),
            };
        }
        if is_late(self.guard.as_ref().and_then(Guard::starting_limit)) {
            let outcome = self.node.timed_out("while getting ready to lock");
            return Ok(Some(outcome));
        }
        Ok(None)
    }

    /// Acts on a notice of the guard. An outcome ends the node.
    fn note(&mut self, notice: Notice, now: Instant) -> Option<Outcome> {
        match notice {
            Notice::Ready(identity) => self.node.tell(NodeEvent::Guarded(identity)),
            Notice::Refused(refusal) => {
                self.drop_guard();
                self.node.tell(NodeEvent::Refused(refusal));
            }
            Notice::NotLetIn(reason) => return Some(Outcome::failed(Status::Auth, reason)),
            Notice::NotStarted(reason) => return Some(Outcome::failed(Status::Refused, reason)),
            Notice::Lost(reason) => self.node.tell(NodeEvent::LockLost(reason)),
            Notice::CommandsEnded(survivors) => {
                if !survivors.is_empty() {
                    let text = format!("these processes could not be ended: {survivors}");
                    self.log(Level::Warn, text);
                }
                if let Some(task) = &mut self.task {
                    task.expect_last_output(now + LAST_OUTPUT);
                }
            }
            Notice::RunDirectory(made) => self.note_run_directory(made),
            Notice::Left(left) => self.node.tell(NodeEvent::Left(left)),
            Notice::Gone => self.drop_guard(),
        }
        None
    }

    fn note_run_directory(&mut self, made: Result<String, String>) {
        let path = match made {
            Ok(path) => path,
            Err(reason) => {
                let failure = Tree::new("can't make the run directory");
                return self.fail_upload(failure.because(reason));
            }
        };
        self.run_directory = guard::run_directory_name(&path).map(str::to_owned);
        self.log(Level::Debug, format!("run directory {path}"));
        self.node.tell(NodeEvent::RunDirectory);
    }

    fn drop_guard(&mut self) {
        if let Some(guard) = self.guard.take() {
            self.abandoned.push(guard.into_process());
        }
    }

    fn tend_task(&mut self, now: Instant, step: &mut Step) -> Result<(), SessionError> {
        let Some(task) = &mut self.task else {
            return Ok(());
        };
        let knows = |guard: &Guard| guard.has_been_told() || guard.is_over();
        if !task.is_ending() && self.guard.as_ref().is_none_or(knows) {
            task.hold(false);
        }
        match task.step(&mut self.session) {
            Ok(moved) => step.add(moved),
            // It never started, and the guard is there to be let go properly.
            Err(SessionError::Refused(reason)) => {
                self.finish_task(Outcome::failed(Status::Refused, reason), step);
                return Ok(());
            }
            Err(lost) => return Err(lost),
        }
        if task.has_just_started(now) {
            if let Some(guard) = &mut self.guard {
                guard.order(GuardOrder::Started);
                step.progress = true;
            }
            if !task.is_upload() {
                self.node.tell(NodeEvent::Started);
            }
        }
        if let Some(event) = task.news() {
            self.node.tell(event);
        }
        let send_timeout = self.node.endpoint.liveness.send_timeout;
        match task.progress(now, send_timeout, &self.session) {
            Progress::Running => {}
            Progress::ToBeEnded(outcome) => {
                self.end_task(outcome);
                step.progress = true;
            }
            Progress::Over(outcome) => self.finish_task(outcome, step),
        }
        Ok(())
    }

    /// The task is over, by itself or not.
    fn finish_task(&mut self, outcome: Outcome, step: &mut Step) {
        let Some(task) = self.task.take() else {
            return;
        };
        if !task.is_ending()
            && let Some(guard) = &mut self.guard
        {
            guard.order(GuardOrder::Finished);
        }
        step.progress = true;
        let (process, event) = task.finish(outcome);
        self.abandoned.push(process);
        self.node.tell(event);
    }

    /// Keeps the connection alive and, if nothing has moved, sleeps until
    /// something can be done. (Data may be queued in libssh2 while the socket is
    /// quiet, so the loop does not sleep after a step that did move something.)
    fn rest(&mut self, step: Step) -> Result<(), SessionError> {
        let now = Instant::now();
        if step.heard {
            self.session.heard(now);
        }
        let mut until = now + LONGEST_SLEEP;
        if self.session.lost().is_none() {
            until = self.session.tend(now)?;
        }
        let guard_has_news = self.guard.as_ref().is_some_and(Guard::has_news);
        if !step.progress && !guard_has_news {
            let send_timeout = self.node.endpoint.liveness.send_timeout;
            let task = self.task.as_ref();
            let limits = [
                self.guard.as_ref().and_then(Guard::due),
                task.and_then(|task| task.next_look(send_timeout, &self.session)),
                self.goal.limit(),
            ];
            until = limits.into_iter().flatten().fold(until, Instant::min);
            self.session.poll(&self.node.wakeup, step.writing, until);
        }
        Ok(())
    }

    /// How the node ends where the connection does.
    fn lost(&self, error: SessionError) -> Outcome {
        // A command that had ended before has ended.
        if let Some(outcome) = self.task.as_ref().and_then(Task::outcome_of_process) {
            return outcome;
        }
        let (status, reason) = match error {
            SessionError::Lost(reason) => (Status::Connection, reason),
            SessionError::Refused(reason) => (Status::Refused, reason),
            SessionError::Interrupted(_) => return Outcome::cancelled(),
        };
        Outcome {
            duration: self.task.as_ref().map_or(Duration::ZERO, Task::duration),
            ..Outcome::failed(status, reason)
        }
    }
}
