//! Wakes a thread that sleeps in `poll(2)`.
//!
//! Channels of crossbeam cannot be polled, so the sender of an order also writes a
//! byte into that node's pipe (DESIGN: a node thread
//! blocks in `poll` and nowhere else). Used by `output` (credit is back),
//! `cluster` (an order is waiting) and `ssh`, whose loops do the polling.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::pipe::{PipeFlags, pipe_with};

/// The sending end: cheap to clone, usable from any thread.
#[derive(Debug, Clone)]
pub(crate) struct Waker {
    pipe: Arc<OwnedFd>,
}

/// The end that a thread polls.
#[derive(Debug)]
pub(crate) struct Wakeup {
    pipe: OwnedFd,
}

/// Makes a connected pair.
///
/// # Errors
/// The process has no file descriptors left.
pub(crate) fn pair() -> io::Result<(Waker, Wakeup)> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    Ok((
        Waker {
            pipe: Arc::new(write),
        },
        Wakeup { pipe: read },
    ))
}

impl Waker {
    /// Makes the next (or current) `poll` of the other end return.
    pub(crate) fn wake(&self) {
        // A full pipe has a wake-up in it already. A closed one belongs to a thread
        // that has ended.
        let _ = rustix::io::write(&self.pipe, &[1]);
    }
}

impl Wakeup {
    /// Forgets the wake-ups so far. Call it before looking at whatever the
    /// wake-up announced, never after: one that comes in between must count.
    pub(crate) fn clear(&self) {
        let mut sink = [0; 64];
        while matches!(rustix::io::read(&self.pipe, &mut sink), Ok(64)) {}
    }

    /// Sleeps until a wake-up comes. It may also return without one: check the
    /// condition again.
    pub(crate) fn wait(&self) {
        let mut fds = [PollFd::new(&self.pipe, PollFlags::IN)];
        // All that can go wrong is a signal, or no memory for a moment.
        let _ = poll(&mut fds, None);
    }
}

impl AsFd for Wakeup {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::Timespec;

    fn is_ready(wakeup: &Wakeup) -> bool {
        let now = Timespec::default();
        let mut fds = [PollFd::new(wakeup, PollFlags::IN)];
        poll(&mut fds, Some(&now)).expect("poll") == 1
    }

    #[test]
    fn a_wake_up_is_seen_once() {
        let (waker, wakeup) = pair().expect("pipe");
        assert!(!is_ready(&wakeup));
        waker.wake();
        waker.wake();
        assert!(is_ready(&wakeup));
        wakeup.clear();
        assert!(!is_ready(&wakeup));
    }

    #[test]
    fn a_full_pipe_does_not_block_the_sender() {
        let (waker, wakeup) = pair().expect("pipe");
        for _ in 0..100_000 {
            waker.wake();
        }
        wakeup.clear();
        assert!(!is_ready(&wakeup));
    }

    #[test]
    fn waking_a_thread_that_is_gone_is_harmless() {
        let (waker, wakeup) = pair().expect("pipe");
        drop(wakeup);
        waker.wake();
    }
}
