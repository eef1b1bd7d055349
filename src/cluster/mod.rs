//! The hosts of a run as a whole: one thread each, and the ways to and from them.
//!
//! A [`node`] first goes through [`login`], then through its [`node_loop`]. That keeps
//! a [`guard`] on the host, with [`heartbeat`]s, and runs one [`task`] after the other:
//! a process on a channel with its kind of [`work`], and sudo in front of it
//! ([`sudo_dialog`]). Input comes from [`input`] (`-i`) or from the [`stream`] of an
//! upload, and output goes through an [`output_port`]. `run` gives the orders
//! ([`job`]) and judges the events.

mod guard;
mod heartbeat;
pub(crate) mod input;
pub(crate) mod job;
mod login;
pub(crate) mod node;
mod node_loop;
mod output_port;
pub(crate) mod stream;
pub(crate) mod sudo_dialog;
mod task;
mod work;

use std::cell::{Cell, RefCell};
use std::panic::{self, AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Once};
use std::thread;

use crossbeam_channel::{Receiver, Sender, unbounded};

use crate::error::Tree;
use crate::event::{Attempt, NodeEvent, NodeId, Outcome, Status};
use crate::hosts::{Endpoint, Target};
use crate::output::Display;
use crate::ssh::session::Plug;
use crate::wake::{self, Waker};

use job::Order;
use node::{Node, Shared};
use node_loop::NodeLoop;

pub(crate) use heartbeat::LEASE_PERIODS;

/// Enough for libssh2 with its 35 KB packets on the heap, and small enough for
/// thousands of threads. (It is address space; memory is what gets touched.)
const STACK: usize = 256 * 1024;

/// Both ends of a channel.
type Channel<T> = (Sender<T>, Receiver<T>);

/// All nodes of a run.
pub(crate) struct Cluster {
    targets: Arc<[Target]>,
    endpoints: Vec<Endpoint>,
    shared: Arc<Shared>,
    display: Display,
    handles: Vec<Option<Handle>>,
    // Unbounded: a node says a handful of things in its life.
    events: Channel<(NodeId, Attempt, NodeEvent)>,
    cancelled: Arc<AtomicBool>,
}

/// The way to a running node thread.
struct Handle {
    courier: Courier,
    plug: Plug,
}

/// Brings orders to a node, from any thread.
#[derive(Clone)]
pub(crate) struct Courier {
    // Unbounded: a node gets a handful of orders in its life. (Only what sync
    // tools say to each other is more, and what waits for a tool is bounded.)
    orders: Sender<(Option<Attempt>, Order)>,
    waker: Waker,
}

impl Courier {
    /// Tells the node something about what it does. Never waits.
    pub(crate) fn order(&self, order: Order) {
        self.send(None, order);
    }

    /// Has the node begin something, under this number. Never waits.
    fn begin(&self, attempt: Attempt, order: Order) {
        self.send(Some(attempt), order);
    }

    fn send(&self, attempt: Option<Attempt>, order: Order) {
        // A node that has ended meanwhile has said so.
        let _ = self.orders.send((attempt, order));
        self.waker.wake();
    }
}

impl Cluster {
    /// No node has been started yet. The endpoints are those of the targets, in the
    /// same order.
    #[must_use]
    pub(crate) fn new(
        targets: Arc<[Target]>,
        endpoints: Vec<Endpoint>,
        shared: Shared,
        display: Display,
    ) -> Self {
        note_panics();
        Self {
            handles: targets.iter().map(|_| None).collect(),
            targets,
            endpoints,
            shared: Arc::new(shared),
            display,
            events: unbounded(),
            cancelled: Arc::default(),
        }
    }

    /// How a node is reached.
    #[must_use]
    pub(crate) fn endpoint(&self, id: NodeId) -> &Endpoint {
        &self.endpoints[id.0]
    }

    /// What the nodes say.
    #[must_use]
    pub(crate) fn events(&self) -> &Receiver<(NodeId, Attempt, NodeEvent)> {
        &self.events.1
    }

    /// Starts a node's thread, which connects at once. Whatever becomes of it,
    /// it ends with [`NodeEvent::Ended`].
    pub(crate) fn start(&mut self, id: NodeId, attempt: Attempt) {
        let started = wake::pair().and_then(|(waker, wakeup)| {
            let (orders, receiver) = unbounded();
            let plug = Plug::default();
            let node = Node {
                id,
                attempt: Cell::new(attempt),
                target: self.targets[id.0].clone(),
                endpoint: self.endpoints[id.0].clone(),
                shared: Arc::clone(&self.shared),
                display: self.display.clone(),
                orders: receiver,
                events: self.events.0.clone(),
                waker: waker.clone(),
                wakeup,
                cancelled: Arc::clone(&self.cancelled),
                plug: plug.clone(),
            };
            thread::Builder::new()
                .name(format!("node {}", id.0))
                .stack_size(STACK)
                .spawn(move || {
                    PANIC.set(Some(String::new()));
                    // A server must not be able to end the run with an answer
                    // that some library did not think of.
                    let outcome = catch_unwind(AssertUnwindSafe(|| live(&node)))
                        .unwrap_or_else(|_| Outcome::failed(Status::Connection, bug()));
                    node.tell(NodeEvent::Ended(outcome));
                })?;
            let courier = Courier { orders, waker };
            Ok(Handle { courier, plug })
        });
        match started {
            Ok(handle) => self.handles[id.0] = Some(handle),
            Err(error) => {
                let reason = Tree::new("this machine can't handle another host")
                    .because(Tree::from_io(&error));
                let outcome = Outcome::failed(Status::Unreachable, reason);
                // We hold the receiver ourselves.
                let _ = self.events.0.send((id, attempt, NodeEvent::Ended(outcome)));
            }
        }
    }

    /// Tells a node something about what it does.
    pub(crate) fn order(&self, id: NodeId, order: Order) {
        if let Some(handle) = &self.handles[id.0] {
            handle.courier.order(order);
        }
    }

    /// Has a node begin something. All that it says from then on carries this number.
    pub(crate) fn begin(&self, id: NodeId, attempt: Attempt, order: Order) {
        if let Some(handle) = &self.handles[id.0] {
            handle.courier.begin(attempt, order);
        }
    }

    /// The way to a node, if it has been started.
    #[must_use]
    pub(crate) fn courier(&self, id: NodeId) -> Option<Courier> {
        let handle = self.handles[id.0].as_ref();
        handle.map(|handle| handle.courier.clone())
    }

    /// Breaks off the connection of a node that does not watch the time any
    /// more.
    pub(crate) fn unplug(&self, id: NodeId) {
        if let Some(handle) = &self.handles[id.0] {
            handle.plug.pull();
        }
    }

    /// What wakes a node, if it has been started.
    #[must_use]
    pub(crate) fn waker(&self, id: NodeId) -> Option<Waker> {
        let handle = self.handles[id.0].as_ref();
        handle.map(|handle| handle.courier.waker.clone())
    }

    /// The wakers of all nodes that have been started.
    #[must_use]
    pub(crate) fn wakers(&self) -> Vec<Waker> {
        let handles = self.handles.iter().flatten();
        handles.map(|handle| handle.courier.waker.clone()).collect()
    }

    /// Ends all nodes, whatever they are doing.
    pub(crate) fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
        for handle in self.handles.iter().flatten() {
            handle.courier.waker.wake();
        }
    }
}

/// A node's life, from the first connection to the end.
fn live(node: &Node) -> Outcome {
    match node.connect() {
        Ok((session, patience)) => {
            node.tell(NodeEvent::Connected);
            NodeLoop::new(node, session, patience).run()
        }
        Err(outcome) => outcome,
    }
}

thread_local! {
    /// In a node thread: what its panic said.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// From now on a panic in a node thread is kept for the outcome of the host; by
/// default it would be written to a stderr that belongs to the printer.
fn note_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let default = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if PANIC.with_borrow(Option::is_none) {
                return default(info);
            }
            PANIC.set(Some(describe(info)));
        }));
    });
}

fn describe(info: &PanicHookInfo<'_>) -> String {
    let payload = info.payload();
    let text = payload
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| payload.downcast_ref::<&str>().copied())
        .unwrap_or("no message");
    match info.location() {
        Some(place) => format!("{text} ({}:{})", place.file(), place.line()),
        None => text.to_owned(),
    }
}

fn bug() -> Tree {
    let text = PANIC.take().unwrap_or_default();
    Tree::new("internal error while handling this host; please report it").because(text)
}
