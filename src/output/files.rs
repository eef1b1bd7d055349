//! The files of `--output-dir`: the streams of each host, byte for byte, as they come.
//!
//! A file of an earlier run is truncated at the first byte of its stream. When a command
//! ends, both files of its host exist, and may be empty. Other files in the directory are
//! left alone. A FIFO, a link or a device in place of a file is refused.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use openssl::sha::sha256;
use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::event::{NodeId, Stream};
use crate::output::error::OutputError;
use crate::output::renderer::NodeLabel;

/// The most files that are open at once: connections need descriptors, too.
const OPEN: usize = 64;

/// A file name has at most 255 bytes, the name of the stream included.
const LONGEST_NAME: usize = 240;

/// The files of all nodes.
pub(crate) struct Files {
    paths: Vec<[PathBuf; 2]>,
    has_begun: Vec<[bool; 2]>,
    /// The open files, the one written last at the end.
    open: VecDeque<(NodeId, Stream, File)>,
}

impl Files {
    /// Files in this directory for the nodes with these labels. None is created yet.
    #[must_use]
    pub(crate) fn new(directory: &Path, labels: &[NodeLabel]) -> Self {
        let paths = labels.iter().map(|label| {
            let name = file_name(&label.prefix);
            [Stream::Stdout, Stream::Stderr]
                .map(|stream| directory.join(format!("{name}.{stream}")))
        });
        Self {
            has_begun: vec![[false; 2]; labels.len()],
            paths: paths.collect(),
            open: VecDeque::new(),
        }
    }

    /// Checks the directory before the run.
    ///
    /// # Errors
    /// Something other than a regular file has the name of one of ours.
    pub(crate) fn check(&self) -> Result<(), OutputError> {
        for path in self.paths.iter().flatten() {
            // Other errors show when the file is opened.
            let kind = path.symlink_metadata().map(|found| found.is_file());
            if matches!(kind, Ok(false)) {
                return Err(OutputError::File(path.clone(), no_file()));
            }
        }
        Ok(())
    }

    /// Appends bytes of a node.
    ///
    /// # Errors
    /// The file cannot be created or written.
    pub(crate) fn write(
        &mut self,
        node: NodeId,
        stream: Stream,
        bytes: &[u8],
    ) -> Result<(), OutputError> {
        let is_it = |(of, on, _): &(NodeId, Stream, File)| (*of, *on) == (node, stream);
        let mut file = match self.open.iter().rposition(is_it) {
            Some(at) => self.open.remove(at).map(|(_, _, file)| file),
            None => None,
        };
        let path = &self.paths[node.0][stream as usize];
        let failed = |error| OutputError::File(path.clone(), error);
        if file.is_none() {
            let begun = &mut self.has_begun[node.0][stream as usize];
            file = Some(open(path, !*begun).map_err(failed)?);
            *begun = true;
        }
        if let Some(mut file) = file {
            file.write_all(bytes).map_err(failed)?;
            self.open.push_back((node, stream, file));
        }
        if self.open.len() > OPEN {
            self.open.pop_front();
        }
        Ok(())
    }

    /// Ends the streams of a node. A stream without a byte becomes an empty file.
    ///
    /// # Errors
    /// The file cannot be created.
    pub(crate) fn complete(&mut self, node: NodeId) -> Result<(), OutputError> {
        for stream in [Stream::Stdout, Stream::Stderr] {
            if !self.has_begun[node.0][stream as usize] {
                self.write(node, stream, &[])?;
            }
        }
        self.open.retain(|(of, _, _)| *of != node);
        Ok(())
    }
}

fn open(path: &Path, is_new: bool) -> io::Result<File> {
    // O_NONBLOCK: opening a FIFO would wait for a reader.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let flags = i32::try_from(flags.bits()).unwrap_or_default();
    let mut options = OpenOptions::new();
    options.custom_flags(flags);
    if is_new {
        options.write(true).create(true);
    } else {
        options.append(true);
    }
    let is_link = || {
        path.symlink_metadata()
            .is_ok_and(|found| found.is_symlink())
    };
    let file = match options.open(path) {
        Ok(file) => file,
        Err(_) if is_link() => return Err(no_file()),
        // A FIFO without a reader (open(2)).
        Err(error) if error.raw_os_error() == Some(Errno::NXIO.raw_os_error()) => {
            return Err(no_file());
        }
        Err(error) => return Err(error),
    };
    if !file.metadata()?.is_file() {
        return Err(no_file());
    }
    if is_new {
        file.set_len(0)?;
    }
    Ok(file)
}

fn no_file() -> io::Error {
    io::Error::other("it is there already and no regular file (links are not followed)")
}

/// A host's prefix as the name of a file: other bytes than these are percent-encoded.
fn file_name(prefix: &str) -> String {
    let mut name = String::new();
    for (index, byte) in prefix.bytes().enumerate() {
        let is_plain = byte.is_ascii_alphanumeric()
            || matches!(byte, b'-' | b'_' | b':' | b'@' | b'[' | b']' | b'+' | b'=')
            || (byte == b'.' && index > 0);
        if is_plain {
            name.push(char::from(byte));
        } else {
            name.push_str(&format!("%{byte:02X}"));
        }
    }
    if name.len() > LONGEST_NAME {
        let hash = sha256(prefix.as_bytes());
        let hash: String = hash[..6].iter().map(|byte| format!("{byte:02x}")).collect();
        // The name is ASCII by now, so it can be cut anywhere.
        name.truncate(LONGEST_NAME - hash.len() - 1);
        name = format!("{name}~{hash}");
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, FileType, Mode};
    use std::fs;

    fn label(prefix: &str) -> NodeLabel {
        NodeLabel {
            prefix: prefix.to_owned(),
            node: String::new(),
            given: String::new(),
        }
    }

    #[test]
    fn names_are_safe_for_any_host() {
        for (prefix, name) in [
            ("web1.example.com", "web1.example.com"),
            ("ops@[::1]:22", "ops@[::1]:22"),
            ("../../etc/passwd", "%2E.%2F..%2Fetc%2Fpasswd"),
            ("a b%\n\u{fc}", "a%20b%25%0A%C3%BC"),
        ] {
            assert_eq!(file_name(prefix), name);
        }
        let long = |end: &str| file_name(&format!("{}{end}", "x".repeat(300)));
        assert_eq!(long("a").len(), LONGEST_NAME);
        assert_ne!(long("a"), long("b"));
    }

    #[test]
    fn files_are_begun_anew_and_others_are_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        for name in ["a.stdout", "b.stdout", "c.stdout"] {
            fs::write(path(name), "old").unwrap();
        }
        let mut files = Files::new(directory.path(), &[label("a"), label("b")]);
        files.write(NodeId(0), Stream::Stdout, b"one\n").unwrap();
        assert_eq!(fs::read(path("a.stdout")).unwrap(), b"one\n");
        files.write(NodeId(0), Stream::Stdout, b"two\xff").unwrap();
        assert_eq!(fs::read(path("a.stdout")).unwrap(), b"one\ntwo\xff");
        assert!(!path("a.stderr").exists());
        assert_eq!(fs::read(path("b.stdout")).unwrap(), b"old");
        files.complete(NodeId(0)).unwrap();
        files.complete(NodeId(1)).unwrap();
        assert_eq!(fs::read(path("a.stdout")).unwrap(), b"one\ntwo\xff");
        for name in ["a.stderr", "b.stdout", "b.stderr"] {
            assert_eq!(fs::read(path(name)).unwrap(), b"");
        }
        assert_eq!(fs::read(path("c.stdout")).unwrap(), b"old");
    }

    #[test]
    fn more_hosts_than_open_files_keep_all_they_say() {
        let directory = tempfile::tempdir().unwrap();
        let labels: Vec<NodeLabel> = (0..200).map(|host| label(&format!("web{host}"))).collect();
        let mut files = Files::new(directory.path(), &labels);
        for round in 0..3 {
            for host in 0..200 {
                let bytes = format!("{round}");
                files
                    .write(NodeId(host), Stream::Stderr, bytes.as_bytes())
                    .unwrap();
                assert!(files.open.len() <= OPEN);
            }
        }
        for host in 0..200 {
            let path = directory.path().join(format!("web{host}.stderr"));
            assert_eq!(fs::read(path).unwrap(), b"012");
        }
    }

    #[test]
    fn what_is_no_file_is_refused_before_and_while_it_is_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.stdout");
        let target = directory.path().join("target");
        fs::write(&target, "precious").unwrap();
        let fifo = || {
            let made = rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::RWXU, 0);
            made.unwrap();
        };
        let link = || std::os::unix::fs::symlink(&target, &path).unwrap();
        let nowhere = || std::os::unix::fs::symlink("nowhere", &path).unwrap();
        for make in [&fifo as &dyn Fn(), &link, &nowhere] {
            let mut files = Files::new(directory.path(), &[label("b"), label("a")]);
            files.check().unwrap();
            make();
            for error in [
                files.check().unwrap_err(),
                files.write(NodeId(1), Stream::Stdout, b"x").unwrap_err(),
            ] {
                assert!(matches!(&error, OutputError::File(of, why)
                    if *of == path && why.to_string().contains("no regular file")));
            }
            fs::remove_file(&path).unwrap();
        }
        assert_eq!(fs::read(&target).unwrap(), b"precious");
    }

    #[test]
    fn a_file_that_cannot_be_written_is_named() {
        let mut files = Files::new(Path::new("/nowhere"), &[label("a")]);
        let error = files.write(NodeId(0), Stream::Stdout, b"x").unwrap_err();
        assert_eq!(error.to_string(), "can't write '/nowhere/a.stdout'");
    }
}
