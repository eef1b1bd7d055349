//! SIGINT, SIGTERM and SIGHUP as events for the main thread.

use std::io;
use std::thread;

use crossbeam_channel::{Receiver, unbounded};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Starts to listen. The process no longer ends by these signals itself.
///
/// Signals that were ignored when we were started stay so, as `nohup` and shells
/// (for background jobs) want it.
///
/// # Errors
/// No handler or no thread can be set up.
pub(super) fn listen() -> io::Result<Receiver<i32>> {
    let ignored = ignored_signals();
    let wanted = [SIGINT, SIGTERM, SIGHUP];
    let mut signals = Signals::new(wanted.iter().filter(|&&signal| !is_set(ignored, signal)))?;
    // Unbounded: as many as somebody cares to send.
    let (sender, receiver) = unbounded();
    thread::Builder::new()
        .name("signal".into())
        .spawn(move || {
            for signal in signals.forever() {
                if sender.send(signal).is_err() {
                    break;
                }
            }
        })?;
    Ok(receiver)
}

/// The mask of ignored signals, from proc(5). (sigaction(2) would need unsafe
/// code.) Empty where there is no /proc.
fn ignored_signals() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0)
}

fn is_set(mask: u64, signal: i32) -> bool {
    mask >> (signal - 1) & 1 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_counts_signals_from_one() {
        // nohup: SIGHUP is 1
        assert!(is_set(0x1, SIGHUP));
        assert!(is_set(0x2, SIGINT));
        assert!(!is_set(0x1000, SIGINT));
    }
}
