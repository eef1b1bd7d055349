//! The run: its phases, its verdicts, and how it ends. Everything here happens in the
//! main thread, the only one that decides anything.
//!
//! [`run`] is the plot. [`preparation`] comes before the first connection, with
//! [`secrets`] and the [`terminal`]; [`connecting`] brings the hosts up, with a [`pace`]
//! for each; [`locking`] locks them. The modes stand side by side: [`command`],
//! [`upload`] with its [`delivery`], [`sync`] with its [`coordinator`]; `-L` is in
//! [`locking`]. [`ending`] takes everything down, whatever made the run [`stop`].
//!
//! What follows from an event is decided in [`roster`], and who starts next in
//! [`schedule`]: both are pure, as the coordinator is. [`running`] has the channels and
//! carries out what the roster says; [`progress`] tells how far the run is. [`console`],
//! with [`displays`] and [`signals`], is the way to and from the user.

mod command;
mod connecting;
mod console;
mod coordinator;
mod delivery;
mod displays;
mod ending;
mod holder;
mod locking;
mod pace;
mod preparation;
mod progress;
mod refusal;
mod roster;
mod running;
mod schedule;
mod secrets;
mod signals;
mod stop;
mod sync;
mod terminal;
mod upload;

use std::io::{self, Write};

use crate::config::{Config, Mode};
use crate::error::Tree;
use crate::exit_status::ExitStatus;
use crate::hosts::Target;
use crate::output::OutputError;

use command::Tool;
use console::Console;
use running::Run;
use stop::Stop;

/// Does what the configuration says, and says how the process is to end.
///
/// # Errors
/// What could not be said, because there is no printer: not even a thread for it,
/// or no place to write the list to.
pub(crate) fn run(config: Config) -> Result<ExitStatus, Tree> {
    if matches!(config.mode, Mode::List) {
        return list(&config.targets);
    }
    raise_descriptor_limit();
    let mut console = Console::open(&config)
        .map_err(|error| Tree::new("can't start").because(Tree::from_error(&error)))?;
    let shared = match preparation::prepare(&config, &console) {
        Ok(shared) => shared,
        Err(stop) => return Ok(console.close(stop, config.targets.len())),
    };
    let mut run = Run::new(&config, console, shared);
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

impl Run {
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
}
