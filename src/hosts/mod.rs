//! Which hosts a run works on: from what was typed to a list of targets.
//!
//! The way through is `sources` (arguments, files and stdin), `expression`
//! (comma lists and ranges), `address` (one `[user@]host[:port]`), and last
//! `target`, which adds the user and port that the addresses leave open,
//! drops duplicates and excluded hosts, and names each target for output.
//! `fold` is the way back: many names in few words. `endpoint` says how a target is
//! reached.
//!
//! Nothing here connects to or looks up anything; the only input and output
//! is that `sources` reads the files it is told to read. What `ssh_config`
//! says about a host comes in from outside, as a function given to [`resolve`].

mod address;
mod endpoint;
mod expression;
mod fold;
pub(crate) mod known_hosts;
mod sources;
mod target;

pub(crate) use address::Address;
pub(crate) use endpoint::{Endpoint, HostKeyPolicy, KnownHostsFiles, Liveness};
pub(crate) use fold::fold;
pub(crate) use sources::collect;
pub(crate) use target::{Target, exclude, resolve};

/// How much of a user's text an error message repeats, in characters.
const EXCERPT: usize = 100;

/// Text as an error message may show it: short, and without the control
/// characters that a hosts file could otherwise send to the terminal.
fn excerpt(text: &str) -> String {
    let mut shown = String::new();
    for (count, c) in text.chars().enumerate() {
        if count == EXCERPT {
            shown.push('…');
            break;
        }
        if c.is_control() {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}
