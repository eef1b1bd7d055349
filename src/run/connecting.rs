//! Step 2 of a run: connect to all hosts, decide about unknown host keys, and
//! judge whether the run may begin.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::cluster::job::Order;
use crate::error::Tree;
use crate::event::{HostKey, Level, NodeId, Outcome, Status};
use crate::exit_status::ExitStatus;
use crate::hosts::known_hosts::{self, NewKey, Verdict};
use crate::hosts::{HostKeyPolicy, Target};
use crate::output::summary;
use crate::output::{Message, Phase};
use crate::run::pace::{Pace, Paces};
use crate::run::roster::{self, Activity};
use crate::run::running::{Heard, Run};
use crate::run::schedule::{Schedule, Stage};
use crate::run::stop::Stop;
use crate::run::terminal::{self, NoAnswer};
use crate::ssh::host_keys::{self, Judgement};

impl Run {
    /// Connects to all hosts. All are tried before any is judged.
    pub(super) fn connect(&mut self) -> Result<(), Stop> {
        let mut schedule = Schedule::new(self.threads, self.roster.nodes(|_| true));
        let mut paces = Paces::default();
        self.enter(Phase::Connect);
        loop {
            self.begin_next(&mut schedule, |run, node| {
                run.start(node);
                let timeout = run.cluster.endpoint(node).connect_timeout;
                paces.start(node, timeout, Instant::now());
            });
            let unknown = self.keys_to_decide(schedule.has_started_all());
            if !unknown.is_empty() {
                for node in self.decide(unknown)? {
                    schedule.requeue(node);
                }
            } else if schedule.is_over() {
                return self.judge();
            } else if let Some(Heard { node, .. }) = self.next_event(paces.next_change())? {
                let stage = self.roster.stage(node);
                schedule.note(node, stage);
                if stage != Stage::Starting {
                    paces.stop(node);
                }
            } else {
                for node in self.hurry_slow_ones(&mut paces) {
                    self.give_up(node)?;
                    schedule.note(node, self.roster.stage(node));
                    paces.stop(node);
                }
            }
        }
    }

    /// Lets a node connect, or go on now that its key is trusted.
    fn start(&mut self, node: NodeId) {
        let was_asking = self.roster.state(node).is_trusted();
        let Some(attempt) = self.roster.begin(node, Activity::Connect) else {
            return;
        };
        if was_asking {
            self.cluster.begin(node, attempt, Order::Trust);
        } else {
            self.cluster.start(node, attempt);
        }
    }

    /// Reports those that are slow, and ends those that take too long. Returns the ones
    /// that not even this has ended.
    fn hurry_slow_ones(&self, paces: &mut Paces) -> Vec<NodeId> {
        let mut slow = Vec::new();
        let mut hopeless = Vec::new();
        for (node, pace) in paces.changes(Instant::now()) {
            match pace {
                Pace::Normal => {}
                Pace::Slow => slow.push(&self.targets[node.0]),
                Pace::Overdue => self.cluster.unplug(node),
                Pace::Hopeless => hopeless.push(node),
            }
        }
        for remark in summary::of_slow_ones(&slow, self.detail) {
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
        let reactions = self.roster.give_up(node, outcome);
        self.react(node, reactions).map(drop)
    }

    /// The unknown keys that can be decided on now, in target order: those to be
    /// recorded without a question once no event waits, all others when no more are to
    /// come, so that there is one question for all of them.
    fn keys_to_decide(&self, is_complete: bool) -> Vec<(NodeId, HostKey)> {
        let may_record = is_complete || self.cluster.events().is_empty();
        let unknown = self.roster.unknown_keys().into_iter();
        unknown
            .filter(|(node, _)| match self.cluster.endpoint(*node).host_keys {
                HostKeyPolicy::AcceptNew => may_record,
                _ => is_complete,
            })
            .map(|(node, key)| (node, key.clone()))
            .collect()
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
                _ => {
                    self.roster.trust(node);
                    trusted.push(node);
                }
            }
        }
        Ok(trusted)
    }

    fn distrust(&mut self, node: NodeId, reason: Tree) {
        self.roster.distrust(node);
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
        self.console.display.send(Message::HideBar);
        self.console.flush()?;
        match terminal::ask_yes_or_no(&question, &self.console.signals) {
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
    pub(super) fn judge(&mut self) -> Result<(), Stop> {
        let roster::Verdict { fatal, skipped } = self.roster.judge();
        for warning in summary::of_skipped(&self.outcomes(&skipped), self.detail) {
            self.log(Level::Warn, warning);
        }
        if !fatal.is_empty() {
            let failures = self.outcomes(&fatal);
            let tree = summary::of_connections(&failures, self.targets.len(), self.detail);
            self.log(Level::Fatal, tree);
            return Err(Stop::Failed(ExitStatus::Connection));
        }
        for node in skipped {
            if let Some(result) = self.roster.skip(node) {
                self.tell_result(node, result);
            }
        }
        Ok(())
    }

    fn outcomes(&self, nodes: &[NodeId]) -> Vec<(&Target, &Outcome)> {
        let nodes = nodes.iter();
        nodes
            .filter_map(|node| Some((&self.targets[node.0], self.roster.outcome(*node)?)))
            .collect()
    }
}
