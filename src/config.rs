//! What the user meant: checked and typed, with nothing left of how it was
//! written on the command line (that is `cli`).

use std::fs::File;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

use crate::archive::compress::Compression;
use crate::archive::sources::Sources;
use crate::hosts::{Endpoint, Target};
use crate::output::template::Template;
use crate::output::theme::Theme;
use crate::remote::command_line::{CommandLine, Directory};
use crate::remote::guard::LockTarget;
use crate::ssh::keys::KeyFile;

/// A whole run.
#[derive(Debug)]
pub(crate) struct Config {
    /// The hosts, in order; at least one.
    pub(crate) targets: Vec<Target>,
    /// The mode.
    pub(crate) mode: Mode,
    /// How they are locked.
    pub(crate) lock: Lock,
    /// Run everything on the hosts under sudo (`-x`).
    pub(crate) sudo: bool,
    /// The interval of heartbeats.
    pub(crate) heartbeat: Duration,
    /// How each of them is reached, in the same order.
    pub(crate) endpoints: Vec<Endpoint>,
    /// Keys named with `-k`, read already.
    pub(crate) keys: Vec<KeyFile>,
    /// Secrets that are asked for before the first connection.
    pub(crate) secrets: Secrets,
    /// How many hosts are connected and started at once.
    pub(crate) threads: usize,
    /// Go on without hosts that cannot be reached (`-w`).
    pub(crate) skip_unreachable: bool,
    /// The first failure ends the run.
    pub(crate) fail_fast: bool,
    /// How it all looks.
    pub(crate) output: OutputOptions,
    /// Options that have no effect, to be told when the run begins.
    pub(crate) warning: Option<String>,
}

/// The mode.
#[derive(Debug)]
pub(crate) enum Mode {
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
    /// Whether the user's typing goes to the hosts (`-i` from a terminal).
    #[must_use]
    pub(crate) fn is_interactive(&self) -> bool {
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
#[derive(Debug)]
pub(crate) struct Lock {
    /// They are locked at all (not with `-y`).
    pub(crate) is_wanted: bool,
    /// A lock that cannot be had, or is lost, is only a warning (`-t`).
    pub(crate) is_optional: bool,
    /// How long to wait for a lock that another run holds.
    pub(crate) wait: Duration,
    /// The file or directory that is locked on each host.
    pub(crate) target: LockTarget,
}

/// Files for all hosts.
#[derive(Debug)]
pub(crate) struct Upload {
    /// The files.
    pub(crate) sources: Sources,
    /// How it is compressed, if it is.
    pub(crate) compression: Option<Compression>,
    /// Where it goes on the hosts.
    pub(crate) directory: Directory,
}

/// What `-S` does.
#[derive(Debug)]
pub(crate) struct Sync {
    /// Uploaded first (not with `--no-upload`).
    pub(crate) upload: Option<Upload>,
    /// The sync tool.
    pub(crate) tool: Command,
    /// The tool is the default one, which a host may lack.
    pub(crate) is_default_tool: bool,
    /// The tool speaks the sync protocol (not with `-m`).
    pub(crate) speaks_protocol: bool,
    /// Options that were given and mean something to a tool only.
    pub(crate) tool_options: Vec<&'static str>,
    /// When orgalorg itself puts the files of the run directory in place.
    pub(crate) placing: Placing,
}

/// When orgalorg itself puts the files of a run directory in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Placing {
    /// Never: there is no run directory, or the files have no place of their own.
    Never,
    /// Where the default tool is on none of the hosts.
    InsteadOfTool,
    /// Before the tool runs (`--apply`).
    BeforeTool,
}

/// What `-C` runs, or a sync tool.
#[derive(Debug)]
pub(crate) struct Command {
    /// The command line.
    pub(crate) line: CommandLine,
    /// Sent to every command's stdin (`-i`).
    pub(crate) input: Option<InputFile>,
    /// With a pseudo-terminal.
    pub(crate) terminal: bool,
    /// How long it may take on each host.
    pub(crate) timeout: Option<Duration>,
}

/// What `-i` names.
#[derive(Debug)]
pub(crate) struct InputFile {
    /// Opened.
    pub(crate) file: File,
    /// As messages name it.
    pub(crate) name: String,
}

/// Which secrets to ask for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Secrets {
    /// A password for all hosts (`-p`).
    pub(crate) password: bool,
    /// A password for sudo (`-K`).
    pub(crate) sudo_password: bool,
}

/// How output and log lines are shown.
#[derive(Debug)]
pub(crate) struct OutputOptions {
    /// The display.
    pub(crate) mode: DisplayMode,
    /// Streams are also written to files in this directory (`--output-dir`).
    pub(crate) directory: Option<PathBuf>,
    /// The colours.
    pub(crate) theme: Theme,
    /// `--log-format`.
    pub(crate) log_format: Option<Template>,
    /// `--bar-format`.
    pub(crate) bar_format: Option<Template>,
    /// `-q`.
    pub(crate) is_quiet: bool,
    /// How often `-v` was given.
    pub(crate) verbosity: u8,
    /// `--raw`.
    pub(crate) is_raw: bool,
    /// `--color`.
    pub(crate) color: Color,
}

/// The display of output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DisplayMode {
    /// Lines as they come.
    Text,
    /// One host after the other (`-l`).
    Grouped,
    /// Identical output once (`--fold`).
    Folded {
        /// Differences from the most common output (`--diff`).
        wants_diff: bool,
    },
    /// JSON Lines (`--json`).
    Json,
}

/// When to use colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Color {
    /// On a terminal, unless `NO_COLOR` or `TERM=dumb` say otherwise.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}
