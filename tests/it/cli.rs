//! The command line and the hosts that it names (S1, S2): what is refused, what
//! is understood, and that a mistake connects to nothing.

use std::fs;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use crate::hosts::keys::{KeyFormat, public_key};
use crate::hosts::{Hosts, wait_until};
use crate::support::{
    Finished, LIMIT, Orgalorg, file_in_home, furnish_home, orgalorg as locking, program,
    without_lock,
};

/// For all tests here. Nothing but `mistakes_connect_to_nothing` connects to
/// `quiet`.
static HOSTS: LazyLock<Hosts> = LazyLock::new(|| {
    let hosts = Hosts::builder()
        .names(["web1", "web2", "quiet"])
        .port(2222)
        .start();
    // Once, for the tests run at the same time.
    furnish_home(&hosts);
    hosts
});

/// The program with these arguments, in the home that all tests share.
fn orgalorg(arguments: &[&str]) -> Orgalorg {
    without_lock(&HOSTS, arguments)
}

/// The program where there is no terminal to ask on, whoever runs the tests.
fn without_terminal(arguments: &[&str], stdin: &str) -> Finished {
    let (reader, mut writer) = io::pipe().expect("a pipe can be made");
    writer
        .write_all(stdin.as_bytes())
        .expect("a pipe takes a few lines");
    drop(writer);
    let mut command = HOSTS.client("setsid");
    command
        .arg("--wait")
        .arg(program())
        .arg("-y")
        .args(arguments);
    finished(command.current_dir(HOSTS.home()).stdin(reader))
}

/// The program without any hosts to reach, for what needs none.
fn alone(arguments: &[&str]) -> Finished {
    let mut command = Command::new(program());
    finished(command.args(arguments).stdin(Stdio::null()))
}

fn finished(command: &mut Command) -> Finished {
    let output = command.output().expect("the program can be started");
    Finished {
        status: output.status,
        stdout: output.stdout,
        stderr: output.stderr,
        elapsed: std::time::Duration::ZERO,
    }
}

/// A file in the directory where the program is started.
fn file(name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    file_in_home(&HOSTS, name, content)
}

/// What `--list` prints for these arguments.
#[track_caller]
fn listed(arguments: &[&str]) -> Vec<String> {
    let list = [arguments, &["--list"]].concat();
    let finished = orgalorg(&list).run().ok();
    finished.stdout().lines().map(str::to_owned).collect()
}

#[test]
fn mistakes_connect_to_nothing() {
    let no_key = file("no-key", "nothing of the kind\n");
    let bad_hosts = file("bad-hosts", "web1\n\nweb[3-1]\n");
    let no_hosts = file("no-hosts", "# none\r\n\r\n");
    let [no_key, bad_hosts, no_hosts] =
        [&no_key, &bad_hosts, &no_hosts].map(|path| path.to_str().unwrap());
    let long = "x".repeat(40_000);

    // Arguments after `-o quiet`, and what the message has to hold.
    let mistakes: &[(&[&str], &[&str])] = &[
        // No mode, no command, no hosts to work on.
        (&[], &["nothing to do", "-C uptime", "--help"]),
        (&["uptime"], &["'uptime'", "-C"]),
        (&["-C"], &["-C needs a command", "-C uptime"]),
        (&["-C", "--"], &["-C needs a command"]),
        (&["--list", "web1"], &["'web1'", "-o"]),
        (&["--exclude", "quiet", "-C", "true"], &["--exclude"]),
        // Options that do not exist, and the nearest one that does.
        (&["--hots", "b", "-C", "true"], &["'--hots'", "'--host'"]),
        (
            &["--threds", "3", "-C", "true"],
            &["'--threds'", "'--threads'"],
        ),
        (
            &["--ver", "-C", "true"],
            &["'--ver' is the beginning of several options: --verbose, --version"],
        ),
        (
            &["--no-pres", "-C", "true"],
            &["--no-preserve-uid, --no-preserve-gid"],
        ),
        (&["-C", "-5", "true"], &["'-5'"]),
        (&["-C", "-xj"], &["--send-timeout"]),
        (&["-Cxo"], &["--host"]),
        // Numbers, times, choices.
        (
            &["-d", "0", "-C", "true"],
            &["--threads", "can't parse threads count: '0'", "1 to 10000"],
        ),
        (&["-d", "10001", "-C", "true"], &["--threads", "1 to 10000"]),
        (&["-d", "-1", "-C", "true"], &["-1"]),
        (&["-d", "many", "-C", "true"], &["--threads", "'many'"]),
        (
            &["-j", "0", "-C", "true"],
            &["--send-timeout", "more than 0"],
        ),
        (
            &["-z", "0s", "-C", "true"],
            &["--recv-timeout", "more than 0"],
        ),
        (&["-a", "0", "-C", "true"], &["--keep-alive"]),
        (&["-c", "0m", "-C", "true"], &["--conn-timeout"]),
        (&["-c", "1.5s", "-C", "true"], &["--conn-timeout", "500ms"]),
        (&["-c", "5d", "-C", "true"], &["--conn-timeout", "5m"]),
        (&["-c", "-5", "-C", "true"], &["-5"]),
        (
            &["-c", "1000000000h", "-C", "true"],
            &["--conn-timeout", "30 days"],
        ),
        (
            &["-c", "wazup", "-C", "true"],
            &[
                "--conn-timeout",
                "can't convert specified connection timeout to number: 'wazup'",
            ],
        ),
        (
            &["--send-timeout=wazup", "-C", "true"],
            &[
                "--send-timeout",
                "can't convert specified send timeout to number: 'wazup'",
            ],
        ),
        (
            &["--recv-timeout=wazup", "-C", "true"],
            &[
                "--recv-timeout",
                "can't convert specified receive timeout to number: 'wazup'",
            ],
        ),
        (
            &["--keep-alive=wazup", "-C", "true"],
            &[
                "--keep-alive",
                "can't convert specified keep alive time to number: 'wazup'",
            ],
        ),
        (
            &["--timeout", "0", "-C", "true"],
            &["--timeout", "more than 0"],
        ),
        (
            &["--timeout", "5", "-C", "true"],
            &["--timeout", "is 5ms, 5s or 5m meant?"],
        ),
        (
            &["--lock-wait=60000", "-C", "true"],
            &["--lock-wait", "is 60000ms, 60000s or 60000m meant?"],
        ),
        (&["--timeout", "", "-C", "true"], &["--timeout"]),
        (
            &["--host-keys", "no", "-C", "true"],
            &["--host-keys", "accept-new"],
        ),
        (&["--color", "blue", "-C", "true"], &["--color", "never"]),
        (&["--quiet=3", "-C", "true"], &["--quiet"]),
        // Users and hosts.
        (&["-u", "", "-C", "true"], &["user"]),
        (&["-u", "a b", "-C", "true"], &["'a b'", "user"]),
        (&["-u", "-x", "-C", "true"], &["-u"]),
        (&["-o", "", "-C", "true"], &["empty", "host"]),
        (&["-o", "a b", "-C", "true"], &["'a b'", "commas"]),
        (&["-o", "web[3-1]", "-C", "true"], &["'web[3-1]'", "1-3"]),
        (&["-o", "web1:0", "-C", "true"], &["1 to 65535"]),
        (&["-o", "web[1-100001]", "-C", "true"], &["100000"]),
        (&["--exclude", "web[", "-C", "true"], &["'web['"]),
        // Pairs that make no sense together.
        (&["-x", "--shell", "", "-C", "true"], &["--shell ''", "-x"]),
        (&["-K", "--shell", "", "-C", "true"], &["--shell ''", "-K"]),
        (
            &["-r", "/", "--shell", "", "-C", "true"],
            &["--shell ''", "-r"],
        ),
        (&["-si-", "-C", "true"], &["-s", "-i"]),
        (&["-s", "-i", "/dev/stdin", "-C", "true"], &["-s", "-i"]),
        (&["-s", "-i", "/dev/fd/0", "-C", "true"], &["-s", "-i"]),
        (
            &["-s", "-i", "/proc/self/fd/0", "-C", "true"],
            &["-s", "-i"],
        ),
        (&["-C", "-C", "true"], &["--command"]),
        (&["-r", "/", "-r", "/tmp", "-C", "true"], &["--root"]),
        // The command line for the hosts.
        (
            &["--shell", "sh -c 'x; {}'", "-C", "true"],
            &["'sh -c 'x; {}''", "a word of its own"],
        ),
        (&["--shell", "sh -c", "-C", "true"], &["'sh -c'", "{}"]),
        (&["-r", "", "-C", "true"], &["-r needs a directory"]),
        (&["-r", &long, "-C", "true"], &["-r", "40000 bytes"]),
        (&["-C", "echo", &long], &["too long", "-i <file> -C bash"]),
        // Uploads and sync tools.
        (&["-U", "-C", "true"], &["'--upload'", "'--command'"]),
        (&["-U", "/etc/motd"], &["-U needs a directory", "-r /"]),
        (&["-U", "-r", "/"], &["-U needs files"]),
        (&["-S"], &["-S needs files, or --no-upload"]),
        (&["-n", "", "-S", "no-key"], &["-n needs a command"]),
        (
            &["--no-upload", "-S", "/etc/motd"],
            &["'/etc/motd'", "--no-upload"],
        ),
        (
            &["--no-upload", "-r", "/", "-U", "no-key"],
            &["-U", "--no-upload", "leave out one"],
        ),
        (&["--tty", "--no-upload", "-S"], &["--tty goes with -C"]),
        (&["--apply", "-C", "true"], &["--apply goes with -S"]),
        // (-y is given in all of these.)
        (&["-L"], &["'--no-lock'", "'--lock'"]),
        (
            &["--lock-wait", "5s", "-C", "true"],
            &["'--no-lock'", "'--lock-wait"],
        ),
        (
            &["--timeout", "1s", "-r", "/", "-U", "no-key"],
            &["--timeout"],
        ),
        (
            &["-r", "/", "-U", "missing"],
            &["error: can't upload 'missing': No such file or directory\n"],
        ),
        (&["--diff", "-C", "true"], &["--diff", "needs --fold"]),
        (&["--json", "--fold", "-C", "true"], &["leave out --fold"]),
        (&["--json", "--tty", "-C", "true"], &["--tty", "terminal"]),
        (&["--json", "--raw", "-C", "true"], &["--raw", "terminal"]),
        (&["--json", "--list"], &["leave out --json"]),
        (
            &["--fold", "-l", "-C", "true"],
            &["-l", "--fold", "take one"],
        ),
        (&["--fold", "-q", "-C", "true"], &["headings", "take one"]),
        (&["--fold", "--tty", "-C", "true"], &["--tty", "take one"]),
        (
            &["--list", "--output-dir", "kept"],
            &["--list runs nothing"],
        ),
        // Formats.
        (
            &["--bar-format", "{done", "-C", "true"],
            &["--bar-format '{done'", "a brace has no partner"],
        ),
        (
            &["--bar-format", "neon", "-C", "true"],
            &[
                "'neon' is neither a theme (default, dark, light)",
                "it has none of {phase}",
            ],
        ),
        (
            &["--bar-format", "{done}\n{total}", "-C", "true"],
            &["--bar-format", "it has a control character in it"],
        ),
        (
            &["--bar-format", "{text}", "-C", "true"],
            &["there is no {text}; there are {phase}, {done}"],
        ),
        (
            &["--log-format", "{time}", "-C", "true"],
            &["--log-format '{time}'", "it needs {text}"],
        ),
        (
            &["--log-format", "{text:pink}", "-C", "true"],
            &["'pink' is no style"],
        ),
        // Local files, with the words of the system.
        (
            &["--output-dir", "bad-hosts", "-C", "true"],
            &["can't write into the directory 'bad-hosts': File exists"],
        ),
        (
            &["--output-dir", "/proc/x", "-C", "true"],
            &["can't write into the directory '/proc/x': No such file"],
        ),
        (
            &["-o", "./blah", "-C", "true"],
            &["error: can't open hosts file './blah': No such file or directory\n"],
        ),
        (
            &["--exclude", "./blah", "-C", "true"],
            &["can't open hosts file './blah': No such file"],
        ),
        (
            &["-o", "/", "-C", "true"],
            &["can't read hosts file '/': Is a directory"],
        ),
        (
            &["-o", bad_hosts, "-C", "true"],
            &["bad-hosts:3: ", "'web[3-1]'"],
        ),
        (
            &["-i", "missing", "-C", "true"],
            &["error: can't open input file 'missing': No such file or directory\n"],
        ),
        (
            &["-i", "/", "-C", "true"],
            &["can't open input file '/': Is a directory"],
        ),
        (&["-i", "", "-C", "true"], &["--stdin"]),
        (
            &["-k", "missing", "-C", "true"],
            &["error: can't open private key 'missing': No such file or directory\n"],
        ),
        (
            &["-k", "/", "-C", "true"],
            &["private key '/'", "directory"],
        ),
        (
            &["-k", no_key, "-C", "true"],
            &["no-key'", "no private key"],
        ),
        // Input is looked at before secrets are asked for.
        (
            &["-pK", "-i", "missing", "-C", "true"],
            &["can't open input file"],
        ),
        // There is nobody to ask.
        (&["-p", "-C", "true"], &["-p", "no terminal"]),
        (&["-K", "-C", "true"], &["-K", "no terminal"]),
    ];
    let refused = |arguments: &[&str], stdin: &str, expected: &[&str]| {
        let finished = without_terminal(arguments, stdin);
        let (stdout, stderr) = (finished.stdout(), finished.stderr());
        assert_eq!(finished.status.code(), Some(2), "{arguments:?}: {stderr}");
        assert_eq!(stdout, "", "{arguments:?}");
        for text in expected {
            assert!(
                stderr.contains(text),
                "{arguments:?}: no {text:?} in:\n{stderr}"
            );
        }
    };
    for (arguments, expected) in mistakes {
        refused(
            &[&["-o", "quiet"], *arguments].concat(),
            "quiet\n",
            expected,
        );
    }
    refused(&[], "", &["nothing to do", "-C", "-o"]);
    refused(&["-C", "true"], "", &["no hosts", "-o", "-s"]);
    refused(&["-s", "-C", "true"], "\n# none\n", &["no hosts", "stdin"]);
    refused(
        &["-o", no_hosts, "-C", "true"],
        "",
        &["no hosts", "no-hosts"],
    );
    refused(
        &["-s", "-C", "true"],
        "quiet\nb c\n",
        &["<stdin>:2: ", "'b c'"],
    );

    // One connection that does come through, so that the others would have been
    // seen by now.
    orgalorg(&["-o", "quiet", "-C", "true"]).run().ok();
    let quiet = HOSTS.host("quiet");
    wait_until("the connection to end", LIMIT, || {
        quiet.log().contains("Disconnected from user root")
    });
    let log = quiet.log();
    assert_eq!(log.matches("Connection from").count(), 1, "{log}");
}

#[test]
fn locks_are_only_held_and_on_what_can_be_one() {
    for words in [&["-L", "-C", "true"][..], &["-CL", "true"]] {
        alone(&[&["-o", "web1"], words].concat())
            .code(2)
            .says("'--lock'")
            .says("'--command'");
    }
    let long = "x".repeat(40_000);
    for (path, reason) in [("", "needs a file"), (&long, "40000 bytes")] {
        alone(&["-o", "web1", "--lock-file", path, "-L"])
            .code(2)
            .says("--lock-file")
            .says(reason);
    }
}

#[test]
fn whoever_only_holds_locks_has_no_output_to_arrange() {
    for words in [&["--fold"][..], &["--output-dir", "kept"]] {
        alone(&[&["-o", "web1", "-L"], words].concat())
            .code(2)
            .says("-L runs nothing");
    }
}

#[test]
fn what_is_not_built_yet_is_refused_and_not_in_the_help() {
    let help = alone(&["--help"]).ok().stdout();
    for option in [
        "-F",
        "--ssh-config",
        "-J",
        "--jump",
        "-A",
        "--forward-agent",
        "--completions",
        "--man",
    ] {
        alone(&["-o", "web1", option, "-C", "true"])
            .code(2)
            .says(&format!("'{option}'"));
        let mut entries = help.lines().map(str::trim_start);
        let is_it = |entry: &str| {
            let mut names = entry.split([' ', ',', '=', '.']);
            entry.starts_with('-') && names.any(|name| name == option)
        };
        assert!(!entries.any(is_it), "{option}");
    }
}

#[test]
fn the_short_help_is_a_page_and_the_long_one_says_everything() {
    let short = alone(&["-h"]).ok().stdout();
    let long = alone(&["--help"]).ok().stdout();
    for option in [
        "-C, --command",
        "--list",
        "-o, --host <HOST>",
        "-s, --read-stdin",
        "--exclude <HOST>",
        "-w, --no-conn-fail",
        "-d, --threads <N>",
        "-u, --user <USER>",
        "-k, --key <FILE>",
        "-p, --password",
        "--host-keys <POLICY>",
        "--known-hosts <FILE>",
        "-x, --sudo",
        "-K, --ask-sudo-password",
        "-r, --root <DIR>",
        "-i, --stdin <FILE>",
        "--shell <TEMPLATE>",
        "--tty",
        "-U, --upload",
        "-S, --sync",
        "-e, --relative",
        "--no-preserve-uid",
        "--no-preserve-gid",
        "--dereference",
        "--compress[=<METHOD>]",
        "-n, --sync-cmd <COMMAND>",
        "-g, --arg <ARG>",
        "-m, --simple",
        "--no-upload",
        "--apply",
        "--timeout <TIME>",
        "--fail-fast",
        "-q, --quiet",
        "-v, --verbose",
        "--raw",
        "--color <WHEN>",
        "-c, --conn-timeout <TIME>",
        "-j, --send-timeout <TIME>",
        "-z, --recv-timeout <TIME>",
        "-a, --keep-alive <TIME>",
        "-h, --help",
        "-V, --version",
    ] {
        assert!(short.contains(option), "{option} is not in:\n{short}");
        assert!(long.contains(option), "{option} is not in:\n{long}");
    }
    assert!(short.lines().count() < 100, "{short}");
    assert!(!short.contains("Exit status"), "{short}");
    assert!(long.contains("Exit status"), "{long}");
    // Also with what would be a mistake otherwise, and before the command only.
    assert_eq!(alone(&["-C", "-h"]).ok().stdout(), short);
    assert_eq!(alone(&["-Ch", "ls"]).ok().stdout(), short);
}

#[test]
fn the_version_is_that_of_the_package() {
    let version = concat!("orgalorg ", env!("CARGO_PKG_VERSION"), "\n");
    assert_eq!(alone(&["-V"]).ok().stdout(), version);
    assert_eq!(alone(&["--version"]).ok().stdout(), version);
}

/// Arguments, and what they leave without an effect.
const WITHOUT_EFFECT: &[(&[&str], &str)] = &[
    (&["-e", "-C", "pwd"], "-e has no effect with -C"),
    (&["-n", "x", "-C", "pwd"], "-n has no effect with -C"),
    (&["-m", "-C", "pwd"], "-m has no effect with -C"),
    (&["-g", "x", "-C", "pwd"], "-g has no effect with -C"),
    (
        &["--no-preserve-uid", "-C", "pwd"],
        "--no-preserve-uid has no effect with -C",
    ),
    (
        &["--no-preseve-gid", "-C", "pwd"],
        "--no-preserve-gid has no effect with -C",
    ),
    (
        &["--dereference", "-C", "pwd"],
        "--dereference has no effect with -C",
    ),
    (
        &["--compress=zstd", "-C", "pwd"],
        "--compress has no effect with -C",
    ),
    (
        &["--no-upload", "-C", "pwd"],
        "--no-upload has no effect with -C",
    ),
    (
        &["-em", "-n", "x", "-C", "pwd"],
        "-e, -n and -m have no effect with -C",
    ),
    (&["-t", "-C", "pwd"], "-t has no effect with -y"),
    (
        &["--lock-file", "/none", "-C", "pwd"],
        "--lock-file has no effect with -y",
    ),
    (
        &["-et", "--lock-file", "/none", "-C", "pwd"],
        "-e has no effect with -C; -t and --lock-file have no effect with -y",
    ),
    (
        &["--colors-dark", "--colors-light", "-C", "pwd"],
        "--colors-dark has no effect with --colors-light after it",
    ),
    (
        &["--colors-light", "--colors-dark", "-C", "pwd"],
        "--colors-light has no effect with --colors-dark after it",
    ),
    (
        &["-i", "missing", "-r", "/tmp", "-U", "anything"],
        "-i has no effect with -U",
    ),
    (
        &["-mn", "x", "-g", "x", "-r", "/tmp", "-U", "anything"],
        "-n, -g and -m have no effect with -U",
    ),
    (
        &["--shell", "", "-r", "/tmp", "-U", "anything"],
        "--shell has no effect with -U",
    ),
    (
        &[
            "-i",
            "missing",
            "-n",
            "read -r line && [[ $line == ORGALORG:* ]]",
            "--no-upload",
            "-S",
        ],
        "-i has no effect with -S without -m",
    ),
    (
        &["-mn", "pwd", "-e", "--no-upload", "-S"],
        "-e has no effect with --no-upload",
    ),
    (
        &["-mn", "pwd", "--dereference", "--no-upload", "-S"],
        "--dereference has no effect with --no-upload",
    ),
];

#[test]
fn an_option_without_an_effect_is_accepted_with_one_warning() {
    file("anything", "anything\n");
    for (arguments, warning) in WITHOUT_EFFECT {
        let arguments = [&["-o", "web1"], *arguments].concat();
        let finished = orgalorg(&arguments).run().code(0);
        let said = finished.stderr();
        assert_eq!(said.matches("[WARN]").count(), 1, "{arguments:?}: {said}");
        assert!(
            said.contains(&format!("[WARN] {warning}\n")),
            "{arguments:?}: {said}"
        );
        if arguments.ends_with(&["pwd"]) {
            assert_eq!(finished.stdout(), "web1 /root\n", "{arguments:?}");
        }
        let quiet = orgalorg(&[&["-q"], arguments.as_slice()].concat());
        let quiet = quiet.run().ok();
        if arguments.ends_with(&["pwd"]) {
            assert_eq!(quiet.stdout(), "/root\n", "{arguments:?}");
        }
    }
    // Nothing is done with a list, so there is nothing to warn of.
    assert_eq!(listed(&["-o", "web1", "-em"]), ["[root@web1:22]"]);
}

#[test]
fn quiet_and_json_win() {
    for words in [&["-q", "-v"][..], &["-vq"], &["-vvv", "--quiet"]] {
        let finished = orgalorg(&[&["-o", "web1"], words, &["-C", "pwd"]].concat());
        assert_eq!(finished.run().ok().stdout(), "/root\n");
    }
    for option in [
        &["-l"][..],
        &["--log-format=X {text}"],
        &["--bar-format={phase}"],
    ] {
        let arguments = [&["-o", "web1", "--json"], option, &["-C", "pwd"]].concat();
        let finished = orgalorg(&arguments).run().code(0);
        let name = option[0].split('=').next().unwrap();
        let finished = finished.says(&format!("[WARN] {name} has no effect with --json\""));
        assert_eq!(finished.stderr().lines().count(), 1, "{option:?}");
        let first = finished.stdout();
        assert!(
            first.starts_with("{\"stream\":\"stdout\",\"node\":\"[root@web1:22]\""),
            "{first}"
        );
    }
}

#[test]
fn options_without_an_effect_leave_holding_locks_as_it_is() {
    let hosts = Hosts::start(1);
    let options = "-e -m -n x -g x --no-preserve-uid --no-preserve-gid --dereference \
                   --compress --no-upload -i missing --shell sh -l -t -o web1 -L";
    let run = locking(&hosts, options.split_whitespace()).spawn();
    wait_until("the lock", LIMIT, || {
        run.stderr().contains("waiting for interrupt")
    });
    assert!(
        run.stderr().contains(
            "[WARN] -i, --shell, -e, --no-preserve-uid, --no-preserve-gid, --dereference, \
             --compress, -n, -g, -m, --no-upload, -l and -t have no effect with -L\n"
        ),
        "{}",
        run.stderr()
    );
    // -t has none, either.
    let second = locking(&hosts, ["-t", "-o", "web1", "-L"]);
    second.run().code(4);
    run.signal("INT");
    run.finish().killed_by(2);
}

#[test]
fn long_options_may_be_shortened_as_in_the_older_program() {
    for (words, expected) in [
        (&["--ro=/tmp", "--comm", "pwd"][..], "web1 /tmp\n"),
        (&["--roo", "/tmp", "--qui", "--com", "pwd"], "/tmp\n"),
        (&["--sh=sh -c {}", "--t=3", "-C", "pwd"], "web1 /root\n"),
        (&["--us", "ops", "--con=5000", "-C", "whoami"], "web1 ops\n"),
        (
            &["--color=never", "--host-k=strict", "-C", "pwd"],
            "web1 /root\n",
        ),
        (&["--group", "-C", "echo", "--ro"], "web1 --ro\n"),
        (
            &["--no-up", "--simp", "--sync-=echo $1", "--a=--ro", "-S"],
            "web1 --ro\n",
        ),
    ] {
        let finished = orgalorg(&[&["--ho", "web1"], words].concat()).run().ok();
        assert_eq!(finished.stdout(), expected, "{words:?}");
    }
}

#[test]
fn what_is_missing_is_shown_in_the_usage_lines() {
    let usage = "\n\nUsage: orgalorg [options] (-o <host>... | -s) -C [--] <command>...\n       \
                 orgalorg [options] (-o <host>... | -s) -U -r <dir> <files>...\n";
    for arguments in [
        &["-C", "echo"][..],
        &["-o", "web1"],
        &["-o", "web1", "-C"],
        &["-o", "web1", "-U", "/etc/motd"],
        &["-o", "web1", "-r", "/", "-U"],
        &["-o", "web1", "-S"],
        &["-C", "-o"],
        &["-C", "--root"],
    ] {
        let finished = alone(arguments).code(2).says(usage);
        let said = finished.stderr();
        assert!(said.starts_with("error: "), "{arguments:?}: {said}");
        assert!(said.contains(" -L\n"), "{arguments:?}: {said}");
    }
    // Where something is wrong, not missing, the reason stands alone.
    let finished = alone(&["-o", "web[", "-C", "true"]).code(2);
    assert!(
        !finished.stderr().contains("Usage"),
        "{}",
        finished.stderr()
    );
}

/// Holds a conversation as expect(1) does: waits for each prompt and types its
/// answer. Returns the screen of a run that has succeeded.
#[track_caller]
fn converse(run: Orgalorg, conversation: &[(&str, &str)]) -> String {
    let mut terminal = run.on_terminal(|_| ());
    for (prompt, answer) in conversation {
        terminal.expect(prompt);
        terminal.type_in(&format!("{answer}\r"));
    }
    let (status, screen) = terminal.finish();
    assert!(status.success(), "{screen}");
    screen
}

#[test]
fn every_prompt_can_be_answered_by_expect() {
    let hosts = Hosts::start(1);
    let run = |words: &[&str]| locking(&hosts, [&["-q", "-o", "web1"], words].concat());

    let key = hosts.keygen("ed25519", &[], KeyFormat::OpenSsh, "correct horse");
    hosts.authorize("root", &public_key(&key));
    let key = key.to_str().unwrap();
    let with_key = ["-k", key, "-C", "whoami"];
    let prompt = format!("private key '{key}' is encrypted\r\nKey passphrase: ");
    let screen = converse(run(&with_key), &[(&prompt, "correct horse")]);
    assert_eq!(screen, format!("{prompt}\r\nroot\r\n"));

    let mut wrong = run(&with_key).on_terminal(|_| ());
    wrong.expect("Key passphrase: ");
    wrong.type_in("battery staple\r");
    let (status, screen) = wrong.finish();
    assert_eq!(status.code(), Some(2), "{screen}");
    let said = format!("invalid passphrase for private key '{key}'\r\n");
    assert!(screen.ends_with(&said), "{screen}");

    let login = [("Password: ", "carol-secret")];
    let screen = converse(run(&["-u", "carol", "-p", "-C", "whoami"]), &login);
    assert_eq!(screen, "Password: \r\ncarol\r\n");

    let both = [login[0], ("Sudo password: ", "carol-secret")];
    let screen = converse(run(&["-u", "carol", "-pK", "-C", "whoami"]), &both);
    assert_eq!(screen, "Password: \r\nSudo password: \r\nroot\r\n");

    let unknown = ["--known-hosts", "recorded", "-C", "whoami"];
    let screen = converse(run(&unknown), &[("(yes/no) ", "yes")]);
    assert!(screen.contains("(yes/no) yes\r\n"), "{screen}");
    assert!(screen.ends_with("root\r\n"), "{screen}");
}

#[test]
fn options_end_where_the_command_begins() {
    let input = file("input", "one\ntwo\n");
    let input = input.to_str().unwrap();
    let list = file("some hosts", "web1\n");
    HOSTS
        .host("web1")
        .write_file("/root/lines", "1\n2\n3\n", 0o644);
    let list = list.to_str().unwrap();
    for (arguments, expected) in [
        // The command's own options, also those that we have.
        (&["-C", "tail", "-n", "2", "lines"][..], "2\n3\n"),
        (&["-C", "tail", "-n2", "lines", "-q", "--", "-"], "2\n3\n"),
        (
            &["-C", "echo", "-C", "-o", "x", "--help", "-V", "--"],
            "-C -o x --help -V --\n",
        ),
        (
            &["-C", "echo", "--no-such-option", "-i"],
            "--no-such-option -i\n",
        ),
        (&["-C", "-i", input, "--", "wc", "-l"], "2\n"),
        (&["-C", "-i", input, "wc", "-l"], "2\n"),
        (&["-i", input, "-C", "--", "wc", "-l"], "2\n"),
        (&["-C", "--", "echo", "--", "-x"], "-- -x\n"),
        // Bundles, values inside and behind, in any order.
        (&["-qC", "echo", "-q"], "-q\n"),
        (&["-xqC", "id", "-u"], "0\n"),
        (&["-xCr/", "pwd"], "/\n"),
        (&["-Cxr", "/", "pwd"], "/\n"),
        (&[&format!("-qCi{input}"), "head", "-n1"], "one\n"),
        (
            &[
                "-wd1",
                "-j5m",
                "-c10000ms",
                "-z=30s",
                "-a",
                "1m",
                "-C",
                "echo",
                "-d0",
            ],
            "-d0\n",
        ),
        (
            &[
                "--timeout=1h",
                "--threads=10000",
                "--command",
                "echo",
                "--x=y",
            ],
            "--x=y\n",
        ),
        (
            &[
                "--root=/tmp",
                "--color=never",
                "--shell=sh -c {}",
                "-C",
                "pwd",
            ],
            "/tmp\n",
        ),
        (&["-vv", "-C", "echo", "-v"], "-v\n"),
    ] {
        let finished = orgalorg(&[&["-o", list], arguments].concat()).run().code(0);
        let output = finished.stdout().replace("web1 ", "");
        assert_eq!(output, expected, "{arguments:?}: {}", finished.stderr());
    }
}

#[test]
fn a_list_keeps_the_order_and_names_everybody_once() {
    assert_eq!(
        listed(&["-o", "b,a", "-o", "b", "-o", "root@a"]),
        ["[root@b:22]", "[root@a:22]"]
    );
    assert_eq!(
        listed(&[
            "-u",
            "ops",
            "-o",
            "db7,root@db8:2222",
            "-o",
            "web[09-11],rack[1-2]-n[3,5]"
        ]),
        [
            "[ops@db7:22]",
            "[root@db8:2222]",
            "[ops@web09:22]",
            "[ops@web10:22]",
            "[ops@web11:22]",
            "[ops@rack1-n3:22]",
            "[ops@rack1-n5:22]",
            "[ops@rack2-n3:22]",
            "[ops@rack2-n5:22]",
        ]
    );
    assert_eq!(
        listed(&[
            "-o",
            "::1",
            "-o",
            "[fd00:77::1]",
            "-o",
            "ops@[::1]:2222,0:0::1"
        ]),
        [
            "[root@[::1]:22]",
            "[root@[fd00:77::1]:22]",
            "[ops@[::1]:2222]"
        ]
    );
    // It does what the options of the run that is to follow say.
    assert_eq!(listed(&["-o", "web[1-2]", "-x", "-d", "1", "-w"]).len(), 2);
    let list = orgalorg(&["--list", "-o", "web1", "-C", "false", "--", "-x"])
        .run()
        .ok();
    assert_eq!(list.stdout(), "[root@web1:22]\n");
}

#[test]
fn a_list_can_be_read_back() {
    let first = orgalorg(&[
        "--list",
        "-u",
        "ops",
        "-o",
        "web[01-03],root@db1:2222,::1,carol@[fd00:77::1]:23",
    ]);
    let first = first.run().ok().stdout();
    assert!(first.contains("[ops@[::1]:22]\n"), "{first}");
    let again = orgalorg(&["-s", "--list"]).stdin(first.as_str()).run().ok();
    assert_eq!(again.stdout(), first);
    // As arguments and in a file, too, and for a run.
    let path = file("listed", &first);
    let path = path.to_str().unwrap();
    assert_eq!(listed(&["-o", path]), first.lines().collect::<Vec<_>>());
    assert_eq!(
        listed(&["-o", "[ops@a:22],b", "--exclude", "[root@b:22]"]),
        ["[ops@a:22]"]
    );
    let v6 = HOSTS.host("web1").addr6();
    let list = orgalorg(&["--list", "-o", "web2", "-o", &v6.to_string()]);
    let list = list.run().ok().stdout();
    let finished = orgalorg(&["-s", "-C", "hostname"]).stdin(list).run().ok();
    assert_eq!(
        finished.sorted(),
        [format!("{v6} web1"), "web2 web2".to_owned()]
    );
}

#[test]
fn excluded_hosts_go_by_host_and_by_user_and_port_where_these_are_named() {
    let leave = file("leave", "web3 # broken\n");
    let all = ["-o", "web[1-4],ops@web4,web2:2222"];
    let without = |excluded: &[&str]| {
        let exclude = excluded.iter().flat_map(|host| ["--exclude", host]);
        listed(&all.into_iter().chain(exclude).collect::<Vec<_>>())
    };
    assert_eq!(
        without(&["web[1-2]", leave.to_str().unwrap(), "ops@web4"]),
        ["[root@web4:22]"]
    );
    assert_eq!(
        without(&["web2:22,WEB1", "root@web4:22", "web33"]),
        ["[root@web3:22]", "[ops@web4:22]", "[root@web2:2222]"]
    );
}

#[test]
fn hosts_come_from_files_and_stdin_as_they_stand_there() {
    let home = HOSTS.home();
    file(
        "fleet",
        "\u{feff}# all\r\n\r\n  web[1-2]\t# first\r\nops@db1:2222\r\n#web3\r\nweb1",
    );
    let expected = ["[root@web1:22]", "[root@web2:22]", "[ops@db1:2222]"];
    let absolute = home.join("fleet");
    for value in [
        "./fleet",
        "~/fleet",
        absolute.to_str().unwrap(),
        "./.ssh/../fleet",
    ] {
        assert_eq!(listed(&["-o", value]), expected, "{value}");
    }
    let input = "web2\n\n last\r\n";
    let both = orgalorg(&["-s", "-o", "first", "--list", "-u", "ops"])
        .stdin(input)
        .run()
        .ok();
    assert_eq!(
        both.stdout(),
        "[ops@first:22]\n[ops@web2:22]\n[ops@last:22]\n"
    );
    // Stdin is not looked at unless that was asked for.
    let one = orgalorg(&["-o", "first", "--list"]).stdin(input).run().ok();
    assert_eq!(one.stdout(), "[root@first:22]\n");
}

#[test]
fn the_hosts_on_stdin_get_the_command() {
    let finished = orgalorg(&["-s", "-o", "web2", "-C", "hostname; cat"])
        .stdin("web1\n")
        .run()
        .ok();
    assert_eq!(finished.sorted(), ["web1 web1", "web2 web2"]);
}

#[test]
fn output_is_told_apart_by_as_much_as_it_takes() {
    let prefixes = |hosts: &[&str]| {
        let mut arguments: Vec<&str> = hosts.iter().flat_map(|host| ["-o", host]).collect();
        arguments.extend(["-C", "echo $USER ${SSH_CONNECTION##* }"]);
        orgalorg(&arguments).run().ok().sorted()
    };
    assert_eq!(
        prefixes(&["web1", "ops@web2:2222"]),
        ["web1 root 22", "web2 ops 2222"]
    );
    assert_eq!(
        prefixes(&["web1", "web1:2222", "web2"]),
        ["web1:22 root 22", "web1:2222 root 2222", "web2 root 22"]
    );
    assert_eq!(
        prefixes(&["web1", "ops@web1", "web1:2222", "ops@web2"]),
        [
            "ops@web1:22 ops 22",
            "root@web1:22 root 22",
            "web1:2222 root 2222",
            "web2 ops 22"
        ]
    );
    let v6 = HOSTS.host("web1").addr6().to_string();
    let v6 = v6.as_str();
    assert_eq!(
        prefixes(&[v6, "web2"]),
        [format!("{v6} root 22"), "web2 root 22".to_owned()]
    );
    let with_port = format!("[{v6}]:2222");
    assert_eq!(
        prefixes(&[v6, &with_port]),
        [
            format!("[{v6}]:22 root 22"),
            format!("{with_port} root 2222")
        ]
    );
}

#[test]
fn without_a_user_it_is_the_local_one_whatever_the_environment_says() {
    let run = |arguments: &[&str]| {
        let run = orgalorg(arguments).with(|command| {
            command.env("USER", "guest").env("LOGNAME", "guest");
        });
        run.run().ok().stdout()
    };
    assert_eq!(run(&["-o", "web1", "-C", "id", "-un"]), "web1 root\n");
    assert_eq!(
        run(&["-o", "web1", "-u", "ops", "-C", "id", "-un"]),
        "web1 ops\n"
    );
    let both = ["-o", "guest@web1", "-u", "ops", "-C", "id", "-un"];
    assert_eq!(run(&both), "web1 guest\n");
}

#[test]
fn whoever_reads_nothing_of_help_or_list_is_told_nothing() {
    for arguments in [
        &["--help"][..],
        &["-h"],
        &["-V"],
        &["--list", "-o", "web[1-90000]"],
    ] {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let child = Command::new(program())
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(writer)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{arguments:?}");
        // As `cat` ends there.
        let signal = std::os::unix::process::ExitStatusExt::signal(&output.status);
        assert_eq!(signal, Some(13), "{arguments:?}");
    }
}

#[test]
fn help_and_list_that_cannot_be_written_are_a_failure() {
    for arguments in [&["--help"][..], &["-V"], &["--list", "-o", "web[1-9]"]] {
        let full = fs::OpenOptions::new()
            .write(true)
            .open("/dev/full")
            .unwrap();
        let mut child = Command::new(program())
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(full)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut said)
            .unwrap();
        assert_eq!(
            said,
            "error: can't write the output: No space left on device\n"
        );
        assert_eq!(child.wait().unwrap().code(), Some(2), "{arguments:?}");
    }
}
