//! The walk through the sources: each entry once, directories before their
//! contents, names in order.
//!
//! The sources are walked twice, to check them and to send them. [`super::manifest`]
//! compares the two walks, which is why both have one order.

use std::collections::{BTreeSet, btree_set};
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::ArchiveError;

/// How many names of a directory are held at once. A directory with more of them is
/// read several times, so that memory does not grow with it.
const BATCH: usize = 16 * 1024;

/// Something that was named on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Source {
    /// Where it is, as given.
    pub(crate) path: PathBuf,
    /// What it is called on the hosts; may be empty.
    pub(crate) name: PathBuf,
}

/// A file, directory or other thing below a source, or the source itself.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Where it is.
    pub(crate) path: PathBuf,
    /// What it is called on the hosts.
    pub(crate) name: PathBuf,
    /// Of what is sent: behind the symbolic link, where one is followed.
    pub(crate) metadata: Metadata,
    /// What the path names may be a symbolic link, and what is behind it is sent.
    pub(crate) is_followed: bool,
}

impl Entry {
    /// What tells two names of one file: device and inode, where there may be
    /// several names.
    #[must_use]
    pub(crate) fn link_identity(&self) -> Option<(u64, u64)> {
        let metadata = &self.metadata;
        (metadata.nlink() > 1 && !metadata.is_dir()).then(|| identity(metadata))
    }

    /// A socket cannot be sent.
    #[must_use]
    pub(crate) fn is_socket(&self) -> bool {
        self.metadata.file_type().is_socket()
    }
}

/// Calls `visit` with every entry of a source, sockets too.
///
/// # Errors
/// An entry cannot be read, or `visit` fails.
pub(crate) fn walk(
    source: &Source,
    dereference: bool,
    mut visit: impl FnMut(Entry) -> Result<(), ArchiveError>,
) -> Result<(), ArchiveError> {
    let Source { path, name } = source.clone();
    let metadata = fs::metadata(&path).map_err(|error| ArchiveError::unreadable(&path, error))?;
    let root = Entry {
        path,
        name,
        metadata,
        is_followed: true,
    };
    let mut open = Vec::new();
    if root.metadata.is_dir() {
        open.push(Directory::new(&root));
    }
    // The attributes of the directory that all of it goes to belong to the hosts.
    if !root.name.as_os_str().is_empty() {
        visit(root)?;
    }
    while let Some(directory) = open.last_mut() {
        let Some(name) = directory.next()? else {
            open.pop();
            continue;
        };
        let path = directory.path.join(&name);
        let name = directory.name.join(&name);
        let Some((metadata, was_link)) = look(&path, dereference)? else {
            continue;
        };
        let entry = Entry {
            path,
            name,
            metadata,
            is_followed: dereference,
        };
        if entry.metadata.is_dir() {
            let directory = Directory::new(&entry);
            let mut ancestors = open.iter();
            let is_same = |ancestor: &&Directory| ancestor.identity == directory.identity;
            if was_link && let Some(ancestor) = ancestors.find(is_same) {
                let (path, to) = (entry.path, ancestor.path.clone());
                return Err(ArchiveError::Loop { path, to });
            }
            open.push(directory);
        }
        visit(entry)?;
    }
    Ok(())
}

/// What is at a path, and whether a symbolic link was followed to it. `None` if the
/// entry was removed after its directory was read.
fn look(path: &Path, dereference: bool) -> Result<Option<(Metadata, bool)>, ArchiveError> {
    let unreadable = |error| ArchiveError::unreadable(path, error);
    let metadata = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        metadata => metadata.map_err(unreadable)?,
    };
    if dereference && metadata.is_symlink() {
        // A link that leads nowhere is an error.
        let metadata = fs::metadata(path).map_err(unreadable)?;
        return Ok(Some((metadata, true)));
    }
    Ok(Some((metadata, false)))
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// A directory whose contents are being visited.
struct Directory {
    path: PathBuf,
    name: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
    /// Names that were read and not visited yet.
    names: btree_set::IntoIter<OsString>,
    /// The last name of the batch before.
    last: Option<OsString>,
    /// No names follow those in `names`.
    is_read: bool,
}

impl Directory {
    fn new(entry: &Entry) -> Self {
        Self {
            path: entry.path.clone(),
            name: entry.name.clone(),
            identity: identity(&entry.metadata),
            names: BTreeSet::new().into_iter(),
            last: None,
            is_read: false,
        }
    }

    fn next(&mut self) -> Result<Option<OsString>, ArchiveError> {
        if self.names.len() == 0 && !self.is_read {
            self.read()
                .map_err(|error| ArchiveError::unreadable(&self.path, error))?;
        }
        Ok(self.names.next())
    }

    fn read(&mut self) -> io::Result<()> {
        let entries = fs::read_dir(&self.path)?;
        let names = entries.map(|entry| entry.map(|entry| entry.file_name()));
        let (names, is_read) = batch(names, self.last.as_ref(), BATCH)?;
        self.last = names.last().cloned();
        self.names = names.into_iter();
        self.is_read = is_read;
        Ok(())
    }
}

/// The first names in order after `last`, at most `most`, and whether these are all.
fn batch(
    names: impl IntoIterator<Item = io::Result<OsString>>,
    last: Option<&OsString>,
    most: usize,
) -> io::Result<(BTreeSet<OsString>, bool)> {
    let mut first = BTreeSet::new();
    let mut is_all = true;
    for name in names {
        let name = name?;
        if last.is_some_and(|last| name <= *last) {
            continue;
        }
        if first.len() == most {
            is_all = false;
            if first.last().is_some_and(|last| name > *last) {
                continue;
            }
            first.pop_last();
        }
        first.insert(name);
    }
    Ok((first, is_all))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn batches_are_all_names_in_order(
            names in proptest::collection::hash_set("[a-c.]{1,3}", 0..20),
            most in 1_usize..6,
        ) {
            let read = || names.iter().map(|name| Ok(OsString::from(name)));
            let mut found: Vec<OsString> = Vec::new();
            loop {
                let (batch, is_all) = batch(read(), found.last(), most).expect("names");
                prop_assert!(batch.len() <= most);
                found.extend(batch);
                if is_all {
                    break;
                }
            }
            let mut expected: Vec<OsString> = names.iter().map(OsString::from).collect();
            expected.sort();
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn entries_come_in_the_order_of_their_paths() {
        let tree = tempfile::tempdir().expect("tempdir");
        for name in ["b", "a.b", "a/b", "a/a/x", "a-", "c/"] {
            let path = tree.path().join(name);
            fs::create_dir_all(path.parent().expect("below")).expect("writable");
            fs::write(&path, "")
                .or_else(|_| fs::create_dir_all(&path))
                .expect("writable");
        }
        let source = Source {
            path: tree.path().to_owned(),
            name: "t".into(),
        };
        let mut names = Vec::new();
        let visit = |entry: Entry| {
            names.push(entry.name.display().to_string());
            Ok(())
        };
        walk(&source, false, visit).expect("readable");
        let expected = [
            "t", "t/a", "t/a/a", "t/a/a/x", "t/a/b", "t/a-", "t/a.b", "t/b", "t/c",
        ];
        assert_eq!(names, expected);
        assert!(names.is_sorted_by_key(PathBuf::from));
    }
}
