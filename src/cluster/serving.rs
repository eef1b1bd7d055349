//! What one node thread does once it is logged in.
//!
//! One loop around `poll(2)` on the socket and the wake-up pipe, and nothing else
//! in it blocks: orders are taken, guard and command move their bytes (output
//! goes only where there is credit for it), the connection is kept alive and
//! watched.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cluster::guard::{Guard, Notice};
use crate::cluster::input::Reader;
use crate::cluster::node::{GuardJob, Job, Node, Order, Script, SudoJob};
use crate::cluster::ports::{CommandPorts, Source, SudoDoor};
use crate::cluster::stream::Tap;
use crate::error::Tree;
use crate::event::{Identity, Level, Log, NodeEvent, Outcome, Status, Stream, ToolEnd};
use crate::output::credit::Credit;
use crate::remote::command_line::in_run_directory;
use crate::remote::guard;
use crate::remote::sudo::Gate;
use crate::ssh::process::{Exit, Process, Request, Step, TerminalSize};
use crate::ssh::session::{Session, SessionError};

/// How long the commands get to end after they were told to: the guard takes
/// three seconds before it kills them.
const ENDING: Duration = Duration::from_millis(4_100);

/// How long the last output of a command that has been ended may take.
const LAST_OUTPUT: Duration = Duration::from_millis(300);

/// Longer than this nobody has to wait for anything.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// How long a guard may take to get ready, however long connecting took.
const LEAST_PATIENCE: Duration = Duration::from_secs(1);

/// What lies unsent in the kernel is looked at in steps of so many bytes: more than
/// a few heartbeats, and little on any wire.
const PAGE: i32 = 4096;

/// How long a guard that was let go may take.
const LEAVING: Duration = Duration::from_secs(2);

/// A name that no run directory has, so that nothing is done in another one.
const NO_RUN_DIRECTORY: &str = "none";

/// A node that is logged in.
pub(super) struct Serving<'a> {
    node: &'a Node,
    session: Session,
    /// How long a guard may take to get ready.
    patience: Duration,
    /// A channel for whatever is started next. While nothing else runs, it keeps
    /// the connection's queue empty. (Servers may allow few channels, so it is
    /// not opened before it is needed.)
    spare: Process,
    guard: Option<Guard>,
    running: Option<Running>,
    /// The name of the run directory, if there is one.
    run_directory: Option<String>,
    /// Channels that are not waited for any more. They go with the session.
    abandoned: Vec<Process>,
    /// The run is being ended, and we have heard of it.
    is_ending: bool,
    goal: Goal,
}

/// What the guard is let go for.
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

/// A command that runs.
struct Running {
    job: Arc<Job>,
    process: Process,
    ports: CommandPorts,
    started: Option<Instant>,
    /// It takes an upload.
    upload: Option<Flow>,
    /// It is being ended, for this reason, and waited for so long.
    ending: Option<(Outcome, Instant)>,
}

/// How an upload goes.
struct Flow {
    /// Main knows that the host waits for it.
    is_announced: bool,
    /// How much the connection had taken, how much more the host was willing to
    /// take, and, of the last of it, how much was on the way, when it was looked
    /// at last.
    taken: (u64, u32, i32),
    /// Since when nothing has been taken that was there to be taken.
    stuck_since: Instant,
}

impl<'a> Serving<'a> {
    /// `patience` is what connecting has left of `--conn-timeout`, for the guard
    /// to get ready.
    pub(super) fn new(node: &'a Node, session: Session, patience: Duration) -> Self {
        Self {
            node,
            session,
            patience: patience.max(LEAST_PATIENCE),
            spare: Process::default(),
            guard: None,
            running: None,
            run_directory: None,
            abandoned: Vec::new(),
            is_ending: false,
            goal: Goal::Stay,
        }
    }

    /// Does as it is told until all is over.
    pub(super) fn serve(mut self) -> Outcome {
        let outcome = loop {
            match self.turn() {
                Ok(None) => {}
                Ok(Some(outcome)) => break outcome,
                Err(error) => break self.lost(error),
            }
        };
        if let Some(running) = &mut self.running {
            running.ports.finish(false);
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
            self.end_commands(Outcome::cancelled());
        }
        while let Ok(order) = self.node.orders.try_recv() {
            self.obey(order);
        }
        let now = Instant::now();
        let mut step = Step::default();
        if self.guard.is_none() && self.running.is_none() {
            step = self.spare.idle(&self.session)?;
        }
        // Of a connection that is lost, only the last output is of interest.
        let is_lost = self.session.lost().is_some() && self.running.is_some();
        if !is_lost && let Some(outcome) = self.tend_guard(now, &mut step)? {
            return Ok(Some(outcome));
        }
        self.tend_command(now, &mut step)?;
        self.rest(step)?;
        Ok(None)
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Guard(job) => self.guard = Some(self.start_guard(&job)),
            // It was on its way when the run was stopped.
            Order::Run(_) | Order::Upload(..) | Order::MakeRunDirectory(_) if self.is_ending => {
                self.node.tell(NodeEvent::Finished(Outcome::cancelled()));
            }
            Order::Run(job) => self.running = Some(self.start_command(job)),
            Order::Upload(job, chunks) => {
                self.running = Some(self.start_upload(job, Tap::new(chunks)));
            }
            Order::MakeRunDirectory(id) => {
                let order = guard::Order::MakeRunDirectory(id);
                if !self.order_guard(order) {
                    self.fail_upload("there is nobody left on the host to make the run directory");
                }
            }
            Order::Tell(text) => self.with_ports(|ports| ports.deliver(text)),
            Order::Close => self.with_ports(CommandPorts::close),
            Order::FailTool(reason) => self.with_ports(|ports| ports.fail_tool(reason)),
            Order::Unlock => self.let_go(Goal::Wait(Instant::now() + LEAVING)),
            Order::Release => self.let_go(Goal::Leave(Instant::now() + LEAVING)),
            // Answers to a question that has been answered.
            Order::Trust | Order::Distrust(_) => {}
        }
    }

    /// Tells the guard something, if there is one that listens.
    fn order_guard(&mut self, order: guard::Order) -> bool {
        let guard = self.guard.as_mut().filter(|guard| guard.is_ready());
        guard.map(|guard| guard.order(order)).is_some()
    }

    /// Does something to what runs, if something does.
    fn with_ports(&mut self, change: impl FnOnce(&mut CommandPorts)) {
        if let Some(running) = &mut self.running {
            change(&mut running.ports);
        }
    }

    fn fail_upload(&self, reason: impl Into<Tree>) {
        let outcome = Outcome::failed(Status::Upload, reason.into());
        self.node.tell(NodeEvent::Finished(outcome));
    }

    fn let_go(&mut self, goal: Goal) {
        self.goal = goal;
        if let Some(guard) = &mut self.guard {
            guard.order(guard::Order::Done);
        }
    }

    /// What happens when there is no guard (any more): there is nobody to wait
    /// for.
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

    /// A process with this to start, on the channel that is there already.
    fn launch(
        &mut self,
        as_user: &str,
        as_root: &str,
        terminal: Option<(String, TerminalSize)>,
    ) -> Process {
        let command = if self.is_root() { as_root } else { as_user };
        let name = self.run_directory.as_deref().unwrap_or(NO_RUN_DIRECTORY);
        let command = in_run_directory(command, name);
        let mut process = std::mem::take(&mut self.spare);
        process.start(Request { command, terminal });
        process
    }

    fn is_root(&self) -> bool {
        self.node.target.user == "root"
    }

    fn door(&self, sudo: Option<&SudoJob>, stream: Stream) -> Option<SudoDoor> {
        let sudo = sudo.filter(|_| !self.is_root())?;
        let gate = Gate::new(sudo.nonces.clone());
        Some(SudoDoor::new(gate, stream, sudo.password.clone()))
    }

    fn start_guard(&mut self, job: &GuardJob) -> Guard {
        let process = self.launch(&job.command, &job.as_root, None);
        let door = self.door(job.sudo.as_ref(), Stream::Stderr);
        let now = Instant::now();
        Guard::new(process, door, job.period, now, now + self.patience)
    }

    fn start_command(&mut self, job: Arc<Job>) -> Running {
        if job.keeps_run_directory {
            // Without a guard there is nobody who would remove it.
            self.order_guard(guard::Order::KeepRunDirectory);
        }
        let source = match &job.input {
            Some(input) => Source::File(Reader::new(Arc::clone(input), self.node.id)),
            None => Source::Nothing,
        };
        self.start(job, source)
    }

    fn start_upload(&mut self, job: Arc<Job>, archive: Tap) -> Running {
        Running {
            upload: Some(Flow {
                is_announced: false,
                taken: (0, 0, 0),
                stuck_since: Instant::now(),
            }),
            ..self.start(job, Source::Archive(archive))
        }
    }

    fn start(&mut self, job: Arc<Job>, source: Source) -> Running {
        let mut process = self.launch(&job.command, &job.as_root, job.terminal.clone());
        if let Some(guard) = self.guard.as_mut().filter(|guard| guard.is_ready()) {
            // It has to know before: we can be killed at any moment.
            guard.order(guard::Order::Starting);
            process.hold(true);
        }
        let node = self.node;
        let credit = Credit::new(node.settings.credit, node.waker.clone());
        let mut ports = CommandPorts::new(node.id, node.display.clone(), credit, source);
        let stream = match job.terminal {
            Some(_) => Stream::Stdout,
            None => Stream::Stderr,
        };
        if let Some(door) = self.door(job.sudo.as_ref(), stream) {
            ports = ports.behind(door);
        }
        if job.script.is_some() {
            ports = ports.of_ours();
        }
        if let Some(protocol) = &job.protocol {
            ports = ports.talking(protocol);
        }
        Running {
            job,
            process,
            ports,
            started: None,
            upload: None,
            ending: None,
        }
    }

    /// Has the command ended on the host, if one runs.
    fn end_commands(&mut self, outcome: Outcome) {
        let Some(running) = &mut self.running else {
            return;
        };
        if running.ending.is_some() {
            return;
        }
        let outcome = Outcome {
            duration: running.duration(),
            ..outcome
        };
        // What is not started yet must not be started behind the order to stop.
        running.process.hold(true);
        running.ending = Some((outcome, Instant::now() + ENDING));
        match self.guard.as_mut().filter(|guard| guard.is_ready()) {
            Some(guard) => guard.order(guard::Order::Stop),
            None => {
                // The guard is dead: another one does this part of its work.
                let sweep = Arc::clone(&running.job.sweep);
                let mut guard = self.start_guard(&sweep);
                guard.order(guard::Order::Done);
                self.drop_guard();
                self.guard = Some(guard);
            }
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
            match notice {
                Notice::Ready => {
                    let identity = self
                        .guard
                        .as_ref()
                        .and_then(|guard| guard.identity().cloned());
                    self.node.tell(NodeEvent::Guarded(identity));
                }
                Notice::Refused(refusal) => {
                    self.drop_guard();
                    self.node.tell(NodeEvent::Refused(refusal));
                }
                Notice::NotLetIn(reason) => return Ok(Some(Outcome::failed(Status::Auth, reason))),
                Notice::NotStarted(reason) => {
                    return Ok(Some(Outcome::failed(Status::Refused, reason)));
                }
                Notice::Lost(reason) => self.node.tell(NodeEvent::LockLost(reason)),
                Notice::CommandsEnded(survivors) => {
                    if !survivors.is_empty() {
                        let text = format!("these processes could not be ended: {survivors}");
                        self.log(Level::Warn, text);
                    }
                    if let Some((_, limit)) = self
                        .running
                        .as_mut()
                        .and_then(|running| running.ending.as_mut())
                    {
                        *limit = now + LAST_OUTPUT;
                    }
                }
                Notice::RunDirectory(made) => self.note_run_directory(made),
                Notice::Left(left) => self.node.tell(NodeEvent::Left(left)),
                Notice::Gone => self.drop_guard(),
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
            let text = "timed out while getting ready to lock";
            return Ok(Some(Outcome::failed(Status::Unreachable, text.into())));
        }
        Ok(None)
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

    fn tend_command(&mut self, now: Instant, step: &mut Step) -> Result<(), SessionError> {
        let Some(running) = &mut self.running else {
            return Ok(());
        };
        let knows = |guard: &Guard| guard.has_been_told() || guard.is_over();
        if running.ending.is_none() && self.guard.as_ref().is_none_or(knows) {
            running.process.hold(false);
        }
        match running.process.step(&mut self.session, &mut running.ports) {
            Ok(moved) => step.add(moved),
            // It never started, and the guard is there to be let go properly.
            Err(SessionError::Refused(reason)) => {
                self.finish_command(Outcome::failed(Status::Refused, reason), true, step);
                return Ok(());
            }
            Err(lost) => return Err(lost),
        }
        if running.started.is_none() && running.process.has_started() {
            running.started = Some(now);
            if let Some(guard) = &mut self.guard {
                guard.order(guard::Order::Started);
                step.progress = true;
            }
            running.ports.started();
            if running.upload.is_none() {
                self.node.tell(NodeEvent::Started);
            }
        }
        if let Some(error) = running.ports.take_input_error() {
            self.node.tell(NodeEvent::InputFailed(error));
        }
        if let Some(place) = running.announced_upload() {
            self.node.tell(NodeEvent::Awaiting(place));
        }
        let upload_problem =
            running.upload_problem(now, self.node.settings.liveness.send_timeout, &self.session);
        let is_over = running.process.is_over();
        let exit = running.process.exit().filter(|_| is_over).cloned();
        let is_given_up = running
            .ending
            .as_ref()
            .is_some_and(|(_, limit)| now >= *limit);
        let is_too_slow = running.deadline().is_some_and(|limit| now >= limit);
        if exit.is_some() || is_given_up {
            let by_itself = running.ending.is_none();
            let outcome = match (running.ending.take(), &exit) {
                (Some((outcome, _)), _) => outcome,
                (None, Some(exit)) => running.ended(exit),
                (None, None) => Outcome::cancelled(),
            };
            self.finish_command(outcome, by_itself, step);
        } else if running.ending.is_some() {
            // It is on its way.
        } else if let Some(reason) = upload_problem {
            self.end_commands(Outcome::failed(Status::Upload, reason));
            step.progress = true;
        } else if let Some(problem) = running.ports.tool_problem().cloned() {
            // That is how it will end.
            let status = Status::Signal("TERM".to_owned());
            self.end_commands(Outcome::failed(status, problem));
            step.progress = true;
        } else if is_too_slow {
            let outcome = Outcome {
                status: Status::Timeout,
                ..Outcome::cancelled()
            };
            self.end_commands(outcome);
            step.progress = true;
        }
        Ok(())
    }

    /// What ran has ended, by itself or not.
    fn finish_command(&mut self, outcome: Outcome, by_itself: bool, step: &mut Step) {
        let Some(mut running) = self.running.take() else {
            return;
        };
        running.ports.finish(by_itself);
        running.ports.ended(match outcome.status {
            Status::Ok => ToolEnd::Succeeded,
            _ => ToolEnd::Failed,
        });
        if let Some(guard) = self.guard.as_mut().filter(|_| by_itself) {
            guard.order(guard::Order::Finished);
        }
        step.progress = true;
        let is_upload = running.upload.is_some();
        self.abandoned.push(running.process);
        self.node
            .tell(if is_upload && outcome.status == Status::Ok {
                NodeEvent::Uploaded(outcome)
            } else {
                NodeEvent::Finished(outcome)
            });
    }

    /// Keeps the connection alive and, if nothing has moved, sleeps until
    /// something can be done. (Data may be queued in libssh2 while the socket is
    /// quiet, so it is not slept after a step that did move something.)
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
            let limits = [
                self.guard.as_ref().and_then(Guard::due),
                self.running.as_ref().and_then(|running| {
                    running.next_limit(self.node.settings.liveness.send_timeout)
                }),
                self.goal.limit(),
            ];
            until = limits.into_iter().flatten().fold(until, Instant::min);
            self.session.poll(&self.node.wakeup, step.writing, until);
        }
        Ok(())
    }

    fn lost(&self, error: SessionError) -> Outcome {
        // A command that had ended before has ended.
        if let Some(running) = &self.running
            && let Some(exit) = running.process.exit()
        {
            return running.ended(exit);
        }
        let (status, reason) = match error {
            SessionError::Lost(reason) => (Status::Connection, reason),
            SessionError::Refused(reason) => (Status::Refused, reason),
            SessionError::Interrupted(_) => return Outcome::cancelled(),
        };
        Outcome {
            duration: self
                .running
                .as_ref()
                .map_or(Duration::ZERO, Running::duration),
            ..Outcome::failed(status, reason)
        }
    }
}

impl Running {
    fn duration(&self) -> Duration {
        self.started
            .map_or(Duration::ZERO, |started| started.elapsed())
    }

    /// When it has to have ended. That somebody takes long to read its output
    /// does not count.
    fn deadline(&self) -> Option<Instant> {
        if self.process.is_all_here() {
            return None;
        }
        Some(self.started? + self.job.timeout?)
    }

    fn next_limit(&self, send_timeout: Duration) -> Option<Instant> {
        match &self.ending {
            Some((_, limit)) => Some(*limit),
            None => {
                let stuck = self.upload.as_ref().filter(|_| self.is_stuck());
                let stuck = stuck.map(|flow| flow.stuck_since + send_timeout);
                [self.deadline(), stuck].into_iter().flatten().min()
            }
        }
    }

    /// Whether an upload waits for the host: to get ready, to take more, or to
    /// end when it has been sent everything.
    fn is_stuck(&self) -> bool {
        let waits_for_us =
            self.ports.is_awaiting() && self.process.is_flushed() && !self.ports.has_sent_archive();
        self.process.exit().is_none() && !waits_for_us
    }

    /// Where the host has just said that an upload may come, if it has.
    fn announced_upload(&mut self) -> Option<Identity> {
        let place = self.ports.upload_place()?;
        let flow = self.upload.as_mut()?;
        let was_announced = std::mem::replace(&mut flow.is_announced, true);
        (!was_announced).then(|| place.clone())
    }

    /// Why an upload cannot go on, if that is so.
    fn upload_problem(
        &mut self,
        now: Instant,
        send_timeout: Duration,
        session: &Session,
    ) -> Option<Tree> {
        if let Some(reason) = self.ports.broken_archive() {
            return Some(reason.clone());
        }
        let is_stuck = self.is_stuck();
        // The end of it may take its time on a slow link.
        let is_all_sent = self.ports.has_sent_archive();
        // (In pages: heartbeats come and go meanwhile, and show nothing.)
        let on_the_way = if is_all_sent {
            session.on_the_way() / PAGE
        } else {
            0
        };
        let taken = (self.process.taken(), self.process.window(), on_the_way);
        let flow = self.upload.as_mut()?;
        if !is_stuck || taken != flow.taken {
            flow.taken = taken;
            flow.stuck_since = now;
        }
        (now >= flow.stuck_since + send_timeout).then(|| {
            let what = if flow.is_announced {
                "the host has taken no data"
            } else {
                "the host has not got ready for it"
            };
            format!("{what} for {}s", send_timeout.as_secs_f64()).into()
        })
    }

    fn ended(&self, exit: &Exit) -> Outcome {
        let (status, reason) = match exit {
            _ if self.ports.sudo_refusal().is_some() => (Status::Auth, self.ports.sudo_refusal()),
            _ if self.upload.is_some() => self.upload_ended(exit),
            Exit::Status(0) => (Status::Ok, None),
            _ if self.job.script == Some(Script::Place) => self.placing_failed(exit),
            Exit::Status(127)
                if self.job.needs_bash && is_bash_missing(&self.ports.last_words()) =>
            {
                let hint = "there is no bash on the host, use --shell \"sh -c {}\"";
                (Status::Exit(127), Some(hint.into()))
            }
            Exit::Status(code) => (Status::Exit(*code), None),
            Exit::Signal(name) => (Status::Signal(name.clone()), None),
        };
        Outcome {
            status,
            reason,
            duration: self.duration(),
        }
    }

    /// Why an upload is not in its place.
    fn placing_failed(&self, exit: &Exit) -> (Status, Option<Tree>) {
        let reason = self.ports.complaint().unwrap_or_else(|| match exit {
            Exit::Status(code) => format!("can't put it in place: code {code}").into(),
            Exit::Signal(name) => format!("can't put it in place: signal {name}").into(),
        });
        (Status::Upload, Some(reason))
    }

    /// What became of an upload.
    fn upload_ended(&self, exit: &Exit) -> (Status, Option<Tree>) {
        let said = self.ports.upload_reason();
        let reason = match exit {
            Exit::Status(0) if self.ports.has_sent_archive() => return (Status::Ok, None),
            Exit::Status(0) => said.unwrap_or_else(|| "tar ended before it had all of it".into()),
            Exit::Status(code) => said.unwrap_or_else(|| format!("tar: code {code}").into()),
            Exit::Signal(name) => said.unwrap_or_else(|| format!("tar: signal {name}").into()),
        };
        (Status::Upload, Some(reason))
    }
}

/// What shells say when they do not find it: `sh: 1: exec: bash: not found`,
/// `sh: bash: command not found`.
fn is_bash_missing(last_words: &str) -> bool {
    last_words.ends_with("bash: not found") || last_words.ends_with("bash: command not found")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_bash_is_told_from_other_missing_commands() {
        assert!(is_bash_missing("sh: 1: exec: bash: not found"));
        assert!(is_bash_missing("bash: line 1: exec: bash: not found"));
        assert!(!is_bash_missing("bash: line 1: foo: command not found"));
        assert!(!is_bash_missing("bash: foo: command not found"));
    }
}
