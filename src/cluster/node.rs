//! What one node thread does: connect, log in, run a command, end.
//!
//! Until the login everything happens in a row. Then there is one loop around
//! `poll(2)` on the socket and the wake-up pipe, and nothing else in it blocks:
//! output goes only where there is credit for it, orders are taken, the
//! connection is kept alive and watched.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};

use crate::cluster::input::{Input, Reader};
use crate::cluster::ports::CommandPorts;
use crate::error::Tree;
use crate::event::{HostKey, Level, Log, NodeEvent, NodeId, Outcome, Status, Stream};
use crate::hosts::Target;
use crate::hosts::known_hosts::KnownHosts;
use crate::output::Display;
use crate::output::credit::Credit;
use crate::remote::sudo::{Gate, Nonces};
use crate::ssh::auth::{self, AuthError, Credentials, Secret};
use crate::ssh::connect::{self, ConnectError};
use crate::ssh::host_keys::{self, Judgement, Policy};
use crate::ssh::process::{Exit, Ports, Process, Request, Step, TerminalSize};
use crate::ssh::session::{Interrupted, Liveness, Patience, Session, SessionError};
use crate::wake::{Waker, Wakeup};

/// What is the same for all nodes of a run.
pub struct Settings {
    /// What is known about host keys.
    pub known_hosts: KnownHosts,
    /// What to do with unknown ones.
    pub policy: Policy,
    /// How to log in.
    pub credentials: Credentials,
    /// For TCP connect, handshake and authentication together.
    pub connect_timeout: Duration,
    /// When a silent host counts as lost.
    pub liveness: Liveness,
}

/// What a node is told.
pub enum Order {
    /// The host key that it asked about is the right one.
    Trust,
    /// It is not, for this reason.
    Distrust(Tree),
    /// Run this command, then end.
    Run(Arc<Job>),
}

/// A command for many hosts.
pub struct Job {
    /// The string for the login shell.
    pub command: String,
    /// The default shell is used, so a missing bash needs a hint.
    pub needs_bash: bool,
    /// It runs under sudo, announced by these words.
    pub sudo: Option<SudoJob>,
    /// The type and size of the pseudo-terminal, if it gets one.
    pub terminal: Option<(String, TerminalSize)>,
    /// What its stdin gets; end of file at once without.
    pub input: Option<Arc<Input>>,
    /// How long it may take.
    pub timeout: Option<Duration>,
}

/// How a command gets past sudo.
pub struct SudoJob {
    /// The command line without sudo, for a root login that needs none.
    pub as_root: String,
    /// What sudo and the script under it say.
    pub nonces: Nonces,
    /// What sudo wants to know.
    pub password: Option<Secret>,
}

/// One node, in its own thread.
pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) target: Target,
    pub(super) settings: Arc<Settings>,
    pub(super) display: Display,
    pub(super) orders: Receiver<Order>,
    pub(super) events: Sender<(NodeId, NodeEvent)>,
    pub(super) waker: Waker,
    pub(super) wakeup: Wakeup,
    pub(super) cancelled: Arc<AtomicBool>,
}

/// A command that runs.
struct Running {
    job: Arc<Job>,
    ports: CommandPorts,
    started: Option<Instant>,
}

impl Node {
    /// From the first connection to the end of the command.
    pub(super) fn live(&mut self) -> Outcome {
        let mut session = match self.connect() {
            Ok(session) => session,
            Err(outcome) => return outcome,
        };
        self.tell(NodeEvent::Connected);
        let mut process = Process::default();
        let outcome = match self.wait_for_job(&mut session, &mut process) {
            Ok(job) => {
                let mut running = self.prepare(job, &mut process);
                let outcome = self.run(&mut session, &mut process, &mut running);
                running.ports.finish();
                outcome
            }
            Err(outcome) => outcome,
        };
        session.disconnect();
        // Before the channel: see `Drop` of the session.
        drop(session);
        outcome
    }

    fn tell(&self, event: NodeEvent) {
        // Main may be gone already.
        let _ = self.events.send((self.id, event));
    }

    fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }

    /// Makes the connection and logs in, asking about the host key in between
    /// where nobody knows it.
    fn connect(&self) -> Result<Session, Outcome> {
        let mut left = self.settings.connect_timeout;
        let mut trusted: Option<HostKey> = None;
        loop {
            let begun = Instant::now();
            let cancelled = || self.is_cancelled();
            let patience = Patience {
                deadline: begun + left,
                wakeup: &self.wakeup,
                cancelled: &cancelled,
            };
            let (session, key) = self.greet(&patience, trusted.as_ref())?;
            let mut asked = false;
            if let Some(key) = key {
                // Nothing counts against the time-out while somebody decides.
                left = left.saturating_sub(begun.elapsed());
                self.ask_about(&key)?;
                trusted = Some(key);
                asked = true;
            }
            let patience = Patience {
                deadline: if asked {
                    Instant::now() + left
                } else {
                    patience.deadline
                },
                ..patience
            };
            match self.log_in(&session, &patience) {
                Ok(()) => return Ok(session),
                // While somebody thought about the key, the server may have
                // given up. The next one must show the same key.
                Err(AuthError::Lost(_)) if asked => left = self.settings.connect_timeout,
                Err(AuthError::Lost(reason)) => {
                    return Err(Outcome::failed(Status::Unreachable, reason));
                }
                Err(AuthError::Refused(reason)) => {
                    return Err(Outcome::failed(Status::Auth, reason));
                }
                Err(AuthError::Interrupted(interrupted)) => {
                    return Err(self.interrupted(interrupted, "logging in"));
                }
            }
        }
    }

    /// Connects, and checks that the host is the right one: an unknown key comes
    /// back for somebody to decide, unless it is the one that was `trusted`.
    fn greet(
        &self,
        patience: &Patience<'_>,
        trusted: Option<&HostKey>,
    ) -> Result<(Session, Option<HostKey>), Outcome> {
        let node = self.target.node();
        let log = self.display.about(&node);
        let (host, port) = (self.target.host.as_str(), self.target.port);
        let socket = connect::connect(host, port, patience, &log).map_err(|error| match error {
            ConnectError::Failed(reason) => Outcome::failed(Status::Unreachable, reason),
            ConnectError::Interrupted(interrupted) => self.interrupted(interrupted, "connecting"),
        })?;
        let known = self.settings.known_hosts.lookup(host, port);
        let handshake = || -> Result<(Session, HostKey), SessionError> {
            let mut session = Session::new(socket, self.settings.liveness, &known.types())?;
            session.handshake(patience, &log)?;
            let key = session.host_key()?;
            Ok((session, key))
        };
        let (session, key) = handshake().map_err(|error| match error {
            SessionError::Lost(reason) | SessionError::Refused(reason) => {
                Outcome::failed(Status::Unreachable, reason)
            }
            SessionError::Interrupted(interrupted) => {
                self.interrupted(interrupted, "the SSH handshake")
            }
        })?;
        let refused = |reason| Err(Outcome::failed(Status::HostKey, reason));
        if let Some(trusted) = trusted {
            return if trusted.blob == key.blob {
                Ok((session, None))
            } else {
                refused(
                    format!(
                        "the host shows another key than the accepted one: {} {}",
                        key.algorithm, key.fingerprint
                    )
                    .into(),
                )
            };
        }
        let verdict = known.verdict(&key.blob);
        match host_keys::judge(self.settings.policy, verdict, host, port, &key) {
            Judgement::Trusted(why) => {
                log.log(Level::Debug, why.into());
                Ok((session, None))
            }
            Judgement::Tolerated(warning) => {
                log.log(Level::Warn, warning);
                Ok((session, None))
            }
            Judgement::Unknown => Ok((session, Some(key))),
            Judgement::Refused(reason) => refused(reason),
        }
    }

    /// Lets main decide about a key, however long that takes.
    fn ask_about(&self, key: &HostKey) -> Result<(), Outcome> {
        self.tell(NodeEvent::UnknownHostKey(key.clone()));
        loop {
            self.wakeup.clear();
            if self.is_cancelled() {
                return Err(Outcome::cancelled());
            }
            match self.orders.try_recv() {
                Ok(Order::Trust) => return Ok(()),
                Ok(Order::Distrust(reason)) => {
                    return Err(Outcome::failed(Status::HostKey, reason));
                }
                Ok(Order::Run(_)) | Err(_) => {}
            }
            self.wakeup.wait();
        }
    }

    fn log_in(&self, session: &Session, patience: &Patience<'_>) -> Result<(), AuthError> {
        let node = self.target.node();
        let log = self.display.about(&node);
        let credentials = &self.settings.credentials;
        auth::log_in(session, &self.target.user, credentials, patience, &log)
    }

    fn interrupted(&self, interrupted: Interrupted, during: &str) -> Outcome {
        match interrupted {
            Interrupted::Cancelled => Outcome::cancelled(),
            Interrupted::TimedOut => Outcome::failed(
                Status::Unreachable,
                format!(
                    "timed out after {}s while {during}",
                    self.settings.connect_timeout.as_secs_f64()
                )
                .into(),
            ),
        }
    }

    /// Logged in, and waiting for the others.
    fn wait_for_job(
        &self,
        session: &mut Session,
        process: &mut Process,
    ) -> Result<Arc<Job>, Outcome> {
        loop {
            self.wakeup.clear();
            if self.is_cancelled() {
                return Err(Outcome::cancelled());
            }
            if let Ok(Order::Run(job)) = self.orders.try_recv() {
                return Ok(job);
            }
            process
                .idle(session)
                .and_then(|step| self.rest(session, step, None))
                .map_err(|error| lost(error, Duration::ZERO))?;
        }
    }

    /// The loop while the command runs.
    fn run(&self, session: &mut Session, process: &mut Process, running: &mut Running) -> Outcome {
        loop {
            self.wakeup.clear();
            if self.is_cancelled() {
                return give_up(session, process, running);
            }
            let step = match process.step(session, &mut running.ports) {
                Ok(step) => step,
                Err(error) => return lost(error, running.duration()),
            };
            if running.started.is_none() && process.has_started() {
                running.started = Some(Instant::now());
                self.tell(NodeEvent::Started);
            }
            if let Some(exit) = process.exit() {
                return running.ended(exit);
            }
            if let Some(error) = running.ports.take_input_error() {
                self.tell(NodeEvent::InputFailed(error));
                return Outcome::cancelled();
            }
            let limit = running.deadline();
            if limit.is_some_and(|limit| Instant::now() >= limit) {
                return running.timed_out();
            }
            if let Err(error) = self.rest(session, step, limit) {
                return lost(error, running.duration());
            }
        }
    }

    /// Keeps the connection alive and, if the step before moved nothing, sleeps
    /// until something can be done. (Data may be queued in libssh2 while the
    /// socket is quiet, so it is not slept after a step that did move something.)
    fn rest(
        &self,
        session: &mut Session,
        step: Step,
        limit: Option<Instant>,
    ) -> Result<(), SessionError> {
        let now = Instant::now();
        if step.heard {
            session.heard(now);
        }
        let due = session.tend(now)?;
        if !step.progress {
            let deadline = limit.map_or(due, |limit| limit.min(due));
            session.poll(&self.wakeup, step.writing, deadline);
        }
        Ok(())
    }

    /// Connects a command with its surroundings, and starts it.
    fn prepare(&self, job: Arc<Job>, process: &mut Process) -> Running {
        let input = job
            .input
            .as_ref()
            .map(|input| Reader::new(Arc::clone(input), self.id));
        let credit = Credit::new(self.waker.clone());
        let mut ports = CommandPorts::new(self.id, self.display.clone(), credit, input);
        let mut command = &job.command;
        if let Some(sudo) = &job.sudo {
            if self.target.user == "root" {
                command = &sudo.as_root;
            } else {
                let stream = match job.terminal {
                    Some(_) => Stream::Stdout,
                    None => Stream::Stderr,
                };
                let gate = Gate::new(sudo.nonces.clone());
                ports = ports.behind_sudo(gate, stream, sudo.password.clone());
            }
        }
        process.start(Request {
            command: command.clone(),
            terminal: job.terminal.clone(),
        });
        Running {
            job,
            ports,
            started: None,
        }
    }
}

/// Cancelled: what has arrived is still shown.
fn give_up(session: &Session, process: &mut Process, running: &mut Running) -> Outcome {
    while running.ports.room() > 0 {
        match process.step(session, &mut running.ports) {
            Ok(step) if step.heard => {}
            _ => break,
        }
        if let Some(exit) = process.exit() {
            return running.ended(exit);
        }
    }
    Outcome {
        duration: running.duration(),
        ..Outcome::cancelled()
    }
}

impl Running {
    fn duration(&self) -> Duration {
        self.started
            .map_or(Duration::ZERO, |started| started.elapsed())
    }

    fn deadline(&self) -> Option<Instant> {
        Some(self.started? + self.job.timeout?)
    }

    fn ended(&self, exit: &Exit) -> Outcome {
        let (status, reason) = match exit {
            _ if !self.ports.is_past_sudo() => (Status::Auth, Some(self.sudo_refused())),
            Exit::Status(0) => (Status::Ok, None),
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

    fn sudo_refused(&self) -> Tree {
        if self.ports.password_was_wrong() {
            return "sudo does not take the password".into();
        }
        Tree::new("sudo refused").because(self.ports.last_words())
    }

    fn timed_out(&self) -> Outcome {
        Outcome {
            status: Status::Timeout,
            reason: None,
            duration: self.duration(),
        }
    }
}

fn lost(error: SessionError, duration: Duration) -> Outcome {
    match error {
        SessionError::Lost(reason) | SessionError::Refused(reason) => Outcome {
            duration,
            ..Outcome::failed(Status::Connection, reason)
        },
        SessionError::Interrupted(_) => Outcome::cancelled(),
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
