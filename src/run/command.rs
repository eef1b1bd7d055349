//! The mode `-C`: one command on all hosts at once. (A sync tool is one, too.)

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cluster::fan_out::FanOut;
use crate::cluster::input::{self, Input, InputError};
use crate::cluster::job::{Job, JobKind, Order, Protocol};
use crate::config::{Command, InputFile};
use crate::error::Tree;
use crate::event::{Level, NodeId, Outcome, ToolEnd, ToolEvent};
use crate::output::{Phase, summary};
use crate::remote::script::Script;
use crate::run::ending::Stop;
use crate::run::{Conduct, Run, State};
use crate::ssh::process::TerminalSize;

/// How long sync tools have to end by themselves when one of them has failed.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// What a sync tool has, and other commands have not.
#[derive(Default)]
pub(super) struct Tool {
    /// What happens to the run directory is up to it.
    pub(super) keeps_run_directory: bool,
    /// It talks to the others.
    pub(super) protocol: Option<Protocol>,
}

impl Run {
    /// Starts the command on all hosts that are ready and waits for all of them.
    pub(super) fn command(
        &mut self,
        command: Command,
        tool: Tool,
        conduct: Conduct,
    ) -> Result<(), Stop> {
        let job = self.job(command, tool)?;
        self.last_step(&job, conduct)
    }

    /// As [`Run::command`], as one step of a run: hosts on which it went well are
    /// ready for more.
    pub(super) fn step(&mut self, job: &Arc<Job>, conduct: Conduct) -> Result<(), Stop> {
        self.run_job(job, conduct)?;
        for node in self.nodes(|state| matches!(state, State::Passed)) {
            self.states[node.0] = State::Guarded(None);
        }
        Ok(())
    }

    /// As [`Run::step`], as the last step.
    pub(super) fn last_step(&mut self, job: &Arc<Job>, conduct: Conduct) -> Result<(), Stop> {
        self.is_last_step = true;
        self.run_job(job, conduct)
    }

    fn run_job(&mut self, job: &Arc<Job>, conduct: Conduct) -> Result<(), Stop> {
        let ready = self.nodes(|state| matches!(state, State::Guarded(_)));
        let mut fan_out = FanOut::new(conduct.threads, ready);
        // Until then tools may end that cannot do without one that has failed.
        let mut patience: Option<Instant> = None;
        self.enter(Phase::Exec);
        loop {
            while patience.is_none()
                && let Some(node) = fan_out.admit()
            {
                self.states[node.0] = State::Running;
                self.cluster.order(node, Order::Run(Arc::clone(job)));
            }
            if !self.states.iter().any(State::is_busy) {
                break;
            }
            if fan_out.is_idle() && self.phase == Phase::Exec {
                self.enter(Phase::Wait);
            }
            let Some(node) = self.next_event(patience)? else {
                if patience.is_some_and(|limit| Instant::now() >= limit) {
                    return Err(Stop::FailFast);
                }
                continue;
            };
            // Started, or ended without.
            fan_out.release(node);
            if !self.has_failed(node) {
                continue;
            }
            if conduct.fail_fast {
                return Err(Stop::FailFast);
            }
            if let JobKind::Tool(protocol) = &job.kind {
                // It may have ended before it knew of a tool. (The coordinator
                // may have ended too.)
                let _ = protocol
                    .events
                    .send(ToolEvent::Ended(node, ToolEnd::Failed));
                if !conduct.is_loose && patience.is_none() {
                    patience = Some(Instant::now() + LAST_WORDS);
                    self.say_others_end(node);
                }
            }
        }
        for node in self.nodes(|state| matches!(state, State::Guarded(_))) {
            self.states[node.0] = State::Finished(Outcome::cancelled());
        }
        Ok(())
    }

    fn say_others_end(&self, node: NodeId) {
        let cause = self.states[node.0].outcome().map(summary::cause);
        let node = self.targets[node.0].node();
        let headline = format!("{node} the sync tool has failed, so all others are ended");
        self.log(
            Level::Error,
            cause.into_iter().fold(Tree::new(headline), Tree::because),
        );
    }

    fn has_failed(&self, node: NodeId) -> bool {
        let outcome = self.states[node.0].outcome();
        outcome.is_some_and(|outcome| !outcome.is_ok())
    }

    fn job(&self, command: Command, tool: Tool) -> Result<Arc<Job>, Stop> {
        let input = command
            .input
            .map(|file| self.input(file))
            .transpose()
            .map_err(|error| Stop::Local(Tree::from_error(&error)))?;
        Ok(Arc::new(Job {
            script: Script::Command(command.line),
            kind: match tool.protocol {
                Some(protocol) => JobKind::Tool(protocol),
                None => JobKind::Command {
                    input,
                    terminal: command.terminal.then(local_terminal),
                },
            },
            timeout: command.timeout,
            keeps_run_directory: tool.keeps_run_directory,
        }))
    }

    /// The input of all hosts: a file that each reads by itself, or a pipe that
    /// somebody has to read for them.
    fn input(&self, InputFile { file, name }: InputFile) -> Result<Arc<Input>, InputError> {
        if file.metadata().is_ok_and(|metadata| metadata.is_file()) {
            return Ok(Arc::new(Input::from_file(file, name)?));
        }
        let input = Arc::new(Input::spooled(name, self.targets.len())?);
        for node in self.nodes(|state| !state.is_live()) {
            input.leave(node);
        }
        let problems = self.input_problems.0.clone();
        input::start_feeder(file, Arc::clone(&input), self.cluster.wakers(), problems)?;
        Ok(input)
    }
}

/// Type and size of our own terminal, or what everybody can be.
fn local_terminal() -> (String, TerminalSize) {
    let kind = std::env::var("TERM").unwrap_or_default();
    let kind = if kind.is_empty() {
        "vt100".to_owned()
    } else {
        kind
    };
    let size = [
        rustix::stdio::stdout(),
        rustix::stdio::stderr(),
        rustix::stdio::stdin(),
    ]
    .into_iter()
    .find_map(|fd| rustix::termios::tcgetwinsize(fd).ok())
    .filter(|size| size.ws_col > 0 && size.ws_row > 0);
    let size = size.map_or(
        TerminalSize {
            columns: 80,
            rows: 24,
        },
        |size| TerminalSize {
            columns: size.ws_col,
            rows: size.ws_row,
        },
    );
    (kind, size)
}
