//! Text for the hosts, and text from them: pure functions and state machines.
//!
//! [`command_line`] writes what a host's shell is to run; [`sudo`] reads what
//! sudo says before the command starts; [`guard`] is the script that locks a
//! host and ends commands on it; [`upload`] the one that unpacks files there, and
//! [`place`] the one that puts these in place; [`protocol`] has the lines that
//! sync tools and we exchange. `cluster` moves the bytes.

pub mod command_line;
pub mod guard;
pub mod place;
pub mod protocol;
pub mod sudo;
pub mod upload;

use command_line::quote;
use sudo::Nonces;

/// What a script of ours says first, on both outputs (the guard on its stdout, as a
/// line). Whatever came before it is of the
/// host's login shell, or of sudo, and nobody has asked for that.
pub const BEGIN: &str = "[orgalorg-begins]";

/// A script as it is sent.
fn without_comments(script: &str) -> String {
    let lines = script.lines().map(str::trim_start);
    lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .flat_map(|line| [line, "\n"])
        .collect()
}

/// As [`call_script`], of a script that says when it begins.
fn call_announced(script: &str, arguments: &str, sudo: Option<&Nonces>) -> String {
    let begin = format!("printf %s '{BEGIN}'; printf %s '{BEGIN}' >&2");
    call_script(&format!("{begin}\n{script}"), arguments, sudo)
}

/// The string for the login shell that runs a script of ours with arguments, of
/// which the first is its name.
fn call_script(script: &str, arguments: &str, sudo: Option<&Nonces>) -> String {
    match sudo {
        None => format!("exec sh -c {} {arguments}", quote(script.as_bytes())),
        Some(nonces) => {
            let script = format!("{}; {script}", nonces.announcement());
            let sudo = nonces.command();
            format!("exec {sudo} sh -c {} {arguments}", quote(script.as_bytes()))
        }
    }
}
