//! What arrives on a host of what was typed here (S5): words, bytes,
//! directories, shells and sudo, and how a command ended. The oracle is
//! `ssh host ARGV`.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output, Stdio};
use std::sync::LazyLock;
use std::time::Instant;

use crate::hosts::{Host, Hosts};
use crate::support::pty::OnTerminal;
use crate::support::{Finished, LIMIT, Orgalorg, furnish_home, without_lock};

static HOSTS: LazyLock<Hosts> = LazyLock::new(|| {
    let hosts = Hosts::builder()
        // Nobody but the tests that change them uses the others.
        .names(["web1", "nobash", "busybox", "nosudo", "oddsudo"])
        .sshd_option("SetEnv FLEET=blue")
        .start();
    furnish_home(&hosts);
    // The other login shell that is common.
    hosts.host("web1").login_shell("guest", "/bin/sh");
    // Or sshd complains of it to root, on a terminal.
    hosts.host("web1").write_file("/var/log/lastlog", "", 0o644);
    hosts
});

fn web1() -> &'static Host {
    HOSTS.host("web1")
}

/// The program with these arguments, in the home that all tests share.
fn orgalorg<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Orgalorg {
    without_lock(&HOSTS, arguments)
}

/// A command on one host with exactly its own output.
fn quietly<A: AsRef<OsStr>>(target: &str, arguments: impl IntoIterator<Item = A>) -> Orgalorg {
    let first = ["-q", "-o", target].map(OsString::from);
    let arguments = arguments.into_iter().map(|a| a.as_ref().to_owned());
    orgalorg(first.into_iter().chain(arguments))
}

/// What the command itself wrote to stderr, without our words about its end.
fn remote_stderr(finished: &Finished) -> Vec<u8> {
    let ours = b" [FATAL] remote execution failed\n";
    let bytes = &finished.stderr;
    let at = memchr::memmem::rfind(bytes, ours)
        .map_or(bytes.len(), |at| at - "2026-01-31 12:00:00".len());
    bytes[..at].to_vec()
}

/// How the one host ended: the exit status, or 255 as `ssh` has it.
fn remote_code(finished: &Finished) -> i32 {
    if finished.status.code() == Some(0) {
        return 0;
    }
    let stderr = finished.stderr();
    assert_eq!(finished.status.code(), Some(1), "{stderr}");
    let code = stderr
        .rsplit_once("└─ exited with non-zero code ")
        .and_then(|(_, text)| {
            let (code, _) = text.split_once(' ')?;
            code.parse().ok()
        });
    code.unwrap_or_else(|| {
        assert!(stderr.contains("└─ signal "), "{stderr}");
        255
    })
}

/// What a real ssh makes of these words. Its runs share a connection for each user,
/// because a login takes most of their time.
fn over_ssh(user: &str, words: &[OsString]) -> Output {
    let socket = HOSTS.dir().join("ssh-%r");
    let mut ssh = HOSTS.client("ssh");
    ssh.args(HOSTS.ssh_args())
        .args(["-o", "ControlMaster=auto", "-o", "ControlPersist=60", "-S"])
        .arg(socket)
        .arg(format!("{user}@{}", web1().name()))
        .arg("--")
        .args(words)
        .stdin(Stdio::null());
    ssh.output().expect("ssh can be started")
}

/// Checks that `orgalorg -C` does with these words what `ssh` does.
fn check_against_ssh(user: &str, words: &[OsString]) {
    let theirs = over_ssh(user, words);
    let first = ["-C", "--"].map(OsString::from);
    let ours = quietly(&format!("{user}@web1"), first.iter().chain(words)).run();
    let shown = |bytes: &[u8]| bytes.escape_ascii().to_string();
    assert_eq!(shown(&ours.stdout), shown(&theirs.stdout), "{words:?}");
    assert_eq!(
        shown(&remote_stderr(&ours)),
        shown(&theirs.stderr),
        "{words:?}"
    );
    assert_eq!(
        remote_code(&ours),
        theirs.status.code().expect("ssh exits by itself"),
        "{words:?}"
    );
}

fn words(text: &[&[u8]]) -> Vec<OsString> {
    text.iter()
        .map(|word| OsString::from_vec(word.to_vec()))
        .collect()
}

/// Each an argument list after `-C --`.
const COMMAND_LINES: &[&[&[u8]]] = &[
    // Words are joined by spaces.
    &[b"echo", b"a", b"b"],
    &[b"echo a  b", b" c "],
    &[b"echo", b"a b", b"", b"c"],
    &[b"", b"echo", b""],
    &[b"printf", b"<%s>", b"''", b"\"\"", b"x"],
    &[b"echo", b"", b"", b"'  '"],
    &[b"", b" "],
    // Quotes.
    &[b"echo 'single' \"double\" `echo back`"],
    &[b"echo \"it's\" 'say \"hi\"'"],
    &[b"echo", b"'a  b'", b"\"c  d\""],
    &[b"echo '\\'' \\'"],
    &[b"echo ''\\''''\\'''"],
    &[b"echo $'tab\\there\\x41\\''"],
    &[b"echo \"nested $(echo \"inner 'quotes'\")\""],
    &[b"echo 'unclosed"],
    &[b"echo \"unclosed"],
    &[b"echo `unclosed"],
    &[b"echo $(unclosed"],
    // Expansions happen there.
    &[b"echo", b"$HOME", b"$USER", b"$FLEET"],
    &[b"echo \"$HOME\" '$HOME' \\$HOME ${HOME#/} ${NO:-none}"],
    &[b"echo", b"$((6 * 7))", b"$(echo sub)"],
    &[b"echo $0 $# $*"],
    &[b"x=1; echo $x; y='a  b'; echo $y \"$y\""],
    &[b"echo ~ ~root \"~\" a~b ~nobody/x"],
    &[b"echo {a,b}{1..3} {} {a} '{x,y}' {}{}"],
    &[b"cd /; echo e*c /no*such 'e*c' [e]tc e?c"],
    &[b"echo * .[b]*"],
    &[b"echo !! !x \"!y\" a!"],
    &[b"set -f; echo *"],
    &[b"echo $$ | tr -d 0-9; echo $? ${PIPESTATUS[0]}"],
    // Operators.
    &[b"echo a b c | tr a-z A-Z | rev"],
    &[b"echo", b"a", b"|", b"cat", b"-n"],
    &[b"echo a && echo b || echo c"],
    &[b"false && echo no; echo yes"],
    &[b"false || { echo sub; (echo shell; exit 4); }"],
    &[b"echo out; echo err >&2"],
    &[b"echo err 1>&2 2>/dev/null; ls /no/such"],
    &[b"cat < /etc/hostname > /dev/stderr"],
    &[b"cat <(echo process) <(echo substitution)"],
    &[b"! true"],
    &[b"for i in 1 2 3; do echo $i; done"],
    &[b"f() { echo \"<$1>\"; }; f 'a b'; f"],
    &[b"[[ abc == a* ]] && echo bash; case x in x) echo case;; esac"],
    // Ends of the line.
    &[b"echo a;"],
    &[b"echo a; "],
    &[b"echo a &"],
    &[b"echo a & wait;"],
    &[b"echo a;;"],
    &[b"echo a |"],
    &[b"echo a &&"],
    &[b"echo a \\"],
    &[b"echo a\\\\"],
    &[b"echo a # comment"],
    &[b"echo", b"a", b"#", b"b"],
    &[b"# nothing but a comment"],
    &[b"echo a#b '#' \\#"],
    &[b"echo a # it's a quote\necho b"],
    // Lines.
    &[b"echo a\necho b"],
    &[b"\n\necho a\n\n"],
    &[b"echo a \\\n b"],
    &[b"echo 'two\nlines'"],
    &[b"if true\nthen echo yes\nelse echo no\nfi\n"],
    &[b"cat <<END\nhere $USER\nEND\necho after"],
    &[b"cat <<'END'\nhere $USER `x` \\ '\nEND"],
    &[b"cat <<-END\n\tindented\n\tEND\n"],
    &[b"cat <<END\nno end"],
    &[b"cat <<< 'a string'"],
    &[b"echo\ta\t'b\tc'\td"],
    &[b"echo a\r"],
    &[b"printf", b"'%s\\n'", b"a\\tb", b"'c\\td'"],
    // Bytes.
    &["echo".as_bytes(), "žluťoučký 🐴 ﷽ \u{200b}".as_bytes()],
    &[b"echo \xff\xfe caf\xe9 '\x80'"],
    &[b"printf %s '\xc3' | od -c; echo \xe9*"],
    &[b"echo", b"\x01\x02\x1b[31m\x7f", b"'\x07'"],
    &[b"x\xff=1; echo no such name"],
    // Dashes first, as words and as the whole.
    &[b"echo", b"-n", b"--", b"-x", b"--help"],
    &[b"-x"],
    &[b"--", b"echo"],
    &[b"--help"],
    &[b"-c", b"echo a"],
    &[b"-e", b"x"],
    // How it ends.
    &[b"exit 3"],
    &[b"exit 255"],
    &[b"exit 256"],
    &[b"exit 127"],
    &[b"exit -1"],
    &[b"(exit 42)"],
    &[b"no-such-command", b"at all"],
    &[b"/etc/passwd"],
    &[b"/"],
    &[b"kill -9 $$"],
    &[b"kill -TERM $$; echo no"],
    &[b"exec sh -c 'kill -SEGV $$'"],
    &[b"trap 'echo trapped' EXIT; echo body"],
    &[b"set -e; false; echo no"],
    &[b"set -u; echo $UNSET; echo no"],
    // stdin is at its end.
    &[b"cat; echo end"],
    &[b"read x; echo $? \"<$x>\""],
    &[b"exec", b"echo", b"replaced"],
    &[b"echo", b"{}", b"'{}'", b"\"{}\"", b"'\\''{}'"],
    &[b"echo '[orgalorg]' >&2"],
];

#[test]
fn every_command_line_does_what_it_does_under_ssh() {
    // The first one makes the connection.
    assert!(over_ssh("ops", &words(&[b"true"])).status.success());
    // Two at a time, for most of the time it is waited.
    std::thread::scope(|scope| {
        for half in COMMAND_LINES.chunks(COMMAND_LINES.len().div_ceil(2)) {
            scope.spawn(move || {
                for line in half {
                    check_against_ssh("ops", &words(line));
                }
            });
        }
    });
}

/// Bytes that look random and are the same each time; no NUL.
fn random_bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let bytes = std::iter::from_fn(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let bytes = state.to_le_bytes();
        // What shells care about comes more often than by chance.
        let special = b"'\"\\$`!*~# \n\t;&|{}()<>-\xff\xc3\xe2";
        Some(match bytes[0] % 3 {
            0 => special[usize::from(bytes[1]) % special.len()],
            _ => bytes[2],
        })
    });
    bytes.filter(|&byte| byte != 0).take(length).collect()
}

/// As one word of a shell, in the plainest way.
fn quoted(bytes: &[u8]) -> Vec<u8> {
    let text: Vec<&[u8]> = bytes.split(|&byte| byte == b'\'').collect();
    [b"'", text.join(b"'\\''".as_slice()).as_slice(), b"'"].concat()
}

#[test]
fn any_bytes_arrive_as_they_are() {
    for (seed, options) in [
        &["-o", "ops@web1"][..],
        &["-o", "guest@web1"],
        &["-o", "guest@web1", "--shell", "sh -c {}"],
        &["-o", "ops@web1", "-x"],
        &[
            "-o",
            "ops@web1",
            "-x",
            "-r",
            "/tmp",
            "--shell",
            "dash -c '{}'",
        ],
        &["-o", "root@web1", "-x", "-r", "/"],
        &[
            "-o",
            "guest@web1",
            "-r",
            "/",
            "--shell",
            "env X=1 sh -c {}; ",
        ],
    ]
    .into_iter()
    .enumerate()
    {
        let sent: Vec<Vec<u8>> = (0..4)
            .map(|word| random_bytes(10 * seed as u64 + word, 500))
            .collect();
        let mut arguments: Vec<OsString> = options.iter().map(OsString::from).collect();
        arguments.extend(["-q", "-C", "printf", "%s"].map(OsString::from));
        arguments.extend(sent.iter().map(|bytes| OsString::from_vec(quoted(bytes))));
        let finished = orgalorg(arguments).run().ok();
        assert_eq!(
            finished.stdout.escape_ascii().to_string(),
            sent.concat().escape_ascii().to_string(),
            "{options:?}"
        );
    }
}

#[test]
fn the_template_says_which_shell_runs_the_command() {
    let run = |template: &str, command: &str| {
        let arguments = ["--shell", template, "-C", command];
        quietly("guest@web1", arguments).run().ok().stdout()
    };
    let which = "echo ${BASH_VERSION:+bash} ${BASH_VERSION:-sh} | cut -c 1-4";
    for template in [
        "bash -c {}",
        "bash -c '{}'",
        "bash -c \"{}\"",
        "/bin/bash -ec {}",
        "env bash -c {}",
    ] {
        assert_eq!(run(template, which), "bash\n", "{template}");
    }
    for template in ["sh -c {}", "sh -c '{}'", "dash -c '{}'", "busybox sh -c {}"] {
        assert_eq!(
            run(template, which),
            " sh\n".trim_start_matches(' '),
            "{template}"
        );
    }
    // The command is one word, whatever it holds, wherever it stands.
    assert_eq!(
        run("printf '<%s>' {}", "a '{}' \"b\" $c"),
        "<a '{}' \"b\" $c>"
    );
    assert_eq!(run("printf '<%s>' {} '{}' x{}", "a b"), "<a b><a b><xa b>");
    assert_eq!(
        run("sh -c {} | tr a-z A-Z", "echo loud; echo er"),
        "LOUD\nER\n"
    );
    assert_eq!(run("X=1 sh -c {}", "echo $X"), "1\n");
    assert_eq!(run("cd / && sh -c {}", "pwd"), "/\n");
    assert_eq!(run("sh -c {}; echo after", "exit 0"), "after\n");
    assert_eq!(run("echo žluť; sh -c {}", "echo ý"), "žluť\ný\n");
    // No wrapper: the login shell, whatever it is.
    assert_eq!(run("", which), "sh\n");
    assert_eq!(run("", "echo 'a  b' {} \"$USER\""), "a  b {} guest\n");
    let bytes = words(&[b"--shell", b"", b"-C", b"echo \xff"]);
    quietly("guest@web1", bytes)
        .run()
        .code(2)
        .says("not valid UTF-8");
}

#[test]
fn a_command_runs_in_any_directory() {
    let host = web1();
    host.run_ok("mkdir -p -m 755 /srv/odd");
    for name in [
        b"a b".as_slice(),
        b" a ",
        b"it's",
        b"''",
        b"say \"hi\"",
        b"two\nlines",
        b"newline at the end\n",
        b"-",
        b"--",
        b"-P",
        b"$HOME",
        b"`id`",
        b"$(id)",
        b"*",
        b"~",
        b"~root",
        b"\\",
        b"a\\tb",
        b"!",
        b"#",
        b"{}",
        b"a;b&c|d",
        b"\xff\xfe",
        b"caf\xe9\n",
        "ž🐴".as_bytes(),
    ] {
        let path = [b"/srv/odd/".as_slice(), name].concat();
        let script = [b"mkdir -p -m 755 -- ".as_slice(), &quoted(&path)].concat();
        // The harness takes text only; the program itself does not.
        let make = words(&[b"-C", b"--", &script]);
        quietly("root@web1", make).run().ok();
        let name = OsStr::from_bytes(name).to_owned();
        let path = OsString::from_vec(path);
        let pwd = ["-C", "printf", "%s", "\"$PWD\""].map(OsString::from);
        for options in [
            vec![OsString::from("-r"), path.clone()],
            vec![OsString::from("-xr"), path.clone()],
        ] {
            let finished = quietly("ops@web1", options.iter().chain(&pwd)).run().ok();
            assert_eq!(finished.stdout, path.as_bytes(), "{options:?}");
        }
        // Relative to the home directory.
        let mut root = OsString::from("--root=../../srv/odd/");
        root.push(&name);
        let finished = quietly("guest@web1", [&root].into_iter().chain(&pwd))
            .run()
            .ok();
        assert_eq!(finished.stdout, path.as_bytes(), "{name:?}");
    }
    host.run_ok("mkdir -m 755 /home/ops/- /home/ops/-P");
    for name in ["-", "-P"] {
        let arguments = [format!("--root={name}"), "-C".into(), "pwd".into()];
        let finished = quietly("ops@web1", arguments).run().ok();
        assert_eq!(finished.stdout(), format!("/home/ops/{name}\n"));
    }
}

#[test]
fn where_the_directory_cannot_be_entered_nothing_is_run() {
    web1().run_ok("touch /srv/file");
    // bash and dash have each their words for it.
    for (user, code, directory, complaint) in [
        (
            "ops",
            1,
            "/no/such",
            "cd: /no/such: No such file or directory",
        ),
        (
            "ops",
            1,
            "no such",
            "cd: no such: No such file or directory",
        ),
        ("ops", 1, "/srv/file", "cd: /srv/file: Not a directory"),
        ("ops", 1, "/root", "cd: /root: Permission denied"),
        ("guest", 2, "/no/such", "cd: can't cd to /no/such"),
        ("guest", 2, "/root", "cd: can't cd to /root"),
    ] {
        for shell in ["bash -c {}", "sh -c {}; echo still"] {
            let target = format!("{user}@web1");
            let options = ["-o", &target, "-r", directory, "--shell", shell];
            let finished = orgalorg(options.into_iter().chain(["-C", "echo ran"]))
                .run()
                .code(1)
                .says(complaint)
                .says(&format!("code {code} (1 node): web1"));
            assert_eq!(finished.stdout(), "", "{directory}");
        }
    }
    let sudo = ["-o", "ops@web1", "-xr", "/no/such", "-C", "echo ran"];
    let finished = orgalorg(sudo).run().code(1).says("/no/such");
    assert_eq!(finished.stdout(), "");
}

#[test]
fn under_sudo_the_command_is_roots() {
    let ask = "echo $(id -un) $HOME $FLEET ${SUDO_USER:-direct}";
    let run = |target: &str, option: &str| quietly(target, [option, "-C", ask]).run().ok().stdout();
    assert_eq!(run("ops@web1", "-x"), "root /root blue ops\n");
    // -q again, to say nothing.
    assert_eq!(run("root@web1", "-x"), "root /root blue direct\n");
    // Into a directory that only root may enter, and back with root's status.
    web1().run_ok("mkdir -m 700 /root/inner");
    let inner = quietly("ops@web1", ["-xr", "/root/inner", "-C", "pwd; exit 7"]).run();
    assert_eq!(
        (inner.stdout(), remote_code(&inner)),
        ("/root/inner\n".into(), 7)
    );
    let killed = quietly("ops@web1", ["-x", "-C", "kill -9 $$"])
        .run()
        .code(1);
    assert!(
        killed.stderr().contains("signal KILL (1 node): web1"),
        "{}",
        killed.stderr()
    );
    // Both outputs are the command's own, to the byte.
    let both = quietly("ops@web1", ["-x", "-C", "printf out; printf err >&2"])
        .run()
        .code(0);
    assert_eq!((both.stdout(), both.stderr()), ("out".into(), "err".into()));
}

#[test]
fn a_root_login_needs_no_sudo() {
    let host = HOSTS.host("nosudo");
    host.remove_program("sudo");
    quietly("root@nosudo", ["-x", "-r", "/tmp", "-C", "pwd"])
        .run()
        .ok();
    let finished = orgalorg(["-o", "ops@nosudo", "-x", "-C", "echo ran"])
        .run()
        .code(3)
        .says("sudo: not found");
    assert_eq!(finished.stdout(), "");
}

#[test]
fn a_refusal_of_sudo_is_no_failed_command() {
    for user in ["guest", "carol"] {
        let target = format!("{user}@web1");
        let arguments = ["-o", &target, "-o", "root@nobash", "-x", "-C", "echo ran"];
        let finished = orgalorg(arguments)
            .run()
            .code(3)
            .says("connection to 1 of 2 nodes failed")
            .says(&format!("can't authenticate: [{user}@web1:22]"))
            .says("sudo refused")
            .says("sudo: a password is required\n");
        // Not on the other host either.
        assert_eq!(finished.stdout(), "");
    }
}

#[test]
fn the_end_of_a_command_is_told_as_it_was() {
    for (command, cause) in [
        ("exit 255", "code 255"),
        ("exit 127", "code 127"),
        ("exit 126", "code 126"),
        ("no-such-command", "code 127"),
        ("/etc/passwd", "code 126"),
        ("kill -9 $$", "signal KILL"),
        ("kill -TERM $$", "signal TERM"),
        ("kill -INT $$; sleep 60", "signal INT"),
        ("ulimit -c 0; kill -SEGV $$", "signal SEGV"),
        // A signal that SSH has no name for.
        ("kill -USR1 $$", "signal USR1"),
        ("sh -c 'kill -9 $$'; exit $?", "code 137"),
    ] {
        orgalorg(["-o", "ops@web1", "-C", command])
            .run()
            .code(1)
            .says(&format!("{cause} (1 node): web1\n"));
    }
}

#[test]
fn a_command_may_be_as_long_as_a_packet_and_not_longer() {
    // `bash -c '...'` around it.
    let longest = 34_725 - 10;
    let command = |length: usize| {
        let end = "; echo arrived";
        format!(": {}{end}", "x".repeat(length - 2 - end.len()))
    };
    let fits = orgalorg(["-o", "web1", "-C", &command(longest)]).run().ok();
    assert_eq!(fits.stdout(), "web1 arrived\n");
    orgalorg(["-o", "web1", "-C", &command(longest + 1)])
        .run()
        .code(2)
        .says("the command is too long: 34726 bytes")
        .says("'-i <file> -C bash'");
    // Quoting counts, sudo and all.
    let quotes = format!("echo {}", "\\'".repeat(6_000));
    let finished = quietly("ops@web1", ["-C", &quotes]).run().ok();
    assert_eq!(finished.stdout().len(), 6_001);
    orgalorg(["-o", "web1", "-x", "-C", &quotes])
        .run()
        .code(2)
        .says("too long");
    // What the advice is good for.
    std::fs::write(HOSTS.home().join("long"), command(200_000)).unwrap();
    let script = orgalorg(["-o", "web1", "-i", "long", "-C", "bash"])
        .run()
        .ok();
    assert_eq!(script.stdout(), "web1 arrived\n");
}

#[test]
fn where_there_is_no_bash_the_way_out_is_named() {
    let hint = "there is no bash on the host, use --shell \"sh -c {}\"";
    let nobash = HOSTS.host("nobash");
    for user in ["root", "ops"] {
        nobash.login_shell(user, "/bin/sh");
    }
    nobash.remove_program("bash");
    let busybox = HOSTS.host("busybox");
    busybox.busybox_userland();
    for host in [nobash, busybox] {
        let target = format!("ops@{}", host.name());
        for options in [&[][..], &["-r", "/tmp"], &["-x"], &["-xr", "/tmp"]] {
            let mut arguments = vec!["-o", &target];
            arguments.extend(options);
            let without = orgalorg(arguments.iter().chain(&["-C", "echo ran"])).run();
            assert!(
                without.stderr().contains(hint),
                "{options:?}: {}",
                without.stderr()
            );
            assert_eq!(without.code(1).stdout(), "", "{options:?}");
            let with = ["--shell", "sh -c {}", "-C", "echo ran"];
            let with = orgalorg(arguments.iter().chain(&with)).run().ok();
            assert_eq!(with.stdout(), format!("{} ran\n", host.name()));
        }
        // Some other command that is missing.
        let other = ["-o", &target, "--shell", "sh -c {}", "-C", "nobash"];
        let other = orgalorg(other).run().code(1).says("code 127");
        assert!(!other.stderr().contains("--shell"), "{}", other.stderr());
    }
}

/// `-K` on a terminal: what the command wrote there (without the prompt), and
/// how the program ended. Stdin is at its end unless that is redirected too.
fn with_password(password: &str, arguments: &[&str], stdin: &[u8]) -> (Option<i32>, String) {
    let (reader, mut writer) = io::pipe().expect("a pipe can be made");
    writer.write_all(stdin).expect("a pipe takes a few lines");
    drop(writer);
    let mut terminal = orgalorg(arguments).on_terminal(|command| {
        command.stdin(reader);
    });
    terminal.expect("Sudo password: ");
    terminal.type_in(&format!("{password}\n"));
    let (status, screen) = terminal.finish();
    assert!(!screen.contains(password), "{screen}");
    assert_eq!(screen.matches("assword:").count(), 1, "{screen}");
    let after = screen
        .split_once("Sudo password: ")
        .expect("the prompt was there")
        .1;
    let plain = console::strip_ansi_codes(after).replace('\r', "");
    (status.code(), plain.trim_start_matches('\n').to_owned())
}

#[test]
fn a_password_for_sudo_is_asked_for_once_and_opens_all_hosts() {
    // A user whom sudo asks, one whom it does not, and one who needs none.
    let arguments = [
        "-o",
        "carol@web1,ops@web1,root@web1",
        "-K",
        "-C",
        "echo $(id -un) $SUDO_USER $HOME; cat",
    ];
    let (code, screen) = with_password("carol-secret", &arguments, b"");
    let mut lines: Vec<&str> = screen.lines().collect();
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            "carol@web1:22 root carol /root",
            "ops@web1:22 root ops /root",
            "root@web1:22 root /root"
        ]
    );
    assert_eq!(code, Some(0));
}

#[test]
fn a_wrong_password_for_sudo_is_tried_once() {
    let arguments = ["-o", "carol@web1", "-K", "-C", "echo ran"];
    let (code, screen) = with_password("guess", &arguments, b"");
    assert_eq!(code, Some(3), "{screen}");
    assert!(
        screen.contains("can't authenticate: [carol@web1:22]")
            && screen.contains("sudo does not take the password\n"),
        "{screen}"
    );
    assert!(!screen.contains("ran"), "{screen}");
    assert!(!screen.contains("orgalorg"), "{screen}");
}

#[test]
fn a_user_who_may_not_use_sudo_is_told_so_by_sudo() {
    let arguments = ["-o", "guest@web1", "-K", "-C", "echo ran"];
    let (code, screen) = with_password("guest-secret", &arguments, b"");
    assert_eq!(code, Some(3), "{screen}");
    assert!(
        screen.contains("guest is not in the sudoers file"),
        "{screen}"
    );
    assert!(screen.contains("sudo refused\n"), "{screen}");
}

#[test]
fn the_password_and_the_input_never_meet() {
    let input: Vec<u8> = (0..3_000_u32)
        .flat_map(|n| format!("line {n} of it\n").into_bytes())
        .collect();
    let sum = "cksum; printf end";
    let expected = {
        let file = HOSTS.home().join("sudo-input");
        std::fs::write(&file, &input).unwrap();
        let output = Command::new("cksum")
            .stdin(File::open(file).unwrap())
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    // Whether sudo asks for the password or not.
    for user in ["carol", "ops", "root"] {
        let target = format!("{user}@web1");
        let from_pipe = ["-o", &target, "-K", "-i", "-", "-C", sum];
        let from_file = ["-o", &target, "-K", "-i", "sudo-input", "-C", sum];
        let none = ["-o", &target, "-K", "-C", "cksum; printf end"];
        for (arguments, stdin, expected) in [
            (&from_pipe[..], &input[..], expected.as_str()),
            (&from_file, b"", &expected),
            (&none, b"not for it", "4294967295 0\n"),
        ] {
            let (code, screen) = with_password("carol-secret", arguments, stdin);
            assert_eq!(
                screen,
                format!("web1 {expected}web1 end\n"),
                "{arguments:?}"
            );
            assert_eq!(code, Some(0));
        }
    }
    // Nor when it is wrong: the input must not be tried as a password.
    let arguments = ["-o", "carol@web1", "-K", "-i", "-", "-C", "cat"];
    let (code, screen) = with_password("guess", &arguments, b"carol-secret\ncarol-secret\n");
    assert_eq!(code, Some(3), "{screen}");
    assert!(!screen.contains("secret"), "{screen}");
}

#[test]
fn a_command_with_a_terminal_gets_past_sudo_too() {
    for user in ["carol", "ops", "root"] {
        let target = format!("{user}@web1");
        let arguments = [
            "-o",
            &target,
            "--tty",
            "-K",
            "-C",
            "id -un; tty >/dev/null && echo terminal; cat",
        ];
        let (code, screen) = with_password("carol-secret", &arguments, b"");
        assert_eq!(
            (screen.as_str(), code),
            ("root\nterminal\n", Some(0)),
            "{user}"
        );
        // Nothing of what belongs between sudo and us is seen.
        let arguments = [
            "-o",
            &target,
            "--tty",
            "-xK",
            "-i",
            "sudo-words",
            "-C",
            "stty -echo; echo; cat",
        ];
        std::fs::write(HOSTS.home().join("sudo-words"), "some\nwords\n").unwrap();
        let (code, screen) = with_password("carol-secret", &arguments, b"");
        assert_eq!(code, Some(0), "{screen}");
        assert!(screen.ends_with("some\nwords\n"), "{screen}");
    }
    let wrong = ["-o", "carol@web1", "--tty", "-K", "-C", "echo ran"];
    let (code, screen) = with_password("guess", &wrong, b"");
    assert_eq!(code, Some(3), "{screen}");
    assert!(
        screen.contains("sudo does not take the password"),
        "{screen}"
    );
    assert!(!screen.contains("ran\n"), "{screen}");
}

#[test]
fn sudo_gets_one_line_and_only_when_it_asks() {
    let host = HOSTS.host("oddsudo");
    // Asks three times, as many do, and writes down what it gets.
    host.install_program("sudo", "#!/bin/sh\nfor i in 1 2 3; do\nprintf %s \"$3\" >&2\nread line || break\necho \"$line\" >>/tmp/heard\ndone\necho 'sudo: gave up' >&2\nexit 1\n");
    let arguments = ["-o", "carol@oddsudo", "-K", "-i", "-", "-C", "echo ran"];
    let (code, screen) = with_password("guess", &arguments, b"typed ahead\n");
    assert_eq!(code, Some(3), "{screen}");
    assert_eq!(host.read_file("/tmp/heard"), b"guess\n");
}

#[test]
fn nothing_typed_at_a_prompt_is_ever_seen() {
    for round in 0..20 {
        let arguments = ["-o", "root@web1", "-K", "-C", "true"];
        let mut terminal = orgalorg(arguments).on_terminal(|_| ());
        // As quick as a password manager.
        wait_for_moment(&terminal, "Sudo password: ");
        assert!(!terminal.echoes(), "round {round}");
        terminal.type_in("carol-secret\n");
        let (status, screen) = terminal.finish();
        assert!(!screen.contains("secret"), "round {round}: {screen}");
        assert!(status.success(), "{screen}");
    }
    let mut terminal = orgalorg(["-o", "web1", "-K", "-C", "true"]).on_terminal(|_| ());
    terminal.expect("Sudo password: ");
    terminal.type_in("half\x03");
    // In order again, and ended by what was typed.
    let (status, screen) = terminal.finish();
    assert_eq!(
        (status.signal(), screen.trim_end()),
        (Some(2), "Sudo password:")
    );
}

/// Waits for a text without ever sleeping, to see what is true for a moment only.
fn wait_for_moment(terminal: &OnTerminal, text: &str) {
    let deadline = Instant::now() + LIMIT;
    while !terminal.screen().contains(text) {
        assert!(Instant::now() < deadline, "{}", terminal.screen());
    }
}
