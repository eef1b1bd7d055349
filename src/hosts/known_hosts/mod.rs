//! The known_hosts files: whether a server's key is the one that it should have.
//!
//! Knows names, keys and files; what to do with an unknown or changed key is decided by `ssh`,
//! which asks here before and after each key exchange. Facts: sshd(8), "SSH_KNOWN_HOSTS FILE
//! FORMAT", and where that is silent, the behaviour of OpenSSH's ssh(1), tried with 9.2:
//!
//! - A key that any line has for the host makes it known, even where others differ.
//! - Otherwise any key on record, *of whatever type*, makes the shown one a changed one. Here a
//!   record of other types only is told apart, as [`Verdict::OtherType`].
//! - A server on another port than 22 is `[host]:port`. Where no line has a key for that, the
//!   bare name is tried: a match makes the key known, a mismatch leaves it unknown.
//! - A line with `@cert-authority` is no record of a key.
//!
//! Stricter than ssh in two points. A key that is revoked for the bare name is revoked on every
//! port; ssh warns and then takes it for new. And `@revoked` may be followed by a tab, where ssh
//! drops the line.

mod append;
mod key;
mod line;

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

pub(crate) use append::{NewKey, append};
pub(crate) use key::{fingerprint, key_type};
pub(crate) use line::BadLine;

use line::{HashedName, Line, Marker, Names, Patterns};

/// The port that goes without saying (RFC 4253, section 4.1).
const DEFAULT_PORT: u16 = 22;

/// Everything that the known_hosts files say. Read once per run and shared by all threads.
///
/// Plain names are found by an index; lines with patterns and hashed names have to be tried one
/// by one, which costs about 0.2 µs for a hashed one.
#[derive(Debug, Default)]
pub(crate) struct KnownHosts {
    files: Vec<PathBuf>,
    entries: Vec<Entry>,
    /// Plain names in lower case, and the entries that have them.
    exact: HashMap<Box<[u8]>, Vec<usize>>,
    patterns: Vec<(usize, Patterns)>,
    hashed: Vec<(usize, HashedName)>,
}

/// What a line says, without the names that lead to it.
#[derive(Debug)]
struct Entry {
    marker: Marker,
    key: Box<[u8]>,
    /// Index into the files.
    file: usize,
    line: usize,
}

/// A line of a known_hosts file, counted from 1. Shown as `file:line`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// The file, as it was named to [`KnownHosts::load`].
    pub(crate) file: PathBuf,
    /// The number of the line.
    pub(crate) line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

/// What the files say of the key that a server showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The key is on record for the host.
    Known {
        /// The line that has it.
        at: Place,
    },
    /// No key is on record for the host.
    Unknown,
    /// Another key of the same type is on record. ssh refuses this under every policy but `no`.
    Changed {
        /// The first line that has another one.
        at: Place,
        /// The fingerprint of the key in that line.
        known: String,
    },
    /// Only keys of other types are on record. ssh makes no difference between this and a changed
    /// key, and neither should the caller: a server is asked for the recorded types first, so one
    /// that shows another has lost them all, or is somebody else.
    OtherType {
        /// The first line for the host.
        at: Place,
        /// The fingerprint of the key in that line.
        known: String,
        /// The type of the key in that line.
        known_type: String,
    },
    /// The key is marked `@revoked` for the host, whatever else the files say of it.
    Revoked {
        /// The line that revokes it.
        at: Place,
    },
}

/// Something in the files that could not be used. It hides nothing else.
#[derive(Debug, Error)]
pub(crate) enum Problem {
    /// A file is there and cannot be read.
    #[error("cannot read {}: {cause}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// A line is malformed.
    #[error("{at}: {cause}")]
    Line {
        /// The line.
        at: Place,
        /// What is wrong with it.
        cause: BadLine,
    },
}

impl KnownHosts {
    /// Reads the files of UserKnownHostsFile and GlobalKnownHostsFile (ssh_config(5)), in this
    /// order. Missing files are fine, and problems leave everything else usable.
    pub(crate) fn load(
        user_files: &[PathBuf],
        global_files: &[PathBuf],
    ) -> (KnownHosts, Vec<Problem>) {
        let mut known = KnownHosts::default();
        let mut problems = Vec::new();
        for file in user_files.iter().chain(global_files) {
            match fs::read(file) {
                Ok(text) => problems.extend(known.add_file(file, &text)),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(cause) => problems.push(Problem::Unreadable {
                    file: file.clone(),
                    cause,
                }),
            }
        }
        (known, problems)
    }

    /// Looks a server up, once for all questions about it.
    ///
    /// `host` is the name that was asked for, not the address it resolved to. A HostKeyAlias
    /// stands for name and port together: pass it with port 22, as ssh adds no port to it.
    pub(crate) fn lookup(&self, host: &str, port: u16) -> Lookup<'_> {
        let mut lookup = Lookup {
            known: self,
            named: self.entries_for(&record_name(host, port)),
            bare: Vec::new(),
        };
        if port != DEFAULT_PORT {
            lookup.bare = self.entries_for(&record_name(host, DEFAULT_PORT));
        }
        lookup
    }

    /// What the files say of the key, given as its wire blob (RFC 4253, section 6.6), of a server.
    /// See [`KnownHosts::lookup`] for the name.
    pub(crate) fn verdict(&self, host: &str, port: u16, key: &[u8]) -> Verdict {
        self.lookup(host, port).verdict(key)
    }

    fn add_file(&mut self, file: &Path, text: &[u8]) -> Vec<Problem> {
        let mut problems = Vec::new();
        self.files.push(file.to_path_buf());
        for (index, line) in text.split(|&b| b == b'\n').enumerate() {
            if let Err(cause) = self.add_line(index + 1, line) {
                let place = Place {
                    file: file.to_path_buf(),
                    line: index + 1,
                };
                problems.push(Problem::Line { at: place, cause });
            }
        }
        problems
    }

    /// Adds a line of the file that was added last.
    fn add_line(&mut self, number: usize, text: &[u8]) -> Result<(), BadLine> {
        let Some(Line { marker, names, key }) = line::parse(text)? else {
            return Ok(());
        };
        let id = self.entries.len();
        self.entries.push(Entry {
            marker,
            key,
            file: self.files.len() - 1,
            line: number,
        });
        match names {
            Names::Exact(names) => {
                for name in names {
                    self.exact.entry(name).or_default().push(id);
                }
            }
            Names::Patterns(patterns) => self.patterns.push((id, patterns)),
            Names::Hashed(hashed) => self.hashed.push((id, *hashed)),
        }
        Ok(())
    }

    /// The entries for a name in lower case, in the order of the files.
    fn entries_for(&self, name: &str) -> Vec<usize> {
        let name = name.as_bytes();
        let mut found = self.exact.get(name).cloned().unwrap_or_default();
        let patterns = self.patterns.iter().filter(|(_, p)| p.matches(name));
        found.extend(patterns.map(|(id, _)| id));
        let hashed = self.hashed.iter().filter(|(_, h)| h.matches(name));
        found.extend(hashed.map(|(id, _)| id));
        found.sort_unstable();
        // A line may list a name twice.
        found.dedup();
        found
    }
}

/// A server's lines, as [`KnownHosts::lookup`] found them.
#[derive(Debug, Clone)]
pub(crate) struct Lookup<'a> {
    known: &'a KnownHosts,
    /// Entries for the server's own name, `[host]:port` where the port is not 22.
    named: Vec<usize>,
    /// Entries for the bare name, where that is another one.
    bare: Vec<usize>,
}

impl<'a> Lookup<'a> {
    /// What the files say of the key that the server showed, given as its wire blob (RFC 4253,
    /// section 6.6).
    pub(crate) fn verdict(&self, key: &[u8]) -> Verdict {
        let mut everywhere = self.marked(&self.named, Marker::Revoked);
        everywhere.extend(self.marked(&self.bare, Marker::Revoked));
        if let Some(entry) = everywhere.iter().find(|e| *e.key == *key) {
            return Verdict::Revoked {
                at: self.place(entry),
            };
        }

        let named = self.marked(&self.named, Marker::Plain);
        let Some(first) = named.first() else {
            // As in ssh, another key under the bare name says nothing of this port.
            let bare = self.marked(&self.bare, Marker::Plain);
            return match bare.iter().find(|e| *e.key == *key) {
                Some(entry) => Verdict::Known {
                    at: self.place(entry),
                },
                None => Verdict::Unknown,
            };
        };
        if let Some(entry) = named.iter().find(|e| *e.key == *key) {
            return Verdict::Known {
                at: self.place(entry),
            };
        }
        match named.iter().find(|e| key_type(&e.key) == key_type(key)) {
            Some(entry) => Verdict::Changed {
                at: self.place(entry),
                known: fingerprint(&entry.key),
            },
            None => Verdict::OtherType {
                at: self.place(first),
                known: fingerprint(&first.key),
                known_type: key_type(&first.key).unwrap_or_default().to_owned(),
            },
        }
    }

    /// The types of the keys on record, each once, in the order of the files: what to ask the
    /// server for first, or a known host shows a key of another type. These are key types: one
    /// of `ssh-rsa` is asked for as `rsa-sha2-512` and `rsa-sha2-256` (RFC 8332).
    ///
    /// Where only the bare name is on record, its types count, since a key of one of them may be
    /// the known one.
    pub(crate) fn types(&self) -> Vec<String> {
        let mut entries = self.marked(&self.named, Marker::Plain);
        if entries.is_empty() {
            entries = self.marked(&self.bare, Marker::Plain);
        }
        let mut types: Vec<String> = Vec::new();
        for kind in entries.iter().filter_map(|e| key_type(&e.key)) {
            if !types.iter().any(|t| t == kind) {
                types.push(kind.to_owned());
            }
        }
        types
    }

    fn marked(&self, ids: &[usize], marker: Marker) -> Vec<&'a Entry> {
        let entries = ids.iter().map(|&id| &self.known.entries[id]);
        entries.filter(|entry| entry.marker == marker).collect()
    }

    fn place(&self, entry: &Entry) -> Place {
        Place {
            file: self.known.files[entry.file].clone(),
            line: entry.line,
        }
    }
}

/// The name under which a server is on record: in lower case, and `[host]:port` where the port is
/// not 22 (sshd(8)).
pub(crate) fn record_name(host: &str, port: u16) -> String {
    let host = host.to_ascii_lowercase();
    match port {
        DEFAULT_PORT => host,
        _ => format!("[{host}]:{port}"),
    }
}

#[cfg(test)]
mod tests;
