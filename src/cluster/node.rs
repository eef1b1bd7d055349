//! What a node thread starts with: its target, its endpoint, and the ways to and from
//! main.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};

use crate::cluster::job::Order;
use crate::cluster::sudo_dialog::Sudo;
use crate::event::{Attempt, NodeEvent, NodeId};
use crate::hosts::known_hosts::KnownHosts;
use crate::hosts::{Endpoint, Target};
use crate::output::Display;
use crate::ssh::auth::Credentials;
use crate::ssh::session::Plug;
use crate::wake::{Waker, Wakeup};

/// What all nodes of a run share.
pub(crate) struct Shared {
    /// The known_hosts files.
    pub(crate) known_hosts: KnownHosts,
    /// The keys and the password of the run.
    pub(crate) credentials: Credentials,
    /// How to get past sudo, if the run uses it (`-x`).
    pub(crate) sudo: Option<Sudo>,
    /// The interval of heartbeats.
    pub(crate) heartbeat: Duration,
    /// Bytes of output that each node may have under way.
    pub(crate) credit: usize,
}

/// One node, in its own thread.
pub(super) struct Node {
    pub(super) id: NodeId,
    /// The number of what it does.
    pub(super) attempt: Cell<Attempt>,
    pub(super) target: Target,
    pub(super) endpoint: Endpoint,
    pub(super) shared: Arc<Shared>,
    pub(super) display: Display,
    /// An order that begins something comes with its number.
    pub(super) orders: Receiver<(Option<Attempt>, Order)>,
    pub(super) events: Sender<(NodeId, Attempt, NodeEvent)>,
    pub(super) waker: Waker,
    pub(super) wakeup: Wakeup,
    pub(super) cancelled: Arc<AtomicBool>,
    pub(super) plug: Plug,
}

impl Node {
    /// Tells main something.
    pub(super) fn tell(&self, event: NodeEvent) {
        // Main may be gone already.
        let _ = self.events.send((self.id, self.attempt.get(), event));
    }

    /// The next order, if there is one.
    pub(super) fn next_order(&self) -> Option<Order> {
        let (attempt, order) = self.orders.try_recv().ok()?;
        if let Some(attempt) = attempt {
            self.attempt.set(attempt);
        }
        Some(order)
    }

    /// Whether the run is being ended.
    pub(super) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }
}
