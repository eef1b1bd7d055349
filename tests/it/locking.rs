//! The cluster lock (S9), and that nothing which a run has started on a host
//! outlives it, whatever becomes of the client, of the wire, of the host or of
//! the guard (S12).

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::ffi::OsStringExt;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use crate::hosts::{Host, Hosts, Process, wait_until};
use crate::support::{Finished, Running, login, on_all, orgalorg};

/// A command that says when it runs, and that no polite signal ends.
const STUBBORN: &str = "trap '' HUP INT TERM; echo up; while :; do sleep 86399; done";

/// How long an ending may take (5 s), and what a busy machine adds to that.
const ENDING: Duration = Duration::from_secs(8);

/// Longer than the lease of a run with `-j 1000`, with the ending of commands.
const AFTER_LEASE: Duration = Duration::from_secs(20);

const SIGINT: i32 = 2;
const SIGTERM: i32 = 15;
const SIGHUP: i32 = 1;

/// What runs on a host besides its init and the sshd that listens.
fn guests(host: &Host) -> Vec<Process> {
    let mut processes = host.processes();
    processes.retain(|process| process.pid != 1);
    // The listener is the sshd that init has started.
    let init = host
        .processes()
        .into_iter()
        .find(|process| process.pid == 1);
    let init = init.expect("a host has an init").outer_pid;
    processes.retain(|process| process.outer_parent != init || !process.name.starts_with("sshd"));
    processes
}

#[track_caller]
fn wait_until_empty(host: &Host, limit: Duration) {
    let mut left = Vec::new();
    let is_empty = crate::hosts::holds_within(limit, || {
        left = guests(host);
        left.is_empty()
    });
    assert!(is_empty, "on {} there still is {left:#?}", host.name());
}

/// Whether somebody else could lock this path on a host.
fn is_free(host: &Host, path: &str) -> bool {
    host.run(&format!("flock -n '{path}' true"))
        .status
        .success()
}

#[track_caller]
fn assert_free(host: &Host) {
    assert!(is_free(host, "/"), "{} is still locked", host.name());
}

/// Starts a run whose commands cannot be ended politely, on all hosts.
fn stubborn(hosts: &Hosts, options: &[&str]) -> Running {
    let arguments = on_all(hosts, &[options, &["-C", STUBBORN]].concat());
    let run = orgalorg(hosts, arguments).spawn();
    run.wait_for_lines(hosts.len());
    run
}

/// Starts `-L` and waits until it holds all locks.
fn hold(hosts: &Hosts, arguments: Vec<String>) -> Running {
    let run = orgalorg(hosts, arguments).spawn();
    wait_until("the locks to be held", crate::support::LIMIT, || {
        run.stderr().contains("waiting for interrupt...")
    });
    run
}

#[track_caller]
fn assert_refused(refused: &Finished) {
    let stderr = refused.stderr();
    assert!(
        stderr.contains("can't acquire lock, lock already obtained by another process")
            && stderr.contains("held by root@"),
        "{stderr}"
    );
}

// ---- two runs

#[test]
fn of_two_runs_that_start_together_exactly_one_wins() {
    let hosts = Hosts::start(3);
    for round in 0..50 {
        let command = format!("while [ ! -e /tmp/go{round} ]; do sleep 0.02; done; echo won");
        let start = || orgalorg(&hosts, on_all(&hosts, &["-C", &command])).spawn();
        let (first, second) = (start(), start());
        wait_until("one of the two to end", crate::support::LIMIT, || {
            first.has_ended() || second.has_ended()
        });
        let (loser, winner) = if first.has_ended() {
            (first, second)
        } else {
            (second, first)
        };
        let loser = loser.finish().code(4);
        assert_refused(&loser);
        assert_eq!(loser.stdout(), "");
        for host in &hosts {
            host.write_file(format!("/tmp/go{round}"), "", 0o644);
        }
        let winner = winner.finish().ok();
        assert_eq!(winner.sorted(), ["web1 won", "web2 won", "web3 won"]);
    }
}

#[test]
fn with_lock_wait_both_runs_get_through_one_after_the_other() {
    let hosts = Hosts::start(3);
    let command = "echo begin >>/tmp/log; sleep 0.1; echo end >>/tmp/log";
    for _ in 0..4 {
        // One of them has its targets in another order.
        let straight = on_all(&hosts, &["--lock-wait", "50s", "-C", command]);
        let backwards: Vec<&str> = ["web3", "web2", "web1"]
            .iter()
            .flat_map(|name| ["-o", name])
            .chain(["--lock-wait", "50s", "-C", command])
            .collect();
        let runs = [
            orgalorg(&hosts, &straight).spawn(),
            orgalorg(&hosts, &backwards).spawn(),
            orgalorg(&hosts, &straight).spawn(),
        ];
        for run in runs {
            run.finish().code(0);
        }
    }
    for host in &hosts {
        let log = String::from_utf8(host.read_file("/tmp/log")).unwrap();
        assert_eq!(log, "begin\nend\n".repeat(12), "{}", host.name());
    }
}

#[test]
fn lock_wait_gives_up_in_time_and_frees_what_it_had() {
    let hosts = Hosts::start(2);
    let holder = hold(&hosts, vec!["-o".into(), "web2".into(), "-L".into()]);
    let waiting = on_all(&hosts, &["--lock-wait", "1s", "-C", "true"]);
    let waiting = orgalorg(&hosts, waiting).run().code(4);
    assert_refused(&waiting);
    let waiting = waiting.says("waiting for the lock").says("[root@web2:22]");
    let waiting = waiting.says("locking 1 of 2 nodes failed, --lock-wait is 1s");
    assert!(!waiting.stderr().contains("[root@web1:22]"));
    assert!(waiting.elapsed >= Duration::from_secs(1));
    assert_free(&hosts[0]);
    // Where locks are optional it goes on then.
    let waiting = on_all(&hosts, &["-t", "--lock-wait", "1s", "-C", "hostname"]);
    let waiting = orgalorg(&hosts, waiting).run().code(0);
    assert_eq!(waiting.sorted(), ["web1 web1", "web2 web2"]);
    assert!(waiting.elapsed >= Duration::from_secs(1));
    // Interrupted while it waits.
    let waiting = on_all(&hosts, &["--lock-wait", "50s", "-C", "true"]);
    let waiting = orgalorg(&hosts, waiting).spawn();
    wait_until("it to wait", crate::support::LIMIT, || {
        waiting.stderr().contains("waiting for the lock")
    });
    waiting.signal("INT");
    waiting.finish_within(ENDING).killed_by(SIGINT);
    wait_until_empty(&hosts[0], ENDING);
    holder.signal("INT");
    holder.finish().killed_by(SIGINT);
}

#[test]
fn a_host_that_is_locked_keeps_the_command_from_all() {
    let hosts = Hosts::start(3);
    let holder = hold(&hosts, vec!["-o".into(), "web2".into(), "-L".into()]);
    let refused = orgalorg(&hosts, on_all(&hosts, &["-C", "touch /tmp/ran"])).run();
    assert_refused(&refused.code(4).says("[root@web2:22]"));
    for host in &hosts {
        assert!(!host.has_file("/tmp/ran"));
    }
    for host in [&hosts[0], &hosts[2]] {
        wait_until_empty(host, ENDING);
    }
    // -t makes it a warning, -y does not even try.
    let warned = orgalorg(&hosts, on_all(&hosts, &["-t", "-C", "echo ran"])).run();
    let warned = warned.code(0);
    assert_refused(&warned);
    assert!(warned.stderr().contains("[WARN]"), "{}", warned.stderr());
    assert_eq!(warned.sorted(), ["web1 ran", "web2 ran", "web3 ran"]);
    let unlocked = orgalorg(
        &hosts,
        on_all(&hosts, &["-y", "-C", "flock -n / echo free || echo held"]),
    );
    let unlocked = unlocked.run().ok();
    assert_eq!(unlocked.sorted(), ["web1 free", "web2 held", "web3 free"]);
    drop(holder);
}

// ---- clients that end

#[test]
fn a_killed_client_leaves_no_command_and_no_lock_that_is_free_before() {
    let hosts = Hosts::start(1);
    let host = &hosts[0];
    let run = stubborn(&hosts, &[]);
    assert!(!is_free(host, "/"));
    run.signal("KILL");
    wait_until("the lock to be free", AFTER_LEASE, || {
        let free = is_free(host, "/");
        assert!(!(free && host.runs("sleep 86399")), "free before the end");
        free
    });
    run.finish();
    wait_until_empty(host, ENDING);
}

#[test]
fn a_client_that_is_ended_while_its_command_starts_leaves_none() {
    let hosts = Hosts::start(3);
    hosts[0].busybox_userland();
    hosts[1].login_shell("root", "/bin/dash");
    let command = "exec sleep 86399";
    let shell = ["--shell", "sh -c '{}'"];
    // From the order to the guard to a while after the start, in small steps. The
    // last of the three is reached through sudo.
    for round in 0..32_u64 {
        let targets = ["-o", "web1", "-o", "web2", "-o", "web3"];
        let targets = match round % 2 {
            0 => targets.as_slice(),
            _ => &["-o", "ops@web3", "-x"],
        };
        let arguments = [targets, &shell, &["-C", command]].concat();
        let run = orgalorg(&hosts, arguments).spawn();
        wait_until("the locks to be held", crate::support::LIMIT, || {
            hosts.iter().any(|host| host.runs("orgalorg-guard"))
        });
        // Here it is the moment that counts.
        thread::sleep(Duration::from_millis(round * 3));
        run.signal(if round % 4 < 2 { "KILL" } else { "INT" });
        run.finish();
        for host in &hosts {
            wait_until_empty(host, AFTER_LEASE);
            assert_free(host);
        }
    }
}

#[test]
fn an_interrupted_run_leaves_nothing_and_names_the_unfinished() {
    let hosts = Hosts::start(2);
    for (name, number) in [("INT", SIGINT), ("TERM", SIGTERM), ("HUP", SIGHUP)] {
        let run = stubborn(&hosts, &[]);
        let signalled = Instant::now();
        run.signal(name);
        let finished = run.finish_within(ENDING).killed_by(number);
        let elapsed = signalled.elapsed();
        for host in &hosts {
            let left = guests(host);
            let is_command = |process: &Process| process.command.contains("sleep 86399");
            assert!(
                !left.iter().any(is_command),
                "{name}: after {elapsed:?} there still is {left:#?}\n{}",
                finished.stderr()
            );
            assert_free(host);
            wait_until_empty(host, ENDING);
        }
        let finished = finished
            .says(&format!("SIG{name} received"))
            .says("not finished (2 nodes): web[1-2]");
        assert_eq!(finished.sorted(), ["web1 up", "web2 up"]);
        assert!(elapsed < Duration::from_secs(6), "{elapsed:?}");
    }
    // Those that end when asked to are not waited for.
    let polite = "trap 'echo bye; exit' TERM; echo up; while :; do sleep 0.1; done";
    let run = orgalorg(&hosts, on_all(&hosts, &["-C", polite])).spawn();
    run.wait_for_lines(2);
    let signalled = Instant::now();
    run.signal("INT");
    let finished = run.finish_within(ENDING).killed_by(SIGINT);
    assert!(signalled.elapsed() < Duration::from_secs(3));
    let expected = ["web1 bye", "web1 up", "web2 bye", "web2 up"];
    assert_eq!(finished.sorted(), expected);
}

#[test]
fn an_interrupted_run_leaves_nothing_on_many_hosts() {
    let hosts = Hosts::start(64);
    let holder = hold(&hosts, on_all(&hosts, &["-L"]));
    holder.signal("INT");
    holder.finish_within(ENDING).killed_by(SIGINT);
    for host in &hosts {
        assert_free(host);
        wait_until_empty(host, ENDING);
    }
    let run = stubborn(&hosts, &[]);
    run.signal("INT");
    run.finish_within(ENDING)
        .killed_by(SIGINT)
        .says("not finished (64 nodes)");
    for host in &hosts {
        assert_free(host);
        wait_until_empty(host, ENDING);
    }
}

#[test]
fn under_sudo_an_interrupted_run_leaves_nothing() {
    let hosts = Hosts::start(2);
    let sudoers = String::from_utf8(hosts[1].read_file("/etc/sudoers")).unwrap();
    hosts[1].write_file(
        "/etc/sudoers",
        format!("Defaults use_pty\n{sudoers}"),
        0o440,
    );
    let arguments = ["-u", "ops", "-x", "-C", STUBBORN];
    for signal in ["INT", "KILL"] {
        let run = orgalorg(&hosts, on_all(&hosts, &arguments)).spawn();
        run.wait_for_lines(2);
        for host in &hosts {
            assert!(!is_free(host, "/"));
        }
        run.signal(signal);
        run.finish_within(ENDING);
        for host in &hosts {
            wait_until_empty(host, ENDING);
            assert_free(host);
        }
    }
    // A lock that only root can take.
    hosts[0].run_ok("mkdir -m 700 /root/private");
    let sudo = ["-o", "ops@web1", "--lock-file", "/root/private"];
    let refused = orgalorg(&hosts, [&sudo[..], &["-C", "true"]].concat()).run();
    refused.code(4).says("[ops@web1:22] can't acquire lock");
    let taken = orgalorg(&hosts, [&sudo[..], &["-x", "-C", "id -un"]].concat()).run();
    assert_eq!(taken.ok().stdout(), "web1 root\n");
}

#[test]
fn a_second_signal_ends_it_at_once_and_still_nothing_is_left() {
    let hosts = Hosts::start(1);
    let run = stubborn(&hosts, &[]);
    run.signal("INT");
    wait_until("the first signal to be noticed", ENDING, || {
        run.stderr().contains("SIGINT received")
    });
    let signalled = Instant::now();
    // What comes within half a second is the first signal, sent twice.
    wait_until("the second signal to count", ENDING, || {
        run.signal("INT");
        run.has_ended()
    });
    run.finish().killed_by(SIGINT);
    // A run that waited for its commands would wait for their KILL, three seconds later.
    assert!(signalled.elapsed() < Duration::from_secs(3));
    wait_until_empty(&hosts[0], ENDING);
    assert_free(&hosts[0]);
}

#[test]
fn an_interrupted_run_names_the_hosts_that_say_nothing_of_their_end() {
    let hosts = Hosts::start(2);
    let run = stubborn(&hosts, &[]);
    hosts[1].freeze();
    let signalled = Instant::now();
    run.signal("INT");
    let finished = run.finish_within(ENDING).killed_by(SIGINT);
    let elapsed = signalled.elapsed();
    assert!(elapsed < Duration::from_secs(6), "{elapsed:?}");
    finished.says("no word in time that all has ended and the lock is free on 1 node: web2\n");
    wait_until_empty(&hosts[0], ENDING);
    assert_free(&hosts[0]);
    hosts[1].thaw();
    wait_until_empty(&hosts[1], ENDING);
    assert_free(&hosts[1]);
}

#[test]
fn a_closed_stdout_ends_the_commands() {
    let hosts = Hosts::start(1);
    // Its shell would tell of a sleep that was killed before it.
    let command =
        "exec 2>/dev/null; trap '' HUP TERM PIPE; while :; do echo line; sleep 0.05; done";
    let mut run = orgalorg(&hosts, on_all(&hosts, &["-C", command]))
        .into_command()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut stdout = BufReader::new(run.stdout.take().unwrap());
    stdout.read_line(&mut line).unwrap();
    drop(stdout);
    assert_eq!(line, "web1 line\n");
    let ended = crate::hosts::holds_within(ENDING, || run.try_wait().unwrap().is_some());
    if !ended {
        run.kill().unwrap();
    }
    let output = run.wait_with_output().unwrap();
    assert!(ended, "{output:?}");
    assert_eq!(output.stderr, b"");
    assert_free(&hosts[0]);
    wait_until_empty(&hosts[0], ENDING);
}

#[test]
fn a_frozen_client_finds_its_lock_gone_when_it_wakes() {
    let hosts = Hosts::start(1);
    let run = stubborn(&hosts, &["-j", "1000"]);
    run.signal("STOP");
    wait_until(
        "the commands to end without the client",
        AFTER_LEASE,
        || !hosts[0].runs("sleep 86399"),
    );
    wait_until("the lock to be free", ENDING, || is_free(&hosts[0], "/"));
    run.signal("CONT");
    let finished = run.finish_within(ENDING).code(5);
    finished
        .says("[root@web1:22] heartbeat failed: lock lost")
        .says("this process did not run for");
    wait_until_empty(&hosts[0], ENDING);
}

#[test]
fn ctrl_c_on_a_terminal_leaves_it_in_order_and_nothing_on_the_hosts() {
    let hosts = Hosts::start(2);
    let input = hosts.home().join("endless");
    fs::write(&input, vec![b'x'; 8 << 20]).unwrap();
    let input = input.to_str().unwrap();
    let runs: [(&[&str], &str); 3] = [
        (&["-L"], "waiting for interrupt..."),
        (&["-C", STUBBORN], "web2 up"),
        (
            &["-i", input, "-C", "echo web up; exec sleep 86399"],
            "web up",
        ),
    ];
    for (arguments, shown) in runs {
        // Prefixes are coloured.
        let mut terminal = orgalorg(
            &hosts,
            on_all(&hosts, &[&["--color", "never"], arguments].concat()),
        )
        .on_terminal(|_| ());
        terminal.expect(shown);
        terminal.type_in("\x03");
        let (status, screen) = terminal.finish();
        use std::os::unix::process::ExitStatusExt;
        assert_eq!(status.signal(), Some(SIGINT), "{screen}");
        for host in &hosts {
            assert_free(host);
            wait_until_empty(host, ENDING);
        }
    }
}

#[test]
fn ctrl_c_on_a_terminal_ends_a_run_that_still_connects() {
    let hosts = Hosts::start(2);
    hosts[1].freeze();
    let terminal = orgalorg(&hosts, on_all(&hosts, &["-c", "60s", "-C", "true"]));
    let mut terminal = terminal.on_terminal(|_| ());
    terminal.expect("still connecting to address after 2s: [root@web2:22]");
    terminal.type_in("\x03");
    let (status, screen) = terminal.finish();
    use std::os::unix::process::ExitStatusExt;
    assert_eq!(status.signal(), Some(SIGINT), "{screen}");
    assert!(
        screen.contains("not finished (2 nodes): web[1-2]"),
        "{screen}"
    );
    assert_free(&hosts[0]);
    wait_until_empty(&hosts[0], ENDING);
}

// ---- -L

#[test]
fn lock_mode_says_so_holds_and_sleeps() {
    let hosts = Hosts::start(2);
    let holder = hold(&hosts, on_all(&hosts, &["-L"]));
    let warning = "[WARN] -L|--lock was passed, waiting for interrupt...\n";
    let said = holder.stderr();
    assert!(said.ends_with(&format!(" {warning}")), "{said:?}");
    let second = orgalorg(&hosts, on_all(&hosts, &["-C", "true"]))
        .run()
        .code(4);
    assert_refused(&second);
    let second = orgalorg(&hosts, on_all(&hosts, &["-L"])).run().code(4);
    assert_refused(&second);
    let used = || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", holder.child.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
        // utime and stime, in hundredths of a second.
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    let before = used();
    // Here it is the time that counts.
    thread::sleep(Duration::from_secs(3));
    assert!(used() - before <= 5, "{} to {}", before, used());
    holder.signal("INT");
    let finished = holder.finish_within(ENDING).killed_by(SIGINT);
    assert_eq!(finished.stdout(), "");
    for host in &hosts {
        assert_free(host);
    }
}

#[test]
fn lock_mode_ends_when_a_host_is_lost() {
    let hosts = Hosts::start(2);
    let holder = hold(&hosts, on_all(&hosts, &["-j", "1000", "-L"]));
    hosts[0].cut();
    let finished = holder.finish_within(AFTER_LEASE).code(5);
    finished
        .says("[root@web1:22] heartbeat failed: lock lost")
        .says("heartbeat failed");
    assert_free(&hosts[1]);
    hosts[0].heal();
    wait_until_empty(&hosts[0], AFTER_LEASE);
}

// ---- guards and lock files that go

/// Signals the guard alone, without its watchdog.
fn signal_guard(host: &Host, signal: &str) {
    let is_guard = |process: &Process| process.command.contains("orgalorg-guard");
    let processes = host.processes();
    let guards: Vec<&Process> = processes.iter().filter(|one| is_guard(one)).collect();
    let has_parent = |one: &Process| {
        let mut guards = guards.iter();
        guards.any(|guard| guard.outer_pid == one.outer_parent)
    };
    for guard in guards.iter().filter(|guard| !has_parent(guard)) {
        host.run_ok(&format!("kill -{signal} {}", guard.pid));
    }
}

#[test]
fn a_lock_holder_that_is_frozen_alone_ends_the_run_everywhere() {
    let hosts = Hosts::start(2);
    // Long enough for the connection to be asked in between whether it lives.
    let run = stubborn(&hosts, &["-j", "5300"]);
    signal_guard(&hosts[1], "STOP");
    run.finish()
        .code(5)
        .says("[ERROR] [root@web2:22] heartbeat failed: lock lost")
        .says("the connection is there, but the lock holder on the host has not answered");
    for host in &hosts {
        assert!(!host.runs("sleep 86399"), "{}", host.name());
        assert_free(host);
        wait_until_empty(host, ENDING);
    }
}

#[test]
fn a_login_shell_may_say_anything_before_the_guard_does() {
    let hosts = Hosts::start(1);
    for said in ["LOCKED", "hello\\n", "hello", "READY"] {
        hosts[0].run_ok(&format!("echo \"printf '{said}'\" >~root/.bashrc"));
        for options in [&["-o", "web1"][..], &["-y", "-o", "web1"]] {
            orgalorg(&hosts, [options, &["-q", "-C", "echo; echo done"]].concat())
                .run()
                .ok();
        }
    }
}

#[test]
fn a_killed_lock_holder_ends_the_run_everywhere() {
    let hosts = Hosts::start(3);
    let run = stubborn(&hosts, &[]);
    signal_guard(&hosts[1], "KILL");
    let killed = Instant::now();
    let finished = run.finish_within(ENDING).code(5);
    assert!(killed.elapsed() < Duration::from_secs(6));
    finished
        .says("[ERROR] [root@web2:22] heartbeat failed: lock lost")
        .says("the lock holder on the host has ended");
    for host in &hosts {
        assert!(!host.runs("sleep 86399"), "{}", host.name());
        assert_free(host);
        // The watchdog would sleep for a while.
        wait_until_empty(host, Duration::from_secs(3));
    }
}

#[test]
fn a_killed_lock_holder_is_a_warning_where_locks_are_optional() {
    let hosts = Hosts::start(2);
    let command = "echo up; while [ ! -e /tmp/go ]; do sleep 0.05; done; echo done";
    let run = orgalorg(&hosts, on_all(&hosts, &["-t", "-C", command])).spawn();
    run.wait_for_lines(2);
    assert!(hosts[1].kill_matching("orgalorg-guard") > 0);
    wait_until("the loss to be noticed", ENDING, || {
        run.stderr()
            .contains("[WARN] [root@web2:22] heartbeat failed: lock lost")
    });
    for host in &hosts {
        host.write_file("/tmp/go", "", 0o644);
    }
    let gone = Instant::now();
    let finished = run.finish().code(0);
    assert_eq!(
        finished.sorted(),
        ["web1 done", "web1 up", "web2 done", "web2 up"]
    );
    assert!(
        gone.elapsed() < Duration::from_millis(1500),
        "{:?}",
        gone.elapsed()
    );
    // Without a guard the commands can be ended all the same.
    let arguments = on_all(&hosts, &["-t", "-C", STUBBORN]);
    let run = orgalorg(&hosts, arguments).spawn();
    run.wait_for_lines(2);
    assert!(hosts[1].kill_matching("orgalorg-guard") > 0);
    wait_until("the loss to be noticed", ENDING, || {
        run.stderr()
            .contains("[WARN] [root@web2:22] heartbeat failed: lock lost")
    });
    run.signal("INT");
    run.finish_within(ENDING).killed_by(SIGINT);
    for host in &hosts {
        assert!(!host.runs(STUBBORN), "{}", host.name());
        wait_until_empty(host, ENDING);
    }
}

#[test]
fn a_lock_file_that_is_removed_or_replaced_is_a_lost_lock() {
    let hosts = Hosts::start(1);
    for (change, is_optional) in [
        ("rm /tmp/lock", false),
        ("touch /tmp/new; mv /tmp/new /tmp/lock", false),
        ("rm /tmp/lock", true),
    ] {
        let mut options = vec!["--lock-file", "/tmp/lock", "-j", "1000"];
        if is_optional {
            options.push("-t");
        }
        let run = stubborn(&hosts, &options);
        hosts[0].run_ok(change);
        if is_optional {
            wait_until("a warning", ENDING, || run.stderr().contains("lock lost"));
            // Several heartbeats later it has still been said once.
            thread::sleep(Duration::from_secs(2));
            assert_eq!(
                run.stderr().matches("lock lost").count(),
                1,
                "{}",
                run.stderr()
            );
            run.signal("INT");
            run.finish_within(ENDING).killed_by(SIGINT);
        } else {
            let finished = run.finish_within(AFTER_LEASE).code(5);
            finished.says("the lock file has been removed or replaced");
        }
        wait_until_empty(&hosts[0], ENDING);
    }
}

// ---- hosts and wires that fail

#[test]
fn a_frozen_host_and_a_cut_wire_are_lost_and_the_others_go_on() {
    let hosts = Hosts::start(3);
    let command = format!(
        "[ $(hostname) = web3 ] || {{ {STUBBORN}; }}; echo up; \
         while [ ! -e /tmp/go ]; do sleep 0.05; done; echo done"
    );
    let run = orgalorg(&hosts, on_all(&hosts, &["-j", "2000", "-C", &command])).spawn();
    run.wait_for_lines(3);
    hosts[0].freeze();
    hosts[1].cut();
    // They are noticed while the run goes on.
    wait_until("both losses to be said", AFTER_LEASE, || {
        run.stderr().matches("heartbeat failed").count() >= 2
    });
    assert!(hosts[2].runs("/tmp/go"));
    hosts[2].write_file("/tmp/go", "", 0o644);
    let finished = run.finish_within(AFTER_LEASE).code(3);
    assert!(finished.stdout().contains("web3 done\n"));
    let finished = finished
        .says("heartbeat failed")
        .says("commands are failed on 2 out of 3 nodes");
    assert!(
        finished.stderr().contains("connection lost"),
        "{}",
        finished.stderr()
    );
    hosts[0].thaw();
    hosts[1].heal();
    for host in &hosts {
        wait_until_empty(host, AFTER_LEASE);
        assert_free(host);
    }
}

#[test]
fn a_lost_host_in_a_long_run_leaves_the_other_fifteen_alone() {
    let hosts = Hosts::start(16);
    let command = "echo up; while [ ! -e /tmp/go ]; do sleep 0.1; done; echo ran";
    let run = orgalorg(&hosts, on_all(&hosts, &["-j", "2000", "-C", command])).spawn();
    run.wait_for_lines(16);
    // Without a word, as when the power fails.
    hosts[6].kill();
    wait_until("the loss to be noticed", crate::support::LIMIT, || {
        run.stderr().contains("heartbeat failed")
    });
    for host in hosts.iter().filter(|host| host.name() != "web7") {
        host.write_file("/tmp/go", "", 0o644);
    }
    let finished = run
        .finish()
        .code(3)
        .says("commands are failed on 1 out of 16 nodes");
    assert_eq!(finished.stdout().matches(" ran\n").count(), 15);
    assert!(!finished.stdout().contains("web7 ran"));
}

#[test]
fn a_run_ends_when_all_wires_are_cut_and_so_do_its_commands() {
    let hosts = Hosts::start(2);
    let run = stubborn(&hosts, &["-j", "1000"]);
    for host in &hosts {
        host.cut();
    }
    run.finish_within(AFTER_LEASE)
        .code(3)
        .says("heartbeat failed");
    // No client, no wire: the lease has to end them.
    for host in &hosts {
        wait_until("the commands to end", AFTER_LEASE, || {
            let free = is_free(host, "/");
            let running = host.runs("sleep 86399");
            assert!(!free || !running, "free before the end");
            free
        });
    }
}

#[test]
fn a_slow_wire_full_of_input_loses_no_heartbeat() {
    let hosts = Hosts::start(1);
    let input = hosts.home().join("input");
    fs::write(&input, vec![b'x'; 3 << 19]).unwrap();
    hosts[0].slow("1mbit");
    // A heartbeat every 4.8 s, each of which has a second of input before it in
    // our own queue, and some more in the router's.
    let arguments = ["-j", "6000", "-i", input.to_str().unwrap(), "-C", "wc -c"];
    let finished = orgalorg(&hosts, on_all(&hosts, &arguments)).run().ok();
    assert_eq!(finished.stdout(), "web1 1572864\n");
    assert!(finished.elapsed > Duration::from_secs(8), "it was not slow");
}

// ---- what is locked

#[test]
fn targets_that_are_one_machine_share_its_lock() {
    let hosts = Hosts::start(2);
    let address = hosts[0].addr().to_string();
    let targets = [
        "-o",
        "web1",
        "-o",
        &login("ops", &hosts[0]),
        "-o",
        &address,
        "-o",
        "web2",
    ];
    let shared = [&targets[..], &["-C", "echo ran"]].concat();
    let finished = orgalorg(&hosts, &shared).run().ok();
    assert_eq!(finished.stdout().lines().count(), 4);
    let holder = hold(&hosts, vec!["-o".into(), "web1".into(), "-L".into()]);
    let refused = orgalorg(&hosts, &shared).run().code(4);
    assert_refused(&refused);
    drop(holder);
    wait_until_empty(&hosts[0], ENDING);
    // The lock is kept until all have ended, whoever holds it.
    let command = "[ $(id -un) = ops ] && { trap '' TERM HUP; sleep 86399; }; true";
    let run = orgalorg(&hosts, [&targets[..], &["-C", command]].concat()).spawn();
    wait_until("the last command", crate::support::LIMIT, || {
        hosts[0].runs("sleep 86399")
    });
    assert!(!is_free(&hosts[0], "/"));
    run.signal("TERM");
    run.finish_within(ENDING).killed_by(SIGTERM);
    assert_free(&hosts[0]);
    wait_until_empty(&hosts[0], ENDING);
}

#[test]
fn what_is_to_be_locked_is_made_only_as_an_empty_file() {
    let hosts = Hosts::start(1);
    let host = &hosts[0];
    let run = |options: &[&str]| {
        orgalorg(&hosts, [&["-o", "web1"], options, &["-C", "true"]].concat()).run()
    };

    run(&["--lock-file", "/tmp/made"]).ok();
    assert_eq!(
        host.run_ok("stat -c '%F' /tmp/made").trim(),
        "regular empty file"
    );
    host.write_file("/tmp/full", "content", 0o640);
    run(&["--lock-file", "/tmp/full"]).ok();
    assert_eq!(host.read_file("/tmp/full"), b"content");
    host.run_ok("mkdir /tmp/dir && touch /tmp/dir/file");
    run(&["--lock-file", "/tmp/dir"]).ok();
    host.run_ok("test -f /tmp/dir/file");
    run(&["-r", "/tmp/dir"]).ok();
    host.run_ok("ln -s /tmp/full /tmp/link");
    run(&["--lock-file", "/tmp/link"]).ok();
    assert_eq!(host.run_ok("readlink /tmp/link").trim(), "/tmp/full");

    run(&["-r", "/tmp/missing"])
        .code(4)
        .says("[root@web1:22] can't acquire lock")
        .says("'/tmp/missing' is not there");
    host.run_ok("test ! -e /tmp/missing");
    run(&["--lock-file", "/tmp/missing/lock"])
        .code(4)
        .says("'/tmp/missing/lock' is not there, and cannot be made: ");
    host.run_ok("test ! -e /tmp/missing");
    host.run_ok("mkfifo /tmp/fifo");
    run(&["--lock-file", "/tmp/fifo"])
        .code(4)
        .says("neither a file nor a directory");
    run(&["--lock-file", "/dev/null"])
        .code(4)
        .says("neither a file nor a directory");
    host.run_ok("ln -s /nowhere/at/all /tmp/dangling");
    run(&["--lock-file", "/tmp/dangling"])
        .code(4)
        .says("can't acquire lock");
    host.write_file("/tmp/secret", "", 0o600);
    let guest = [
        "-o",
        "guest@web1",
        "--lock-file",
        "/tmp/secret",
        "-C",
        "true",
    ];
    orgalorg(&hosts, guest)
        .run()
        .code(4)
        .says("[guest@web1:22]")
        .says("cannot be opened");
    // -t goes on without.
    let warned = run(&["-t", "--lock-file", "/tmp/fifo"]).code(0);
    warned.says("[WARN]").says("neither a file nor a directory");
    wait_until_empty(host, ENDING);
}

#[test]
fn any_bytes_in_the_name_of_the_lock_are_safe() {
    let hosts = Hosts::start(1);
    for name in [
        &b"/tmp/a 'b' \"$c\" `d` \xff\n*?"[..],
        b"-n",
        b"!",
        b"(",
        b"--",
        b"$(touch pwned)",
        b"/tmp/trailing\n",
    ] {
        let path = OsString::from_vec(name.to_vec());
        let mut arguments: Vec<OsString> = ["-o", "web1", "--lock-file"].map(Into::into).into();
        let last = arguments.pop().map(|mut option| {
            option.push("=");
            option.push(&path);
            option
        });
        arguments.extend(last);
        let holder = {
            let mut arguments = arguments.clone();
            arguments.push("-L".into());
            let run = orgalorg(&hosts, arguments).spawn();
            wait_until(
                &format!("a lock on {path:?}"),
                crate::support::LIMIT,
                || run.stderr().contains("waiting for interrupt"),
            );
            run
        };
        arguments.extend(["-C", "true"].map(Into::into));
        let refused = orgalorg(&hosts, &arguments).run().code(4);
        assert_refused(&refused);
        holder.signal("INT");
        holder.finish_within(ENDING).killed_by(SIGINT);
        orgalorg(&hosts, &arguments).run().ok();
    }
    hosts[0].run_ok("test ! -e /root/pwned");
    // Names without a slash are in the home directory.
    hosts[0].run_ok("cd /root && ls ./-n ./! './(' ./--");
}

#[test]
fn hosts_with_other_shells_and_tools_are_locked_and_cleaned_too() {
    let hosts = Hosts::start(3);
    hosts[0].busybox_userland();
    hosts[1].login_shell("root", "/bin/dash");
    hosts[2].login_shell("root", "/bin/bash");
    let shell = ["--shell", "sh -c '{}'"];
    for signal in ["INT", "KILL"] {
        let run = stubborn(&hosts, &shell);
        for host in &hosts {
            assert!(!is_free(host, "/"));
        }
        let second = orgalorg(&hosts, on_all(&hosts, &["-C", "true"]))
            .run()
            .code(4);
        assert_refused(&second);
        run.signal(signal);
        run.finish_within(ENDING);
        for host in &hosts {
            wait_until_empty(host, ENDING);
            assert_free(host);
        }
    }
}

#[test]
fn a_host_without_flock_is_told_how_to_go_on() {
    let hosts = Hosts::start(1);
    hosts[0].remove_program("flock");
    let refused = orgalorg(&hosts, on_all(&hosts, &["-C", "true"]))
        .run()
        .code(4);
    refused
        .says("[root@web1:22] can't acquire lock")
        .says("no flock(1)")
        .says("-y");
    orgalorg(&hosts, on_all(&hosts, &["-y", "-C", "true"]))
        .run()
        .ok();
    let run = stubborn(&hosts, &["-y"]);
    run.signal("INT");
    run.finish_within(ENDING).killed_by(SIGINT);
    wait_until_empty(&hosts[0], ENDING);
}

// ---- commands

#[test]
fn a_command_that_takes_all_processes_of_its_user_is_ended_too() {
    let hosts = Hosts::start(1);
    let host = &hosts[0];
    // Other tests' processes count as well.
    let shell = "#!/bin/bash\nulimit -u 150 && exec /bin/dash \"$@\"\n";
    host.install_program("limited", shell);
    host.login_shell("guest", "/usr/bin/limited");
    host.run_ok("mkfifo -m 666 /tmp/never");
    let command = "(i=0; while [ $i -lt 300 ]; do i=$((i + 1)); sleep 86399 & done; echo up) \
                   2>/dev/null; echo up; read x </tmp/never";
    let shell = ["-o", "guest@web1", "-j", "1000", "--shell", "dash -c '{}'"];
    let run = orgalorg(&hosts, [&shell[..], &["-C", command]].concat()).spawn();
    run.wait_for_lines(1);
    // Not even a heartbeat can have a process.
    thread::sleep(Duration::from_secs(2));
    assert!(!is_free(host, "/"), "{}", run.stderr());
    run.signal("INT");
    run.finish_within(ENDING).killed_by(SIGINT);
    wait_until_empty(host, ENDING);
}

#[test]
fn a_daemon_that_was_left_on_purpose_lives_on() {
    let hosts = Hosts::start(1);
    let command = "setsid sleep 86391 </dev/null >/dev/null 2>&1 & \
                   nohup sleep 86392 </dev/null >/dev/null 2>&1 & echo started";
    let finished = orgalorg(&hosts, on_all(&hosts, &["-C", command]))
        .run()
        .ok();
    assert_eq!(finished.stdout(), "web1 started\n");
    assert_free(&hosts[0]);
    wait_until("only the daemons to be left", ENDING, || {
        guests(&hosts[0]).len() == 2
    });
    assert!(hosts[0].runs("sleep 86391") && hosts[0].runs("sleep 86392"));
}

#[test]
fn a_timeout_ends_the_command_on_the_host_and_keeps_the_lock() {
    let hosts = Hosts::start(2);
    // web1's ends at once when it is told to, web2's has to be killed later.
    let command = format!("[ $(hostname) = web1 ] || {{ {STUBBORN}; }}; echo up; exec sleep 86398");
    let run = orgalorg(&hosts, on_all(&hosts, &["--timeout", "1s", "-C", &command])).spawn();
    run.wait_for_lines(2);
    wait_until("the end of the command", ENDING, || {
        !hosts[0].runs("sleep 86398")
    });
    let is_free = is_free(&hosts[0], "/");
    assert!(hosts[1].runs("sleep 86399"), "this took too long to tell");
    assert!(!is_free, "freed before all were done");
    let finished = run.finish_within(ENDING).code(1);
    finished.says("timeout: longer than 1s (2 nodes): web[1-2]");
    for host in &hosts {
        wait_until_empty(host, ENDING);
        assert_free(host);
    }
}

#[test]
fn fail_fast_ends_the_others() {
    let hosts = Hosts::start(2);
    let command = format!(
        "if [ $(hostname) = web1 ]; then {STUBBORN}; fi; \
         while [ ! -e /tmp/go ]; do sleep 0.05; done; exit 7"
    );
    let run = orgalorg(&hosts, on_all(&hosts, &["--fail-fast", "-C", &command])).spawn();
    run.wait_for_lines(1);
    hosts[1].write_file("/tmp/go", "", 0o644);
    let finished = run.finish_within(ENDING).code(1);
    finished
        .says("code 7 (1 node): web2")
        .says("not finished (1 node): web1");
    for host in &hosts {
        assert!(!host.runs("sleep 86399"));
        assert_free(host);
        wait_until_empty(host, ENDING);
    }
}
