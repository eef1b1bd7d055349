//! The command line: what was typed, turned into what was meant.
//!
//! The only module that knows clap. [`parse`] checks everything that can be
//! checked without a network (hosts, files, keys, numbers), so that a run never
//! fails halfway for a reason that was plain from the start.

mod args;
mod time;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, BufReader, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{CommandFactory, FromArgMatches};
use rustix::io::Errno;

use crate::cluster::guard::LEASE_PERIODS;
use crate::config::{
    Command, Config, Connection, GuardLines, InputFile, Lines, Lock, Look, Mode, Secrets,
};
use crate::error::{ExitStatus, Tree};
use crate::hosts::{self, Address, Target};
use crate::output::printer::OutputError;
use crate::remote::command_line::{CommandLine, Shell};
use crate::remote::guard::{Guard, LockTarget, Make};
use crate::remote::sudo::Nonces;
use crate::ssh::host_keys::Policy;
use crate::ssh::keys;
use crate::ssh::session::Liveness;

use args::{Args, HostKeys};

/// Keys that ssh tries too, below `~/.ssh`.
const DEFAULT_KEYS: [&str; 3] = ["id_ed25519", "id_ecdsa", "id_rsa"];

/// The interval of heartbeats, unless `--send-timeout` is shorter.
const LONGEST_PERIOD: Duration = Duration::from_secs(10);

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
            look: Look {
                quiet: args.quiet,
                verbose: args.verbose,
                raw: args.raw,
                color: args.color.into(),
            },
            targets,
        })
    }

    fn check_combinations(&self) -> Result<(), Early> {
        let args = &self.args;
        if !args.command
            && let Some(word) = args.words.first()
        {
            let advice = if args.list || args.lock {
                "name hosts with -o"
            } else {
                "to run it as a command, put -C before it"
            };
            return Err(usage(format!(
                "'{}' is no option; {advice}",
                word.display()
            )));
        }
        if !args.list && !args.lock && !args.command {
            return Err(usage(
                "there is nothing to do; -C runs a command, as in: orgalorg -o web1 -C uptime (see --help)",
            ));
        }
        if args.command && args.words.is_empty() {
            return Err(usage(
                "-C needs a command, as in: orgalorg -o web1 -C uptime",
            ));
        }
        if args.lock && !args.words.is_empty() {
            return Err(usage(
                "-L holds locks and runs nothing; leave out the command, or -L",
            ));
        }
        let reads_stdin = args.stdin.as_deref().is_some_and(is_stdin);
        if args.read_stdin && reads_stdin {
            return Err(usage(
                "-s reads the hosts from stdin, so -i cannot read it too; put the hosts into a file: -o ./hosts",
            ));
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
        let args = &self.args;
        let program = args.words.join(OsStr::new(" ")).into_vec();
        let shell = Shell::new(&args.shell)?;
        let directory = args.root.as_deref().map(OsStrExt::as_bytes);
        if directory.is_some_and(<[u8]>::is_empty) {
            return Err(usage("-r needs a directory"));
        }
        let line = |sudo| {
            CommandLine {
                program: &program,
                shell: &shell,
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
                make: Make::Nothing,
            },
        };
        let period = LONGEST_PERIOD.min(args.send_timeout * 4 / 5);
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

    /// `~/` at the beginning, for where no shell has seen it (`--key=~/k`).
    fn expand_home(&self, path: &Path) -> PathBuf {
        match (path.strip_prefix("~"), &self.home) {
            (Ok(rest), Some(home)) => home.join(rest),
            _ => path.to_owned(),
        }
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
    let mut random = [0; 16];
    getrandom::fill(&mut random)
        .map_err(|error| usage(format!("the system gives no random numbers: {error}")))?;
    Ok(Nonces::new(random, with_password))
}
