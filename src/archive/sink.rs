//! Where an archive goes: whoever takes it reads the files itself, into its own
//! memory, so that their bytes are not copied on the way.

use std::fs::File;
use std::io::{self, Write};

use rustix::buffer::spare_capacity;

/// Takes an archive.
pub(crate) trait Sink: Write {
    /// Takes what comes next in a file, as far as one read brings it. Nothing is
    /// the end of the file.
    ///
    /// # Errors
    /// It cannot be read, or not be passed on.
    fn take(&mut self, file: &File, most: u64) -> Result<usize, SinkError>;
}

/// Why nothing was taken.
#[derive(Debug)]
pub(crate) enum SinkError {
    /// The file cannot be read.
    Unreadable(io::Error),
    /// Nobody wants it.
    NotTaken(io::Error),
}

/// Reads once, into what has been allocated for a buffer and is not used yet.
///
/// # Errors
/// The file cannot be read.
pub(crate) fn read_into(buffer: &mut Vec<u8>, file: &File, most: u64) -> Result<usize, SinkError> {
    let before = buffer.len();
    let read = rustix::io::retry_on_intr(|| rustix::io::read(file, spare_capacity(buffer)))
        .map_err(|error| SinkError::Unreadable(error.into()))?;
    // A file that grows has more than is wanted of it.
    let taken = read.min(usize::try_from(most).unwrap_or(usize::MAX));
    buffer.truncate(before + taken);
    Ok(taken)
}

/// For tests.
#[cfg(test)]
impl Sink for Vec<u8> {
    fn take(&mut self, file: &File, most: u64) -> Result<usize, SinkError> {
        self.reserve(32 * 1024);
        read_into(self, file, most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_kept_and_no_more_is_taken_than_is_wanted() {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(b"123456").expect("writable");
        io::Seek::rewind(&mut file).expect("a file");
        let mut buffer = Vec::with_capacity(100);
        buffer.push(b'0');
        assert!(matches!(read_into(&mut buffer, &file, 4), Ok(4)));
        assert_eq!(buffer, b"01234");
        assert!(matches!(read_into(&mut buffer, &file, 4), Ok(0)));
    }

    #[test]
    fn what_cannot_be_read_is_an_error() {
        let directory = File::open("/").expect("it is there");
        let result = read_into(&mut Vec::with_capacity(10), &directory, 4);
        assert!(matches!(result, Err(SinkError::Unreadable(_))));
    }
}
