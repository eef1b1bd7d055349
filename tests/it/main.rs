//! The real program on real hosts: every test starts the `orgalorg` binary against
//! the sshds of some test hosts (`hosts`) and looks at what a user would see.
//!
//! One module for each subject; `support` has what they share.

#[allow(
    dead_code,
    unreachable_pub,
    reason = "benchmarks and demo use the rest"
)]
#[path = "../hosts/mod.rs"]
mod hosts;
mod support;

mod auth;
mod cli;
mod displays;
mod endings;
mod failures;
mod harness;
mod host_keys;
mod input;
mod locking;
mod manual;
mod output;
mod quoting;
mod readme;
mod smoke;
mod sync;
mod upload;
