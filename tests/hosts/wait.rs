//! Waiting for conditions, never for time to pass.
//!
//! Everything in the harness that waits goes through [`wait_until`], so that
//! nothing hangs and whatever does not happen is named.

use std::thread;
use std::time::{Duration, Instant};

/// The time between two looks. It grows, because many tests wait at once and a look
/// takes processor time that the others need.
const FIRST_INTERVAL: Duration = Duration::from_millis(5);
const LONGEST_INTERVAL: Duration = Duration::from_millis(50);

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
    let mut interval = FIRST_INTERVAL;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        thread::sleep(interval);
        interval = (interval * 5 / 4).min(LONGEST_INTERVAL);
    }
}
