//! The facts about a login that command lines depend on, and how a script of ours
//! becomes a string for the login shell.

use super::quoting::quote;
use super::sudo::Nonces;

/// A login, as far as command lines depend on it. The node fills it in once it is
/// logged in and renders every [`Script`](super::script::Script) with it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Login<'a> {
    /// The login user is root.
    pub(crate) is_root: bool,
    /// The user asked for sudo (`-x`).
    pub(crate) sudo: Option<&'a Nonces>,
    /// The name of the run directory, once the guard has made one.
    pub(crate) run_directory: Option<&'a str>,
}

impl<'a> Login<'a> {
    /// The words of sudo, unless the login needs no sudo.
    pub(super) fn sudo(self) -> Option<&'a Nonces> {
        self.sudo.filter(|_| !self.is_root)
    }
}

/// The first word of every script of ours, on both outputs (the guard writes it on
/// stdout only, as a line). Output before it is of the login shell or of sudo.
pub(crate) const BEGIN: &str = "[orgalorg-begins]";

/// Sets `$base` to the parent of our run directories. The guard sets it alike.
pub(super) const RUN_DIRECTORIES: &str = "base=/tmp/orgalorg-$(id -un)
[ \"$(id -u)\" != 0 ] || base=/var/run/orgalorg";

/// Drops comments and indentation from a script: they need not travel.
pub(super) fn without_comments(script: &str) -> String {
    let lines = script.lines().map(str::trim_start);
    lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .flat_map(|line| [line, "\n"])
        .collect()
}

/// As [`call_script`], for a script that writes [`BEGIN`] first.
pub(super) fn call_announced(script: &str, arguments: &str, login: &Login<'_>) -> String {
    let begin = format!("printf %s '{BEGIN}'; printf %s '{BEGIN}' >&2");
    call_script(&format!("{begin}\n{script}"), arguments, login)
}

/// The string for the login shell that runs `script` under `sh`. The first of the
/// arguments is its `$0`.
pub(super) fn call_script(script: &str, arguments: &str, login: &Login<'_>) -> String {
    match login.sudo() {
        None => format!("exec sh -c {} {arguments}", quote(script.as_bytes())),
        Some(nonces) => {
            let script = format!("{}; {script}", nonces.announcement());
            let sudo = nonces.command();
            format!("exec {sudo} sh -c {} {arguments}", quote(script.as_bytes()))
        }
    }
}

#[cfg(test)]
impl Login<'static> {
    /// A login as an ordinary user, without sudo.
    pub(crate) const PLAIN: Self = Self {
        is_root: false,
        sudo: None,
        run_directory: None,
    };
}
