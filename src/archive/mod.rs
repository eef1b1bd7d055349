//! The files of an upload, as one tar stream.
//!
//! [`names`] says what a file will be called on the hosts, [`sources`] checks what
//! was named before anything is connected, [`walk`] goes through it, [`mod@write`]
//! makes the stream, [`compress`] makes it smaller, and [`sink`] is what takes
//! it. Who that is is up to `cluster`.

pub mod compress;
pub mod names;
pub mod sink;
pub mod sources;
pub mod walk;
pub mod write;

use std::io;
use std::path::{Path, PathBuf};

use crate::error::Tree;

/// Why there is no upload.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// Something that was named, or lies below it, is missing or unreadable.
    #[error("can't upload '{}'", path.display())]
    Unreadable {
        /// Where it is, as given.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A symbolic link that is to be followed and leads back to where it is.
    #[error("can't upload '{}': this symbolic link leads to '{}', in which it lies", path.display(), to.display())]
    Loop {
        /// The link.
        path: PathBuf,
        /// What it leads to.
        to: PathBuf,
    },
    /// Two different things that would have one name on the hosts.
    #[error("'{}' and '{}' would both be '{}' on the hosts", first.display(), second.display(), name.display())]
    SameName {
        /// One of them.
        first: PathBuf,
        /// The other one.
        second: PathBuf,
        /// The name.
        name: PathBuf,
    },
    /// It was a regular file a moment ago.
    #[error("can't upload '{}': it is no regular file any more", .0.display())]
    Replaced(PathBuf),
    /// It became shorter while it was sent, and its length had been announced.
    #[error("can't upload '{}': it became shorter while it was sent", .0.display())]
    Shrunk(PathBuf),
    /// The directory that relative paths begin at.
    #[error("can't find out the current directory")]
    NoCurrentDirectory(#[source] io::Error),
    /// Whoever takes the archive does not take any more of it.
    #[error("the archive is not taken any more")]
    NotTaken(#[source] io::Error),
}

impl ArchiveError {
    fn unreadable(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        Self::Unreadable { path, source }
    }
}

/// Something that happened and is no error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Warning {
    /// Sockets cannot be uploaded.
    Socket(PathBuf),
    /// It became longer while it was sent; what it had at the beginning was sent.
    Grown(PathBuf),
}

impl From<Warning> for Tree {
    fn from(warning: Warning) -> Self {
        match warning {
            Warning::Socket(path) => {
                format!("'{}' is a socket, and is left out", path.display()).into()
            }
            Warning::Grown(path) => format!(
                "'{}' became longer while it was sent: what it had at the beginning was sent",
                path.display()
            )
            .into(),
        }
    }
}
