//! SIGINT, SIGTERM and SIGHUP as events for the main thread. SIGTSTP (Ctrl-Z) stops
//! us as ever, but the status bar is taken away before.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};
use rustix::process::{Pid, getpgid, getpgrp, getpid, getsid};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGTSTP};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

use crate::deadlines::PROCESS_END;
use crate::output::bar_state::BarState;

/// Signals within this time after the first are the same one: timeout(1) signals its
/// child, and then the process group that the child is in.
const SAME: Duration = Duration::from_millis(500);

/// Starts to listen. The process no longer ends by the first of these signals
/// itself, but main is told; it does at a second one that comes later than [`SAME`],
/// and when main does not come to an end.
///
/// Where it ends the process, it takes the status bar away before.
///
/// Signals that were ignored when we were started stay so, as `nohup` and shells
/// (for background jobs) want it.
///
/// # Errors
/// No handler or no thread can be set up.
pub(super) fn listen(bar: Arc<BarState>) -> io::Result<Receiver<i32>> {
    let ignored = ignored_signals();
    let wanted = [SIGINT, SIGTERM, SIGHUP];
    let mut signals = Signals::new(wanted.iter().filter(|&&signal| !is_set(ignored, signal)))?;
    // Room for the one that is sent.
    let (sender, receiver) = bounded(1);
    thread::Builder::new()
        .name("signal".into())
        .spawn(move || {
            let mut received = signals.forever();
            let Some(first) = received.next() else { return };
            let begun = Instant::now();
            // Main may be gone already.
            let _ = sender.send(first);
            let for_latest = Arc::clone(&bar);
            // Without a thread for it, the second signal is left.
            let _ = thread::Builder::new()
                .name("latest end".into())
                .spawn(move || {
                    // Main means to be faster; an agent that does not answer may keep it.
                    thread::sleep(PROCESS_END);
                    end_by(first, &for_latest);
                });
            if let Some(second) = received.find(|_| begun.elapsed() >= SAME) {
                end_by(second, &bar);
            }
        })?;
    Ok(receiver)
}

/// Has the bar taken away when the process is stopped from the terminal.
///
/// # Errors
/// No handler or no thread can be set up.
pub(super) fn clear_when_stopped(bar: Arc<BarState>) -> io::Result<()> {
    if is_set(ignored_signals(), SIGTSTP) {
        return Ok(());
    }
    let mut signals = Signals::new([SIGTSTP])?;
    thread::Builder::new()
        .name("stop".into())
        .spawn(move || {
            for _ in signals.forever() {
                // The kernel, too, ignores it where nobody could let us go on.
                if is_orphaned() {
                    continue;
                }
                bar.pause();
                // It comes back when we go on. The default can always be had.
                let _ = emulate_default_handler(SIGTSTP);
                bar.resume();
            }
        })
        .map(drop)
}

/// Whether there is no shell that controls our job: no forefather in another process
/// group of our session.
fn is_orphaned() -> bool {
    let session = getsid(None).ok();
    let mut process = getpid();
    loop {
        let Some(parent) = parent_of(process) else {
            return true;
        };
        if getsid(Some(parent)).ok() != session {
            return true;
        }
        if getpgid(Some(parent)).ok() != Some(getpgrp()) {
            return false;
        }
        process = parent;
    }
}

fn parent_of(process: Pid) -> Option<Pid> {
    let path = format!("/proc/{}/status", process.as_raw_nonzero());
    let status = std::fs::read_to_string(path).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:"));
    Pid::from_raw(line?.trim().parse().ok()?)
}

/// Ends the process as if the signal had not been caught.
fn end_by(signal: i32, bar: &BarState) {
    bar.wipe();
    // The default for all of these is the end, so that nothing is left to fail.
    let _ = emulate_default_handler(signal);
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
