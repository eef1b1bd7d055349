//! SSH: everything that calls libssh2, and nothing else does.
//!
//! [`transport`] makes a connection, [`session`] owns a libssh2 session on it
//! and does all the waiting, [`algorithms`] has what it offers, [`host_keys`] decides whether the server is the
//! right one, [`auth`] logs in (with the keys of [`keys`], through [`sign`]),
//! [`process`] runs one remote command on a channel. `cluster` puts them together,
//! one thread per host.
//!
//! # Facts about libssh2 that shape this code
//! - Every call locks the whole session, so a session and its channels live in
//!   one thread.
//! - It is used in non-blocking mode only: a call that cannot finish answers
//!   `EAGAIN` and is made again *with the same arguments* when `poll(2)` says
//!   so. What it has begun to send must be finished by that same call; until
//!   then, every other call that sends answers `EAGAIN` too.
//! - Some packets (end of file, keep-alive) are built on the stack and cannot be
//!   continued: they are sent only while the socket takes data.
//! - It has no time-outs of its own in this mode.

mod algorithms;
pub(crate) mod auth;
pub(crate) mod host_keys;
pub(crate) mod keys;
pub(crate) mod process;
pub(crate) mod session;
mod sign;
pub(crate) mod transport;
pub(crate) mod wait;
