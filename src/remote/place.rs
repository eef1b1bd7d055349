//! The built-in sync tool: puts the files of a run directory in place.
//!
//! It is used where no sync tool is installed, and for `--apply`. `place.sh` does
//! it, on the host: what is in the way is found, and all copies are made, before
//! the first file is renamed to where it belongs, so that a host that cannot have
//! all of it stays as it is. It says on stderr what went wrong, and exits with 1.
//!
//! This module has its text; `run` decides when it is used.

use std::sync::LazyLock;

use super::command_line::Directory;
use super::login::{Login, call_announced, without_comments};

/// The sync tool that is used when the user names none.
pub(crate) const DEFAULT_TOOL: &str = "/usr/lib/orgalorg/sync";

static SCRIPT: LazyLock<String> = LazyLock::new(|| without_comments(include_str!("place.sh")));

/// The string for the login shell that puts the files of the run directory in
/// place, under `/`. The run directory stays.
pub(super) fn place(login: &Login<'_>) -> String {
    let find = Directory::find_run_directory(login);
    let script = format!("{find}\nset -- \"$base/$name\" /\n{}", *SCRIPT);
    call_announced(&script, "orgalorg-place", login)
}

/// The string for the login shell whose exit status tells whether the default tool
/// is there (0) or not (1).
pub(super) fn find_default_tool(login: &Login<'_>) -> String {
    let script = "[ -f \"$1\" ] && [ -x \"$1\" ]";
    call_announced(script, &format!("orgalorg-find {DEFAULT_TOOL}"), login)
}

#[cfg(test)]
mod tests;
