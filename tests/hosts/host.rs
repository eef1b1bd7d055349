//! One test host: looking into it, and doing to it what goes wrong in a fleet.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::process::Signal;

use super::client::{command_in, in_network};
use super::process::NamespaceId;
use super::{Address, Process, Shared, succeed, wait_until};

/// For everything that takes a moment: ending, stopping, restarting.
const SOON: Duration = Duration::from_secs(20);

/// The longest that [`Host::run`] lets a command run, in seconds.
const RUN_LIMIT: &str = "60";

/// No sshd listens here, so an answer shows that the host can be reached and
/// costs it nothing.
const CLOSED_PORT: u16 = 1;

/// A handle of a test host. Clones stand for the same host.
#[derive(Clone)]
pub struct Host {
    inner: Arc<Inner>,
}

struct Inner {
    address: Address,
    /// The outer PID of the host's init.
    init: i32,
    pids: NamespaceId,
    shared: Arc<Shared>,
}

impl Host {
    pub(super) fn new(address: Address, init: i32, shared: Arc<Shared>) -> Self {
        let pids = NamespaceId::of_pids(init)
            .unwrap_or_else(|| panic!("host {} ended while it started", address.name));
        Self {
            inner: Arc::new(Inner {
                address,
                init,
                pids,
                shared,
            }),
        }
    }

    pub fn name(&self) -> &str {
        &self.inner.address.name
    }

    pub fn addr(&self) -> Ipv4Addr {
        self.inner.address.v4
    }

    pub fn addr6(&self) -> Ipv6Addr {
        self.inner.address.v6
    }

    // ---- looking into it

    /// All processes on the host, its init included.
    pub fn processes(&self) -> Vec<Process> {
        Process::in_namespace(&self.inner.pids)
    }

    pub fn is_running(&self) -> bool {
        NamespaceId::of_pids(self.inner.init).as_ref() == Some(&self.inner.pids)
    }

    /// Whether packets get to the host and back, over IPv4 and IPv6.
    pub fn is_reachable(&self) -> bool {
        in_network(&self.inner.shared.namespaces, || self.answers())
    }

    /// As [`Host::is_reachable`], for a thread that is in the network already.
    pub(super) fn answers(&self) -> bool {
        [IpAddr::V4(self.addr()), IpAddr::V6(self.addr6())]
            .into_iter()
            .all(|address| {
                let socket = SocketAddr::new(address, CLOSED_PORT);
                TcpStream::connect_timeout(&socket, Duration::from_millis(200))
                    .is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
            })
    }

    /// What sshd has logged so far.
    pub fn log(&self) -> String {
        self.inner.shared.log(self.name())
    }

    /// Runs a shell command on the host as root, without ssh.
    ///
    /// Processes that it leaves in the background go on.
    pub fn run(&self, script: &str) -> Output {
        self.assert_running();
        // Files, not pipes: these need no readers, and no background process
        // can hold up their end.
        let scratch = || tempfile::tempfile().expect("there is room for a temporary file");
        let (mut stdout, mut stderr) = (scratch(), scratch());
        let share = |file: &File| file.try_clone().expect("a file can be shared");
        let status = Command::new("timeout")
            .args(["--signal=KILL", RUN_LIMIT])
            .args(["nsenter", "--target", &self.inner.init.to_string()])
            .args(["--mount", "--uts", "--ipc", "--net", "--pid"])
            .args(["sh", "-c", script])
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin")
            .env("HOME", "/root")
            .env("LANG", "C.UTF-8")
            .stdin(Stdio::null())
            .stdout(share(&stdout))
            .stderr(share(&stderr))
            .status()
            .unwrap_or_else(|error| panic!("can't run timeout and nsenter: {error}"));
        assert!(
            status.signal() != Some(9) && status.code() != Some(137),
            "waited {RUN_LIMIT} s in vain for the end of `{script}` on {}",
            self.name()
        );
        let content = |file: &mut File| {
            let mut bytes = Vec::new();
            file.rewind()
                .and_then(|()| file.read_to_end(&mut bytes))
                .expect("a temporary file can be read");
            bytes
        };
        Output {
            status,
            stdout: content(&mut stdout),
            stderr: content(&mut stderr),
        }
    }

    /// As [`Host::run`], for a command that is meant to succeed; returns its
    /// standard output.
    #[track_caller]
    pub fn run_ok(&self, script: &str) -> String {
        let output = self.run(script);
        assert!(
            output.status.success(),
            "`{script}` on {}: {}: {}",
            self.name(),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Writes a file as root; an existing one keeps its owner.
    pub fn write_file(&self, path: impl AsRef<Path>, bytes: impl AsRef<[u8]>, mode: u32) {
        let path = path.as_ref();
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
        self.open(path, flags)
            .and_then(|mut file| {
                file.write_all(bytes.as_ref())?;
                file.set_permissions(fs::Permissions::from_mode(mode))
            })
            .unwrap_or_else(|error| self.cannot("write", path, &error));
    }

    pub fn read_file(&self, path: impl AsRef<Path>) -> Vec<u8> {
        let path = path.as_ref();
        let mut bytes = Vec::new();
        self.open(path, OFlags::RDONLY)
            .and_then(|mut file| file.read_to_end(&mut bytes))
            .unwrap_or_else(|error| self.cannot("read", path, &error));
        bytes
    }

    /// Whether something has this name. Links lead where they lead on the host.
    pub fn has_file(&self, path: impl AsRef<Path>) -> bool {
        let path = path.as_ref();
        match self.open(path, OFlags::PATH) {
            Ok(_) => true,
            Err(error)
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) =>
            {
                false
            }
            Err(error) => self.cannot("look for", path, &error),
        }
    }

    /// Whether the command line of a process on the host holds `text`.
    pub fn runs(&self, text: &str) -> bool {
        let processes = self.processes();
        processes
            .iter()
            .any(|process| process.command.contains(text))
    }

    /// The public host keys, one line for each.
    pub fn host_keys(&self) -> Vec<String> {
        self.inner
            .shared
            .host_keys
            .iter()
            .map(|kind| {
                let key = self.read_file(format!("/etc/ssh/ssh_host_{kind}_key.pub"));
                String::from_utf8_lossy(&key).trim_end().to_owned()
            })
            .collect()
    }

    // ---- the wire

    /// Pulls the plug: from now on packets to and from the host are lost.
    pub fn cut(&self) {
        self.set_link("down");
    }

    /// Ends [`Host::cut`].
    pub fn heal(&self) {
        self.set_link("up");
        wait_until(
            &format!("host {} to be reachable again", self.name()),
            SOON,
            || self.is_reachable(),
        );
    }

    /// Limits the wire, each way, to a rate such as `1mbit` (see tc(8)).
    pub fn slow(&self, rate: &str) {
        let limit = |device: &str| {
            format!("tc qdisc replace dev {device} root tbf rate {rate} burst 16kb latency 500ms")
        };
        self.run_ok(&limit("eth0"));
        let near = limit(&self.inner.address.link);
        succeed(self.near_end("sh").args(["-c", &near]));
    }

    /// Ends [`Host::slow`].
    pub fn fast(&self) {
        // Without a limit there is none to delete, which is as well.
        self.run("tc qdisc del dev eth0 root");
        let link = &self.inner.address.link;
        let _ = self
            .near_end("tc")
            .args(["qdisc", "del", "dev", link, "root"])
            .output();
    }

    fn set_link(&self, state: &str) {
        self.assert_running();
        let link = &self.inner.address.link;
        succeed(self.near_end("ip").args(["link", "set", link, state]));
    }

    /// A command at the client's end of the wire.
    fn near_end(&self, program: &str) -> Command {
        command_in(&self.inner.shared.namespaces, "/".as_ref(), program)
    }

    // ---- its processes

    /// Stops every process on the host but its init. Connections stay, and new
    /// ones are taken by the kernel, but nobody answers.
    pub fn freeze(&self) {
        // A process can be born while the list is read. One that has none
        // running on it, twice over, is complete.
        let mut quiet = 0;
        wait_until(
            &format!("all processes on {} to stop", self.name()),
            SOON,
            || {
                let running = self.signal_all(Signal::STOP, |process| !process.is_stopped());
                quiet = if running == 0 { quiet + 1 } else { 0 };
                quiet == 2
            },
        );
    }

    /// Stops only the sshd that takes new connections: they hang before its
    /// first word, while existing ones go on.
    pub fn freeze_listener(&self) {
        let listener = self.listener();
        listener.signal(Signal::STOP);
        wait_until(&format!("sshd on {} to stop", self.name()), SOON, || {
            Process::find(listener.outer_pid).is_some_and(|process| process.is_stopped())
        });
    }

    /// Ends [`Host::freeze`] and [`Host::freeze_listener`].
    pub fn thaw(&self) {
        wait_until(
            &format!("all processes on {} to go on", self.name()),
            SOON,
            || self.signal_all(Signal::CONT, Process::is_stopped) == 0,
        );
    }

    /// Ends the whole host at once, as a power cut would: nobody closes a
    /// connection, and nothing answers any more.
    pub fn kill(&self) {
        self.assert_running();
        // Without the wire the ending processes cannot say goodbye.
        self.cut();
        if let Some(init) = Process::find(self.inner.init) {
            init.signal(Signal::KILL);
        }
        wait_until(&format!("host {} to end", self.name()), SOON, || {
            !self.is_running() && self.processes().is_empty()
        });
    }

    /// Kills the sshd processes that serve connections, so that all of these
    /// break. Their commands are left behind.
    pub fn drop_connections(&self) {
        let listener = self.listener().outer_pid;
        wait_until(
            &format!("the connections to {} to end", self.name()),
            SOON,
            || {
                let is_session = |process: &Process| {
                    process.name.starts_with("sshd") && process.outer_pid != listener
                };
                self.signal_all(Signal::KILL, is_session) == 0
            },
        );
    }

    /// Kills the processes whose command line holds `text` (never init).
    /// Returns how many there were.
    pub fn kill_matching(&self, text: &str) -> usize {
        self.signal_all(Signal::KILL, |process| process.command.contains(text))
    }

    /// Signals all processes but init that `wanted` picks; returns how many.
    fn signal_all(&self, signal: Signal, wanted: impl Fn(&Process) -> bool) -> usize {
        self.assert_running();
        self.processes()
            .iter()
            .filter(|process| process.outer_pid != self.inner.init && wanted(process))
            .map(|process| process.signal(signal))
            .count()
    }

    /// The sshd that takes new connections.
    fn listener(&self) -> Process {
        let pid = self.read_file("/run/sshd.pid");
        let pid: i32 = String::from_utf8_lossy(&pid)
            .trim()
            .parse()
            .expect("sshd writes its PID into its PID file");
        self.processes()
            .into_iter()
            .find(|process| process.pid == pid)
            .unwrap_or_else(|| panic!("no sshd on {}; its log:\n{}", self.name(), self.log()))
    }

    // ---- its system

    /// New host keys of all types that the host has. Returns when new
    /// connections see them; [`Hosts::known_hosts`](super::Hosts::known_hosts)
    /// stays as it was.
    pub fn change_host_key(&self) {
        for kind in &self.inner.shared.host_keys {
            let path = format!("/etc/ssh/ssh_host_{kind}_key");
            self.run_ok(&format!(
                "rm -f {path} {path}.pub && ssh-keygen -q -t {kind} -N '' -f {path}"
            ));
        }
        let listening = || self.log().matches("Server listening on").count();
        let before = listening();
        self.listener().signal(Signal::HUP);
        wait_until(
            &format!("sshd on {} to start again", self.name()),
            SOON,
            || listening() >= before + self.inner.shared.listening_lines(),
        );
    }

    /// Lets the owner of a public key log in as `user`.
    pub fn authorize(&self, user: &str, public_key: &Path) {
        let home = match user {
            "root" => "/root".to_owned(),
            _ => format!("/home/{user}"),
        };
        let path = format!("{home}/.ssh/authorized_keys");
        let mut keys = self.read_file(&path);
        keys.extend(fs::read(public_key).unwrap_or_else(|error| {
            panic!("can't read public key {}: {error}", public_key.display())
        }));
        self.write_file(path, keys, 0o600);
    }

    /// Puts a file system of `kib` KiB at `dir`, which anyone can fill.
    pub fn small_disk(&self, dir: &str, kib: u64) {
        self.run_ok(&format!(
            "mkdir -p '{dir}' && mount -t tmpfs -o size={kib}k,mode=1777 small '{dir}'"
        ));
    }

    /// Takes a program off this host: not there, not found, not in `PATH`.
    pub fn remove_program(&self, name: &str) {
        self.make_usr_writable();
        self.run_ok(&format!(
            "for dir in local/sbin local/bin sbin bin; do rm -f /usr/$dir/'{name}'; done"
        ));
    }

    /// Puts a program of the test's own on this host, e.g. in place of another.
    pub fn install_program(&self, name: &str, content: impl AsRef<[u8]>) {
        self.make_usr_writable();
        // The old one may be a link to what others use too.
        self.run_ok(&format!("rm -f '/usr/bin/{name}'"));
        self.write_file(format!("/usr/bin/{name}"), content, 0o755);
    }

    /// Replaces everything that BusyBox can do by BusyBox, and takes bash away
    /// (which is also gone as a login shell).
    pub fn busybox_userland(&self) {
        self.make_usr_writable();
        self.run_ok(
            "set -e
            names=$(busybox --list | grep -vx busybox)
            cd /usr/sbin
            busybox rm -f $names
            cd /usr/bin
            busybox rm -f $names bash rbash
            busybox --install -s /usr/bin
            busybox sed -i s,/bin/bash,/bin/sh, /etc/passwd",
        );
    }

    /// Changes the login shell of a user.
    pub fn login_shell(&self, user: &str, shell: &str) {
        let passwd = self.read_file("/etc/passwd");
        let mut found = false;
        let passwd: String = String::from_utf8_lossy(&passwd)
            .lines()
            .map(|line| {
                let (rest, _) = line.rsplit_once(':').expect("passwd has fields");
                if line.split(':').next() == Some(user) {
                    found = true;
                    format!("{rest}:{shell}\n")
                } else {
                    format!("{line}\n")
                }
            })
            .collect();
        assert!(found, "no user {user} on {}", self.name());
        self.write_file("/etc/passwd", passwd, 0o644);
    }

    /// Lays a writable layer of the host's own over its `/usr`, once.
    fn make_usr_writable(&self) {
        self.run_ok(
            "[ -d /run/usr ] || {
                mkdir -p /run/usr/upper /run/usr/work &&
                mount -t overlay -o lowerdir=/usr,upperdir=/run/usr/upper,workdir=/run/usr/work usr /usr
            }",
        );
    }

    /// Opens a file on the host. Links on the way, absolute ones too, lead where
    /// they lead on the host.
    fn open(&self, path: &Path, flags: OFlags) -> io::Result<File> {
        self.assert_running();
        let root = File::open(format!("/proc/{}/root", self.inner.init)).map(OwnedFd::from)?;
        let mode = Mode::from_raw_mode(if flags.contains(OFlags::CREATE) {
            0o600
        } else {
            0
        });
        let file = openat2(
            root,
            path,
            flags | OFlags::CLOEXEC,
            mode,
            ResolveFlags::IN_ROOT,
        )?;
        Ok(file.into())
    }

    #[track_caller]
    fn cannot(&self, verb: &str, path: &Path, error: &io::Error) -> ! {
        panic!(
            "can't {verb} {} on {}: {error}",
            path.display(),
            self.name()
        )
    }

    #[track_caller]
    fn assert_running(&self) {
        assert!(
            self.is_running(),
            "host {} is not running any more; its log:\n{}",
            self.name(),
            self.log()
        );
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name(), self.addr())
    }
}
