//! Hosts that send without end where a few words are expected of them.

use std::time::Duration;

use crate::hosts::{Host, Hosts, holds_within};
use crate::support::{Finished, Running, arguments, each, orgalorg, peak_memory};

/// The most memory in KiB that a run over two hosts may use.
const MEMORY: u64 = 40 * 1024;

/// A run with `-c 2000` that gives up a host, on a machine that is busy.
const SOON: Duration = Duration::from_secs(20);

/// What makes a flooding host give itself away.
const LATE: &str = "timed out after 2s while getting ready to lock";

/// Waits for the end of a run, and checks how long that took and how much memory the
/// run used.
#[track_caller]
fn finish_in_bounds(running: Running) -> Finished {
    let mut peak = 0;
    let has_ended = holds_within(SOON, || {
        peak = peak.max(peak_memory(running.child.id()).unwrap_or(0));
        peak > MEMORY || running.has_ended()
    });
    assert!(peak <= MEMORY, "{peak} KiB\n{}", running.stderr());
    assert!(has_ended, "it goes on\n{}", running.stderr());
    running.finish()
}

/// Runs a command on web2 while web1, as `target`, floods.
fn run(hosts: &Hosts, target: &str, options: &[&str]) -> Finished {
    let options = [&["-w", "-c", "2000"], options].concat();
    let targets = each([target, "web2"]);
    let run = orgalorg(hosts, arguments(&targets, &options, "echo healthy"));
    finish_in_bounds(run.spawn())
}

#[track_caller]
fn assert_left_out(finished: Finished, reason: &str) {
    let finished = finished.code(0).says(reason);
    assert_eq!(finished.stdout(), "web2 healthy\n");
}

#[test]
fn a_host_whose_forced_command_floods_is_left_out() {
    for flood in [
        "yes",
        "yes >&2",
        // Lines that are short, and one that does not end.
        "yes ''",
        "cat /dev/zero",
    ] {
        let hosts = Hosts::builder()
            .count(2)
            .sshd_option(&format!("Match User guest\n  ForceCommand {flood}"))
            .start();
        assert_left_out(run(&hosts, "guest@web1", &[]), LATE);
    }
}

/// Has the login shell of a host's root run this before the command itself, in
/// whose text `"$BASH_EXECUTION_STRING"` it can look.
fn furnish_shell(host: &Host, script: &str) {
    host.write_file("/root/.bashrc", script, 0o644);
}

#[test]
fn a_host_whose_login_shell_floods_is_left_out() {
    let hosts = Hosts::start(2);
    for flood in ["yes flood", "yes flood >&2", "yes BEAT 1"] {
        furnish_shell(&hosts[0], flood);
        assert_left_out(run(&hosts, "web1", &[]), LATE);
    }
}

#[test]
fn a_lock_holder_that_floods_is_none() {
    let hosts = Hosts::start(2);
    furnish_shell(&hosts[0], "echo '[orgalorg-begins]'; exec yes 'LEFT it'");
    let reason = "has sent more than 65536 bytes before it was ready";
    assert_left_out(run(&hosts, "web1", &[]), reason);

    let ready = "echo '[orgalorg-begins]'; echo LOCKED a:b; echo READY;";
    for flood in ["yes 'LEFT it'", "yes 'BEAT 1'", "yes REPLACED"] {
        furnish_shell(&hosts[0], &format!("{ready} exec {flood}"));
        run(&hosts, "web1", &[])
            .code(5)
            .says("[root@web1:22] heartbeat failed: lock lost");
    }
}

#[test]
fn a_host_whose_sudo_floods_is_left_out() {
    let hosts = Hosts::start(2);
    for flood in ["yes >&2", "yes", "cat /dev/zero >&2"] {
        hosts[0].install_program("sudo", format!("#!/bin/sh\n{flood}\n"));
        assert_left_out(run(&hosts, "ops@web1", &["-x"]), LATE);
    }
}

#[test]
fn a_sudo_that_asks_without_end_is_left_out() {
    let hosts = Hosts::start(2);
    // The third word of `sudo -S -p prompt` is what it has to ask with.
    for flood in ["yes \"$3\" >&2", "yes \"$3\" | tr -d '\\n' >&2"] {
        hosts[0].install_program("sudo", format!("#!/bin/sh\n{flood}\n"));
        let options = ["-w", "-c", "2000", "-K"];
        let targets = each(["ops@web1", "web2"]);
        let run = orgalorg(&hosts, arguments(&targets, &options, "echo healthy"));
        let mut terminal = run.on_terminal(|_| ());
        terminal.expect("Sudo password: ");
        terminal.type_in("guess\n");
        let mut peak = 0;
        let is_healthy = holds_within(SOON, || {
            peak = peak.max(peak_memory(terminal.child.id()).unwrap_or(0));
            peak > MEMORY || terminal.screen().contains("healthy")
        });
        assert!(peak <= MEMORY, "{peak} KiB");
        assert!(is_healthy, "{}", terminal.screen());
        let (status, screen) = terminal.finish();
        assert!(status.success() && screen.contains(LATE), "{screen}");
    }
}

#[test]
fn a_host_that_floods_instead_of_taking_an_upload_has_failed() {
    let hosts = Hosts::start(2);
    std::fs::write(hosts.home().join("file"), "content").expect("the home can be written");
    for flood in ["yes", "yes >&2"] {
        let script = format!("case $BASH_EXECUTION_STRING in *orgalorg-upload*) {flood} ;; esac");
        furnish_shell(&hosts[0], &script);
        let words = ["--send-timeout", "2000", "-r", "/tmp", "-e", "-U", "file"];
        let words = words.map(str::to_owned);
        let words = each(["web1", "web2"]).into_iter().chain(words);
        finish_in_bounds(orgalorg(&hosts, words).spawn())
            .code(1)
            .says("the host has not got ready for it for 2s");
    }
}
