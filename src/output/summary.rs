//! Failures of hosts as error trees, grouped by cause.
//!
//! They stay readable for a thousand hosts: names are folded, reasons that differ only in
//! the name of the host are one reason, and a summary for a terminal merges the rare
//! reasons.

use std::collections::HashMap;

use crate::error::Tree;
use crate::event::{Outcome, Status};
use crate::hosts::{Target, fold};

/// The most failures that have a branch each, with node and reason, on a terminal. More
/// failures are grouped by reason.
const ONE_BY_ONE: usize = 10;

/// The most failures that have a branch each in a full summary.
const WHOLE_ONE_BY_ONE: usize = 100;

/// The most reasons for one kind of failure that have a branch each on a terminal.
const REASONS: usize = 4;

/// The most characters of folded names on a terminal.
const NAMES: usize = 56;

/// Stands for the names of several hosts in one reason.
const ANY_HOST: &str = "<host>";

/// How much of a summary is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Detail {
    /// What fits a terminal.
    Short,
    /// Every name and every reason, for logs and `-v`.
    Full,
}

/// The failure of a host.
#[derive(Debug, Clone)]
pub(crate) struct Failure<'a> {
    /// The host.
    pub(crate) target: &'a Target,
    /// What failed, without the name of the host.
    pub(crate) what: String,
    /// What failed, with the name of the host.
    pub(crate) alone: String,
    /// Why it failed.
    pub(crate) reason: Option<Tree>,
}

impl Failure<'_> {
    fn tree(&self) -> Tree {
        match &self.reason {
            Some(reason) => Tree::new(&self.alone).because(reason.clone()),
            None => Tree::new(&self.alone),
        }
    }
}

/// Failures of commands. None if all commands have succeeded.
#[must_use]
pub(crate) fn of_commands(results: &[(&Target, &Outcome)], detail: Detail) -> Option<Tree> {
    let failed = results
        .iter()
        .filter(|(_, outcome)| !matches!(outcome.status, Status::Ok | Status::Cancelled))
        .count();
    let unfinished = results
        .iter()
        .any(|(_, outcome)| outcome.status == Status::Cancelled);
    if failed == 0 && !unfinished {
        return None;
    }
    let is_upload = |(_, outcome): &(&Target, &Outcome)| outcome.status == Status::Upload;
    let (one, several) = if results.iter().any(is_upload) {
        ("the upload is", "uploads are")
    } else {
        ("the command is", "commands are")
    };
    let headline = match failed {
        0 => "the run was stopped before all commands had ended".to_owned(),
        1 if results.len() == 1 => format!("{one} failed on the only node"),
        all if all == results.len() => format!("{several} failed on all {}", nodes(all)),
        some => format!("{several} failed on {some} out of {}", nodes(results.len())),
    };
    let details = by_cause(results, detail)
        .into_iter()
        .fold(Tree::new(headline), Tree::because);
    Some(Tree::new("remote execution failed").because(details))
}

/// Failures of connections that end the run, out of `all` hosts.
#[must_use]
pub(crate) fn of_connections(results: &[(&Target, &Outcome)], all: usize, detail: Detail) -> Tree {
    let headline = format!("connection to {} of {} failed", results.len(), nodes(all));
    let failures = connection_failures(results);
    let details = branches(&failures, detail)
        .into_iter()
        .fold(Tree::new(headline), Tree::because);
    Tree::new("connecting to cluster failed").because(details)
}

/// Failures of connections that only skip their hosts (`-w`), a warning each.
#[must_use]
pub(crate) fn of_skipped(results: &[(&Target, &Outcome)], detail: Detail) -> Vec<Tree> {
    let failures = connection_failures(results);
    if is_one_by_one(failures.len(), detail) {
        let trees = failures.iter().map(Failure::tree);
        return trees
            .map(|tree| Tree {
                message: format!("{}, the host is skipped", tree.message),
                ..tree
            })
            .collect();
    }
    let headline = format!("{} hosts are skipped", failures.len());
    vec![
        branches(&failures, detail)
            .into_iter()
            .fold(Tree::new(headline), Tree::because),
    ]
}

fn is_one_by_one(count: usize, detail: Detail) -> bool {
    count
        <= match detail {
            Detail::Short => ONE_BY_ONE,
            Detail::Full => WHOLE_ONE_BY_ONE,
        }
}

/// The failure of one connection.
#[must_use]
pub(crate) fn of_connection(target: &Target, outcome: &Outcome) -> Tree {
    connection_failure(target, outcome).tree()
}

/// Warnings about hosts that take long to connect.
#[must_use]
pub(crate) fn of_slow_ones(targets: &[&Target], detail: Detail) -> Vec<String> {
    if is_one_by_one(targets.len(), detail) {
        let nodes = targets.iter().map(|target| target.node());
        return nodes
            .map(|node| format!("still connecting to address after 2s: {node}"))
            .collect();
    }
    vec![format!(
        "still connecting to {} addresses after 2s: {}",
        targets.len(),
        names(targets, detail)
    )]
}

fn connection_failures<'a>(results: &[(&'a Target, &Outcome)]) -> Vec<Failure<'a>> {
    let results = results.iter();
    results
        .map(|(target, outcome)| connection_failure(target, outcome))
        .collect()
}

fn connection_failure<'a>(target: &'a Target, outcome: &Outcome) -> Failure<'a> {
    let what = match outcome.status {
        Status::Auth => "can't authenticate",
        Status::HostKey => "host key refused",
        Status::Connection => "connection lost",
        Status::Refused => "refused by the host",
        _ => "can't connect to address",
    };
    Failure {
        target,
        what: what.to_owned(),
        alone: format!("{what}: {}", target.node()),
        reason: outcome.reason.clone(),
    }
}

/// Failures as branches of a tree: one for each if they are few, else one for each reason.
#[must_use]
pub(crate) fn branches(failures: &[Failure<'_>], detail: Detail) -> Vec<Tree> {
    if is_one_by_one(failures.len(), detail) {
        return failures.iter().map(Failure::tree).collect();
    }
    let mut groups = Groups::new();
    for (index, failure) in failures.iter().enumerate() {
        let reason = failure.reason.as_ref().map(Tree::flat).unwrap_or_default();
        groups.add(&failure.what, &reason, failure.target, index);
    }
    groups
        .finish(detail)
        .into_iter()
        .map(|group| match group.reasons {
            1 if group.targets.len() == 1 => failures[group.first].tree(),
            1 => {
                let tree = Tree::new(format!("{}{}", group.kind, group.names(detail)));
                match &failures[group.first].reason {
                    Some(reason) if group.is_the_same => tree.because(reason.clone()),
                    Some(reason) => tree.because(general_tree(reason, group.targets[0])),
                    None => tree,
                }
            }
            several => Tree::new(format!(
                "{}, for {several} different reasons{}",
                group.kind,
                group.names(detail)
            ))
            .because(Tree::new("such as").because(failures[group.first].tree())),
        })
        .collect()
}

/// The end of a host in one line.
#[must_use]
pub(crate) fn cause(outcome: &Outcome) -> String {
    let kind = kind(&outcome.status);
    match &outcome.reason {
        Some(reason) => format!("{kind}: {}", reason.flat()),
        None => kind,
    }
}

fn kind(status: &Status) -> String {
    match status {
        Status::Ok => "ok".to_owned(),
        Status::Exit(code) => format!("exited with non-zero code {code}"),
        Status::Signal(name) => format!("signal {name}"),
        Status::Timeout => "timeout".to_owned(),
        Status::Connection => "connection lost".to_owned(),
        Status::Refused => "refused".to_owned(),
        Status::Unreachable => "unreachable".to_owned(),
        Status::Auth => "not authenticated".to_owned(),
        Status::HostKey => "host key refused".to_owned(),
        Status::Lock => "not locked".to_owned(),
        Status::LockLost => "lock lost".to_owned(),
        Status::Upload => "upload failed".to_owned(),
        Status::Cancelled => "not finished".to_owned(),
    }
}

fn by_cause(results: &[(&Target, &Outcome)], detail: Detail) -> Vec<String> {
    let mut failed: Vec<&(&Target, &Outcome)> = results
        .iter()
        .filter(|(_, outcome)| outcome.status != Status::Ok)
        .collect();
    // A stable sort: hosts of one kind keep their order.
    failed.sort_by_key(|(_, outcome)| &outcome.status);
    let mut groups = Groups::new();
    for (index, (target, outcome)) in failed.iter().enumerate() {
        let reason = outcome.reason.as_ref().map(Tree::flat).unwrap_or_default();
        groups.add(&kind(&outcome.status), &reason, target, index);
    }
    groups
        .finish(detail)
        .into_iter()
        .map(|group| {
            let names = group.names(detail);
            let reason = match (group.reasons, group.text.as_str()) {
                (1, "") => String::new(),
                (1, text) => format!(": {text}"),
                (several, text) => format!(", for {several} different reasons such as '{text}'"),
            };
            format!("{}{reason}{names}", group.kind)
        })
        .collect()
}

/// Hosts that failed for one reason.
struct Group<'a> {
    /// What failed.
    kind: String,
    /// The reason, with [`ANY_HOST`] in place of names if it names its hosts.
    text: String,
    /// The reason has the same words for all hosts.
    is_the_same: bool,
    /// How many reasons have been merged into this group.
    reasons: usize,
    targets: Vec<&'a Target>,
    /// The index of the first failure.
    first: usize,
}

impl Group<'_> {
    /// The hosts: ` (3 nodes): web[1-3]`.
    fn names(&self, detail: Detail) -> String {
        let count = nodes(self.targets.len());
        format!(" ({count}): {}", names(&self.targets, detail))
    }
}

/// Groups in the order of their first hosts.
struct Groups<'a> {
    groups: Vec<Group<'a>>,
    index: HashMap<(String, String), usize>,
}

impl<'a> Groups<'a> {
    fn new() -> Self {
        Self {
            groups: Vec::new(),
            index: HashMap::new(),
        }
    }

    fn add(&mut self, kind: &str, reason: &str, target: &'a Target, number: usize) {
        let general = general(reason, target);
        let key = (kind.to_owned(), general.clone());
        let at = *self.index.entry(key).or_insert(self.groups.len());
        match self.groups.get_mut(at) {
            Some(group) => {
                if group.is_the_same && group.text != reason {
                    group.is_the_same = false;
                    group.text = general;
                }
                group.targets.push(target);
            }
            None => self.groups.push(Group {
                kind: kind.to_owned(),
                text: reason.to_owned(),
                is_the_same: true,
                reasons: 1,
                targets: vec![target],
                first: number,
            }),
        }
    }

    /// The groups of each kind, largest first. On a terminal the smallest are merged.
    fn finish(self, detail: Detail) -> Vec<Group<'a>> {
        let mut kinds: Vec<String> = Vec::new();
        let mut by_kind: HashMap<String, Vec<Group<'a>>> = HashMap::new();
        for group in self.groups {
            if !by_kind.contains_key(&group.kind) {
                kinds.push(group.kind.clone());
            }
            by_kind.entry(group.kind.clone()).or_default().push(group);
        }
        let mut finished = Vec::new();
        for kind in kinds {
            let mut groups = by_kind.remove(&kind).unwrap_or_default();
            // A stable sort: groups of one size keep their order.
            groups.sort_by_key(|group| std::cmp::Reverse(group.targets.len()));
            if groups.len() > REASONS && detail == Detail::Short {
                let common = groups.iter().filter(|group| group.targets.len() > 1);
                let rest = groups.split_off(common.count().min(REASONS - 1));
                groups.extend(rest.into_iter().reduce(|mut all, other| {
                    all.reasons += other.reasons;
                    all.targets.extend(other.targets);
                    all
                }));
            }
            finished.extend(groups);
        }
        finished
    }
}

/// Folded names, cut short for a terminal.
#[must_use]
pub(crate) fn names(targets: &[&Target], detail: Detail) -> String {
    let first = |count: usize| {
        let targets = targets[..count].iter();
        fold(targets.map(|target| target.prefix.as_str()))
    };
    let all = first(targets.len());
    if detail == Detail::Full || all.len() <= NAMES {
        return all;
    }
    // Searches for the most names that fit.
    let (mut fits, mut too_many) = (1, targets.len());
    while fits + 1 < too_many {
        let middle = usize::midpoint(fits, too_many);
        if first(middle).len() <= NAMES {
            fits = middle;
        } else {
            too_many = middle;
        }
    }
    let more = targets.len() - fits;
    format!("{} and {more} more (-v names all)", first(fits))
}

/// A reason with [`ANY_HOST`] in place of the host's names.
fn general(text: &str, target: &Target) -> String {
    let node = target.node();
    [node.as_str(), &target.prefix, &target.host]
        .iter()
        .fold(text.to_owned(), |text, name| replace_word(&text, name))
}

fn general_tree(tree: &Tree, target: &Target) -> Tree {
    let causes = tree.causes.iter();
    Tree {
        message: general(&tree.message, target),
        causes: causes.map(|cause| general_tree(cause, target)).collect(),
    }
}

fn replace_word(text: &str, word: &str) -> String {
    let is_part = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    let mut replaced = String::new();
    let mut done = 0;
    for (at, _) in text.match_indices(word) {
        let end = at + word.len();
        let starts = !text[..at].ends_with(is_part);
        let ends = !text[end..].starts_with(is_part);
        if starts && ends {
            replaced.push_str(&text[done..at]);
            replaced.push_str(ANY_HOST);
            done = end;
        }
    }
    replaced + &text[done..]
}

/// `3 nodes`.
#[must_use]
pub(crate) fn nodes(count: usize) -> String {
    let s = if count == 1 { "" } else { "s" };
    format!("{count} node{s}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn targets(names: &[&str]) -> Vec<Target> {
        names
            .iter()
            .map(|name| Target {
                user: "ops".into(),
                host: (*name).to_owned(),
                port: 22,
                given: (*name).to_owned(),
                prefix: (*name).to_owned(),
            })
            .collect()
    }

    fn ended(status: Status) -> Outcome {
        Outcome {
            status,
            reason: None,
            duration: Duration::ZERO,
        }
    }

    #[test]
    fn nothing_is_said_when_all_is_well() {
        let targets = targets(&["a"]);
        let ok = ended(Status::Ok);
        assert_eq!(of_commands(&[(&targets[0], &ok)], Detail::Short), None);
    }

    #[test]
    fn failures_are_grouped_by_cause() {
        let targets = targets(&["a", "b", "c", "d"]);
        let (ok, code) = (ended(Status::Ok), ended(Status::Exit(17)));
        let lost = Outcome {
            reason: Some("no sign of life for 60s".into()),
            ..ended(Status::Connection)
        };
        let results: Vec<_> = targets.iter().zip([&code, &ok, &lost, &code]).collect();
        let tree = of_commands(&results, Detail::Short).expect("a summary");
        assert_eq!(
            tree.flat(),
            "remote execution failed: commands are failed on 3 out of 4 nodes: \
             exited with non-zero code 17 (2 nodes): a,d; \
             connection lost: no sign of life for 60s (1 node): c"
        );
    }

    #[test]
    fn all_nodes_are_called_all() {
        let targets = targets(&["a", "b", "c"]);
        let code = ended(Status::Exit(1));
        let results: Vec<_> = targets.iter().map(|target| (target, &code)).collect();
        let tree = of_commands(&results, Detail::Short).expect("a summary");
        assert_eq!(tree.causes[0].message, "commands are failed on all 3 nodes");
    }

    #[test]
    fn hosts_that_were_not_waited_for_are_named() {
        let targets = targets(&["a", "b"]);
        let (ok, cancelled) = (ended(Status::Ok), Outcome::cancelled());
        let results: Vec<_> = targets.iter().zip([&ok, &cancelled]).collect();
        let tree = of_commands(&results, Detail::Short).expect("a summary");
        assert_eq!(
            tree.flat(),
            "remote execution failed: the run was stopped before all commands had ended: \
             not finished (1 node): b"
        );
    }

    fn fleet(count: usize) -> Vec<Target> {
        let names: Vec<String> = (1..=count).map(|number| format!("web{number}")).collect();
        targets(&names.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// The number of lines that a tree takes on a terminal of this width.
    fn lines(tree: &Tree, depth: usize, columns: usize) -> usize {
        let indent = 28 + 3 * depth;
        let own = tree.message.chars().count().div_ceil(columns - indent);
        let causes = tree.causes.iter();
        own + causes
            .map(|cause| lines(cause, depth + 1, columns))
            .sum::<usize>()
    }

    /// Neighbours fail in different ways, which is the worst case for folding.
    fn failing_in_five_ways(targets: &[Target]) -> Vec<Outcome> {
        let outcome = |(index, target): (usize, &Target)| {
            let lost = |reason: String| Outcome {
                reason: Some(reason.into()),
                ..ended(Status::Connection)
            };
            match index % 5 {
                0 => ended(Status::Exit(1)),
                1 => ended(Status::Exit(17)),
                2 => ended(Status::Signal("KILL".into())),
                3 => lost(format!("{} does not answer any more", target.host)),
                _ => lost(format!("packet {index} of {} is broken", target.node())),
            }
        };
        targets.iter().enumerate().map(outcome).collect()
    }

    #[test]
    fn a_thousand_hosts_that_fail_in_five_ways_fit_a_screen() {
        let targets = fleet(1000);
        let outcomes = failing_in_five_ways(&targets);
        let results: Vec<_> = targets.iter().zip(&outcomes).collect();
        let tree = of_commands(&results, Detail::Short).expect("a summary");
        let text = tree.flat();
        assert!(lines(&tree, 0, 80) < 24, "{text}");
        assert!(lines(&tree, 0, 160) < 12, "{text}");
        for part in [
            "commands are failed on all 1000 nodes: exited with non-zero code 1 (200 nodes): web[1,6,11,",
            "exited with non-zero code 17 (200 nodes): web[2,7,12,",
            "connection lost: <host> does not answer any more (200 nodes): web[4,9,",
            " more (-v names all); ",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn a_thousand_hosts_in_blocks_are_a_few_lines() {
        let targets = fleet(1000);
        let outcomes: Vec<_> = (0..1000)
            .map(|index| ended(Status::Exit(1 + index / 200)))
            .collect();
        let results: Vec<_> = targets.iter().zip(&outcomes).collect();
        let tree = of_commands(&results, Detail::Short).expect("a summary");
        assert_eq!(lines(&tree, 0, 100), 7);
        assert_eq!(
            tree.causes[0].causes[1].message,
            "exited with non-zero code 2 (200 nodes): web[201-400]"
        );
    }

    #[test]
    fn the_whole_summary_names_every_host_and_reason() {
        let targets = fleet(1000);
        let outcomes = failing_in_five_ways(&targets);
        let results: Vec<_> = targets.iter().zip(&outcomes).collect();
        let tree = of_commands(&results, Detail::Full).expect("a summary");
        assert_eq!(tree.causes[0].causes.len(), 4 + 200);
        assert!(
            tree.flat()
                .contains(",986,991,996]; exited with non-zero code 17")
        );
    }

    fn unreachable(reason: String) -> Outcome {
        Outcome::failed(Status::Unreachable, Tree::new(reason).because("the end"))
    }

    #[test]
    fn few_hosts_that_cannot_be_reached_are_told_one_by_one() {
        let targets = fleet(10);
        let outcomes: Vec<_> = targets.iter().map(|_| unreachable("no".into())).collect();
        let results: Vec<_> = targets.iter().zip(&outcomes).collect();
        let tree = of_connections(&results, 40, Detail::Short);
        assert_eq!(
            tree.causes[0].message,
            "connection to 10 of 40 nodes failed"
        );
        assert_eq!(tree.causes[0].causes.len(), 10);
        assert_eq!(
            tree.causes[0].causes[0].flat(),
            "can't connect to address: [ops@web1:22]: no: the end"
        );
    }

    #[test]
    fn many_hosts_that_cannot_be_reached_are_told_by_reason() {
        let targets = fleet(1000);
        let outcomes: Vec<_> = targets
            .iter()
            .enumerate()
            .map(|(index, target)| match index {
                0..500 => unreachable(format!("can't resolve '{}'", target.host)),
                500..900 => unreachable("connection refused".into()),
                900 => Outcome::failed(Status::Auth, "only this one".into()),
                _ => Outcome::failed(Status::HostKey, format!("line {index}").into()),
            })
            .collect();
        let results: Vec<_> = targets.iter().zip(&outcomes).collect();
        let tree = of_connections(&results, 1000, Detail::Short);
        let branches: Vec<String> = tree.causes[0].causes.iter().map(Tree::flat).collect();
        assert_eq!(
            branches,
            [
                "can't connect to address (500 nodes): web[1-500]: can't resolve '<host>': the end",
                "can't connect to address (400 nodes): web[501-900]: connection refused: the end",
                "can't authenticate: [ops@web901:22]: only this one",
                "host key refused, for 99 different reasons (99 nodes): web[902-1000]: \
                 such as: host key refused: [ops@web902:22]: line 901",
            ]
        );
        let tree = of_connections(&results, 1000, Detail::Full);
        assert_eq!(tree.causes[0].causes.len(), 3 + 99);
        let tree = of_connections(&results[..100], 1000, Detail::Full);
        assert_eq!(tree.causes[0].causes.len(), 100);
        let skipped = of_skipped(&results[..10], Detail::Short);
        assert_eq!(
            skipped[0].flat(),
            "can't connect to address: [ops@web1:22], the host is skipped: \
             can't resolve 'web1': the end"
        );
        let skipped = of_skipped(&results, Detail::Short);
        assert_eq!(skipped.len(), 1);
        assert_eq!(skipped[0].message, "1000 hosts are skipped");
    }

    #[test]
    fn a_name_is_replaced_as_a_word_only() {
        let target = &targets(&["a"])[0];
        assert_eq!(
            general("can't resolve 'a'", target),
            "can't resolve '<host>'"
        );
        assert_eq!(
            general("[ops@a:22] a-b a.b bad", target),
            "<host> a-b a.b bad"
        );
    }
}
