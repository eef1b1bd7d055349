//! The options as clap sees them, with their help.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

use clap::{ArgAction, Parser, ValueEnum};

use crate::cli::time;
use crate::config::Color;
use crate::remote::command_line::DEFAULT_SHELL;
use crate::remote::place::DEFAULT_TOOL;
use crate::remote::protocol::HELP;

/// Run a command on many hosts over SSH, with live output from all of them.
#[derive(Debug, Parser)]
#[expect(
    rustdoc::broken_intra_doc_links,
    reason = "brackets in help texts are no links"
)]
#[command(
    name = "orgalorg",
    version,
    disable_help_flag = true,
    disable_version_flag = true,
    infer_long_args = true,
    override_usage = "orgalorg [options] (-o <host>... | -s) -C [--] <command>...\n       orgalorg [options] (-o <host>... | -s) -U -r <dir> <files>...\n       orgalorg [options] (-o <host>... | -s) -S [<files>... | --no-upload]\n       orgalorg [options] (-o <host>... | -s) -L",
    after_help = AFTER_HELP,
    after_long_help = format!("{AFTER_LONG_HELP}\n\nSync protocol:\n{HELP}"),
    next_line_help = false,
    max_term_width = 100
)]
pub(super) struct Args {
    /// Run a command on all hosts at once
    ///
    /// The words are joined by spaces and run by bash on each host, just as
    /// `ssh host WORDS` does. Options stand before the first word; everything
    /// after it belongs to the command.
    #[arg(short = 'C', long, help_heading = "Mode")]
    pub(super) command: bool,

    /// Upload files to all hosts and exit
    ///
    /// They go below -r, under their absolute paths; -e makes these relative.
    #[arg(short = 'U', long, help_heading = "Mode", conflicts_with_all = ["command", "lock"])]
    pub(super) upload: bool,

    /// Upload files, then run the sync tool
    ///
    /// The files go to a new directory on each host, or to -r, and the tool runs
    /// there.
    #[arg(short = 'S', long, help_heading = "Mode", conflicts_with_all = ["command", "lock", "upload"])]
    pub(super) sync: bool,

    /// Hold the cluster lock until interrupted
    #[arg(short = 'L', long, help_heading = "Mode", conflicts_with_all = ["command", "no_lock", "tty", "timeout"])]
    pub(super) lock: bool,

    /// Print the hosts, one per line, and connect to nothing
    #[arg(long, help_heading = "Mode")]
    pub(super) list: bool,

    /// Work on this host: [user@]host[:port], ranges as in web[01-20], or a file
    ///
    /// Repeatable, and a list with commas. Ranges: web[01-20].example.com,
    /// rack[1-2]-n[1-3,7]. IPv6: ::1, [::1]:2222. A value that begins with /,
    /// ./, ../ or ~/ is a file with one such expression per line; empty lines
    /// and # comments are skipped.
    #[arg(
        short = 'o',
        long = "host",
        value_name = "HOST",
        help_heading = "Hosts"
    )]
    pub(super) hosts: Vec<OsString>,

    /// Read (more) hosts from stdin
    #[arg(short = 's', long, help_heading = "Hosts")]
    pub(super) read_stdin: bool,

    /// Leave out this host; the same expressions as -o
    #[arg(long, value_name = "HOST", help_heading = "Hosts")]
    pub(super) exclude: Vec<OsString>,

    /// Go on without hosts that cannot be reached or do not let us in
    ///
    /// By default nothing is run anywhere unless all hosts are there. A host
    /// whose key is refused ends the run in any case.
    #[arg(short = 'w', long, help_heading = "Hosts")]
    pub(super) no_conn_fail: bool,

    /// Connect to, and start on, at most this many hosts at once
    ///
    /// A host whose command has been started makes room for the next one, so that in the
    /// end all hosts may run it at the same time.
    #[arg(
        short = 'd',
        long,
        value_name = "N",
        help_heading = "Hosts",
        default_value = "64",
        value_parser = threads
    )]
    pub(super) threads: usize,

    /// Log in as this user where the host does not say
    #[arg(short = 'u', long, value_name = "USER", help_heading = "Login")]
    pub(super) user: Option<String>,

    /// Use this private key, before all others; repeatable
    #[arg(short = 'k', long = "key", value_name = "FILE", help_heading = "Login")]
    pub(super) keys: Vec<PathBuf>,

    /// Ask once for a password, and use it for all hosts
    ///
    /// It is tried once per host. With -k the keys come first, for servers that
    /// want both.
    #[arg(short = 'p', long, help_heading = "Login")]
    pub(super) password: bool,

    /// What to do with unknown host keys
    #[arg(
        long,
        value_name = "POLICY",
        help_heading = "Login",
        default_value = "ask"
    )]
    pub(super) host_keys: HostKeys,

    /// Read host keys from this file, and record new ones there
    #[arg(long, value_name = "FILE", help_heading = "Login")]
    pub(super) known_hosts: Option<PathBuf>,

    /// Run the command with sudo
    ///
    /// As `sudo -n -E -H`; changes nothing for a root login.
    #[arg(short = 'x', long, help_heading = "Command")]
    pub(super) sudo: bool,

    /// Ask once for sudo's password; implies -x
    #[arg(short = 'K', long, help_heading = "Command")]
    pub(super) ask_sudo_password: bool,

    /// Run the command in this directory
    ///
    /// Files are uploaded there too; it is made if it is missing then.
    #[arg(short = 'r', long, value_name = "DIR", help_heading = "Command")]
    pub(super) root: Option<OsString>,

    /// Send this file to the stdin of every command; `-` is stdin
    ///
    /// A file, a pipe or a terminal. `-i - -C bash` is a parallel shell.
    #[arg(short = 'i', long, value_name = "FILE", help_heading = "Command")]
    pub(super) stdin: Option<PathBuf>,

    /// Run the command through this shell; empty for none
    ///
    /// {} stands for the command, which arrives there as one word.
    #[arg(
        long,
        value_name = "TEMPLATE",
        help_heading = "Command",
        default_value = DEFAULT_SHELL
    )]
    pub(super) shell: String,

    /// Give the command a terminal
    ///
    /// Of the size of the local one. With a single host, bytes pass as they
    /// come, without a prefix.
    #[arg(long, help_heading = "Command")]
    pub(super) tty: bool,

    /// Let the command run no longer than this (such as 30s or 5m) on each host
    #[arg(long, value_name = "TIME", help_heading = "Command", value_parser = time::parse)]
    pub(super) timeout: Option<Duration>,

    /// End the run at the first host that fails
    #[arg(long, help_heading = "Command")]
    pub(super) fail_fast: bool,

    /// Upload under relative paths, as they are given
    #[arg(short = 'e', long, help_heading = "Upload")]
    pub(super) relative: bool,

    /// Uploaded files belong to the user who unpacks them
    #[arg(long, help_heading = "Upload")]
    pub(super) no_preserve_uid: bool,

    /// Uploaded files belong to the group of the user who unpacks them
    #[arg(long, alias = "no-preseve-gid", help_heading = "Upload")]
    pub(super) no_preserve_gid: bool,

    /// Upload what symbolic links point to
    ///
    /// By default that is done only for those that are named on the command
    /// line.
    #[arg(long, help_heading = "Upload")]
    pub(super) dereference: bool,

    /// Compress the upload, once for all hosts
    ///
    /// gzip if no method is named. The hosts need the program of that name.
    #[arg(
        long,
        value_name = "METHOD",
        help_heading = "Upload",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "gzip"
    )]
    pub(super) compress: Option<Method>,

    /// The sync tool, a shell command
    ///
    /// It finds what -g names as "$@". Where the default one is on no host, files
    /// are just put in place, as with --apply.
    #[arg(
        short = 'n',
        long,
        value_name = "COMMAND",
        help_heading = "Sync",
        default_value = DEFAULT_SYNC.as_str()
    )]
    pub(super) sync_cmd: OsString,

    /// An argument for the sync tool; repeatable
    #[arg(
        short = 'g',
        long = "arg",
        value_name = "ARG",
        help_heading = "Sync",
        allow_hyphen_values = true
    )]
    pub(super) sync_args: Vec<OsString>,

    /// The sync tool is a plain command, without a protocol
    #[arg(short = 'm', long, help_heading = "Sync")]
    pub(super) simple: bool,

    /// Run the sync tool without uploading anything
    #[arg(long, help_heading = "Sync")]
    pub(super) no_upload: bool,

    /// Put the files in place before the sync tool runs
    ///
    /// Each is written beside what it replaces and renamed over it. The run
    /// directory is removed afterwards.
    #[arg(long, help_heading = "Sync", conflicts_with_all = ["root", "relative", "no_upload"])]
    pub(super) apply: bool,

    /// Do not lock
    ///
    /// By default every host is locked (flock(1) on -r or /) before anything is
    /// done there, so that two runs cannot get in each other's way.
    #[arg(short = 'y', long, help_heading = "Lock", conflicts_with = "lock_wait")]
    pub(super) no_lock: bool,

    /// A lock that cannot be had, or is lost, is only a warning
    #[arg(short = 't', long, help_heading = "Lock")]
    pub(super) no_lock_fail: bool,

    /// Lock this file or directory on the hosts (default: -r, else /)
    ///
    /// A file is created, empty, where there is nothing.
    #[arg(long, value_name = "PATH", help_heading = "Lock")]
    pub(super) lock_file: Option<OsString>,

    /// Wait this long (such as 30s or 5m) for a lock that somebody else holds
    #[arg(long, value_name = "TIME", help_heading = "Lock", value_parser = time::parse_or_zero)]
    pub(super) lock_wait: Option<Duration>,

    /// Print one host after the other
    ///
    /// All run at once. The first that says something is shown live; the others
    /// are kept, and follow whole.
    #[arg(short = 'l', long, visible_alias = "grouped", help_heading = "Output")]
    pub(super) serial: bool,

    /// Print identical output once, with the hosts that gave it
    ///
    /// At the end, under headings such as web[01-12,14] (13 hosts), most hosts
    /// first.
    #[arg(long, help_heading = "Output")]
    pub(super) fold: bool,

    /// With --fold: the most common output whole, the others as differences
    #[arg(long, help_heading = "Output")]
    pub(super) diff: bool,

    /// Print JSON Lines: output, log messages, and a result of every host
    ///
    /// {"stream":"stdout","node":"[ops@db7:22]","host":"db7","body":"…\n"};
    /// bytes that are no UTF-8 come in body_base64 too. Log messages have no node
    /// and go to stderr. Each host ends with a stream "result" that has status,
    /// code, signal and duration_ms.
    #[arg(long, help_heading = "Output")]
    pub(super) json: bool,

    /// Also write each host's output to DIR/HOST.stdout and .stderr
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    pub(super) output_dir: Option<PathBuf>,

    /// Output without prefixes, no warnings, no status bar
    ///
    /// Exactly the bytes that the hosts send.
    #[arg(short = 'q', long, help_heading = "Output")]
    pub(super) quiet: bool,

    /// Say what is being done; twice: say more
    #[arg(short = 'v', long, action = ArgAction::Count, help_heading = "Output")]
    pub(super) verbose: u8,

    /// Write what hosts send to the terminal as it is
    ///
    /// By default, control characters other than colours are shown escaped on a
    /// terminal.
    #[arg(long, help_heading = "Output")]
    pub(super) raw: bool,

    /// When to use colours
    #[arg(
        long,
        value_name = "WHEN",
        help_heading = "Output",
        default_value = "auto"
    )]
    pub(super) color: When,

    /// Colours for a dark terminal
    #[arg(long, help_heading = "Output")]
    pub(super) colors_dark: bool,

    /// Colours for a light terminal
    #[arg(long, help_heading = "Output")]
    pub(super) colors_light: bool,

    /// Status bar: default, dark, light, or a template
    ///
    /// Text with {phase}, {done}, {total}, {failed}, {bar}, {percent},
    /// {transfer}, {rate}, {clock}, {elapsed}; {failures} and {marks} are empty
    /// while nothing has failed. {phase:red.bold} gives a style.
    #[arg(long, value_name = "FORMAT", help_heading = "Output")]
    pub(super) bar_format: Option<String>,

    /// Log lines: default, dark, light, or a template
    ///
    /// Text with {time}, {level} and {text}. {level:blue} gives a style.
    #[arg(long, value_name = "FORMAT", help_heading = "Output")]
    pub(super) log_format: Option<String>,

    /// Time for connecting, handshake and login together
    #[arg(
        short = 'c',
        long,
        value_name = "TIME",
        help_heading = "Time limits (in ms, or as 500ms, 30s, 5m)",
        default_value = "10000",
        value_parser = |text: &str| time::parse_older("connection timeout", text)
    )]
    pub(super) conn_timeout: Duration,

    /// A host whose connection takes no data for this long has failed
    #[arg(
        short = 'j',
        long,
        value_name = "TIME",
        help_heading = "Time limits (in ms, or as 500ms, 30s, 5m)",
        default_value = "60000",
        value_parser = |text: &str| time::parse_older("send timeout", text)
    )]
    pub(super) send_timeout: Duration,

    /// A host that shows no life for this long has failed
    ///
    /// Keep-alives count as life: a silent command is not a dead host.
    #[arg(
        short = 'z',
        long,
        value_name = "TIME",
        help_heading = "Time limits (in ms, or as 500ms, 30s, 5m)",
        default_value = "60000",
        value_parser = |text: &str| time::parse_older("receive timeout", text)
    )]
    pub(super) recv_timeout: Duration,

    /// Interval of SSH keep-alives
    ///
    /// They are sent while a host is silent; two seconds is the shortest that
    /// is kept.
    #[arg(
        short = 'a',
        long,
        value_name = "TIME",
        help_heading = "Time limits (in ms, or as 500ms, 30s, 5m)",
        default_value = "10000",
        value_parser = |text: &str| time::parse_older("keep alive time", text)
    )]
    pub(super) keep_alive: Duration,

    /// Print help; --help says more
    #[arg(short = 'h', long, action = ArgAction::Help, help_heading = "Information")]
    help: Option<bool>,

    /// Print the version
    #[arg(short = 'V', long, action = ArgAction::Version, help_heading = "Information")]
    version: Option<bool>,

    /// The command with its own options, or files
    #[arg(value_name = "COMMAND", trailing_var_arg = true, hide = true)]
    pub(super) words: Vec<OsString>,
}

const AFTER_HELP: &str = "\
Examples:
  orgalorg -o web[1-3] -C uptime
  orgalorg -o ./hosts -u ops -x -C 'systemctl restart nginx && systemctl is-active nginx'
  orgalorg -o db7 -i script.sh -C bash
  orgalorg -o web[1-3] -x -r / -U /etc/motd
  orgalorg -o web[1-3] -x -m -n 'cp -a etc / && systemctl reload nginx' -S /etc/nginx";

const AFTER_LONG_HELP: &str = "\
Examples:
  orgalorg -o web[1-3] -C uptime
  orgalorg -o ./hosts -u ops -x -C 'systemctl restart nginx && systemctl is-active nginx'
  orgalorg -o db7 -i script.sh -C bash
  orgalorg -o web[1-3] -x -r / -U /etc/motd
  orgalorg -o web[1-3] -x -m -n 'cp -a etc / && systemctl reload nginx' -S /etc/nginx

Exit status:
  0    all hosts are ok (those that -w left out aside)
  1    the command failed on some host
  2    usage, local input (files, keys, passphrases) or output that cannot be written
  3    hosts unreachable or not authenticated, host keys refused, a connection lost
  4    a host could not be locked
  5    a lock was lost
  130, 143, 129
       ended by SIGINT, SIGTERM, SIGHUP
  Where several apply, the first of 5, 4, 3, 1 counts.";

impl Args {
    /// Something is run on the hosts.
    pub(super) fn runs(&self) -> bool {
        self.command || self.sync
    }

    /// What is run speaks no sync protocol, so that its stdin is free.
    pub(super) fn runs_plainly(&self) -> bool {
        self.command || (self.sync && self.simple)
    }

    /// Files are sent to the hosts.
    pub(super) fn uploads(&self) -> bool {
        self.upload || (self.sync && !self.no_upload)
    }
}

/// `--host-keys`
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum HostKeys {
    /// Refuse them
    Strict,
    /// Ask once, for all hosts
    Ask,
    /// Record them
    AcceptNew,
    /// Check nothing (dangerous)
    Off,
}

/// What `-S` runs if nothing else is said.
pub(super) static DEFAULT_SYNC: LazyLock<String> =
    LazyLock::new(|| format!("{DEFAULT_TOOL} \"${{@}}\""));

/// `--compress`
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Method {
    /// Every host has it
    Gzip,
    /// Faster, and smaller
    Zstd,
}

/// `--color`
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum When {
    /// On a terminal; NO_COLOR and TERM=dumb are honoured
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

impl From<When> for Color {
    fn from(when: When) -> Self {
        match when {
            When::Auto => Self::Auto,
            When::Always => Self::Always,
            When::Never => Self::Never,
        }
    }
}

fn threads(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number @ 1..=10_000) => Ok(number),
        // The beginning is what the older program said.
        _ => Err(format!(
            "can't parse threads count: '{text}': write a number from 1 to 10000"
        )),
    }
}
