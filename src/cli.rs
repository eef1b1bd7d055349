//! The command line: what was typed, turned into what was meant.
//!
//! The only module that knows clap. [`parse`] checks everything that can be
//! checked without a network (hosts, files, keys, numbers), so that a run never
//! fails halfway for a reason that was plain from the start.

mod args;
mod look;
mod time;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, BufReader, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::{CommandFactory, FromArgMatches};
use rustix::io::Errno;

use crate::archive::compress::Compression;
use crate::archive::names::Naming;
use crate::archive::sources::{Options, Sources};
use crate::cluster::guard::LEASE_PERIODS;
use crate::config::{
    Command, Config, Connection, GuardLines, InputFile, Lines, Lock, Mode, Place, Secrets, Sync,
    Upload,
};
use crate::error::{ExitStatus, Tree};
use crate::hosts::{self, Address, Target};
use crate::output::printer::OutputError;
use crate::remote;
use crate::remote::command_line::{CommandLine, DEFAULT_SHELL, Directory, Shell};
use crate::remote::guard::{Guard, LockTarget, Make};
use crate::remote::place;
use crate::remote::protocol::Prefix;
use crate::remote::sudo::Nonces;
use crate::ssh::host_keys::Policy;
use crate::ssh::keys;
use crate::ssh::session::Liveness;

use args::{Args, DEFAULT_SYNC, HostKeys, Method};

/// Keys that ssh tries too, below `~/.ssh`.
const DEFAULT_KEYS: [&str; 3] = ["id_ed25519", "id_ecdsa", "id_rsa"];

/// The interval of heartbeats, unless `--send-timeout` is shorter.
const LONGEST_PERIOD: Duration = Duration::from_secs(10);

/// However short that is: a host must have a chance to answer.
const SHORTEST_PERIOD: Duration = Duration::from_millis(400);

/// From here on no system call takes a path (limits.h(0P); here Linux's value, which
/// is the largest in use).
const PATH_MAX: usize = 4096;

/// Why there is nothing to run.
#[derive(Debug)]
pub enum Early {
    /// Help and version, or a mistake that clap found.
    Clap(clap::Error),
    /// A mistake that we found.
    Usage(Tree),
}

impl Early {
    /// Tells the user, and says how to exit.
    #[must_use]
    pub fn print(self) -> ExitStatus {
        match self {
            Self::Clap(error) if error.use_stderr() => {
                // Nothing can be said if that does not work.
                let _ = error.print();
                ExitStatus::Usage
            }
            // Help and version are what was asked for.
            Self::Clap(text) => match text.print() {
                Ok(()) => ExitStatus::Success,
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitStatus::BrokenPipe,
                Err(error) => complain(Tree::from_error(&OutputError::Failed(error))),
            },
            Self::Usage(tree) => {
                let text = format!("error: {}\n", tree.flat());
                let _ = io::stderr().write_all(text.as_bytes());
                ExitStatus::Usage
            }
        }
    }
}

impl<E: std::error::Error> From<E> for Early {
    fn from(error: E) -> Self {
        Self::Usage(Tree::from_error(&error))
    }
}

fn usage(text: impl Into<String>) -> Early {
    Early::Usage(Tree::new(text))
}

/// Says what went wrong when there is no printer to say it.
pub fn complain(error: Tree) -> ExitStatus {
    Early::Usage(error).print()
}

/// Ends the process by a signal.
pub fn die_by(signal: i32) {
    // For the signals that we end by, the default is the end; should that fail,
    // the exit status says the same.
    let _ = signal_hook::low_level::emulate_default_handler(signal);
}

/// Reads the command line, the files that it names, and stdin if it says so.
///
/// # Errors
/// There is nothing to run: help, version, or a mistake.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Config, Early> {
    let matches = Args::command()
        .try_get_matches_from(arguments)
        .map_err(Early::Clap)?;
    let args = Args::from_arg_matches(&matches).map_err(Early::Clap)?;
    Typed {
        args,
        home: std::env::home_dir(),
    }
    .into_config()
}

/// What was typed, and where `~` is.
struct Typed {
    args: Args,
    home: Option<PathBuf>,
}

impl Typed {
    fn into_config(self) -> Result<Config, Early> {
        self.check_combinations()?;
        let targets = self.targets()?;
        let nonces = (self.args.sudo || self.args.ask_sudo_password)
            .then(|| nonces(self.args.ask_sudo_password))
            .transpose()?;
        let mode = if self.args.list {
            Mode::List
        } else if self.args.lock {
            Mode::Lock
        } else if self.args.upload {
            Mode::Upload(self.upload(nonces.clone())?)
        } else if self.args.sync {
            Mode::Sync(Box::new(self.sync(nonces.clone())?))
        } else {
            Mode::Command(self.command(nonces.clone())?)
        };
        let args = &self.args;
        Ok(Config {
            mode,
            lock: Lock {
                is_wanted: !args.no_lock,
                is_optional: args.no_lock || args.no_lock_fail,
                wait: args.lock_wait.unwrap_or_default(),
            },
            guard: self.guard(nonces),
            connection: self.connection()?,
            secrets: Secrets {
                password: args.password,
                sudo_password: args.ask_sudo_password,
            },
            threads: args.threads,
            skip_unreachable: args.no_conn_fail,
            fail_fast: args.fail_fast,
            look: look::look(args, self.home.as_deref())?,
            targets,
        })
    }

    fn check_combinations(&self) -> Result<(), Early> {
        let args = &self.args;
        look::check_combinations(args)?;
        let takes_words = args.command || args.upload || args.sync;
        if !takes_words && let Some(word) = args.words.first() {
            let advice = match () {
                () if args.lock => "-L holds locks and runs nothing",
                () if args.list => "name hosts with -o",
                () => "to run it as a command, put -C before it",
            };
            return Err(usage(format!(
                "'{}' is no option; {advice}",
                word.display()
            )));
        }
        if !args.list && !args.lock && !takes_words {
            return Err(usage(
                "there is nothing to do; -C runs a command, as in: orgalorg -o web1 -C uptime (see --help)",
            ));
        }
        if args.command && args.words.is_empty() {
            return Err(usage(
                "-C needs a command, as in: orgalorg -o web1 -C uptime",
            ));
        }
        self.check_files()?;
        self.check_places()?;
        self.check_belongings()?;
        let reads_stdin = args.stdin.as_deref().is_some_and(is_stdin);
        if args.read_stdin && reads_stdin {
            return Err(usage(
                "-s reads the hosts from stdin, so -i cannot read it too; put the hosts into a file: -o ./hosts",
            ));
        }
        Ok(())
    }

    /// Files, and where they go.
    fn check_files(&self) -> Result<(), Early> {
        let args = &self.args;
        if args.upload && args.words.is_empty() {
            return Err(usage(
                "-U needs files, as in: orgalorg -o web1 -r / -U /etc/motd",
            ));
        }
        if args.upload && args.root.is_none() {
            return Err(usage(
                "-U needs a directory to upload to, as in: -r / (-S uploads to one of its own)",
            ));
        }
        if args.sync && args.sync_cmd.is_empty() {
            return Err(usage("-n needs a command"));
        }
        if args.sync && args.words.is_empty() && !args.no_upload {
            return Err(usage("-S needs files, or --no-upload"));
        }
        if let Some(word) = args.words.first().filter(|_| args.sync && args.no_upload) {
            return Err(usage(format!(
                "'{}' is not uploaded with --no-upload; leave out one of them",
                word.display()
            )));
        }
        Ok(())
    }

    /// Paths on the hosts.
    fn check_places(&self) -> Result<(), Early> {
        let args = &self.args;
        for (option, path, what) in [
            ("-r", &args.root, "a directory"),
            ("--lock-file", &args.lock_file, "a file or directory"),
        ] {
            match path.as_ref().map_or(1, |path| path.len()) {
                0 => return Err(usage(format!("{option} needs {what}"))),
                1..PATH_MAX => {}
                length => {
                    return Err(usage(format!(
                        "{option}: the path has {length} bytes, and no system takes more than {}",
                        PATH_MAX - 1
                    )));
                }
            }
        }
        Ok(())
    }

    /// Options that say something about what is not done.
    fn check_belongings(&self) -> Result<(), Early> {
        let args = &self.args;
        let runs = args.command || args.sync;
        let runs_plainly = args.command || (args.sync && args.simple);
        let uploads = args.upload || (args.sync && !args.no_upload);
        let (files, tools) = ("-U, or -S with files", "-S");
        for (is_given, option, has_use, belongs_to) in [
            (
                args.stdin.is_some(),
                "-i",
                runs_plainly,
                "-C, or -S with -m",
            ),
            (args.tty, "--tty", runs_plainly, "-C, or -S with -m"),
            (args.timeout.is_some(), "--timeout", runs, "-C or -S"),
            (args.fail_fast, "--fail-fast", runs, "-C or -S"),
            (args.shell != DEFAULT_SHELL, "--shell", runs, "-C or -S"),
            (args.relative, "-e", uploads, files),
            (args.dereference, "--dereference", uploads, files),
            (args.no_preserve_uid, "--no-preserve-uid", uploads, files),
            (args.no_preserve_gid, "--no-preserve-gid", uploads, files),
            (args.compress.is_some(), "--compress", uploads, files),
            (
                args.sync_cmd != DEFAULT_SYNC.as_str(),
                "-n",
                args.sync,
                tools,
            ),
            (!args.sync_args.is_empty(), "-g", args.sync, tools),
            (args.simple, "-m", args.sync, tools),
            (args.no_upload, "--no-upload", args.sync, tools),
            (args.apply, "--apply", args.sync, tools),
        ] {
            if is_given && !has_use && !args.list {
                return Err(usage(format!("{option} goes with {belongs_to} only")));
            }
        }
        Ok(())
    }

    fn targets(&self) -> Result<Vec<Target>, Early> {
        let args = &self.args;
        let mut stdin = BufReader::new(io::stdin());
        let stdin: Option<&mut dyn io::BufRead> = if args.read_stdin {
            Some(&mut stdin)
        } else {
            None
        };
        let home = self.home.as_deref();
        let addresses = hosts::collect(&args.hosts, stdin, home)?;
        let excluded = hosts::collect(&args.exclude, None, home)?;
        if addresses.is_empty() {
            return Err(usage(self.no_hosts()));
        }
        let user = match &args.user {
            Some(user) => check_user(user)?,
            None => local_user()?,
        };
        let targets = hosts::resolve(addresses, |_: &Address| (user.clone(), 22));
        let targets = hosts::exclude(targets, &excluded);
        if targets.is_empty() {
            return Err(usage("--exclude leaves no hosts to work on"));
        }
        Ok(targets)
    }

    /// Why there are no hosts. An expression names some always, so that only
    /// files and stdin can have been without.
    fn no_hosts(&self) -> String {
        let args = &self.args;
        let files = args.hosts.iter();
        let mut sources: Vec<String> = files
            .map(|file| format!("in '{}'", file.display()))
            .collect();
        if args.read_stdin {
            sources.push("on stdin".to_owned());
        }
        if sources.is_empty() {
            "there are no hosts to work on, name some with -o or -s".to_owned()
        } else {
            format!("there are no hosts to work on: none {}", sources.join(", "))
        }
    }

    fn command(&self, nonces: Option<Nonces>) -> Result<Command, Early> {
        let program = self.args.words.join(OsStr::new(" ")).into_vec();
        self.runs(&program, None, self.root_or(Directory::Home), nonces)
    }

    fn sync(&self, nonces: Option<Nonces>) -> Result<Sync, Early> {
        let args = &self.args;
        let upload = (!args.no_upload)
            .then(|| self.upload(nonces.clone()))
            .transpose()?;
        let run_directory = upload
            .as_ref()
            .and_then(|upload| upload.run_directory.clone());
        let directory = match &run_directory {
            Some(_) => Directory::Run,
            None => self.root_or(Directory::Home),
        };
        let words = args.sync_args.iter();
        let words: Vec<Vec<u8>> = words.map(|word| word.as_bytes().to_vec()).collect();
        let program = args.sync_cmd.as_bytes();
        let tool = self.runs(program, Some(&words), directory, nonces.clone())?;
        let lines = |line: &dyn Fn(Option<&Nonces>) -> String| Lines {
            as_user: line(nonces.as_ref()),
            as_root: line(None),
        };
        let is_default = args.sync_cmd == DEFAULT_SYNC.as_str();
        let place = run_directory
            .as_ref()
            .filter(|_| !args.relative && (is_default || args.apply))
            .map(|_| Place {
                lines: lines(&|sudo| place::place(sudo)),
                is_wanted: args.apply,
            });
        Ok(Sync {
            upload,
            tool,
            protocol: (!args.simple)
                .then(|| random().map(Prefix::new))
                .transpose()?,
            find: is_default.then(|| lines(&place::find_default_tool)),
            tool_options: [
                ("-g", !args.sync_args.is_empty()),
                ("-i", args.stdin.is_some()),
            ]
            .into_iter()
            .filter_map(|(option, is_given)| is_given.then_some(option))
            .collect(),
            place,
        })
    }

    fn root_or<'a>(&'a self, otherwise: Directory<'a>) -> Directory<'a> {
        let root = self.args.root.as_deref().map(OsStrExt::as_bytes);
        root.map_or(otherwise, Directory::Path)
    }

    /// A command or sync tool.
    fn runs(
        &self,
        program: &[u8],
        arguments: Option<&[Vec<u8>]>,
        directory: Directory<'_>,
        nonces: Option<Nonces>,
    ) -> Result<Command, Early> {
        let args = &self.args;
        let shell = Shell::new(&args.shell)?;
        let line = |sudo| {
            CommandLine {
                program,
                shell: &shell,
                arguments,
                directory,
                sudo,
            }
            .build()
        };
        let (line, as_root) = (line(nonces.as_ref())?, line(None)?);
        Ok(Command {
            line,
            needs_bash: shell.is_default(),
            as_root,
            nonces,
            input: args
                .stdin
                .as_deref()
                .map(|path| open_input(&self.expand_home(path)))
                .transpose()?,
            terminal: args.tty,
            timeout: args.timeout,
        })
    }

    /// The files, all of which are looked at now.
    fn upload(&self, nonces: Option<Nonces>) -> Result<Upload, Early> {
        let args = &self.args;
        let paths: Vec<PathBuf> = args.words.iter().map(PathBuf::from).collect();
        let options = Options {
            naming: if args.relative {
                Naming::Relative
            } else {
                Naming::Absolute
            },
            dereference: args.dereference,
            keep_uid: !args.no_preserve_uid,
            keep_gid: !args.no_preserve_gid,
        };
        let compression = args.compress.map(|method| match method {
            Method::Gzip => Compression::Gzip,
            Method::Zstd => Compression::Zstd,
        });
        let id: Option<Arc<str>> = args.root.is_none().then(run_directory_id);
        let directory = match &id {
            Some(_) => Directory::Run,
            None => self.root_or(Directory::Home),
        };
        let line = |sudo| {
            remote::upload::Upload {
                directory,
                unpacker: compression.map(Compression::program),
                sudo,
            }
            .command()
        };
        Ok(Upload {
            sources: Sources::check(&paths, options)?,
            compression,
            lines: Lines {
                as_user: line(nonces.as_ref()),
                as_root: line(None),
            },
            nonces,
            run_directory: id,
        })
    }

    fn guard(&self, nonces: Option<Nonces>) -> GuardLines {
        let args = &self.args;
        let root = args.root.as_deref().map(OsStrExt::as_bytes);
        let target = match &args.lock_file {
            Some(path) => LockTarget {
                path: path.as_os_str().as_bytes().to_vec(),
                make: Make::File,
            },
            None => LockTarget {
                path: root.unwrap_or(b"/").to_vec(),
                make: if args.upload || (args.sync && !args.no_upload) {
                    Make::Directory
                } else {
                    Make::Nothing
                },
            },
        };
        let period = (args.send_timeout * 4 / 5).clamp(SHORTEST_PERIOD, LONGEST_PERIOD);
        let holder = holder();
        let lines = |lock, is_sweep| {
            let line = |sudo| {
                let guard = Guard {
                    lock,
                    lease: period * LEASE_PERIODS,
                    holder: &holder,
                    sudo,
                };
                if is_sweep {
                    guard.sweep()
                } else {
                    guard.command()
                }
            };
            Lines {
                as_user: line(nonces.as_ref()),
                as_root: line(None),
            }
        };
        GuardLines {
            locking: lines(Some(&target), false),
            plain: lines(None, false),
            sweep: lines(None, true),
            nonces: nonces.clone(),
            period,
        }
    }

    fn connection(&self) -> Result<Connection, Early> {
        let args = &self.args;
        let mut named = Vec::new();
        for path in &args.keys {
            named.push(keys::read(&self.expand_home(path))?);
        }
        let in_home = |names: &[&str]| -> Vec<PathBuf> {
            let directory = self.home.as_ref().map(|home| home.join(".ssh"));
            directory
                .iter()
                .flat_map(|directory| names.iter().map(|name| directory.join(name)))
                .collect()
        };
        Ok(Connection {
            keys: named,
            default_keys: in_home(&DEFAULT_KEYS),
            host_keys: match args.host_keys {
                HostKeys::Strict => Policy::Strict,
                HostKeys::Ask => Policy::Ask,
                HostKeys::AcceptNew => Policy::AcceptNew,
                HostKeys::Off => Policy::Off,
            },
            known_hosts: match &args.known_hosts {
                Some(path) => vec![self.expand_home(path)],
                None => in_home(&["known_hosts", "known_hosts2"]),
            },
            global_known_hosts: ["/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2"]
                .map(PathBuf::from)
                .to_vec(),
            timeout: args.conn_timeout,
            liveness: Liveness {
                send_timeout: args.send_timeout,
                recv_timeout: args.recv_timeout,
                keep_alive: args.keep_alive,
            },
        })
    }

    fn expand_home(&self, path: &Path) -> PathBuf {
        expand_home(path, self.home.as_deref())
    }
}

/// `~/` at the beginning, for where no shell has seen it (`--key=~/k`).
fn expand_home(path: &Path, home: Option<&Path>) -> PathBuf {
    match (path.strip_prefix("~"), home) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => path.to_owned(),
    }
}

fn is_stdin(path: &Path) -> bool {
    ["-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"]
        .iter()
        .any(|name| path == Path::new(name))
}

/// Opens what `-i` names, so that a mistake is found before anything is run.
fn open_input(path: &Path) -> Result<InputFile, Early> {
    let failed = |error: &io::Error| {
        Early::Usage(
            Tree::new(format!("can't open input file '{}'", path.display()))
                .because(Tree::from_error(error)),
        )
    };
    let file = if is_stdin(path) {
        io::stdin()
            .as_fd()
            .try_clone_to_owned()
            .map(File::from)
            .map_err(|error| failed(&error))?
    } else {
        File::open(path).map_err(|error| failed(&error))?
    };
    let metadata = file.metadata().map_err(|error| failed(&error))?;
    if metadata.is_dir() {
        // Said as the system says it.
        return Err(failed(&Errno::ISDIR.into()));
    }
    let name = if is_stdin(path) {
        "stdin".to_owned()
    } else {
        format!("'{}'", path.display())
    };
    Ok(InputFile { file, name })
}

/// Who we are, for those who want the lock too.
fn holder() -> String {
    let user = local_user().unwrap_or_else(|_| "somebody".into());
    let host = rustix::system::uname();
    let host = host.nodename().to_string_lossy().into_owned();
    let time = jiff::ZonedDateTime::now().strftime("%F %T %:z");
    format!("{user}@{host} since {time}")
}

/// A run directory's name: when the run began, in local time.
fn run_directory_id() -> Arc<str> {
    let now = jiff::ZonedDateTime::now();
    now.strftime("%Y%m%d%H%M%S.%6f").to_string().into()
}

fn check_user(user: &str) -> Result<String, Early> {
    // As an address, so that the same is allowed as before an @.
    match format!("{user}@host").parse::<Address>() {
        Ok(Address {
            user: Some(checked),
            ..
        }) if checked == user => Ok(checked),
        _ => Err(usage(format!("'{user}' is not a user name"))),
    }
}

fn local_user() -> Result<String, Early> {
    let uid = nix::unistd::Uid::current();
    match nix::unistd::User::from_uid(uid) {
        Ok(Some(user)) => Ok(user.name),
        _ => Err(usage(format!(
            "the local user with uid {uid} has no name, so say with -u whom to log in as"
        ))),
    }
}

fn nonces(with_password: bool) -> Result<Nonces, Early> {
    Ok(Nonces::new(random()?, with_password))
}

fn random<const N: usize>() -> Result<[u8; N], Early> {
    let mut random = [0; N];
    getrandom::fill(&mut random)
        .map_err(|error| usage(format!("the system gives no random numbers: {error}")))?;
    Ok(random)
}
