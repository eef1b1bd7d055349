//! Uploads (S10), and plain sync tools that run on what was uploaded: what
//! arrives, what becomes of a run when a host, a file or the client fails in the
//! middle, and what it costs.

mod entries;
mod failing;
mod placing;
mod size;
mod sync;

use std::ffi::{OsStr, OsString};

use crate::hosts::{Host, Hosts};
use crate::support::{LIMIT, Orgalorg, Running, orgalorg};

/// The program with these arguments, given as text separated by blanks, and
/// others that follow.
fn run<A: AsRef<OsStr>>(
    hosts: &Hosts,
    options: &str,
    others: impl IntoIterator<Item = A>,
) -> Orgalorg {
    let options = options.split_whitespace().map(OsString::from);
    let others = others.into_iter().map(|other| other.as_ref().to_owned());
    orgalorg(hosts, options.chain(others))
}

/// Waits until nothing of ours is left on a host: no process, no lock, no run
/// directory.
#[track_caller]
fn wait_until_clean(host: &Host) {
    let mut left = Vec::new();
    let is_clean = crate::hosts::holds_within(LIMIT, || {
        left = host.processes();
        // (The other two are the host's init and the sshd that listens.)
        left.len() <= 2
    });
    assert!(is_clean, "on {} there still is {left:#?}", host.name());
    assert!(host.run("flock -n / true").status.success(), "still locked");
    assert_eq!(run_directories(host), "");
}

/// All that is below the run directories of all users.
fn run_directories(host: &Host) -> String {
    host.run_ok("find /tmp/orgalorg-* /var/run/orgalorg -mindepth 1 2>/dev/null || true")
}

/// A tar that stops when it has taken so many bytes, says so by making
/// `/tmp/at`, and goes on when there is a `/tmp/go`.
fn install_slow_tar(host: &Host, bytes: u64) {
    host.run_ok("rm -f /tmp/at /tmp/go");
    host.run_ok("[ -e /tmp/real-tar ] || cp /usr/bin/tar /tmp/real-tar");
    let script = format!(
        "#!/bin/sh\n\
         case \" $* \" in *\" --version \"*) exec /tmp/real-tar \"$@\" ;; esac\n\
         {{ head -c {bytes}; : >/tmp/at; while [ ! -e /tmp/go ]; do sleep 0.02; done; exec cat; }} |\n\
         /tmp/real-tar \"$@\"\n"
    );
    host.install_program("tar", script);
}

/// Waits until such a tar has stopped.
#[track_caller]
fn wait_for_slow_tar(host: &Host, running: &Running) {
    let has_come = crate::hosts::holds_within(LIMIT, || host.has_file("/tmp/at"));
    assert!(has_come, "{}", running.stderr());
}
