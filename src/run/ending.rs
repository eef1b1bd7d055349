//! The end of a run: what stopped it, what still has to be said, and the exit
//! status.

use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvError, after, at, bounded, select};
use signal_hook::consts::SIGTERM;
use signal_hook::low_level::signal_name;

use crate::cluster::job::Order;
use crate::error::Tree;
use crate::event::{Level, Log, NodeId, Outcome};
use crate::exit_status::ExitStatus;
use crate::hosts::{Target, fold};
use crate::output::Message;
use crate::output::printer::OutputError;
use crate::output::summary;
use crate::run::{Outlets, Run, State};

/// How long nodes get to end their commands: the guards take three
/// seconds before they kill, and a little more.
const GRACE: Duration = Duration::from_millis(4_200);

/// When a run that is being stopped ends, whatever its hosts do.
const AT_THE_LATEST: Duration = Duration::from_millis(4_600);

/// How long nodes get that are not logged in yet, and have nothing to end. (Looking
/// up a name, and an agent, cannot be interrupted.)
const PARTING: Duration = Duration::from_millis(300);

/// How long nodes get to free their locks and to part after a normal run.
const FAREWELL: Duration = Duration::from_millis(2_500);

/// How long a run that was stopped tries to write output that nobody reads.
const LAST_WORDS: Duration = Duration::from_secs(1);

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
                self.last_words.say();
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
        if stop.has_results() && self.has_commands && !has_reported {
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
        let states = self.targets.iter().zip(&self.states);
        states
            .filter_map(|(target, state)| state.outcome().map(|outcome| (target, outcome)))
            .collect()
    }

    fn report(&self) {
        if let Some(tree) = summary::of_commands(&self.results(), self.extent) {
            self.log(Level::Fatal, tree);
        }
    }

    /// Ends what runs on all hosts, and then lets them go.
    fn end_nodes(&mut self) {
        self.cluster.cancel();
        // A server that keeps a call into libssh2 busy keeps its node from hearing
        // of it.
        for node in self.nodes(State::is_connecting) {
            self.cluster.unplug(node);
        }
        let now = Instant::now();
        self.settle(now + GRACE, |state| {
            state.is_busy() && !state.is_connecting()
        });
        self.release(now + AT_THE_LATEST);
        self.settle(now + PARTING, State::is_live);
        for state in &mut self.states {
            if !matches!(state, State::Ended(_) | State::Skipped) {
                *state = State::Ended(state.outcome().cloned().unwrap_or_else(Outcome::cancelled));
            }
        }
        for (node, reason) in &self.results.lost_locks {
            let state = &mut self.states[node.0];
            let outcome = state.outcome().cloned().unwrap_or_else(Outcome::cancelled);
            *state = State::Ended(outcome.without_lock(reason));
        }
    }

    /// Frees the locks, last of all.
    fn release(&mut self, deadline: Instant) {
        let is_there = |state: &State| state.is_live() && !state.is_connecting();
        for node in self.nodes(is_there) {
            self.cluster.order(node, Order::Release);
        }
        self.settle(deadline, is_there);
        let late = self.nodes(is_there);
        self.unconfirmed.extend(late);
        self.tell_unconfirmed();
    }

    fn tell_unconfirmed(&self) {
        if self.unconfirmed.is_empty() {
            return;
        }
        let nodes = self.unconfirmed.iter();
        let names = nodes.map(|node| self.targets[node.0].prefix.as_str());
        let text = format!(
            "no word in time that all has ended and the lock is free on {}: {}",
            summary::nodes(self.unconfirmed.len()),
            fold(names)
        );
        self.log(Level::Warn, text);
    }

    /// Takes what nodes say while any of them is in such a state, for as long as
    /// that is reasonable.
    fn settle(&mut self, deadline: Instant, is_awaited: fn(&State) -> bool) {
        let deadline = at(deadline);
        let events = self.cluster.events().clone();
        while self.states.iter().any(is_awaited) {
            select! {
                recv(events) -> event => {
                    if let Ok((node, event)) = event {
                        // What stops a run that is being stopped does not matter.
                        let _ = self.note(node, event);
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
