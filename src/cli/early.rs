//! The end of a program that has nothing to run: help, the version, or a mistake.

use std::io::{self, Write};

use clap::CommandFactory;

use crate::cli::args::Args;
use crate::error::Tree;
use crate::exit_status::ExitStatus;
use crate::output::OutputError;

/// Why there is nothing to run.
#[derive(Debug)]
pub(crate) enum Early {
    /// Help and version, or a mistake that clap found.
    Clap(clap::Error),
    /// A mistake that we found.
    Usage(Tree),
    /// A mode, hosts or an argument are missing: the usage lines show where they
    /// belong.
    Missing(String),
}

impl Early {
    /// Tells the user, and says how to exit.
    #[must_use]
    pub(crate) fn print(self) -> ExitStatus {
        match self {
            Self::Clap(error) if error.use_stderr() => {
                // Nothing can be said if that does not work.
                let _ = error.print();
                ExitStatus::Usage
            }
            // Help and version are what was asked for.
            Self::Clap(text) => match text.print() {
                Ok(()) => ExitStatus::Success,
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitStatus::BrokenPipe,
                Err(error) => Self::from(OutputError::Failed(error)).print(),
            },
            Self::Usage(tree) => {
                let text = format!("error: {}\n", tree.flat());
                let _ = io::stderr().write_all(text.as_bytes());
                ExitStatus::Usage
            }
            Self::Missing(reason) => {
                let usage = Args::command().render_usage();
                let text = format!("error: {reason}\n\n{usage}\n");
                let _ = io::stderr().write_all(text.as_bytes());
                ExitStatus::Usage
            }
        }
    }
}

impl<E: std::error::Error> From<E> for Early {
    fn from(error: E) -> Self {
        Self::Usage(Tree::from_error(&error))
    }
}

pub(super) fn usage(text: impl Into<String>) -> Early {
    Early::Usage(Tree::new(text))
}

pub(super) fn missing(text: impl Into<String>) -> Early {
    Early::Missing(text.into())
}
