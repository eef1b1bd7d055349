//! Waiting for conditions, never for time to pass.
//!
//! Everything in the harness that waits goes through [`wait_until`], so that
//! nothing hangs and whatever does not happen is named.

use std::thread;
use std::time::{Duration, Instant};

const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Returns as soon as `condition` holds.
///
/// # Panics
///
/// If it does not hold within `limit`; the message says `what` was awaited.
#[track_caller]
pub fn wait_until(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    assert!(
        holds_within(limit, &mut condition),
        "waited {limit:?} in vain for {what}"
    );
}

/// Whether `condition` comes to hold within `limit`.
pub fn holds_within(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        thread::sleep(POLL_INTERVAL);
    }
}
