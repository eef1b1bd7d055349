//! Loans that are held back because a display that keeps output has no room: its
//! temporary file cannot be written.
//!
//! A node without credit reads nothing from its host, so the command there waits.
//! Heartbeats go on.

use std::time::{Duration, Instant};

use crate::event::NodeId;
use crate::output::credit::Loan;

/// The time between two tries to make room.
const RETRY: Duration = Duration::from_secs(1);

/// How long a run goes on in which every host waits for room. Such a run ends only if
/// somebody frees disk space.
const STUCK: Duration = Duration::from_secs(60);

/// The loans that are held back.
pub(crate) struct Backlog {
    loans: Vec<(NodeId, Loan)>,
    /// The node's command has ended, and no other one has sent anything.
    has_ended: Vec<bool>,
    next_try: Option<Instant>,
    /// The first failed try at which every node waited or had ended.
    stuck_since: Option<Instant>,
    has_given_up: bool,
}

impl Backlog {
    /// An empty backlog for this number of nodes.
    #[must_use]
    pub(crate) fn new(nodes: usize) -> Self {
        Self {
            loans: Vec::new(),
            has_ended: vec![false; nodes],
            next_try: None,
            stuck_since: None,
            has_given_up: false,
        }
    }

    /// Holds a loan back.
    pub(crate) fn hold(&mut self, node: NodeId, loan: Loan, now: Instant) {
        self.loans.push((node, loan));
        self.next_try.get_or_insert(now + RETRY);
    }

    /// Returns the loans of nodes for which there is room.
    pub(crate) fn release(&mut self, mut has_room: impl FnMut(NodeId) -> bool) {
        self.loans.retain(|(node, _)| !has_room(*node));
        if self.loans.is_empty() {
            self.next_try = None;
            self.stuck_since = None;
        }
    }

    /// Whether no loan is held back.
    #[must_use]
    pub(crate) fn is_empty(&self) -> bool {
        self.loans.is_empty()
    }

    /// Notes output of a node.
    pub(crate) fn note_output(&mut self, node: NodeId) {
        self.has_ended[node.0] = false;
    }

    /// Notes the end of a node's command, or of the node.
    pub(crate) fn note_end(&mut self, node: NodeId) {
        self.has_ended[node.0] = true;
    }

    /// When to try to make room. None if no loan is held back.
    #[must_use]
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.next_try
    }

    /// Notes a failed try to make room. True, once, if every node has been waiting or
    /// ended for [`STUCK`].
    pub(crate) fn note_failed_try(&mut self, now: Instant) -> bool {
        self.next_try = Some(now + RETRY);
        if !self.is_stuck() {
            self.stuck_since = None;
            return false;
        }
        let since = *self.stuck_since.get_or_insert(now);
        let is_hopeless = now.saturating_duration_since(since) >= STUCK;
        is_hopeless && !std::mem::replace(&mut self.has_given_up, true)
    }

    fn is_stuck(&self) -> bool {
        let mut is_done = self.has_ended.clone();
        for (node, loan) in &self.loans {
            is_done[node.0] |= loan.is_awaited();
        }
        is_done.into_iter().all(|is_done| is_done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::credit::Credit;
    use crate::wake;

    #[test]
    fn a_run_is_given_up_after_a_minute_in_which_all_hosts_waited() {
        let (waker, _wakeup) = wake::pair().expect("pipe");
        let credits = [(); 2].map(|()| Credit::new(100, waker.clone()));
        let mut backlog = Backlog::new(3);
        let begun = Instant::now();
        let after = |seconds| begun + Duration::from_secs(seconds);
        assert_eq!(backlog.deadline(), None);
        backlog.hold(NodeId(0), credits[0].lend(100), begun);
        backlog.hold(NodeId(1), credits[1].lend(60), begun);
        assert_eq!(backlog.deadline(), Some(begun + RETRY));
        // One may still send, another one runs in silence.
        assert!(!backlog.note_failed_try(after(100)));
        backlog.hold(NodeId(1), credits[1].lend(40), after(101));
        assert!(!backlog.note_failed_try(after(200)));
        backlog.note_end(NodeId(2));
        assert!(!backlog.note_failed_try(after(300)));
        assert!(!backlog.note_failed_try(after(359)));
        // It was only the end of a step.
        backlog.note_output(NodeId(2));
        assert!(!backlog.note_failed_try(after(361)));
        backlog.note_end(NodeId(2));
        assert!(!backlog.note_failed_try(after(362)));
        assert!(backlog.note_failed_try(after(422)));
        assert!(!backlog.note_failed_try(after(423)));
    }

    #[test]
    fn the_credit_comes_back_when_there_is_room() {
        let (waker, _wakeup) = wake::pair().expect("pipe");
        let credits = [(); 2].map(|()| Credit::new(100, waker.clone()));
        let mut backlog = Backlog::new(2);
        let now = Instant::now();
        for (node, credit) in credits.iter().enumerate() {
            backlog.hold(NodeId(node), credit.lend(100), now);
        }
        backlog.release(|node| node == NodeId(1));
        assert_eq!(credits.each_ref().map(|credit| credit.room()), [0, 100]);
        assert!(!backlog.is_empty());
        backlog.release(|_| true);
        assert_eq!(credits[0].room(), 100);
        assert!(backlog.is_empty() && backlog.deadline().is_none());
    }
}
