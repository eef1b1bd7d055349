//! How long each node has been connecting, and what follows from that. Pure.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::event::NodeId;

/// A host that connects for longer than this is reported as slow.
const SLOW: Duration = Duration::from_secs(2);

/// A node ends by itself when its time is up. One that has not done so this long after
/// is ended from here, first by its socket and then without it.
const OVERDUE: Duration = Duration::from_secs(1);

/// How well a node gets on with connecting. Each pace follows the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pace {
    /// As it should be.
    Normal,
    /// So slow that the user is told.
    Slow,
    /// Beyond its time: its connection is to be broken off.
    Overdue,
    /// Not even that has ended it: the run goes on without waiting for it.
    Hopeless,
}

/// The nodes that are connecting.
#[derive(Debug, Default)]
pub(super) struct Paces {
    nodes: BTreeMap<NodeId, Connecting>,
}

/// A node that is connecting.
#[derive(Debug, Clone, Copy)]
struct Connecting {
    since: Instant,
    /// The time that it has.
    timeout: Duration,
    pace: Pace,
}

impl Connecting {
    /// When the pace changes, and to which other one.
    fn next(self) -> Option<(Instant, Pace)> {
        // Never before it was called slow, so that the paces keep their order.
        let overdue = SLOW.max(self.timeout + OVERDUE);
        let (time, pace) = match self.pace {
            Pace::Normal => (SLOW, Pace::Slow),
            Pace::Slow => (overdue, Pace::Overdue),
            Pace::Overdue => (overdue + OVERDUE, Pace::Hopeless),
            Pace::Hopeless => return None,
        };
        Some((self.since + time, pace))
    }
}

impl Paces {
    /// A node begins to connect, or goes on after it was asked about. It has this time.
    pub(super) fn start(&mut self, node: NodeId, timeout: Duration, now: Instant) {
        let connecting = Connecting {
            since: now,
            timeout,
            pace: Pace::Normal,
        };
        self.nodes.insert(node, connecting);
    }

    /// A node is not connecting any more.
    pub(super) fn stop(&mut self, node: NodeId) {
        self.nodes.remove(&node);
    }

    /// When some pace changes next.
    pub(super) fn next_change(&self) -> Option<Instant> {
        let nodes = self.nodes.values();
        nodes
            .filter_map(|connecting| Some(connecting.next()?.0))
            .min()
    }

    /// All changes of pace that are due, in target order.
    pub(super) fn changes(&mut self, now: Instant) -> Vec<(NodeId, Pace)> {
        let mut changes = Vec::new();
        for (node, connecting) in &mut self.nodes {
            while let Some((time, next)) = connecting.next()
                && now >= time
            {
                connecting.pace = next;
                changes.push((*node, next));
            }
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId(3);

    #[test]
    fn a_node_is_called_slow_then_broken_off_then_given_up() {
        let begun = Instant::now();
        let mut paces = Paces::default();
        let timeout = Duration::from_secs(10);
        paces.start(NODE, timeout, begun);
        let after = |seconds| begun + Duration::from_secs(seconds);
        for (seconds, pace) in [(2, Pace::Slow), (11, Pace::Overdue), (12, Pace::Hopeless)] {
            assert_eq!(paces.next_change(), Some(after(seconds)));
            assert_eq!(paces.changes(after(seconds - 1)), []);
            assert_eq!(paces.changes(after(seconds)), [(NODE, pace)]);
        }
        assert_eq!(paces.next_change(), None);
        assert_eq!(paces.changes(after(100)), []);
    }

    #[test]
    fn a_late_look_sees_all_changes_in_their_order() {
        let begun = Instant::now();
        let mut paces = Paces::default();
        let timeout = Duration::from_millis(100);
        paces.start(NODE, timeout, begun);
        paces.start(NodeId(1), timeout, begun + Duration::from_secs(1));
        let changes = paces.changes(begun + Duration::from_secs(3));
        let of_node = [Pace::Slow, Pace::Overdue, Pace::Hopeless].map(|pace| (NODE, pace));
        let of_other = [Pace::Slow, Pace::Overdue].map(|pace| (NodeId(1), pace));
        assert_eq!(changes, [&of_other[..], &of_node[..]].concat());
    }

    #[test]
    fn time_that_the_user_takes_does_not_count() {
        let begun = Instant::now();
        let mut paces = Paces::default();
        let timeout = Duration::from_secs(10);
        paces.start(NODE, timeout, begun);
        paces.stop(NODE);
        let later = begun + Duration::from_secs(1000);
        assert_eq!(paces.changes(later), []);
        paces.start(NODE, timeout, later);
        assert_eq!(paces.changes(later + Duration::from_secs(1)), []);
        assert_eq!(paces.next_change(), Some(later + SLOW));
    }
}
