//! Credit: how many bytes of output a node may have on their way to the user.
//!
//! A node takes a loan for each piece that it reads from its host, and reads nothing
//! while it has no credit. The printer returns the loan once the bytes are written. So a
//! slow reader of our stdout closes the SSH window of the remote command. Nothing is
//! dropped, memory is bounded, and the node thread never blocks.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::wake::Waker;

/// The least credit of a node. With the unread window of its channel and the session
/// itself this makes half a MiB.
const LEAST: usize = 64 * 1024;

/// The most credit of a node. Each piece wakes a thread, so few large ones cost less.
const MOST: usize = 512 * 1024;

/// The credit of few nodes together.
const TOGETHER: usize = 1024 * 1024;

/// The credit of each node in bytes, for this number of nodes.
#[must_use]
pub(crate) fn limit(nodes: usize) -> usize {
    (TOGETHER / nodes.max(1)).clamp(LEAST, MOST)
}

/// The credit of one node.
#[derive(Debug)]
pub(crate) struct Credit {
    limit: usize,
    used: AtomicUsize,
    waker: Waker,
}

impl Credit {
    /// Unused credit of `limit` bytes. `waker` wakes the node when credit comes back.
    #[must_use]
    pub(crate) fn new(limit: usize, waker: Waker) -> Arc<Self> {
        Arc::new(Self {
            limit,
            used: AtomicUsize::new(0),
            waker,
        })
    }

    /// The bytes that are left.
    #[must_use]
    pub(crate) fn room(&self) -> usize {
        let used = self.used.load(Ordering::Acquire);
        self.limit.saturating_sub(used)
    }

    /// Takes a loan. It may exceed what is left: libssh2 sometimes makes the node read one
    /// more byte.
    #[must_use]
    pub(crate) fn lend(self: &Arc<Self>, bytes: usize) -> Loan {
        self.used.fetch_add(bytes, Ordering::AcqRel);
        Loan {
            credit: Arc::clone(self),
            bytes,
        }
    }
}

/// Credit for bytes on their way. It comes back when the loan is dropped.
#[derive(Debug)]
pub(crate) struct Loan {
    credit: Arc<Credit>,
    bytes: usize,
}

impl Loan {
    /// Whether the node has no credit left.
    #[must_use]
    pub(crate) fn is_awaited(&self) -> bool {
        self.credit.room() == 0
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        let before = self.credit.used.fetch_sub(self.bytes, Ordering::AcqRel);
        let after = before - self.bytes;
        let limit = self.credit.limit;
        if before >= limit && after < limit {
            self.credit.waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wake;

    const LIMIT: usize = 1000;

    #[test]
    fn a_loan_comes_back_when_it_is_dropped() {
        let (waker, _wakeup) = wake::pair().expect("pipe");
        let credit = Credit::new(LIMIT, waker);
        let loan = credit.lend(LIMIT - 1);
        assert_eq!(credit.room(), 1);
        drop(loan);
        assert_eq!(credit.room(), LIMIT);
    }

    #[test]
    fn an_overdrawn_credit_has_no_room() {
        let (waker, _wakeup) = wake::pair().expect("pipe");
        let credit = Credit::new(LIMIT, waker);
        let loan = credit.lend(LIMIT);
        let more = credit.lend(1);
        assert_eq!(credit.room(), 0);
        drop(loan);
        assert_eq!(credit.room(), LIMIT - 1);
        drop(more);
    }

    #[test]
    fn few_nodes_have_more_credit_than_many() {
        assert_eq!(limit(1), MOST);
        assert_eq!(limit(8), 128 * 1024);
        assert_eq!(limit(1000), LEAST);
    }
}
