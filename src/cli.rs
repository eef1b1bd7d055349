//! The command line: what was typed, turned into what was meant.
//!
//! The only module that knows clap. [`parse`] checks everything that can be
//! checked without a network (hosts, files, keys, numbers), so that a run never
//! fails halfway for a reason that was plain from the start.

mod args;
mod early;
mod look;
mod mistakes;
mod no_effect;
mod older;
mod paths;
mod time;

use std::ffi::{OsStr, OsString};
use std::io::{self, BufReader};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::{CommandFactory, FromArgMatches};

use crate::archive::compress::Compression;
use crate::archive::names::Naming;
use crate::archive::sources::{Options, Sources};
use crate::config::{Command, Config, Lock, Mode, Placing, Secrets, Sync, Upload};
use crate::error::Tree;
use crate::exit_status::ExitStatus;
use crate::hosts::{self, Address, Endpoint, HostKeyPolicy, KnownHostsFiles, Liveness, Target};
use crate::output::theme::Theme;
use crate::remote::command_line::{CommandLine, Directory, Shell};
use crate::remote::guard::{LockTarget, Make};
use crate::remote::sudo::Nonces;
use crate::ssh::keys::{self, KeyFile};

use args::{Args, DEFAULT_SYNC, HostKeys, Method};
use early::{missing, usage};
use paths::{expand_home, is_stdin, open_input};

pub(crate) use early::Early;

/// Keys that ssh tries too, below `~/.ssh`.
const DEFAULT_KEYS: [&str; 3] = ["id_ed25519", "id_ecdsa", "id_rsa"];

/// The interval of heartbeats, unless `--send-timeout` is shorter.
const LONGEST_PERIOD: Duration = Duration::from_secs(10);

/// However short that is: a host must have a chance to answer.
const SHORTEST_PERIOD: Duration = Duration::from_millis(400);

/// From here on no system call takes a path (limits.h(0P); here Linux's value, which
/// is the largest in use).
const PATH_MAX: usize = 4096;

/// Says what went wrong when there is no printer to say it.
pub(crate) fn complain(error: Tree) -> ExitStatus {
    Early::Usage(error).print()
}

/// Ends the process by a signal.
pub(crate) fn die_by(signal: i32) {
    // For the signals that we end by, the default is the end; should that fail,
    // the exit status says the same.
    let _ = signal_hook::low_level::emulate_default_handler(signal);
}

/// Reads the command line, the files that it names, and stdin if it says so.
///
/// # Errors
/// There is nothing to run: help, version, or a mistake.
pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Config, Early> {
    let mut command = older::with_prefixes(Args::command());
    let matches = command
        .try_get_matches_from_mut(arguments)
        .map_err(|error| mistakes::explain(error, &mut command))?;
    let args = Args::from_arg_matches(&matches).map_err(Early::Clap)?;
    Typed {
        colors: look::last_colors(&args, &matches),
        args,
        home: std::env::home_dir(),
    }
    .into_config()
}

/// What was typed, and where `~` is.
struct Typed {
    args: Args,
    /// The last of `--colors-dark` and `--colors-light`.
    colors: Option<Theme>,
    home: Option<PathBuf>,
}

impl Typed {
    fn into_config(self) -> Result<Config, Early> {
        self.check_combinations()?;
        let targets = self.targets()?;
        let mode = if self.args.list {
            Mode::List
        } else if self.args.lock {
            Mode::Lock
        } else if self.args.upload {
            Mode::Upload(self.upload()?)
        } else if self.args.sync {
            Mode::Sync(Box::new(self.sync()?))
        } else {
            Mode::Command(self.command()?)
        };
        let args = &self.args;
        Ok(Config {
            mode,
            lock: Lock {
                is_wanted: !args.no_lock,
                is_optional: args.no_lock || (args.no_lock_fail && !args.lock),
                wait: args.lock_wait.unwrap_or_default(),
                target: self.lock_target(),
            },
            sudo: args.sudo || args.ask_sudo_password,
            heartbeat: (args.send_timeout * 4 / 5).clamp(SHORTEST_PERIOD, LONGEST_PERIOD),
            endpoints: self.endpoints(&targets),
            keys: self.keys()?,
            secrets: Secrets {
                password: args.password,
                sudo_password: args.ask_sudo_password,
            },
            threads: args.threads,
            skip_unreachable: args.no_conn_fail,
            fail_fast: args.fail_fast,
            output: look::look(args, self.colors, self.home.as_deref())?,
            warning: no_effect::warning(args, self.colors),
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
            return Err(missing(
                "there is nothing to do; -C runs a command, as in: orgalorg -o web1 -C uptime (see --help)",
            ));
        }
        if args.command && args.words.is_empty() {
            return Err(missing(
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
            return Err(missing(
                "-U needs files, as in: orgalorg -o web1 -r / -U /etc/motd",
            ));
        }
        if args.upload && args.root.is_none() {
            return Err(missing(
                "-U needs a directory to upload to, as in: -r / (-S uploads to one of its own)",
            ));
        }
        if args.sync && args.sync_cmd.is_empty() {
            return Err(usage("-n needs a command"));
        }
        if args.sync && args.words.is_empty() && !args.no_upload {
            return Err(missing("-S needs files, or --no-upload"));
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

    /// Newer options about what is not done. (For those of the older program there
    /// is a warning: `no_effect`.)
    fn check_belongings(&self) -> Result<(), Early> {
        let args = &self.args;
        let (runs, runs_plainly) = (args.runs(), args.runs_plainly());
        for (is_given, option, has_use, belongs_to) in [
            (args.tty, "--tty", runs_plainly, "-C, or -S with -m"),
            (args.timeout.is_some(), "--timeout", runs, "-C or -S"),
            (args.fail_fast, "--fail-fast", runs, "-C or -S"),
            (args.apply, "--apply", args.sync, "-S"),
        ] {
            if is_given && !has_use && !args.list {
                return Err(usage(format!("{option} goes with {belongs_to} only")));
            }
        }
        if args.upload && args.no_upload {
            return Err(usage(
                "-U uploads files and --no-upload uploads none; leave out one of them",
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
            return Err(missing(self.no_hosts()));
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

    fn command(&self) -> Result<Command, Early> {
        let program = self.args.words.join(OsStr::new(" ")).into_vec();
        self.runs(program, None, self.root_or(Directory::Home))
    }

    fn sync(&self) -> Result<Sync, Early> {
        let args = &self.args;
        let upload = (!args.no_upload).then(|| self.upload()).transpose()?;
        let has_run_directory = upload
            .as_ref()
            .is_some_and(|upload| upload.directory == Directory::Run);
        let directory = match has_run_directory {
            true => Directory::Run,
            false => self.root_or(Directory::Home),
        };
        let words = args.sync_args.iter();
        let words = words.map(|word| word.as_bytes().to_vec()).collect();
        let program = args.sync_cmd.as_bytes().to_vec();
        let is_default_tool = args.sync_cmd == DEFAULT_SYNC.as_str();
        Ok(Sync {
            upload,
            tool: self.runs(program, Some(words), directory)?,
            is_default_tool,
            speaks_protocol: !args.simple,
            tool_options: [
                ("-g", !args.sync_args.is_empty()),
                ("-i", args.simple && args.stdin.is_some()),
            ]
            .into_iter()
            .filter_map(|(option, is_given)| is_given.then_some(option))
            .collect(),
            placing: match () {
                () if !has_run_directory || args.relative => Placing::Never,
                () if args.apply => Placing::BeforeTool,
                () if is_default_tool => Placing::InsteadOfTool,
                () => Placing::Never,
            },
        })
    }

    fn root_or(&self, otherwise: Directory) -> Directory {
        let root = self.args.root.as_deref().map(OsStrExt::as_bytes);
        root.map_or(otherwise, |root| Directory::Path(root.to_vec()))
    }

    /// A command or sync tool.
    fn runs(
        &self,
        program: Vec<u8>,
        arguments: Option<Vec<Vec<u8>>>,
        directory: Directory,
    ) -> Result<Command, Early> {
        let args = &self.args;
        let line = CommandLine {
            program,
            shell: Shell::new(&args.shell)?,
            arguments,
            directory,
        };
        // The words of a run are as long as these.
        let sudo = (args.sudo || args.ask_sudo_password)
            .then(|| Nonces::new([0; 16], args.ask_sudo_password));
        line.check(sudo.as_ref())?;
        Ok(Command {
            line,
            input: args
                .stdin
                .as_deref()
                .filter(|_| args.runs_plainly())
                .map(|path| open_input(&self.expand_home(path)))
                .transpose()?,
            terminal: args.tty,
            timeout: args.timeout,
        })
    }

    /// The files, all of which are looked at now.
    fn upload(&self) -> Result<Upload, Early> {
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
        Ok(Upload {
            sources: Sources::check(&paths, options)?,
            compression,
            directory: self.root_or(Directory::Run),
        })
    }

    fn lock_target(&self) -> LockTarget {
        let args = &self.args;
        let root = args.root.as_deref().map(OsStrExt::as_bytes);
        match &args.lock_file {
            Some(path) => LockTarget {
                path: path.as_os_str().as_bytes().to_vec(),
                make: Make::File,
            },
            None => LockTarget {
                path: root.unwrap_or(b"/").to_vec(),
                make: if args.uploads() {
                    Make::Directory
                } else {
                    Make::Nothing
                },
            },
        }
    }

    /// The keys of `-k`.
    fn keys(&self) -> Result<Vec<KeyFile>, Early> {
        let paths = self.args.keys.iter();
        paths
            .map(|path| Ok(keys::read(&self.expand_home(path))?))
            .collect()
    }

    /// How each target is reached.
    fn endpoints(&self, targets: &[Target]) -> Vec<Endpoint> {
        let args = &self.args;
        let in_ssh_directory = |names: &[&str]| -> Vec<PathBuf> {
            let directory = self.home.as_ref().map(|home| home.join(".ssh"));
            directory
                .iter()
                .flat_map(|directory| names.iter().map(|name| directory.join(name)))
                .collect()
        };
        let known_hosts = Arc::new(KnownHostsFiles {
            user: match &args.known_hosts {
                Some(path) => vec![self.expand_home(path)],
                None => in_ssh_directory(&["known_hosts", "known_hosts2"]),
            },
            global: ["/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2"]
                .map(PathBuf::from)
                .to_vec(),
        });
        let identity_files: Arc<[PathBuf]> = in_ssh_directory(&DEFAULT_KEYS).into();
        let endpoint = |target: &Target| Endpoint {
            host: target.host.clone(),
            port: target.port,
            user: target.user.clone(),
            host_keys: match args.host_keys {
                HostKeys::Strict => HostKeyPolicy::Strict,
                HostKeys::Ask => HostKeyPolicy::Ask,
                HostKeys::AcceptNew => HostKeyPolicy::AcceptNew,
                HostKeys::Off => HostKeyPolicy::Off,
            },
            known_hosts: Arc::clone(&known_hosts),
            identity_files: Arc::clone(&identity_files),
            connect_timeout: args.conn_timeout,
            liveness: Liveness {
                send_timeout: args.send_timeout,
                recv_timeout: args.recv_timeout,
                keep_alive: args.keep_alive,
            },
        };
        targets.iter().map(endpoint).collect()
    }

    fn expand_home(&self, path: &Path) -> PathBuf {
        expand_home(path, self.home.as_deref())
    }
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
