//! However a run ends, its locks are free when its process has ended: another run
//! that is started at that moment gets them.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use crate::hosts::{Hosts, holds_within};
use crate::support::{LIMIT, Orgalorg, Running, in_shell, login, orgalorg, signal, targets};

/// How often each ending is tried: the lock of a run that ended too early was free in
/// half of all cases.
const ROUNDS: usize = 6;

const SIGNALS: [&str; 3] = ["INT", "TERM", "HUP"];

const SLEEP: [&str; 2] = ["-C", "echo up; exec sleep 300"];

fn on(hosts: &Hosts, arguments: &[&str]) -> Vec<String> {
    let own = arguments.iter().map(|&argument| argument.to_owned());
    targets(hosts).into_iter().chain(own).collect()
}

/// Ends a run this way, again and again, and starts another one right after it.
#[track_caller]
fn check(end_a_run: impl Fn(&Hosts)) {
    let hosts = Hosts::start(2);
    for round in 0..ROUNDS {
        end_a_run(&hosts);
        let next = orgalorg(&hosts, on(&hosts, &["-C", "true"])).run();
        assert!(next.status.success(), "round {round}: {}", next.stderr());
    }
}

/// Starts a run and waits until it has said something on stdout or stderr.
#[track_caller]
fn start(run: Orgalorg, sign: &str) -> Running {
    let running = run.spawn();
    let mut said = String::new();
    let has_come = holds_within(LIMIT, || {
        said = running.stdout() + &running.stderr();
        said.contains(sign)
    });
    assert!(has_come, "{said}");
    running
}

/// The program under timeout(1), which passes on a signal as it sends its own: to its
/// child, and then to the process group that the child is in.
fn under_timeout(hosts: &Hosts, arguments: &[&str]) -> Orgalorg {
    let script = "exec timeout 5m \"$0\" \"$@\"";
    in_shell(hosts, script, on(hosts, arguments))
}

#[test]
fn the_lock_is_free_after_success_and_failure() {
    check(|hosts| drop(orgalorg(hosts, on(hosts, &["-C", "true"])).run().code(0)));
    check(|hosts| drop(orgalorg(hosts, on(hosts, &["-C", "exit 3"])).run().code(1)));
}

#[test]
fn the_lock_is_free_after_a_signal() {
    for name in SIGNALS {
        check(|hosts| {
            let run = start(orgalorg(hosts, on(hosts, &SLEEP)), "web2 up");
            run.signal(name);
            run.finish();
        });
    }
}

#[test]
fn the_lock_is_free_after_timeout_has_sent_its_signal_twice() {
    for name in SIGNALS {
        check(|hosts| {
            let run = start(under_timeout(hosts, &SLEEP), "web2 up");
            run.signal(name);
            run.finish()
                .says(&format!("SIG{name} received, ending the run"));
        });
    }
}

#[test]
fn the_lock_is_free_after_the_time_of_timeout_is_up() {
    check(|hosts| {
        let script = "exec timeout -s INT 2 \"$0\" \"$@\"";
        let run = in_shell(hosts, script, on(hosts, &SLEEP)).run();
        assert!(!run.status.success());
    });
}

#[test]
fn the_lock_is_free_after_lock_mode_was_interrupted() {
    let sign = "waiting for interrupt...";
    check(|hosts| {
        let run = start(orgalorg(hosts, on(hosts, &["-L"])), sign);
        run.signal("INT");
        run.finish();
    });
    check(|hosts| {
        let run = start(under_timeout(hosts, &["-L"]), sign);
        run.signal("INT");
        run.finish();
    });
}

#[test]
fn the_lock_is_free_after_a_time_limit_for_commands() {
    check(|hosts| {
        let arguments = on(hosts, &["--timeout", "300ms", "-C", "sleep 300"]);
        orgalorg(hosts, arguments).run().code(1);
    });
}

#[test]
fn the_lock_is_free_after_the_first_failure_has_ended_the_run() {
    check(|hosts| {
        let command = "[ $(hostname) = web2 ] && exit 7; sleep 300";
        let arguments = on(hosts, &["--fail-fast", "-C", command]);
        orgalorg(hosts, arguments).run().code(1);
    });
}

#[test]
fn the_lock_is_free_after_stdout_was_closed() {
    check(|hosts| {
        let command = "while :; do echo line; sleep 0.05; done";
        let mut run = orgalorg(hosts, on(hosts, &["-C", command]))
            .into_command()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program can be started");
        let mut line = String::new();
        let mut stdout = BufReader::new(run.stdout.take().expect("it is piped"));
        stdout.read_line(&mut line).expect("a line");
        drop(stdout);
        let has_ended = holds_within(LIMIT, || run.try_wait().expect("a child").is_some());
        assert!(has_ended);
    });
}

#[test]
fn the_lock_is_free_after_it_was_lost() {
    check(|hosts| {
        let run = start(orgalorg(hosts, on(hosts, &SLEEP)), "web2 up");
        hosts[1].run_ok("pkill -f '[f]lock'");
        run.finish().code(5);
    });
}

#[test]
fn whoever_looks_for_flock_on_a_host_finds_the_lock_holder() {
    let hosts = Hosts::start(2);
    for options in [&[][..], &["-x"]] {
        let own = targets_of(&hosts, "ops");
        let words = [options, &SLEEP].concat();
        let words = own.into_iter().chain(words.iter().map(|&word| word.into()));
        let run = start(orgalorg(&hosts, words), "web2 up");
        let found = hosts[0].run_ok("pgrep -f '[f]lock' | xargs ps -o args= -p");
        assert!(found.contains("orgalorg-guard"), "{found}");
        hosts[0].run_ok("pkill -f '[f]lock'");
        let finished = run.finish().code(5);
        finished
            .says("[ops@web1:22] heartbeat failed: lock lost")
            .says("the lock holder on the host has ended");
    }
    // Who holds no lock is not found.
    let unlocked = start(
        orgalorg(&hosts, on(&hosts, &[&["-y"][..], &SLEEP].concat())),
        "web2 up",
    );
    assert_eq!(hosts[0].run("pgrep -f '[f]lock'").status.code(), Some(1));
    signal(unlocked.child.id(), "INT");
    unlocked.finish();
}

fn targets_of(hosts: &Hosts, user: &str) -> Vec<String> {
    let hosts = hosts.iter();
    hosts
        .flat_map(|host| ["-o".to_owned(), login(user, host)])
        .collect()
}
