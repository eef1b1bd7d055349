//! What the integration tests share: running the real program on test hosts
//! (`hosts`), and reading what came of it.
//!
//! No test waits for a time to pass; every wait has a limit, at which the program
//! is ended and what it said so far is shown.

pub(crate) mod pty;
pub(crate) mod said;

use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

use crate::hosts::{Host, Hosts, holds_within, wait_until};

/// Longer than anything here takes on a machine that is busy.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// The program, about to be run where the hosts can be reached.
pub(crate) struct Orgalorg {
    command: Command,
    stdin: Option<Vec<u8>>,
    source: Option<Stdio>,
    limit: Duration,
}

/// The program with these arguments, in a home with a key and a known_hosts file
/// that fit the hosts.
pub(crate) fn orgalorg<A: AsRef<OsStr>>(
    hosts: &Hosts,
    arguments: impl IntoIterator<Item = A>,
) -> Orgalorg {
    furnish_home(hosts);
    orgalorg_in_empty_home(hosts, arguments)
}

/// The same, with nothing in its home but what the test has put there.
pub(crate) fn orgalorg_in_empty_home<A: AsRef<OsStr>>(
    hosts: &Hosts,
    arguments: impl IntoIterator<Item = A>,
) -> Orgalorg {
    let mut command = hosts.client(program());
    command.args(arguments);
    Orgalorg::new(hosts, command)
}

/// The program as a shell starts it: in this script it is `"$0" "$@"`.
pub(crate) fn in_shell<A: AsRef<OsStr>>(
    hosts: &Hosts,
    script: &str,
    arguments: impl IntoIterator<Item = A>,
) -> Orgalorg {
    furnish_home(hosts);
    let mut command = hosts.client("bash");
    command.args(["-c", script]).arg(program()).args(arguments);
    Orgalorg::new(hosts, command)
}

/// The program as root, but as one whom file permissions stop.
pub(crate) fn orgalorg_that_may_not_read_everything<A: AsRef<OsStr>>(
    hosts: &Hosts,
    arguments: impl IntoIterator<Item = A>,
) -> Orgalorg {
    furnish_home(hosts);
    let mut command = hosts.client("setpriv");
    command
        .arg("--bounding-set=-dac_override,-dac_read_search")
        .arg(program())
        .args(arguments);
    Orgalorg::new(hosts, command)
}

/// The same for hosts that several tests use at once, which therefore cannot lock
/// them.
pub(crate) fn without_lock<A: AsRef<OsStr>>(
    hosts: &Hosts,
    arguments: impl IntoIterator<Item = A>,
) -> Orgalorg {
    let arguments = arguments
        .into_iter()
        .map(|argument| argument.as_ref().to_owned());
    let first = std::iter::once(std::ffi::OsString::from("-y"));
    orgalorg_in_empty_home(hosts, first.chain(arguments))
}

/// The program itself.
pub(crate) fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_orgalorg"))
}

/// Puts key and known_hosts where the program looks for them.
pub(crate) fn furnish_home(hosts: &Hosts) {
    let ssh = hosts.home().join(".ssh");
    for (from, name) in [
        (hosts.key(), "id_ed25519"),
        (hosts.known_hosts(), "known_hosts"),
    ] {
        let to = ssh.join(name);
        if !to.exists() {
            // Several tests may do this at once: no program may see half a file.
            let part = ssh.join(format!(".{name}-{:?}", thread::current().id()));
            fs::copy(from, &part).expect("the client's home can be written");
            fs::rename(part, to).expect("the client's home can be written");
        }
    }
}

/// `-o name` for each host.
pub(crate) fn targets(hosts: &Hosts) -> Vec<String> {
    each(hosts.names())
}

/// `-o target` for each.
pub(crate) fn each<'a>(targets: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let targets = targets.into_iter();
    targets
        .flat_map(|target| ["-o".to_owned(), target.to_owned()])
        .collect()
}

/// Arguments for all hosts: `-o name` for each, and these.
pub(crate) fn on_all(hosts: &Hosts, arguments: &[&str]) -> Vec<String> {
    let own = arguments.iter().map(|&argument| argument.to_owned());
    targets(hosts).into_iter().chain(own).collect()
}

/// All arguments of a run of a command.
pub(crate) fn arguments(targets: &[String], options: &[&str], command: &str) -> Vec<String> {
    let mut all = targets.to_vec();
    all.extend(options.iter().map(|&option| option.to_owned()));
    all.extend(["-C".to_owned(), command.to_owned()]);
    all
}

/// The address of a host as a target: `ops@web1`.
pub(crate) fn login(user: &str, host: &Host) -> String {
    format!("{user}@{}", host.name())
}

impl Orgalorg {
    fn new(hosts: &Hosts, mut command: Command) -> Self {
        command.current_dir(hosts.home());
        Self {
            command,
            stdin: None,
            source: None,
            limit: LIMIT,
        }
    }

    /// What it reads from its stdin (nothing by default).
    pub(crate) fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(bytes.into());
        self
    }

    /// What its stdin is, for what is not just bytes from a pipe.
    pub(crate) fn stdin_from(mut self, source: impl Into<Stdio>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Changes something else about it.
    pub(crate) fn with(mut self, change: impl FnOnce(&mut Command)) -> Self {
        change(&mut self.command);
        self
    }

    /// How long it may take.
    pub(crate) fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Runs it to its end.
    pub(crate) fn run(self) -> Finished {
        let limit = self.limit;
        self.spawn().finish_within(limit)
    }

    /// Starts it; stdout and stderr are collected. It has no terminal to ask on,
    /// wherever the tests were started from.
    #[expect(unsafe_code, reason = "the terminal is left between fork and exec")]
    pub(crate) fn spawn(mut self) -> Running {
        // SAFETY: a system call only.
        unsafe {
            self.command
                .pre_exec(|| Ok(rustix::process::setsid().map(drop)?))
        };
        self.command.stdout(Stdio::piped()).stderr(Stdio::piped());
        self.command.stdin(match (self.source.take(), &self.stdin) {
            (Some(source), _) => source,
            (None, Some(_)) => Stdio::piped(),
            (None, None) => Stdio::null(),
        });
        let started = Instant::now();
        let mut child = self.command.spawn().expect("the program can be started");
        // It may hold one end of a pipe whose other end the test watches.
        drop(self.command);
        if let (Some(bytes), Some(mut stdin)) = (self.stdin.take(), child.stdin.take()) {
            thread::spawn(move || {
                // A program that does not read all of it is no error.
                let _ = stdin.write_all(&bytes);
            });
        }
        Running {
            stdout: Collector::start(child.stdout.take()),
            stderr: Collector::start(child.stderr.take()),
            child,
            started,
        }
    }

    /// The command itself, for a test that connects its descriptors by itself.
    pub(crate) fn into_command(self) -> Command {
        self.command
    }
}

/// The program while it runs. Ends it when it is dropped.
pub(crate) struct Running {
    pub(crate) child: Child,
    stdout: Collector,
    stderr: Collector,
    started: Instant,
}

impl Running {
    /// What it has written to stdout so far.
    pub(crate) fn stdout(&self) -> String {
        self.stdout.so_far()
    }

    /// What it has written to stderr so far.
    pub(crate) fn stderr(&self) -> String {
        self.stderr.so_far()
    }

    /// Sends it a signal by its name: INT, TERM, HUP, STOP, CONT, KILL.
    pub(crate) fn signal(&self, name: &str) {
        signal(self.child.id(), name);
    }

    /// Whether it has ended. It can be waited for all the same.
    pub(crate) fn has_ended(&self) -> bool {
        has_ended(&self.child)
    }

    /// Waits until it has written a text to stdout so many times.
    #[track_caller]
    pub(crate) fn wait_for_stdout(&self, text: &str, times: usize) {
        self.wait_until(&format!("{times} × {text:?} on stdout"), || {
            self.stdout().matches(text).count() >= times
        });
    }

    /// Waits until it has written so many lines to stdout.
    #[track_caller]
    pub(crate) fn wait_for_lines(&self, count: usize) {
        self.wait_until(&format!("{count} lines on stdout"), || {
            self.stdout().lines().count() >= count
        });
    }

    /// Waits until it has written a text to stderr.
    #[track_caller]
    pub(crate) fn wait_for_stderr(&self, text: &str) {
        self.wait_until(&format!("{text:?} on stderr"), || {
            self.stderr().contains(text)
        });
    }

    /// Waits for a condition on what it writes, but not once it has ended. If that is in
    /// vain, all that it has written is shown.
    #[track_caller]
    fn wait_until(&self, what: &str, condition: impl Fn() -> bool) {
        let mut holds = false;
        holds_within(LIMIT, || {
            let is_over =
                self.has_ended() && self.stdout.is_complete() && self.stderr.is_complete();
            holds = condition();
            holds || is_over
        });
        assert!(
            holds,
            "waited in vain for {what}\nended: {}\nstdout: {}\nstderr: {}",
            self.has_ended(),
            self.stdout(),
            self.stderr()
        );
    }

    /// Waits until it has ended.
    pub(crate) fn finish(self) -> Finished {
        self.finish_within(LIMIT)
    }

    /// Waits until it has ended, no longer than this.
    pub(crate) fn finish_within(mut self, limit: Duration) -> Finished {
        if !holds_within(limit, || self.has_ended()) {
            let _ = self.child.kill();
            panic!(
                "orgalorg did not end within {limit:?}\nstdout: {}\nstderr: {}",
                self.stdout(),
                self.stderr()
            );
        }
        let status = self.child.wait().expect("a child can be waited for");
        let elapsed = self.started.elapsed();
        Finished {
            status,
            stdout: self.stdout.take(),
            stderr: self.stderr.take(),
            elapsed,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether a child has ended. It can be waited for all the same, and its `/proc` is
/// there.
pub(crate) fn has_ended(child: &Child) -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
    let status = waitid(WaitId::Pid(Pid::from_child(child)), options);
    status.expect("a child can be waited for").is_some()
}

/// Waits for the end of a child, which must not take for ever.
#[track_caller]
pub(crate) fn wait_for_end(child: &Child) {
    wait_until("the end of orgalorg", LIMIT, || has_ended(child));
}

/// The most memory that a process has used so far, in KiB. None if it has ended.
pub(crate) fn peak_memory(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// A file in the directory where the program is started.
pub(crate) fn file_in_home(hosts: &Hosts, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let path = hosts.home().join(name);
    fs::create_dir_all(path.parent().expect("it is in the home")).expect("the home is ours");
    fs::write(&path, content).expect("the home can be written");
    path
}

/// Runs a script here, in this directory.
#[track_caller]
pub(crate) fn shell(directory: &Path, script: &str) -> String {
    let output = Command::new("bash")
        .args(["-e", "-c", script])
        .current_dir(directory)
        .output()
        .expect("bash can be run");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {stderr}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The fingerprint of a public key, `SHA256:…`, as ssh-keygen has it.
pub(crate) fn fingerprint(key: &str) -> String {
    let file = tempfile::NamedTempFile::new().expect("there is room for a temporary file");
    fs::write(file.path(), format!("{key}\n")).expect("it can be written");
    let mut keygen = Command::new("ssh-keygen");
    let output = keygen.arg("-lf").arg(file.path()).output();
    let text = String::from_utf8_lossy(&output.expect("ssh-keygen can be run").stdout).into_owned();
    let word = text.split_whitespace().nth(1);
    word.expect("ssh-keygen prints a fingerprint").to_owned()
}

/// Sends a signal to a process that the test has started.
pub(crate) fn signal(pid: u32, name: &str) {
    let status = Command::new("kill")
        .args([&format!("-{name}"), &pid.to_string()])
        .status();
    assert!(
        status.expect("kill(1) exists").success(),
        "kill -{name} {pid}"
    );
}

/// Reads a pipe in the background.
struct Collector {
    bytes: std::sync::Arc<std::sync::Mutex<Vec<u8>>>,
    thread: Option<JoinHandle<()>>,
}

impl Collector {
    fn start(source: Option<impl Read + Send + 'static>) -> Self {
        let bytes = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let sink = std::sync::Arc::clone(&bytes);
        let thread = source.map(|mut source| {
            thread::spawn(move || {
                let mut buffer = [0; 65536];
                while let Ok(read @ 1..) = source.read(&mut buffer) {
                    sink.lock().unwrap().extend_from_slice(&buffer[..read]);
                }
            })
        });
        Self { bytes, thread }
    }

    fn so_far(&self) -> String {
        String::from_utf8_lossy(&self.bytes.lock().unwrap()).into_owned()
    }

    /// Whether the other end was closed, and all of it was read.
    fn is_complete(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    fn take(&mut self) -> Vec<u8> {
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the reader does not panic");
        }
        std::mem::take(&mut self.bytes.lock().unwrap())
    }
}

/// What came of a run.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    pub(crate) elapsed: Duration,
}

impl Finished {
    pub(crate) fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    pub(crate) fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// The lines of stdout, sorted: hosts answer in any order.
    pub(crate) fn sorted(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.stdout().lines().map(str::to_owned).collect();
        lines.sort();
        lines
    }

    /// Checks the exit status, and shows everything if it is another one.
    #[track_caller]
    pub(crate) fn code(self, expected: i32) -> Self {
        assert_eq!(
            self.status.code(),
            Some(expected),
            "{}\nstdout: {}\nstderr: {}",
            self.status,
            self.stdout(),
            self.stderr()
        );
        self
    }

    /// Checks that a signal ended it.
    #[track_caller]
    pub(crate) fn killed_by(self, signal: i32) -> Self {
        assert_eq!(
            self.status.signal(),
            Some(signal),
            "{}\nstdout: {}\nstderr: {}",
            self.status,
            self.stdout(),
            self.stderr()
        );
        self
    }

    /// Checks that all is well: status 0, and nothing on stderr, but that connecting
    /// takes its time, as it may where the machine is busy.
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        let this = self.code(0);
        assert_eq!(said::without_slowness(&this.stderr()), "");
        this
    }

    /// Checks that stderr says this.
    #[track_caller]
    pub(crate) fn says(self, text: &str) -> Self {
        assert!(
            self.stderr().contains(text),
            "stderr does not say {text:?}:\n{}",
            self.stderr()
        );
        self
    }
}
