//! The mode `-C`: one command on all hosts at once. (A sync tool is one, too.)

use std::sync::Arc;

use crate::cluster::fan_out::FanOut;
use crate::cluster::input::{self, Input, InputError};
use crate::cluster::node::{Job, Order};
use crate::config::{Command, GuardLines, InputFile};
use crate::error::Tree;
use crate::event::Status;
use crate::run::ending::Stop;
use crate::run::{Conduct, Run, State};
use crate::ssh::process::TerminalSize;

impl Run {
    /// Starts the command on all hosts that are ready and waits for all of them.
    /// Where there is a run directory, it may be the command's from then on.
    pub(super) fn command(
        &mut self,
        command: Command,
        keeps_run_directory: bool,
        conduct: Conduct<'_>,
    ) -> Result<(), Stop> {
        let job = self.job(command, keeps_run_directory, conduct.guard)?;
        let ready = self.nodes(|state| matches!(state, State::Guarded(_)));
        let mut fan_out = FanOut::new(conduct.threads, ready);
        loop {
            while let Some(node) = fan_out.admit() {
                self.states[node.0] = State::Running;
                self.cluster.order(node, Order::Run(Arc::clone(&job)));
            }
            if !self.states.iter().any(State::is_busy) {
                return Ok(());
            }
            if let Some(node) = self.next_event(None)? {
                // Started, or ended without.
                fan_out.release(node);
                if conduct.fail_fast && self.has_failed(node) {
                    return Err(Stop::FailFast);
                }
            }
        }
    }

    fn has_failed(&self, node: crate::event::NodeId) -> bool {
        let outcome = self.states[node.0].outcome();
        outcome.is_some_and(|outcome| outcome.status != Status::Ok)
    }

    fn job(
        &self,
        command: Command,
        keeps_run_directory: bool,
        guard: &GuardLines,
    ) -> Result<Arc<Job>, Stop> {
        let input = command
            .input
            .map(|file| self.input(file))
            .transpose()
            .map_err(|error| Stop::Local(Tree::from_error(&error)))?;
        Ok(Arc::new(Job {
            command: command.line,
            as_root: command.as_root,
            needs_bash: command.needs_bash,
            sudo: self.sudo_job(command.nonces),
            sweep: Arc::new(self.guard_job(guard, &guard.sweep)),
            terminal: command.terminal.then(local_terminal),
            input,
            timeout: command.timeout,
            keeps_run_directory,
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
