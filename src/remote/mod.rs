//! Text for the hosts, and text from them: pure functions and state machines.
//!
//! [`command_line`] writes what a host's shell is to run; [`sudo`] reads what
//! sudo says before the command starts; [`guard`] is the script that locks a
//! host and ends commands on it, [`upload`] what unpacks files there. `cluster`
//! moves the bytes.

pub mod command_line;
pub mod guard;
pub mod sudo;
pub mod upload;
