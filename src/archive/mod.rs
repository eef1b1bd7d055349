//! The files of an upload, as one tar stream.
//!
//! [`names`] says what a file will be called on the hosts, [`sources`] checks what
//! was named before anything is connected, [`walk`] goes through it, [`manifest`]
//! compares what was checked with what is sent, [`mod@write`] makes the stream,
//! [`compress`] makes it smaller, and [`sink`] is what takes it: `cluster` has one.

pub(crate) mod compress;
pub(crate) mod manifest;
pub(crate) mod names;
pub(crate) mod sink;
pub(crate) mod sources;
pub(crate) mod walk;
pub(crate) mod write;

use std::io;
use std::path::{Path, PathBuf};

use crate::error::Tree;

/// Why there is no upload.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ArchiveError {
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
    /// It was there when the sources were checked.
    #[error("can't upload '{}': it was removed after the check", .0.display())]
    Gone(PathBuf),
    /// It was a file, directory or something else when the sources were checked.
    #[error("can't upload '{}': it was replaced by something of another kind after the check", .0.display())]
    Replaced(PathBuf),
    /// The list of what was checked cannot be written or read.
    #[error(
        "can't keep the list of files to upload in '{}' (TMPDIR names another directory)",
        std::env::temp_dir().display()
    )]
    Manifest(#[source] io::Error),
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
pub(crate) enum Warning {
    /// Sockets cannot be uploaded.
    Socket(PathBuf),
    /// It became longer while it was sent; what it had at the beginning was sent.
    Grown(PathBuf),
    /// Entries that were not there when the sources were checked were sent.
    Added {
        /// The first of them.
        first: PathBuf,
        /// How many there were.
        count: u64,
    },
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
            Warning::Added { first, count: 1 } => format!(
                "'{}' was added after the check, and was sent",
                first.display()
            )
            .into(),
            Warning::Added { first, count } => format!(
                "'{}' and {} more were added after the check, and were sent",
                first.display(),
                count - 1
            )
            .into(),
        }
    }
}
