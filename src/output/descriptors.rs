//! Writing to stdout and stderr, and what can be found out about them.

use std::os::fd::BorrowedFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::FileType;
use rustix::io::Errno;

/// Carriage return, and erase to the end of the screen (ECMA-48 section 8.3.39).
pub(super) const ERASE: &[u8] = b"\r\x1b[J";

/// Writes all bytes. Waits where the descriptor does not block.
pub(super) fn write_all(fd: BorrowedFd<'_>, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::write(fd, bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::INTR) => {}
            // Another program has made the terminal non-blocking: O_NONBLOCK belongs to
            // the open file, which several processes share.
            Err(Errno::AGAIN) => {
                let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::OUT)];
                match poll(&mut fds, None) {
                    Ok(_) | Err(Errno::INTR) => {}
                    Err(error) => return Err(error),
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Whether we may draw on the terminal of stderr: not as a background job. Without job
/// control we may.
pub(super) fn is_in_foreground() -> bool {
    let foreground = rustix::termios::tcgetpgrp(rustix::stdio::stderr());
    foreground.map_or(true, |group| group == rustix::process::getpgrp())
}

/// Whether an error means that stderr is closed, that its reader has ended, or that its
/// terminal is gone (EIO). None of these is a reason to end the run.
pub(super) fn is_gone(error: Errno) -> bool {
    let is_device = || {
        let stat = rustix::fs::fstat(rustix::stdio::stderr());
        stat.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice)
    };
    matches!(error, Errno::PIPE | Errno::BADF) || (error == Errno::IO && is_device())
}

/// Writes to stderr what it takes without blocking.
pub(crate) fn write_at_once(bytes: &[u8]) {
    /// A pipe that poll(2) finds writable takes this much at once (pipe(7)).
    const PIPE_BUF: usize = 4096;
    for piece in bytes.chunks(PIPE_BUF) {
        let stderr = rustix::stdio::stderr();
        let mut fds = [PollFd::from_borrowed_fd(stderr, PollFlags::OUT)];
        let takes_a_piece = matches!(poll(&mut fds, Some(&Timespec::default())), Ok(1));
        if !takes_a_piece || write_all(stderr, piece).is_err() {
            return;
        }
    }
}

/// Whether another program reads our stdout.
pub(super) fn stdout_is_pipe() -> bool {
    let stat = rustix::fs::fstat(rustix::stdio::stdout());
    stat.is_ok_and(|stat| {
        let kind = FileType::from_raw_mode(stat.st_mode);
        matches!(kind, FileType::Fifo | FileType::Socket)
    })
}

/// Whether stdout and stderr are one file.
#[must_use]
pub(crate) fn is_one_file() -> bool {
    let stat = |fd| rustix::fs::fstat(fd).map(|stat| (stat.st_dev, stat.st_ino));
    match (stat(rustix::stdio::stdout()), stat(rustix::stdio::stderr())) {
        (Ok(stdout), Ok(stderr)) => stdout == stderr,
        _ => false,
    }
}
