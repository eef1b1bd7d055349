//! The end of a run in words: which hosts failed, grouped by cause.

use std::collections::HashMap;

use crate::error::Tree;
use crate::event::{Outcome, Status};
use crate::hosts::Target;

/// What failed after the commands were started; nothing where all is well.
#[must_use]
pub fn of_commands(results: &[(&Target, &Outcome)]) -> Option<Tree> {
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
    Some(Tree::new("remote execution failed").because(by_cause(headline, results)))
}

/// The hosts that could not be reached, one by one.
#[must_use]
pub fn of_connections(results: &[(&Target, &Outcome)], all: usize) -> Tree {
    let headline = format!("connection to {} of {} failed", results.len(), nodes(all));
    let details = results
        .iter()
        .fold(Tree::new(headline), |tree, (target, outcome)| {
            tree.because(of_connection(target, outcome))
        });
    Tree::new("connecting to cluster failed").because(details)
}

/// One host that could not be reached.
#[must_use]
pub fn of_connection(target: &Target, outcome: &Outcome) -> Tree {
    let what = match outcome.status {
        Status::Auth => "can't authenticate",
        Status::HostKey => "host key refused",
        Status::Connection => "connection lost",
        Status::Refused => "refused by the host",
        _ => "can't connect to address",
    };
    let tree = Tree::new(format!("{what}: {}", target.node()));
    match &outcome.reason {
        Some(reason) => tree.because(reason.clone()),
        None => tree,
    }
}

/// How one host failed, in one line.
#[must_use]
pub fn cause(outcome: &Outcome) -> String {
    let what = match &outcome.status {
        Status::Ok => "ok".to_owned(),
        Status::Exit(code) => format!("code {code}"),
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
    };
    match &outcome.reason {
        Some(reason) => format!("{what}: {}", reason.flat()),
        None => what,
    }
}

fn by_cause(headline: String, results: &[(&Target, &Outcome)]) -> Tree {
    let mut order: Vec<(&Status, String)> = Vec::new();
    let mut names: HashMap<String, Vec<&str>> = HashMap::new();
    for (target, outcome) in results {
        if outcome.status == Status::Ok {
            continue;
        }
        let cause = cause(outcome);
        let group = names.entry(cause.clone()).or_default();
        if group.is_empty() {
            order.push((&outcome.status, cause));
        }
        group.push(&target.prefix);
    }
    order.sort();
    order
        .into_iter()
        .fold(Tree::new(headline), |tree, (_, cause)| {
            let group = &names[&cause];
            tree.because(format!(
                "{cause} ({}): {}",
                nodes(group.len()),
                group.join(", ")
            ))
        })
}

/// `3 nodes`.
#[must_use]
pub fn nodes(count: usize) -> String {
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
        assert_eq!(of_commands(&[(&targets[0], &ok)]), None);
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
        let tree = of_commands(&results).expect("a summary");
        assert_eq!(
            tree.flat(),
            "remote execution failed: commands are failed on 3 out of 4 nodes: \
             code 17 (2 nodes): a, d; \
             connection lost: no sign of life for 60s (1 node): c"
        );
    }

    #[test]
    fn all_nodes_are_called_all() {
        let targets = targets(&["a", "b", "c"]);
        let code = ended(Status::Exit(1));
        let results: Vec<_> = targets.iter().map(|target| (target, &code)).collect();
        let tree = of_commands(&results).expect("a summary");
        assert_eq!(tree.causes[0].message, "commands are failed on all 3 nodes");
    }

    #[test]
    fn hosts_that_were_not_waited_for_are_named() {
        let targets = targets(&["a", "b"]);
        let (ok, cancelled) = (ended(Status::Ok), Outcome::cancelled());
        let results: Vec<_> = targets.iter().zip([&ok, &cancelled]).collect();
        let tree = of_commands(&results).expect("a summary");
        assert_eq!(
            tree.flat(),
            "remote execution failed: the run was stopped before all commands had ended: \
             not finished (1 node): b"
        );
    }
}
