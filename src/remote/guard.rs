//! The guard: the small script that runs on every host for as long as a run
//! lasts.
//!
//! It holds the cluster lock (flock(1) on a file or directory), answers
//! heartbeats, and ends what was started on the host when the run is stopped or
//! the client has gone. Without a pseudo-terminal a remote command outlives its
//! connection, and sshd passes on no signals for root, so somebody over there
//! has to do it. As long as the guard lives, the lock is never free while a
//! command still runs.
//!
//! This module has its text ([`Arguments`]), the orders that it takes
//! ([`GuardOrder`]) and what it answers ([`GuardAnswer`]). `cluster::guard` talks to it.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use memchr::memchr;

use crate::event::{Identity, LockRefusal};

use super::login::{BEGIN, Login, call_script, without_comments};
use super::quoting::quote;

/// The script without its comments, as it is sent.
///
/// It goes to the guard's stdin, before all orders, so that the process lists of
/// the hosts show a short command line.
pub(crate) static SCRIPT: LazyLock<String> =
    LazyLock::new(|| without_comments(include_str!("guard.sh")));

/// What to lock, and what to do if it is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LockTarget {
    /// A file or a directory; any bytes.
    pub(crate) path: Vec<u8>,
    /// What to create where there is nothing.
    pub(crate) make: Make,
}

/// What to create if there is nothing to lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Make {
    /// Nothing: there is no lock then.
    Nothing,
    /// An empty file.
    File,
    /// A directory.
    Directory,
}

/// What a guard is started with.
#[derive(Debug, Clone)]
pub(crate) struct Arguments {
    /// What to lock; nothing for a guard that only ends commands.
    pub(crate) lock: Option<LockTarget>,
    /// How long it goes on without a heartbeat.
    pub(crate) lease: Duration,
    /// The holder of the lock, as other runs show it.
    pub(crate) holder: String,
}

/// The string for the login shell that starts a guard.
pub(super) fn start(arguments: &Arguments, login: &Login<'_>) -> String {
    let (mode, make, path) = match &arguments.lock {
        None => ("none", Make::Nothing, &b""[..]),
        Some(target) => ("flock", target.make, target.path.as_slice()),
    };
    let make = match make {
        Make::Nothing => "nothing",
        Make::File => "file",
        Make::Directory => "directory",
    };
    // Rounded up: a guard must not give up before the client does.
    let lease = arguments.lease.as_millis().div_ceil(1000).max(1);
    let holder = arguments.holder.replace(char::is_control, "?");
    let words = format!(
        "{mode} {make} {lease} {} {}",
        quote(holder.as_bytes()),
        quote(path)
    );
    call(&words, login)
}

/// The string for a guard that ends the commands of this connection, because the
/// one that watched over them has died.
pub(super) fn sweep(login: &Login<'_>) -> String {
    call("sweep nothing 1 '' ''", login)
}

/// `$$` and `$PPID` are those of the login shell: the process that sshd has started
/// for this channel, and sshd. (sudo may drop `SSH_CONNECTION`.)
fn call(words: &str, login: &Login<'_>) -> String {
    let read = format!("eval \"$(head -c {})\"", SCRIPT.len());
    let arguments = format!("orgalorg-guard $$ $PPID \"$SSH_CONNECTION\" {words}");
    call_script(&read, &arguments, login)
}

/// What the guard is told, a line each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum GuardOrder {
    /// Make a run directory of this id, or, where there is one, another one beside it.
    /// It is removed when the guard goes.
    MakeRunDirectory(Arc<str>),
    /// Leave the run directory alone from now on, and report at the end whether it
    /// still has files.
    KeepRunDirectory,
    /// The client lives.
    Beat(u64),
    /// A command is about to be started on another channel.
    Starting,
    /// It has been started.
    Started,
    /// It has ended by itself.
    Finished,
    /// End the commands, and go on holding the lock.
    Stop,
    /// All is over: free the lock and go.
    Done,
}

impl fmt::Display for GuardOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MakeRunDirectory(id) => writeln!(f, "RUNDIR {id}"),
            Self::KeepRunDirectory => writeln!(f, "KEEP"),
            Self::Beat(number) => writeln!(f, "BEAT {number}"),
            Self::Starting => writeln!(f, "STARTING"),
            Self::Started => writeln!(f, "STARTED"),
            Self::Finished => writeln!(f, "FINISHED"),
            Self::Stop => writeln!(f, "STOP"),
            Self::Done => writeln!(f, "DONE"),
        }
    }
}

/// What the guard says, a line each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum GuardAnswer {
    /// It has the lock on this thing.
    Locked(Identity),
    /// There is no lock.
    Refused(LockRefusal),
    /// Waiting for orders.
    Ready,
    /// The answer to a heartbeat.
    Beat(u64),
    /// What is locked is no longer what has the name.
    Replaced,
    /// The commands have been ended, except for these processes.
    Ended(String),
    /// The run directory is there.
    RunDirectory(String),
    /// There is no run directory, for this reason.
    NoRunDirectory(String),
    /// Something is left in this run directory.
    Left(String),
}

impl GuardAnswer {
    /// Reads a line (without its newline). Nothing, if it is not one of the guard's.
    fn parse(line: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(line).into_owned();
        let (word, rest) = text.split_once(' ').unwrap_or((&text, ""));
        Some(match word {
            "LOCKED" => Self::Locked(Identity(rest.to_owned())),
            "HELD" => {
                let (identity, holder) = rest.split_once(' ').unwrap_or((rest, ""));
                Self::Refused(LockRefusal::Held {
                    identity: Identity(identity.to_owned()),
                    holder: holder.to_owned(),
                })
            }
            "NOFLOCK" => Self::Refused(LockRefusal::NoFlock),
            "NOTARGET" => Self::Refused(LockRefusal::NoTarget(rest.to_owned())),
            "FORBIDDEN" => Self::Refused(LockRefusal::Forbidden(rest.to_owned())),
            "READY" => Self::Ready,
            "REPLACED" => Self::Replaced,
            "RUNDIR" => Self::RunDirectory(rest.to_owned()),
            "NORUNDIR" => Self::NoRunDirectory(rest.to_owned()),
            "LEFT" => Self::Left(rest.to_owned()),
            "ENDED" => Self::Ended(rest.to_owned()),
            "BEAT" => Self::Beat(rest.parse().ok()?),
            _ => return None,
        })
    }
}

/// Bytes of an unfinished line that are kept. A longer line is no answer.
const LONGEST_LINE: usize = 16 * 1024;

/// Bytes that a guard may write between two heartbeats. It answers with a few short
/// lines; a list of processes that could not be ended is the longest of them.
pub(crate) const MOST_SAID: usize = 64 * 1024;

/// Reads a guard's stdout: noise of the login shell, then answers.
#[derive(Debug, Default)]
pub(crate) struct AnswerReader {
    has_begun: bool,
    /// Bytes that the guard has written since it began, or since the last heartbeat.
    said: usize,
    /// An unfinished line, or the beginning of one that is too long.
    line: Vec<u8>,
    /// The last line that is not the guard's.
    noise: Vec<u8>,
}

impl AnswerReader {
    /// Takes output and adds the guard's answers to `answers`.
    pub(crate) fn read(&mut self, bytes: &[u8], answers: &mut VecDeque<GuardAnswer>) {
        let mut rest = bytes;
        while let Some(at) = memchr(b'\n', rest) {
            self.keep(&rest[..at]);
            rest = &rest[at + 1..];
            let line = std::mem::take(&mut self.line);
            if !self.has_begun && line.ends_with(BEGIN.as_bytes()) {
                self.has_begun = true;
                continue;
            }
            self.said += usize::from(self.has_begun);
            match GuardAnswer::parse(&line).filter(|_| self.has_begun) {
                Some(answer) if !self.has_flooded() => answers.push_back(answer),
                Some(_) => {}
                None => self.noise = line,
            }
        }
        self.keep(rest);
    }

    /// Whether the guard has written more than any guard does: another program does it
    /// in its place.
    pub(crate) fn has_flooded(&self) -> bool {
        self.said > MOST_SAID
    }

    /// A heartbeat goes out: the guard may answer at full length again.
    pub(crate) fn expect_answer(&mut self) {
        self.said = 0;
    }

    /// The last line that came from another program, such as the login shell.
    pub(crate) fn noise(&self) -> String {
        String::from_utf8_lossy(&self.noise).into_owned()
    }

    /// Adds to the unfinished line. Of one that is too long the end is kept, because
    /// BEGIN may follow anything.
    fn keep(&mut self, bytes: &[u8]) {
        if self.has_begun {
            self.said = self.said.saturating_add(bytes.len());
        }
        let new = &bytes[bytes.len().saturating_sub(LONGEST_LINE)..];
        let excess = (self.line.len() + new.len()).saturating_sub(LONGEST_LINE);
        self.line.drain(..excess);
        self.line.extend_from_slice(new);
    }
}

/// The name of a run directory: that of this id, or of another one beside it.
pub(crate) fn run_directory_name(path: &str) -> Option<&str> {
    let is_plain = |byte: u8| byte.is_ascii_digit() || byte == b'.' || byte == b'-';
    let (_, name) = path.rsplit_once('/')?;
    let is_name = name.starts_with(|first: char| first.is_ascii_digit());
    (is_name && name.bytes().all(is_plain)).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::remote::sudo::Nonces;
    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    use std::path::{Path, PathBuf};
    use std::process::{Child, Command, Stdio};
    use std::sync::{Mutex, PoisonError};
    use std::thread;
    use std::time::Instant;

    const SHELLS: [&[&str]; 3] = [&["dash"], &["bash"], &["busybox", "sh"]];

    fn read_answer(answers: &mut impl BufRead) -> GuardAnswer {
        loop {
            let mut line = Vec::new();
            answers.read_until(b'\n', &mut line).expect("readable");
            let line = line.strip_suffix(b"\n").unwrap_or(&line);
            if line != BEGIN.as_bytes() {
                return GuardAnswer::parse(line).expect("an answer");
            }
        }
    }

    /// A guard of this machine, under the test process instead of an sshd.
    fn no_target(reason: &str) -> GuardAnswer {
        GuardAnswer::Refused(LockRefusal::NoTarget(reason.to_owned()))
    }

    struct Running {
        child: Child,
        answers: BufReader<std::process::ChildStdout>,
    }

    impl Running {
        fn start(
            shell: &[&str],
            mode: &str,
            make: &str,
            lease: &str,
            path: &std::ffi::OsStr,
        ) -> Self {
            Self::start_as("the holder", shell, [mode, make, lease], path)
        }

        fn start_as(
            who: &str,
            shell: &[&str],
            arguments: [&str; 3],
            path: &std::ffi::OsStr,
        ) -> Self {
            let mut child = Command::new(shell[0])
                .args(&shell[1..])
                .args(["-c", &format!("eval \"$(head -c {})\"", SCRIPT.len())])
                .arg("orgalorg-guard")
                // Nobody's process, and ours: what this test starts is "started by sshd".
                .args(["1", &std::process::id().to_string(), ""])
                .args(arguments)
                .arg(who)
                .arg(path)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .process_group(0)
                .spawn()
                .expect("a shell");
            let stdin = child.stdin.as_mut().expect("piped");
            stdin.write_all(SCRIPT.as_bytes()).expect("it listens");
            let answers = BufReader::new(child.stdout.take().expect("piped"));
            Self { child, answers }
        }

        fn answer(&mut self) -> GuardAnswer {
            read_answer(&mut self.answers)
        }

        fn order(&mut self, order: GuardOrder) {
            let stdin = self.child.stdin.as_mut().expect("piped");
            write!(stdin, "{order}").expect("it listens");
        }

        fn end(mut self) {
            self.order(GuardOrder::Done);
            assert!(self.child.wait().expect("a child").success());
        }
    }

    impl Drop for Running {
        fn drop(&mut self) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }

    #[test]
    fn it_locks_answers_and_goes_under_every_shell() {
        let directory = tempfile::tempdir().expect("tempdir");
        for shell in SHELLS {
            let path = directory.path().as_os_str();
            let mut guard = Running::start(shell, "flock", "nothing", "30", path);
            assert!(
                matches!(guard.answer(), GuardAnswer::Locked(_)),
                "{shell:?}"
            );
            assert_eq!(guard.answer(), GuardAnswer::Ready, "{shell:?}");
            guard.order(GuardOrder::Beat(7));
            assert_eq!(guard.answer(), GuardAnswer::Beat(7), "{shell:?}");
            guard.end();
        }
    }

    #[test]
    fn a_second_one_is_refused_and_told_who_holds_it() {
        let _world = World::of_its_own();
        let directory = tempfile::tempdir().expect("tempdir");
        let odd = directory.path().join("a 'b'\n$c *");
        let other = directory.path().join("other");
        std::fs::write(&odd, "content").expect("writable");
        std::fs::write(&other, "").expect("writable");
        let arguments = ["flock", "nothing", "30"];
        for (number, shell) in SHELLS.iter().enumerate() {
            let start = |who, path: &std::path::Path| {
                Running::start_as(who, shell, arguments, path.as_os_str())
            };
            let mut first = start("the first", &odd);
            let GuardAnswer::Locked(locked) = first.answer() else {
                panic!("{shell:?}")
            };
            let mut bystander = start("a bystander", &other);
            assert!(matches!(bystander.answer(), GuardAnswer::Locked(_)));
            // Its number stands before theirs in the list, as text.
            let last = 10_usize.pow(u32::try_from(number).expect("few") + 3) - 1;
            give_numbers_after(last);
            let same = directory
                .path()
                .join(".")
                .join(odd.file_name().expect("a name"));
            for path in [&odd, &same] {
                let mut second = start("the second", path);
                let GuardAnswer::Refused(LockRefusal::Held { identity, holder }) = second.answer()
                else {
                    panic!("{shell:?}")
                };
                assert!(identity.is_same(&locked));
                assert_eq!(holder, "the first", "{shell:?}");
                assert!(!second.child.wait().expect("a child").success());
            }
            first.end();
            bystander.end();
        }
        assert_eq!(std::fs::read(&odd).expect("readable"), b"content");
    }

    #[test]
    fn whoever_is_no_guard_holds_it_without_a_name() {
        let directory = tempfile::tempdir().expect("tempdir");
        let path = directory.path().join("lock");
        for shell in SHELLS {
            let mut holder = Command::new("flock")
                .arg(&path)
                .args(["sh", "-c", "echo held; read end"])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .expect("flock");
            let mut said = String::new();
            let stdout = holder.stdout.take().expect("piped");
            BufReader::new(stdout).read_line(&mut said).expect("held");
            let mut guard = Running::start(shell, "flock", "nothing", "30", path.as_os_str());
            let GuardAnswer::Refused(LockRefusal::Held { holder: who, .. }) = guard.answer() else {
                panic!("{shell:?}")
            };
            assert_eq!(who, "", "{shell:?}");
            drop(holder.stdin.take());
            holder.wait().expect("a child");
        }
    }

    #[test]
    fn what_is_missing_is_made_only_as_it_should_be() {
        let directory = tempfile::tempdir().expect("tempdir");
        for shell in SHELLS {
            let missing = directory.path().join(format!("{}-file", shell[0]));
            let mut guard = Running::start(shell, "flock", "nothing", "30", missing.as_os_str());
            let absent = format!("'{}' is not there", missing.display());
            assert_eq!(guard.answer(), no_target(&absent));
            assert!(!missing.exists());
            let mut guard = Running::start(shell, "flock", "file", "30", missing.as_os_str());
            assert!(
                matches!(guard.answer(), GuardAnswer::Locked(_)),
                "{shell:?}"
            );
            assert!(missing.is_file());
            let missing = directory.path().join(format!("{}-dir/below", shell[0]));
            let mut guard = Running::start(shell, "flock", "directory", "30", missing.as_os_str());
            assert!(
                matches!(guard.answer(), GuardAnswer::Locked(_)),
                "{shell:?}"
            );
            assert!(missing.is_dir());
            for make in ["file", "directory"] {
                let path = std::path::Path::new("/proc/nothing");
                let mut guard = Running::start(shell, "flock", make, "30", path.as_os_str());
                let GuardAnswer::Refused(LockRefusal::Forbidden(reason)) = guard.answer() else {
                    panic!("{shell:?}")
                };
                let known = "'/proc/nothing' is not there, and cannot be made: ";
                let reason = reason.strip_prefix(known).expect("a reason");
                // dash has words of its own.
                let is_known = reason.to_lowercase().contains("directory");
                assert!(is_known, "{shell:?}: {reason}");
            }
        }
    }

    #[test]
    fn a_fifo_is_not_waited_for() {
        let directory = tempfile::tempdir().expect("tempdir");
        let fifo = directory.path().join("fifo");
        let made = Command::new("mkfifo").arg(&fifo).status().expect("mkfifo");
        assert!(made.success());
        for shell in SHELLS {
            let mut guard = Running::start(shell, "flock", "file", "30", fifo.as_os_str());
            let reason = format!("'{}' is neither a file nor a directory", fifo.display());
            assert_eq!(guard.answer(), no_target(&reason), "{shell:?}");
        }
    }

    #[test]
    fn a_lock_file_that_is_replaced_is_noticed() {
        let directory = tempfile::tempdir().expect("tempdir");
        for shell in SHELLS {
            let path = directory.path().join("lock");
            std::fs::write(&path, "").expect("writable");
            let mut guard = Running::start(shell, "flock", "nothing", "30", path.as_os_str());
            guard.answer();
            guard.answer();
            std::fs::rename(&path, directory.path().join("old")).expect("renamed");
            std::fs::write(&path, "").expect("writable");
            guard.order(GuardOrder::Beat(1));
            assert_eq!(guard.answer(), GuardAnswer::Replaced, "{shell:?}");
            assert_eq!(guard.answer(), GuardAnswer::Beat(1), "{shell:?}");
        }
    }

    #[test]
    fn without_heartbeats_it_goes_by_itself() {
        let directory = tempfile::tempdir().expect("tempdir");
        for shell in SHELLS {
            let path = directory.path().as_os_str();
            let mut guard = Running::start(shell, "flock", "nothing", "1", path);
            guard.answer();
            guard.answer();
            // Its stdin stays open all the time.
            assert_eq!(
                guard.answer(),
                GuardAnswer::Ended(String::new()),
                "{shell:?}"
            );
            assert!(guard.child.wait().expect("a child").success());
        }
    }

    /// All run directories of this machine are in one directory, which these tests
    /// remove: one test at a time.
    static RUN_DIRECTORIES: Mutex<()> = Mutex::new(());

    /// The run directory of a guard, which is in nobody's way.
    fn run_directory(guard: &mut Running, id: &str) -> std::path::PathBuf {
        guard.order(GuardOrder::MakeRunDirectory(id.into()));
        match guard.answer() {
            GuardAnswer::RunDirectory(path) => path.into(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_run_directory_is_for_us_alone_and_goes_unless_it_is_kept() {
        let _alone = RUN_DIRECTORIES
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for shell in SHELLS {
            let id = |what| format!("test-{}-{}-{what}", std::process::id(), shell[0]);
            let mut guard = Running::start(shell, "none", "nothing", "30", "".as_ref());
            assert_eq!(guard.answer(), GuardAnswer::Ready);
            let path = run_directory(&mut guard, &id("goes"));
            let mode = std::fs::metadata(&path).expect("there").permissions();
            assert_eq!(mode.mode() & 0o7777, 0o700, "{shell:?}");
            std::fs::write(path.join("file"), "x").expect("ours");
            guard.end();
            assert!(!path.exists(), "{shell:?}");

            let mut guard = Running::start(shell, "none", "nothing", "30", "".as_ref());
            assert_eq!(guard.answer(), GuardAnswer::Ready);
            let path = run_directory(&mut guard, &id("stays"));
            guard.order(GuardOrder::KeepRunDirectory);
            std::fs::write(path.join("file"), "x").expect("ours");
            guard.order(GuardOrder::Done);
            assert_eq!(
                guard.answer(),
                GuardAnswer::Left(path.display().to_string())
            );
            assert!(guard.child.wait().expect("a child").success());
            assert!(path.exists(), "{shell:?}");
            std::fs::remove_dir_all(path).expect("ours");

            // A client that has gone leaves none.
            let mut guard = Running::start(shell, "none", "nothing", "30", "".as_ref());
            assert_eq!(guard.answer(), GuardAnswer::Ready);
            let path = run_directory(&mut guard, &id("lost"));
            drop(guard.child.stdin.take());
            assert!(guard.child.wait().expect("a child").success());
            assert!(!path.exists(), "{shell:?}");
            // Where there was none before, none shall be.
            let _ = std::fs::remove_dir(path.parent().expect("a parent"));
        }
    }

    #[test]
    fn a_run_directory_that_is_there_is_anothers() {
        let _alone = RUN_DIRECTORIES
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for shell in SHELLS {
            let start = || {
                let mut guard = Running::start(shell, "none", "nothing", "30", "".as_ref());
                assert_eq!(guard.answer(), GuardAnswer::Ready);
                guard
            };
            let id = format!("test-{}-{}-two", std::process::id(), shell[0]);
            let mut guards = [start(), start(), start()];
            let paths = [0, 1, 2].map(|index| run_directory(&mut guards[index], &id));
            let beside = |suffix| paths[0].with_file_name(format!("{id}{suffix}"));
            assert_eq!(
                paths[..],
                [beside(""), beside("-2"), beside("-3")],
                "{shell:?}"
            );
            for (guard, path) in guards.into_iter().zip(&paths) {
                assert!(path.exists(), "{shell:?}: each removes its own");
                guard.end();
                assert!(!path.exists(), "{shell:?}");
            }
            let _ = std::fs::remove_dir(paths[0].parent().expect("a parent"));
        }
    }

    #[test]
    fn only_what_a_guard_makes_is_the_name_of_a_run_directory() {
        let id = "20260131120000.123456";
        for name in [id, &format!("{id}-2")] {
            let path = format!("/tmp/orgalorg-a b/{name}");
            assert_eq!(run_directory_name(&path), Some(name));
        }
        for odd in [
            "",
            "20260131",
            "/x/",
            "/x/..",
            "/x/2$(id)",
            "/x/2'",
            "/x/2/ y",
        ] {
            assert_eq!(run_directory_name(odd), None, "{odd}");
        }
    }

    /// A shell in the place of an sshd: its children are a guard and commands.
    struct Connection {
        shell: Child,
        guard: Option<std::io::PipeWriter>,
        answers: BufReader<std::io::PipeReader>,
        orders: PathBuf,
        done: PathBuf,
    }

    impl Connection {
        fn start(shell: &[&str], path: &Path) -> Self {
            let (stdin, guard) = std::io::pipe().expect("a pipe");
            let (answers, stdout) = std::io::pipe().expect("a pipe");
            // As sshd does: everything leads a session, and knows the connection.
            let program = r#"
                export SSH_CONNECTION="test $$" PATH="$2/bin:$PATH"
                exec 4<&0
                setsid sh -c 'script=$1 path=$2 && shift 2 &&
                    exec "$@" -c "$script" orgalorg-guard $$ $PPID \
                        "$SSH_CONNECTION" flock nothing 60 holder "$path"' \
                    - "$@" <&4 &
                exec 4<&- >/dev/null
                # Open for writing too, or it ends between two orders.
                exec 5<>"$2/orders"
                while read -r order <&5; do eval "$order"; echo >"$2/done"; done"#;
            let orders = path.join("orders");
            let done = path.join("done");
            let made = Command::new("mkfifo").arg(&orders).arg(&done).status();
            assert!(made.expect("mkfifo").success());
            let read = format!("eval \"$(head -c {})\"", SCRIPT.len());
            let shell = Command::new("sh")
                .args(["-c", program, "sshd", &read])
                .arg(path)
                .args(shell)
                .stdin(stdin)
                .stdout(stdout)
                .stderr(Stdio::null())
                .spawn()
                .expect("a shell");
            let answers = BufReader::new(answers);
            let mut connection = Self {
                shell,
                guard: Some(guard),
                answers,
                orders,
                done,
            };
            connection.tell(&*SCRIPT);
            assert!(matches!(connection.answer(), GuardAnswer::Locked(_)));
            assert_eq!(connection.answer(), GuardAnswer::Ready);
            connection
        }

        fn answer(&mut self) -> GuardAnswer {
            read_answer(&mut self.answers)
        }

        fn tell(&mut self, text: impl std::fmt::Display) {
            let guard = self.guard.as_mut().expect("not lost yet");
            write!(guard, "{text}").expect("it listens");
        }

        /// Tells the guard something, and waits until it has done it.
        fn order(&mut self, order: GuardOrder) {
            self.tell(format!("{order}{}", GuardOrder::Beat(1)));
            assert_eq!(self.answer(), GuardAnswer::Beat(1));
        }

        /// Has the "sshd" do something, and waits until it has.
        fn run(&self, command: &str) {
            std::fs::write(&self.orders, format!("{command}\n")).expect("a FIFO");
            std::fs::read(&self.done).expect("a FIFO");
        }

        /// As when the client is killed: first sshd goes, then its channels.
        fn lose(mut self) -> GuardAnswer {
            self.shell.kill().expect("it lives");
            self.shell.wait().expect("a child");
            self.guard = None;
            self.answer()
        }
    }

    impl Drop for Connection {
        fn drop(&mut self) {
            let _ = self.shell.kill();
            let _ = self.shell.wait();
        }
    }

    /// A `sleep` that nothing but KILL ends, and that can be told from others.
    fn stubborn(number: u32) -> (String, String) {
        let time = format!("{}.{number}", 100_000 + std::process::id());
        (
            format!("setsid sh -c 'trap \"\" HUP TERM; exec sleep {time}' </dev/null &"),
            time,
        )
    }

    fn is_running(time: &str) -> bool {
        pid_of(time).is_some()
    }

    /// The number of such a `sleep`.
    fn pid_of(time: &str) -> Option<i32> {
        let wanted = format!("sleep\0{time}\0");
        let mut entries = std::fs::read_dir("/proc").expect("/proc");
        entries.find_map(|entry| {
            let path = entry.expect("/proc").path();
            let cmdline = std::fs::read(path.join("cmdline")).ok()?;
            let pid = path.file_name()?.to_str()?.parse().ok()?;
            (cmdline == wanted.as_bytes()).then_some(pid)
        })
    }

    #[track_caller]
    fn wait_until(what: &str, condition: impl Fn() -> bool) {
        let limit = Instant::now() + Duration::from_secs(30);
        while !condition() {
            assert!(Instant::now() < limit, "{what}");
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Does the same under each shell, at the same time; most of it is waiting.
    fn under_each(test: impl Fn(u32, &[&str], &Path) + Sync) {
        thread::scope(|scope| {
            for (number, shell) in (0..).zip(SHELLS) {
                let test = &test;
                scope.spawn(move || {
                    let _world = World::of_its_own();
                    let directory = tempfile::tempdir().expect("tempdir");
                    test(number, shell, directory.path());
                });
            }
        });
    }

    /// A PID namespace for what this thread starts from now on, where the test may
    /// make one: a guard that ends too much ends nothing else, and nothing stays
    /// behind.
    struct World(Option<Child>);

    impl World {
        #[expect(unsafe_code, reason = "no descriptors are unshared")]
        fn of_its_own() -> Self {
            use rustix::thread::{UnshareFlags, unshare_unsafe};
            if !rustix::process::geteuid().is_root() {
                return Self(None);
            }
            // SAFETY: descriptor tables stay shared.
            let unshared = unsafe { unshare_unsafe(UnshareFlags::NEWPID | UnshareFlags::NEWNS) };
            unshared.expect("root may");
            // The first process is the world's init, and ends with the test.
            let init = Command::new("sh")
                .args(["-c", "trap '' HUP TERM; read end"])
                .stdin(Stdio::piped())
                .spawn()
                .expect("sh");
            for mount in [
                &["--make-rprivate", "/"][..],
                &["-t", "proc", "proc", "/proc"],
            ] {
                let mounted = Command::new("mount").args(mount).status();
                assert!(mounted.expect("mount").success());
            }
            Self(Some(init))
        }
    }

    /// Lets the next process of the world have the number after this one.
    fn give_numbers_after(last: usize) {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let write = format!("echo {last} >/proc/sys/kernel/ns_last_pid");
        let written = Command::new("sh").args(["-c", &write]).status();
        assert!(written.expect("sh").success());
    }

    impl Drop for World {
        fn drop(&mut self) {
            if let Some(init) = &mut self.0 {
                // It is not waited for: it goes when all that the test has started
                // there has been, and a test that fails waits for nothing more.
                let _ = init.kill();
            }
        }
    }

    #[test]
    fn a_command_that_has_been_started_unseen_is_ended_but_no_daemon_of_an_earlier_one() {
        under_each(|number, shell, path| {
            let mut connection = Connection::start(shell, path);
            connection.order(GuardOrder::Starting);
            let (daemon, its_time) = stubborn(2 * number);
            connection.run(&format!("({daemon})"));
            wait_until("the daemon", || is_running(&its_time));
            connection.order(GuardOrder::Finished);
            connection.order(GuardOrder::Starting);
            let (command, time) = stubborn(2 * number + 1);
            connection.run(&command);
            // Nobody has told the guard when the connection ends.
            wait_until("the command", || is_running(&time));
            let answer = connection.lose();
            assert_eq!(answer, GuardAnswer::Ended(String::new()), "{shell:?}");
            assert!(!is_running(&time), "{shell:?}");
            assert!(is_running(&its_time), "{shell:?}");
            end(&its_time);
        });
    }

    #[test]
    fn a_guard_whose_connection_has_gone_before_it_began_ends_nobody_elses_children() {
        under_each(|number, shell, path| {
            let (daemon, its_time) = stubborn(400 + number);
            let lost = |mode: &str, sshd: &str| {
                // It and the daemon are children of init by then.
                let program = r#"script=$1 path=$2 mode=$3 sshd=$4; shift 4
                    exec 4<&0
                    (setsid sh -c 'script=$1 path=$2 mode=$3 sshd=$4; shift 4
                        exec "$@" -c "$script" orgalorg-guard $$ "$sshd" test "$mode" \
                            nothing 60 holder "$path"' - "$script" "$path" "$mode" "$sshd" "$@" <&4 &)"#;
                let read = format!("eval \"$(head -c {})\"", SCRIPT.len());
                let mut child = Command::new("sh")
                    .args(["-c", program, "sh", &read])
                    .arg(path)
                    .args([mode, sshd])
                    .args(shell)
                    .stdin(Stdio::piped())
                    .stdout(Stdio::piped())
                    .spawn()
                    .expect("sh");
                let mut stdin = child.stdin.take().expect("piped");
                stdin.write_all(SCRIPT.as_bytes()).expect("it listens");
                drop(stdin);
                let said = child.wait_with_output().expect("it ends").stdout;
                let said = String::from_utf8_lossy(&said).into_owned();
                assert!(said.ends_with("ENDED\n"), "{shell:?} {said}");
            };
            let started = Command::new("sh")
                .args(["-c", &format!("({daemon})")])
                .status();
            assert!(started.expect("sh").success());
            wait_until("the daemon", || is_running(&its_time));
            for (mode, sshd) in [("flock", "1"), ("sweep", "1"), ("none", "1")] {
                lost(mode, sshd);
                assert!(is_running(&its_time), "{shell:?} {mode}");
            }
            // Where init is not the one with number 1, its name tells.
            let pid = pid_of(&its_time).expect("it runs").to_string();
            lost("sweep", &pid);
            assert!(is_running(&its_time), "{shell:?}");
        });
    }

    #[test]
    fn what_a_command_has_left_that_has_ended_is_spared() {
        under_each(|number, shell, path| {
            let mut connection = Connection::start(shell, path);
            connection.order(GuardOrder::Starting);
            let (command, time) = stubborn(100 + number);
            let command = command.strip_prefix("setsid ").expect("it does");
            std::fs::write(path.join("command"), format!("{command}\nread x <\"$1\"")).unwrap();
            connection.run(r#"mkfifo "$2/fifo"; setsid sh "$2/command" "$2/fifo" &"#);
            wait_until("the command", || is_running(&time));
            connection.order(GuardOrder::Started);
            connection.run(r#"echo >"$2/fifo"; wait $!"#);
            connection.order(GuardOrder::Finished);
            assert_eq!(
                connection.lose(),
                GuardAnswer::Ended(String::new()),
                "{shell:?}"
            );
            assert!(is_running(&time), "{shell:?}");
            end(&time);
        });
    }

    #[test]
    fn descendants_with_sessions_and_odd_names_are_ended_too_and_nobody_else() {
        under_each(|number, shell, path| {
            let mut connection = Connection::start(shell, path);
            connection.order(GuardOrder::Starting);
            let (_, its_time) = stubborn(300 + number);
            let mut bystander = Command::new("sleep")
                .arg(&its_time)
                .stdout(Stdio::null())
                .spawn()
                .expect("sleep");
            wait_until("the bystander", || is_running(&its_time));
            let its_pid = pid_of(&its_time).expect("it runs");
            // In a list of processes it looks like the other one. It is below one
            // that goes at once, as under sudo.
            let odd = path.join(format!("a)\n{its_pid} (b"));
            std::os::unix::fs::symlink("/bin/sh", odd).unwrap();
            let (_, time) = stubborn(200 + number);
            let command = format!(
                "setsid \"${{0%command}}\"a* -c 'trap \"\" HUP TERM; sleep {time}; sleep 9'\nwait"
            );
            std::fs::write(path.join("command"), command).unwrap();
            connection.run(r#"setsid sh "$2/command" &"#);
            wait_until("the command", || is_running(&time));
            connection.order(GuardOrder::Started);
            connection.tell(GuardOrder::Stop);
            assert_eq!(connection.answer(), GuardAnswer::Ended(String::new()));
            assert!(!is_running(&time), "{shell:?}");
            let end = bystander.try_wait().expect("a child");
            assert_eq!(end, None, "{shell:?}");
            bystander.kill().expect("a child");
            bystander.wait().expect("a child");
        });
    }

    /// GNU sed stops where a process ends while its file is read.
    #[test]
    fn a_list_of_processes_that_breaks_off_is_made_again() {
        under_each(|number, shell, path| {
            let sed = path.join("bin/sed");
            std::fs::create_dir(path.join("bin")).unwrap();
            // Every other time.
            let breaking = "#!/bin/sh\n\
                            if mkdir \"$0.broken\" 2>/dev/null; then exit 4; fi\n\
                            rmdir \"$0.broken\"; exec /bin/sed \"$@\"\n";
            std::fs::write(&sed, breaking).unwrap();
            std::fs::set_permissions(&sed, PermissionsExt::from_mode(0o755)).unwrap();
            let mut connection = Connection::start(shell, path);
            connection.order(GuardOrder::Starting);
            let (command, time) = stubborn(400 + number);
            connection.run(&command);
            wait_until("the command", || is_running(&time));
            connection.order(GuardOrder::Started);
            connection.tell(GuardOrder::Stop);
            assert_eq!(connection.answer(), GuardAnswer::Ended(String::new()));
            assert!(!is_running(&time), "{shell:?}");
        });
    }

    #[test]
    fn zombies_that_nobody_waits_for_hold_up_no_end() {
        for shell in SHELLS {
            // (The init of that world waits for none of its children.) A machine that
            // is busy may be slow, but not each time.
            let times = (0..5).map(|_| time_to_end(3, shell));
            let shortest = times.min().expect("five");
            // A round with questions that zombies answer takes half a second.
            assert!(
                shortest < Duration::from_millis(500),
                "{shell:?}: {shortest:?}"
            );
        }
    }

    /// How long a guard takes to end this number of processes.
    fn time_to_end(count: u32, shell: &[&str]) -> Duration {
        thread::scope(|scope| {
            let timing = scope.spawn(|| {
                let _world = World::of_its_own();
                let directory = tempfile::tempdir().expect("tempdir");
                let path = directory.path();
                let mut connection = Connection::start(shell, path);
                connection.order(GuardOrder::Starting);
                let many = format!(
                    r#"mkfifo "$1/never"; i=0
                    while [ $i -lt {count} ]; do i=$((i + 1)); read x <"$1/never" & done
                    : >"$1/ready"; wait"#
                );
                std::fs::write(path.join("command"), many).unwrap();
                connection.run(r#"setsid sh "$2/command" "$2" &"#);
                wait_until("the processes", || path.join("ready").exists());
                connection.order(GuardOrder::Started);
                let begun = Instant::now();
                connection.tell(GuardOrder::Stop);
                assert_eq!(connection.answer(), GuardAnswer::Ended(String::new()));
                begun.elapsed()
            });
            timing.join().expect("it does not panic")
        })
    }

    #[test]
    fn thousands_of_processes_take_no_more_time_each_than_hundreds() {
        for shell in SHELLS {
            let (hundreds, thousands) = (time_to_end(250, shell), time_to_end(2000, shell));
            // Eight times as many; 64 times where each is compared with all others.
            assert!(
                thousands < 24 * hundreds,
                "{shell:?}: {hundreds:?}, {thousands:?}"
            );
        }
    }

    fn end(time: &str) {
        let pid = pid_of(time).expect("it still runs");
        let killed = Command::new("kill")
            .args(["-KILL", &pid.to_string()])
            .status();
        assert!(killed.expect("kill").success());
    }

    #[test]
    fn answers_are_read_and_noise_is_told_from_them() {
        let mut reader = AnswerReader::default();
        let mut answers = VecDeque::new();
        let text =
            format!("BEAT 1\nWelcome to db7\nnow {BEGIN}\nBEAT 12\nBEAT x\nother\nENDED 4 5\n");
        for byte in text.bytes() {
            reader.read(&[byte], &mut answers);
        }
        assert_eq!(
            answers,
            [GuardAnswer::Beat(12), GuardAnswer::Ended("4 5".into())]
        );
        assert_eq!(reader.noise(), "other");
    }

    #[test]
    fn a_guard_that_writes_too_much_is_heard_no_more() {
        let mut reader = AnswerReader::default();
        let mut answers = VecDeque::new();
        reader.read(format!("{BEGIN}\n").as_bytes(), &mut answers);
        for _ in 0..100 {
            reader.read("READY\n".repeat(1000).as_bytes(), &mut answers);
        }
        assert!(reader.has_flooded());
        assert!(answers.len() * "READY\n".len() <= MOST_SAID);
        reader.expect_answer();
        assert!(!reader.has_flooded());
        // Also without the end of a line.
        reader.read(&[b'y'; MOST_SAID + 1], &mut answers);
        assert!(reader.has_flooded());
    }

    #[test]
    fn a_flood_before_the_first_word_takes_bounded_memory() {
        let mut reader = AnswerReader::default();
        let mut answers = VecDeque::new();
        for _ in 0..100 {
            reader.read(&[b'x'; LONGEST_LINE], &mut answers);
            reader.read(&b"y\n".repeat(LONGEST_LINE), &mut answers);
        }
        reader.read(&[b'x'; 3 * LONGEST_LINE], &mut answers);
        assert!(reader.line.len() <= LONGEST_LINE);
        reader.read(format!("{BEGIN}\nREADY\n").as_bytes(), &mut answers);
        assert_eq!(answers, [GuardAnswer::Ready]);
        assert_eq!(reader.noise(), "y");
    }

    #[test]
    fn an_identity_that_could_not_be_found_out_is_nobodys() {
        let known = Identity("b:1:2".into());
        assert!(known.is_same(&known.clone()));
        for unknown in [":1:2", "b:", ":"].map(|text| Identity(text.into())) {
            assert!(!unknown.is_same(&unknown.clone()));
        }
    }

    #[test]
    fn a_guard_fits_into_a_packet_also_under_sudo() {
        let nonces = Nonces::new([1; 16], true);
        let target = LockTarget {
            path: vec![b'\''; 4096],
            make: Make::File,
        };
        let arguments = Arguments {
            lock: Some(target),
            lease: Duration::from_secs(30),
            holder: "alice".to_owned(),
        };
        let login = Login {
            sudo: Some(&nonces),
            ..Login::PLAIN
        };
        assert!(start(&arguments, &login).len() < crate::remote::command_line::MAX_LENGTH);
    }

    #[test]
    fn any_bytes_of_a_path_arrive() {
        let target = LockTarget {
            path: b"/a 'b' \"$c\" \xff\n*".to_vec(),
            make: Make::Nothing,
        };
        let arguments = Arguments {
            lock: Some(target),
            lease: Duration::from_millis(1),
            holder: "alice\nBEAT 1".to_owned(),
        };
        // Another script of the same length, which prints its arguments.
        let script = "printf '%s|' \"$@\"; exit\n";
        let script = format!("{script:width$}", width = SCRIPT.len());
        let mut child = Command::new("sh")
            .args(["-c", &start(&arguments, &Login::PLAIN)])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("sh");
        let mut stdin = child.stdin.take().expect("piped");
        stdin.write_all(script.as_bytes()).expect("it listens");
        drop(stdin);
        let output = child.wait_with_output().expect("sh");
        let expected: &[u8] = b"||flock|nothing|1|alice?BEAT 1|/a 'b' \"$c\" \xff\n*|";
        assert!(output.stdout.ends_with(expected), "{output:?}");
    }
}
