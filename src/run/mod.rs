//! The run: its phases, its verdicts, and how it ends. Everything here happens
//! in the main thread, the only one that decides anything.
//!
//! [`run`] is the plot; the modes stand side by side ([`command`], [`upload`],
//! [`sync`] with its [`coordinator`]; `-L` is in [`locking`]). [`secrets`] asks
//! what has to be asked first, [`displays`] makes what shows all of it,
//! [`connecting`] brings the hosts up, [`locking`] locks them, [`progress`] tells
//! how far that is and how each host ended, [`ending`] takes everything down and
//! reports; [`signals`] and [`terminal`] are the ways from and to the user.

mod command;
mod connecting;
mod coordinator;
mod displays;
mod ending;
mod locking;
mod progress;
mod secrets;
mod signals;
mod sync;
mod terminal;
mod upload;

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, at, never, select, unbounded};

use crate::cluster::Cluster;
use crate::cluster::input::InputError;
use crate::cluster::node::Shared;
use crate::cluster::stream::Stream;
use crate::cluster::sudo_dialog::Sudo;
use crate::config::{Config, Look, Mode};
use crate::error::Tree;
use crate::event::{
    HostKey, Identity, Level, LockRefusal, Log, NodeEvent, NodeId, Outcome, Status,
};
use crate::exit_status::ExitStatus;
use crate::hosts::known_hosts::{KnownHosts, Problem};
use crate::hosts::{Endpoint, HostKeyPolicy, Target};
use crate::output::credit;
use crate::output::printer::{self, LastWords, OutputError};
use crate::output::screen::{Screen, Standing};
use crate::output::summary::{self, Extent};
use crate::output::{Display, Phase};
use crate::random;
use crate::remote::sudo::Nonces;

use command::Tool;
use connecting::Pace;
use ending::Stop;
use progress::Results;
use secrets::Secrets;
use upload::Follower;

/// Does what the configuration says, and says how the process is to end.
///
/// # Errors
/// What could not be said, because there is no printer: not even a thread for it,
/// or no place to write the list to.
pub fn run(config: Config) -> Result<ExitStatus, Tree> {
    if matches!(config.mode, Mode::List) {
        return list(&config.targets);
    }
    raise_descriptor_limit();
    let mut outlets = Outlets::open(&config)
        .map_err(|error| Tree::new("can't start").because(Tree::from_error(&error)))?;
    let shared = match prepare(&config, &outlets) {
        Ok(shared) => shared,
        Err(stop) => return Ok(outlets.close(stop, config.targets.len())),
    };
    let mut run = Run::new(&config, outlets, shared);
    let result = run.play(config);
    Ok(run.end(result))
}

/// Prints the targets (`--list`).
fn list(targets: &[Target]) -> Result<ExitStatus, Tree> {
    let mut lines = String::new();
    for target in targets {
        lines.push_str(&target.node());
        lines.push('\n');
    }
    match io::stdout().lock().write_all(lines.as_bytes()) {
        Ok(()) => Ok(ExitStatus::Success),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ExitStatus::BrokenPipe),
        Err(error) => Err(Tree::from_error(&OutputError::Failed(error))),
    }
}

/// A host takes three descriptors; the usual soft limit is 1,024.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Where it cannot be raised, hosts that find no descriptor will say so.
    let _ = setrlimit(Resource::Nofile, limit);
}

/// The ways to and from the user.
struct Outlets {
    display: Display,
    last_words: LastWords,
    output_problems: Receiver<OutputError>,
    signals: Receiver<i32>,
}

impl Outlets {
    fn open(config: &Config) -> io::Result<Self> {
        let bar = Arc::new(Standing::default());
        let signals = signals::listen(Arc::clone(&bar))?;
        let display = displays::Displays::new(config);
        // Unbounded: nobody may ever wait for the printer. Output is bounded by
        // the nodes' credit, and everything else is said seldom.
        let (sender, messages) = unbounded();
        // Unbounded, for one thing that is said once.
        let (problems, output_problems) = unbounded();
        let last_words = LastWords::new(display.log_only(), messages.clone(), Arc::clone(&bar));
        let status = display
            .status_bar()
            .map(|status| (status, Arc::clone(&bar)));
        let shows_progress = status.is_some();
        if shows_progress {
            signals::clear_when_stopped(bar)?;
        }
        let screen = Screen::new(io::stdout().is_terminal(), status, problems.clone());
        printer::start(
            display.renderer(),
            screen,
            display.files(),
            config.targets.len(),
            least_level(&config.look) <= Level::Warn,
            messages,
            problems,
        )?;
        Ok(Self {
            display: Display::new(sender, least_level(&config.look), shows_progress),
            last_words,
            output_problems,
            signals,
        })
    }
}

fn least_level(look: &Look) -> Level {
    match look.verbose {
        _ if look.quiet => Level::Error,
        0 => Level::Info,
        1 => Level::Debug,
        _ => Level::Trace,
    }
}

/// Who reads a screen gets what fits it, and who keeps a log, or asks, gets all.
fn extent(look: &Look) -> Extent {
    if look.verbose == 0 && io::stderr().is_terminal() {
        Extent::Screen
    } else {
        Extent::Whole
    }
}

/// Takes what is needed from this machine and its user before the first connection.
fn prepare(config: &Config, console: &Outlets) -> Result<Shared, Stop> {
    let display = &console.display;
    if let Some(files) = displays::Displays::new(config).files() {
        files.check().map_err(Stop::Output)?;
    }
    if let Some(warning) = &config.warning {
        display.log(Level::Warn, warning.as_str().into());
    }
    let known_hosts = load_known_hosts(config, display);
    let is_off = |endpoint: &Endpoint| endpoint.host_keys == HostKeyPolicy::Off;
    if config.endpoints.iter().any(is_off) {
        let warning = "host keys are not checked: anybody could be listening in";
        display.log(Level::Warn, warning.into());
    }
    let Secrets {
        credentials,
        sudo_password,
    } = secrets::collect(config, &console.signals, display)?;
    let has_password = sudo_password.is_some();
    let nonces = || Ok(Nonces::new(random_bytes()?, has_password));
    let nonces = config.sudo.then(nonces).transpose()?;
    Ok(Shared {
        known_hosts,
        credentials,
        sudo: nonces.map(|nonces| Sudo {
            nonces,
            password: sudo_password,
        }),
        heartbeat: config.heartbeat,
        credit: credit::limit(config.targets.len()),
    })
}

/// Reads the known_hosts files of the run. (All endpoints have the same today.)
fn load_known_hosts(config: &Config, display: &Display) -> KnownHosts {
    let Some(endpoint) = config.endpoints.first() else {
        return KnownHosts::default();
    };
    let files = &endpoint.known_hosts;
    let (known_hosts, problems) = KnownHosts::load(&files.user, &files.global);
    for problem in &problems {
        display.log(Level::Warn, describe(problem));
    }
    known_hosts
}

/// Random bytes, or why the run cannot begin.
fn random_bytes<const N: usize>() -> Result<[u8; N], Stop> {
    random::bytes().map_err(|error| Stop::Local(Tree::from_error(&error)))
}

fn describe(problem: &Problem) -> Tree {
    match problem {
        Problem::Unreadable { file, cause } => {
            Tree::new(format!("can't read '{}'", file.display())).because(Tree::from_error(cause))
        }
        Problem::Line { .. } => Tree::from_error(problem),
    }
}

/// Where a node is, as far as main knows.
#[derive(Debug)]
enum State {
    /// Its thread has not been started.
    Waiting,
    /// It connects, since then.
    Connecting(Instant, Pace),
    /// It waits for a decision on its host key.
    Asking,
    /// It is logged in, and nothing runs there.
    Connected,
    /// It starts a guard.
    Locking,
    /// It could not be locked.
    Refused(LockRefusal),
    /// Its guard runs, and has locked this.
    Guarded(Option<Identity>),
    /// It gets ready for an upload.
    Preparing,
    /// It waits for the upload, in this directory.
    Awaiting(Identity),
    /// It takes the upload, or waits for another name of it to do so.
    Uploading,
    /// Its command runs.
    Running,
    /// It has done a step of the run, which others are still at.
    Passed,
    /// Its command has ended; the guard is still there.
    Finished(Outcome),
    /// It has ended.
    Ended(Outcome),
    /// It could not be reached, and the run goes on without it.
    Skipped,
}

impl State {
    /// There is a thread that has not ended.
    fn is_live(&self) -> bool {
        !matches!(self, Self::Waiting | Self::Ended(_) | Self::Skipped)
    }

    /// It is not logged in yet.
    fn is_connecting(&self) -> bool {
        matches!(self, Self::Connecting(..))
    }

    /// Something is under way there that is to be waited for.
    fn is_busy(&self) -> bool {
        matches!(
            self,
            Self::Connecting(..)
                | Self::Asking
                | Self::Locking
                | Self::Preparing
                | Self::Awaiting(_)
                | Self::Uploading
                | Self::Running
        )
    }

    /// How it ended, if it has.
    fn outcome(&self) -> Option<&Outcome> {
        match self {
            Self::Finished(outcome) | Self::Ended(outcome) => Some(outcome),
            _ => None,
        }
    }
}

/// A run in progress.
struct Run {
    targets: Arc<[Target]>,
    states: Vec<State>,
    /// Keys that nobody knows, to be decided on.
    unknown_keys: Vec<(NodeId, HostKey)>,
    cluster: Cluster,
    outlets: Outlets,
    input_problems: (Sender<InputError>, Receiver<InputError>),
    /// A lock that cannot be had, or is lost, is only a warning (`-t`, `-y`).
    lock_is_optional: bool,
    /// Hosts have something to finish, and results to tell.
    has_commands: bool,
    /// A connection that is lost is a lost lock.
    loss_is_lost_lock: bool,
    /// What hosts are doing now is the last that they do: its end is theirs.
    is_last_step: bool,
    /// An upload that was never begun.
    unsent: Option<Stream>,
    /// Who waits for another target to take the upload.
    followers: Vec<Follower>,
    /// Where something is left in run directories.
    leftovers: Vec<(NodeId, String)>,
    /// Where it is not known whether all has ended.
    unconfirmed: Vec<NodeId>,
    /// The holder of the locks, for other runs.
    holder: String,
    /// How much is told where many hosts fail.
    extent: Extent,
    /// What the run is busy with.
    phase: Phase,
    results: Results,
}

/// How a run is done.
#[derive(Clone, Copy)]
struct Conduct {
    /// How many hosts are started at once.
    threads: usize,
    /// Hosts that fail early are dropped (`-w`).
    is_loose: bool,
    /// The first failure ends it all.
    fail_fast: bool,
}

impl Run {
    fn new(config: &Config, outlets: Outlets, shared: Shared) -> Self {
        let targets: Arc<[Target]> = config.targets.clone().into();
        let display = outlets.display.clone();
        Self {
            states: targets.iter().map(|_| State::Waiting).collect(),
            cluster: Cluster::new(
                Arc::clone(&targets),
                config.endpoints.clone(),
                shared,
                display,
            ),
            targets,
            unknown_keys: Vec::new(),
            outlets,
            // Unbounded, for the one thing that a feeder says.
            input_problems: unbounded(),
            lock_is_optional: config.lock.is_optional,
            has_commands: matches!(
                config.mode,
                Mode::Command(_) | Mode::Upload(_) | Mode::Sync(_)
            ),
            loss_is_lost_lock: false,
            is_last_step: false,
            unsent: None,
            followers: Vec::new(),
            leftovers: Vec::new(),
            unconfirmed: Vec::new(),
            holder: locking::holder(),
            extent: extent(&config.look),
            phase: Phase::Connect,
            results: Results::default(),
        }
    }

    /// The plot.
    fn play(&mut self, config: Config) -> Result<(), Stop> {
        self.connect(&config)?;
        self.lock(&config)?;
        let conduct = Conduct {
            threads: config.threads,
            is_loose: config.skip_unreachable,
            fail_fast: config.fail_fast,
        };
        // Half a change to a cluster is worse than none: all go on, or nobody.
        self.loss_is_lost_lock = matches!(config.mode, Mode::Upload(_) | Mode::Sync(_))
            && config.lock.is_wanted
            && !config.skip_unreachable;
        match config.mode {
            Mode::List => Ok(()),
            Mode::Command(command) => self.command(command, Tool::default(), conduct),
            Mode::Upload(upload) => self.upload_only(upload, conduct),
            Mode::Sync(sync) => self.sync(*sync, conduct),
            Mode::Lock => self.hold(),
        }
    }

    fn log(&self, level: Level, text: impl Into<Tree>) {
        self.outlets.display.log(level, text.into());
    }

    /// The nodes that a predicate on their state holds for.
    fn nodes(&self, predicate: impl Fn(&State) -> bool) -> Vec<NodeId> {
        let states = self.states.iter().enumerate();
        states
            .filter(|(_, state)| predicate(state))
            .map(|(index, _)| NodeId(index))
            .collect()
    }

    /// Waits for the next event of a node, or until `deadline`.
    fn next_event(&mut self, deadline: Option<Instant>) -> Result<Option<NodeId>, Stop> {
        let alarm = deadline.map_or_else(never, at);
        let events = self.cluster.events().clone();
        select! {
            recv(events) -> event => match event {
                Ok((node, event)) => {
                    let noted = self.note(node, event);
                    self.show_progress();
                    noted.map(|()| Some(node))
                }
                // The cluster holds a sender itself.
                Err(_) => Ok(None),
            },
            recv(self.outlets.signals) -> signal => Err(Stop::signal(signal)),
            recv(self.outlets.output_problems) -> problem => {
                Err(Stop::Output(problem.unwrap_or(OutputError::Closed)))
            }
            recv(self.input_problems.1) -> problem => match problem {
                Ok(problem) => Err(Stop::Local(Tree::from_error(&problem))),
                // We hold a sender ourselves.
                Err(_) => Ok(None),
            },
            recv(alarm) -> _ => Ok(None),
        }
    }

    fn note(&mut self, node: NodeId, event: NodeEvent) -> Result<(), Stop> {
        if matches!(self.states[node.0], State::Ended(_) | State::Skipped) {
            // It was given up while it was connecting.
            return Ok(());
        }
        if let Some((level, step)) = name_of(&event)
            && self.outlets.display.enabled(level)
        {
            self.log(level, format!("{} {step}", self.targets[node.0].node()));
        }
        let state = match event {
            NodeEvent::Connected | NodeEvent::Unlocked => State::Connected,
            NodeEvent::UnknownHostKey(key) => {
                self.unknown_keys.push((node, key));
                State::Asking
            }
            NodeEvent::Guarded(identity) => State::Guarded(identity),
            NodeEvent::Refused(refusal) => State::Refused(refusal),
            NodeEvent::Started => State::Running,
            NodeEvent::Finished(outcome) => {
                self.log_end(node, &outcome);
                if outcome.is_ok() && !self.is_last_step {
                    State::Passed
                } else {
                    State::Finished(outcome)
                }
            }
            NodeEvent::Uploaded(outcome) if self.is_last_step => State::Finished(outcome),
            NodeEvent::RunDirectory | NodeEvent::Uploaded(_) => State::Guarded(None),
            NodeEvent::Awaiting(place) => State::Awaiting(place),
            NodeEvent::Left(left) => {
                self.leftovers.push((node, left));
                return Ok(());
            }
            NodeEvent::NotLetGo => {
                self.unconfirmed.push(node);
                return Ok(());
            }
            NodeEvent::Ended(outcome) => return self.note_end(node, outcome),
            NodeEvent::LockLost(reason) => return self.lock_lost(node, reason),
            NodeEvent::InputFailed(problem) => return Err(Stop::Local(problem)),
        };
        let was_running = matches!(self.states[node.0], State::Running);
        self.states[node.0] = state;
        if was_running && self.is_last_step && self.states[node.0].outcome().is_some() {
            self.tell_result(node);
        }
        Ok(())
    }

    fn note_end(&mut self, node: NodeId, outcome: Outcome) -> Result<(), Stop> {
        let is_loss = outcome.status == Status::Connection;
        let was_running = matches!(self.states[node.0], State::Running);
        let reason = outcome.reason.clone();
        self.states[node.0] = match &self.states[node.0] {
            // What became of the command counts, not how we parted.
            State::Finished(finished) => {
                if is_loss && !self.loss_is_lost_lock {
                    let lost = summary::of_connection(&self.targets[node.0], &outcome);
                    self.log(Level::Warn, lost);
                }
                State::Ended(finished.clone())
            }
            state => {
                let was_at_work = was_running || matches!(state, State::Uploading);
                if is_loss && was_at_work && !self.loss_is_lost_lock {
                    self.log_loss(node, &outcome);
                }
                self.log_end(node, &outcome);
                State::Ended(outcome)
            }
        };
        if is_loss && self.loss_is_lost_lock {
            let reason = reason.unwrap_or_else(|| "the connection is lost".into());
            return self.lock_lost(node, reason);
        }
        if was_running && self.is_last_step {
            self.tell_result(node);
        }
        Ok(())
    }

    /// A host is lost while others may go on for hours: the summary comes late.
    fn log_loss(&self, node: NodeId, outcome: &Outcome) {
        let node = self.targets[node.0].node();
        let loss = match &outcome.reason {
            Some(reason) => Tree {
                message: format!("{node} {}", reason.message),
                causes: reason.causes.clone(),
            },
            None => Tree::new(format!("{node} connection lost")),
        };
        self.log(Level::Error, loss);
    }

    fn log_end(&self, node: NodeId, outcome: &Outcome) {
        if self.outlets.display.enabled(Level::Debug) {
            let node = self.targets[node.0].node();
            let cause = summary::cause(outcome);
            let text = if outcome.duration.is_zero() {
                // Nothing has run there.
                format!("{node} ended: {cause}")
            } else {
                let seconds = outcome.duration.as_secs_f64();
                format!("{node} ended after {seconds:.3}s: {cause}")
            };
            self.log(Level::Debug, text);
        }
    }

    fn lock_lost(&mut self, node: NodeId, reason: Tree) -> Result<(), Stop> {
        let text = format!(
            "{} heartbeat failed: lock lost",
            self.targets[node.0].node()
        );
        let tree = Tree::new(text).because(reason);
        if self.lock_is_optional {
            self.log(Level::Warn, tree);
            return Ok(());
        }
        let reason = tree.causes.first().unwrap_or(&tree);
        self.results.lost_locks.insert(node, reason.clone());
        self.log(Level::Error, tree);
        Err(Stop::LockLost)
    }
}

/// The log line of an event, for `-v` and `-vv`. Other events have messages of
/// their own.
fn name_of(event: &NodeEvent) -> Option<(Level, &'static str)> {
    match event {
        NodeEvent::Connected => Some((Level::Debug, "connection established")),
        NodeEvent::Guarded(Some(_)) => Some((Level::Trace, "is locked")),
        NodeEvent::Guarded(None) => Some((Level::Trace, "is watched over, without a lock")),
        NodeEvent::Refused(_) => Some((Level::Trace, "is not locked")),
        NodeEvent::Unlocked => Some((Level::Trace, "is unlocked")),
        NodeEvent::Started => Some((Level::Trace, "has started the command")),
        _ => None,
    }
}
