//! orgalorg: work on a whole fleet of hosts over plain SSH.
//!
//! This library belongs to the `orgalorg` command, which calls [`main`]. It has no other
//! API.
//!
//! # The map
//! From top to bottom; modules use those below them only, which a test holds
//! them to.
//!
//! - [`cli`]: the command line as typed → [`config`]: its meaning.
//! - [`run`]: the phases of a run, its verdicts, and how it ends.
//! - [`cluster`]: one thread per host, and what happens in it.
//! - [`ssh`]: libssh2, keys, logins. [`archive`]: files as one tar stream.
//!   [`output`]: the printer and what it prints.
//! - [`hosts`]: target expressions and known_hosts. [`remote`]: text for the
//!   hosts' shells, and from them. Both pure.
//! - [`event`], [`error`], [`exit_status`], [`deadlines`], [`wake`], [`random`]: shared by
//!   all of them.
//!
//! `docs/ARCHITECTURE.md` says why it is like this.

// Only the printer writes to the terminal, and nothing panics on outside input. (Tests
// may do both.)
#![warn(clippy::print_stdout, clippy::print_stderr, clippy::unwrap_used)]

mod archive;
mod cli;
mod cluster;
mod config;
mod deadlines;
mod error;
mod event;
mod exit_status;
mod hosts;
mod output;
mod random;
mod remote;
mod run;
mod ssh;
mod wake;

use std::ffi::OsString;
use std::process::ExitCode;

use exit_status::ExitStatus;

/// The whole program: parse the arguments, run, and end as the run says.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let status = match cli::parse(arguments) {
        Ok(config) => run::run(config).unwrap_or_else(cli::complain),
        Err(early) => early.print(),
    };
    match status {
        // The caller sees the signal that ended us, as with any other program.
        ExitStatus::Signal(signal) => cli::die_by(signal),
        ExitStatus::BrokenPipe => cli::die_by(signal_hook::consts::SIGPIPE),
        _ => {}
    }
    ExitCode::from(status.code())
}
