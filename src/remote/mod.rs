//! Text for the hosts, and text from them: pure functions and state machines.
//!
//! [`command_line`] writes what a host's shell is to run; [`sudo`] reads what
//! sudo says before the command starts; [`guard`] is the script that locks a
//! host and ends commands on it; [`upload`] what unpacks files there;
//! [`protocol`] the lines to and from sync tools. `cluster` moves the bytes.

pub mod command_line;
pub mod guard;
pub mod protocol;
pub mod sudo;
pub mod upload;
