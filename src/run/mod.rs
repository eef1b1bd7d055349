//! The run: its phases, its verdicts, and how it ends. Everything here happens
//! in the main thread, the only one that decides anything.
//!
//! [`run`] is the plot; the modes stand side by side ([`command`], [`upload`],
//! [`sync`] with its [`coordinator`]; `-L` is in [`locking`]). [`secrets`] asks
//! what has to be asked first, [`displays`] makes what shows all of it,
//! [`connecting`] brings the hosts up, [`locking`] locks them, [`progress`] tells
//! how far that is and how each host ended, [`ending`] takes everything down and
//! reports; [`signals`] and [`terminal`] are the ways from and to the user.
//!
//! What follows from an event is decided in [`roster`], and who may start next in
//! [`schedule`]. Both are pure, as the coordinator is; this file carries out what the
//! roster says.

mod command;
mod connecting;
mod coordinator;
mod displays;
mod ending;
mod locking;
mod pace;
mod progress;
mod refusal;
mod roster;
mod schedule;
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
use crate::cluster::job::Order;
use crate::cluster::node::Shared;
use crate::cluster::sudo_dialog::Sudo;
use crate::config::{Config, Mode, OutputOptions};
use crate::error::Tree;
use crate::event::{Attempt, Level, Log, NodeEvent, NodeId, Outcome};
use crate::exit_status::ExitStatus;
use crate::hosts::known_hosts::{KnownHosts, Problem};
use crate::hosts::{Endpoint, HostKeyPolicy, Target};
use crate::output::bar_state::BarState;
use crate::output::credit;
use crate::output::pending_logs::PendingLogs;
use crate::output::printer;
use crate::output::screen::Screen;
use crate::output::summary::{self, Detail};
use crate::output::{Display, OutputError, Phase};
use crate::random;
use crate::remote::sudo::Nonces;

use command::Tool;
use ending::Stop;
use roster::{Activity, Reaction, Reactions, Reason, Roster, ToolFailure};
use schedule::Schedule;
use secrets::Secrets;
use upload::Delivery;

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
    pending_logs: PendingLogs,
    output_problems: Receiver<OutputError>,
    signals: Receiver<i32>,
}

impl Outlets {
    fn open(config: &Config) -> io::Result<Self> {
        let bar = Arc::new(BarState::default());
        let signals = signals::listen(Arc::clone(&bar))?;
        let display = displays::Displays::new(config);
        // Unbounded: nobody may ever wait for the printer. Output is bounded by
        // the nodes' credit, and everything else is said seldom.
        let (sender, messages) = unbounded();
        // Unbounded, for one thing that is said once.
        let (problems, output_problems) = unbounded();
        let pending_logs = PendingLogs::new(display.log_only(), messages.clone(), Arc::clone(&bar));
        let status = display
            .status_bar()
            .map(|status| (status, Arc::clone(&bar)));
        let shows_progress = status.is_some();
        if shows_progress {
            signals::clear_when_stopped(bar)?;
        }
        let screen = Screen::new(io::stdout().is_terminal(), status, problems.clone());
        let setup = printer::Setup {
            renderer: display.renderer(),
            screen,
            files: display.files(),
            nodes: config.targets.len(),
            wants_warnings: least_level(&config.output) <= Level::Warn,
            problems,
        };
        printer::start(setup, messages)?;
        Ok(Self {
            display: Display::new(sender, least_level(&config.output), shows_progress),
            pending_logs,
            output_problems,
            signals,
        })
    }
}

fn least_level(output: &OutputOptions) -> Level {
    match output.verbosity {
        _ if output.is_quiet => Level::Error,
        0 => Level::Info,
        1 => Level::Debug,
        _ => Level::Trace,
    }
}

/// On a terminal the summary is shortened, unless `-v` is given.
fn detail(output: &OutputOptions) -> Detail {
    if output.verbosity == 0 && io::stderr().is_terminal() {
        Detail::Short
    } else {
        Detail::Full
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

/// A run in progress.
struct Run {
    targets: Arc<[Target]>,
    roster: Roster,
    cluster: Cluster,
    outlets: Outlets,
    input_problems: (Sender<InputError>, Receiver<InputError>),
    /// How many hosts start something at once (`-d`).
    threads: usize,
    delivery: Delivery,
    /// The holder of the locks, for other runs.
    holder: String,
    /// How much is told where many hosts fail.
    detail: Detail,
    /// What the status bar shows.
    phase: Phase,
}

/// A node has said something, and main has done what follows from it.
struct Heard {
    node: NodeId,
    /// What is left to be done: its sync tool has failed.
    tool_failure: Option<ToolFailure>,
}

impl Run {
    fn new(config: &Config, outlets: Outlets, shared: Shared) -> Self {
        let targets: Arc<[Target]> = config.targets.clone().into();
        let display = outlets.display.clone();
        Self {
            roster: Roster::new(targets.len(), policy(config)),
            cluster: Cluster::new(
                Arc::clone(&targets),
                config.endpoints.clone(),
                shared,
                display,
            ),
            targets,
            outlets,
            // Unbounded, for the one thing that a feeder says.
            input_problems: unbounded(),
            threads: config.threads,
            delivery: Delivery::default(),
            holder: locking::holder(),
            detail: detail(&config.output),
            phase: Phase::Connect,
        }
    }

    /// The plot.
    fn play(&mut self, config: Config) -> Result<(), Stop> {
        self.connect()?;
        self.lock(&config)?;
        match config.mode {
            Mode::List => Ok(()),
            Mode::Command(command) => self.command(command, Tool::default()),
            Mode::Upload(upload) => self.upload_only(upload),
            Mode::Sync(sync) => self.sync(*sync),
            Mode::Lock => self.hold(),
        }
    }

    fn log(&self, level: Level, text: impl Into<Tree>) {
        self.outlets.display.log(level, text.into());
    }

    /// Has a node begin something, unless it has ended.
    fn begin(&mut self, node: NodeId, activity: Activity, order: Order) {
        if let Some(attempt) = self.roster.begin(node, activity) {
            self.cluster.begin(node, attempt, order);
        }
    }

    /// Has the nodes begin something whose turn it is.
    fn begin_next(&mut self, schedule: &mut Schedule, mut begin: impl FnMut(&mut Self, NodeId)) {
        while let Some(node) = schedule.admit() {
            begin(self, node);
            schedule.note(node, self.roster.stage(node));
        }
    }

    /// Has each of these nodes begin something, as many at once as may, and waits until
    /// all have got through with it, or to where they wait for main.
    fn begin_all(
        &mut self,
        nodes: Vec<NodeId>,
        activity: Activity,
        mut order: impl FnMut(&Self, NodeId) -> Order,
    ) -> Result<(), Stop> {
        let mut schedule = Schedule::new(self.threads, nodes);
        loop {
            self.begin_next(&mut schedule, |run, node| {
                let order = order(run, node);
                run.begin(node, activity, order);
            });
            if schedule.has_started_all() {
                return Ok(());
            }
            if let Some(Heard { node, .. }) = self.next_event(None)? {
                schedule.note(node, self.roster.stage(node));
            }
        }
    }

    /// Waits for the next event of a node, or until `deadline`.
    fn next_event(&mut self, deadline: Option<Instant>) -> Result<Option<Heard>, Stop> {
        let alarm = deadline.map_or_else(never, at);
        let events = self.cluster.events().clone();
        select! {
            recv(events) -> event => match event {
                Ok((node, attempt, event)) => {
                    let heard = self.hear(node, attempt, event);
                    self.show_progress();
                    heard.map(Some)
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

    fn hear(&mut self, node: NodeId, attempt: Attempt, event: NodeEvent) -> Result<Heard, Stop> {
        if self.roster.hears(node, attempt, &event)
            && let Some((level, step)) = name_of(&event)
            && self.outlets.display.enabled(level)
        {
            self.log(level, format!("{} {step}", self.targets[node.0].node()));
        }
        let reactions = self.roster.on(node, attempt, event);
        let tool_failure = self.react(node, reactions)?;
        Ok(Heard { node, tool_failure })
    }

    /// Does what follows from an event. Returns what only a plot can do.
    fn react(&self, node: NodeId, reactions: Reactions) -> Result<Option<ToolFailure>, Stop> {
        let mut tool_failure = None;
        for reaction in reactions {
            match reaction {
                Reaction::LogEnd(outcome) => self.log_end(node, &outcome),
                Reaction::LogLoss(outcome) => self.log_loss(node, &outcome),
                Reaction::WarnOfLoss(outcome) => {
                    let lost = summary::of_connection(&self.targets[node.0], &outcome);
                    self.log(Level::Warn, lost);
                }
                Reaction::LogLostLock { reason, is_fatal } => {
                    self.log_lost_lock(node, reason, is_fatal);
                }
                Reaction::Result(outcome) => self.tell_result(node, outcome),
                Reaction::ToolFailed(failure) => tool_failure = Some(failure),
                Reaction::Stop(reason) => return Err(self.stop_for(reason)),
            }
        }
        Ok(tool_failure)
    }

    fn stop_for(&self, reason: Reason) -> Stop {
        match reason {
            Reason::LockLost => Stop::LockLost,
            Reason::FirstFailure => Stop::FailFast,
            Reason::Input(problem) => Stop::Local(problem),
            Reason::NobodyLeft => {
                self.log(Level::Fatal, "no node is left to hold a lock on");
                Stop::Failed(ExitStatus::LockLost)
            }
        }
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

    fn log_lost_lock(&self, node: NodeId, reason: Tree, is_fatal: bool) {
        let text = format!(
            "{} heartbeat failed: lock lost",
            self.targets[node.0].node()
        );
        let level = if is_fatal { Level::Error } else { Level::Warn };
        self.log(level, Tree::new(text).because(reason));
    }
}

/// What the options make of a failure.
fn policy(config: &Config) -> roster::Policy {
    let is_change = matches!(config.mode, Mode::Upload(_) | Mode::Sync(_));
    roster::Policy {
        lock_is_optional: config.lock.is_optional,
        // Half a change to a cluster is worse than none: all go on, or none does.
        loss_is_lock_loss: is_change && config.lock.is_wanted && !config.skip_unreachable,
        is_loose: config.skip_unreachable,
        fail_fast: config.fail_fast,
        only_locks: matches!(config.mode, Mode::Lock),
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
