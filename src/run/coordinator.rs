//! The coordinator: who of the sync tools is told what, and in which order.
//!
//! [`Coordinator`] is a state machine: what happens to the tools goes in, what is
//! to be done comes out. One thread around it ([`spawn`]) takes the events of all
//! nodes one after the other, so all tools see all broadcasts in one and the same
//! order. It never waits for a tool: what it says goes into an inbox
//! (`remote::protocol::Inbox`) in the node's thread.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use crate::event::{NodeId, ToolEnd, ToolEvent};
use crate::remote::protocol::{MAX_WAITING, Prefix};

/// How much may be said before START. All of it goes into each inbox at once, and
/// must leave room there.
const MAX_EARLY: usize = MAX_WAITING / 2;

/// How long after START the first SYNC or end of a tool is waited for. A plain command
/// that reads its stdin says and ends nothing.
const LONGEST_SILENCE: Duration = Duration::from_secs(10);

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    /// Put this into the inbox of a tool that runs.
    Send(NodeId, Arc<[u8]>),
    /// This tool has failed, and the others could wait for it for ever: all get
    /// end of file, and are ended if they do not go. Comes once, and is the last.
    Cancel(NodeId),
    /// This tool says too much before the others have been started: end it, as
    /// one that has failed. (What it says while it is being ended may cause this
    /// again.)
    Stop(NodeId),
    /// Say that no tool has said SYNC or ended for [`LONGEST_SILENCE`] after START.
    /// Comes once.
    TellSilence,
}

/// Where a tool is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// It has not been started.
    Waiting,
    /// It runs, and knows all nodes.
    Running,
    /// It has ended.
    Ended,
}

#[derive(Debug)]
struct Tool {
    node: String,
    phase: Phase,
}

/// Knows all tools of a run.
#[derive(Debug)]
pub(super) struct Coordinator {
    prefix: Prefix,
    tools: BTreeMap<NodeId, Tool>,
    /// A tool that fails does not stop the others (`-w`).
    is_loose: bool,
    /// How many tools have not been started.
    unstarted: usize,
    /// Broadcasts from before START, when some tools could not get them yet.
    early: Vec<Arc<[u8]>>,
    early_bytes: usize,
    silence: Silence,
    is_cancelled: bool,
}

/// Whether any tool has said SYNC or has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Silence {
    /// None has, and START is still to come.
    BeforeStart,
    /// None has, which is to be told then.
    Until(Instant),
    /// One has, or it has been told that none has.
    Over,
}

impl Coordinator {
    /// A coordinator of the tools on these nodes (with their names, in any order;
    /// they are named in target order).
    #[must_use]
    pub(super) fn new(
        prefix: Prefix,
        nodes: impl IntoIterator<Item = (NodeId, String)>,
        is_loose: bool,
    ) -> Self {
        let tools: BTreeMap<NodeId, Tool> = nodes
            .into_iter()
            .map(|(id, node)| {
                let phase = Phase::Waiting;
                (id, Tool { node, phase })
            })
            .collect();
        Self {
            prefix,
            unstarted: tools.len(),
            tools,
            is_loose,
            early: Vec::new(),
            early_bytes: 0,
            silence: Silence::BeforeStart,
            is_cancelled: false,
        }
    }

    /// Takes an event. What is to be done about it is to be done in this order.
    pub(super) fn on(&mut self, event: ToolEvent, now: Instant) -> Vec<Action> {
        if self.is_cancelled {
            return Vec::new();
        }
        let was_complete = self.unstarted == 0;
        let actions = self.react(event);
        if !was_complete && self.unstarted == 0 && self.silence == Silence::BeforeStart {
            self.silence = Silence::Until(now + LONGEST_SILENCE);
        }
        actions
    }

    /// When [`Self::tick`] is to be called.
    #[must_use]
    pub(super) fn alarm(&self) -> Option<Instant> {
        match self.silence {
            Silence::Until(then) if !self.is_cancelled => Some(then),
            _ => None,
        }
    }

    /// Does what is due by now.
    pub(super) fn tick(&mut self, now: Instant) -> Vec<Action> {
        if self.alarm().is_none_or(|then| now < then) {
            return Vec::new();
        }
        self.silence = Silence::Over;
        vec![Action::TellSilence]
    }

    fn react(&mut self, event: ToolEvent) -> Vec<Action> {
        match event {
            ToolEvent::Started(node) => self.started(node),
            ToolEvent::Sync(node, description) => {
                // Its first words may overtake the news that it was started.
                let mut actions = self.started(node);
                actions.extend(self.sync(node, &description));
                actions
            }
            ToolEvent::Ended(node, end) => self.ended(node, end),
        }
    }

    /// Whether nothing is left to be done, whatever comes.
    #[must_use]
    pub(super) fn is_over(&self) -> bool {
        let mut tools = self.tools.values();
        self.is_cancelled || tools.all(|tool| tool.phase == Phase::Ended)
    }

    fn phase(&self, node: NodeId) -> Option<Phase> {
        self.tools.get(&node).map(|tool| tool.phase)
    }

    fn enter(&mut self, node: NodeId, phase: Phase) {
        if let Some(tool) = self.tools.get_mut(&node) {
            if tool.phase == Phase::Waiting {
                self.unstarted -= 1;
            }
            tool.phase = phase;
        }
    }

    fn started(&mut self, node: NodeId) -> Vec<Action> {
        if self.phase(node) != Some(Phase::Waiting) {
            return Vec::new();
        }
        self.enter(node, Phase::Running);
        let current = self.tools.range(..node).count();
        let nodes = self.tools.values().map(|tool| tool.node.as_str());
        let introduction = self.prefix.introduction(nodes, current);
        let mut actions = vec![Action::Send(node, introduction)];
        actions.extend(self.start_if_complete());
        actions
    }

    /// START, and what was said before it, when no tool is missing any more. (One
    /// that has ended already is not missing.) To be called once for each tool.
    fn start_if_complete(&mut self) -> Vec<Action> {
        if self.unstarted > 0 {
            return Vec::new();
        }
        let mut actions = self.broadcast(&self.prefix.start());
        for text in std::mem::take(&mut self.early) {
            actions.extend(self.broadcast(&text));
        }
        actions
    }

    fn sync(&mut self, node: NodeId, description: &[u8]) -> Vec<Action> {
        let Some(tool) = self.tools.get(&node) else {
            return Vec::new();
        };
        if tool.phase != Phase::Running {
            return Vec::new();
        }
        self.silence = Silence::Over;
        let text = self.prefix.broadcast(&tool.node, description);
        if self.unstarted == 0 {
            return self.broadcast(&text);
        }
        if self.early_bytes + text.len() > MAX_EARLY {
            return vec![Action::Stop(node)];
        }
        self.early_bytes += text.len();
        self.early.push(text);
        Vec::new()
    }

    fn ended(&mut self, node: NodeId, end: ToolEnd) -> Vec<Action> {
        let was_waiting = match self.phase(node) {
            None | Some(Phase::Ended) => return Vec::new(),
            Some(phase) => phase == Phase::Waiting,
        };
        if !was_waiting {
            self.silence = Silence::Over;
        }
        self.enter(node, Phase::Ended);
        if end == ToolEnd::Failed && !self.is_loose {
            self.is_cancelled = true;
            return vec![Action::Cancel(node)];
        }
        if was_waiting {
            return self.start_if_complete();
        }
        Vec::new()
    }

    fn broadcast(&self, text: &Arc<[u8]>) -> Vec<Action> {
        let tools = self.tools.iter();
        tools
            .filter(|(_, tool)| tool.phase == Phase::Running)
            .map(|(node, _)| Action::Send(*node, Arc::clone(text)))
            .collect()
    }
}

/// Starts the coordinator's thread: it takes events until all tools have ended,
/// the run was cancelled, or nobody is left who could send any. (So sending an
/// event may fail, which is no error.) `act` must not wait for anything.
///
/// # Errors
/// No thread can be started.
pub(super) fn spawn(
    mut coordinator: Coordinator,
    events: Receiver<ToolEvent>,
    mut act: impl FnMut(Action) + Send + 'static,
) -> io::Result<()> {
    thread::Builder::new()
        .name("coordinator".into())
        .spawn(move || {
            while !coordinator.is_over() {
                let event = match coordinator.alarm() {
                    Some(alarm) => events.recv_deadline(alarm),
                    None => events.recv().map_err(RecvTimeoutError::from),
                };
                let actions = match event {
                    Ok(event) => coordinator.on(event, Instant::now()),
                    Err(RecvTimeoutError::Timeout) => coordinator.tick(Instant::now()),
                    Err(RecvTimeoutError::Disconnected) => break,
                };
                actions.into_iter().for_each(&mut act);
            }
        })
        .map(drop)
}

#[cfg(test)]
mod tests;
