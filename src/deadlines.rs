//! The deadlines of an ending, in one place, because each leaves time for the next.
//!
//! A run that is stopped, by a signal for example, at 0 s:
//!
//! ```text
//!        0 s        1 s        2 s        3 s        4 s        5 s
//!         |----------|----------|----------|----------|----------|
//! guard   TERM                            KILL        :          :
//!         |==== ends the commands ========|==========>|          :
//! node    waits for its guard, then LAST_OUTPUT       : COMMAND_END (4.1)
//!         |===========================================|>         :
//! main    PARTING (0.3): hosts that are not logged in : COMMANDS_END (4.2)
//!         |==>                                        :|         :
//! main    frees the locks: the guards leave           :|===> LOCKS_FREE (4.6)
//! main    reports, and writes what stdout takes       :    |==>  :
//! signal  ends the process, whatever main does        :       PROCESS_END (4.9)
//! user    the promise of the manual                   :          PROMISE (5.0)
//! ```
//!
//! The guard ends its commands with TERM and, `KILL_AFTER` later, with KILL. It then
//! says `ENDED`, and the node takes the last output of the command for
//! [`LAST_OUTPUT`]. A guard that says nothing does not hold up the node after
//! [`COMMAND_END`], and no node holds up main after [`COMMANDS_END`] and
//! [`LOCKS_FREE`]. Main then reports and gives a reader of our output up to
//! [`LAST_WORDS`]; after a signal that is cut short by [`PROCESS_END`].
//!
//! Only the locks are freed after a run that was not stopped: a guard gets
//! [`GUARD_LEAVES`], and main waits for [`FAREWELL`].
//!
//! A sync tool that fails adds [`TOOLS_END`] before all this: the other tools have read
//! end of file, and may end by themselves. Then the run is stopped at 0 s.

use std::time::Duration;

/// From TERM to KILL, in `remote/guard.sh`, which has this number in its text.
#[cfg(test)]
pub(crate) const KILL_AFTER: Duration = Duration::from_secs(3);

/// A node waits no longer than this for its guard to end a command.
pub(crate) const COMMAND_END: Duration = Duration::from_millis(4_100);

/// The last output of a command whose processes have all ended takes at most this.
pub(crate) const LAST_OUTPUT: Duration = Duration::from_millis(300);

/// Main waits no longer than this for the nodes to end their commands.
pub(crate) const COMMANDS_END: Duration = Duration::from_millis(4_200);

/// Main waits no longer than this for the guards to free the locks of a run that was
/// stopped.
pub(crate) const LOCKS_FREE: Duration = Duration::from_millis(4_600);

/// A node whose thread cannot be interrupted (it looks up a name, or asks an agent) is
/// waited for until then, counted from the stop.
pub(crate) const PARTING: Duration = Duration::from_millis(300);

/// After the first signal, the process ends at this time at the latest.
pub(crate) const PROCESS_END: Duration = Duration::from_millis(4_900);

/// What users are promised: a signal ends the run within this time.
#[cfg(test)]
pub(crate) const PROMISE: Duration = Duration::from_secs(5);

/// A guard that was let go has this long to say that it goes.
pub(crate) const GUARD_LEAVES: Duration = Duration::from_secs(2);

/// After a run that was not stopped, main waits this long for the nodes to free their
/// locks and end.
pub(crate) const FAREWELL: Duration = Duration::from_millis(2_500);

/// Main tries for this long to write output that nobody reads.
pub(crate) const LAST_WORDS: Duration = Duration::from_secs(1);

/// Sync tools have this long to end by themselves once one of them has failed.
pub(crate) const TOOLS_END: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_deadline_leaves_time_for_the_next() {
        let in_order = [
            PARTING,
            KILL_AFTER,
            COMMAND_END,
            COMMANDS_END,
            LOCKS_FREE,
            PROCESS_END,
            PROMISE,
        ];
        assert!(in_order.is_sorted_by(|one, next| one < next));
    }

    #[test]
    fn a_guard_has_killed_and_said_so_before_its_node_gives_up() {
        // After KILL it looks for another second.
        assert!(KILL_AFTER + Duration::from_secs(1) < COMMAND_END);
        assert!(KILL_AFTER + LAST_OUTPUT < COMMAND_END);
    }

    #[test]
    fn a_normal_run_waits_for_guards_as_long_as_its_nodes_do() {
        assert!(GUARD_LEAVES < FAREWELL);
    }

    #[test]
    fn the_guard_kills_when_it_is_expected_to() {
        let tenths = KILL_AFTER.as_millis() / 100;
        let kill = format!("wait_for_doomed {tenths} ''");
        assert!(include_str!("remote/guard.sh").contains(&kill));
    }
}
