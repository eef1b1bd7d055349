//! Which node may start next. Pure.
//!
//! Nodes start in target order, at most `limit` (`-d`) of them at once. A node that
//! has started no longer counts against the limit, but the schedule follows it to its
//! end: [`Schedule::is_over`] is the end of the step.
//!
//! [`Schedule::admit`] is the only way in, and [`Schedule::note`] the only way that
//! news comes in, so a further rule (one batch after the other, a budget of failures)
//! is a condition in the one and a count in the other.

use std::collections::{HashSet, VecDeque};

use crate::event::NodeId;

/// How far a node is with what it has begun last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// It is starting, and counts against the limit.
    Starting,
    /// It has started, or waits for main.
    UnderWay,
    /// It is through, and ready for the next thing.
    AtRest,
    /// It has ended, and will never start anything again.
    Gone,
}

/// The nodes of one step of a run.
#[derive(Debug)]
pub(super) struct Schedule {
    limit: usize,
    waiting: VecDeque<NodeId>,
    starting: HashSet<NodeId>,
    under_way: HashSet<NodeId>,
}

impl Schedule {
    /// Starts these nodes in this order, at most `limit` at once.
    pub(super) fn new(limit: usize, nodes: impl IntoIterator<Item = NodeId>) -> Self {
        Self {
            limit,
            waiting: nodes.into_iter().collect(),
            starting: HashSet::new(),
            under_way: HashSet::new(),
        }
    }

    /// Lets the next node start, if one may.
    pub(super) fn admit(&mut self) -> Option<NodeId> {
        if self.starting.len() >= self.limit {
            return None;
        }
        let node = self.waiting.pop_front()?;
        self.starting.insert(node);
        Some(node)
    }

    /// Takes note of how far a node is. A node that waits for its turn goes on waiting,
    /// unless it is gone.
    pub(super) fn note(&mut self, node: NodeId, stage: Stage) {
        match stage {
            Stage::Starting => {}
            Stage::UnderWay => {
                if self.starting.remove(&node) {
                    self.under_way.insert(node);
                }
            }
            Stage::AtRest | Stage::Gone => {
                self.starting.remove(&node);
                self.under_way.remove(&node);
            }
        }
        if stage == Stage::Gone {
            self.waiting.retain(|waiting| *waiting != node);
        }
    }

    /// Puts a node that is under way at the end of the queue: it has to start again.
    pub(super) fn requeue(&mut self, node: NodeId) {
        if self.under_way.remove(&node) {
            self.waiting.push_back(node);
        }
    }

    /// Lets no other node start.
    pub(super) fn close(&mut self) {
        self.waiting.clear();
    }

    /// Whether no node waits for its turn or is starting.
    #[must_use]
    pub(super) fn has_started_all(&self) -> bool {
        self.waiting.is_empty() && self.starting.is_empty()
    }

    /// Whether all nodes are through.
    #[must_use]
    pub(super) fn is_over(&self) -> bool {
        self.has_started_all() && self.under_way.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn nodes(count: usize) -> impl Iterator<Item = NodeId> {
        (0..count).map(NodeId)
    }

    fn admitted(schedule: &mut Schedule) -> Vec<usize> {
        std::iter::from_fn(|| schedule.admit())
            .map(|node| node.0)
            .collect()
    }

    #[test]
    fn no_more_than_the_limit_are_starting() {
        let mut schedule = Schedule::new(2, nodes(3));
        assert_eq!(admitted(&mut schedule), [0, 1]);
        schedule.note(NodeId(0), Stage::UnderWay);
        assert_eq!(admitted(&mut schedule), [2]);
        assert!(!schedule.has_started_all());
        schedule.note(NodeId(1), Stage::AtRest);
        schedule.note(NodeId(2), Stage::UnderWay);
        assert!(schedule.has_started_all() && !schedule.is_over());
        schedule.note(NodeId(0), Stage::AtRest);
        schedule.note(NodeId(2), Stage::Gone);
        assert!(schedule.is_over());
    }

    #[test]
    fn the_same_news_twice_frees_one_place() {
        let mut schedule = Schedule::new(1, nodes(3));
        assert_eq!(admitted(&mut schedule), [0]);
        schedule.note(NodeId(0), Stage::AtRest);
        schedule.note(NodeId(0), Stage::AtRest);
        assert_eq!(admitted(&mut schedule), [1]);
    }

    #[test]
    fn a_node_that_is_gone_before_its_turn_is_not_started() {
        let mut schedule = Schedule::new(1, nodes(3));
        assert_eq!(admitted(&mut schedule), [0]);
        schedule.note(NodeId(1), Stage::Gone);
        // Other news of one that waits changes nothing.
        schedule.note(NodeId(2), Stage::AtRest);
        schedule.note(NodeId(0), Stage::AtRest);
        assert_eq!(admitted(&mut schedule), [2]);
    }

    #[test]
    fn a_node_that_waited_for_main_takes_its_turn_again() {
        let mut schedule = Schedule::new(1, nodes(2));
        assert_eq!(admitted(&mut schedule), [0]);
        schedule.note(NodeId(0), Stage::UnderWay);
        assert_eq!(admitted(&mut schedule), [1]);
        schedule.requeue(NodeId(0));
        assert!(!schedule.has_started_all());
        assert_eq!(admitted(&mut schedule), [0; 0]);
        schedule.note(NodeId(1), Stage::AtRest);
        assert_eq!(admitted(&mut schedule), [0]);
        // One that is not there to be started again is not.
        schedule.requeue(NodeId(1));
        assert_eq!(admitted(&mut schedule), [0; 0]);
    }

    #[test]
    fn a_closed_schedule_is_over_when_those_that_have_started_are_through() {
        let mut schedule = Schedule::new(1, nodes(3));
        assert_eq!(admitted(&mut schedule), [0]);
        schedule.close();
        assert!(!schedule.is_over());
        schedule.note(NodeId(0), Stage::AtRest);
        assert_eq!(admitted(&mut schedule), [0; 0]);
        assert!(schedule.is_over());
    }

    proptest! {
        #[test]
        fn everybody_starts_exactly_once_and_never_more_than_the_limit_at_once(
            count in 0usize..20,
            limit in 1usize..6,
            news in prop::collection::vec((any::<prop::sample::Index>(), 0usize..4), 0..200),
        ) {
            let mut schedule = Schedule::new(limit, nodes(count));
            let mut started = BTreeMap::<usize, usize>::new();
            let mut starting = HashSet::new();
            let mut lost = HashSet::new();
            let end = nodes(count).map(|node| (node, Stage::AtRest));
            let news = news.into_iter().filter(|_| count > 0).map(|(index, stage)| {
                let stages = [Stage::Starting, Stage::UnderWay, Stage::AtRest, Stage::Gone];
                (NodeId(index.index(count)), stages[stage])
            });
            // At the end all come to rest, as often as it takes to let all in.
            let rounds = std::iter::repeat_n(end.collect::<Vec<_>>(), count + 1).flatten();
            for (node, stage) in news.chain(rounds) {
                while let Some(node) = schedule.admit() {
                    prop_assert!(!lost.contains(&node), "{node:?} was gone");
                    starting.insert(node);
                    *started.entry(node.0).or_default() += 1;
                }
                prop_assert!(starting.len() <= limit);
                if stage == Stage::Gone && !started.contains_key(&node.0) {
                    lost.insert(node);
                }
                if stage != Stage::Starting {
                    starting.remove(&node);
                }
                schedule.note(node, stage);
                prop_assert_eq!(&starting, &schedule.starting);
            }
            prop_assert!(schedule.is_over());
            prop_assert!(started.values().all(|times| *times == 1));
            prop_assert_eq!(started.len() + lost.len(), count);
        }
    }
}
