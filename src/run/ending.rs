//! The end of a run: what stopped it, what still has to be said, and the exit
//! status.

use std::time::Instant;

use crossbeam_channel::{Receiver, RecvError, after, at, bounded, select};
use signal_hook::consts::SIGTERM;
use signal_hook::low_level::signal_name;

use crate::cluster::job::Order;
use crate::deadlines::{COMMANDS_END, FAREWELL, LAST_WORDS, LOCKS_FREE, PARTING};
use crate::error::Tree;
use crate::event::{Level, Log, NodeId, Outcome};
use crate::exit_status::ExitStatus;
use crate::hosts::{Target, fold};
use crate::output::Message;
use crate::output::OutputError;
use crate::output::summary;
use crate::run::roster::State;
use crate::run::{Outlets, Run};

/// What stops a run before its end.
#[derive(Debug)]
pub(super) enum Stop {
    /// A signal.
    Signal(i32),
    /// Our stdout is gone, or full.
    Output(OutputError),
    /// Something on this machine: a key, a passphrase, the `-i` file.
    Local(Tree),
    /// A lock was lost, and the user has been told.
    LockLost,
    /// The first failure, under `--fail-fast`.
    FailFast,
    /// A host has not taken the upload, so that nothing may be run anywhere.
    NotUploaded,
    /// Hosts failed, and the user has been told.
    Failed(ExitStatus),
}

impl Stop {
    pub(super) fn signal(received: Result<i32, RecvError>) -> Self {
        Self::Signal(received.unwrap_or(SIGTERM))
    }

    /// The exit status of a run whose hosts give that of `hosts`.
    fn status(&self, hosts: ExitStatus) -> ExitStatus {
        match self {
            Self::FailFast | Self::NotUploaded => hosts,
            Self::LockLost => ExitStatus::LockLost,
            Self::Signal(signal) => ExitStatus::Signal(*signal),
            Self::Output(OutputError::Closed) => ExitStatus::BrokenPipe,
            Self::Output(_) | Self::Local(_) => ExitStatus::Usage,
            Self::Failed(status) => *status,
        }
    }

    /// What there is to say about it, if that has not been said.
    fn announcement(&self) -> Option<(Level, Tree)> {
        match self {
            Self::Signal(signal) => {
                let name = signal_name(*signal).unwrap_or("a signal");
                let text = format!("{name} received, ending the run (once more: at once)");
                Some((Level::Warn, text.into()))
            }
            Self::Output(OutputError::Closed) => None,
            Self::Output(error) => Some((Level::Fatal, Tree::from_error(error))),
            Self::Local(tree) => Some((Level::Fatal, tree.clone())),
            Self::FailFast | Self::NotUploaded | Self::LockLost | Self::Failed(_) => None,
        }
    }

    /// Whether the results of the hosts are worth telling now.
    fn has_results(&self) -> bool {
        matches!(
            self,
            Self::Signal(_) | Self::Local(_) | Self::FailFast | Self::NotUploaded | Self::LockLost
        )
    }
}

impl Outlets {
    /// The end of a run that did not begin.
    pub(super) fn close(&mut self, stop: Stop, hosts: usize) -> ExitStatus {
        for node in (0..hosts).map(NodeId) {
            let outcome = Outcome::cancelled();
            self.display.send(Message::Result { node, outcome });
        }
        match &stop {
            // Ctrl-C at a prompt needs no explanation.
            Stop::Signal(_) => {}
            _ => self.announce(&stop),
        }
        self.flush_briefly(Some(&stop));
        stop.status(ExitStatus::Success)
    }

    /// Waits until everything is written that has been said so far, but not for
    /// long: the run must end.
    fn flush_briefly(&mut self, stop: Option<&Stop>) {
        let done = request_flush(self);
        select! {
            recv(done) -> _ => {}
            recv(after(LAST_WORDS)) -> _ => {
                // Who has gone away does not miss it.
                if !matches!(stop, Some(Stop::Output(_))) {
                    let warning = "the end of the output was not read in time, and is lost";
                    self.display.log(Level::Warn, warning.into());
                }
                self.pending_logs.write();
            }
        }
    }

    fn announce(&self, stop: &Stop) {
        if let Some((level, text)) = stop.announcement() {
            self.display.log(level, text);
        }
    }
}

impl Run {
    /// Ends what still runs, reports, and says how the process is to end.
    pub(super) fn end(&mut self, result: Result<(), Stop>) -> ExitStatus {
        self.roster.stop();
        let has_reported = result.is_ok();
        let result = result.and_then(|()| {
            self.end_output();
            self.report();
            flush(&self.outlets)
        });
        let Err(stop) = result else {
            self.release(Instant::now() + FAREWELL);
            self.tell_leftovers();
            self.outlets.flush_briefly(None);
            return self.status();
        };
        self.outlets.announce(&stop);
        self.tell_known_results();
        self.end_nodes();
        self.end_output();
        self.tell_leftovers();
        if stop.has_results() && !self.roster.policy().only_locks && !has_reported {
            self.report();
        }
        self.outlets.flush_briefly(Some(&stop));
        stop.status(self.status())
    }

    fn status(&self) -> ExitStatus {
        ExitStatus::of(self.results().iter().map(|(_, outcome)| &outcome.status))
    }

    /// How the hosts ended that the run was about.
    fn results(&self) -> Vec<(&Target, &Outcome)> {
        let outcomes = self.roster.outcomes().into_iter();
        outcomes
            .map(|(node, outcome)| (&self.targets[node.0], outcome))
            .collect()
    }

    fn report(&self) {
        if let Some(tree) = summary::of_commands(&self.results(), self.detail) {
            self.log(Level::Fatal, tree);
        }
    }

    /// Ends what runs on all hosts, and then lets them go.
    fn end_nodes(&mut self) {
        self.cluster.cancel();
        // A server that keeps a call into libssh2 busy keeps its node from hearing
        // of it.
        for node in self.roster.nodes(State::is_connecting) {
            self.cluster.unplug(node);
        }
        let now = Instant::now();
        self.settle(now + COMMANDS_END, State::is_busy);
        self.release(now + LOCKS_FREE);
        self.settle(now + PARTING, State::is_live);
        self.roster.cut_off();
    }

    /// Frees the locks, last of all.
    fn release(&mut self, deadline: Instant) {
        for node in self.roster.nodes(State::holds_on) {
            self.cluster.order(node, Order::Release);
        }
        self.settle(deadline, State::holds_on);
        self.tell_unconfirmed();
    }

    fn tell_unconfirmed(&self) {
        let unconfirmed = self.roster.unconfirmed();
        if unconfirmed.is_empty() {
            return;
        }
        let nodes = unconfirmed.iter();
        let names = nodes.map(|node| self.targets[node.0].prefix.as_str());
        let text = format!(
            "no word in time that all has ended and the lock is free on {}: {}",
            summary::nodes(unconfirmed.len()),
            fold(names)
        );
        self.log(Level::Warn, text);
    }

    /// Takes what nodes say while any of them is in such a state, for as long as
    /// that is reasonable.
    fn settle(&mut self, deadline: Instant, is_awaited: fn(&State) -> bool) {
        let deadline = at(deadline);
        let events = self.cluster.events().clone();
        while self.roster.any(is_awaited) {
            select! {
                recv(events) -> event => {
                    if let Ok((node, attempt, event)) = event {
                        // Nothing stops a run that is being stopped.
                        let _ = self.hear(node, attempt, event);
                    }
                }
                recv(deadline) -> _ => break,
            }
        }
    }
}

/// Waits until everything is written that has been said so far.
pub(super) fn flush(outlets: &Outlets) -> Result<(), Stop> {
    let done = request_flush(outlets);
    select! {
        recv(done) -> _ => match outlets.output_problems.try_recv() {
            Ok(problem) => Err(Stop::Output(problem)),
            Err(_) => Ok(()),
        },
        recv(outlets.output_problems) -> problem => {
            Err(Stop::Output(problem.unwrap_or(OutputError::Closed)))
        }
        recv(outlets.signals) -> signal => Err(Stop::signal(signal)),
    }
}

fn request_flush(outlets: &Outlets) -> Receiver<()> {
    let (sender, done) = bounded(1);
    outlets.display.send(Message::Flush(sender));
    done
}
