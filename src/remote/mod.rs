//! Text for the hosts, and text from them: pure functions and state machines.
//!
//! [`script`] lists what we run on a host and renders it for a [`login`]. Its kinds:
//! [`command_line`] writes the user's commands, [`guard`] is the script that locks a
//! host and ends commands on it, [`unpack`] takes an upload, [`place`] puts files in
//! place; [`quoting`] brings any words through a shell. [`sudo`] reads what sudo says before a script starts, [`words`] what our
//! scripts say; [`protocol`] has the lines that sync tools and we exchange. `cluster`
//! moves the bytes.

pub(crate) mod command_line;
pub(crate) mod guard;
pub(crate) mod login;
pub(crate) mod place;
pub(crate) mod protocol;
pub(crate) mod quoting;
pub(crate) mod script;
pub(crate) mod sudo;
pub(crate) mod unpack;
pub(crate) mod words;
