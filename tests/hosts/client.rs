//! The client's end: running programs where the test hosts can be reached.
//!
//! A program under test shares the supervisor's network and mount namespaces,
//! but stays an ordinary child of the test process. It sees the machine's files,
//! but for what would let the machine's or the user's ssh settings in.

use std::ffi::{CStr, OsStr};
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::{io, panic, thread};

use nix::sys::signal::{SigHandler, Signal, signal};
use rustix::fd::AsFd;
use rustix::fs::{CWD, readlinkat_raw};
use rustix::io::Errno;
use rustix::process::chdir;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::{Host, Hosts, USER_KEY};

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Longest path that the kernel takes, its terminating NUL included.
const PATH_MAX: usize = 4096;

/// The supervisor's namespaces that programs under test run in.
pub(super) struct Namespaces {
    network: OwnedFd,
    mounts: OwnedFd,
}

impl Namespaces {
    /// Those of a process, by its outer PID.
    pub(super) fn of(outer_pid: i32) -> io::Result<Self> {
        let open = |kind| File::open(format!("/proc/{outer_pid}/ns/{kind}")).map(OwnedFd::from);
        Ok(Self {
            network: open("net")?,
            mounts: open("mnt")?,
        })
    }

    /// Moves the calling process in, and back to its directory, for entering a
    /// mount namespace leads to its root.
    ///
    /// Runs between fork and exec: it must neither allocate nor lock.
    fn enter(&self) -> io::Result<()> {
        let mut directory = [0; PATH_MAX];
        let length = readlinkat_raw(CWD, c"/proc/self/cwd", &mut directory[..PATH_MAX - 1])?;
        let directory =
            CStr::from_bytes_with_nul(&directory[..=length]).map_err(|_| Errno::NAMETOOLONG)?;
        move_into_link_name_space(self.network.as_fd(), Some(LinkNameSpaceType::Network))?;
        move_into_link_name_space(self.mounts.as_fd(), Some(LinkNameSpaceType::Mount))?;
        Ok(chdir(directory)?)
    }
}

/// A command that will run in these namespaces, with a clean environment.
#[expect(
    unsafe_code,
    reason = "setns(2) has to be called between fork and exec"
)]
pub(super) fn command_in(
    namespaces: &Arc<Namespaces>,
    home: &OsStr,
    program: impl AsRef<OsStr>,
) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("HOME", home)
        .env("USER", "root")
        .env("LOGNAME", "root")
        .env("PATH", PATH)
        .env("LANG", "C.UTF-8");
    let namespaces = Arc::clone(namespaces);
    with_default_signals(&mut command);
    // SAFETY: `enter` makes system calls only.
    unsafe { command.pre_exec(move || namespaces.enter()) };
    command
}

/// Undoes what a shell in the background or nohup(1) has set for the tests: a program
/// that ignores a signal when it is started goes on ignoring it.
#[expect(
    unsafe_code,
    reason = "the child sets its signals between fork and exec"
)]
pub(super) fn with_default_signals(command: &mut Command) {
    let reset = || {
        for number in [
            Signal::SIGHUP,
            Signal::SIGINT,
            Signal::SIGQUIT,
            Signal::SIGTERM,
        ] {
            // SAFETY: this sets no handler.
            unsafe { signal(number, SigHandler::SigDfl) }?;
        }
        Ok(())
    };
    // SAFETY: it makes system calls only.
    unsafe { command.pre_exec(reset) };
}

impl Hosts {
    /// A command that will run where the hosts are: it reaches them by name
    /// and address, has a `HOME` of its own (see [`Hosts::home`]), no agent, and
    /// nothing of the machine's ssh configuration.
    pub fn client(&self, program: impl AsRef<OsStr>) -> Command {
        command_in(self.namespaces(), self.home().as_os_str(), program)
    }

    /// The home directory of the programs under test; it has an empty `.ssh`.
    pub fn home(&self) -> PathBuf {
        self.dir().join("client/home")
    }

    /// The private key that every user on every host accepts.
    pub fn key(&self) -> PathBuf {
        self.dir().join(USER_KEY)
    }

    /// A `known_hosts` file with all keys of all hosts, by name and address, as
    /// they were at the start or at the last [`Hosts::write_known_hosts`].
    pub fn known_hosts(&self) -> PathBuf {
        self.dir().join("known_hosts")
    }

    /// Brings the [`Hosts::known_hosts`] file up to date.
    pub fn write_known_hosts(&self) {
        let text: String = self
            .iter()
            .map(|host| {
                let mut names = Vec::new();
                for name in [
                    host.name().to_owned(),
                    format!("{}-v6", host.name()),
                    host.addr().to_string(),
                    host.addr6().to_string(),
                ] {
                    names.extend(self.ports().iter().map(|port| match port {
                        22 => name.clone(),
                        _ => format!("[{name}]:{port}"),
                    }));
                }
                let names = names.join(",");
                let line = |key: String| format!("{names} {key}\n");
                host.host_keys().into_iter().map(line).collect::<String>()
            })
            .collect();
        fs::write(self.known_hosts(), text).expect("the harness can write to its own directory");
    }

    /// Arguments for a real `ssh`, `scp` or `sftp` with the key and the known
    /// hosts above, that asks nothing and reads no configuration.
    pub fn ssh_args(&self) -> Vec<String> {
        self.ssh_args_with(&self.key())
    }

    /// As [`Hosts::ssh_args`], with another private key.
    pub fn ssh_args_with(&self, key: &Path) -> Vec<String> {
        let options = [
            "-F".to_owned(),
            "none".to_owned(),
            "-i".to_owned(),
            key.display().to_string(),
        ];
        let settings = [
            "IdentitiesOnly=yes".to_owned(),
            format!("UserKnownHostsFile={}", self.known_hosts().display()),
            "GlobalKnownHostsFile=/dev/null".to_owned(),
            "StrictHostKeyChecking=yes".to_owned(),
            "BatchMode=yes".to_owned(),
        ]
        .map(|setting| ["-o".to_owned(), setting]);
        options
            .into_iter()
            .chain(settings.into_iter().flatten())
            .collect()
    }

    /// A real `ssh` to a host, by key; the remote command is still to be added.
    pub fn ssh(&self, user: &str, host: &Host) -> Command {
        let mut ssh = self.client("ssh");
        ssh.args(self.ssh_args())
            .arg(format!("{user}@{}", host.name()));
        ssh
    }

    /// A real `ssh` to a host, by password only.
    pub fn ssh_with_password(&self, user: &str, password: &str, host: &Host) -> Command {
        let mut ssh = self.client("ssh");
        // The first value of an option counts, so these go before `ssh_args`.
        ssh.args(["-o", "BatchMode=no"])
            .args(["-o", "NumberOfPasswordPrompts=1"])
            .args(["-o", "PubkeyAuthentication=no"])
            .args([
                "-o",
                "PreferredAuthentications=password,keyboard-interactive",
            ])
            .args(self.ssh_args())
            .arg(format!("{user}@{}", host.name()))
            .env("SSH_ASKPASS", self.dir().join("askpass.sh"))
            .env("SSH_ASKPASS_REQUIRE", "force")
            .env("ASKPASS_ANSWER", password);
        ssh
    }

    /// Runs a closure on a thread in the client's network, so that a test can
    /// connect to the hosts, or listen where they can connect to.
    pub fn in_network<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        in_network(self.namespaces(), work)
    }
}

/// See [`Hosts::in_network`].
pub(super) fn in_network<T: Send>(namespaces: &Namespaces, work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // A thread of its own, for a thread takes its network along for
            // good.
            move_into_link_name_space(namespaces.network.as_fd(), Some(LinkNameSpaceType::Network))
                .expect("root may enter a network namespace");
            work()
        });
        thread
            .join()
            .unwrap_or_else(|payload| panic::resume_unwind(payload))
    })
}
