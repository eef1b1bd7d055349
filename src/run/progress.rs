//! What main tells while it goes on: how far the run is, and how each host
//! ended.

use crate::event::{NodeId, Outcome};
use crate::output::{Message, Phase, Progress};
use crate::run::roster::Tally;
use crate::run::running::Run;

impl Run {
    /// The next phase begins.
    pub(super) fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.show_progress();
    }

    /// Tells the status bar where all hosts are. (How many bytes of an upload have
    /// been sent is told by who sends them.)
    pub(super) fn show_progress(&self) {
        let display = &self.console.display;
        if !display.shows_progress() {
            return;
        }
        let Tally {
            done,
            total,
            failed,
        } = self.roster.tally(self.phase);
        display.progress(Progress {
            phase: self.phase,
            done,
            total,
            failed,
            bytes: None,
        });
    }

    /// Tells how a host ended.
    pub(super) fn tell_result(&self, node: NodeId, outcome: Outcome) {
        let result = Message::Result { node, outcome };
        self.console.display.send(result);
    }

    /// Tells the results of hosts whose end is known by now, before they are
    /// ended for another reason.
    pub(super) fn tell_known_results(&mut self) {
        for (node, outcome) in self.roster.tell_known() {
            self.tell_result(node, outcome);
        }
    }

    /// No host will say anything more: all results are told, and what a display
    /// has kept comes out.
    pub(super) fn end_output(&mut self) {
        let Some(results) = self.roster.close() else {
            return;
        };
        for (node, outcome) in results {
            self.tell_result(node, outcome);
        }
        self.console.display.send(Message::EndOfRun);
    }
}
