//! orgalorg: work on a whole fleet of hosts over plain SSH.
//!
//! This library belongs to the `orgalorg` command and promises no API.
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
//! - [`event`], [`error`], [`exit_status`], [`deadlines`], [`wake`], `random`: what all of them share.
//!
//! `docs/ARCHITECTURE.md` says why it is like this.

// Only the printer writes to the terminal, and nothing panics on outside input. (Tests
// may do both.)
#![warn(clippy::print_stdout, clippy::print_stderr, clippy::unwrap_used)]

pub mod archive;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod deadlines;
pub mod error;
pub mod event;
pub mod exit_status;
pub mod hosts;
pub mod output;
mod random;
pub mod remote;
pub mod run;
pub mod ssh;
pub mod wake;
