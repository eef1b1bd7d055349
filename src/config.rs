//! What the user meant: checked and typed, with nothing left of how it was
//! written on the command line (that is `cli`).

use std::fs::File;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::archive::compress::Compression;
use crate::archive::sources::Sources;
use crate::hosts::Target;
use crate::output::template::Template;
use crate::output::theme::Theme;
use crate::remote::protocol::Prefix;
use crate::remote::sudo::Nonces;
use crate::ssh::host_keys::Policy;
use crate::ssh::keys::KeyFile;
use crate::ssh::session::Liveness;

/// A whole run.
#[derive(Debug)]
pub struct Config {
    /// The hosts, in order; at least one.
    pub targets: Vec<Target>,
    /// What is done on them.
    pub mode: Mode,
    /// How they are locked.
    pub lock: Lock,
    /// What watches over them.
    pub guard: GuardLines,
    /// How they are reached.
    pub connection: Connection,
    /// What is asked before the first connection.
    pub secrets: Secrets,
    /// How many hosts are connected and started at once.
    pub threads: usize,
    /// Go on without hosts that cannot be reached (`-w`).
    pub skip_unreachable: bool,
    /// The first failure ends the run.
    pub fail_fast: bool,
    /// How it all looks.
    pub look: Look,
}

/// The mode.
#[derive(Debug)]
pub enum Mode {
    /// Print the targets.
    List,
    /// Run a command (`-C`).
    Command(Command),
    /// Upload files (`-U`).
    Upload(Upload),
    /// Upload files, and run the sync tool (`-S`).
    Sync(Box<Sync>),
    /// Hold the lock (`-L`).
    Lock,
}

impl Mode {
    /// Whether what is typed on our terminal goes to the hosts (`-i` from a
    /// terminal).
    #[must_use]
    pub fn is_interactive(&self) -> bool {
        let command = match self {
            Self::Command(command) => command,
            Self::Sync(sync) => &sync.tool,
            Self::List | Self::Upload(_) | Self::Lock => return false,
        };
        let input = command.input.as_ref();
        input.is_some_and(|input| input.file.is_terminal())
    }
}

/// How hosts are locked.
#[derive(Debug, Clone, Copy)]
pub struct Lock {
    /// They are locked at all (not with `-y`).
    pub is_wanted: bool,
    /// A lock that cannot be had, or is lost, is only a warning (`-t`).
    pub is_optional: bool,
    /// How long to wait for a lock that somebody else holds.
    pub wait: Duration,
}

/// The guard, in several forms.
#[derive(Debug)]
pub struct GuardLines {
    /// One that locks.
    pub locking: Lines,
    /// One that only ends commands.
    pub plain: Lines,
    /// One that ends commands at once.
    pub sweep: Lines,
    /// The words that tell sudo's output from the guard's, if there is sudo.
    pub nonces: Option<Nonces>,
    /// The interval of heartbeats.
    pub period: Duration,
}

/// The same thing for the login shell of a user, and for that of root, who needs
/// no sudo.
#[derive(Debug)]
pub struct Lines {
    /// With sudo, if that is wanted.
    pub as_user: String,
    /// Without.
    pub as_root: String,
}

/// Files for all hosts.
#[derive(Debug)]
pub struct Upload {
    /// What is uploaded.
    pub sources: Sources,
    /// How it is compressed, if it is.
    pub compression: Option<Compression>,
    /// What takes it on the hosts.
    pub lines: Lines,
    /// The words that tell sudo's output from tar's (`-x`).
    pub nonces: Option<Nonces>,
    /// The id of the run directory, where it goes to one.
    pub run_directory: Option<Arc<str>>,
}

/// What `-S` does.
#[derive(Debug)]
pub struct Sync {
    /// What is uploaded first (not with `--no-upload`).
    pub upload: Option<Upload>,
    /// The sync tool.
    pub tool: Command,
    /// What the messages of sync tools begin with (not with `-m`).
    pub protocol: Option<Prefix>,
    /// Tells whether the default sync tool is there, if it is the one to run.
    pub find: Option<Lines>,
    /// Options that were given and mean something to a tool only.
    pub tool_options: Vec<&'static str>,
    /// Puts the files of the run directory in place, if there is one and these
    /// have a place.
    pub place: Option<Place>,
}

/// The built-in way to put files in place.
#[derive(Debug)]
pub struct Place {
    /// What does it on the hosts.
    pub lines: Lines,
    /// Whether it is done before a tool runs (`--apply`), or only where there is
    /// none.
    pub is_wanted: bool,
}

/// What `-C` runs, or a sync tool.
#[derive(Debug)]
pub struct Command {
    /// The string for the login shell.
    pub line: String,
    /// The same without sudo, for root, who needs none.
    pub as_root: String,
    /// The default shell is used, so a missing bash needs a hint.
    pub needs_bash: bool,
    /// The words that tell sudo's output from the command's (`-x`).
    pub nonces: Option<Nonces>,
    /// Sent to every command's stdin (`-i`).
    pub input: Option<InputFile>,
    /// With a pseudo-terminal.
    pub terminal: bool,
    /// How long it may take on each host.
    pub timeout: Option<Duration>,
}

/// What `-i` names.
#[derive(Debug)]
pub struct InputFile {
    /// Opened.
    pub file: File,
    /// As messages name it.
    pub name: String,
}

/// How hosts are reached.
#[derive(Debug)]
pub struct Connection {
    /// Keys named with `-k`, read already.
    pub keys: Vec<KeyFile>,
    /// Keys that are tried where they exist.
    pub default_keys: Vec<PathBuf>,
    /// What to do with unknown host keys.
    pub host_keys: Policy,
    /// known_hosts files of the user; new keys go to the first.
    pub known_hosts: Vec<PathBuf>,
    /// known_hosts files of the system.
    pub global_known_hosts: Vec<PathBuf>,
    /// TCP connect, handshake and authentication together.
    pub timeout: Duration,
    /// When a silent host counts as lost.
    pub liveness: Liveness,
}

/// Which secrets to ask for.
#[derive(Debug, Clone, Copy)]
pub struct Secrets {
    /// A password for all hosts (`-p`).
    pub password: bool,
    /// A password for sudo (`-K`).
    pub sudo_password: bool,
}

/// How output and log look.
#[derive(Debug)]
pub struct Look {
    /// The display.
    pub form: Form,
    /// Also written into files here (`--output-dir`).
    pub directory: Option<PathBuf>,
    /// The colours.
    pub theme: Theme,
    /// A template for log lines (`--log-format`).
    pub log_format: Option<Template>,
    /// A template for the status bar (`--bar-format`).
    pub bar_format: Option<Template>,
    /// `-q`.
    pub quiet: bool,
    /// How often `-v` was given.
    pub verbose: u8,
    /// `--raw`.
    pub raw: bool,
    /// `--color`.
    pub color: Color,
}

/// The display of output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Lines as they come.
    Text,
    /// One host after the other (`-l`).
    Grouped,
    /// Identical output once (`--fold`).
    Folded {
        /// The others as differences from the most common output (`--diff`).
        diff: bool,
    },
    /// JSON Lines (`--json`).
    Json,
}

/// When to use colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Color {
    /// On a terminal, unless `NO_COLOR` or `TERM=dumb` say otherwise.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}
