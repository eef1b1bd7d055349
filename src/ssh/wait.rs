//! Waiting for a descriptor: how long, and what ends the waiting before.

use std::os::fd::BorrowedFd;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::wake::Wakeup;

/// Why something that was waited for did not happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interrupted {
    /// The deadline has passed.
    TimedOut,
    /// The run has been cancelled.
    Cancelled,
}

/// How long to wait, and what may end the waiting before.
#[derive(Clone, Copy)]
pub(crate) struct WaitLimit<'a> {
    /// No longer than until then.
    pub(crate) deadline: Instant,
    /// Interrupts the waiting so that `cancelled` is asked.
    pub(crate) wakeup: &'a Wakeup,
    /// Whether to give up.
    pub(crate) cancelled: &'a dyn Fn() -> bool,
}

impl WaitLimit<'_> {
    /// Waits for a descriptor.
    ///
    /// # Errors
    /// The time is up, or the run has been cancelled.
    pub(crate) fn wait_for(&self, fd: BorrowedFd<'_>, flags: PollFlags) -> Result<(), Interrupted> {
        loop {
            self.wakeup.clear();
            if (self.cancelled)() {
                return Err(Interrupted::Cancelled);
            }
            let now = Instant::now();
            if now >= self.deadline {
                return Err(Interrupted::TimedOut);
            }
            let mut fds = [
                PollFd::from_borrowed_fd(fd, flags),
                PollFd::new(self.wakeup, PollFlags::IN),
            ];
            poll_until(&mut fds, self.deadline, now);
            if !fds[0].revents().is_empty() {
                return Ok(());
            }
        }
    }
}

/// `poll(2)` with a deadline; a signal is as good as nothing ready.
pub(super) fn poll_until(fds: &mut [PollFd<'_>], deadline: Instant, now: Instant) {
    let left = deadline.saturating_duration_since(now);
    let timeout = Timespec {
        tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: left.subsec_nanos().into(),
    };
    match poll(fds, Some(&timeout)) {
        Ok(_) | Err(Errno::INTR) => {}
        // What else poll(2) can say is a mistake in its arguments, or no memory
        // for a moment, which is over the next time.
        Err(error) => debug_assert!(error == Errno::NOMEM, "poll: {error}"),
    }
}
