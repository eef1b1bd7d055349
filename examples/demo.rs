//! `make demo`: brings up throw-away hosts on this machine and shows orgalorg on
//! them. On a terminal it ends in a shell in which one can go on; with arguments
//! it runs just these, as a command on the machine that the hosts can be reached
//! from.

#[allow(dead_code, unreachable_pub)]
#[path = "../tests/hosts/mod.rs"]
mod hosts;

use std::io::{IsTerminal, stdin, stdout};
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use hosts::Hosts;

/// What is shown: a comment, and a command line for a shell.
const STEPS: [(&str, &str); 9] = [
    (
        "One command on five hosts. Each line says where it comes from.",
        "orgalorg -o web[1-3],db[1-2] -C 'echo $(hostname) up since $(uptime -s)'",
    ),
    (
        "stdout and stderr stay apart, so pipes work.",
        "orgalorg -o web[1-3] -C 'echo data; echo complaint >&2' 2>/dev/null | sort",
    ),
    (
        "A hosts file, another user, sudo, a directory.",
        "printf 'web[1-3]\\n# databases\\ndb1\\n' > hosts; \
         orgalorg -o ./hosts -u ops -x -r /var/log -C 'echo $(id -un) in $PWD'",
    ),
    (
        "A script that is on none of them.",
        "printf 'for i in 1 2; do echo step $i on $(hostname); done\\n' | \
         orgalorg -o db[1-2] -i - -C bash",
    ),
    (
        "Who has the same, who has not: identical output once, and the difference.",
        "orgalorg -q -o db2 -C 'echo 10.0.0.9 backup >> /etc/hosts'; \
         orgalorg --fold --diff -o web[1-3],db[1-2] -C 'tail -n 3 /etc/hosts'",
    ),
    (
        "Files, as one stream to all hosts: put in place, then something is reloaded.",
        "mkdir -p app && echo 'workers 4' > app/app.conf; \
         orgalorg -o web[1-3] --apply -m -n 'echo reloaded $(hostname)' -S app",
    ),
    (
        "What fails is named, with the reason, and the exit status says so.",
        "orgalorg -o web[1-3] -C '[ $(hostname) != web2 ] || exit 17'; echo \"exit status $?\"",
    ),
    (
        "A host that cannot be reached: by default nothing is run anywhere ...",
        "orgalorg -c 2s -o web[1-2],nosuchhost -C uptime; echo \"exit status $?\"",
    ),
    (
        "... and with -w the others go on.",
        "orgalorg -w -c 2s -o web[1-2],nosuchhost -C hostname; echo \"exit status $?\"",
    ),
];

fn main() -> ExitCode {
    let hosts = Hosts::builder()
        .names(["web1", "web2", "web3", "db1", "db2"])
        .start();
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    if let [program, arguments @ ..] = arguments.as_slice() {
        let status = client(&hosts, program).args(arguments).status();
        let code = status.ok().and_then(|status| status.code());
        return ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1));
    }
    for (comment, command) in STEPS {
        println!("\n# {comment}\n$ {command}");
        let status = client(&hosts, "sh").args(["-c", command]).status();
        if let Err(error) = status {
            eprintln!("can't run sh: {error}");
            return ExitCode::FAILURE;
        }
    }
    if stdin().is_terminal() && stdout().is_terminal() {
        println!(
            "\n# The hosts are web1 to web3, db1 and db2, the users root and ops. Try it; `exit` ends them all."
        );
        let shell = client(&hosts, "bash")
            .args(["--norc", "-i"])
            .env("PS1", "demo$ ")
            .status();
        if let Err(error) = shell {
            eprintln!("can't run bash: {error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// A program that finds orgalorg in its PATH, and in its home what it needs.
fn client(hosts: &Hosts, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let ssh = hosts.home().join(".ssh");
    for (from, to) in [
        (hosts.key(), "id_ed25519"),
        (hosts.known_hosts(), "known_hosts"),
    ] {
        let to = ssh.join(to);
        if !to.exists() {
            std::fs::copy(from, to).expect("the client's home can be written");
        }
    }
    let mut command = hosts.client(program);
    let mut path = vec![directory_of_orgalorg()];
    path.extend(std::env::split_paths(
        &std::env::var_os("PATH").unwrap_or_default(),
    ));
    command.env(
        "PATH",
        std::env::join_paths(path).expect("a PATH without colons in it"),
    );
    command.current_dir(hosts.home());
    if let Some(term) = std::env::var_os("TERM") {
        command.env("TERM", term);
    }
    command
}

/// Beside this program's directory: `target/release/examples/demo` and
/// `target/release/orgalorg`.
fn directory_of_orgalorg() -> PathBuf {
    let program = std::env::current_exe().expect("a running program has a path");
    let directory = program.parent().and_then(|examples| examples.parent());
    directory.map_or_else(|| PathBuf::from("."), PathBuf::from)
}
