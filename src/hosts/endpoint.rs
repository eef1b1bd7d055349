//! How one host is reached: what command line and defaults make of it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How one target is reached. `ssh` and `cluster` take everything that belongs to a
/// single host from here, so targets of one run may differ in all of it.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    /// The name or address to connect to; IPv6 without brackets.
    pub(crate) host: String,
    /// The port to connect to.
    pub(crate) port: u16,
    /// The user to log in as.
    pub(crate) user: String,
    /// What to do with unknown and changed host keys.
    pub(crate) host_keys: HostKeyPolicy,
    /// Where host keys are looked up and recorded.
    pub(crate) known_hosts: Arc<KnownHostsFiles>,
    /// Key files that are tried where they exist, after those of `-k`.
    pub(crate) identity_files: Arc<[PathBuf]>,
    /// Limit of TCP connect, handshake, authentication and the guard's readiness,
    /// together.
    pub(crate) connect_timeout: Duration,
    /// When a silent host counts as lost.
    pub(crate) liveness: Liveness,
}

/// The known_hosts files of an endpoint (ssh_config(5): UserKnownHostsFile and
/// GlobalKnownHostsFile).
#[derive(Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct KnownHostsFiles {
    /// Files of the user. New keys go to the first.
    pub(crate) user: Vec<PathBuf>,
    /// Files of the system.
    pub(crate) global: Vec<PathBuf>,
}

/// What to do with unknown host keys (`--host-keys`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HostKeyPolicy {
    /// Refuse them.
    Strict,
    /// Ask the user, once for all hosts.
    Ask,
    /// Record them.
    AcceptNew,
    /// Take any key, changed ones too.
    Off,
}

/// How the silence of a peer is judged.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Liveness {
    /// A connection that takes no data for this long is lost.
    pub(crate) send_timeout: Duration,
    /// A host that shows no life for this long is lost.
    pub(crate) recv_timeout: Duration,
    /// The interval of keep-alives.
    pub(crate) keep_alive: Duration,
}
