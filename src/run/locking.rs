//! The lock phase of a run: a guard on every host, before anything else is done
//! there.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cluster::LEASE_PERIODS;
use crate::cluster::job::Order;
use crate::config::Config;
use crate::error::Tree;
use crate::event::{Level, LockRefusal, Log, NodeId};
use crate::exit_status::ExitStatus;
use crate::output::Phase;
use crate::output::summary::{self, Failure};
use crate::random;
use crate::remote::guard::{self, LockTarget};
use crate::run::refusal;
use crate::run::roster::{Activity, State, Step};
use crate::run::running::Run;
use crate::run::stop::Stop;

/// The first pause before another try for the locks, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

impl Run {
    /// Locks all hosts, or says why the run cannot begin.
    pub(super) fn lock(&mut self, config: &Config) -> Result<(), Stop> {
        let begun = Instant::now();
        let mut pause = PAUSES.0;
        self.enter(Phase::Lock);
        loop {
            let refused = self.try_to_lock(config)?;
            if refused.is_empty() {
                return Ok(());
            }
            let is_held = |refusal: &LockRefusal| matches!(refusal, LockRefusal::Held { .. });
            let may_change = self
                .refusals(&refused)
                .iter()
                .all(|(_, refusal)| is_held(refusal));
            let left = config.lock.wait.saturating_sub(begun.elapsed());
            if !may_change || left.is_zero() {
                if !config.lock.is_optional {
                    return Err(self.refuse(&refused, config.lock.wait));
                }
                self.warn_about(&refused);
                return self.start_guards(refused, None, config);
            }
            if pause == PAUSES.0 {
                self.log(
                    Level::Info,
                    self.refusal_tree(&refused, "waiting for the lock"),
                );
            }
            // Another run may wait for what we hold: who cannot have all frees
            // what it has, and comes back at another time than the other.
            self.unlock_all()?;
            self.sleep(left.min(pause.mul_f64(random_factor())))?;
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    /// One try for all locks: the host that sorts first alone, so that of two
    /// runs that start together one gets them all, then the others at once.
    /// Returns those that somebody else has.
    fn try_to_lock(&mut self, config: &Config) -> Result<Vec<NodeId>, Stop> {
        let mut nodes = self.roster.nodes(State::is_connected);
        if !config.lock.is_wanted {
            self.start_guards(nodes, None, config)?;
            return Ok(Vec::new());
        }
        nodes.sort_by_key(|node| {
            let target = &self.targets[node.0];
            (target.host.clone(), target.port)
        });
        let others = nodes.split_off(nodes.len().min(1));
        self.lock_nodes(nodes, config)?;
        let refused = self.refused();
        if !refused.is_empty() && !config.lock.is_optional {
            return Ok(refused);
        }
        self.lock_nodes(others, config)?;
        let (ours, refused): (Vec<NodeId>, Vec<NodeId>) = self
            .refused()
            .into_iter()
            .partition(|node| self.roster.is_locked_by_us(*node));
        self.start_guards(ours, None, config)?;
        Ok(refused)
    }

    /// Starts a guard that takes the lock on each of these hosts.
    fn lock_nodes(&mut self, nodes: Vec<NodeId>, config: &Config) -> Result<(), Stop> {
        if self.console.display.enabled(Level::Trace) {
            for node in &nodes {
                let node = self.targets[node.0].node();
                self.log(Level::Trace, format!("{node} running lock command"));
            }
        }
        self.start_guards(nodes, Some(&config.lock.target), config)
    }

    /// Starts a guard on each of these hosts, waits for all of them, and judges the hosts
    /// that were lost meanwhile or did not let the guard in.
    fn start_guards(
        &mut self,
        nodes: Vec<NodeId>,
        lock: Option<&LockTarget>,
        config: &Config,
    ) -> Result<(), Stop> {
        let arguments = Arc::new(guard::Arguments {
            lock: lock.cloned(),
            lease: config.heartbeat * LEASE_PERIODS,
            holder: self.holder.clone(),
        });
        let order = |_: &Self, _| Order::Guard(Arc::clone(&arguments));
        self.begin_all(nodes, Activity::Lock, order)?;
        self.judge()
    }

    fn refused(&self) -> Vec<NodeId> {
        self.roster.nodes(State::is_refused)
    }

    fn unlock_all(&mut self) -> Result<(), Stop> {
        for node in self.roster.nodes(State::is_ready) {
            self.begin(node, Activity::Unlock, Order::Unlock);
        }
        while self.roster.any(State::is_unlocking) {
            self.next_event(None)?;
        }
        self.roster.forget_refusals();
        Ok(())
    }

    /// Waits, and listens to nodes and signals meanwhile.
    fn sleep(&mut self, time: Duration) -> Result<(), Stop> {
        let until = Instant::now() + time;
        while Instant::now() < until {
            self.next_event(Some(until))?;
        }
        Ok(())
    }

    fn refusals(&self, nodes: &[NodeId]) -> Vec<(NodeId, &LockRefusal)> {
        let mut refusals = self.roster.refusals();
        refusals.retain(|(node, _)| nodes.contains(node));
        refusals
    }

    fn refusal_tree(&self, refused: &[NodeId], headline: &str) -> Tree {
        let failures = self.failures(refused);
        summary::branches(&failures, self.detail)
            .into_iter()
            .fold(Tree::new(headline), Tree::because)
    }

    fn warn_about(&self, refused: &[NodeId]) {
        let failures = self.failures(refused);
        for warning in summary::branches(&failures, self.detail) {
            self.log(Level::Warn, warning);
        }
    }

    fn failures(&self, refused: &[NodeId]) -> Vec<Failure<'_>> {
        let refusals = self.refusals(refused).into_iter();
        refusals
            .map(|(node, refusal)| {
                let target = &self.targets[node.0];
                let (what, reason) = refusal::describe(refusal);
                Failure {
                    target,
                    what: what.to_owned(),
                    alone: format!("{} {what}", target.node()),
                    reason,
                }
            })
            .collect()
    }

    fn refuse(&self, refused: &[NodeId], wait: Duration) -> Stop {
        let mut headline = format!(
            "locking {} of {} failed",
            refused.len(),
            summary::nodes(self.targets.len())
        );
        if !wait.is_zero() {
            headline += &format!(", --lock-wait is {}s", wait.as_secs_f64());
        }
        let details = self.refusal_tree(refused, &headline);
        self.log(
            Level::Fatal,
            Tree::new("locking the cluster failed").because(details),
        );
        Stop::Failed(ExitStatus::Lock)
    }

    /// `-L`: holds what has been locked until something happens.
    pub(super) fn hold(&mut self) -> Result<(), Stop> {
        self.log(
            Level::Warn,
            "-L|--lock was passed, waiting for interrupt...",
        );
        self.roster.enter(Step::Hold);
        loop {
            self.next_event(None)?;
        }
    }
}

/// From a half to one and a half: two runs must not come back together.
fn random_factor() -> f64 {
    // Without random numbers runs meet again, which costs them time only.
    let random = random::bytes().map_or(0, u16::from_be_bytes);
    0.5 + f64::from(random) / f64::from(u16::MAX)
}
