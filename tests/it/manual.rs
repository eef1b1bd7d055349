//! The table of `docs/MANUAL.md`, walked cell by cell.

use std::time::Duration;

use crate::hosts::{Hosts, wait_until};
use crate::support::{Finished, LIMIT, Running, furnish_home, orgalorg};

/// What stands in the row that begins with `name`: exit status and sentence, for
/// each column.
fn row(name: &str) -> Vec<(i32, String)> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/MANUAL.md");
    let manual = std::fs::read_to_string(path).expect("the manual can be read");
    let line = manual
        .lines()
        .find(|line| line.starts_with(&format!("| {name} |")))
        .unwrap_or_else(|| panic!("there is no row '{name}'"));
    let cells = line.trim_matches('|').split('|').skip(1);
    cells
        .map(|cell| {
            let (code, text) = cell.trim().split_once(", ").expect("a number and a text");
            (code.parse().expect("a number"), text.to_owned())
        })
        .collect()
}

/// The columns of the table.
const COLUMNS: [&[&str]; 4] = [&[], &["-w"], &["-t"], &["-y"]];

/// web1 is well; what web2 is, is up to the test.
fn two_hosts() -> Hosts {
    let hosts = Hosts::start(2);
    furnish_home(&hosts);
    hosts
}

/// Checks a run on both hosts against a cell.
fn check(finished: Finished, (code, text): &(i32, String), column: &[&str]) {
    let finished = finished.code(*code);
    let expected: &[&str] = match text.as_str() {
        "nothing is run" => &[],
        "it is left out" | "the others go on" => &["web1 ran"],
        "it runs there too" => &["web1 ran", "web2 ran"],
        "all are ended" => &[],
        other => panic!("nobody knows what '{other}' means"),
    };
    let lines = finished.sorted();
    let ran: Vec<&String> = lines.iter().filter(|line| line.ends_with(" ran")).collect();
    assert_eq!(ran, expected, "{column:?}: {}", finished.stderr());
}

/// A row whose situation is there before the run begins.
fn walk(name: &str, hosts: &Hosts, target: &str) {
    let cells = row(name);
    assert_eq!(cells.len(), COLUMNS.len());
    for (column, cell) in COLUMNS.into_iter().zip(&cells) {
        let arguments = ["-c", "1500", "-o", "web1", "-o", target, "-C", "echo ran"];
        let finished = orgalorg(hosts, [column, &arguments].concat()).run();
        check(finished, cell, column);
    }
}

#[test]
fn unreachable() {
    let hosts = two_hosts();
    hosts.host("web2").cut();
    walk("unreachable", &hosts, "web2");
}

#[test]
fn not_letting_us_in() {
    let hosts = two_hosts();
    walk("not letting us in", &hosts, "nobody@web2");
}

#[test]
fn showing_a_wrong_host_key() {
    let hosts = two_hosts();
    hosts.host("web2").change_host_key();
    walk("showing a wrong host key", &hosts, "web2");
}

#[test]
fn locked_by_somebody_else() {
    let hosts = two_hosts();
    let holder = orgalorg(&hosts, ["-o", "web2", "-L"]).spawn();
    wait_until("the lock is held", LIMIT, || {
        holder.stderr().contains("waiting for interrupt")
    });
    walk("locked by somebody else", &hosts, "web2");
    holder.signal("INT");
    holder.finish().killed_by(2);
}

#[test]
fn lost_before_the_start() {
    let cells = row("lost before the start");
    for (column, cell) in COLUMNS.into_iter().zip(&cells) {
        let hosts = Hosts::start(3);
        // web3 keeps the others waiting.
        hosts.host("web3").freeze();
        let arguments = ["-v", "-c", "60s", "-o", "web[1-3]", "-C", "echo ran"];
        let running = orgalorg(&hosts, [column, &arguments].concat()).spawn();
        wait_until("two hosts are connected", LIMIT, || {
            running.stderr().matches(": accepted").count() == 2
        });
        // Logged in is what sshd says; the client has to hear of it.
        wait_until("web2 has a session", LIMIT, || {
            hosts.host("web2").log().contains("Accepted publickey")
        });
        hosts.host("web2").drop_connections();
        wait_until("the loss is noticed", LIMIT, || {
            running.stderr().contains("[root@web2:22] ended: ")
        });
        hosts.host("web3").thaw();
        let mut finished = running.finish();
        let stdout = finished.stdout().replace("web3 ran\n", "");
        finished.stdout = stdout.into_bytes();
        check(finished, cell, column);
    }
}

/// Starts a command on both hosts that runs until the test lets it go.
fn start(hosts: &Hosts, column: &[&str]) -> Running {
    let command = "rm -f /tmp/go; echo started; \
                   while [ ! -e /tmp/go ]; do sleep 0.05; done; echo ran";
    let arguments = ["-o", "web[1-2]", "-C", command];
    let running = orgalorg(hosts, [column, &arguments].concat()).spawn();
    wait_until("both run", LIMIT, || {
        running.stdout().matches("started").count() == 2
    });
    running
}

#[test]
fn lost_while_the_command_runs() {
    let cells = row("lost while the command runs");
    for (column, cell) in COLUMNS.into_iter().zip(&cells) {
        let hosts = two_hosts();
        let running = start(&hosts, column);
        hosts.host("web2").drop_connections();
        hosts.host("web1").write_file("/tmp/go", "", 0o644);
        check(running.finish(), cell, column);
    }
}

#[test]
fn losing_its_lock_meanwhile() {
    let cells = row("losing its lock meanwhile");
    for (column, cell) in COLUMNS.into_iter().zip(&cells) {
        let hosts = two_hosts();
        let running = start(&hosts, column);
        if cell.0 == 5 {
            hosts.host("web2").kill_matching("orgalorg-guard");
        } else {
            // (With -y there is none to lose.)
            hosts.host("web2").kill_matching(" flock nothing ");
            for host in &hosts {
                host.write_file("/tmp/go", "", 0o644);
            }
        }
        check(running.finish_within(Duration::from_secs(20)), cell, column);
    }
}
