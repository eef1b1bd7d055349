//! Many hosts at once, too little of something, and servers that are odd.

use std::time::Duration;

use super::{Fake, Hosts, fake};
use crate::support::said::untimed;
use crate::support::{Orgalorg, arguments, each, orgalorg, program};

/// Sixteen ways to log in to each host, in no special order.
fn many(hosts: &Hosts) -> Vec<String> {
    let mut targets = Vec::new();
    for user in ["root", "ops", "guest", "carol"] {
        for host in hosts {
            targets.push(format!("{user}@{}", host.name()));
            targets.push(format!("{user}@{}-v6", host.name()));
            targets.push(format!("{user}@{}", host.addr()));
            targets.push(format!("{user}@{}", host.addr6()));
        }
    }
    targets
}

/// The program under these limits of open files: `-Sn 64`.
fn with_limit(hosts: &Hosts, limit: &str, arguments: Vec<String>) -> Orgalorg {
    let program = program().to_str().expect("the path is UTF-8");
    let script = format!("ulimit {limit}; exec \"$@\"");
    let words = ["-c", &script, "sh", program].map(str::to_owned);
    orgalorg(hosts, words.into_iter().chain(arguments)).with(|command| {
        let mut shell = hosts.client("sh");
        shell.args(command.get_args()).current_dir(hosts.home());
        *command = shell;
    })
}

#[test]
fn many_hosts_with_failures_among_them() {
    let hosts = Hosts::start(4);
    let targets = many(&hosts);
    let count = targets.len();
    let all = each(targets.iter().map(String::as_str));
    let command = "echo from $(hostname); [ $(id -un) != guest ] || exit 9";

    // More descriptors than the soft limit; all at once, and one by one.
    for threads in ["64", "1"] {
        let options = ["-d", threads, "--host-keys", "strict"];
        let run = with_limit(&hosts, "-Sn 64", arguments(&all, &options, command));
        let finished = run.run().code(1);
        assert_eq!(finished.stdout().lines().count(), count);
        let said = untimed(&finished.stderr());
        assert!(
            said.contains("commands are failed on 16 out of 64 nodes"),
            "{said}"
        );
        assert!(
            said.contains("└─ exited with non-zero code 9 (16 nodes): guest@web[1-"),
            "{said}"
        );
    }

    // Those that cannot be reached are told apart from those that fail.
    let silent = [fake(&hosts, Fake::Silent), fake(&hosts, Fake::Closes)];
    let with_bad = [all.clone(), each(silent.iter().map(String::as_str))].concat();
    let finished = orgalorg(&hosts, arguments(&with_bad, &["-w", "-c", "4s"], command))
        .run()
        .code(1);
    assert_eq!(finished.stdout().lines().count(), count);
    let said = untimed(&finished.stderr());
    assert_eq!(said.matches(", the host is skipped\n").count(), 2, "{said}");
    assert!(
        said.contains("commands are failed on 16 out of 64 nodes"),
        "{said}"
    );
}

#[test]
fn too_few_descriptors_are_said_to_be_that() {
    let hosts = Hosts::start(4);
    let all = each(many(&hosts).iter().map(String::as_str));
    let finished = with_limit(&hosts, "-n 40", arguments(&all, &["-c", "5s"], "hostname"))
        .run()
        .code(3);
    assert_eq!(finished.stdout(), "");
    let said = untimed(&finished.stderr());
    assert!(
        said.contains("[FATAL] connecting to cluster failed"),
        "{said}"
    );
    let failed = said.matches("can't connect to address").count();
    assert!((40..64).contains(&failed), "{said}");
    assert_eq!(
        said.matches("too many open files").count(),
        failed,
        "{said}"
    );
    assert!(said.contains("ulimit -n"), "{said}");
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn an_answer_that_the_library_did_not_think_of_is_the_failure_of_its_host() {
    let hosts = Hosts::builder()
        .count(2)
        .sshd_option("KbdInteractiveAuthentication yes")
        .start();
    // Offers a way to log in whose name is no UTF-8.
    let sshd = hosts[0].run_ok("readlink -f $(command -v sshd)");
    let sshd = sshd.trim();
    let mut program = hosts[0].read_file(sshd);
    let name = b"keyboard-interactive";
    let places: Vec<usize> = program
        .windows(name.len())
        .enumerate()
        .filter(|(_, window)| window == name)
        .map(|(place, _)| place)
        .collect();
    assert!(!places.is_empty(), "this sshd has no {name:?} in it");
    for place in places {
        program[place + name.len() - 1] = 0xff;
    }
    hosts[0].install_program("odd-sshd", program);
    hosts[0].run_ok(&format!("mount --bind /usr/bin/odd-sshd '{sshd}'"));

    let all = each(["web1", "web2"]);
    let finished = orgalorg(&hosts, arguments(&all, &["-w"], "hostname")).run();
    let finished = finished.code(0);
    assert_eq!(finished.stdout(), "web2 web2\n");
    let said = untimed(&finished.stderr());
    let expected = " [WARN] connection lost: [root@web1:22], the host is skipped
        └─ internal error while handling this host; please report it
           └─ called `Result::unwrap()` on an `Err` value: Utf8Error";
    assert!(said.starts_with(expected), "{said}");
    assert_eq!(said.lines().count(), 3, "{said}");
    assert!(finished.elapsed < Duration::from_secs(30));
}
