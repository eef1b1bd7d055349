//! The built-in sync tool: puts the files of a run directory in place.
//!
//! It is used where no sync tool is installed, and for `--apply`. `place.sh` does
//! it, on the host: what is in the way is found, and all copies are made, before
//! the first file is renamed to where it belongs, so that a host that cannot have
//! all of it stays as it is. It says on stderr what went wrong, and exits with 1.
//!
//! This module has its text; `run` decides when it is used.

use std::sync::LazyLock;

use crate::remote::command_line::{RUN_DIRECTORIES, RUN_NAME, quote};
use crate::remote::sudo::Nonces;
use crate::remote::{call_announced, without_comments};

/// The sync tool that is used when the user names none.
pub const DEFAULT_TOOL: &str = "/usr/lib/orgalorg/sync";

static SCRIPT: LazyLock<String> = LazyLock::new(|| without_comments(include_str!("place.sh")));

/// The string for the login shell that puts the files of the run directory in
/// place, under `/`. The run directory stays.
#[must_use]
pub fn place(sudo: Option<&Nonces>) -> String {
    let find = r#"set -- "$base/$1" "$2""#;
    let script = format!("{RUN_DIRECTORIES}\n{find}\n{}", *SCRIPT);
    call(&script, RUN_NAME.to_string().as_bytes(), b"/", sudo)
}

/// The string for the login shell that tells with its exit status whether the
/// default tool is there (0) or not (1).
#[must_use]
pub fn find_default_tool(sudo: Option<&Nonces>) -> String {
    let script = "[ -f \"$1\" ] && [ -x \"$1\" ]";
    call_announced(script, &format!("orgalorg-find {DEFAULT_TOOL}"), sudo)
}

fn call(script: &str, directory: &[u8], root: &[u8], sudo: Option<&Nonces>) -> String {
    let arguments = format!("orgalorg-place {} {}", quote(directory), quote(root));
    call_announced(script, &arguments, sudo)
}

#[cfg(test)]
mod tests;
