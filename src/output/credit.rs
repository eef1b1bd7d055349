//! How much output of a node may be on its way to the user.
//!
//! A node takes a loan for each piece that it reads from its host, and reads no
//! more when its credit is used up. The printer gives the loan back when the
//! bytes are written. So a slow reader of our stdout closes the SSH window of
//! the remote command, nothing is dropped, memory is bounded, and the node
//! thread never blocks: it goes on answering heartbeats and signals.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::wake::Waker;

/// Bytes that a node may have under way at least. With the unread window of its
/// channel and the session itself this makes half a MiB.
const LEAST: usize = 64 * 1024;

/// And at most: each piece wakes a thread, so that few large ones cost less.
const MOST: usize = 512 * 1024;

/// What all nodes may have under way together, where they are few enough.
const TOGETHER: usize = 1024 * 1024;

/// How much each of so many nodes may have under way, in bytes.
#[must_use]
pub fn limit(nodes: usize) -> usize {
    (TOGETHER / nodes.max(1)).clamp(LEAST, MOST)
}

/// The credit of one node.
#[derive(Debug)]
pub struct Credit {
    limit: usize,
    used: AtomicUsize,
    waker: Waker,
}

impl Credit {
    /// Nothing used yet of so many bytes; `waker` reaches the node.
    #[must_use]
    pub fn new(limit: usize, waker: Waker) -> Arc<Self> {
        Arc::new(Self {
            limit,
            used: AtomicUsize::new(0),
            waker,
        })
    }

    /// How much more may be taken.
    #[must_use]
    pub fn room(&self) -> usize {
        let used = self.used.load(Ordering::Acquire);
        self.limit.saturating_sub(used)
    }

    /// Takes a loan. More than there is room for is possible (a single byte may
    /// have to be read in any case) and paid back like all else.
    #[must_use]
    pub fn lend(self: &Arc<Self>, bytes: usize) -> Loan {
        self.used.fetch_add(bytes, Ordering::AcqRel);
        Loan {
            credit: Arc::clone(self),
            bytes,
        }
    }
}

/// Bytes under way. Dropping it gives the credit back.
#[derive(Debug)]
pub struct Loan {
    credit: Arc<Credit>,
    bytes: usize,
}

impl Loan {
    /// Whether its node has no credit left, and so waits for some to come back.
    #[must_use]
    pub fn is_awaited(&self) -> bool {
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
