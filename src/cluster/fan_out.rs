//! Who may start when: at most so many nodes at once (`-d`). Pure.

use std::collections::{HashSet, VecDeque};

use crate::event::NodeId;

/// Nodes that wait for their turn, and those that have it.
#[derive(Debug)]
pub struct FanOut {
    limit: usize,
    waiting: VecDeque<NodeId>,
    active: HashSet<NodeId>,
}

impl FanOut {
    /// Nodes that start in this order, at most `limit` at once.
    pub fn new(limit: usize, nodes: impl IntoIterator<Item = NodeId>) -> Self {
        Self {
            limit,
            waiting: nodes.into_iter().collect(),
            active: HashSet::new(),
        }
    }

    /// Lets the next one in, if one may start now.
    pub fn admit(&mut self) -> Option<NodeId> {
        if self.active.len() >= self.limit {
            return None;
        }
        let node = self.waiting.pop_front()?;
        self.active.insert(node);
        Some(node)
    }

    /// A node makes room for others: it is done, or waits for somebody.
    pub fn release(&mut self, node: NodeId) {
        self.active.remove(&node);
    }

    /// A node stands at the end of the queue again.
    pub fn queue(&mut self, node: NodeId) {
        self.waiting.push_back(node);
    }

    /// Nobody waits, and nobody is at it.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.active.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_the_limit_are_active() {
        let mut fan_out = FanOut::new(2, (0..3).map(NodeId));
        assert_eq!(fan_out.admit(), Some(NodeId(0)));
        assert_eq!(fan_out.admit(), Some(NodeId(1)));
        assert_eq!(fan_out.admit(), None);
        fan_out.release(NodeId(0));
        assert_eq!(fan_out.admit(), Some(NodeId(2)));
        assert!(!fan_out.is_idle());
        fan_out.release(NodeId(1));
        fan_out.release(NodeId(2));
        assert!(fan_out.is_idle());
    }

    #[test]
    fn releasing_twice_frees_one_place() {
        let mut fan_out = FanOut::new(1, (0..3).map(NodeId));
        assert_eq!(fan_out.admit(), Some(NodeId(0)));
        fan_out.release(NodeId(0));
        fan_out.release(NodeId(0));
        assert_eq!(fan_out.admit(), Some(NodeId(1)));
        assert_eq!(fan_out.admit(), None);
    }
}
