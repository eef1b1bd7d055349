//! Test hosts: a small fleet of real sshds on one machine.
//!
//! [`Hosts::start`] sets up any number of hosts, each with a network namespace,
//! an address, a PID namespace and a file system of its own, and a real sshd in
//! it. They are throw-away: nothing of them is visible on the machine's own
//! network or in its file system, and nothing of them outlives the process that
//! started them, however that ends.
//!
//! ```text
//! test process ── pipe ──> keeper.sh      tidies up behind the supervisor
//!   │                       └ supervisor.sh   own network, mounts, PIDs
//!   │                           ├ host.sh ── sshd     web1, 10.77.1.1
//!   │                           ├ host.sh ── sshd     web2, 10.77.1.2
//!   └ program under test        └ ...
//!     (in the supervisor's network and mounts)
//! ```
//!
//! Every host has the users `root` (key login), `ops` (key or password, sudo
//! without a password), `guest` (key or password, no sudo) and `carol` (key or
//! password, sudo with her password). The password is `<name>-secret`.
//!
//! The parts: `template` writes down what goes onto the hosts, the scripts start
//! them, `client` runs programs where the hosts can be reached, `keys` makes
//! user keys, `host` looks into a host and does things to it, `process` reads
//! `/proc`, and `wait` is how anything here waits.
//!
//! Tests, the demo and the benchmarks include this module by path, each using
//! its own share of it: `#[allow(dead_code)] mod hosts;`.

mod client;
mod host;
pub mod keys;
mod process;
mod template;
mod wait;

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::Read;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::Index;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use client::{Namespaces, in_network, with_default_signals};
use keys::public_key;

pub use host::Host;
pub use process::Process;
pub use wait::{holds_within, wait_until};

/// The client's address in the network of the hosts.
pub const CLIENT_ADDR: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
pub const CLIENT_ADDR6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, 1);
const CLIENT_MAC: &str = "02:77:00:00:00:01";

/// An address in the network of the hosts that no host has: connecting fails
/// after three seconds with "No route to host".
pub const NOBODYS_ADDR: Ipv4Addr = Ipv4Addr::new(10, 77, 255, 254);

/// A bridge takes 1023 ports; some are left for what else may need one.
const MAX_HOSTS: usize = 1000;

/// The user key, in the directory of a [`Hosts`].
const USER_KEY: &str = "id_ed25519";

/// Running test hosts. They end when this is dropped, and also with the process
/// where it never is, as in a `static`.
pub struct Hosts {
    hosts: Vec<Host>,
    shared: Arc<Shared>,
    // Dropped in this order: everything ends, then its directory goes.
    _keeper: Keeper,
    _dir: TempDir,
}

/// What all hosts of a [`Hosts`] have in common.
struct Shared {
    dir: PathBuf,
    namespaces: Arc<Namespaces>,
    host_keys: Vec<String>,
    ports: Vec<u16>,
}

impl Shared {
    fn log(&self, name: &str) -> String {
        read_log(&self.dir, name)
    }

    /// How many lines sshd logs when it starts to listen: one for each port,
    /// for IPv4 and for IPv6.
    fn listening_lines(&self) -> usize {
        2 * self.ports.len()
    }
}

impl Hosts {
    /// Starts hosts named `web1`, `web2`, ...
    ///
    /// # Panics
    ///
    /// If they do not all start, with what their sshds had to say.
    pub fn start(count: usize) -> Self {
        Self::builder().count(count).start()
    }

    pub fn builder() -> Builder {
        Builder::default()
    }

    /// All hosts, in their order.
    pub fn iter(&self) -> std::slice::Iter<'_, Host> {
        self.hosts.iter()
    }

    pub fn len(&self) -> usize {
        self.hosts.len()
    }

    pub fn is_empty(&self) -> bool {
        self.hosts.is_empty()
    }

    /// The names of all hosts, in their order.
    pub fn names(&self) -> Vec<&str> {
        self.iter().map(Host::name).collect()
    }

    /// The host of this name.
    #[track_caller]
    pub fn host(&self, name: &str) -> &Host {
        self.iter()
            .find(|host| host.name() == name)
            .unwrap_or_else(|| panic!("no host {name} among {:?}", self.names()))
    }

    /// A directory that goes when the hosts go, free for the tests to use.
    pub fn dir(&self) -> &Path {
        &self.shared.dir
    }

    /// Lets the owner of a public key log in as `user` on all hosts.
    pub fn authorize(&self, user: &str, public_key: &Path) {
        for host in self {
            host.authorize(user, public_key);
        }
    }

    fn namespaces(&self) -> &Arc<Namespaces> {
        &self.shared.namespaces
    }

    fn ports(&self) -> &[u16] {
        &self.shared.ports
    }
}

impl Index<usize> for Hosts {
    type Output = Host;

    fn index(&self, index: usize) -> &Host {
        &self.hosts[index]
    }
}

impl<'a> IntoIterator for &'a Hosts {
    type Item = &'a Host;
    type IntoIter = std::slice::Iter<'a, Host>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// What the hosts shall be like.
#[derive(Debug, Clone)]
pub struct Builder {
    names: Names,
    sshd_options: Vec<String>,
    host_keys: Vec<String>,
    ports: Vec<u16>,
    pam: bool,
}

#[derive(Debug, Clone)]
enum Names {
    Numbered { prefix: String, count: usize },
    Given(Vec<String>),
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            names: Names::Numbered {
                prefix: "web".to_owned(),
                count: 1,
            },
            sshd_options: Vec::new(),
            host_keys: ["ed25519", "ecdsa", "rsa"].map(str::to_owned).to_vec(),
            ports: vec![22],
            pam: false,
        }
    }
}

impl Builder {
    /// How many hosts; not together with [`Builder::names`].
    pub fn count(mut self, number: usize) -> Self {
        if let Names::Numbered { count, .. } = &mut self.names {
            *count = number;
        }
        self
    }

    /// The hosts' names, up to the number; not together with
    /// [`Builder::names`].
    pub fn prefix(mut self, text: &str) -> Self {
        if let Names::Numbered { prefix, .. } = &mut self.names {
            text.clone_into(prefix);
        }
        self
    }

    /// The hosts' names, one for each host.
    pub fn names<N: Into<String>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        self.names = Names::Given(names.into_iter().map(Into::into).collect());
        self
    }

    /// A line of `sshd_config` that counts before the harness's own, or a whole
    /// `Match` block.
    pub fn sshd_option(mut self, line: &str) -> Self {
        self.sshd_options.push(line.to_owned());
        self
    }

    /// Offer only host keys of these types: `ed25519`, `ecdsa`, `rsa`.
    pub fn host_keys(mut self, types: &[&str]) -> Self {
        self.host_keys = types.iter().map(|&kind| kind.to_owned()).collect();
        self
    }

    /// Listen on this port too, beside 22.
    pub fn port(mut self, port: u16) -> Self {
        self.ports.push(port);
        self
    }

    /// Check passwords through PAM, and offer keyboard-interactive.
    pub fn pam(mut self, on: bool) -> Self {
        self.pam = on;
        self
    }

    /// Starts the hosts; returns when all of them can be logged in to.
    ///
    /// # Panics
    ///
    /// If they do not all start, with what their sshds had to say.
    pub fn start(self) -> Hosts {
        assert!(
            rustix::process::geteuid().is_root(),
            "the test hosts are made of Linux namespaces, which only root may set up: \
             run this as root (`make test` asks sudo for it)"
        );
        let addresses = self.addresses();
        let dir = tempfile::Builder::new()
            .prefix("test-hosts-")
            .tempdir()
            .expect("the temporary directory is writable");

        let key = dir.path().join(USER_KEY);
        succeed(
            Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-C", "test", "-f"])
                .arg(&key),
        );
        template::write(dir.path(), &self, &addresses, &public_key(key));

        let mut keeper = Keeper::start(dir.path());
        let lines = 2 * self.ports.len();
        keeper.wait_for_sshds(dir.path(), &addresses, lines);

        let mut inits = Inits::find(dir.path());
        let shared = Arc::new(Shared {
            dir: dir.path().to_owned(),
            namespaces: Arc::new(
                Namespaces::of(inits.supervisor).expect("the supervisor is running"),
            ),
            host_keys: self.host_keys,
            ports: self.ports,
        });
        let hosts: Vec<Host> = addresses
            .into_iter()
            .map(|address| {
                let init = inits.take(&address.name);
                Host::new(address, init, Arc::clone(&shared))
            })
            .collect();
        in_network(&shared.namespaces, || {
            for host in &hosts {
                let what = format!("host {} to be reachable", host.name());
                wait_until(&what, START_LIMIT, || host.answers());
            }
        });

        let hosts = Hosts {
            hosts,
            shared,
            _keeper: keeper,
            _dir: dir,
        };
        hosts.write_known_hosts();
        hosts
    }

    fn addresses(&self) -> Vec<Address> {
        let names = match &self.names {
            Names::Numbered { prefix, count } => {
                (1..=*count).map(|i| format!("{prefix}{i}")).collect()
            }
            Names::Given(names) => names.clone(),
        };
        assert!(
            (1..=MAX_HOSTS).contains(&names.len()),
            "{} test hosts asked for, 1 to {MAX_HOSTS} are possible",
            names.len()
        );
        for name in &names {
            let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
            assert!(
                !name.starts_with(['-', '.']) && !name.is_empty() && name.chars().all(is_plain),
                "{name:?} is not a host name"
            );
        }
        let distinct: HashSet<&String> = names.iter().collect();
        assert_eq!(distinct.len(), names.len(), "two hosts have one name");
        let addresses = names.into_iter().enumerate();
        addresses.map(|(i, name)| Address::new(i, name)).collect()
    }
}

/// Where a host is in the network.
#[derive(Debug, Clone)]
struct Address {
    name: String,
    /// The bridge's end of its wire.
    link: String,
    mac: String,
    v4: Ipv4Addr,
    v6: Ipv6Addr,
}

impl Address {
    fn new(index: usize, name: String) -> Self {
        // 1.1 to 1.250, then 2.1 and so on, so that none looks like a network
        // or broadcast address.
        let part = |n: usize| u8::try_from(n + 1).expect("there are at most 1000 hosts");
        let (x, y) = (part(index / 250), part(index % 250));
        Self {
            name,
            link: format!("host{}", index + 1),
            mac: format!("02:77:00:01:{x:02x}:{y:02x}"),
            v4: Ipv4Addr::new(10, 77, x, y),
            v6: Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, x.into(), y.into()),
        }
    }
}

/// The longest that hosts may take to start, in all.
const START_LIMIT: Duration = Duration::from_secs(180);

/// The longest that they may take to end.
const END_LIMIT: Duration = Duration::from_secs(60);

/// The process that all hosts descend from. See `keeper.sh`.
struct Keeper {
    child: Child,
    /// While this end of the pipe is open the hosts live. Only this process has
    /// it, for it is closed on exec.
    lifeline: Option<ChildStdin>,
}

impl Keeper {
    fn start(dir: &Path) -> Self {
        let mut command = Command::new("sh");
        with_default_signals(&mut command);
        let mut child = command
            .arg(dir.join("keeper.sh"))
            .arg(dir)
            .current_dir("/")
            .env_clear()
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .env("LANG", "C.UTF-8")
            // Out of reach of a terminal's Ctrl-C, which must not keep it from
            // tidying up.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the system has a shell");
        Self {
            lifeline: child.stdin.take(),
            child,
        }
    }

    /// Waits until every host's sshd has said that it listens: `lines` times,
    /// once for each of its sockets.
    fn wait_for_sshds(&mut self, dir: &Path, addresses: &[Address], lines: usize) {
        let mut pending: Vec<&str> = addresses.iter().map(|host| host.name.as_str()).collect();
        let in_time = holds_within(START_LIMIT, || {
            if !self.is_running() {
                self.report_failure();
            }
            pending.retain(|name| {
                let log = read_log(dir, name);
                assert!(
                    !log.contains(&format!("host {name} ended")),
                    "host {name} did not start; its log:\n{log}"
                );
                log.matches("Server listening on").count() < lines
            });
            pending.is_empty()
        });
        if !in_time {
            let first = pending[0];
            panic!(
                "waited {START_LIMIT:?} in vain for the sshds of {pending:?}; log of {first}:\n{}",
                read_log(dir, first)
            );
        }
    }

    fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    fn report_failure(&mut self) -> ! {
        let mut said = String::new();
        if let Some(stderr) = &mut self.child.stderr {
            let _ = stderr.read_to_string(&mut said);
        }
        panic!("the test hosts' supervisor did not start:\n{said}");
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.lifeline = None;
        if holds_within(END_LIMIT, || !self.is_running()) {
            return;
        }
        // `unshare --kill-child` takes the supervisor along.
        let _ = self.child.kill();
        let complaint = format!("waited {END_LIMIT:?} in vain for the test hosts to end");
        if thread::panicking() {
            eprintln!("{complaint}");
        } else {
            panic!("{complaint}");
        }
    }
}

/// The outer PIDs of the inits of the supervisor and of the hosts.
struct Inits {
    supervisor: i32,
    hosts: HashMap<String, i32>,
}

impl Inits {
    /// Finds them by their command lines, `sh SCRIPT DIR NAME ...`.
    fn find(dir: &Path) -> Self {
        let script = |name: &str| format!("sh {0}/{name} {0}", dir.display());
        let (supervisor_command, host_command) = (script("supervisor.sh"), script("host.sh"));
        let inits: Vec<Process> = Process::all()
            .into_iter()
            .filter(|process| process.pid == 1)
            .collect();
        let supervisor = inits
            .iter()
            .find(|process| process.command.starts_with(&supervisor_command))
            .expect("the supervisor is running");
        let hosts = inits
            .iter()
            .filter_map(|process| {
                let arguments = process.command.strip_prefix(&host_command)?;
                let name = arguments.split_whitespace().next()?;
                Some((name.to_owned(), process.outer_pid))
            })
            .collect();
        Self {
            supervisor: supervisor.outer_pid,
            hosts,
        }
    }

    fn take(&mut self, name: &str) -> i32 {
        self.hosts
            .remove(name)
            .unwrap_or_else(|| panic!("host {name} ended while it started"))
    }
}

fn read_log(dir: &Path, name: &str) -> String {
    let log = fs::read(dir.join("log").join(name)).unwrap_or_default();
    String::from_utf8_lossy(&log).into_owned()
}

/// Runs a command that is meant to succeed.
#[track_caller]
fn succeed(command: &mut Command) -> Output {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("can't run {command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    output
}
