//! What comes out: every byte, in order, as soon as it can, into pipes, files
//! and terminals, also when nobody reads it, and at what cost.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{PipeReader, Read, pipe};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use crate::hosts::{Hosts, wait_until};
use crate::support::said::without_slowness;
use crate::support::{LIMIT, orgalorg, peak_memory, program, targets, wait_for_end};

/// Hosts for all tests that do nothing to them.
static HOSTS: LazyLock<Hosts> = LazyLock::new(|| Hosts::start(3));

/// `-o` for each of the first hosts, and more words. Those that several tests use
/// at once cannot be locked.
fn on(hosts: &Hosts, count: usize, words: &[&str]) -> Vec<String> {
    let mut arguments: Vec<String> = targets(hosts).into_iter().take(2 * count).collect();
    if std::ptr::eq(hosts, &*HOSTS) {
        arguments.push("-y".to_owned());
    }
    arguments.extend(words.iter().map(|&word| word.to_owned()));
    arguments
}

/// What each host said, by its name, which is taken off.
#[track_caller]
fn by_host(text: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut said: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for line in text.split_inclusive(|&byte| byte == b'\n') {
        let at = line.iter().position(|&byte| byte == b' ');
        let at = at.unwrap_or_else(|| panic!("no name before {}", line.escape_ascii()));
        let name = String::from_utf8_lossy(&line[..at]).into_owned();
        said.entry(name)
            .or_default()
            .extend_from_slice(&line[at + 1..]);
    }
    said
}

/// The numbers from 1, with a word before each, a line each.
fn numbered(word: &str, count: usize) -> String {
    (1..=count)
        .map(|number| format!("{word} {number}\n"))
        .collect()
}

/// How a child ends.
#[track_caller]
fn end_of(child: &mut Child) -> ExitStatus {
    wait_for_end(child);
    child.wait().expect("a child can be waited for")
}

/// CPU time that a process has used so far, also when it has just ended.
fn cpu_time(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process exists");
    let (_, fields) = stat.rsplit_once(") ").expect("proc(5)");
    let ticks: u64 = fields
        .split(' ')
        .skip(11)
        .take(2)
        .map(|field| field.parse::<u64>().expect("proc(5)"))
        .sum();
    // USER_HZ is 100 wherever Linux runs.
    Duration::from_millis(10 * ticks)
}

/// What a run over so many hosts may use, in KiB, when they flood it.
fn memory_limit(hosts: usize) -> u64 {
    20 * 1024 + 512 * hosts as u64
}

/// The program with a pipe as its stdout that is read only as the test does.
fn with_unread_stdout(hosts: &Hosts, arguments: &[String]) -> (Child, PipeReader) {
    let (reader, writer) = pipe().expect("a pipe");
    let mut command = orgalorg(hosts, arguments).into_command();
    command.stdin(Stdio::null()).stdout(writer);
    let child = command.stderr(Stdio::piped()).spawn();
    (child.expect("the program can be started"), reader)
}

fn stderr_of(child: &mut Child) -> String {
    let mut text = String::new();
    let mut stderr = child.stderr.take().expect("stderr is a pipe");
    stderr.read_to_string(&mut text).expect("stderr is UTF-8");
    without_slowness(&text)
}

/// What a host says beside what its sshd says that logs for a test.
fn without_sshd(stderr: &str) -> String {
    let lines = stderr.split_inclusive('\n');
    lines.filter(|line| !line.contains(" debug1: ")).collect()
}

// ---- lines

#[test]
fn lines_of_several_hosts_never_mix_nor_change_their_order() {
    let hosts = &*HOSTS;
    let script = "seq -f 'err %.0f' 1 10000 >&2 & seq -f 'out %.0f' 1 10000; wait";
    let (out, err) = (numbered("out", 10_000), numbered("err", 10_000));

    let finished = orgalorg(hosts, on(hosts, 3, &["-C", script])).run().code(0);
    for (text, expected) in [(&finished.stdout, &out), (&finished.stderr, &err)] {
        let said = by_host(text);
        assert_eq!(said.len(), 3);
        for (name, lines) in said {
            assert!(lines == expected.as_bytes(), "{name}");
        }
    }

    // Both into one pipe.
    let (mut reader, writer) = pipe().expect("a pipe");
    let mut command = orgalorg(hosts, on(hosts, 3, &["-C", script])).into_command();
    command
        .stderr(writer.try_clone().expect("dup"))
        .stdout(writer);
    let mut child = command.spawn().expect("the program can be started");
    drop(command);
    let mut text = Vec::new();
    reader.read_to_end(&mut text).expect("a pipe can be read");
    assert!(end_of(&mut child).success());
    for (name, lines) in by_host(&text) {
        let of = |word: &str| -> String {
            let lines = std::str::from_utf8(&lines)
                .expect("ASCII")
                .split_inclusive('\n');
            lines.filter(|line| line.starts_with(word)).collect()
        };
        assert_eq!(lines.len(), out.len() + err.len(), "{name}");
        assert!(of("out") == out && of("err") == err, "{name}");
    }
}

#[test]
fn every_byte_passes_unchanged_and_the_last_line_gets_its_end() {
    let hosts = &*HOSTS;
    let all: Vec<u8> = (0..=255).collect();
    let bodies: [&[u8]; 7] = [
        b"one\ntwo\n",
        b"no end",
        b"\n\n\n",
        b"",
        b"cr\r\nbar\rnul\0\n",
        b"\xff\xfe\x80 \xc3\n\xe2\x82\n",
        &all,
    ];
    for body in bodies {
        hosts[0].write_file("/tmp/body", body, 0o644);
        let run = |words: &[&str]| orgalorg(hosts, on(hosts, 1, words)).run();
        let quiet = run(&["-q", "-C", "cat /tmp/body"]).ok();
        assert_eq!(quiet.stdout, body);

        let mut expected = Vec::new();
        for line in body.split_inclusive(|&byte| byte == b'\n') {
            expected.extend_from_slice(&[b"web1 ", line].concat());
        }
        if !body.is_empty() && !body.ends_with(b"\n") {
            expected.push(b'\n');
        }
        let plain = run(&["-C", "cat /tmp/body"]).ok();
        assert_eq!(plain.stdout, expected, "{}", body.escape_ascii());
        let stderr = run(&["-C", "cat /tmp/body >&2"]).code(0);
        assert_eq!(stderr.stderr, expected, "{}", body.escape_ascii());
        assert_eq!(stderr.stdout, b"");
    }
}

#[test]
fn a_line_that_comes_in_parts_is_one_line() {
    let hosts = &*HOSTS;
    let parts = "for part in a b c; do printf $part; printf $part >&2; sleep 0.05; done; echo";
    let finished = orgalorg(hosts, on(hosts, 3, &["-C", parts])).run().code(0);
    assert_eq!(finished.sorted(), ["web1 abc", "web2 abc", "web3 abc"]);
    let mut stderr: Vec<String> = finished.stderr().lines().map(str::to_owned).collect();
    stderr.sort();
    assert_eq!(stderr, ["web1 abc", "web2 abc", "web3 abc"]);
}

#[test]
fn a_very_long_line_is_continued_at_linear_cost() {
    const MIB: usize = 1024 * 1024;
    let hosts = &*HOSTS;
    let run = |bytes: usize| {
        let script = format!("head -c {bytes} /dev/zero | tr '\\0' x; echo; echo after");
        let running = orgalorg(hosts, on(hosts, 1, &["-C", &script])).spawn();
        wait_for_end(&running.child);
        let time = cpu_time(running.child.id());
        (running.finish().ok().stdout, time)
    };
    let (_, short) = run(10_000_000);
    let (output, long) = run(40_000_000);
    let lines: Vec<&[u8]> = output.split_inclusive(|&byte| byte == b'\n').collect();
    let (last, parts) = lines.split_last().expect("lines");
    assert_eq!(*last, b"web1 after\n");
    assert_eq!(parts.len(), 40_000_000_usize.div_ceil(MIB));
    let mut length = 0;
    for (number, part) in parts.iter().enumerate() {
        let text = part.strip_prefix(b"web1 ").expect("a prefix");
        let text = text.strip_suffix(b"\n").expect("an end");
        assert!(text.iter().all(|&byte| byte == b'x'));
        assert!(text.len() == MIB || number == parts.len() - 1);
        length += text.len();
    }
    assert_eq!(length, 40_000_000);
    assert!(long < 8 * short, "10 MB: {short:?}, 40 MB: {long:?}");
}

#[test]
fn a_flood_on_stderr_passes_a_silent_stdout() {
    let hosts = &*HOSTS;
    let script = "seq 1 300000 >&2; echo done";
    let finished = orgalorg(hosts, on(hosts, 2, &["-C", script])).run().code(0);
    assert_eq!(finished.sorted(), ["web1 done", "web2 done"]);
    let expected: String = (1..=300_000).map(|number| format!("{number}\n")).collect();
    for (name, lines) in by_host(&finished.stderr) {
        assert!(lines == expected.as_bytes(), "{name}");
    }
}

#[test]
fn a_line_is_seen_while_its_command_still_runs_and_other_hosts_are_silent() {
    let hosts = Hosts::start(3);
    let script = "
        case $(hostname) in
            web1) echo early; echo problem >&2;;
            web2) mkfifo /tmp/wait; echo waiting; read go </tmp/wait; echo late;;
            web3) mkfifo /tmp/wait; read go </tmp/wait; echo last;;
        esac";
    let running = orgalorg(&hosts, on(&hosts, 3, &["-C", script])).spawn();
    wait_until("the first lines", LIMIT, || {
        running.stdout().contains("web1 early\n")
            && running.stdout().contains("web2 waiting\n")
            && running.stderr() == "web1 problem\n"
    });
    // A host that does not even answer holds up nobody.
    hosts[2].freeze();
    hosts[1].run_ok("echo go >/tmp/wait");
    wait_until("the next line", LIMIT, || {
        running.stdout().ends_with("web2 late\n")
    });
    hosts[2].thaw();
    hosts[2].run_ok("echo go >/tmp/wait");
    let finished = running.finish().code(0);
    assert!(finished.stdout().ends_with("web2 late\nweb3 last\n"));
    assert_eq!(finished.stderr(), "web1 problem\n");
}

// ---- -q and -v

#[test]
fn quiet_output_has_no_warnings_either() {
    let hosts = &*HOSTS;
    let script = "printf 'a\\nb'; printf 'c\\n' >&2";
    let loud = ["--host-keys", "off", "-C", script];
    let finished = orgalorg(hosts, on(hosts, 1, &loud)).run().code(0);
    assert_eq!(finished.stdout(), "web1 a\nweb1 b\n");
    finished.says("[WARN] host keys are not checked");
    let quiet = ["-q", "--host-keys", "off", "-C", script];
    let finished = orgalorg(hosts, on(hosts, 1, &quiet)).run().code(0);
    assert_eq!(finished.stdout(), "a\nb");
    assert_eq!(finished.stderr(), "c\n");
}

#[test]
fn a_verbose_run_tells_each_line_and_breaks_no_pipe() {
    let hosts = &*HOSTS;
    let script = "echo a; printf b; echo c >&2";
    for option in ["-v", "-vv"] {
        let finished = orgalorg(hosts, on(hosts, 2, &[option, "-C", script])).run();
        let finished = finished.code(0);
        assert_eq!(finished.sorted(), ["web1 a", "web1 b", "web2 a", "web2 b"]);
        let stderr = finished.stderr();
        for node in ["[root@web1:22]", "[root@web2:22]"] {
            for line in ["<stdout>", "<stderr>"] {
                assert!(
                    stderr.contains(&format!("[DEBUG] {{cmd}} {line} {node} ")),
                    "{stderr}"
                );
            }
            for line in ["<stdout> {} a\n", "<stdout> {} b\n", "<stderr> {} c\n"] {
                let line = format!(" [DEBUG] {{cmd}} {}", line.replace("{}", node));
                assert_eq!(stderr.matches(&line).count(), 1, "{stderr}");
            }
        }
        assert!(!stderr.contains("web1 c\n"), "{stderr}");
    }
}

#[test]
fn log_lines_have_a_time_a_level_and_a_margin() {
    let hosts = &*HOSTS;
    let finished = orgalorg(hosts, on(hosts, 2, &["-v", "-C", "exit 3"]))
        .run()
        .code(1);
    let stderr = finished.stderr();
    let lines: Vec<&str> = stderr.lines().collect();
    for line in &lines {
        if let Some(continued) = line.strip_prefix(&" ".repeat(28)) {
            assert!(
                !continued.starts_with(' ') || continued.contains("─ "),
                "{stderr}"
            );
            continue;
        }
        // 2026-01-31 12:00:00 [LEVEL] text
        let (time, rest) = line.split_at(20);
        let shape: String = time
            .chars()
            .map(|c| if c.is_ascii_digit() { '0' } else { c })
            .collect();
        assert_eq!(shape, "0000-00-00 00:00:00 ", "{stderr}");
        let (level, text) = rest.split_at(8);
        assert!(
            level.ends_with("] ") && level.trim_start().starts_with('['),
            "{stderr}"
        );
        assert!(!text.starts_with(' '), "{stderr}");
    }
    let tail = "[FATAL] remote execution failed\n\
                \u{20}                           └─ commands are failed on all 2 nodes\n\
                \u{20}                              └─ exited with non-zero code 3 (2 nodes): web[1-2]\n";
    assert!(stderr.ends_with(tail), "{stderr}");
}

// ---- terminals

/// Output that would like to do harm, and what becomes of it on a terminal.
const HOSTILE: [(&[u8], &str); 10] = [
    (b"\x1b]0;owned\x07title\n", "^[]0;owned^Gtitle"),
    (
        b"\x1b]52;c;cm0gLXJmIC8=\x1b\\\n",
        "^[]52;c;cm0gLXJmIC8=^[\\",
    ),
    (b"\x1b[2A\x1b[2Kover\n", "^[[2A^[[2Kover"),
    (b"good\rbad\n", "good^Mbad"),
    (b"password\x08\x08\n", "password^H^H"),
    ("\u{9b}2J\n".as_bytes(), "\\x9b2J"),
    (b"\x9b2J\x90\n", "\\x9b2J\\x90"),
    (b"\x1bc\x0e\x7f\0\n", "^[c^N^?^@"),
    (b"\x1b[1;31mred\n", "\x1b[1;31mred\x1b[0m"),
    ("tab\tü漢\r\n".as_bytes(), "tab\tü漢"),
];

fn hostile() -> Vec<u8> {
    HOSTILE
        .iter()
        .flat_map(|(bytes, _)| *bytes)
        .copied()
        .collect()
}

#[test]
fn a_terminal_is_safe_from_what_hosts_send() {
    let hosts = &*HOSTS;
    hosts[0].write_file("/tmp/hostile", hostile(), 0o644);
    let shown = |prefix: &str| -> String {
        let lines = HOSTILE.iter();
        lines
            .map(|(_, text)| format!("{prefix}{text}\r\n"))
            .collect()
    };
    for (words, prefix) in [
        (&["-C", "cat /tmp/hostile"][..], "\x1b[36mweb1\x1b[0m "),
        (&["-q", "-C", "cat /tmp/hostile"], ""),
        (&["-q", "-C", "cat /tmp/hostile >&2"], ""),
    ] {
        let (status, screen) = orgalorg(hosts, on(hosts, 1, words))
            .on_terminal(|_| ())
            .finish();
        assert!(status.success());
        assert_eq!(screen, shown(prefix));
    }
    // So are log lines, which are text: what is no UTF-8 is replaced there.
    let words = ["--color", "never", "-v", "-C", "cat /tmp/hostile"];
    let terminal = orgalorg(hosts, on(hosts, 1, &words)).on_terminal(|_| ());
    let (status, screen) = terminal.finish();
    assert!(status.success());
    for (bytes, text) in HOSTILE {
        let text = match std::str::from_utf8(bytes) {
            Ok(_) => text,
            Err(_) => "\u{fffd}2J\u{fffd}",
        };
        assert!(
            screen.contains(&format!("[root@web1:22] {text}\r\n")),
            "{text:?} in {screen:?}"
        );
    }
}

#[test]
fn raw_output_and_output_into_pipes_is_left_alone() {
    let hosts = &*HOSTS;
    hosts[1].write_file("/tmp/hostile", hostile(), 0o644);
    let web2 = |words: &[&str]| orgalorg(hosts, [&["-o", "web2"], words].concat());

    let terminal = web2(&["--raw", "-q", "-C", "cat /tmp/hostile"]).on_terminal(|_| ());
    let (_, screen) = terminal.finish();
    let hostile = String::from_utf8_lossy(&hostile()).replace('\n', "\r\n");
    assert_eq!(screen, hostile);

    let (mut reader, writer) = pipe().expect("a pipe");
    let words = ["-q", "-C", "cat /tmp/hostile; cat /tmp/hostile >&2"];
    let terminal = web2(&words).on_terminal(|command| {
        command.stdout(writer);
    });
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).expect("a pipe can be read");
    assert_eq!(bytes, self::hostile());
    let (_, screen) = terminal.finish();
    assert!(screen.starts_with("^[]0;owned^Gtitle\r\n"), "{screen:?}");

    let (mut reader, writer) = pipe().expect("a pipe");
    let terminal = web2(&words).on_terminal(|command| {
        command.stderr(writer);
    });
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).expect("a pipe can be read");
    assert_eq!(bytes, self::hostile());
    let (_, screen) = terminal.finish();
    assert!(screen.starts_with("^[]0;owned^Gtitle\r\n"), "{screen:?}");
}

#[test]
fn colours_are_used_where_they_are_wanted() {
    let hosts = &*HOSTS;
    let run = |words: &[&str]| {
        let words = [words, &["-C", "echo a; echo b >&2; exit 1"]].concat();
        orgalorg(hosts, on(hosts, 1, &words))
    };
    let plain = run(&[]).run().code(1);
    assert_eq!(plain.stdout(), "web1 a\n");
    assert!(!plain.stderr().contains('\x1b'), "{}", plain.stderr());
    let colored = run(&["--color", "always"]).run().code(1);
    assert_eq!(colored.stdout(), "\x1b[36mweb1\x1b[0m a\n");
    colored.says("\x1b[36mweb1\x1b[0m b\n").says("\x1b[31m");

    let screen = |words: &[&str], name: &str, value: &str| {
        let terminal = run(words).on_terminal(|command| {
            command.env(name, value);
        });
        terminal.finish().1
    };
    for (words, name, value, wanted) in [
        (&[][..], "NO_COLOR", "", true),
        (&[], "NO_COLOR", "1", false),
        (&[], "TERM", "dumb", false),
        (&["--color", "never"], "TERM", "xterm", false),
        (&["--color", "always"], "NO_COLOR", "1", true),
    ] {
        let screen = screen(words, name, value);
        assert_eq!(
            screen.contains("\x1b[3"),
            wanted,
            "{words:?} {name}={value}: {screen:?}"
        );
        assert!(screen.contains("remote execution failed"), "{screen:?}");
    }
}

// ---- readers that are slow, gone, or out of space

#[test]
fn output_that_nobody_reads_waits_in_bounded_memory_and_loses_no_host() {
    const LINES: usize = 400_000;
    let hosts = Hosts::builder()
        .count(4)
        .sshd_option("LogLevel DEBUG1")
        .start();
    let script = format!("seq 1 {LINES} & seq -f 'err %.0f' 1 1000 >&2; wait");
    let words = ["-z", "1s", "-a", "500ms", "-C", &script];
    let (mut child, mut reader) = with_unread_stdout(&hosts, &on(&hosts, 4, &words));

    // Much longer than the hosts may be silent: keep-alives are what they say.
    wait_until("three keep-alives", LIMIT, || {
        let probes = |log: String| log.matches("rtype keepalive@").count();
        hosts.iter().all(|host| probes(host.log()) >= 3)
    });
    let seqs_that_wait = hosts.iter().filter(|host| {
        let processes = host.processes();
        processes
            .iter()
            .any(|process| process.command.starts_with("seq 1 ") && process.state == 'S')
    });
    assert_eq!(
        seqs_that_wait.count(),
        4,
        "the commands are to wait for the reader"
    );
    let busy = cpu_time(child.id());
    let memory = peak_memory(child.id()).expect("orgalorg runs");
    assert!(memory < memory_limit(4), "{memory} KiB");

    let mut output = Vec::new();
    reader.read_to_end(&mut output).expect("a pipe can be read");
    assert!(end_of(&mut child).success());
    assert!(
        busy < Duration::from_secs(2),
        "{busy:?} of CPU time for waiting"
    );
    let expected: String = (1..=LINES).map(|number| format!("{number}\n")).collect();
    for (name, lines) in by_host(&output) {
        assert!(lines == expected.as_bytes(), "{name}");
    }
    let stderr = without_sshd(&stderr_of(&mut child));
    let expected = numbered("err", 1000);
    for (name, lines) in by_host(stderr.as_bytes()) {
        assert!(lines == expected.as_bytes(), "{name}: {stderr}");
    }
}

#[test]
fn a_closed_stdout_ends_the_run_quietly() {
    let hosts = Hosts::start(2);
    let (mut child, mut reader) = with_unread_stdout(&hosts, &on(&hosts, 2, &["-C", "yes"]));
    reader.read_exact(&mut [0; 20]).expect("output comes");
    drop(reader);
    let status = end_of(&mut child);
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&status),
        Some(13)
    );
    assert_eq!(stderr_of(&mut child), "");
    for host in &hosts {
        wait_until("the commands to end", LIMIT, || {
            host.processes().iter().all(|process| process.name != "yes")
        });
    }
}

#[test]
fn a_full_disk_is_an_error_that_is_named() {
    let hosts = &*HOSTS;
    for script in ["echo one line", "yes"] {
        let mut command = orgalorg(hosts, on(hosts, 2, &["-C", script])).into_command();
        let full = File::options().write(true).open("/dev/full");
        command
            .stdout(full.expect("/dev/full exists"))
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program can be started");
        assert_eq!(end_of(&mut child).code(), Some(2));
        let stderr = stderr_of(&mut child);
        assert!(
            stderr.contains("[FATAL] can't write the output\n"),
            "{stderr}"
        );
        assert!(stderr.contains("└─ No space left on device"), "{stderr}");
    }
}

#[test]
fn stderr_that_cannot_be_written_is_an_error_too() {
    let hosts = &*HOSTS;
    for option in ["-C", "-lC", "-qC"] {
        let mut command = orgalorg(hosts, on(hosts, 2, &[option, "echo a >&2"])).into_command();
        let full = File::options().write(true).open("/dev/full");
        command
            .stdout(Stdio::null())
            .stderr(full.expect("/dev/full exists"));
        let mut child = command.spawn().expect("the program can be started");
        assert_eq!(end_of(&mut child).code(), Some(2), "{option}");
    }
}

#[test]
fn without_a_stderr_the_rest_goes_on() {
    let hosts = &*HOSTS;
    let mut shell = hosts.client("sh");
    crate::support::furnish_home(hosts);
    shell.args(["-c", "exec \"$0\" \"$@\" 2>&-"]).arg(program());
    let script = "echo lost >&2; echo out; exit 3";
    shell.args(on(hosts, 2, &["-v", "-C", script]));
    let output = shell.output().expect("the system has a shell");
    assert_eq!(output.status.code(), Some(1));
    let said = by_host(&output.stdout);
    assert_eq!(said.len(), 2);
    assert!(said.values().all(|lines| lines == b"out\n"));
}

// ---- both directions, and many hosts

/// Bytes that nobody would send by mistake.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(next)
        .flatten()
        .take(length)
        .collect()
}

/// Sends a file through `cat` on a host and back.
fn through_cat(hosts: &Hosts, input: &[u8]) -> (Duration, Duration) {
    let file = hosts.dir().join("input");
    fs::write(&file, input).expect("the harness's directory can be written");
    let words = ["-q", "-i", file.to_str().expect("UTF-8"), "-C", "cat"];
    let begun = Instant::now();
    let (mut child, mut reader) = with_unread_stdout(hosts, &on(hosts, 1, &words));
    let mut output = Vec::new();
    reader.read_to_end(&mut output).expect("a pipe can be read");
    wait_for_end(&child);
    let (elapsed, busy) = (begun.elapsed(), cpu_time(child.id()));
    assert!(end_of(&mut child).success());
    assert_eq!(stderr_of(&mut child), "");
    assert_eq!(output.len(), input.len());
    assert!(output == input);
    (elapsed, busy)
}

#[test]
fn bulk_passes_both_ways_while_the_server_changes_keys_all_the_time() {
    for limit in ["RekeyLimit 4M", "RekeyLimit 1M"] {
        let hosts = Hosts::builder().sshd_option(limit).start();
        through_cat(&hosts, &noise(60_000_000));
    }
}

#[test]
fn a_slow_wire_takes_time_but_no_cpu() {
    let hosts = Hosts::builder().sshd_option("RekeyLimit 1M").start();
    hosts[0].slow("20mbit");
    let (elapsed, busy) = through_cat(&hosts, &noise(5_000_000));
    assert!(busy < elapsed / 2, "{busy:?} of CPU time in {elapsed:?}");
}

#[test]
fn a_run_that_waits_uses_no_cpu() {
    let hosts = Hosts::builder()
        .count(10)
        .sshd_option("LogLevel DEBUG1")
        .start();
    let script = "mkfifo /tmp/wait; echo ready; read go </tmp/wait";
    let running = orgalorg(&hosts, on(&hosts, 10, &["-a", "2s", "-C", script])).spawn();
    wait_until("all commands to wait", LIMIT, || {
        running.stdout().lines().count() == 10
    });
    let (begun, before) = (Instant::now(), cpu_time(running.child.id()));
    wait_until("a keep-alive", LIMIT, || {
        hosts[9].log().contains("rtype keepalive@")
    });
    let (elapsed, after) = (begun.elapsed(), cpu_time(running.child.id()));
    assert!(
        after - before <= elapsed / 50,
        "{:?} in {elapsed:?}",
        after - before
    );
    for host in &hosts {
        host.run_ok("echo go >/tmp/wait");
    }
    let finished = running.finish().code(0);
    assert_eq!(without_sshd(&finished.stderr()), "");
}

/// Reads all output of a run, and tells how much memory that took, in KiB.
fn read_to_end(child: &Child, reader: &mut PipeReader) -> (Vec<u8>, u64) {
    let mut memory = 0;
    let mut output = Vec::new();
    let mut buffer = vec![0; 1 << 18];
    loop {
        memory = peak_memory(child.id()).unwrap_or(0).max(memory);
        match reader.read(&mut buffer).expect("a pipe can be read") {
            0 => return (output, memory),
            read => output.extend_from_slice(&buffer[..read]),
        }
    }
}

#[test]
fn a_flood_from_eight_hosts_is_complete_in_bounded_memory() {
    const LINES: usize = 300_000;
    let hosts = Hosts::start(8);
    let script = format!("seq 1 {LINES}");
    let (mut child, mut reader) = with_unread_stdout(&hosts, &on(&hosts, 8, &["-C", &script]));
    let (output, memory) = read_to_end(&child, &mut reader);
    assert!(end_of(&mut child).success());
    assert_eq!(stderr_of(&mut child), "");
    let expected: String = (1..=LINES).map(|number| format!("{number}\n")).collect();
    let said = by_host(&output);
    assert_eq!(said.len(), 8);
    for (name, lines) in said {
        assert!(lines == expected.as_bytes(), "{name}");
    }
    assert!((1..memory_limit(8)).contains(&memory), "{memory} KiB");
}

#[test]
fn long_lines_take_no_more_memory_whatever_is_made_of_them() {
    const COUNT: usize = 5;
    const LENGTH: usize = 2_500_000;
    let hosts = Hosts::start(COUNT);
    let script = format!("head -c {LENGTH} /dev/zero | tr '\\0' '\\377'");
    let run = |options: &[&str]| {
        let words = [options, &["-C", &script]].concat();
        let mut command = orgalorg(&hosts, on(&hosts, COUNT, &words)).into_command();
        let (mut reader, writer) = pipe().expect("a pipe");
        let copy = writer.try_clone().expect("dup");
        command.stdin(Stdio::null()).stdout(writer).stderr(copy);
        let mut child = command.spawn().expect("the program can be started");
        drop(command);
        let (output, memory) = read_to_end(&child, &mut reader);
        assert!(end_of(&mut child).success());
        // A debug build is some MiB larger.
        assert!(
            (1..memory_limit(COUNT)).contains(&memory),
            "{options:?}: {memory} KiB"
        );
        output
    };
    let count = |output: &[u8], bytes: &[u8]| memchr::memmem::find_iter(output, bytes).count();

    let output = run(&["--json"]);
    assert_eq!(count(&output, "\u{fffd}".as_bytes()), COUNT * LENGTH);
    for line in output
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
    {
        assert!(line.starts_with(b"{\"stream\":\"") && line.ends_with(b"\"}"));
    }
    // All of it twice: in log lines, and as it is.
    for options in [["-v", "-v"], ["-v", "-l"], ["-v", "--fold"]] {
        let output = run(&options);
        assert_eq!(count(&output, "\u{fffd}".as_bytes()), COUNT * LENGTH);
        let bare = count(&output, b"\xff");
        let times = if options[1] == "--fold" { 1 } else { COUNT };
        assert_eq!(bare, times * LENGTH, "{options:?}");
    }
}

#[test]
fn sixty_four_hosts_at_once_are_complete_in_bounded_memory() {
    const COUNT: usize = 64;
    let hosts = Hosts::start(COUNT);
    let run = |words: &[&str]| orgalorg(&hosts, on(&hosts, COUNT, words));

    let finished = run(&["-C", "hostname; seq 2 100"]).run().ok();
    let expected: String = (2..=100).map(|number| format!("{number}\n")).collect();
    let said = by_host(&finished.stdout);
    assert_eq!(said.len(), COUNT);
    for (name, lines) in said {
        assert!(lines == format!("{name}\n{expected}").as_bytes(), "{name}");
    }

    // All of them in the middle of a very long line: that is more than there
    // may be in memory.
    let script = "head -c 1000000 /dev/zero | tr '\\0' x; mkfifo /tmp/wait; \
                  read go </tmp/wait; echo end";
    let (mut child, mut reader) = with_unread_stdout(&hosts, &on(&hosts, COUNT, &["-C", script]));
    wait_until("all hosts to be in the middle of a line", LIMIT, || {
        let waits = |host: &crate::hosts::Host| host.has_file("/tmp/wait");
        hosts.iter().all(waits)
    });
    for host in &hosts {
        host.run_ok("(echo go >/tmp/wait) &");
    }
    let (output, memory) = read_to_end(&child, &mut reader);
    assert!(end_of(&mut child).success());
    assert_eq!(stderr_of(&mut child), "");
    let said = by_host(&output);
    assert_eq!(said.len(), COUNT);
    let expected = "x".repeat(1_000_000) + "end\n";
    for (name, lines) in said {
        assert!(lines == expected.as_bytes(), "{name}");
    }
    assert!((1..memory_limit(COUNT)).contains(&memory), "{memory} KiB");
}

#[test]
fn no_more_hosts_than_asked_for_are_connected_at_once() {
    let hosts = Hosts::start(5);
    for host in &hosts {
        host.freeze_listener();
    }
    let words = ["-d", "3", "-c", "30s", "-C", "hostname"];
    let running = orgalorg(&hosts, on(&hosts, 5, &words)).spawn();
    let slow = || {
        running
            .stderr()
            .matches("still connecting to address after 2s")
            .count()
    };
    wait_until("the first ones to be slow", LIMIT, || slow() == 3);
    let connections = fs::read_to_string(format!("/proc/{}/net/tcp", running.child.id()));
    let connections = connections.expect("orgalorg runs");
    // Remote port 22, state SYN_SENT or ESTABLISHED.
    let connections = connections.lines().filter(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields[2].ends_with(":0016") && ["01", "02"].contains(&fields[3])
    });
    assert_eq!(connections.count(), 3);
    assert_eq!(slow(), 3);
    for host in &hosts {
        host.thaw();
    }
    let finished = running.finish().code(0);
    let expected = [
        "web1 web1",
        "web2 web2",
        "web3 web3",
        "web4 web4",
        "web5 web5",
    ];
    assert_eq!(finished.sorted(), expected);
}

#[test]
fn hosts_that_start_one_by_one_run_all_at_once() {
    let hosts = Hosts::start(3);
    let script = "mkfifo /tmp/wait; echo ready; read go </tmp/wait; echo $go";
    let running = orgalorg(&hosts, on(&hosts, 3, &["-d", "1", "-C", script])).spawn();
    wait_until("all three to run", LIMIT, || {
        // Started in order; whose word arrives first is another matter.
        running.stdout().matches(" ready\n").count() == 3
    });
    for name in ["web3", "web1", "web2"] {
        hosts.host(name).run_ok("echo gone >/tmp/wait");
        wait_until("the next one to end", LIMIT, || {
            running.stdout().ends_with(&format!("{name} gone\n"))
        });
    }
    running.finish().ok();
}
