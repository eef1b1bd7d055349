//! The mode `-C`: one command on all hosts at once. (A sync tool is one, too.)

use std::sync::Arc;
use std::time::Instant;

use crate::cluster::input::{self, Input, InputError};
use crate::cluster::job::{Job, JobKind, Order, Protocol};
use crate::config::{Command, InputFile};
use crate::deadlines::TOOLS_END;
use crate::error::Tree;
use crate::event::{Level, NodeId, ToolEnd, ToolEvent};
use crate::output::{Phase, summary};
use crate::remote::script::Script;
use crate::run::roster::{Activity, State, Step, ToolFailure};
use crate::run::running::Run;
use crate::run::schedule::Schedule;
use crate::run::stop::Stop;
use crate::ssh::process::TerminalSize;

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
    pub(super) fn command(&mut self, command: Command, tool: Tool) -> Result<(), Stop> {
        let job = self.job(command, tool)?;
        self.last_step(&job)
    }

    /// As [`Run::command`], as one step of a run: hosts on which it went well are
    /// ready for more.
    pub(super) fn step(&mut self, job: &Arc<Job>) -> Result<(), Stop> {
        self.run_job(job, Step::Command { is_last: false })?;
        self.roster.regroup();
        Ok(())
    }

    /// As [`Run::step`], as the last step.
    pub(super) fn last_step(&mut self, job: &Arc<Job>) -> Result<(), Stop> {
        let step = match job.kind {
            JobKind::Tool(_) => Step::Tools,
            JobKind::Command { .. } | JobKind::Unpack | JobKind::Internal => {
                Step::Command { is_last: true }
            }
        };
        self.run_job(job, step)
    }

    /// Runs a job on all hosts that are ready, and waits for all of them.
    pub(super) fn run_job(&mut self, job: &Arc<Job>, step: Step) -> Result<(), Stop> {
        self.roster.enter(step);
        let ready = self.roster.nodes(State::is_ready);
        let mut schedule = Schedule::new(self.threads, ready);
        // Until then sync tools may end that cannot do without one that has failed.
        let mut tools_end: Option<Instant> = None;
        self.enter(Phase::Exec);
        loop {
            self.begin_next(&mut schedule, |run, node| {
                run.begin(node, Activity::Run, Order::Run(Arc::clone(job)));
            });
            if schedule.is_over() {
                break;
            }
            if schedule.has_started_all() && self.phase == Phase::Exec {
                self.enter(Phase::Wait);
            }
            let Some(heard) = self.next_event(tools_end)? else {
                if tools_end.is_some_and(|limit| Instant::now() >= limit) {
                    return Err(Stop::FailFast);
                }
                continue;
            };
            schedule.note(heard.node, self.roster.stage(heard.node));
            if let Some(failure) = heard.tool_failure {
                tell_coordinator(job, heard.node);
                if failure == ToolFailure::EndsOthers {
                    self.say_others_end(heard.node);
                    schedule.close();
                    tools_end = Some(Instant::now() + TOOLS_END);
                }
            }
        }
        self.roster.cancel_rest();
        Ok(())
    }

    fn say_others_end(&self, node: NodeId) {
        let cause = self.roster.outcome(node).map(summary::cause);
        let node = self.targets[node.0].node();
        let headline = format!("{node} the sync tool has failed, so all others are ended");
        self.log(
            Level::Error,
            cause.into_iter().fold(Tree::new(headline), Tree::because),
        );
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
        for node in self.roster.nodes(|state| !state.is_live()) {
            input.leave(node);
        }
        let problems = self.input_problems.0.clone();
        input::start_feeder(file, Arc::clone(&input), self.cluster.wakers(), problems)?;
        Ok(input)
    }
}

/// A tool may end before its node has taken note of it, so the coordinator hears of its
/// failure from here too. (It may have ended itself.)
fn tell_coordinator(job: &Job, node: NodeId) {
    if let JobKind::Tool(protocol) = &job.kind {
        let failed = ToolEvent::Ended(node, ToolEnd::Failed);
        let _ = protocol.events.send(failed);
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
