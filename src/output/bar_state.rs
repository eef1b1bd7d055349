//! Whether the status bar stands on the terminal, for threads that end or stop the
//! process while the printer is blocked.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::output::descriptors::{ERASE, is_in_foreground, write_at_once};

/// How long the end of the process waits for a draw that has begun.
const DRAW_TIME: Duration = Duration::from_millis(100);

/// The state of the bar, shared by the screen and the signal threads.
#[derive(Debug, Default)]
pub(crate) struct BarState {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Hidden,
    /// The screen is drawing or erasing it.
    Changing,
    Visible,
    /// The process is being stopped (SIGTSTP). No bar is drawn until it continues.
    Paused,
    /// The process is ending. No bar is drawn any more.
    Over,
}

impl BarState {
    /// Begins a change of the bar. False if the screen must leave the bar alone.
    /// Waits while the process is being stopped.
    pub(super) fn begin(&self) -> bool {
        let waited = self
            .changed
            .wait_while(self.lock(), |state| *state == State::Paused);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        if *state == State::Over {
            return false;
        }
        *state = State::Changing;
        true
    }

    /// Ends a change of the bar.
    pub(super) fn end(&self, is_visible: bool) {
        let mut state = self.lock();
        if *state == State::Changing {
            *state = if is_visible {
                State::Visible
            } else {
                State::Hidden
            };
        }
        self.changed.notify_all();
    }

    /// Erases the bar for good.
    pub(crate) fn wipe(&self) {
        self.erase(State::Over);
    }

    /// Erases the bar until [`BarState::resume`].
    pub(crate) fn pause(&self) {
        self.erase(State::Paused);
    }

    /// Lets the screen draw again.
    pub(crate) fn resume(&self) {
        let mut state = self.lock();
        if *state == State::Paused {
            *state = State::Hidden;
        }
        self.changed.notify_all();
    }

    fn erase(&self, next: State) {
        let waited = self
            .changed
            .wait_timeout_while(self.lock(), DRAW_TIME, |state| *state == State::Changing);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let may_be_visible = matches!(*state, State::Visible | State::Changing);
        if *state != State::Over {
            *state = next;
        }
        if may_be_visible && is_in_foreground() {
            write_at_once(ERASE);
        }
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
