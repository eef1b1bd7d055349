//! Everything that orgalorg ever runs on a host.
//!
//! A [`Script`] is a description. The node renders it, once, when it starts it: only the
//! node knows its [`Login`].

use super::command_line::CommandLine;
use super::guard;
use super::login::Login;
use super::place;
use super::unpack::Unpack;

/// What a host runs for us.
#[derive(Debug, Clone)]
pub(crate) enum Script {
    /// The command of `-C`, or a sync tool.
    Command(CommandLine),
    /// Holds the lock, and ends commands ([`guard`]).
    Guard(guard::Arguments),
    /// Ends the commands of a guard that has died.
    Sweep,
    /// Looks for the default sync tool: status 0 where it is there, 1 where not.
    FindTool,
    /// Takes an upload.
    Unpack(Unpack),
    /// Puts the files of the run directory in place under `/`.
    Place,
}

impl Script {
    /// The string for the login shell.
    pub(crate) fn render(&self, login: &Login<'_>) -> String {
        match self {
            Self::Command(line) => line.render(login),
            Self::Guard(arguments) => guard::start(arguments, login),
            Self::Sweep => guard::sweep(login),
            Self::FindTool => place::find_default_tool(login),
            Self::Unpack(unpack) => unpack.render(login),
            Self::Place => place::place(login),
        }
    }
}
