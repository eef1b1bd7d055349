//! A run in progress: the channels of main, and what it does about each event.
//!
//! The plots beside this file wait for events here. The [`roster`]
//! decides what follows from one; [`Run::react`] carries that out.

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, at, never, select, unbounded};

use crate::cluster::Cluster;
use crate::cluster::input::InputError;
use crate::cluster::job::Order;
use crate::cluster::node::Shared;
use crate::config::{Config, Mode, OutputOptions};
use crate::error::Tree;
use crate::event::{Attempt, Level, Log, NodeEvent, NodeId, Outcome};
use crate::exit_status::ExitStatus;
use crate::hosts::Target;
use crate::output::summary::{self, Detail};
use crate::output::{OutputError, Phase};
use crate::run::console::Console;
use crate::run::delivery::Delivery;
use crate::run::holder::holder;
use crate::run::roster::{self, Activity, Reaction, Reactions, Reason, Roster, ToolFailure};
use crate::run::schedule::Schedule;
use crate::run::stop::Stop;

/// A run in progress.
pub(super) struct Run {
    pub(super) targets: Arc<[Target]>,
    pub(super) roster: Roster,
    pub(super) cluster: Cluster,
    pub(super) console: Console,
    pub(super) input_problems: (Sender<InputError>, Receiver<InputError>),
    /// How many hosts start something at once (`-d`).
    pub(super) threads: usize,
    pub(super) delivery: Delivery,
    /// The holder of the locks, for other runs.
    pub(super) holder: String,
    /// How much is told where many hosts fail.
    pub(super) detail: Detail,
    /// What the status bar shows.
    pub(super) phase: Phase,
}

/// A node has said something, and main has done what follows from it.
pub(super) struct Heard {
    pub(super) node: NodeId,
    /// What is left to be done: its sync tool has failed.
    pub(super) tool_failure: Option<ToolFailure>,
}

impl Run {
    pub(super) fn new(config: &Config, console: Console, shared: Shared) -> Self {
        let targets: Arc<[Target]> = config.targets.clone().into();
        let display = console.display.clone();
        Self {
            roster: Roster::new(targets.len(), policy(config)),
            cluster: Cluster::new(
                Arc::clone(&targets),
                config.endpoints.clone(),
                shared,
                display,
            ),
            targets,
            console,
            // Unbounded, for the one thing that a feeder says.
            input_problems: unbounded(),
            threads: config.threads,
            delivery: Delivery::default(),
            holder: holder(),
            detail: detail(&config.output),
            phase: Phase::Connect,
        }
    }

    pub(super) fn log(&self, level: Level, text: impl Into<Tree>) {
        self.console.display.log(level, text.into());
    }

    /// Has a node begin something, unless it has ended.
    pub(super) fn begin(&mut self, node: NodeId, activity: Activity, order: Order) {
        if let Some(attempt) = self.roster.begin(node, activity) {
            self.cluster.begin(node, attempt, order);
        }
    }

    /// Has the nodes begin something whose turn it is.
    pub(super) fn begin_next(
        &mut self,
        schedule: &mut Schedule,
        mut begin: impl FnMut(&mut Self, NodeId),
    ) {
        while let Some(node) = schedule.admit() {
            begin(self, node);
            schedule.note(node, self.roster.stage(node));
        }
    }

    /// Has each of these nodes begin something, as many at once as may, and waits until
    /// all have got through with it, or to where they wait for main.
    pub(super) fn begin_all(
        &mut self,
        nodes: Vec<NodeId>,
        activity: Activity,
        mut order: impl FnMut(&Self, NodeId) -> Order,
    ) -> Result<(), Stop> {
        let mut schedule = Schedule::new(self.threads, nodes);
        loop {
            self.begin_next(&mut schedule, |run, node| {
                let order = order(run, node);
                run.begin(node, activity, order);
            });
            if schedule.has_started_all() {
                return Ok(());
            }
            if let Some(Heard { node, .. }) = self.next_event(None)? {
                schedule.note(node, self.roster.stage(node));
            }
        }
    }

    /// Waits for the next event of a node, or until `deadline`.
    pub(super) fn next_event(&mut self, deadline: Option<Instant>) -> Result<Option<Heard>, Stop> {
        let alarm = deadline.map_or_else(never, at);
        let events = self.cluster.events().clone();
        select! {
            recv(events) -> event => match event {
                Ok((node, attempt, event)) => {
                    let heard = self.hear(node, attempt, event);
                    self.show_progress();
                    heard.map(Some)
                }
                // The cluster holds a sender itself.
                Err(_) => Ok(None),
            },
            recv(self.console.signals) -> signal => Err(Stop::signal(signal)),
            recv(self.console.output_problems) -> problem => {
                Err(Stop::Output(problem.unwrap_or(OutputError::Closed)))
            }
            recv(self.input_problems.1) -> problem => match problem {
                Ok(problem) => Err(Stop::Local(Tree::from_error(&problem))),
                // We hold a sender ourselves.
                Err(_) => Ok(None),
            },
            recv(alarm) -> _ => Ok(None),
        }
    }

    pub(super) fn hear(
        &mut self,
        node: NodeId,
        attempt: Attempt,
        event: NodeEvent,
    ) -> Result<Heard, Stop> {
        if self.roster.hears(node, attempt, &event)
            && let Some((level, step)) = name_of(&event)
            && self.console.display.enabled(level)
        {
            self.log(level, format!("{} {step}", self.targets[node.0].node()));
        }
        let reactions = self.roster.on(node, attempt, event);
        let tool_failure = self.react(node, reactions)?;
        Ok(Heard { node, tool_failure })
    }

    /// Does what follows from an event. Returns what only a plot can do.
    pub(super) fn react(
        &self,
        node: NodeId,
        reactions: Reactions,
    ) -> Result<Option<ToolFailure>, Stop> {
        let mut tool_failure = None;
        for reaction in reactions {
            match reaction {
                Reaction::LogEnd(outcome) => self.log_end(node, &outcome),
                Reaction::LogLoss(outcome) => self.log_loss(node, &outcome),
                Reaction::WarnOfLoss(outcome) => {
                    let lost = summary::of_connection(&self.targets[node.0], &outcome);
                    self.log(Level::Warn, lost);
                }
                Reaction::LogLostLock { reason, is_fatal } => {
                    self.log_lost_lock(node, reason, is_fatal);
                }
                Reaction::Result(outcome) => self.tell_result(node, outcome),
                Reaction::ToolFailed(failure) => tool_failure = Some(failure),
                Reaction::Stop(reason) => return Err(self.stop_for(reason)),
            }
        }
        Ok(tool_failure)
    }

    fn stop_for(&self, reason: Reason) -> Stop {
        match reason {
            Reason::LockLost => Stop::LockLost,
            Reason::FirstFailure => Stop::FailFast,
            Reason::Input(problem) => Stop::Local(problem),
            Reason::NobodyLeft => {
                self.log(Level::Fatal, "no node is left to hold a lock on");
                Stop::Failed(ExitStatus::LockLost)
            }
        }
    }

    /// A host is lost while others may go on for hours: the summary comes late.
    fn log_loss(&self, node: NodeId, outcome: &Outcome) {
        let node = self.targets[node.0].node();
        let loss = match &outcome.reason {
            Some(reason) => Tree {
                message: format!("{node} {}", reason.message),
                causes: reason.causes.clone(),
            },
            None => Tree::new(format!("{node} connection lost")),
        };
        self.log(Level::Error, loss);
    }

    fn log_end(&self, node: NodeId, outcome: &Outcome) {
        if self.console.display.enabled(Level::Debug) {
            let node = self.targets[node.0].node();
            let cause = summary::cause(outcome);
            let text = if outcome.duration.is_zero() {
                // Nothing has run there.
                format!("{node} ended: {cause}")
            } else {
                let seconds = outcome.duration.as_secs_f64();
                format!("{node} ended after {seconds:.3}s: {cause}")
            };
            self.log(Level::Debug, text);
        }
    }

    fn log_lost_lock(&self, node: NodeId, reason: Tree, is_fatal: bool) {
        let text = format!(
            "{} heartbeat failed: lock lost",
            self.targets[node.0].node()
        );
        let level = if is_fatal { Level::Error } else { Level::Warn };
        self.log(level, Tree::new(text).because(reason));
    }
}

/// What the options make of a failure.
fn policy(config: &Config) -> roster::Policy {
    let is_change = matches!(config.mode, Mode::Upload(_) | Mode::Sync(_));
    roster::Policy {
        lock_is_optional: config.lock.is_optional,
        // Half a change to a cluster is worse than none: all go on, or none does.
        loss_is_lock_loss: is_change && config.lock.is_wanted && !config.skip_unreachable,
        is_loose: config.skip_unreachable,
        fail_fast: config.fail_fast,
        only_locks: matches!(config.mode, Mode::Lock),
    }
}

/// The log line of an event, for `-v` and `-vv`. Other events have messages of
/// their own.
fn name_of(event: &NodeEvent) -> Option<(Level, &'static str)> {
    match event {
        NodeEvent::Connected => Some((Level::Debug, "connection established")),
        NodeEvent::Guarded(Some(_)) => Some((Level::Trace, "is locked")),
        NodeEvent::Guarded(None) => Some((Level::Trace, "is watched over, without a lock")),
        NodeEvent::Refused(_) => Some((Level::Trace, "is not locked")),
        NodeEvent::Unlocked => Some((Level::Trace, "is unlocked")),
        NodeEvent::Started => Some((Level::Trace, "has started the command")),
        _ => None,
    }
}

/// On a terminal the summary is shortened, unless `-v` is given.
fn detail(output: &OutputOptions) -> Detail {
    if output.verbosity == 0 && io::stderr().is_terminal() {
        Detail::Short
    } else {
        Detail::Full
    }
}
