//! When heartbeats go to the guard, and what their absence means. Pure: the clock
//! comes in from outside.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// How many periods a guard goes on without a heartbeat.
pub(crate) const LEASE_PERIODS: u32 = 3;

/// Time since boot, suspended time included (`Instant` does not count that:
/// clock_gettime(2)).
pub(super) fn time_since_boot() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    Duration::try_from(time).unwrap_or_default()
}

/// When to send heartbeats, and what their absence means. Pure.
#[derive(Debug)]
pub(super) struct Heartbeat {
    period: Duration,
    next: Instant,
    /// How long the machine had run at the last tick.
    last_tick: Option<Duration>,
    number: u64,
    /// When the last one was sent.
    sent: Option<Instant>,
    /// When the oldest was sent that the guard itself has not answered.
    unanswered: Option<Instant>,
    /// Whether the connection has to be asked whether it lives.
    is_doubtful: bool,
}

/// What the node sees at a tick.
#[derive(Debug, Clone, Copy)]
pub(super) struct Signs {
    /// When anything came from the host.
    pub(super) heard: Instant,
    /// Everything for the guard is on its way.
    pub(super) is_out: bool,
    /// How long this machine has run.
    pub(super) awake: Duration,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Tick {
    Quiet,
    Beat(u64),
    /// No answer yet: the connection itself has to be asked.
    Doubt,
    /// Nothing comes from the host.
    Silent(Duration),
    /// Something does, but nothing from the guard.
    Deaf(Duration),
    Slept(Duration),
}

impl Heartbeat {
    pub(super) fn new(period: Duration, now: Instant) -> Self {
        Self {
            period,
            next: now + period,
            last_tick: None,
            number: 0,
            sent: None,
            unanswered: None,
            is_doubtful: false,
        }
    }

    /// The guard has answered this one, and so all before it.
    pub(super) fn answered(&mut self, number: u64) {
        if number == self.number {
            self.unanswered = None;
            self.is_doubtful = false;
        }
    }

    /// When there may be something to do.
    pub(super) fn due(&self) -> Instant {
        match self.sent {
            Some(sent) if self.is_doubtful => self.next.min(sent + self.period / 2),
            _ => self.next,
        }
    }

    /// Bytes of any kind that came after a heartbeat was sent are an answer of the
    /// host, and the guard has until the end of its lease for its own: it may stand
    /// behind others. One that is not out yet cannot be answered: a connection that
    /// takes nothing is for others to judge.
    pub(super) fn tick(&mut self, now: Instant, signs: Signs) -> Tick {
        let last_tick = self.last_tick.replace(signs.awake);
        let asleep = signs.awake.saturating_sub(last_tick.unwrap_or(signs.awake));
        if asleep >= self.period * LEASE_PERIODS {
            // Also where the guard's own clock would have waited a little more.
            return Tick::Slept(asleep);
        }
        let is_silent = self.sent.is_some_and(|sent| signs.heard < sent);
        if !signs.is_out {
            self.unanswered = self.unanswered.map(|_| now);
            if is_silent {
                self.sent = Some(now);
                self.next = now + self.period;
            }
        }
        if self.is_doubtful && self.sent.is_some_and(|sent| now >= sent + self.period / 2) {
            self.is_doubtful = false;
            if is_silent {
                return Tick::Doubt;
            }
        }
        if now < self.next {
            return Tick::Quiet;
        }
        if is_silent {
            return Tick::Silent(now.saturating_duration_since(signs.heard));
        }
        if let Some(since) = self.unanswered
            && now >= since + self.period * LEASE_PERIODS
        {
            return Tick::Deaf(now.saturating_duration_since(since));
        }
        self.sent = Some(now);
        self.unanswered.get_or_insert(now);
        self.is_doubtful = true;
        self.next = now + self.period;
        self.number += 1;
        Tick::Beat(self.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_secs(10);
    const SECOND: Duration = Duration::from_secs(1);

    /// All orders are out, and the machine was not suspended.
    fn signs(start: Instant, now: Instant, heard: Instant) -> Signs {
        Signs {
            heard,
            is_out: true,
            awake: now - start,
        }
    }

    /// Ticks every second. Until `silent_from` each beat is answered by the guard,
    /// and later by the host only, if it is asked (as long as it `lives`).
    fn first_trouble(silent_from: u32, lives: bool, seconds: u32) -> Option<(u32, Tick)> {
        let start = Instant::now();
        let mut heartbeat = Heartbeat::new(PERIOD, start);
        let mut heard = start;
        for second in 1..=seconds {
            let now = start + SECOND * second;
            match heartbeat.tick(now, signs(start, now, heard)) {
                Tick::Quiet => {}
                Tick::Beat(number) if second < silent_from => {
                    heard = now;
                    heartbeat.answered(number);
                    assert_eq!(heartbeat.due(), now + PERIOD);
                }
                Tick::Beat(_) => assert_eq!(heartbeat.due(), now + PERIOD / 2),
                Tick::Doubt if lives => heard = now,
                Tick::Doubt => {}
                trouble => return Some((second, trouble)),
            }
        }
        None
    }

    #[test]
    fn answered_heartbeats_go_on_for_ever() {
        assert_eq!(first_trouble(u32::MAX, true, 1000), None);
    }

    #[test]
    fn a_silent_host_is_noticed_within_a_period_of_the_first_lost_beat() {
        let (second, tick) = first_trouble(35, false, 1000).expect("trouble");
        assert_eq!((second, tick), (50, Tick::Silent(SECOND * 20)));
    }

    #[test]
    fn a_silent_guard_on_a_living_connection_is_told_from_a_silent_host() {
        let (second, tick) = first_trouble(35, true, 1000).expect("trouble");
        assert_eq!((second, tick), (70, Tick::Deaf(SECOND * 30)));
    }

    #[test]
    fn a_heartbeat_that_is_not_out_yet_is_not_waited_for() {
        let start = Instant::now();
        let at = |second| start + SECOND * second;
        let tick = |heartbeat: &mut Heartbeat, second, is_out| {
            let signs = Signs {
                is_out,
                ..signs(start, at(second), start)
            };
            heartbeat.tick(at(second), signs)
        };
        let mut heartbeat = Heartbeat::new(PERIOD, start);
        assert_eq!(tick(&mut heartbeat, 10, true), Tick::Beat(1));
        assert_eq!(tick(&mut heartbeat, 19, false), Tick::Quiet);
        assert_eq!(tick(&mut heartbeat, 24, true), Tick::Doubt);
        assert_eq!(tick(&mut heartbeat, 28, true), Tick::Quiet);
        // Other orders are not answered, so they do not count.
        let mut fresh = Heartbeat::new(PERIOD, start);
        assert_eq!(tick(&mut fresh, 9, false), Tick::Quiet);
        assert_eq!(tick(&mut fresh, 10, true), Tick::Beat(1));
        let silent = Tick::Silent(SECOND * 29);
        assert_eq!(tick(&mut heartbeat, 29, true), silent);
    }

    #[test]
    fn a_client_that_slept_longer_than_the_lease_knows() {
        let start = Instant::now();
        let mut heartbeat = Heartbeat::new(PERIOD, start);
        let later = start + SECOND * 12;
        assert_eq!(
            heartbeat.tick(later, signs(start, later, start)),
            Tick::Beat(1)
        );
        // A machine that is suspended stops the clock of `Instant`.
        let now = later + SECOND;
        let suspended = Signs {
            awake: SECOND * 42,
            ..signs(start, now, now)
        };
        assert_eq!(heartbeat.tick(now, suspended), Tick::Slept(SECOND * 30));
    }
}
