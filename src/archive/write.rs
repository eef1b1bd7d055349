//! Makes the tar stream.
//!
//! In the dialect that GNU tar, bsdtar and BusyBox tar all read: GNU's headers
//! with its long names (`L`, `K`) and large numbers (base 256), which carry any
//! bytes, and a PAX record for nothing but what these lack, parts of seconds
//! and times before 1970 (BusyBox passes over it). Owners are numbers only.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tar::{Builder, EntryType, Header};

use super::compress::{Compression, Encoder};
use super::manifest::Standing;
use super::sink::{Sink, SinkError};
use super::sources::{Options, Sources, open};
use super::walk::{Entry, walk};
use super::{ArchiveError, Warning};

/// Who wants to know how far an archive is.
pub(crate) trait Listener {
    /// This is what is sent next, the `number`th of what is no directory.
    fn file(&mut self, number: u64, path: &Path);

    /// This entry is sent next, a directory too.
    fn entry(&mut self, entry: &Entry);

    /// So many bytes of files have been sent in all.
    fn bytes(&mut self, sent: u64);

    /// Something that is no error.
    fn warn(&mut self, warning: Warning);
}

/// What has been sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Sent {
    /// Things that are no directories.
    pub(crate) files: u64,
    /// Bytes of regular files.
    pub(crate) bytes: u64,
}

/// Writes everything as one archive.
///
/// # Errors
/// An entry cannot be read, was checked and is gone, or is of another kind than when
/// it was checked; or the archive is not taken. What has been written until then is no
/// whole archive.
pub(crate) fn write(
    sources: &mut Sources,
    out: &mut dyn Sink,
    listener: &mut dyn Listener,
) -> Result<Sent, ArchiveError> {
    let options = sources.options;
    let mut writer = Writer {
        builder: Builder::new(out),
        options,
        links: HashMap::new(),
        sent: Sent::default(),
    };
    let mut comparison = sources.manifest.compare()?;
    let mut added: Option<(PathBuf, u64)> = None;
    for (number, source) in sources.list.iter().enumerate() {
        walk(source, options.dereference, |entry| {
            let is_new = comparison.meet(number, &entry)? == Standing::New;
            if entry.is_socket() {
                // The check has warned of the others.
                if is_new {
                    listener.warn(Warning::Socket(entry.path));
                }
                return Ok(());
            }
            if is_new {
                added.get_or_insert((entry.path.clone(), 0)).1 += 1;
            }
            writer.add(&entry, listener)
        })?;
    }
    comparison.finish()?;
    writer.builder.finish().map_err(ArchiveError::NotTaken)?;
    if let Some((first, count)) = added {
        listener.warn(Warning::Added { first, count });
    }
    Ok(writer.sent)
}

/// An archive with nothing in it.
///
/// # Errors
/// It cannot be compressed.
pub(crate) fn empty(compression: Option<Compression>) -> io::Result<Vec<u8>> {
    let mut encoder = Encoder::new(compression, Vec::new())?;
    Builder::new(&mut encoder).finish()?;
    encoder.finish()
}

struct Writer<'a> {
    builder: Builder<&'a mut dyn Sink>,
    options: Options,
    /// Names of files that may come again under another name.
    links: HashMap<(u64, u64), PathBuf>,
    sent: Sent,
}

impl Writer<'_> {
    fn add(&mut self, entry: &Entry, listener: &mut dyn Listener) -> Result<(), ArchiveError> {
        let kind = entry.metadata.file_type();
        if !kind.is_dir() {
            self.sent.files += 1;
            listener.file(self.sent.files, &entry.path);
        }
        listener.entry(entry);
        if let Some(identity) = entry.link_identity() {
            if let Some(first) = self.links.get(&identity).cloned() {
                return self.add_link(entry, EntryType::Link, &first);
            }
            self.links.insert(identity, entry.name.clone());
        }
        if kind.is_file() {
            return self.add_file(entry, listener);
        }
        if kind.is_symlink() {
            let to = std::fs::read_link(&entry.path)
                .map_err(|error| ArchiveError::unreadable(&entry.path, error))?;
            return self.add_link(entry, EntryType::Symlink, &to);
        }
        let entry_type = if kind.is_dir() {
            EntryType::Directory
        } else if kind.is_fifo() {
            EntryType::Fifo
        } else if kind.is_char_device() {
            EntryType::Char
        } else {
            EntryType::Block
        };
        let mut header = self.header(entry_type, &entry.metadata);
        if kind.is_char_device() || kind.is_block_device() {
            let device = entry.metadata.rdev();
            header
                .set_device_major(rustix::fs::major(device))
                .and_then(|()| header.set_device_minor(rustix::fs::minor(device)))
                .map_err(ArchiveError::NotTaken)?;
        }
        self.times(&entry.metadata)?;
        self.append(&mut header, &entry.name)
            .map_err(ArchiveError::NotTaken)
    }

    fn add_link(
        &mut self,
        entry: &Entry,
        entry_type: EntryType,
        to: &Path,
    ) -> Result<(), ArchiveError> {
        let mut header = self.header(entry_type, &entry.metadata);
        self.times(&entry.metadata)?;
        self.long_name(to, EntryType::GNULongLink)
            .map_err(ArchiveError::NotTaken)?;
        header_link(&mut header, to);
        self.append(&mut header, &entry.name)
            .map_err(ArchiveError::NotTaken)
    }

    fn add_file(&mut self, entry: &Entry, listener: &mut dyn Listener) -> Result<(), ArchiveError> {
        let unreadable = |error| ArchiveError::unreadable(&entry.path, error);
        let file = open(entry)?;
        // As it is now, whatever it was when it was checked.
        let metadata = file.metadata().map_err(unreadable)?;
        if !metadata.is_file() {
            return Err(ArchiveError::Replaced(entry.path.clone()));
        }
        let mut header = self.header(EntryType::Regular, &metadata);
        header.set_size(metadata.len());
        self.times(&metadata)?;
        self.append(&mut header, &entry.name)
            .map_err(ArchiveError::NotTaken)?;
        self.pass_on(entry, &file, metadata.len(), listener)?;
        // (Or it had more all the time, as files of /proc have.)
        let has_grown = file.metadata().is_ok_and(|now| now.len() > metadata.len());
        if has_grown || matches!((&file).read(&mut [0]), Ok(1)) {
            listener.warn(Warning::Grown(entry.path.clone()));
        }
        Ok(())
    }

    fn header(&self, entry_type: EntryType, metadata: &Metadata) -> Header {
        let mut header = Header::new_gnu();
        header.set_entry_type(entry_type);
        header.set_mode(metadata.permissions().mode() & 0o7777);
        // 0 is who extracts with the right to give files away; who has not the
        // right is the owner anyway.
        let keep = |keep, id: u32| if keep { u64::from(id) } else { 0 };
        header.set_uid(keep(self.options.keep_uid, metadata.uid()));
        header.set_gid(keep(self.options.keep_gid, metadata.gid()));
        header.set_mtime(u64::try_from(metadata.mtime()).unwrap_or(0));
        header.set_size(0);
        header
    }

    /// What the header cannot say about the time.
    fn times(&mut self, metadata: &Metadata) -> Result<(), ArchiveError> {
        let Some(time) = pax_time(metadata.mtime(), metadata.mtime_nsec()) else {
            return Ok(());
        };
        let record = pax_record("mtime", &time);
        self.record(EntryType::XHeader, PAX_HEADER, record.as_bytes())
            .map_err(ArchiveError::NotTaken)
    }

    /// Writes a header; the content of a file comes after it.
    fn append(&mut self, header: &mut Header, name: &Path) -> io::Result<()> {
        self.long_name(name, EntryType::GNULongName)?;
        let bytes = name.as_os_str().as_bytes();
        let field = &mut header.as_old_mut().name;
        let length = bytes.len().min(field.len());
        field[..length].copy_from_slice(&bytes[..length]);
        header.set_cksum();
        self.builder.append(header, io::empty())
    }

    /// Writes the content of a file, as many bytes as were announced, filled up to
    /// whole blocks. (The builder would do that, too, in pieces of 8 KiB.)
    fn pass_on(
        &mut self,
        entry: &Entry,
        file: &File,
        size: u64,
        listener: &mut dyn Listener,
    ) -> Result<(), ArchiveError> {
        let out = self.builder.get_mut();
        let mut left = size;
        while left > 0 {
            let taken = out.take(file, left).map_err(|error| match error {
                SinkError::Unreadable(error) => ArchiveError::unreadable(&entry.path, error),
                SinkError::NotTaken(error) => ArchiveError::NotTaken(error),
            })?;
            if taken == 0 {
                return Err(ArchiveError::Shrunk(entry.path.clone()));
            }
            left -= taken as u64;
            self.sent.bytes += taken as u64;
            listener.bytes(self.sent.bytes);
        }
        let filling = (BLOCK - (size % BLOCK as u64) as usize) % BLOCK;
        out.write_all(&[0; BLOCK][..filling])
            .map_err(ArchiveError::NotTaken)
    }

    /// A record before the header, for a name that does not fit into it.
    fn long_name(&mut self, name: &Path, entry_type: EntryType) -> io::Result<()> {
        let name = name.as_os_str().as_bytes();
        if name.len() <= FIELD {
            return Ok(());
        }
        // GNU's are ended by a NUL.
        self.record(entry_type, LONG_LINK, &[name, b"\0"].concat())
    }

    /// Something about the entry that follows. (tar's own PAX records have no
    /// name, which BusyBox takes for the end of the archive.)
    fn record(&mut self, entry_type: EntryType, name: &[u8], content: &[u8]) -> io::Result<()> {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(content.len() as u64);
        header.set_entry_type(entry_type);
        header.set_cksum();
        self.builder.append(&header, content)
    }
}

/// What an archive is made of.
const BLOCK: usize = 512;

/// The size of the fields for names in a header.
const FIELD: usize = 100;

/// What GNU tar calls the records of long names.
const LONG_LINK: &[u8] = b"././@LongLink";

/// What the records of PAX are called; they have to have some name.
const PAX_HEADER: &[u8] = b"././@PaxHeader";

/// `length key=value`, of which the length is a part (POSIX pax, "extended
/// header").
fn pax_record(key: &str, value: &str) -> String {
    // Blank, `=` and line end.
    let rest = key.len() + value.len() + 3;
    let mut length = rest;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    format!("{length} {key}={value}\n")
}

fn header_link(header: &mut Header, to: &Path) {
    let bytes = to.as_os_str().as_bytes();
    let field = &mut header.as_old_mut().linkname;
    let length = bytes.len().min(field.len());
    field[..length].copy_from_slice(&bytes[..length]);
}

/// Seconds and nanoseconds as PAX writes them (POSIX pax, "mtime"), if a header
/// can't say the same.
fn pax_time(seconds: i64, nanoseconds: i64) -> Option<String> {
    if seconds >= 0 && nanoseconds == 0 {
        return None;
    }
    // A time before 1970 counts down to its second, and up from there.
    Some(if seconds < 0 && nanoseconds > 0 {
        let (whole, rest) = (-(seconds + 1), 1_000_000_000 - nanoseconds);
        format!("-{whole}.{rest:09}")
    } else {
        format!("{seconds}.{nanoseconds:09}")
    })
}

#[cfg(test)]
mod tests;
