//! What commands read (S6): nothing, a file, a pipe or a terminal, each host at
//! its own pace.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::thread;

use crate::hosts::Hosts;
use crate::support::{Orgalorg, file_in_home, furnish_home, peak_memory, program, without_lock};
use rustix::fs::{Mode, mkfifoat};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

static HOSTS: LazyLock<Hosts> = LazyLock::new(|| {
    let hosts = Hosts::start(3);
    furnish_home(&hosts);
    for host in &hosts {
        // Or sshd complains of it to root, on a terminal.
        host.write_file("/var/log/lastlog", "", 0o644);
    }
    hosts
});

/// The program with these arguments, in the home that all tests share.
fn orgalorg(arguments: &[&str]) -> Orgalorg {
    without_lock(&HOSTS, arguments)
}

/// A file in the directory where the program is started.
fn file(name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    file_in_home(&HOSTS, name, content)
}

/// Numbered lines, so that whatever is lost or doubled changes the checksum.
fn lines(bytes: usize) -> Vec<u8> {
    let mut text = Vec::with_capacity(bytes + 100);
    let mut number = 0;
    while text.len() < bytes {
        writeln!(text, "line {number} of what all hosts are to read")
            .expect("a vector takes all text");
        number += 1;
    }
    text.truncate(bytes);
    text
}

/// What cksum(1) prints for these bytes.
fn cksum(bytes: &[u8]) -> String {
    let mut file = tempfile::tempfile().expect("there is room for a temporary file");
    file.write_all(bytes)
        .expect("a temporary file can be written");
    file.rewind().expect("a file can be rewound");
    let output = Command::new("cksum")
        .stdin(file)
        .output()
        .expect("cksum(1) exists");
    String::from_utf8(output.stdout)
        .expect("cksum(1) prints numbers")
        .trim()
        .to_owned()
}

/// These lines, from each of the hosts.
fn from_all(lines: &str, hosts: &[&str]) -> Vec<String> {
    let hosts = hosts.iter();
    hosts
        .flat_map(|host| lines.lines().map(move |line| format!("{host} {line}")))
        .collect()
}

/// Lets the hosts' commands that wait for this name go on; see `AWAIT`.
fn go(host: &str, name: &str) {
    HOSTS
        .host(host)
        .write_file(format!("/tmp/{name}"), "", 0o644);
}

/// Shell code that waits for `go`.
fn awaits(name: &str) -> String {
    format!("while [ ! -e /tmp/{name} ]; do sleep 0.02; done")
}

#[test]
fn without_input_a_command_sees_the_end_at_once() {
    let finished = orgalorg(&["-o", "web[1-3]", "-C", "cat; read x; echo $?"])
        .stdin("not for them\n")
        .run()
        .ok();
    assert_eq!(finished.sorted(), ["web1 1", "web2 1", "web3 1"]);
    // Nor is our stdin looked at: it may stay open for ever.
    let (reader, _writer) = io::pipe().unwrap();
    let finished = orgalorg(&["-o", "web1", "-C", "wc -c"])
        .stdin_from(reader)
        .run()
        .ok();
    assert_eq!(finished.stdout(), "web1 0\n");
}

#[test]
fn a_large_file_arrives_whole_on_all_hosts() {
    let content = lines(50 << 20);
    let path = file("large", &content);
    let sum = cksum(&content);
    let all = ["web1", "web2"];
    let finished = orgalorg(&["-o", "web[1-2]", "-i", "large", "-C", "cksum"])
        .run()
        .ok();
    assert_eq!(finished.sorted(), from_all(&sum, &all));
    fs::remove_file(path).unwrap();
}

#[test]
fn a_file_is_read_from_where_it_stands() {
    let content = lines(300_000);
    let path = file("offset", &content);
    let sum = cksum(&content[100_001..]);
    for name in ["-", "/dev/stdin"] {
        let mut from = File::open(&path).unwrap();
        from.seek(SeekFrom::Start(100_001)).unwrap();
        let finished = orgalorg(&["-o", "web[1-2]", "-d", "1", "-i", name, "-C", "cksum"])
            .stdin_from(from)
            .run()
            .ok();
        assert_eq!(
            finished.sorted(),
            from_all(&sum, &["web1", "web2"]),
            "{name}"
        );
    }
    // By its name, from the beginning.
    for name in ["offset", "./offset", path.to_str().unwrap(), "~/offset"] {
        let finished = orgalorg(&["-o", "web1", "-i", name, "-C", "cksum"])
            .run()
            .ok();
        assert_eq!(
            finished.stdout(),
            format!("web1 {}\n", cksum(&content)),
            "{name}"
        );
    }
}

#[test]
fn a_pipe_arrives_whole_on_all_hosts() {
    let content = lines(3 << 20);
    let sum = cksum(&content);
    for name in ["-", "/dev/stdin", "/dev/fd/0"] {
        let finished = orgalorg(&["-o", "web[1-3]", "-i", name, "-C", "cksum"])
            .stdin(content.clone())
            .run()
            .ok();
        assert_eq!(
            finished.sorted(),
            from_all(&sum, &["web1", "web2", "web3"]),
            "{name}"
        );
    }
    // As bash passes <(...): the name of an open descriptor.
    let path = file("piped", &content);
    let output = HOSTS
        .client("bash")
        .current_dir(HOSTS.home())
        .args(["-c", r#""$0" -o web1 -i <(cat "$1") -C cksum"#])
        .args([program(), &path])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        format!("web1 {sum}\n")
    );
}

#[test]
fn a_fifo_arrives_whole_on_all_hosts() {
    let path = HOSTS.home().join("fifo");
    mkfifoat(rustix::fs::CWD, &path, Mode::RUSR | Mode::WUSR).unwrap();
    // Of the first, nothing is left to write when the program has opened it.
    for size in [1, 1 << 20] {
        let (path, content) = (path.clone(), lines(size));
        let sum = cksum(&content);
        let writer = thread::spawn(move || {
            // Opens when the program does.
            let mut fifo = OpenOptions::new().write(true).open(path).unwrap();
            fifo.write_all(&content).unwrap();
        });
        let finished = orgalorg(&["-o", "web[1-2]", "-i", "fifo", "-C", "cksum"])
            .run()
            .ok();
        assert_eq!(finished.sorted(), from_all(&sum, &["web1", "web2"]));
        writer.join().unwrap();
    }
}

#[test]
fn input_without_content_ends_at_once() {
    file("empty", "");
    for name in ["empty", "/dev/null", "-"] {
        let finished = orgalorg(&["-o", "web[1-2]", "-i", name, "-C", "wc -c"])
            .stdin("")
            .run()
            .ok();
        assert_eq!(finished.sorted(), ["web1 0", "web2 0"], "{name}");
    }
}

#[test]
fn a_host_that_does_not_read_holds_up_nobody() {
    let content = lines(12 << 20);
    file("unread", &content);
    let sum = cksum(&content);
    for (number, (stops, input)) in [
        ("exec <&-", "unread"),
        ("exec <&-", "-"),
        (":", "unread"),
        (":", "-"),
        ("head -c1 >/dev/null", "-"),
        ("sleep 600 <&0 >/dev/null 2>&1 & exec <&-", "-"),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("not-reading-{number}");
        let command = format!(
            "if [ $HOSTNAME = web2 ]; then cksum; exit; fi; {stops}; {}; echo unread; exit 5",
            awaits(&name)
        );
        let running = orgalorg(&["-o", "web[1-2]", "-i", input, "-C", &command])
            .stdin(content.clone())
            .spawn();
        running.wait_for_stdout(&format!("web2 {sum}\n"), 1);
        // It is still there, and has not read anything.
        go("web1", &name);
        let finished = running.finish().code(1).says("code 5 (1 node): web1");
        assert!(
            finished.stdout().ends_with("web1 unread\n"),
            "{stops}: {}",
            finished.stdout()
        );
        HOSTS.host("web1").kill_matching("sleep 600");
    }
}

#[test]
fn a_command_that_ends_before_it_has_read_all_is_no_failure() {
    let content = lines(4 << 20);
    file("half-read", &content);
    for command in ["true", "head -n1", "exec <&-; echo x", "read x; echo $x"] {
        for input in ["half-read", "-"] {
            orgalorg(&["-o", "web[1-3]", "-i", input, "-C", command])
                .stdin(content.clone())
                .run()
                .ok();
        }
    }
    let failed = orgalorg(&["-o", "web1", "-i", "half-read", "-C", "exit 9"]).run();
    failed.code(1).says("code 9 (1 node): web1");
    // Nor is a source that never ends.
    let endless = orgalorg(&[
        "-o",
        "web[1-2]",
        "-i",
        "/dev/zero",
        "-C",
        "head -c 100000 | wc -c",
    ]);
    assert_eq!(endless.run().ok().sorted(), ["web1 100000", "web2 100000"]);
}

#[test]
fn a_command_that_reads_late_gets_all() {
    let content = lines(5 << 20);
    file("late", &content);
    let sum = cksum(&content);
    for input in ["late", "-"] {
        let name = format!("late-{}", input.len());
        let command = format!("[ $HOSTNAME = web2 ] || {{ {}; }}; cksum", awaits(&name));
        let running = orgalorg(&["-o", "web[1-2]", "-i", input, "-C", &command])
            .stdin(content.clone())
            .spawn();
        running.wait_for_stdout(&format!("web2 {sum}\n"), 1);
        assert!(!running.stdout().contains("web1"));
        go("web1", &name);
        let finished = running.finish().ok();
        assert_eq!(finished.sorted(), from_all(&sum, &["web1", "web2"]));
    }
}

#[test]
fn a_line_reaches_all_hosts_when_it_is_entered() {
    let (reader, mut writer) = io::pipe().unwrap();
    let running = orgalorg(&["-o", "web[1-3]", "-i", "-", "-C", "bash -s"])
        .stdin_from(reader)
        .spawn();
    let mut expected = Vec::new();
    for round in 1..=3 {
        writeln!(writer, "x=$((x + {round})); echo $HOSTNAME $x").unwrap();
        let sum: u32 = (1..=round).sum();
        for host in ["web1", "web2", "web3"] {
            expected.push(format!("{host} {host} {sum}"));
            running.wait_for_stdout(&format!("{host} {host} {sum}\n"), 1);
        }
    }
    // Part of a line comes too: this is a stream.
    writer.write_all(b"echo wh").unwrap();
    writer.write_all(b"ole").unwrap();
    // One host goes; the others stay.
    writeln!(writer, "; [ $HOSTNAME != web1 ] || exit 0").unwrap();
    writeln!(writer, "echo left").unwrap();
    running.wait_for_stdout("web3 left\n", 1);
    running.wait_for_stdout("web2 left\n", 1);
    drop(writer);
    for host in ["web1", "web2", "web3"] {
        expected.push(format!("{host} whole"));
    }
    expected.extend(["web2 left".to_owned(), "web3 left".to_owned()]);
    expected.sort();
    assert_eq!(running.finish().ok().sorted(), expected);
}

#[test]
fn on_a_terminal_it_is_a_parallel_shell() {
    let mut terminal = orgalorg(&["-o", "web[1-2]", "-i", "/dev/stdin", "-C", "bash -s"])
        .on_terminal(|command| {
            command.env("NO_COLOR", "1");
        });
    terminal.type_in("echo $((6 * 7)) from $HOSTNAME\n");
    terminal.expect("web1 42 from web1\r\n");
    terminal.expect("web2 42 from web2\r\n");
    terminal.type_in("exit 3\n");
    terminal.expect("code 3 (2 nodes): web[1-2]");
    let (status, screen) = terminal.finish();
    assert_eq!(status.code(), Some(1), "{screen}");

    let mut terminal =
        orgalorg(&["-o", "web[1-2]", "-i", "-", "-C", "cat"]).on_terminal(|command| {
            command.env("NO_COLOR", "1");
        });
    terminal.type_in("one\n");
    terminal.expect("web1 one\r\n");
    terminal.expect("web2 one\r\n");
    terminal.type_in("\x04");
    let (status, screen) = terminal.finish();
    assert!(status.success(), "{screen}");
}

#[test]
fn a_command_that_closes_its_output_may_go_on_reading() {
    let content = lines(3 << 20);
    file("silent", &content);
    let sum = cksum(&content);
    for input in ["silent", "-"] {
        let command = "exec >&- 2>&-; cksum >/tmp/silent-sum; exit 6";
        orgalorg(&["-o", "web1", "-i", input, "-C", command])
            .stdin(content.clone())
            .run()
            .code(1)
            .says("code 6 (1 node): web1");
        let there = HOSTS.host("web1").read_file("/tmp/silent-sum");
        assert_eq!(String::from_utf8_lossy(&there).trim(), sum);
    }
}

#[test]
fn what_a_host_does_not_take_yet_is_not_kept_in_memory() {
    const SIZE: u64 = 300 << 20;
    let (reader, mut writer) = io::pipe().unwrap();
    let command = format!("[ $HOSTNAME = web2 ] || {{ {}; }}; wc -c", awaits("memory"));
    let running = orgalorg(&["-o", "web[1-2]", "-i", "-", "-C", &command])
        .stdin_from(reader)
        .spawn();
    let writer = thread::spawn(move || {
        let chunk = vec![b'x'; 1 << 20];
        for _ in 0..SIZE >> 20 {
            writer.write_all(&chunk).unwrap();
        }
    });
    // Nobody reads, but all of it is taken.
    writer.join().unwrap();
    running.wait_for_stdout(&format!("web2 {SIZE}\n"), 1);
    let peak = peak_memory(running.child.id()).expect("orgalorg runs");
    assert!(peak < 40 << 10, "{peak} KiB");
    go("web1", "memory");
    let finished = running.finish().ok();
    assert_eq!(
        finished.sorted(),
        [format!("web1 {SIZE}"), format!("web2 {SIZE}")]
    );
}

#[test]
fn hosts_that_are_left_out_keep_nobody_waiting() {
    let content = lines(20 << 20);
    let sum = cksum(&content);
    // Nothing listens on port 1.
    let finished = orgalorg(&["-w", "-o", "web1:1,web2,web3", "-i", "-", "-C", "cksum"])
        .stdin(content)
        .run()
        .code(0)
        .says("host is skipped");
    assert_eq!(finished.sorted(), from_all(&sum, &["web2", "web3"]));
}

#[test]
fn input_that_cannot_be_read_ends_the_run() {
    // A file that can be opened, and not read.
    let finished = orgalorg(&[
        "-o",
        "web[1-2]",
        "-i",
        "/proc/self/mem",
        "-C",
        "cat; echo end",
    ])
    .run()
    .code(2)
    .says("[FATAL] can't read the input from '/proc/self/mem'\n")
    .says("Input/output error");
    assert!(!finished.stdout().contains("end"), "{}", finished.stdout());

    // A pipe that breaks in the middle: the master of a pseudo-terminal does,
    // when the other side is closed.
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let name = Path::new(name.to_str().unwrap());
    let mut slave = OpenOptions::new().write(true).open(name).unwrap();
    let running = orgalorg(&["-o", "web[1-2]", "-i", "-", "-C", "cat; echo end"])
        .stdin_from(master)
        .spawn();
    slave.write_all(b"begun\n").unwrap();
    running.wait_for_stdout("web1 begun", 1);
    running.wait_for_stdout("web2 begun", 1);
    drop(slave);
    let finished = running
        .finish()
        .code(2)
        .says("[FATAL] can't read the input from stdin\n")
        .says("Input/output error")
        .says("not finished (2 nodes): web[1-2]");
    assert!(!finished.stdout().contains("end"), "{}", finished.stdout());
}

#[test]
fn input_that_cannot_be_kept_is_not_called_unreadable() {
    let run = |directory: &Path| {
        let running = orgalorg(&["-o", "web[1-2]", "-i", "-", "-C", "exec sleep 600"])
            .with(|command| {
                command.env("TMPDIR", directory);
            })
            .stdin(vec![b'x'; 1 << 20]);
        let finished = running.run().code(2);
        finished
            .says("can't keep the input")
            .says(&format!("'{}'", directory.display()))
            .says("TMPDIR")
    };
    run(Path::new("/no/such")).says("No such file or directory");
    // A file system that is full at once.
    let small = HOSTS.home().join("small");
    fs::create_dir(&small).unwrap();
    let mount = ["-t", "tmpfs", "-o", "size=64k", "small"];
    let mounted = HOSTS
        .client("mount")
        .args(mount)
        .arg(&small)
        .status()
        .unwrap();
    assert!(mounted.success());
    run(&small).says("No space left on device");
}

/// The program on a terminal of 33 lines and 101 columns.
fn on_large_terminal(arguments: &[&str]) -> (i32, String) {
    let run = orgalorg(arguments).with(|command| {
        let mut shell = HOSTS.client("sh");
        shell
            .args(["-c", r#"stty rows 33 cols 101; exec "$0" "$@""#])
            .arg(program())
            .args(arguments)
            .env("NO_COLOR", "1")
            .current_dir(HOSTS.home());
        *command = shell;
    });
    let (status, screen) = run.on_terminal(|_| ()).finish();
    (
        status.code().expect("the program exits by itself"),
        screen.replace('\r', ""),
    )
}

#[test]
fn a_command_gets_a_terminal_like_ours() {
    let asks = "stty size; echo $TERM; tty | cut -c-9; cat; echo end";
    let (code, screen) = on_large_terminal(&["-o", "web1", "--tty", "-C", asks]);
    // One host's bytes pass as they are.
    assert_eq!(
        (code, screen.as_str()),
        (0, "33 101\nxterm\n/dev/pts/\nend\n")
    );
    let (code, screen) = on_large_terminal(&["-o", "web[1-2]", "--tty", "-C", asks]);
    let mut lines: Vec<&str> = screen.lines().collect();
    lines.sort_unstable();
    let all = from_all("/dev/pts/\n33 101\nend\nxterm", &["web1", "web2"]);
    assert_eq!(
        (code, lines.as_slice()),
        (
            0,
            all.iter()
                .map(String::as_str)
                .collect::<Vec<_>>()
                .as_slice()
        )
    );
    // Where we have none ourselves.
    let finished = orgalorg(&["-o", "web1", "--tty", "-C", asks])
        .with(|command| {
            command.env_remove("TERM");
        })
        .run()
        .ok();
    assert_eq!(finished.stdout(), "24 80\r\nvt100\r\n/dev/pts/\r\nend\r\n");
    // Without --tty there is none.
    let finished = orgalorg(&["-o", "web1", "-C", "tty; echo ${TERM:-none}"])
        .run()
        .ok();
    assert_eq!(finished.stdout(), "web1 not a tty\nweb1 dumb\n");
}

#[test]
fn what_a_single_host_on_a_terminal_says_is_shown_before_its_line_ends() {
    let command = format!("printf 'prompt> '; {}", awaits("prompt"));
    let running = orgalorg(&["-o", "web1", "--tty", "-C", &command]).spawn();
    running.wait_for_stdout("prompt> ", 1);
    go("web1", "prompt");
    assert_eq!(running.finish().ok().stdout(), "prompt> ");
}

#[test]
fn input_is_typed_on_a_terminal_and_its_end_arrives() {
    for (content, expected) in [
        ("one\ntwo\n", "one\r\ntwo\r\n<end>"),
        // The end of an unfinished line is no end yet.
        ("one\ntwo", "one\r\ntwo<end>"),
        ("", "<end>"),
        ("\n", "\r\n<end>"),
    ] {
        file("typed", content);
        for input in ["typed", "-"] {
            // What was typed before the echo was off is shown, as ever.
            let command = "stty -echo; printf '<begin>'; cat; printf '<end>'";
            let arguments = ["-o", "web1", "--tty", "-i", input, "-C", command];
            let finished = orgalorg(&arguments).stdin(content).run().ok();
            let stdout = finished.stdout();
            let said = stdout.split_once("<begin>").unwrap().1;
            assert_eq!(said, expected, "{content:?} {input}: {stdout:?}");
        }
    }
    // More than a terminal holds at once, and all of it comes back as echo.
    let content = lines(300_000);
    file("typed-much", &content);
    let finished = orgalorg(&[
        "-o",
        "web1",
        "--tty",
        "-i",
        "typed-much",
        "-C",
        "cat >/tmp/typed; echo; cksum </tmp/typed",
    ])
    .run()
    .ok();
    let sum = cksum(&content);
    assert!(finished.stdout().ends_with(&format!("\n{sum}\r\n")));
}
