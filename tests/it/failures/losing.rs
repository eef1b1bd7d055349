//! Hosts that are lost in the middle of a run.

use std::fs::File;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use super::{Fake, Hosts, fake};
use crate::hosts::wait_until;
use crate::support::said::{summary, untimed};
use crate::support::{LIMIT, arguments, each, login, orgalorg, targets};

/// So much earlier than with the default limits of 60 s, however busy the
/// machine is.
const SOON: Duration = Duration::from_secs(30);

#[test]
fn hosts_that_vanish_are_noticed_and_the_others_go_on_to_the_end() {
    let hosts = Hosts::start(6);
    let command = "echo begun; until [ -e /tmp/go ]; do sleep 0.1; done; seq 1 2000; echo end";
    let options = ["-z", "3s", "-a", "2s"];
    let run = orgalorg(&hosts, arguments(&targets(&hosts), &options, command)).spawn();
    run.wait_for_stdout("begun", 6);
    hosts[0].kill();
    hosts[1].cut();
    hosts[2].freeze();
    hosts[3].drop_connections();
    for host in [&hosts[4], &hosts[5]] {
        host.write_file("/tmp/go", "", 0o644);
    }
    let finished = run.finish_within(SOON).code(3);

    let mut expected = String::from("web4 begun\n");
    for name in ["web5", "web6"] {
        expected += &format!("{name} begun\n");
        expected.extend((1..=2000).map(|i| format!("{name} {i}\n")));
        expected += &format!("{name} end\n");
    }
    for name in ["web1", "web2", "web3"] {
        expected += &format!("{name} begun\n");
    }
    let mut expected: Vec<&str> = expected.lines().collect();
    expected.sort_unstable();
    assert_eq!(finished.sorted(), expected);
    assert_eq!(
        summary(&finished.stderr()),
        "[FATAL] remote execution failed
        └─ commands are failed on 4 out of 6 nodes
           ├─ connection lost: no sign of life for 3s (3 nodes): web[1-3]
           └─ connection lost: the host closed the connection (1 node): web4
"
    );
}

#[test]
fn a_silent_command_is_not_a_lost_host() {
    let hosts = Hosts::start(1);
    // Keep-alives are at least two seconds apart, so this is long for -z.
    let options = ["-z", "1s", "-a", "1s"];
    let finished = orgalorg(
        &hosts,
        arguments(&each(["web1"]), &options, "sleep 6; echo awake"),
    )
    .run()
    .ok();
    assert_eq!(finished.stdout(), "web1 awake\n");
}

#[test]
fn a_host_that_takes_no_data_is_lost() {
    let hosts = Hosts::start(2);
    let input = hosts.dir().join("input");
    let file = File::create(&input).expect("there is room");
    file.set_len(4 << 30)
        .expect("there is room for a sparse file");
    let input = input.to_str().expect("the path is UTF-8");
    // In full flow, or it would be the command that takes nothing.
    let command = "head -c 10000000 >/dev/null; echo begun; cat >/dev/null";
    let start = |name: &str, options: &[&str]| {
        let options = [&["-i", input, "-j", "2s"], options].concat();
        let run = orgalorg(&hosts, arguments(&each([name]), &options, command)).spawn();
        run.wait_for_stdout("begun", 1);
        run
    };

    // Only -j can notice it in time.
    let run = start("web1", &["-z", "10m", "-a", "10m"]);
    hosts[0].cut();
    run.finish_within(SOON)
        .code(3)
        .says("connection lost: the connection has taken no data for 2s (1 node): web1");

    // Which of the two is blocked is a matter of chance: the connection, or the
    // channel, whose host then shows no life.
    let run = start("web2", &["-z", "2s"]);
    hosts[1].freeze();
    run.finish_within(SOON).code(3).says("connection lost: ");
}

#[test]
fn a_host_may_be_lost_before_the_others_are_there() {
    let hosts = Hosts::start(2);
    let silent = fake(&hosts, Fake::Silent);
    let targets = each(["web1", "web2", &silent]);
    for (options, code, ran) in [
        (["-c", "4s", "-a", "2s"].as_slice(), 3, false),
        (&["-c", "4s", "-w"], 0, true),
    ] {
        let logins = || {
            hosts[0].log().matches("Starting session").count()
                + hosts[0].log().matches("Accepted publickey").count()
        };
        let before = logins();
        let run = orgalorg(
            &hosts,
            arguments(&targets, options, "touch /tmp/ran; hostname"),
        )
        .spawn();
        wait_until("a login on web1", LIMIT, || logins() > before);
        // The server's word is on its way to the client.
        run.wait_for_stderr("still connecting to address");
        hosts[0].drop_connections();
        let finished = run.finish_within(SOON).code(code);
        assert_eq!(finished.stdout(), if ran { "web2 web2\n" } else { "" });
        assert!(!hosts[0].has_file("/tmp/ran"));
        assert_eq!(hosts[1].has_file("/tmp/ran"), ran);
        let said = untimed(&finished.stderr());
        let lost = "connection lost: [root@web1:22]";
        assert!(said.contains(lost), "{said}");
        assert!(said.contains("the host closed the connection"), "{said}");
        let missing = format!("can't connect to address: [root@{silent}]");
        assert!(said.contains(&missing), "{said}");
    }
}

#[test]
fn what_came_before_the_end_of_a_connection_is_printed() {
    let hosts = Hosts::start(1);
    // More than what is on the way while nobody reads it (window and credit),
    // and the host falls silent after that.
    let lines = 40_000;
    let command = format!("seq 1 {lines}; touch /tmp/said; sleep 60");
    let child = orgalorg(&hosts, arguments(&each(["web1"]), &["-z", "2s"], &command))
        .into_command()
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program can be started");
    wait_until("the command to have said all", LIMIT, || {
        hosts[0].has_file("/tmp/said")
    });
    wait_until("all to have arrived", LIMIT, || unsent(&hosts) == 0);
    hosts[0].drop_connections();
    // Longer than any of the limits: the user has gone for a coffee.
    thread::sleep(Duration::from_secs(5));
    let output = child.wait_with_output().expect("its output can be read");
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert_eq!(stdout.lines().count(), lines, "{:?}", output.stderr);
    assert_eq!(
        stdout.lines().last(),
        Some(format!("web1 {lines}").as_str())
    );
    assert_eq!(output.status.code(), Some(3));
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("connection lost: the host closed"),
        "{output:?}"
    );
}

/// Bytes in the host's send queues.
fn unsent(hosts: &Hosts) -> u64 {
    let table = hosts[0].run_ok("cat /proc/net/tcp");
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let queues = line.split_whitespace().nth(4)?;
            u64::from_str_radix(queues.split(':').next()?, 16).ok()
        })
        .sum()
}

#[test]
fn a_session_that_is_killed_at_any_moment_is_never_a_success() {
    let hosts = Hosts::start(3);
    thread::scope(|scope| {
        for (index, host) in hosts.iter().enumerate() {
            let hosts = &hosts;
            scope.spawn(move || {
                for round in 0..10 {
                    let command = "echo begun; seq 1 300000; exec echo end";
                    let run = orgalorg(
                        hosts,
                        arguments(&each([login("ops", host).as_str()]), &[], command),
                    )
                    .spawn();
                    // Some before the login, some after it, some in full flow.
                    if round % 2 == 1 {
                        run.wait_for_stdout("begun", 1);
                    }
                    thread::sleep(Duration::from_millis(7 * round + 11 * index as u64));
                    host.drop_connections();
                    let finished = run.finish_within(SOON);
                    // Its guard has the lock until it has ended what ran.
                    wait_until("the guard to end", SOON, || !host.runs("orgalorg-guard"));
                    let stdout = finished.stdout();
                    assert!(
                        !finished.stderr().contains("panicked"),
                        "{}",
                        finished.stderr()
                    );
                    match finished.status.code() {
                        // It may have been quicker than the killing.
                        Some(0) => assert!(stdout.ends_with(" end\n"), "{finished:?}"),
                        Some(3) => {
                            let said = finished.stderr();
                            assert!(said.contains("closed the connection"), "{said}");
                        }
                        _ => panic!("{}: {}", finished.status, finished.stderr()),
                    }
                    for (line, number) in stdout.lines().skip(1).zip(1..) {
                        let whole = format!("{} {number}", host.name());
                        let end = format!("{} end", host.name());
                        let is_last = Some(line) == stdout.lines().last();
                        assert!(
                            line == whole || line == end || (is_last && whole.starts_with(line)),
                            "{line:?} in place of {whole:?}"
                        );
                    }
                }
            });
        }
    });
}

#[test]
fn a_client_that_was_suspended_does_not_take_its_hosts_for_dead() {
    let hosts = Hosts::start(1);
    let command = "echo begun; until [ -e /tmp/go ]; do sleep 0.1; done; echo end";
    let run = orgalorg(
        &hosts,
        arguments(&each(["web1"]), &["-z", "500ms"], command),
    )
    .spawn();
    run.wait_for_stdout("begun", 1);
    run.signal("STOP");
    // Longer than it takes to give a silent host up.
    thread::sleep(Duration::from_secs(4));
    run.signal("CONT");
    // It sleeps for what was left of its time, and then has to judge.
    thread::sleep(Duration::from_secs(3));
    hosts[0].write_file("/tmp/go", "", 0o644);
    let finished = run.finish_within(SOON).ok();
    assert_eq!(finished.stdout(), "web1 begun\nweb1 end\n");
}
