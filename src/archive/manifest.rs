//! What the check of the sources found, to compare with what the sending finds.
//!
//! Both walks have one order, so the comparison is a merge of two sorted lists, and
//! only one entry of each is in memory. The list of the first walk is in an
//! unnamed temporary file, or in memory while it is short.

use std::cmp::Ordering;
use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{FileType, RawMode};
use tempfile::SpooledTempFile;

use super::ArchiveError;
use super::walk::Entry;

/// A list up to this many bytes stays in memory.
const MOST_IN_MEMORY: usize = 1024 * 1024;

/// The entries that the check found.
#[derive(Debug)]
pub(crate) struct Manifest(SpooledTempFile);

impl Manifest {
    /// Begins a comparison with the entries of another walk.
    pub(super) fn compare(&mut self) -> Result<Comparison<'_>, ArchiveError> {
        self.0.rewind().map_err(ArchiveError::Manifest)?;
        let mut comparison = Comparison {
            input: BufReader::new(&mut self.0),
            next: None,
            path: Vec::new(),
        };
        comparison.advance()?;
        Ok(comparison)
    }
}

/// Writes a manifest.
pub(super) struct Recorder {
    out: BufWriter<SpooledTempFile>,
    /// The path of the entry before.
    last: Vec<u8>,
}

impl Recorder {
    pub(super) fn new() -> Self {
        Self {
            out: BufWriter::new(SpooledTempFile::new(MOST_IN_MEMORY)),
            last: Vec::new(),
        }
    }

    /// Adds an entry of the `source`th source.
    pub(super) fn add(&mut self, source: usize, entry: &Entry) -> Result<(), ArchiveError> {
        let path = entry.path.as_os_str().as_bytes();
        let pairs = path.iter().zip(&self.last);
        // Most of a path is that of the entry before.
        let shared = pairs.take_while(|(one, other)| one == other).count();
        let head = Head {
            source,
            kind: kind(entry),
            shared,
            rest: path.len() - shared,
        };
        head.write(&mut self.out)
            .and_then(|()| self.out.write_all(&path[shared..]))
            .map_err(ArchiveError::Manifest)?;
        self.last.truncate(shared);
        self.last.extend_from_slice(&path[shared..]);
        Ok(())
    }

    pub(super) fn finish(self) -> Result<Manifest, ArchiveError> {
        let file = self.out.into_inner();
        let file = file.map_err(|error| ArchiveError::Manifest(error.into_error()))?;
        Ok(Manifest(file))
    }
}

/// What is written of an entry before the rest of its path.
struct Head {
    /// The number of the source.
    source: usize,
    kind: FileType,
    /// How many bytes of the path are those of the path before.
    shared: usize,
    /// How many bytes follow.
    rest: usize,
}

impl Head {
    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        out.write_all(&self.kind.as_raw_mode().to_ne_bytes())?;
        for number in [self.source, self.shared, self.rest] {
            out.write_all(&number.to_ne_bytes())?;
        }
        Ok(())
    }

    fn read(input: &mut impl Read) -> io::Result<Self> {
        let mut mode = [0; size_of::<RawMode>()];
        input.read_exact(&mut mode)?;
        let mut number = || {
            let mut bytes = [0; size_of::<usize>()];
            input.read_exact(&mut bytes)?;
            Ok::<_, io::Error>(usize::from_ne_bytes(bytes))
        };
        Ok(Self {
            kind: FileType::from_raw_mode(RawMode::from_ne_bytes(mode)),
            source: number()?,
            shared: number()?,
            rest: number()?,
        })
    }
}

fn kind(entry: &Entry) -> FileType {
    FileType::from_raw_mode(entry.metadata.mode())
}

/// Whether the check found an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// It was there, and was of the same kind.
    Checked,
    /// It was not there, or was a socket, which is not sent.
    New,
}

/// A comparison of a manifest with the entries of another walk.
pub(super) struct Comparison<'a> {
    input: BufReader<&'a mut SpooledTempFile>,
    /// The source and the kind of the next entry of the manifest.
    next: Option<(usize, FileType)>,
    /// Its path.
    path: Vec<u8>,
}

impl Comparison<'_> {
    /// Takes the next entry of the other walk, which is of the `source`th source.
    ///
    /// # Errors
    /// An entry of the manifest is missing in the other walk, or is of another kind.
    pub(super) fn meet(&mut self, source: usize, entry: &Entry) -> Result<Standing, ArchiveError> {
        while let Some((checked_source, checked_kind)) = self.next {
            let path = Path::new(OsStr::from_bytes(&self.path));
            match (checked_source, path).cmp(&(source, &entry.path)) {
                Ordering::Less => self.pass_missing(checked_kind)?,
                Ordering::Greater => return Ok(Standing::New),
                Ordering::Equal => {
                    self.advance()?;
                    let is_same = checked_kind == kind(entry);
                    return match checked_kind {
                        _ if is_same => Ok(Standing::Checked),
                        FileType::Socket => Ok(Standing::New),
                        _ => Err(ArchiveError::Replaced(entry.path.clone())),
                    };
                }
            }
        }
        Ok(Standing::New)
    }

    /// The other walk is at its end.
    ///
    /// # Errors
    /// An entry of the manifest is missing in the other walk.
    pub(super) fn finish(mut self) -> Result<(), ArchiveError> {
        while let Some((_, kind)) = self.next {
            self.pass_missing(kind)?;
        }
        Ok(())
    }

    /// Nobody misses a socket.
    fn pass_missing(&mut self, kind: FileType) -> Result<(), ArchiveError> {
        if kind == FileType::Socket {
            return self.advance();
        }
        let path = Path::new(OsStr::from_bytes(&self.path));
        Err(ArchiveError::Gone(path.to_owned()))
    }

    fn advance(&mut self) -> Result<(), ArchiveError> {
        self.next = self.read().map_err(ArchiveError::Manifest)?;
        Ok(())
    }

    fn read(&mut self) -> io::Result<Option<(usize, FileType)>> {
        if self.input.fill_buf()?.is_empty() {
            return Ok(None);
        }
        let head = Head::read(&mut self.input)?;
        self.path.resize(head.shared + head.rest, 0);
        self.input.read_exact(&mut self.path[head.shared..])?;
        Ok(Some((head.source, head.kind)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    /// An entry of a path, of the kind of something that is on every system.
    fn entry(path: &str, like: &str) -> Entry {
        Entry {
            path: PathBuf::from(path),
            name: PathBuf::from(path),
            metadata: std::fs::metadata(like).expect("it is there"),
            is_followed: false,
        }
    }

    const FILE: &str = "/etc/passwd";
    const DIRECTORY: &str = "/";
    const DEVICE: &str = "/dev/null";

    /// What comes of a second walk. Entries are written `1 a/b`, with the source.
    fn compare(first: &[(usize, Entry)], second: &[(usize, Entry)]) -> Result<Vec<String>, String> {
        let mut recorder = Recorder::new();
        for (source, entry) in first {
            recorder.add(*source, entry).expect("memory");
        }
        let mut manifest = recorder.finish().expect("memory");
        let mut comparison = manifest.compare().expect("memory");
        let mut new = Vec::new();
        for (source, entry) in second {
            let standing = comparison.meet(*source, entry);
            if standing.map_err(|error| error.to_string())? == Standing::New {
                new.push(entry.path.display().to_string());
            }
        }
        comparison.finish().map_err(|error| error.to_string())?;
        Ok(new)
    }

    fn walk(paths: &[&str]) -> Vec<(usize, Entry)> {
        let entries = paths.iter().map(|path| (0, entry(path, FILE)));
        entries.collect()
    }

    #[test]
    fn entries_of_the_second_walk_alone_are_new() {
        let first = walk(&["b", "b/d", "c"]);
        let same = compare(&first, &walk(&["b", "b/d", "c"]));
        assert_eq!(same, Ok(vec![]));
        let new = compare(
            &first,
            &walk(&["a", "b", "b/c", "b/d", "b/d/e", "b-", "c", "d"]),
        );
        assert_eq!(new.unwrap(), ["a", "b/c", "b/d/e", "b-", "d"]);
        assert_eq!(compare(&[], &walk(&["a"])).unwrap(), ["a"]);
    }

    #[test]
    fn the_first_entry_that_is_missing_is_named() {
        let first = walk(&["a", "b", "b/a", "b/b", "c"]);
        for (second, missing) in [
            (&["b", "b/a", "b/b", "c"][..], "a"),
            (&["a", "c"], "b"),
            (&["a", "b", "b/aa", "b/b", "c"], "b/a"),
            (&["a", "b", "b/a", "b/b"], "c"),
            (&[], "a"),
        ] {
            let error = compare(&first, &walk(second)).unwrap_err();
            assert_eq!(
                error,
                format!("can't upload '{missing}': it was removed after the check")
            );
        }
    }

    #[test]
    fn an_entry_of_another_kind_is_named() {
        let first = [(0, entry("a", FILE)), (0, entry("b", DIRECTORY))];
        let second = [(0, entry("a", FILE)), (0, entry("b", DEVICE))];
        let error = compare(&first, &second).unwrap_err();
        assert!(error.starts_with("can't upload 'b': "), "{error}");
    }

    #[test]
    fn sockets_may_go_and_come() {
        let directory = tempfile::tempdir().expect("tempdir");
        let socket = directory.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
        let socket = socket.to_str().expect("UTF-8");
        let first = [(0, entry("a", socket)), (0, entry("b", socket))];
        assert_eq!(compare(&first, &walk(&["b"])).unwrap(), ["b"]);
        assert_eq!(compare(&first, &[]).unwrap(), [""; 0]);
    }

    #[test]
    fn sources_are_compared_in_their_order() {
        let first = [(0, entry("b", FILE)), (1, entry("a", FILE))];
        let second = [(0, entry("b", FILE)), (1, entry("a", FILE))];
        assert_eq!(compare(&first, &second), Ok(vec![]));
        let error = compare(&first, &second[1..]).unwrap_err();
        assert!(error.contains("'b'"), "{error}");
    }

    #[test]
    fn a_long_list_goes_to_a_file() {
        let path = |number: usize| format!("{number:06}/{}", "x".repeat(number % 300));
        let first: Vec<_> = (0..50_000).map(|i| (0, entry(&path(i), FILE))).collect();
        assert_eq!(compare(&first, &first), Ok(vec![]));
        let error = compare(&first, &first[..49_999]).unwrap_err();
        assert!(error.contains(&path(49_999)), "{error}");
    }
}
