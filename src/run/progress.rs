//! What main tells while it goes on: how far the run is, and how each host
//! ended.

use std::collections::{HashMap, HashSet};

use crate::error::Tree;
use crate::event::{NodeId, Outcome, Status};
use crate::output::{Message, Phase, Progress};
use crate::run::{Run, State};

/// What has been said about the hosts' ends.
#[derive(Default)]
pub(super) struct Results {
    /// Hosts whose result is out.
    told: HashSet<NodeId>,
    /// Hosts that lost their lock, which is what counts then.
    pub(super) lost_locks: HashMap<NodeId, Tree>,
    /// No host will say anything more, and the printer knows it.
    is_over: bool,
}

impl Run {
    /// The next phase begins.
    pub(super) fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.show_progress();
    }

    /// Tells the status bar where all hosts are. (How many bytes of an upload have
    /// been sent is told by who sends them.)
    pub(super) fn show_progress(&self) {
        let display = &self.outlets.display;
        if !display.shows_progress() {
            return;
        }
        let is_sending = self
            .states
            .iter()
            .any(|state| matches!(state, State::Uploading));
        let (mut done, mut failed, mut skipped) = (0, 0, 0);
        for state in &self.states {
            let has_failed = match state {
                State::Finished(outcome) | State::Ended(outcome) => outcome.status != Status::Ok,
                State::Refused(_) => true,
                _ => false,
            };
            failed += usize::from(has_failed);
            skipped += usize::from(matches!(state, State::Skipped));
            done += usize::from(self.phase.is_over_for(state, is_sending));
        }
        display.progress(Progress {
            phase: self.phase,
            done,
            total: self.states.len() - skipped,
            failed,
            bytes: None,
        });
    }

    /// Tells how a host ended that was waited for, once.
    pub(super) fn tell_result(&mut self, node: NodeId) {
        let outcome = match &self.states[node.0] {
            State::Refused(refusal) => {
                let (what, reason) = super::locking::describe(refusal);
                let reason =
                    reason.map_or(Tree::new(what), |reason| Tree::new(what).because(reason));
                Outcome::failed(Status::Lock, reason)
            }
            state => state.outcome().cloned().unwrap_or_else(Outcome::cancelled),
        };
        let outcome = match self.results.lost_locks.get(&node) {
            Some(reason) => outcome.without_lock(reason),
            None => outcome,
        };
        if self.results.told.insert(node) {
            let result = Message::Result { node, outcome };
            self.outlets.display.send(result);
        }
    }

    /// Tells the results of hosts whose end is known by now, before they are
    /// ended for another reason.
    pub(super) fn tell_known_results(&mut self) {
        let is_known =
            |state: &State| matches!(state, State::Refused(_)) || state.outcome().is_some();
        for node in self.nodes(is_known) {
            self.tell_result(node);
        }
    }

    /// No host will say anything more: all results are told, and what a display
    /// has kept comes out.
    pub(super) fn end_output(&mut self) {
        for node in self.nodes(|_| true) {
            self.tell_result(node);
        }
        if !std::mem::replace(&mut self.results.is_over, true) {
            self.outlets.display.send(Message::EndOfRun);
        }
    }
}

impl Phase {
    fn is_over_for(self, state: &State, is_sending: bool) -> bool {
        match (self, state) {
            (_, State::Skipped) => false,
            (_, State::Passed | State::Ended(_) | State::Finished(_)) => true,
            (Self::Connect, _) => !matches!(
                state,
                State::Waiting | State::Connecting(..) | State::Asking
            ),
            (Self::Lock, _) => matches!(state, State::Refused(_) | State::Guarded(_)),
            // Nothing is sent to anybody before all are ready for it.
            (Self::Upload, _) => matches!(state, State::Guarded(_)) && is_sending,
            (Self::Exec, _) => matches!(state, State::Running),
            (Self::Wait, _) => false,
        }
    }
}
