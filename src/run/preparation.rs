//! Step 1 of a run: what is needed from this machine and its user before the first
//! connection.

use crate::cluster::node::Shared;
use crate::cluster::sudo_dialog::Sudo;
use crate::config::Config;
use crate::error::Tree;
use crate::event::{Level, Log};
use crate::hosts::known_hosts::{KnownHosts, Problem};
use crate::hosts::{Endpoint, HostKeyPolicy};
use crate::output::{Display, credit};
use crate::random;
use crate::remote::sudo::Nonces;
use crate::run::console::Console;
use crate::run::displays;
use crate::run::secrets::{self, Secrets};
use crate::run::stop::Stop;

/// Takes what is needed from this machine and its user before the first connection.
pub(super) fn prepare(config: &Config, console: &Console) -> Result<Shared, Stop> {
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
pub(super) fn random_bytes<const N: usize>() -> Result<[u8; N], Stop> {
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
