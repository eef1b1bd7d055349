//! The displays other than plain lines: grouped, folded, JSON, files, and the
//! status bar on a terminal.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, pipe};
use std::num::NonZero;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use crate::hosts::{Hosts, wait_until};
use crate::support::pty::without_bar;
use crate::support::{LIMIT, Orgalorg, on_all, orgalorg, peak_memory, targets};
use serde_json::{Value, json};

/// Hosts for all tests that do nothing to them.
static HOSTS: LazyLock<Hosts> = LazyLock::new(|| Hosts::start(3));

/// The program on all hosts.
fn on(hosts: &Hosts, words: &[&str]) -> Orgalorg {
    orgalorg(hosts, on_all(hosts, words))
}

/// The program on hosts that other tests use too, as a shell starts it.
fn in_shell(script: &str, words: &[&str]) -> Orgalorg {
    let words = words.iter().map(|&word| word.to_owned());
    let first = std::iter::once("-y".to_owned());
    let words = first.chain(targets(&HOSTS)).chain(words);
    crate::support::in_shell(&HOSTS, script, words)
}

/// The same on hosts that other tests use too.
fn on_shared(words: &[&str]) -> Orgalorg {
    on(&HOSTS, &[&["-y"], words].concat())
}

// ---- grouped

#[test]
fn grouped_output_makes_nobody_wait_and_fits_into_memory() {
    const LINES: usize = 10_000_000;
    let hosts = Hosts::start(3);
    // web1 says more than the pipe to us takes, and goes on much later.
    let script = format!(
        "case $(hostname) in
            web1) seq 1 100000; mkfifo /tmp/wait; read go </tmp/wait; echo last;;
            *) until [ -e /tmp/go ]; do sleep 0.05; done; seq 1 {LINES}; touch /tmp/done;;
        esac"
    );
    let (mut reader, writer) = pipe().expect("a pipe");
    let mut command = on(&hosts, &["-l", "-C", &script]).into_command();
    command.stdin(Stdio::null()).stdout(writer);
    let mut child = command.spawn().expect("the program can be started");
    drop(command);
    let mut first = [0; 7];
    reader
        .read_exact(&mut first)
        .expect("the live host is shown");
    assert_eq!(&first, b"web1 1\n");
    for host in hosts.iter().skip(1) {
        host.write_file("/tmp/go", "", 0o644);
    }
    // Nobody reads what web1 says, and the others do not wait for that.
    wait_until("the other hosts to have said all", LIMIT, || {
        let has_said_all = |host: &crate::hosts::Host| host.has_file("/tmp/done");
        hosts.iter().skip(1).all(has_said_all)
    });
    hosts[0].run_ok("(until [ -p /tmp/wait ]; do sleep 0.05; done; echo go >/tmp/wait) &");

    let mut memory = 0;
    let (mut said, mut rest) = (Vec::new(), Vec::new());
    let mut buffer = vec![0; 1 << 18];
    let mut bytes: BTreeMap<String, usize> = BTreeMap::new();
    loop {
        memory = peak_memory(child.id()).unwrap_or(0).max(memory);
        let read = reader.read(&mut buffer).expect("a pipe can be read");
        if read == 0 {
            break;
        }
        rest.extend_from_slice(&buffer[..read]);
        let end = rest.iter().rposition(|&byte| byte == b'\n');
        let lines: Vec<u8> = rest.drain(..end.map_or(0, |at| at + 1)).collect();
        for line in lines.split_inclusive(|&byte| byte == b'\n') {
            let (name, text) = line.split_at(5);
            let name = String::from_utf8_lossy(name).into_owned();
            if said.last() != Some(&name) {
                said.push(name.clone());
            }
            *bytes.entry(name).or_default() += text.len();
        }
    }
    assert!(child.wait().expect("a child can be waited for").success());
    assert_eq!(said[0], "web1 ");
    assert_eq!(said.len(), 3, "{said:?}");
    for name in ["web2 ", "web3 "] {
        assert_eq!(bytes[name], 78_888_897);
    }
    assert_eq!(bytes["web1 "], 588_895 - "1\n".len() + "last\n".len());
    let limit = 20 * 1024 + 3 * 512;
    assert!((1..limit).contains(&memory), "{memory} KiB");
}

#[test]
fn grouped_output_is_live_for_the_first_and_bare_when_quiet() {
    let hosts = Hosts::start(2);
    let script = "
        case $(hostname) in
            web1) echo early; mkfifo /tmp/wait; read go </tmp/wait; echo late >&2; printf end;;
            web2) until [ -e /tmp/go ]; do sleep 0.05; done; echo other; printf more; touch /tmp/done;;
        esac";
    for (option, expected) in [
        ("--grouped", "web1 early\nweb1 end\nweb2 other\nweb2 more\n"),
        ("-lq", "early\nendother\nmore"),
    ] {
        let running = on(&hosts, &[option, "-C", script]).spawn();
        wait_until("the first line", LIMIT, || {
            running.stdout().contains("early\n")
        });
        hosts[1].write_file("/tmp/go", "", 0o644);
        wait_until("the other host to have said all", LIMIT, || {
            hosts[1].has_file("/tmp/done")
        });
        assert!(!running.stdout().contains("other"));
        hosts[0].run_ok("until [ -p /tmp/wait ]; do sleep 0.05; done; echo go >/tmp/wait");
        let finished = running.finish().code(0);
        assert_eq!(finished.stdout(), expected);
        assert!(finished.stderr().ends_with("late\n"));
        for host in &hosts {
            host.run_ok("rm -f /tmp/wait /tmp/go /tmp/done");
        }
    }
}

// ---- no room for what is kept

/// The program with a small temporary directory of its own that is full.
fn with_full_tmpdir(hosts: &Hosts, words: &[&str]) -> Orgalorg {
    let words = words.iter().map(|&word| word.to_owned());
    let script = "mkdir -p tmp && mount -t tmpfs -o size=256k none tmp && \
                  { cat /dev/zero >tmp/filler 2>/dev/null; TMPDIR=$PWD/tmp exec \"$0\" \"$@\"; }";
    crate::support::in_shell(hosts, script, targets(hosts).into_iter().chain(words))
}

/// How much a run of few hosts may use of memory, in KiB.
const LITTLE_MEMORY: u64 = 24 * 1024;

#[test]
fn hosts_wait_where_there_is_no_room_for_what_they_say() {
    const LINES: usize = 4_000_000;
    let hosts = Hosts::start(3);
    let script = format!(
        "case $(hostname) in
            web1) echo first; mkfifo /tmp/wait; read go </tmp/wait; echo last;;
            *) until [ -e /tmp/go ]; do sleep 0.05; done; seq 1 {LINES};;
        esac"
    );
    let running = with_full_tmpdir(&hosts, &["-l", "-C", &script]).spawn();
    wait_until("the live host to be shown", LIMIT, || {
        running.stdout() == "web1 first\n"
    });
    for host in hosts.iter().skip(1) {
        host.write_file("/tmp/go", "", 0o644);
    }
    wait_until("the warning", LIMIT, || {
        running.stderr().contains("[WARN] can't keep output in '")
    });
    wait_until("the other hosts to wait", LIMIT, || {
        let waits = |host: &crate::hosts::Host| {
            let mut processes = host.processes().into_iter();
            processes.any(|process| process.name == "seq" && process.state == 'S')
        };
        hosts.iter().skip(1).all(waits)
    });
    hosts[0].run_ok("until [ -p /tmp/wait ]; do sleep 0.05; done; echo go >/tmp/wait");
    let (mut memory, pid) = (0, running.child.id());
    let deadline = Instant::now() + LIMIT;
    while let Some(peak) = peak_memory(pid)
        && Instant::now() < deadline
    {
        memory = memory.max(peak);
        std::thread::sleep(Duration::from_millis(5));
    }
    let finished = running.finish().code(0);
    let stdout = finished.stdout();
    let rest = stdout.strip_prefix("web1 first\nweb1 last\n");
    let rest = rest.expect("the live host is not held up");
    let mut bytes: BTreeMap<&str, usize> = BTreeMap::new();
    let mut said = Vec::new();
    for line in rest.split_inclusive('\n') {
        let (name, text) = line.split_at(5);
        if said.last() != Some(&name) {
            said.push(name);
        }
        *bytes.entry(name).or_default() += text.len();
    }
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(
        bytes.values().all(|&length| length == 30_888_896),
        "{bytes:?}"
    );
    assert_eq!(finished.stderr().matches("[WARN]").count(), 1);
    finished.says("No space left on device");
    assert!((1..LITTLE_MEMORY).contains(&memory), "{memory} KiB");
}

#[test]
fn folded_output_waits_for_room_and_a_signal_ends_that() {
    const LINES: usize = 1_000_000;
    let hosts = Hosts::start(2);
    let script = format!("seq 1 {LINES}");
    let start = || {
        let running = with_full_tmpdir(&hosts, &["--fold", "-C", &script]).spawn();
        wait_until("the hosts to wait", LIMIT, || {
            let waits = |host: &crate::hosts::Host| {
                let mut processes = host.processes().into_iter();
                processes.any(|process| process.name == "seq" && process.state == 'S')
            };
            running.stderr().contains("[WARN] can't keep output in '") && hosts.iter().all(waits)
        });
        let memory = peak_memory(running.child.id()).expect("it runs");
        assert!((1..LITTLE_MEMORY).contains(&memory), "{memory} KiB");
        running
    };

    let running = start();
    // Somebody makes room.
    let more = "mount -o remount,size=100m tmp";
    let status = hosts
        .client("sh")
        .current_dir(hosts.home())
        .args(["-c", more])
        .status();
    assert!(status.expect("the system has a shell").success());
    let finished = running.finish().code(0);
    let expected: String = (1..=LINES).map(|number| format!("{number}\n")).collect();
    assert!(finished.stdout() == format!("web[1-2] (2 hosts)\n{expected}"));

    let running = start();
    let begun = Instant::now();
    running.signal("INT");
    let finished = running.finish().killed_by(2);
    assert!(begun.elapsed() < Duration::from_secs(10));
    // What had come is shown.
    let stdout = finished.stdout();
    assert!(stdout.starts_with("web"), "{stdout:.100}");
    assert!(stdout.contains(" host)\n1\n2\n") || stdout.contains(" hosts)\n1\n2\n"));
    finished.says("not finished (2 nodes): web[1-2]");
}

// ---- folded

#[test]
fn identical_output_is_printed_once_under_the_hosts_that_gave_it() {
    let script = "echo same; echo one; [ $(hostname) != web2 ] || { echo two; echo bad >&2; }";
    let finished = on_shared(&["--fold", "-C", script]).run().code(0);
    assert_eq!(
        finished.stdout(),
        "web[1,3] (2 hosts)\nsame\none\n\nweb2 (1 host)\nsame\none\ntwo\n"
    );
    assert_eq!(finished.stderr(), "web2 (1 host)\nbad\n");

    let finished = on_shared(&["--fold", "--diff", "-C", script]).run().code(0);
    assert_eq!(
        finished.stdout(),
        "web[1,3] (2 hosts)\nsame\none\n\nweb2 (1 host)\n@@ -1,2 +1,3 @@\n same\n one\n+two\n"
    );
    assert_eq!(finished.stderr(), "web2 (1 host)\n@@ -0,0 +1 @@\n+bad\n");
    on_shared(&["--fold", "-C", "true"]).run().ok();
    // A host that is skipped has not been silent.
    let words = ["-w", "-o", "nosuchhost", "--fold", "-C", "echo same"];
    let finished = on_shared(&words).run().code(0);
    assert_eq!(finished.stdout(), "web[1-3] (3 hosts)\nsame\n");
}

#[test]
fn what_has_come_before_ctrl_c_is_folded_and_the_summary_follows() {
    let hosts = Hosts::start(2);
    let script = "echo begun; mkfifo /tmp/wait; read go </tmp/wait";
    let run = on(&hosts, &["--fold", "-C", script]).spawn();
    wait_until("the commands to wait", LIMIT, || {
        let waits = |host: &crate::hosts::Host| host.has_file("/tmp/wait");
        hosts.iter().all(waits)
    });
    run.signal("INT");
    let finished = run.finish().killed_by(2);
    assert_eq!(finished.stdout(), "web[1-2] (2 hosts)\nbegun\n");
    finished.says("not finished (2 nodes): web[1-2]");
}

// ---- JSON

/// The objects on a stream, each on its own line.
#[track_caller]
fn objects(text: &str) -> Vec<Value> {
    let parse = |line: &str| {
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line:?}"))
    };
    text.lines().map(parse).collect()
}

fn results(text: &str) -> BTreeMap<String, Value> {
    let results = objects(text)
        .into_iter()
        .filter(|object| object["stream"] == "result");
    let mut by_host = BTreeMap::new();
    for result in results {
        let host = result["host"].as_str().expect("a name").to_owned();
        assert!(by_host.insert(host, result).is_none(), "told twice");
    }
    by_host
}

#[test]
fn many_hosts_at_once_are_whole_json_objects_with_a_result_each() {
    const COUNT: usize = 64;
    let hosts = Hosts::start(COUNT);
    let script = "seq -f '%.0f \"x\"' 1 300; printf half; echo no >&2; \
                  case $(hostname) in *7) exit 7;; *9) kill -KILL $$;; esac";
    let finished = on(&hosts, &["--json", "-C", script]).run().code(1);
    let mut bodies: BTreeMap<String, String> = BTreeMap::new();
    for object in objects(&finished.stdout()) {
        if object["stream"] == "stdout" {
            let host = object["host"].as_str().expect("a name");
            assert_eq!(object["node"], format!("[root@{host}:22]"));
            let body = object["body"].as_str().expect("a line");
            bodies.entry(host.to_owned()).or_default().push_str(body);
        }
    }
    let expected: String = (1..=300)
        .map(|number| format!("{number} \"x\"\n"))
        .collect();
    assert_eq!(bodies.len(), COUNT);
    assert!(
        bodies
            .values()
            .all(|body| *body == expected.clone() + "half")
    );

    let results = results(&finished.stdout());
    assert_eq!(results.len(), COUNT);
    for (host, result) in results {
        let (status, code, signal) = match host.chars().last() {
            Some('7') => ("exit", json!(7), Value::Null),
            Some('9') => ("signal", Value::Null, json!("KILL")),
            _ => ("ok", json!(0), Value::Null),
        };
        assert_eq!(result["status"], status, "{result}");
        assert_eq!((&result["code"], &result["signal"]), (&code, &signal));
        assert!(result["duration_ms"].is_u64() && result["body"].is_string());
    }

    let errors = objects(&finished.stderr());
    let lines = errors.iter().filter(|object| object["body"] == "no\n");
    assert_eq!(lines.count(), COUNT);
    let logs: Vec<&Value> = errors
        .iter()
        .filter(|object| object["node"].is_null())
        .collect();
    assert_eq!(logs.len(), 1, "{logs:?}");
    assert_eq!(
        (&logs[0]["host"], &logs[0]["stream"]),
        (&Value::Null, &json!("stderr"))
    );
    let body = logs[0]["body"].as_str().expect("a text");
    let expected = "[FATAL] remote execution failed: commands are failed on 13 out of 64 nodes: \
                    exited with non-zero code 7 (7 nodes): web[7,17,27,37,47,57]";
    assert!(
        body.contains(&expected.replace("7 nodes", "6 nodes").replace("13", "12")),
        "{body}"
    );
}

#[test]
fn every_host_has_a_result_however_the_run_ends() {
    let hosts = Hosts::start(2);
    // A host that is not there: nothing is run on the others.
    let finished = on(&hosts, &["-o", "ops@nosuchhost", "--json", "-C", "true"])
        .run()
        .code(3);
    let found = results(&finished.stdout());
    let status = |found: &BTreeMap<String, Value>, host: &str| found[host]["status"].clone();
    assert_eq!(status(&found, "web1"), "cancelled");
    assert_eq!(status(&found, "ops@nosuchhost"), "unreachable");
    let why = found["ops@nosuchhost"]["body"]
        .as_str()
        .expect("a sentence");
    assert!(why.contains("can't resolve 'nosuchhost'"), "{why}");
    objects(&finished.stderr());

    // The same host, skipped.
    let finished = on(&hosts, &["-w", "-o", "nosuchhost", "--json", "-C", "true"])
        .run()
        .code(0);
    let found = results(&finished.stdout());
    assert_eq!(found.len(), 3);
    assert_eq!(status(&found, "web2"), "ok");
    assert_eq!(status(&found, "nosuchhost"), "unreachable");

    // Ctrl-C, while somebody else is refused the lock.
    let script = "[ $(hostname) = web1 ] && exit 0; echo up; mkfifo /tmp/wait; read go </tmp/wait";
    let running = on(&hosts, &["--json", "-C", script]).spawn();
    wait_until("one host to be through, the other to run", LIMIT, || {
        let said = running.stdout();
        said.contains("\"result\"") && said.contains("up\\n")
    });
    let refused = on(&hosts, &["--json", "-C", "true"]).run().code(4);
    let found = results(&refused.stdout());
    assert_eq!(status(&found, "web1"), "lock");
    assert_eq!(found.len(), 2);
    running.signal("INT");
    let finished = running.finish().killed_by(2);
    let found = results(&finished.stdout());
    assert_eq!(status(&found, "web1"), "ok");
    assert_eq!(status(&found, "web2"), "cancelled");
    objects(&finished.stderr());

    // No key fits: nobody is let in.
    let finished = on(&hosts, &["-u", "nobody", "--json", "-C", "true"])
        .run()
        .code(3);
    assert_eq!(status(&results(&finished.stdout()), "web1"), "auth");
    // No terminal to ask on.
    let finished = on(&hosts, &["-p", "--json", "-C", "true"]).run().code(2);
    assert_eq!(status(&results(&finished.stdout()), "web1"), "cancelled");
    objects(&finished.stderr());
}

#[test]
fn json_of_hostile_bytes_is_harmless_and_complete() {
    let all: Vec<u8> = (0..=255).collect();
    let hosts = Hosts::start(1);
    hosts[0].write_file("/tmp/all", &all, 0o644);
    let terminal = on(&hosts, &["--json", "-C", "cat /tmp/all"]).on_terminal(|_| ());
    let (status, screen) = terminal.finish_with_bar();
    assert!(status.success());
    let text = screen.replace("\r\n", "");
    assert!(text.chars().all(|c| !c.is_control()), "{screen:?}");
    let found = objects(&screen.replace("\r\n", "\n"));
    let decode = |object: &Value| match object.get("body_base64") {
        Some(text) => base64(text.as_str().expect("a text")),
        None => object["body"].as_str().expect("a text").as_bytes().to_vec(),
    };
    let outputs = found.iter().filter(|object| object["stream"] == "stdout");
    assert_eq!(outputs.flat_map(decode).collect::<Vec<u8>>(), all);
}

/// Bytes of a base64 text.
fn base64(text: &str) -> Vec<u8> {
    use std::io::Write;
    let mut child = std::process::Command::new("base64")
        .arg("-d")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("coreutils have base64");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(text.as_bytes()).expect("it reads");
    drop(stdin);
    child.wait_with_output().expect("it ends").stdout
}

// ---- files

#[test]
fn each_hosts_streams_are_in_files_while_it_still_runs() {
    let hosts = Hosts::start(2);
    let directory = hosts.dir().join("kept/here");
    fs::create_dir_all(&directory).expect("the harness's directory can be written");
    let file = |name: &str| directory.join(name);
    fs::write(file("web1.stdout"), "of an earlier run").expect("a file can be written");
    fs::write(file("other"), "keep").expect("a file can be written");
    let script = "printf 'a\\377'; mkfifo /tmp/wait; read go </tmp/wait; \
                  echo b; [ $(hostname) = web1 ] || echo c >&2";
    let words = ["--output-dir", "../kept/here", "-C", script];
    let words = match directory.to_str() {
        Some(path) => ["--output-dir", path, words[2], words[3]],
        None => words,
    };
    let running = on(&hosts, &words).spawn();
    let has = |name: &str, bytes: &[u8]| fs::read(file(name)).is_ok_and(|found| found == bytes);
    wait_until("the first bytes to be in the files", LIMIT, || {
        has("web1.stdout", b"a\xff") && has("web2.stdout", b"a\xff")
    });
    for host in &hosts {
        host.run_ok("until [ -p /tmp/wait ]; do sleep 0.05; done; echo go >/tmp/wait");
    }
    let finished = running.finish().code(0);
    assert_eq!(finished.stdout.len(), 2 * "web1 a_b\n".len());
    assert!(has("web1.stdout", b"a\xffb\n") && has("web2.stdout", b"a\xffb\n"));
    assert!(has("web1.stderr", b"") && has("web2.stderr", b"c\n"));
    assert!(has("other", b"keep"));
    assert_eq!(fs::read_dir(&directory).expect("it is there").count(), 5);
}

#[test]
fn a_file_that_cannot_be_written_ends_the_run() {
    let directory = HOSTS.dir().join("full");
    fs::create_dir_all(&directory).expect("the harness's directory can be written");
    let path = directory.to_str().expect("UTF-8");
    let script = "trap '' XFSZ; ulimit -f 100; exec \"$0\" \"$@\"";
    let finished = in_shell(script, &["--output-dir", path, "-C", "yes"]).run();
    finished
        .code(2)
        .says(&format!("[FATAL] can't write '{path}/web"))
        .says("File too large");
}

#[test]
fn what_only_has_the_name_of_a_file_is_refused_before_anything_runs() {
    let directory = HOSTS.dir().join("fifo");
    fs::create_dir_all(&directory).expect("the harness's directory can be written");
    let path = directory.to_str().expect("UTF-8");
    let file = directory.join("web2.stdout");
    let fifo = || {
        let made = std::process::Command::new("mkfifo").arg(&file).status();
        assert!(made.expect("coreutils have mkfifo").success());
    };
    let link = || std::os::unix::fs::symlink("/dev/full", &file).expect("a link can be made");
    for make in [&fifo as &dyn Fn(), &link] {
        make();
        let words = ["--output-dir", path, "-C", "touch /tmp/has-run"];
        on_shared(&words)
            .run()
            .code(2)
            .says(&format!("[FATAL] can't write '{path}/web2.stdout'\n"))
            .says("it is there already and no regular file (links are not followed)");
        assert!(!HOSTS[0].has_file("/tmp/has-run"));
        fs::remove_file(&file).expect("it is there");
    }
}

// ---- the status bar

/// A high terminal of so many columns after all of this.
fn terminal(written: &str, columns: u16) -> vt100::Parser {
    let size = |size| NonZero::new(size).expect("more than nothing");
    let mut terminal = vt100::Parser::new(size(500), size(columns), 0);
    terminal.process(written.as_bytes());
    terminal
}

/// What a terminal of so many columns shows after all of this.
fn shown(written: &str, columns: u16) -> Vec<String> {
    let terminal = terminal(written, columns);
    let contents = terminal.screen().contents();
    contents
        .lines()
        .map(|line| line.trim_end().to_owned())
        .collect()
}

/// What was written between the first bar and the removal of the last one: the lines of
/// each frame, and the bar below them.
fn frames(written: &str) -> impl Iterator<Item = (&str, &str)> {
    let end = written.rfind("\r\x1b[J").unwrap_or_default();
    let frames = written[..end].split("\r\x1b[J");
    frames.map(|frame| frame.split_at(frame.rfind('\n').map_or(0, |at| at + 1)))
}

/// Writes lines for a second or so.
const TALK: &str = "for i in $(seq 1 40); do echo line $i; sleep 0.025; done";

#[test]
fn the_bar_leaves_all_lines_whole_and_is_gone_at_the_end() {
    for (columns, option) in [(80, "-C"), (20, "-C"), (80, "-lC")] {
        let begun = Instant::now();
        let words = ["--color", "never", option, TALK];
        let terminal = on_shared(&words).on_terminal(|_| ());
        terminal.resize(columns);
        terminal.expect("line 20");
        terminal.resize(columns - 1);
        let (status, written) = terminal.finish_with_bar();
        assert!(status.success());
        let mut bars = frames(&written).map(|(_, bar)| bar).collect::<Vec<_>>();
        assert!(bars.len() > 3, "{written:?}");
        // It is drawn with all lines, and seldom changes.
        bars.dedup();
        let most = begun.elapsed().as_secs_f64() * 20.0 + 1.0;
        assert!((bars.len() as f64) < most, "{bars:?}");
        let mut lines = shown(&written, columns);
        assert_eq!(lines.len(), 3 * 40, "{lines:#?}");
        lines.sort();
        let mut expected: Vec<String> = (1..=3)
            .flat_map(|host| (1..=40).map(move |line| format!("web{host} line {line}")))
            .collect();
        expected.sort();
        assert_eq!(lines, expected);
    }
}

#[test]
fn every_frame_has_the_bar_below_its_lines() {
    // Single lines, and as much as the terminal takes.
    let script = format!("sleep 0.3; {TALK}; seq 1 20000");
    for option in ["-C", "-lC"] {
        let words = ["--color", "never", option, &script];
        let (status, written) = on_shared(&words).on_terminal(|_| ()).finish_with_bar();
        assert!(status.success());
        let mut lines = 0;
        for (above, bar) in frames(&written) {
            let is_bar = ["CONNECT ", "LOCK ", "EXEC ", "WAIT "]
                .iter()
                .any(|phase| bar.starts_with(phase));
            assert!(is_bar && bar.ends_with("\r"), "{bar:?} below {above:?}");
            assert!(above.len() < 4096, "{} bytes in a frame", above.len());
            lines += above.matches('\n').count();
        }
        let expected = 3 * (40 + 20_000);
        // With -l, kept output may follow after the end of the run, when there is no bar
        // any more; that of the live host does not.
        let least = if option == "-C" {
            expected * 9 / 10
        } else {
            40
        };
        assert!(lines >= least, "{lines} of {expected} lines");
        assert_eq!(without_bar(&written).lines().count(), expected);
    }
}

#[test]
fn the_bar_is_not_drawn_into_a_long_line() {
    let script = "sleep 0.4; [ $(hostname) != web1 ] || \
                  { head -c 300000 /dev/zero | tr '\\0' x; sleep 0.2; echo; }; sleep 0.4";
    for option in ["-C", "-lC"] {
        let terminal = on_shared(&["--color", "never", option, script]).on_terminal(|_| ());
        let (status, written) = terminal.finish_with_bar();
        assert!(status.success());
        let line = format!("web1 {}\r\n", "x".repeat(300_000));
        let (before, after) = written.split_once(&line).expect("the line is whole");
        assert!(
            before.contains("WAIT") && after.contains("WAIT"),
            "{after:?}"
        );
    }
}

#[test]
fn the_bar_says_what_is_done_and_what_has_failed() {
    let hosts = Hosts::start(3);
    let script = "[ $(hostname) = web1 ] && exit 3; mkfifo /tmp/wait; read go </tmp/wait";
    let words = ["--color", "never", "-C", script];
    let terminal = on(&hosts, &words).on_terminal(|_| ());
    terminal.expect(" 1/3  1 failed  0:0");
    for host in hosts.iter().skip(1) {
        host.run_ok("until [ -p /tmp/wait ]; do sleep 0.05; done; echo go >/tmp/wait");
    }
    let (status, written) = terminal.finish_with_bar();
    assert_eq!(status.code(), Some(1));
    assert!(written.contains("WAIT ━"), "{written:?}");
    let lines = shown(&written, 80);
    assert!(
        lines[0].contains("[FATAL] remote execution failed"),
        "{lines:?}"
    );
    assert_eq!(lines.len(), 3, "{lines:?}");

    let words = [
        "--bar-format",
        "<{phase:blue}|{done} of {total}>",
        "-C",
        "sleep 1",
    ];
    let (_, written) = on(&hosts, &words).on_terminal(|_| ()).finish_with_bar();
    assert!(
        written.contains("<\x1b[34mWAIT\x1b[0m|0 of 3>"),
        "{written:?}"
    );
}

#[test]
fn the_bar_is_gone_after_one_ctrl_c_and_after_two() {
    let hosts = Hosts::start(1);
    let stubborn = "trap '' TERM; echo up; while :; do sleep 0.1; done";
    for (script, times) in [("echo up; sleep 600", 1), (stubborn, 2)] {
        let words = ["--color", "never", "-C", script];
        let mut terminal = on(&hosts, &words).on_terminal(|_| ());
        terminal.expect("web1 up");
        terminal.expect("WAIT");
        terminal.type_in("\x03");
        if times == 2 {
            terminal.expect("SIGINT received");
            terminal.type_in("\x03");
        }
        let (status, written) = terminal.finish_with_bar();
        assert_eq!(status.signal(), Some(2));
        let lines = shown(&written, 80);
        assert_eq!(lines[0], "web1 up");
        for line in &lines {
            let is_bar = line.contains("WAIT") || line.contains("┄");
            assert!(!is_bar && !line.contains("^C"), "{lines:#?}");
        }
        assert!(lines[1].contains("[WARN] SIGINT received"), "{lines:#?}");
        // The cursor is left at the beginning of a line, for the shell.
        let terminal = self::terminal(&written, 80);
        assert_eq!(terminal.screen().cursor_position().1 % 80, 0, "{written:?}");
    }
}

#[test]
fn there_is_no_bar_where_it_is_not_wanted_or_cannot_be_seen() {
    let sleep = "echo up; sleep 0.5";
    let has_bar = |written: &str| written.contains("WAIT") || written.contains("LOCK");
    for words in [
        &["-q", "-C", sleep][..],
        &["--json", "-C", sleep],
        &["-o", "web1", "--exclude", "web[2-3]", "--tty", "-C", sleep],
    ] {
        let (_, written) = on_shared(words).on_terminal(|_| ()).finish_with_bar();
        assert!(!has_bar(&written), "{words:?}: {written:?}");
    }
    let dumb = on_shared(&["-C", sleep]).on_terminal(|command| {
        command.env("TERM", "dumb");
    });
    let (_, written) = dumb.finish_with_bar();
    assert!(
        !written.contains('\x1b') && !has_bar(&written),
        "{written:?}"
    );

    // What is typed goes to the hosts.
    let mut typed = on_shared(&["-i", "-", "-C", "cat"]).on_terminal(|_| ());
    typed.type_in("hello\n");
    typed.expect("web3\x1b[0m hello");
    typed.type_in("\x04");
    let (_, written) = typed.finish_with_bar();
    assert!(!has_bar(&written), "{written:?}");

    // Stdout elsewhere: the bar is on the terminal, and nowhere else.
    let file = HOSTS.dir().join("output");
    let script = format!("{TALK}; sleep 1");
    let terminal = on_shared(&["-C", &script]).on_terminal(|command| {
        command.stdout(fs::File::create(&file).expect("a file can be made"));
    });
    let (_, written) = terminal.finish_with_bar();
    // It has not gone with the first line.
    assert!(written.contains(" 0/3  0:01"), "{written:?}");
    assert_eq!(without_bar(&written), "");
    let output = fs::read_to_string(file).expect("UTF-8");
    assert_eq!(output.lines().count(), 3 * 40);
    assert!(!output.contains('\x1b'), "{output:?}");

    // Stderr elsewhere: there is none.
    let (mut reader, writer) = pipe().expect("a pipe");
    let terminal = on_shared(&["-C", sleep]).on_terminal(|command| {
        command.stderr(writer);
    });
    let mut errors = String::new();
    reader.read_to_string(&mut errors).expect("UTF-8");
    let (_, written) = terminal.finish_with_bar();
    assert_eq!(errors, "");
    assert!(!has_bar(&written), "{written:?}");
}

#[test]
fn a_pipe_that_ends_on_the_terminal_has_it_for_itself() {
    let script = "sleep 0.5; for i in 1 2 3; do echo line $i; sleep 0.3; done";
    for option in ["-C", "-lC", "--fold"] {
        let words = match option {
            "--fold" => vec!["--color", "never", "--fold", "-C", script],
            _ => vec!["--color", "never", option, script],
        };
        let piped = in_shell("\"$0\" \"$@\" | cat", &words);
        let (status, written) = piped.on_terminal(|_| ()).finish_with_bar();
        assert!(status.success());
        let (before, after) = written.split_once("line 1").expect("lines are shown");
        assert!(before.contains("WAIT"), "{written:?}");
        assert!(!after.contains("WAIT"), "{written:?}");
        let lines = shown(&written, 80);
        let is_bar = |line: &String| line.contains('┄') || line.contains("WAIT");
        assert!(!lines.iter().any(is_bar), "{lines:#?}");
        assert_eq!(lines.len(), if option == "--fold" { 4 } else { 9 });
    }
}

#[test]
fn a_job_in_the_background_draws_no_bar() {
    let words = ["--color", "never", "-C", "sleep 1.5; echo done"];
    let job = in_shell("set -m; \"$0\" \"$@\" & wait", &words);
    let (status, written) = job.on_terminal(|_| ()).finish_with_bar();
    assert!(status.success());
    assert!(written.contains("web3 done"), "{written:?}");
    assert!(
        !written.contains("WAIT") && !written.contains('\x1b'),
        "{written:?}"
    );
}

#[test]
fn a_job_that_is_stopped_takes_its_bar_away_and_draws_it_again() {
    let words = [
        "--color",
        "never",
        "-C",
        "until [ -e /tmp/go-on ]; do sleep 0.1; done",
    ];
    let script = "set -m; \"$0\" \"$@\"; echo stopped; read line; fg; echo over";
    let mut terminal = in_shell(script, &words).on_terminal(|_| ());
    terminal.expect("WAIT");
    terminal.type_in("\x1a");
    terminal.expect("stopped");
    let is_bar = |line: &String| line.contains("WAIT") || line.contains('┄');
    let before = terminal.screen();
    let lines = shown(&before, 80);
    assert!(!lines.iter().any(is_bar), "{lines:#?}");
    terminal.type_in("\n");
    wait_until("the bar to be drawn again", LIMIT, || {
        terminal.screen()[before.len()..].contains("WAIT")
    });
    for host in HOSTS.iter() {
        host.run_ok("touch /tmp/go-on");
    }
    terminal.expect("over");
    let (status, written) = terminal.finish_with_bar();
    assert!(status.success());
    let lines = shown(&written, 80);
    assert!(!lines.iter().any(is_bar), "{lines:#?}");
}

// ---- looks

#[test]
fn log_lines_and_colours_are_as_the_user_wants_them() {
    let finished = on_shared(&["--log-format", "{level}: {text}", "-C", "exit 3"])
        .run()
        .code(1);
    assert_eq!(
        finished.stderr(),
        "[FATAL]: remote execution failed\n         \
         └─ commands are failed on all 3 nodes\n            \
         └─ exited with non-zero code 3 (3 nodes): web[1-3]\n"
    );
    let colored = |option: &str| {
        let words = ["--color", "always", option, "-C", "echo a"];
        on_shared(&words).run().ok().sorted()
    };
    let dark = [
        "\x1b[38;5;120mweb2\x1b[0m a",
        "\x1b[38;5;213mweb3\x1b[0m a",
        "\x1b[38;5;87mweb1\x1b[0m a",
    ];
    assert_eq!(colored("--colors-dark"), dark);
    let light = [
        "\x1b[38;5;28mweb2\x1b[0m a",
        "\x1b[38;5;30mweb1\x1b[0m a",
        "\x1b[38;5;90mweb3\x1b[0m a",
    ];
    assert_eq!(colored("--colors-light"), light);
}

#[test]
fn a_verbose_run_says_what_is_needed_to_find_out_why_a_host_does_not_connect() {
    let run = |options: &[&str]| {
        let words = [options, &["-C", "true"]].concat();
        on_shared(&words).run().stderr()
    };
    let said = run(&["-v"]);
    for part in [
        "[DEBUG] [root@web1:22] connecting to 10.",
        "[DEBUG] [root@web1:22] connected after 0.",
        "[DEBUG] [root@web1:22] server SSH-2.0-OpenSSH_",
        "; curve25519-sha256, ssh-ed25519, chacha20-poly1305@openssh.com, ",
        "; keys exchanged after ",
        "[DEBUG] [root@web1:22] host key ssh-ed25519 SHA256:",
        "/known_hosts:1\n",
        "[DEBUG] [root@web1:22] server offers publickey,",
        "[DEBUG] [root@web1:22] key /",
        "): accepted\n",
        "[DEBUG] [root@web1:22] logged in after ",
        "[DEBUG] [root@web1:22] connection established\n",
        "[DEBUG] [root@web1:22] ended after ",
    ] {
        assert!(said.contains(part), "{part:?} in\n{said}");
    }
    assert!(!said.contains("[TRACE]"), "{said}");
    let said = run(&["-vv", "-o", "nobody@web1", "-o", "web2:1"]);
    for part in [
        "[TRACE] [root@web1:22] we offer as key exchange: curve25519-sha256,",
        "): not accepted\n",
        "[DEBUG] [nobody@web1:22] ended: not authenticated: permission denied",
        "[DEBUG] [root@web2:1] no connection to 10.",
        "s: connection refused\n",
    ] {
        assert!(said.contains(part), "{part:?} in\n{said}");
    }
}

#[test]
fn each_node_is_said_to_be_connected_and_then_to_be_locked() {
    let hosts = Hosts::start(2);
    let said = on(&hosts, &["-vv", "-C", "true"]).run().stderr();
    for node in ["[root@web1:22]", "[root@web2:22]"] {
        let steps = [
            format!(" [DEBUG] {node} connection established\n"),
            format!(" [TRACE] {node} running lock command\n"),
            format!(" [TRACE] {node} is locked\n"),
        ];
        let places = steps.each_ref().map(|step| said.find(step));
        assert!(places.iter().all(Option::is_some), "{steps:?} in\n{said}");
        assert!(places.is_sorted(), "{steps:?} in\n{said}");
    }
    let said = on(&hosts, &["-v", "-C", "true"]).run().stderr();
    assert!(!said.contains("running lock command"), "{said}");
}

#[test]
fn the_question_about_host_keys_has_the_terminal_for_itself() {
    let hosts = Hosts::start(2);
    crate::support::furnish_home(&hosts);
    fs::write(hosts.home().join("unknown"), "").expect("the home can be written");
    // One of them answers late, so that there is a bar before the question.
    let slow = hosts.host("web2");
    slow.freeze_listener();
    let words = ["--known-hosts", "unknown", "-C", "sleep 0.5"];
    let mut terminal = on(&hosts, &words).on_terminal(|_| ());
    terminal.expect("CONNECT");
    slow.thaw();
    terminal.expect("(yes/no) ");
    let asked = terminal.screen();
    assert!(asked.ends_with("(yes/no) "), "{asked:?}");
    let lines = shown(&asked, 80);
    assert!(
        lines[0].contains("host keys of these 2 nodes"),
        "{lines:#?}"
    );
    terminal.type_in("yes\n");
    terminal.expect("WAIT");
    let (status, written) = terminal.finish_with_bar();
    assert!(status.success());
    let lines = shown(&written, 80);
    assert!(
        lines.iter().all(|line| !line.contains("WAIT")),
        "{lines:#?}"
    );
}
