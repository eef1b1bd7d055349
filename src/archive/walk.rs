//! The way through the sources: every entry once, directories before what is in
//! them. It is gone twice, to check and to send, because a list of all files
//! would take as much memory as there are files.

use std::fs::{self, Metadata};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use walkdir::{DirEntry, WalkDir};

use super::{ArchiveError, Warning};

/// Something that was named on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Where it is, as given.
    pub path: PathBuf,
    /// What it is called on the hosts; may be empty.
    pub name: PathBuf,
}

/// One thing to be sent.
#[derive(Debug)]
pub struct Entry {
    /// Where it is.
    pub path: PathBuf,
    /// What it is called on the hosts.
    pub name: PathBuf,
    /// Of what is sent: behind the symbolic link, where one is followed.
    pub metadata: Metadata,
    /// What the path names may be a symbolic link, and what is behind it is sent.
    pub is_followed: bool,
}

impl Entry {
    /// What tells two names of one file: device and inode, where there may be
    /// several names.
    #[must_use]
    pub fn link_identity(&self) -> Option<(u64, u64)> {
        let metadata = &self.metadata;
        (metadata.nlink() > 1 && !metadata.is_dir()).then(|| (metadata.dev(), metadata.ino()))
    }
}

/// Goes through a source, and has `visit` see every entry. Sockets are left out,
/// with a warning.
///
/// # Errors
/// Something cannot be read, or what `visit` says.
pub fn walk(
    source: &Source,
    dereference: bool,
    mut visit: impl FnMut(Entry) -> Result<(), ArchiveError>,
    mut warn: impl FnMut(Warning),
) -> Result<(), ArchiveError> {
    // What was named is followed, and only that.
    for found in WalkDir::new(&source.path).follow_links(dereference) {
        let found = found.map_err(|error| refused(&source.path, error))?;
        let is_followed = dereference || found.depth() == 0;
        let name = name_of(source, &found);
        if name.as_os_str().is_empty() {
            // The attributes of where it all goes are the hosts' business.
            continue;
        }
        let path = found.into_path();
        let metadata = if is_followed {
            fs::metadata(&path)
        } else {
            fs::symlink_metadata(&path)
        };
        let metadata = metadata.map_err(|error| ArchiveError::unreadable(&path, error))?;
        if metadata.file_type().is_socket() {
            warn(Warning::Socket(path));
            continue;
        }
        visit(Entry {
            path,
            name,
            metadata,
            is_followed,
        })?;
    }
    Ok(())
}

fn name_of(source: &Source, found: &DirEntry) -> PathBuf {
    // A path below a source begins with the source's.
    match found.path().strip_prefix(&source.path) {
        Ok(below) if below.as_os_str().is_empty() => source.name.clone(),
        Ok(below) => source.name.join(below),
        Err(_) => source.name.clone(),
    }
}

fn refused(source: &Path, error: walkdir::Error) -> ArchiveError {
    let path = error.path().unwrap_or(source).to_owned();
    if let Some(ancestor) = error.loop_ancestor() {
        let to = ancestor.to_owned();
        return ArchiveError::Loop { path, to };
    }
    let source = error
        .into_io_error()
        .unwrap_or_else(|| std::io::Error::other("unreadable"));
    ArchiveError::Unreadable { path, source }
}
