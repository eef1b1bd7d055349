//! What is to be uploaded, checked before anything is connected: everything is
//! there and readable, and no two things have one name.

use std::collections::{HashMap, HashSet};
use std::fs::{self, Metadata, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::manifest::{Manifest, Recorder};
use super::names::Naming;
use super::walk::{Entry, Source, walk};
use super::{ArchiveError, Warning};

/// What an upload is to be like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Options {
    /// How files are named on the hosts.
    pub(crate) naming: Naming,
    /// Send what symbolic links lead to, instead of the links.
    pub(crate) dereference: bool,
    /// Keep the numbers of their owners.
    pub(crate) keep_uid: bool,
    /// Keep the numbers of their groups.
    pub(crate) keep_gid: bool,
}

/// All that is to be uploaded.
#[derive(Debug)]
pub(crate) struct Sources {
    /// What was named, without what is named twice.
    pub(crate) list: Vec<Source>,
    /// How it is sent.
    pub(crate) options: Options,
    /// How many things that are no directories there are.
    pub(crate) files: u64,
    /// How many bytes all regular files have.
    pub(crate) bytes: u64,
    /// What was noticed.
    pub(crate) warnings: Vec<Warning>,
    /// All entries that were found.
    pub(crate) manifest: Manifest,
}

impl Sources {
    /// Checks all that was named.
    ///
    /// # Errors
    /// Something is missing or unreadable, or two things would have one name.
    pub(crate) fn check(paths: &[PathBuf], options: Options) -> Result<Self, ArchiveError> {
        let current = std::env::current_dir().map_err(ArchiveError::NoCurrentDirectory)?;
        let list = paths
            .iter()
            .map(|path| Source {
                path: path.clone(),
                name: options.naming.name(path, &current),
            })
            .collect();
        let list = without_repetitions(list, options.dereference)?;
        let mut recorder = Recorder::new();
        let mut warnings = Vec::new();
        let (mut files, mut bytes) = (0, 0);
        let mut linked = HashSet::new();
        for (number, source) in list.iter().enumerate() {
            walk(source, options.dereference, |entry| {
                recorder.add(number, &entry)?;
                if entry.is_socket() {
                    warnings.push(Warning::Socket(entry.path));
                    return Ok(());
                }
                // Another name of a file is sent as a link to the first.
                let is_first = entry.link_identity().is_none_or(|id| linked.insert(id));
                if entry.metadata.is_file() && is_first {
                    open(&entry)?;
                    bytes += entry.metadata.len();
                }
                files += u64::from(!entry.metadata.is_dir());
                Ok(())
            })?;
        }
        Ok(Self {
            list,
            options,
            files,
            bytes,
            warnings,
            manifest: recorder.finish()?,
        })
    }
}

/// Opens a regular file. Whatever else has come in its place is not waited for,
/// as one would for a FIFO.
///
/// # Errors
/// It is not there, or unreadable.
pub(super) fn open(entry: &Entry) -> Result<fs::File, ArchiveError> {
    let mut flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    if !entry.is_followed {
        flags |= OFlags::NOFOLLOW;
    }
    OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(&entry.path)
        .map_err(|error| ArchiveError::unreadable(&entry.path, error))
}

/// Drops what is named twice, or lies below something else that is named.
fn without_repetitions(
    sources: Vec<Source>,
    dereference: bool,
) -> Result<Vec<Source>, ArchiveError> {
    let mut first_of: HashMap<&Path, &Source> = HashMap::new();
    for source in &sources {
        first_of.entry(&source.name).or_insert(source);
    }
    let mut kept = Vec::new();
    for source in &sources {
        let mut is_repeated = false;
        for ancestor in source.name.ancestors() {
            let other = first_of.get(ancestor);
            let Some(other) = other.filter(|other| !std::ptr::eq(**other, source)) else {
                continue;
            };
            let below = source.name.strip_prefix(ancestor).unwrap_or(Path::new(""));
            let found = |part: &Path| Found::below(other, part, dereference);
            // Where a directory has to be for it, something else may be sent.
            let mut above = below.ancestors().skip(1);
            let is_in_the_way = |part: &&Path| found(part).is_something_else();
            if let Some(part) = above.find(is_in_the_way) {
                return Err(ArchiveError::SameName {
                    first: found(part).path,
                    second: source.path.clone(),
                    name: ancestor.join(part),
                });
            }
            let there = found(below);
            match there.is_same(&source.path)? {
                Some(true) => is_repeated = true,
                Some(false) => {
                    return Err(ArchiveError::SameName {
                        first: there.path,
                        second: source.path.clone(),
                        name: source.name.clone(),
                    });
                }
                None => {}
            }
        }
        if !is_repeated {
            kept.push(source.clone());
        }
    }
    Ok(kept)
}

/// What a source has under a name.
struct Found {
    path: PathBuf,
    /// Of what will be sent; nothing if nothing is there. (What cannot be looked at
    /// will be complained of on the way through.)
    metadata: Option<Metadata>,
}

impl Found {
    fn below(source: &Source, part: &Path, dereference: bool) -> Self {
        // Joined with nothing a path would get a slash, and be followed.
        let (path, is_followed) = if part.as_os_str().is_empty() {
            (source.path.clone(), true)
        } else {
            (source.path.join(part), dereference)
        };
        let metadata = if is_followed {
            fs::metadata(&path)
        } else {
            fs::symlink_metadata(&path)
        };
        let metadata = metadata.ok();
        Self { path, metadata }
    }

    /// There is something that is no directory.
    fn is_something_else(&self) -> bool {
        let metadata = self.metadata.as_ref();
        metadata.is_some_and(|metadata| !metadata.is_dir())
    }

    /// Whether it is what was named; nothing if nothing is there.
    fn is_same(&self, named: &Path) -> Result<Option<bool>, ArchiveError> {
        let named = fs::metadata(named).map_err(|error| ArchiveError::unreadable(named, error))?;
        let identity = |metadata: &Metadata| (metadata.dev(), metadata.ino());
        let there = self.metadata.as_ref();
        Ok(there.map(|there| identity(there) == identity(&named)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    const PLAIN: Options = Options {
        naming: Naming::Absolute,
        dereference: false,
        keep_uid: true,
        keep_gid: true,
    };

    fn tree() -> tempfile::TempDir {
        let tree = tempfile::tempdir().expect("tempdir");
        let path = tree.path();
        fs::create_dir_all(path.join("a/sub")).expect("writable");
        fs::create_dir(path.join("b")).expect("writable");
        fs::write(path.join("a/sub/file"), "12345").expect("writable");
        fs::write(path.join("b/file"), "123").expect("writable");
        symlink("nowhere", path.join("dangling")).expect("writable");
        symlink("a", path.join("link")).expect("writable");
        symlink("..", path.join("a/up")).expect("writable");
        tree
    }

    fn check(
        tree: &tempfile::TempDir,
        names: &[&str],
        options: Options,
    ) -> Result<Sources, String> {
        let paths: Vec<PathBuf> = names.iter().map(|name| tree.path().join(name)).collect();
        Sources::check(&paths, options)
            .map_err(|error| crate::error::Tree::from_error(&error).flat())
    }

    #[test]
    fn files_and_bytes_are_counted() {
        let tree = tree();
        let sources = check(&tree, &["a", "b/file"], PLAIN).expect("sources");
        assert_eq!((sources.files, sources.bytes), (3, 8));
        assert_eq!(sources.list.len(), 2);
    }

    #[test]
    fn what_is_missing_is_named() {
        let tree = tree();
        let error = check(&tree, &["b", "missing"], PLAIN).expect_err("missing");
        assert!(
            error.ends_with("missing': No such file or directory"),
            "{error}"
        );
        let error = check(&tree, &["dangling"], PLAIN).expect_err("dangling");
        assert!(
            error.ends_with("dangling': No such file or directory"),
            "{error}"
        );
    }

    #[test]
    fn links_are_followed_only_where_that_is_wanted() {
        let tree = tree();
        // Named: what it leads to, under its own name.
        let sources = check(&tree, &["link"], PLAIN).expect("sources");
        assert_eq!(sources.bytes, 5);
        assert!(sources.list[0].name.ends_with("link"));
        let all = Options {
            dereference: true,
            ..PLAIN
        };
        let error = check(&tree, &["a"], all).expect_err("a loop");
        assert!(
            error.contains("a/up': this symbolic link leads to"),
            "{error}"
        );
        let error = check(&tree, &[""], all).expect_err("a dangling link");
        assert!(error.contains("can't upload"), "{error}");
    }

    #[test]
    fn what_is_named_twice_is_sent_once() {
        let tree = tree();
        for names in [
            &["a", "a"][..],
            &["a", "a/sub/file"],
            &["a/sub/file", "a"],
            &["a/", "a"],
        ] {
            let sources = check(&tree, names, PLAIN).expect("sources");
            assert_eq!((sources.list.len(), sources.bytes), (1, 5), "{names:?}");
        }
    }

    #[test]
    fn two_things_of_one_name_are_refused() {
        let tree = tree();
        // By its text deep/../b is b, but the system goes through the link.
        symlink("a/sub", tree.path().join("deep")).expect("writable");
        fs::write(tree.path().join("a/b"), "other").expect("writable");
        let error = check(&tree, &["deep/../b", "b"], PLAIN).expect_err("two of one name");
        assert!(error.contains("would both be"), "{error}");
    }

    #[test]
    fn nothing_is_sent_below_what_is_no_directory() {
        let tree = tree();
        // link/sub/file is a/sub/file, but of the whole tree link is sent as a link.
        let error = check(&tree, &["", "link/sub/file"], PLAIN).expect_err("in the way");
        assert!(error.contains("would both be"), "{error}");
        // By their text b/file is a file, and below it.
        fs::create_dir_all(tree.path().join("c/b/file")).expect("writable");
        symlink("c/b", tree.path().join("d")).expect("writable");
        let error = check(&tree, &["b/file", "d/../b/file/x"], PLAIN);
        assert!(error.is_err(), "{error:?}");
        fs::write(tree.path().join("c/b/file/x"), "x").expect("writable");
        let error = check(&tree, &["b/file", "d/../b/file/x"], PLAIN).expect_err("in the way");
        assert!(error.contains("would both be"), "{error}");
    }

    #[test]
    fn sockets_are_left_out_and_special_files_never_opened() {
        let tree = tree();
        let socket = tree.path().join("b/socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
        let fifo = tree.path().join("b/fifo");
        let made = std::process::Command::new("mkfifo").arg(&fifo).status();
        assert!(made.expect("mkfifo").success());
        let sources = check(&tree, &["b"], PLAIN).expect("sources");
        assert_eq!(sources.files, 2);
        assert_eq!(sources.warnings, [Warning::Socket(socket)]);
    }

    #[test]
    fn many_sources_do_not_take_long() {
        let tree = tree();
        let paths = vec![tree.path().join("b/file"); 20_000];
        let sources = Sources::check(&paths, PLAIN).expect("sources");
        assert_eq!(sources.list.len(), 1);
    }
}
