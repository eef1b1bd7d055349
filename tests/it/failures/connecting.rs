//! Hosts that cannot be reached.

use std::time::Duration;

use super::{Fake, Hosts, closed_port, fake};
use crate::support::said::untimed;
use crate::support::{Finished, arguments, each, login, orgalorg, targets};

/// One host that is well, and one of each kind that is not.
struct Bad {
    /// Their targets, the good one first.
    targets: Vec<String>,
    /// What is said about each of the others.
    reasons: Vec<(String, Vec<&'static str>)>,
}

fn bad(hosts: &Hosts) -> Bad {
    let node = |target: &str| match target.contains(':') {
        true => format!("[root@{target}]"),
        false => format!("[root@{target}:22]"),
    };
    hosts[1].cut();
    let timed_out = "timed out after 3s during the SSH handshake";
    let silence = "the host says nothing";
    let reasons: Vec<(String, Vec<&'static str>)> = vec![
        (fake(hosts, Fake::Silent), vec![timed_out, silence]),
        (
            fake(hosts, Fake::Says("220 mail.example.com ESMTP\r\n")),
            vec![timed_out, "the host says: 220 mail.example.com ESMTP"],
        ),
        (
            fake(hosts, Fake::Says("\0\x01\x02 binary")),
            vec!["the host does not speak SSH"],
        ),
        (
            fake(hosts, Fake::Repeats("no ssh here\r\n")),
            vec![timed_out, "the host says: no ssh here"],
        ),
        (fake(hosts, Fake::Repeats("\n")), vec![timed_out, silence]),
        (
            fake(hosts, Fake::Closes),
            vec!["the host closed the connection"],
        ),
        (closed_port(&hosts[0]), vec!["connection refused"]),
        (
            "web2".to_owned(),
            vec!["timed out after 3s while connecting"],
        ),
        (
            "nowhere".to_owned(),
            vec!["can't resolve 'nowhere'", "Name or service not known"],
        ),
    ];
    let mut targets = vec!["web1".to_owned()];
    targets.extend(reasons.iter().map(|(target, _)| target.clone()));
    Bad {
        targets,
        reasons: reasons
            .into_iter()
            .map(|(target, reason)| (node(&target), reason))
            .collect(),
    }
}

#[test]
fn all_hosts_are_tried_and_all_that_fail_are_listed_in_one_tree() {
    let hosts = Hosts::start(2);
    let bad = bad(&hosts);
    let targets = each(bad.targets.iter().map(String::as_str));
    let run = orgalorg(
        &hosts,
        arguments(&targets, &["-c", "3s"], "touch /tmp/ran; hostname"),
    );
    let finished = run.run().code(3);

    assert_eq!(finished.stdout(), "", "nothing is run anywhere");
    assert!(!hosts[0].has_file("/tmp/ran"));
    let mut expected = String::from(
        "[FATAL] connecting to cluster failed\n        └─ connection to 9 of 10 nodes failed\n",
    );
    let last = bad.reasons.len() - 1;
    for (index, (node, reason)) in bad.reasons.iter().enumerate() {
        let (branch, below) = match index == last {
            true => ("└─", " "),
            false => ("├─", "│"),
        };
        expected += &format!("           {branch} can't connect to address: {node}\n");
        for (depth, text) in reason.iter().enumerate() {
            let margin = " ".repeat(3 * depth);
            expected += &format!("           {below}  {margin}└─ {text}\n");
        }
    }
    let said = untimed(&finished.stderr());
    let (warnings, tree): (Vec<&str>, Vec<&str>) =
        said.lines().partition(|line| line.starts_with(" [WARN]"));
    assert_eq!(tree.join("\n") + "\n", expected);
    let slow: Vec<String> = bad
        .reasons
        .iter()
        .filter(|(_, reason)| reason[0].starts_with("timed out"))
        .map(|(node, _)| format!(" [WARN] still connecting to address after 2s: {node}"))
        .collect();
    assert_eq!(warnings, slow);
    // -c is 3 s; what it would take without it is for ever.
    assert!(finished.elapsed < Duration::from_secs(20), "{finished:?}");
}

#[test]
fn with_w_the_others_go_on_and_those_left_out_are_named() {
    let hosts = Hosts::start(2);
    let bad = bad(&hosts);
    let all = each(bad.targets.iter().map(String::as_str));
    let finished = orgalorg(&hosts, arguments(&all, &["-w", "-c", "3s"], "hostname"))
        .run()
        .code(0);

    assert_eq!(finished.stdout(), "web1 web1\n");
    let said = untimed(&finished.stderr());
    for (node, reason) in &bad.reasons {
        let warning = format!(
            " [WARN] can't connect to address: {node}, the host is skipped\n        └─ {}\n",
            reason[0],
        );
        assert!(said.contains(&warning), "{warning}\n{said}");
    }
    assert!(!said.contains("FATAL"), "{said}");

    // Nobody is left.
    let none = each(["nowhere", "neverland"]);
    let finished = orgalorg(&hosts, arguments(&none, &["-w"], "hostname"))
        .run()
        .code(3)
        .says("connection to 2 of 2 nodes failed");
    assert_eq!(finished.stdout(), "");
}

#[test]
fn with_w_a_refused_host_key_still_ends_the_run() {
    let hosts = Hosts::start(2);
    hosts[0].change_host_key();
    let finished = orgalorg(
        &hosts,
        arguments(&targets(&hosts), &["-w"], "touch /tmp/ran; hostname"),
    )
    .run()
    .code(3)
    .says("host key refused: [root@web1:22]");
    assert_eq!(finished.stdout(), "");
    assert!(!hosts[1].has_file("/tmp/ran"));
}

#[test]
fn with_w_a_host_that_does_not_let_us_in_is_left_out() {
    let hosts = Hosts::start(2);
    let nobody = login("nobody", &hosts[0]);
    let targets = each([nobody.as_str(), "web2"]);
    let finished = orgalorg(&hosts, arguments(&targets, &["-w"], "hostname"))
        .run()
        .code(0)
        .says("can't authenticate: [nobody@web1:22]");
    assert_eq!(finished.stdout(), "web2 web2\n");
    orgalorg(&hosts, arguments(&targets, &[], "hostname"))
        .run()
        .code(3)
        .says("can't authenticate: [nobody@web1:22]")
        .says("connection to 1 of 2 nodes failed");
}

fn run_on_both(hosts: &Hosts, options: &[&str]) -> Finished {
    let mut all = vec!["--host-keys", "off", "-c", "3s"];
    all.extend(options);
    orgalorg(hosts, arguments(&each(["both"]), &all, "hostname")).run()
}

#[test]
fn every_address_of_a_name_is_tried() {
    let hosts = Hosts::start(3);
    let table = hosts.dir().join("client/hosts");
    let v6_then_v4 = |first: usize, second: usize| {
        let lines = format!(
            "{} both\n{} both\n",
            hosts[first].addr6(),
            hosts[second].addr()
        );
        // In place: the file is mounted over the client's own.
        std::fs::write(&table, lines).expect("the host table can be written");
    };
    hosts[0].cut();
    hosts[2].cut();

    v6_then_v4(0, 1);
    let finished = run_on_both(&hosts, &[]).code(0);
    assert_eq!(finished.stdout(), "both web2\n", "v6 is silent, v4 is not");

    v6_then_v4(1, 0);
    let finished = run_on_both(&hosts, &[]).code(0);
    assert_eq!(finished.stdout(), "both web2\n", "v6 answers");

    v6_then_v4(0, 2);
    let finished = run_on_both(&hosts, &[]).code(3);
    let (v6, v4) = (hosts[0].addr6(), hosts[2].addr());
    let said = untimed(&finished.stderr());
    let expected = format!(
        "           └─ can't connect to address: [root@both:22]
              └─ no address answers
                 ├─ [{v6}]:22
                 │  └─ no answer within 1.5s
                 └─ {v4}:22
                    └─ no answer within 1.5s
"
    );
    assert!(said.ends_with(&expected), "{said}");
}
