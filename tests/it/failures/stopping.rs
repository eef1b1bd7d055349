//! Runs that are stopped: by signals, and by whoever reads their output.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::{Fake, Hosts, fake};
use crate::hosts::wait_until;
use crate::support::said::untimed;
use crate::support::{
    Finished, LIMIT, Orgalorg, Running, arguments, each, orgalorg, program, signal,
};

const SIGHUP: i32 = 1;
const SIGINT: i32 = 2;
const SIGPIPE: i32 = 13;
const SIGTERM: i32 = 15;

/// What S12 allows for the end.
const LATEST: Duration = Duration::from_secs(5);

/// How long it takes where nothing runs that would have to be ended first, on a
/// machine that is busy.
const SOON: Duration = Duration::from_millis(2500);

/// The same for a run that has started nothing yet.
#[track_caller]
fn end_soon_by(run: Running, name: &str, number: i32) -> Finished {
    let sent = Instant::now();
    let finished = end_by(run, name, number);
    assert!(sent.elapsed() < SOON, "{:?}", sent.elapsed());
    finished
}

/// Signals a run, and checks that it ends by that in time.
#[track_caller]
fn end_by(run: Running, name: &str, number: i32) -> Finished {
    let sent = Instant::now();
    run.signal(name);
    let finished = run.finish().killed_by(number);
    assert!(sent.elapsed() < LATEST, "{:?}", sent.elapsed());
    finished
}

#[test]
fn a_signal_ends_a_run_and_then_the_process() {
    let hosts = Hosts::start(2);
    let command = "echo begun; [ $(hostname) = web1 ] && sleep 60; exit 4";
    for (name, number) in [("INT", SIGINT), ("TERM", SIGTERM), ("HUP", SIGHUP)] {
        let run = orgalorg(&hosts, arguments(&each(["web1", "web2"]), &["-v"], command)).spawn();
        run.wait_for_stdout("begun", 2);
        run.wait_for_stderr("[root@web2:22] ended");
        let finished = end_by(run, name, number);
        assert_eq!(finished.sorted(), ["web1 begun", "web2 begun"]);
        let said = untimed(&finished.stderr());
        let expected = format!(
            " [WARN] SIG{name} received, ending the run (once more: at once)
[DEBUG] [root@web1:22] ended after "
        );
        assert!(said.contains(&expected), "{said}");
        let expected = "[FATAL] remote execution failed
        └─ commands are failed on 1 out of 2 nodes
           ├─ exited with non-zero code 4 (1 node): web2
           └─ not finished (1 node): web1
";
        assert!(said.ends_with(expected), "{said}");
    }
}

#[test]
fn a_signal_ends_a_run_that_is_still_connecting() {
    let hosts = Hosts::start(1);
    let silent = fake(&hosts, Fake::Silent);
    let endless = fake(&hosts, Fake::Repeats("chatter\n"));
    let targets = each(["web1", &silent, &endless]);
    let run = orgalorg(&hosts, arguments(&targets, &["-c", "5m"], "hostname")).spawn();
    run.wait_for_stderr("still connecting");
    let finished = end_soon_by(run, "INT", SIGINT);
    assert_eq!(finished.stdout(), "");
    let said = untimed(&finished.stderr());
    let expected = "[FATAL] remote execution failed
        └─ the run was stopped before all commands had ended
           └─ not finished (3 nodes): web1,";
    assert!(said.contains(expected), "{said}");
}

/// The program with a host table that can be opened, and never read.
fn with_endless_look_up(hosts: &Hosts, targets: &[String]) -> Orgalorg {
    let table = hosts.dir().join("endless");
    if !table.exists() {
        let made = std::process::Command::new("mkfifo").arg(&table).status();
        assert!(made.expect("there is mkfifo").success());
    }
    let script = format!(
        "mount --bind '{}' /etc/hosts && exec \"$@\"",
        table.display()
    );
    let program = program().to_str().expect("the path is UTF-8");
    let words = ["--mount", "sh", "-c", &script, "sh", program];
    let words = words.into_iter().map(str::to_owned);
    let words: Vec<String> = words.chain(arguments(targets, &[], "hostname")).collect();
    orgalorg(hosts, words).with(|command| {
        let mut unshare = hosts.client("unshare");
        unshare.args(command.get_args()).current_dir(hosts.home());
        *command = unshare;
    })
}

#[test]
fn a_name_that_is_being_looked_up_does_not_hold_up_the_end() {
    let hosts = Hosts::start(1);
    let run = with_endless_look_up(&hosts, &each(["web1"])).spawn();
    run.wait_for_stderr("still connecting to address after 2s: [root@web1:22]");
    end_soon_by(run, "TERM", SIGTERM).says("not finished (1 node): web1");
}

#[test]
fn an_agent_that_does_not_answer_does_not_hold_up_the_end() {
    let hosts = Hosts::start(1);
    let socket = hosts.home().join("agent");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
    let run = orgalorg(&hosts, arguments(&each(["web1"]), &[], "hostname"))
        .with(|command| {
            command.env("SSH_AUTH_SOCK", &socket);
        })
        .spawn();
    let pid = run.child.id();
    wait_until("the signals to be caught", LIMIT, || catches(pid, SIGINT));
    end_soon_by(run, "INT", SIGINT);
}

/// Whether a process has a handler for a signal.
fn catches(pid: u32, signal: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigCgt:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

/// Starts a run whose stdout is a pipe that the test reads when it wants to.
fn unread(hosts: &Hosts, options: &[&str], command: &str) -> Child {
    orgalorg(hosts, arguments(&each(["web1"]), options, command))
        .into_command()
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program can be started")
}

#[test]
fn a_run_whose_output_nobody_reads_ends_all_the_same() {
    let hosts = Hosts::start(1);
    let command = "touch /tmp/begun; yes";
    let mut child = unread(&hosts, &[], command);
    wait_for_full_pipe(&child);
    let sent = Instant::now();
    signal(child.id(), "TERM");
    // Not even now; stderr is read by another thread in most programs, too.
    let mut said = String::new();
    let mut stderr = child.stderr.take().expect("it is piped");
    stderr.read_to_string(&mut said).expect("it is UTF-8");
    let status = child.wait().expect("it can be waited for");
    assert!(sent.elapsed() < LATEST, "{:?}", sent.elapsed());
    assert_eq!(status.signal(), Some(SIGTERM), "{said}");
    assert_eq!(
        untimed(&said),
        " [WARN] SIGTERM received, ending the run (once more: at once)
[FATAL] remote execution failed
        └─ the run was stopped before all commands had ended
           └─ not finished (1 node): web1
 [WARN] the end of the output was not read in time, and is lost
"
    );
}

/// Waits until nothing more fits into the stdout of a run that nobody reads.
fn wait_for_full_pipe(child: &Child) {
    let printer = wait_for_thread(child.id(), "printer");
    wait_until("stdout to be full", LIMIT, || {
        let place = fs::read_to_string(format!("{printer}/wchan")).unwrap_or_default();
        place.contains("pipe")
    });
}

/// The directory in /proc of a thread.
fn wait_for_thread(pid: u32, name: &str) -> String {
    let mut found = None;
    wait_until(&format!("the {name} thread"), LIMIT, || {
        let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter();
        found = threads
            .flatten()
            .flatten()
            .map(|thread| thread.path().display().to_string())
            .find(|path| {
                fs::read_to_string(format!("{path}/comm")).is_ok_and(|comm| comm.trim() == name)
            });
        found.is_some()
    });
    found.unwrap_or_default()
}

/// The processor time that a process has used, in clock ticks of 10 ms.
fn ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let fields: Vec<&str> = fields.split_whitespace().collect();
    [11, 12]
        .iter()
        .filter_map(|&index| fields.get(index)?.parse::<u64>().ok())
        .sum()
}

#[test]
fn waiting_for_a_reader_takes_no_processor_time_and_loses_nothing() {
    let hosts = Hosts::start(1);
    // More than the pipe, the credit and a part of the window hold; the second
    // goes on when it has said that.
    let lines = 40_000;
    for (command, options) in [
        (format!("seq 1 {lines}"), vec!["--timeout", "2s"]),
        (
            format!("seq 1 {lines}; until [ -e /tmp/go ]; do sleep 0.1; done"),
            vec![],
        ),
        (
            format!("seq 1 {lines}; exec >&- 2>&-; until [ -e /tmp/go ]; do sleep 0.1; done"),
            vec![],
        ),
    ] {
        // Many keep-alives, for they must be read as well.
        let options = [options.as_slice(), &["-z", "2s"]].concat();
        let child = unread(&hosts, &options, &command);
        wait_for_full_pipe(&child);
        // Everything that comes has come then.
        thread::sleep(Duration::from_millis(500));
        let before = ticks(child.id());
        thread::sleep(Duration::from_secs(5));
        let used = ticks(child.id()) - before;
        assert!(used < 30, "{used} ticks of 500 for `{command}`");
        hosts[0].write_file("/tmp/go", "", 0o644);
        let output = child.wait_with_output().expect("its output can be read");
        let stdout = String::from_utf8_lossy(&output.stdout);
        let expected: String = (1..=lines).map(|i| format!("web1 {i}\n")).collect();
        assert!(
            stdout == expected,
            "`{command}`: {} lines",
            stdout.lines().count()
        );
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "`{command}`");
        assert!(output.status.success());
        hosts[0].run_ok("rm /tmp/go");
    }
}

#[test]
fn signals_that_were_ignored_at_the_start_stay_so() {
    let hosts = Hosts::start(1);
    let command = "echo begun; until [ -e /tmp/go ]; do sleep 0.1; done; echo end";
    let script = "trap '' INT HUP; exec \"$@\"";
    let program = program().to_str().expect("the path is UTF-8");
    let words = ["-c", script, "sh", program].map(str::to_owned);
    let words = words
        .into_iter()
        .chain(arguments(&each(["web1"]), &[], command));
    let run = orgalorg(&hosts, words)
        .with(|command| {
            let mut shell = hosts.client("sh");
            shell.args(command.get_args()).current_dir(hosts.home());
            *command = shell;
        })
        .spawn();
    run.wait_for_stdout("begun", 1);
    run.signal("INT");
    run.signal("HUP");
    hosts[0].write_file("/tmp/go", "", 0o644);
    run.wait_for_stdout("end", 1);
    let finished = run.finish().ok();
    assert_eq!(finished.stdout(), "web1 begun\nweb1 end\n");
}

#[test]
fn ctrl_c_on_a_terminal_ends_a_run() {
    let hosts = Hosts::start(1);
    let mut terminal = orgalorg(
        &hosts,
        arguments(
            &each(["web1"]),
            &["--color", "never"],
            "echo begun; sleep 60",
        ),
    )
    .on_terminal(|_| ());
    terminal.expect("web1 begun");
    terminal.type_in("\x03");
    let (status, screen) = terminal.finish();
    assert_eq!(status.signal(), Some(SIGINT), "{screen}");
    assert!(screen.contains("SIGINT received"), "{screen}");
    assert!(screen.contains("not finished (1 node): web1"), "{screen}");
}

#[test]
fn a_run_ends_quietly_when_nobody_wants_its_output_any_more() {
    let hosts = Hosts::start(1);
    let mut child = unread(&hosts, &[], "yes");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("it is piped"))
        .read_line(&mut line)
        .expect("there is a line");
    // The reader is gone now, as `head -1` is.
    assert_eq!(line, "web1 y\n");
    let output = child.wait_with_output().expect("it can be waited for");
    assert_eq!(output.status.signal(), Some(SIGPIPE));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}
