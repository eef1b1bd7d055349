//! The end of a run: everything is taken down, and what is left to say is said.

use std::time::Instant;

use crossbeam_channel::{at, select};

use crate::cluster::job::Order;
use crate::deadlines::{COMMANDS_END, FAREWELL, LOCKS_FREE, PARTING};
use crate::event::{Level, Outcome};
use crate::exit_status::ExitStatus;
use crate::hosts::{Target, fold};
use crate::output::summary;
use crate::run::roster::State;
use crate::run::running::Run;
use crate::run::stop::Stop;

impl Run {
    /// Ends what still runs, reports, and says how the process is to end.
    pub(super) fn end(&mut self, result: Result<(), Stop>) -> ExitStatus {
        self.roster.stop();
        let has_reported = result.is_ok();
        let result = result.and_then(|()| {
            self.end_output();
            self.report();
            self.console.flush()
        });
        let Err(stop) = result else {
            self.release(Instant::now() + FAREWELL);
            self.tell_leftovers();
            self.console.flush_briefly(None);
            return self.status();
        };
        self.console.announce(&stop);
        self.tell_known_results();
        self.end_nodes();
        self.end_output();
        self.tell_leftovers();
        if stop.has_results() && !self.roster.policy().only_locks && !has_reported {
            self.report();
        }
        self.console.flush_briefly(Some(&stop));
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
