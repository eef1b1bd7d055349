//! Why output cannot be written.

use std::io;
use std::path::PathBuf;

/// A failure of output. Each of them ends the run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OutputError {
    /// stdout is a pipe, and its reader has closed it (`| head`).
    #[error("nobody reads the output any more")]
    Closed,
    /// Another failure of stdout or stderr, such as a full disk.
    #[error("can't write the output")]
    Failed(#[source] io::Error),
    /// A file of `--output-dir`.
    #[error("can't write '{}'", .0.display())]
    File(PathBuf, #[source] io::Error),
    /// Kept output fills its share of memory, the temporary directory takes no more,
    /// and every host waits for room.
    #[error("the output of the hosts has no room in '{}'", .0.display())]
    NoRoom(PathBuf, #[source] io::Error),
}
