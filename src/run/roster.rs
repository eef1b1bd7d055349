//! The roster: where each node of a run is, and what follows from what it says. Pure.
//!
//! [`Roster::on`] takes an event and returns [`Reactions`]: what main is to log, to tell
//! and to stop. All changes of a [`State`] are methods of the roster, named after what
//! happens; the plots beside this file read it by its queries. It has no clock and no
//! channel: `Run` carries its reactions out, and brings the orders to the nodes.
//!
//! Whatever a node begins has an [`Attempt`], which its events carry. An event of an
//! earlier attempt is stale and changes nothing, unless it is about the connection.
//! Nothing is heard of a node once it has ended.

mod state;

use crate::error::Tree;
use crate::event::{Attempt, HostKey, Identity, LockRefusal, NodeEvent, NodeId, Outcome, Status};
use crate::output::Phase;
use crate::run::refusal;
use crate::run::schedule::Stage;

pub(super) use state::State;

/// What the options make of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Policy {
    /// A lock that cannot be had, or is lost, is only a warning (`-t`, `-y`).
    pub(super) lock_is_optional: bool,
    /// A connection that is lost after all hosts were locked is a lost lock.
    pub(super) loss_is_lock_loss: bool,
    /// The run goes on without hosts that fail before the command (`-w`).
    pub(super) is_loose: bool,
    /// The first command that fails stops the run (`--fail-fast`).
    pub(super) fail_fast: bool,
    /// Hosts have nothing to do but to be locked, and no results to report (`-L`).
    pub(super) only_locks: bool,
}

/// What all nodes are at. It decides what their ends mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// They are connected and locked. [`Roster::judge`] decides about those that end.
    Admission,
    /// They look for the default sync tool. A missing one is an answer, not a failure.
    Search,
    /// They take an upload. [`Roster::may_go_on`] decides about those that fail.
    Upload { is_last: bool },
    /// They run a command.
    Command { is_last: bool },
    /// They run sync tools that wait for each other. It is the last step.
    Tools,
    /// They hold their locks (`-L`). Any end is a lost lock.
    Hold,
}

impl Step {
    /// Whether the end of a node's work is the end of the node.
    fn is_last(self) -> bool {
        match self {
            Self::Upload { is_last } | Self::Command { is_last } => is_last,
            Self::Tools => true,
            Self::Admission | Self::Search | Self::Hold => false,
        }
    }
}

/// What a node is to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Activity {
    /// Connect and log in, or go on with that.
    Connect,
    /// Start a guard.
    Lock,
    /// Let the guard go.
    Unlock,
    /// Get ready for an upload.
    Prepare,
    /// Run a command.
    Run,
}

/// What main does about an event of a node, in this order.
pub(super) type Reactions = Vec<Reaction>;

/// One thing that main does about an event of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reaction {
    /// Log that the node, or what it did, has ended.
    LogEnd(Outcome),
    /// Log that the node was lost at work.
    LogLoss(Outcome),
    /// Warn that the node was lost after it had done its work.
    WarnOfLoss(Outcome),
    /// Log that its lock is lost: a warning, or an error.
    LogLostLock { reason: Tree, is_fatal: bool },
    /// Tell how the node ended. Comes once for each node.
    Result(Outcome),
    /// Tell the other sync tools that this one has failed.
    ToolFailed(ToolFailure),
    /// Stop the run.
    Stop(Reason),
}

/// What the failure of a sync tool means for the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ToolFailure {
    /// They go on without it (`-w`), or have been told to end already.
    IsAlone,
    /// They could wait for it for ever, so they are to end.
    EndsOthers,
}

/// Why an event stops the run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reason {
    /// A lock was lost.
    LockLost,
    /// A command has failed, under `--fail-fast`.
    FirstFailure,
    /// What the commands were to read cannot be read.
    Input(Tree),
    /// No node is left to hold a lock on.
    NobodyLeft,
}

/// What becomes of the hosts that did not get through the admission.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Verdict {
    /// The run does not begin because of these.
    pub(super) fatal: Vec<NodeId>,
    /// The run begins without these.
    pub(super) skipped: Vec<NodeId>,
}

/// How far all nodes are with a phase, in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) done: usize,
    pub(super) total: usize,
    pub(super) failed: usize,
}

#[derive(Debug)]
struct Node {
    state: State,
    attempt: Attempt,
    /// What its guard has locked.
    locked: Option<Identity>,
    /// Why its lock is lost, which then counts more than how it ended.
    lost_lock: Option<Tree>,
    /// Its result is out.
    is_told: bool,
    /// It has no default sync tool.
    lacks_tool: bool,
    /// Its guard has not confirmed that all has ended.
    is_unconfirmed: bool,
}

/// All nodes of a run.
#[derive(Debug)]
pub(super) struct Roster {
    nodes: Vec<Node>,
    policy: Policy,
    step: Step,
    /// Run directories that are left, in the order in which they were named.
    leftovers: Vec<(NodeId, String)>,
    /// One sync tool has failed, and the others end.
    tools_end: bool,
    /// The run is being ended.
    is_stopping: bool,
    /// All results are out.
    is_closed: bool,
}

impl Roster {
    /// So many nodes, of which none has been started.
    pub(super) fn new(count: usize, policy: Policy) -> Self {
        let nodes = (0..count).map(|_| Node {
            state: State::Waiting,
            attempt: Attempt::default(),
            locked: None,
            lost_lock: None,
            is_told: false,
            lacks_tool: false,
            is_unconfirmed: false,
        });
        Self {
            nodes: nodes.collect(),
            policy,
            step: Step::Admission,
            leftovers: Vec::new(),
            tools_end: false,
            is_stopping: false,
            is_closed: false,
        }
    }
}

/// Events.
impl Roster {
    /// Whether an event counts: not a stale one, and none of a node that is over.
    #[must_use]
    pub(super) fn hears(&self, id: NodeId, attempt: Attempt, event: &NodeEvent) -> bool {
        let node = &self.nodes[id.0];
        let is_current = attempt == node.attempt || event.is_about_connection();
        is_current && !node.state.is_over()
    }

    /// Takes an event.
    pub(super) fn on(&mut self, id: NodeId, attempt: Attempt, event: NodeEvent) -> Reactions {
        if !self.hears(id, attempt, &event) {
            return Reactions::new();
        }
        match event {
            NodeEvent::Ended(outcome) => self.ended(id, outcome),
            NodeEvent::LockLost(reason) => self.lock_lost(id, reason),
            NodeEvent::InputFailed(problem) => self.stop_for(Reason::Input(problem)),
            NodeEvent::Finished(outcome) if self.nodes[id.0].state.is_at_work() => {
                self.finished(id, outcome)
            }
            NodeEvent::Left(path) => {
                self.leftovers.push((id, path));
                Reactions::new()
            }
            NodeEvent::NotLetGo => {
                self.nodes[id.0].is_unconfirmed = true;
                Reactions::new()
            }
            event => {
                self.advance(id, event);
                Reactions::new()
            }
        }
    }

    /// A node gets on with what it has begun. What does not belong to that is ignored:
    /// the guard that ends commands after the first guard has died says the same words.
    fn advance(&mut self, id: NodeId, event: NodeEvent) {
        let is_last = self.step.is_last();
        let node = &mut self.nodes[id.0];
        node.state = match (&node.state, event) {
            (State::Connecting, NodeEvent::Connected) => State::Connected,
            (State::Connecting, NodeEvent::UnknownHostKey(key)) => State::Asking(key),
            (State::Locking, NodeEvent::Guarded(identity)) => {
                node.locked = identity;
                State::Ready
            }
            (State::Locking, NodeEvent::Refused(refusal)) => State::Refused(refusal),
            (State::Unlocking, NodeEvent::Unlocked) => {
                node.locked = None;
                State::Connected
            }
            (State::Preparing, NodeEvent::RunDirectory) => State::Ready,
            (State::Preparing, NodeEvent::Awaiting(place)) => State::Awaiting(place),
            (state, NodeEvent::Uploaded(outcome)) if state.is_at_work() => {
                if is_last {
                    State::Finished(outcome)
                } else {
                    State::Ready
                }
            }
            (State::Starting, NodeEvent::Started) => State::Running,
            _ => return,
        };
    }

    /// What a node did has ended.
    fn finished(&mut self, id: NodeId, outcome: Outcome) -> Reactions {
        let (step, node) = (self.step, &mut self.nodes[id.0]);
        let mut reactions = vec![Reaction::LogEnd(outcome.clone())];
        let was_running = node.state.is_running();
        let lacks_tool = step == Step::Search && outcome.status == Status::Exit(1);
        node.lacks_tool |= lacks_tool;
        if lacks_tool || (outcome.is_ok() && !step.is_last()) {
            node.state = State::Passed;
            return reactions;
        }
        let has_failed = !outcome.is_ok();
        node.state = State::Finished(outcome);
        if was_running && step.is_last() {
            reactions.extend(self.tell(id).map(Reaction::Result));
        }
        if has_failed {
            reactions.extend(self.failed());
        }
        reactions
    }

    /// A node has ended.
    fn ended(&mut self, id: NodeId, outcome: Outcome) -> Reactions {
        let is_loss = outcome.status == Status::Connection;
        let is_lock_loss = is_loss && self.loss_is_lock_loss();
        let state = std::mem::replace(&mut self.nodes[id.0].state, State::Waiting);
        let had_ended = state.outcome().is_some();
        let was_running = state.is_running();
        let mut reactions = Reactions::new();
        let ended = match state {
            // What became of the command counts, not how we parted.
            State::Finished(finished) => {
                if is_loss && !is_lock_loss {
                    reactions.push(Reaction::WarnOfLoss(outcome.clone()));
                }
                finished
            }
            state => {
                let was_at_work = was_running || state.is_uploading();
                if is_loss && was_at_work && !is_lock_loss {
                    reactions.push(Reaction::LogLoss(outcome.clone()));
                }
                reactions.push(Reaction::LogEnd(outcome.clone()));
                outcome.clone()
            }
        };
        let has_failed = !had_ended && !ended.is_ok();
        self.nodes[id.0].state = State::Ended(ended);
        if is_lock_loss || (self.step == Step::Hold && !self.is_stopping) {
            let reason = outcome.reason;
            let reason = reason.unwrap_or_else(|| "the connection is lost".into());
            reactions.extend(self.lock_lost(id, reason));
            if !self.policy.lock_is_optional {
                return reactions;
            }
        }
        if was_running && self.step.is_last() {
            reactions.extend(self.tell(id).map(Reaction::Result));
        }
        if has_failed {
            reactions.extend(self.failed());
        }
        reactions
    }

    /// Whether the run takes a lost connection for a lost lock by now.
    fn loss_is_lock_loss(&self) -> bool {
        self.policy.loss_is_lock_loss && self.step != Step::Admission
    }

    fn lock_lost(&mut self, id: NodeId, reason: Tree) -> Reactions {
        let is_fatal = !self.policy.lock_is_optional;
        let log = Reaction::LogLostLock {
            reason: reason.clone(),
            is_fatal,
        };
        let mut reactions = vec![log];
        // Nothing changes a result that is out for good.
        if is_fatal && !self.is_closed {
            self.nodes[id.0].lost_lock = Some(reason);
        }
        if is_fatal {
            reactions.extend(self.stop_for(Reason::LockLost));
        }
        reactions
    }

    /// What follows from one more node that has failed.
    fn failed(&mut self) -> Reactions {
        match self.step {
            Step::Command { .. } | Step::Tools if self.policy.fail_fast => {
                self.stop_for(Reason::FirstFailure)
            }
            Step::Tools if !self.is_stopping => {
                let others_have_to_end = !self.policy.is_loose && !self.tools_end;
                self.tools_end |= others_have_to_end;
                vec![Reaction::ToolFailed(if others_have_to_end {
                    ToolFailure::EndsOthers
                } else {
                    ToolFailure::IsAlone
                })]
            }
            Step::Hold if !self.any(State::is_live) => self.stop_for(Reason::NobodyLeft),
            _ => Reactions::new(),
        }
    }

    /// A run that is being stopped is not stopped again.
    fn stop_for(&self, reason: Reason) -> Reactions {
        let is_news = !self.is_stopping;
        is_news
            .then_some(Reaction::Stop(reason))
            .into_iter()
            .collect()
    }
}

/// What main does with the nodes.
impl Roster {
    /// All nodes that are ready go on with this step.
    pub(super) fn enter(&mut self, step: Step) {
        self.step = step;
    }

    /// A node begins something. The orders to it, and its events, carry this attempt. A
    /// node that is over begins nothing.
    pub(super) fn begin(&mut self, id: NodeId, activity: Activity) -> Option<Attempt> {
        let node = &mut self.nodes[id.0];
        if node.state.is_over() {
            return None;
        }
        node.attempt = node.attempt.next();
        node.state = match activity {
            Activity::Connect => State::Connecting,
            Activity::Lock => State::Locking,
            Activity::Unlock => State::Unlocking,
            Activity::Prepare => State::Preparing,
            Activity::Run => State::Starting,
        };
        Some(node.attempt)
    }

    /// The key of a node is the right one. It goes on when it is its turn.
    pub(super) fn trust(&mut self, id: NodeId) {
        self.answer(id, State::Trusted);
    }

    /// The key of a node is the wrong one. The node ends when it hears of that.
    pub(super) fn distrust(&mut self, id: NodeId) {
        self.answer(id, State::Distrusted);
    }

    fn answer(&mut self, id: NodeId, answered: State) {
        let state = &mut self.nodes[id.0].state;
        if matches!(state, State::Asking(_)) {
            *state = answered;
        }
    }

    /// A node is not waited for any more. What its thread still says is not heard.
    pub(super) fn give_up(&mut self, id: NodeId, outcome: Outcome) -> Reactions {
        if self.nodes[id.0].state.is_over() {
            return Reactions::new();
        }
        self.ended(id, outcome)
    }

    /// The run goes on without a node that has ended. Returns the result to be told.
    pub(super) fn skip(&mut self, id: NodeId) -> Option<Outcome> {
        if !matches!(self.nodes[id.0].state, State::Ended(_)) {
            return None;
        }
        let result = self.tell(id);
        self.nodes[id.0].state = State::Skipped;
        result
    }

    /// Nodes that were refused their lock have another try.
    pub(super) fn forget_refusals(&mut self) {
        self.change(State::is_refused, || State::Connected);
    }

    /// The upload goes to all that await it.
    pub(super) fn send_upload(&mut self) {
        self.change(State::is_awaiting, || State::Uploading);
    }

    /// All nodes that have passed a step are ready for the next.
    pub(super) fn regroup(&mut self) {
        self.change(|state| matches!(state, State::Passed), || State::Ready);
    }

    /// Nodes that are ready for a step begin it no more.
    pub(super) fn cancel_rest(&mut self) {
        self.change(State::is_ready, || State::Finished(Outcome::cancelled()));
    }

    fn change(&mut self, is_meant: impl Fn(&State) -> bool, new: impl Fn() -> State) {
        for node in self.nodes.iter_mut().filter(|node| is_meant(&node.state)) {
            node.state = new();
        }
    }

    /// The run is being ended: nothing stops it any more, and nodes end on purpose.
    pub(super) fn stop(&mut self) {
        self.is_stopping = true;
    }

    /// No node is waited for any more: those that have not finished are cancelled, and
    /// lost locks count more than what became of the commands.
    pub(super) fn cut_off(&mut self) {
        for node in &mut self.nodes {
            if matches!(node.state, State::Skipped) {
                continue;
            }
            let outcome = node.state.outcome().cloned();
            let outcome = outcome.unwrap_or_else(Outcome::cancelled);
            node.state = State::Ended(match &node.lost_lock {
                Some(reason) => outcome.without_lock(reason),
                None => outcome,
            });
        }
    }
}

/// Results.
impl Roster {
    /// Results that are known by now and have not been told.
    pub(super) fn tell_known(&mut self) -> Vec<(NodeId, Outcome)> {
        self.tell_all(|state| state.is_refused() || state.outcome().is_some())
    }

    /// All results that have not been told. Nothing when that was asked for before.
    pub(super) fn close(&mut self) -> Option<Vec<(NodeId, Outcome)>> {
        let was_closed = std::mem::replace(&mut self.is_closed, true);
        (!was_closed).then(|| self.tell_all(|_| true))
    }

    fn tell_all(&mut self, is_meant: impl Fn(&State) -> bool) -> Vec<(NodeId, Outcome)> {
        let nodes = self.nodes(is_meant).into_iter();
        nodes.filter_map(|id| Some((id, self.tell(id)?))).collect()
    }

    /// The result of a node, once.
    fn tell(&mut self, id: NodeId) -> Option<Outcome> {
        let node = &mut self.nodes[id.0];
        if std::mem::replace(&mut node.is_told, true) {
            return None;
        }
        let outcome = match &node.state {
            State::Refused(refusal) => refusal::outcome(refusal),
            state => state.outcome().cloned().unwrap_or_else(Outcome::cancelled),
        };
        Some(match &node.lost_lock {
            Some(reason) => outcome.without_lock(reason),
            None => outcome,
        })
    }

    /// How the nodes ended that the run did not skip, as far as they have.
    pub(super) fn outcomes(&self) -> Vec<(NodeId, &Outcome)> {
        self.select(State::outcome)
    }
}

/// Queries.
impl Roster {
    /// The nodes whose state is such, in target order.
    pub(super) fn nodes(&self, is_meant: impl Fn(&State) -> bool) -> Vec<NodeId> {
        let nodes = self.select(|state| is_meant(state).then_some(()));
        nodes.into_iter().map(|(id, ())| id).collect()
    }

    /// Whether the state of some node is such.
    pub(super) fn any(&self, is_meant: impl Fn(&State) -> bool) -> bool {
        self.nodes.iter().any(|node| is_meant(&node.state))
    }

    fn select<'a, T>(&'a self, part: impl Fn(&'a State) -> Option<T>) -> Vec<(NodeId, T)> {
        let nodes = self.nodes.iter().enumerate();
        nodes
            .filter_map(|(index, node)| Some((NodeId(index), part(&node.state)?)))
            .collect()
    }

    pub(super) fn policy(&self) -> Policy {
        self.policy
    }

    pub(super) fn state(&self, id: NodeId) -> &State {
        &self.nodes[id.0].state
    }

    /// How far a node is with what it has begun last.
    pub(super) fn stage(&self, id: NodeId) -> Stage {
        self.nodes[id.0].state.stage()
    }

    /// How a node ended, if it has.
    pub(super) fn outcome(&self, id: NodeId) -> Option<&Outcome> {
        self.nodes[id.0].state.outcome()
    }

    /// The nodes that wait for a decision on their keys, with these.
    pub(super) fn unknown_keys(&self) -> Vec<(NodeId, &HostKey)> {
        self.select(|state| match state {
            State::Asking(key) => Some(key),
            _ => None,
        })
    }

    /// The nodes that were refused their locks, with the reasons.
    pub(super) fn refusals(&self) -> Vec<(NodeId, &LockRefusal)> {
        self.select(|state| match state {
            State::Refused(refusal) => Some(refusal),
            _ => None,
        })
    }

    /// Whether the lock that a node was refused is held by this run, under another
    /// name of the same machine.
    pub(super) fn is_locked_by_us(&self, id: NodeId) -> bool {
        let State::Refused(LockRefusal::Held { identity, .. }) = &self.nodes[id.0].state else {
            return false;
        };
        let mut guarded = self.nodes.iter().filter(|node| node.state.is_ready());
        guarded.any(|node| {
            let locked = node.locked.as_ref();
            locked.is_some_and(|locked| locked.is_same(identity))
        })
    }

    /// The nodes that await the upload, with the directories that it goes to.
    pub(super) fn places(&self) -> Vec<(NodeId, &Identity)> {
        self.select(|state| match state {
            State::Awaiting(place) => Some(place),
            _ => None,
        })
    }

    /// Whether a node has taken the upload.
    pub(super) fn has_taken_upload(&self, id: NodeId) -> bool {
        let state = &self.nodes[id.0].state;
        state.is_ready() || state.outcome().is_some_and(Outcome::is_ok)
    }

    /// The nodes that are there and have no default sync tool.
    pub(super) fn without_tool(&self) -> Vec<NodeId> {
        let mut nodes = self.nodes(State::is_live);
        nodes.retain(|id| self.nodes[id.0].lacks_tool);
        nodes
    }

    /// Where something is left in run directories.
    pub(super) fn leftovers(&self) -> &[(NodeId, String)] {
        &self.leftovers
    }

    /// Where it is not known that all has ended and the lock is free: guards have not
    /// said so, or nodes are still there.
    pub(super) fn unconfirmed(&self) -> Vec<NodeId> {
        let nodes = self.nodes.iter().enumerate();
        nodes
            .filter(|(_, node)| node.is_unconfirmed || node.state.holds_on())
            .map(|(index, _)| NodeId(index))
            .collect()
    }

    /// What becomes of the hosts that have ended in the admission. A refused host key is
    /// never skipped, and no run begins without any host.
    pub(super) fn judge(&self) -> Verdict {
        let ended = self.nodes(|state| matches!(state, State::Ended(_)));
        if !self.policy.is_loose || !self.any(|state| !state.is_over()) {
            return Verdict {
                fatal: ended,
                skipped: Vec::new(),
            };
        }
        let is_key = |id: &NodeId| {
            let outcome = self.outcome(*id);
            outcome.is_some_and(|outcome| outcome.status == Status::HostKey)
        };
        let (fatal, skipped) = ended.into_iter().partition(is_key);
        Verdict { fatal, skipped }
    }

    /// Whether the run may go on with the nodes that have taken everything so far: with
    /// all, or under `-w` with any.
    pub(super) fn may_go_on(&self) -> bool {
        let is_there = |state: &State| state.is_ready() || state.is_awaiting();
        let has_failed = |state: &State| state.outcome().is_some();
        (self.policy.is_loose && self.any(is_there)) || !self.any(has_failed)
    }

    /// How far all nodes are with a phase.
    pub(super) fn tally(&self, phase: Phase) -> Tally {
        let is_sending = self.any(State::is_uploading);
        let count = |is_meant: &dyn Fn(&State) -> bool| {
            let nodes = self.nodes.iter();
            nodes.filter(|node| is_meant(&node.state)).count()
        };
        let skipped = count(&|state| matches!(state, State::Skipped));
        Tally {
            done: count(&|state| state.is_through(phase, is_sending)),
            total: self.nodes.len() - skipped,
            failed: count(&State::has_failed),
        }
    }
}

#[cfg(test)]
mod tests;
