//! Step 2 of a run: connect to all hosts, decide about unknown host keys, and
//! judge whether the run may begin.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::cluster::fan_out::FanOut;
use crate::cluster::job::Order;
use crate::config::Config;
use crate::error::Tree;
use crate::event::{HostKey, Level, NodeEvent, NodeId, Outcome, Status};
use crate::exit_status::ExitStatus;
use crate::hosts::known_hosts::{self, NewKey, Verdict};
use crate::hosts::{HostKeyPolicy, Target};
use crate::output::summary;
use crate::output::{Message, Phase};
use crate::run::ending::{Stop, flush};
use crate::run::terminal::{self, NoAnswer};
use crate::run::{Run, State};
use crate::ssh::host_keys::{self, Judgement};

/// A host that takes longer than this to connect is remarked on.
const SLOW: Duration = Duration::from_secs(2);

/// A node that has not noticed by so much after its time that it is up will not
/// notice by itself.
const OVERDUE: Duration = Duration::from_secs(1);

/// How well a node gets on with connecting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pace {
    /// As it should be.
    Normal,
    /// So slow that it was remarked on.
    Slow,
    /// Beyond its time.
    Overdue,
    /// Nobody waits for it any more.
    GivenUp,
}

impl Pace {
    /// When it is over, counted from the beginning.
    fn ends_after(self, connect_timeout: Duration) -> Option<Duration> {
        match self {
            Self::Normal => Some(SLOW),
            // (Never before the remark, so that a state has one successor.)
            Self::Slow => Some(SLOW.max(connect_timeout + OVERDUE)),
            Self::Overdue => Some(SLOW.max(connect_timeout + OVERDUE) + OVERDUE),
            Self::GivenUp => None,
        }
    }

    fn next(self) -> Self {
        match self {
            Self::Normal => Self::Slow,
            Self::Slow => Self::Overdue,
            Self::Overdue | Self::GivenUp => Self::GivenUp,
        }
    }
}

impl Run {
    /// Connects to all hosts. All are tried before any is judged.
    pub(super) fn connect(&mut self, config: &Config) -> Result<(), Stop> {
        let mut fan_out = FanOut::new(config.threads, self.nodes(|_| true));
        self.enter(Phase::Connect);
        loop {
            while let Some(node) = fan_out.admit() {
                self.start(node);
            }
            let unknown = self.keys_to_decide(fan_out.is_idle());
            if !unknown.is_empty() {
                for node in self.decide(unknown)? {
                    fan_out.queue(node);
                }
            } else if fan_out.is_idle() && !self.is_asking() {
                return self.judge(config.skip_unreachable);
            } else if let Some(node) = self.next_event(self.next_remark())? {
                if !matches!(self.states[node.0], State::Connecting(..)) {
                    fan_out.release(node);
                }
            } else {
                for node in self.hurry_slow_ones() {
                    self.give_up(node)?;
                    fan_out.release(node);
                }
            }
        }
    }

    /// Whether some nodes still hold a question about their key, or have not yet
    /// ended by the answer.
    fn is_asking(&self) -> bool {
        let mut states = self.states.iter();
        states.any(|state| matches!(state, State::Asking))
    }

    /// Lets a node connect, or go on now that its key is trusted.
    fn start(&mut self, node: NodeId) {
        let state = &mut self.states[node.0];
        let was_asking = matches!(state, State::Asking);
        *state = State::Connecting(Instant::now(), Pace::Normal);
        if was_asking {
            self.cluster.order(node, Order::Trust);
        } else {
            self.cluster.start(node);
        }
    }

    fn next_remark(&self) -> Option<Instant> {
        let states = self.states.iter().enumerate();
        states
            .filter_map(|(index, state)| match state {
                State::Connecting(since, pace) => {
                    let timeout = self.cluster.endpoint(NodeId(index)).connect_timeout;
                    pace.ends_after(timeout).map(|time| *since + time)
                }
                _ => None,
            })
            .min()
    }

    /// Remarks on those that are slow, and ends those that take too long. Returns
    /// the ones that not even this has ended.
    fn hurry_slow_ones(&mut self) -> Vec<NodeId> {
        let now = Instant::now();
        let mut slow = Vec::new();
        let mut hopeless = Vec::new();
        for (index, state) in self.states.iter_mut().enumerate() {
            let State::Connecting(since, pace) = state else {
                continue;
            };
            let timeout = self.cluster.endpoint(NodeId(index)).connect_timeout;
            while let Some(time) = pace.ends_after(timeout)
                && now >= *since + time
            {
                *pace = pace.next();
                match pace {
                    Pace::Slow => slow.push(&self.targets[index]),
                    Pace::GivenUp => hopeless.push(NodeId(index)),
                    _ => self.cluster.unplug(NodeId(index)),
                }
            }
        }
        for remark in summary::of_slow_ones(&slow, self.extent) {
            self.log(Level::Warn, remark);
        }
        hopeless
    }

    /// Ends a node from here whose thread waits for something that cannot be
    /// interrupted: its name is being looked up, or the agent does not answer. When
    /// the thread wakes, it finds its time up.
    fn give_up(&mut self, node: NodeId) -> Result<(), Stop> {
        let reason = Tree::new(format!(
            "timed out after {}s",
            self.cluster.endpoint(node).connect_timeout.as_secs_f64()
        ))
        .because("its name is still being looked up, or the agent does not answer");
        let outcome = Outcome::failed(Status::Unreachable, reason);
        self.note(node, NodeEvent::Ended(outcome))
    }

    /// Takes the unknown keys that can be decided on now: those to be recorded
    /// without a question once no event waits, all others when no more are to come,
    /// so that there is one question for all of them.
    fn keys_to_decide(&mut self, is_idle: bool) -> Vec<(NodeId, HostKey)> {
        let may_record = is_idle || self.cluster.events().is_empty();
        let unknown = std::mem::take(&mut self.unknown_keys);
        let (mut now, later): (Vec<_>, Vec<_>) = unknown.into_iter().partition(|(node, _)| {
            match self.cluster.endpoint(*node).host_keys {
                HostKeyPolicy::AcceptNew => may_record,
                _ => is_idle,
            }
        });
        self.unknown_keys = later;
        // In the order in which they were named, not in that in which they answered.
        now.sort_by_key(|(node, _)| *node);
        now
    }

    /// Decides about unknown keys, and returns the nodes that may go on.
    fn decide(&mut self, unknown: Vec<(NodeId, HostKey)>) -> Result<Vec<NodeId>, Stop> {
        let (asking, mut accepted): (Vec<_>, Vec<_>) = unknown
            .into_iter()
            .partition(|(node, _)| self.cluster.endpoint(*node).host_keys == HostKeyPolicy::Ask);
        if !asking.is_empty() && self.ask_about(&asking)? {
            accepted.extend(asking);
        } else {
            for (node, key) in &asking {
                self.distrust(*node, host_keys::unknown(key));
            }
        }
        let mut trusted = Vec::new();
        for (node, key, verdict) in self.record(accepted) {
            let Target { host, port, .. } = &self.targets[node.0];
            match host_keys::judge(HostKeyPolicy::AcceptNew, verdict, host, *port, &key) {
                // Somebody else recorded another key meanwhile.
                Judgement::Refused(reason) => self.distrust(node, reason),
                _ => trusted.push(node),
            }
        }
        Ok(trusted)
    }

    fn distrust(&self, node: NodeId, reason: Tree) {
        self.cluster.order(node, Order::Distrust(reason));
    }

    /// Asks the user, if there is one.
    fn ask_about(&self, unknown: &[(NodeId, HostKey)]) -> Result<bool, Stop> {
        let mut question = match unknown.len() {
            1 => "The host key of this node is not known:\n".to_owned(),
            several => format!("The host keys of these {several} nodes are not known:\n"),
        };
        for (node, key) in unknown {
            let node = self.targets[node.0].node();
            question.push_str(&format!("  {node} {} {}\n", key.algorithm, key.fingerprint));
        }
        question.push_str("Connect, and record the keys");
        let files: BTreeSet<&Path> = unknown
            .iter()
            .filter_map(|(node, _)| self.file_to_record_in(*node))
            .collect();
        if !files.is_empty() {
            let files: Vec<String> = files
                .iter()
                .map(|file| format!("'{}'", file.display()))
                .collect();
            question.push_str(&format!(" in {}", files.join(" and ")));
        }
        question.push_str("? (yes/no) ");
        // What has been said so far stands above the question.
        self.outlets.display.send(Message::HideBar);
        flush(&self.outlets)?;
        match terminal::ask_yes_or_no(&question, &self.outlets.signals) {
            Ok(answer) => Ok(answer),
            Err(NoAnswer::NoTerminal | NoAnswer::Failed(_)) => Ok(false),
            Err(NoAnswer::Signal(signal)) => Err(Stop::Signal(signal)),
        }
    }

    /// Where new keys of a node are recorded.
    fn file_to_record_in(&self, node: NodeId) -> Option<&Path> {
        let files = &self.cluster.endpoint(node).known_hosts;
        files.user.first().map(PathBuf::as_path)
    }

    /// Records keys. Where that cannot be done they are trusted for this run, as ssh
    /// does.
    fn record(&self, keys: Vec<(NodeId, HostKey)>) -> Vec<(NodeId, HostKey, Verdict)> {
        let mut by_file: BTreeMap<Option<&Path>, Vec<(NodeId, HostKey)>> = BTreeMap::new();
        for (node, key) in keys {
            let file = self.file_to_record_in(node);
            by_file.entry(file).or_default().push((node, key));
        }
        let mut recorded = Vec::new();
        for (file, keys) in by_file {
            let verdicts = match file {
                Some(file) => self.record_in(file, &keys),
                None => keys.iter().map(|_| Verdict::Unknown).collect(),
            };
            let keys = keys.into_iter().zip(verdicts);
            recorded.extend(keys.map(|((node, key), verdict)| (node, key, verdict)));
        }
        recorded
    }

    fn record_in(&self, file: &Path, keys: &[(NodeId, HostKey)]) -> Vec<Verdict> {
        let entries: Vec<NewKey<'_>> = keys
            .iter()
            .map(|(node, key)| NewKey {
                host: &self.targets[node.0].host,
                port: self.targets[node.0].port,
                key: &key.blob,
            })
            .collect();
        match known_hosts::append(file, &entries, false) {
            Ok(verdicts) => {
                let is_new = |verdict: &&Verdict| **verdict == Verdict::Unknown;
                let text = match verdicts.iter().filter(is_new).count() {
                    0 => return verdicts,
                    1 => format!("1 host key recorded in '{}'", file.display()),
                    several => format!("{several} host keys recorded in '{}'", file.display()),
                };
                self.log(Level::Info, text);
                verdicts
            }
            Err(error) => {
                let text = format!("can't record host keys in '{}'", file.display());
                self.log(
                    Level::Warn,
                    Tree::new(text).because(Tree::from_error(&error)),
                );
                keys.iter().map(|_| Verdict::Unknown).collect()
            }
        }
    }

    /// Whether the run may begin with the hosts that are there.
    pub(super) fn judge(&mut self, skip_unreachable: bool) -> Result<(), Stop> {
        let failed = self.nodes(|state| matches!(state, State::Ended(_)));
        let outcomes: Vec<(&Target, &Outcome)> = failed
            .iter()
            .filter_map(|node| match &self.states[node.0] {
                State::Ended(outcome) => Some((&self.targets[node.0], outcome)),
                _ => None,
            })
            .collect();
        if outcomes.is_empty() {
            return Ok(());
        }
        // A wrong key is never a reason to look away.
        let refused: Vec<_> = outcomes
            .iter()
            .copied()
            .filter(|(_, outcome)| outcome.status == Status::HostKey)
            .collect();
        let fatal = if !skip_unreachable || outcomes.len() == self.targets.len() {
            &outcomes
        } else {
            let skipped: Vec<_> = outcomes
                .iter()
                .copied()
                .filter(|(_, outcome)| outcome.status != Status::HostKey)
                .collect();
            for warning in summary::of_skipped(&skipped, self.extent) {
                self.log(Level::Warn, warning);
            }
            &refused
        };
        if !fatal.is_empty() {
            let tree = summary::of_connections(fatal, self.targets.len(), self.extent);
            self.log(Level::Fatal, tree);
            return Err(Stop::Failed(ExitStatus::Connection));
        }
        for node in failed {
            self.tell_result(node);
            self.states[node.0] = State::Skipped;
        }
        Ok(())
    }
}
