//! The machine's processes, as `/proc` shows them.
//!
//! The hosts' PID namespaces lie below the one that the tests run in, so every
//! process of every host is visible here, with a PID of its own: the *outer*
//! one. [`Host`](super::Host) uses this to find, freeze and end them.

use std::fs;
use std::path::PathBuf;

use rustix::process::{Pid, Signal, kill_process};

/// A process on a host.
#[derive(Debug, Clone)]
pub struct Process {
    /// The PID that the host itself sees.
    pub pid: i32,
    /// The PID that the test process sees.
    pub outer_pid: i32,
    /// The parent's PID, as the test process sees it.
    pub outer_parent: i32,
    /// The name of the program, cut to 15 bytes by the kernel.
    pub name: String,
    /// The command line, its arguments joined by blanks.
    pub command: String,
    /// The state letter of ps(1): `R`, `S`, `D`, `T`, ...
    pub state: char,
}

impl Process {
    /// The process with this outer PID, unless it has ended.
    pub(super) fn find(outer_pid: i32) -> Option<Self> {
        let proc = PathBuf::from(format!("/proc/{outer_pid}"));
        let status = fs::read_to_string(proc.join("status")).ok()?;
        let field = |name: &str| {
            status.lines().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                (key == name).then(|| value.trim())
            })
        };
        let state = field("State")?.chars().next()?;
        if matches!(state, 'Z' | 'X') {
            return None;
        }
        let pids: Vec<&str> = field("NSpid")?.split_whitespace().collect();
        let command = fs::read(proc.join("cmdline")).ok()?;
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        Some(Self {
            pid: pids.last()?.parse().ok()?,
            outer_pid,
            outer_parent: field("PPid")?.parse().ok()?,
            name: field("Name")?.to_owned(),
            command: command.trim_end().to_owned(),
            state,
        })
    }

    /// All processes that have not ended, but for zombies.
    pub(super) fn all() -> Vec<Self> {
        outer_pids().filter_map(Self::find).collect()
    }

    /// Those in the PID namespace that `namespace` identifies.
    pub(super) fn in_namespace(namespace: &NamespaceId) -> Vec<Self> {
        outer_pids()
            .filter(|&pid| NamespaceId::of_pids(pid).as_ref() == Some(namespace))
            .filter_map(Self::find)
            .collect()
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.state == 'T'
    }

    pub(super) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.outer_pid).expect("a process has a PID above 0");
        // The only failure possible here, as root, is that it has just ended.
        let _ = kill_process(pid, signal);
    }
}

/// What tells one PID namespace from another, e.g. `pid:[4026532299]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NamespaceId(PathBuf);

impl NamespaceId {
    pub(super) fn of_pids(outer_pid: i32) -> Option<Self> {
        fs::read_link(format!("/proc/{outer_pid}/ns/pid"))
            .ok()
            .map(Self)
    }
}

fn outer_pids() -> impl Iterator<Item = i32> {
    fs::read_dir("/proc")
        .expect("/proc is mounted")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}
