//! The client's side of the guard on one host: starts it, keeps it alive with
//! heartbeats, and notices when it is not.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use crate::cluster::ports::SudoDoor;
use crate::error::Tree;
use crate::event::{Identity, LockRefusal, Stream};
use crate::remote::BEGIN;
use crate::remote::guard::{Answer, Order, SCRIPT};
use crate::ssh::process::{Exit, Ports, Process, Step, Supply};
use crate::ssh::session::{Session, SessionError};

/// What a login shell may say before the guard does, and more is not kept.
const MOST_NOISE: usize = 64 * 1024;

/// How many periods a guard goes on without a heartbeat.
pub const LEASE_PERIODS: u32 = 3;

/// What there is to know about a guard, besides that it lives.
#[derive(Debug)]
pub(super) enum Notice {
    /// It holds the lock, and waits for orders.
    Ready,
    /// There is no lock, for this reason; the guard has ended.
    Refused(LockRefusal),
    /// sudo has not let it in.
    NotLetIn(Tree),
    /// The host does not run it.
    NotStarted(Tree),
    /// The lock is not (certainly) ours any more.
    Lost(Tree),
    /// The commands have been ended, but for these processes.
    CommandsEnded(String),
    /// The run directory is there, or why not.
    RunDirectory(Result<String, String>),
    /// Something is left in it.
    Left(String),
    /// It has gone, as it was told.
    Gone,
}

/// A guard on its channel.
pub(super) struct Guard {
    process: Process,
    ports: GuardPorts,
    heartbeat: Heartbeat,
    identity: Option<Identity>,
    /// The last that somebody else said on its channel, such as a login shell.
    noise: String,
    /// It must say something about the lock until then.
    ready_by: Instant,
    is_ready: bool,
    /// That the lock was lost has been said.
    is_lost: bool,
    is_leaving: bool,
    is_over: bool,
}

impl Guard {
    /// A guard that has been given to this process to start.
    pub(super) fn new(
        process: Process,
        sudo: Option<SudoDoor>,
        period: Duration,
        now: Instant,
        ready_by: Instant,
    ) -> Self {
        Self {
            ready_by,
            is_lost: false,
            process,
            ports: GuardPorts {
                sudo,
                has_begun: false,
                lines: Vec::new(),
                answers: VecDeque::new(),
                last_words: Vec::new(),
                orders: SCRIPT.as_bytes().to_vec(),
                is_leaving: false,
            },
            heartbeat: Heartbeat::new(period, now),
            identity: None,
            noise: String::new(),
            is_ready: false,
            is_leaving: false,
            is_over: false,
        }
    }

    /// Its channel, when it is of no more use.
    pub(super) fn into_process(self) -> Process {
        self.process
    }

    /// What it has locked, if it has.
    pub(super) fn identity(&self) -> Option<&Identity> {
        self.identity.as_ref()
    }

    /// Whether it listens to orders.
    pub(super) fn is_ready(&self) -> bool {
        self.is_ready && !self.is_over
    }

    /// Tells it something.
    pub(super) fn order(&mut self, order: Order) {
        if order == Order::Done {
            self.is_leaving = true;
            self.ports.is_leaving = true;
        }
        self.ports
            .orders
            .extend_from_slice(order.to_string().as_bytes());
    }

    /// Whether everything that it was told is on its way to the host.
    pub(super) fn has_been_told(&self) -> bool {
        self.ports.orders.is_empty() && self.process.is_flushed()
    }

    /// Whether something from it has been taken in since its last step.
    pub(super) fn has_news(&self) -> bool {
        self.process.has_news()
    }

    /// Whether it has ended, however.
    pub(super) fn is_over(&self) -> bool {
        self.is_over
    }

    /// When it has to be looked at again, if nothing happens until then.
    pub(super) fn due(&self) -> Option<Instant> {
        if self.is_leaving {
            None
        } else if self.is_ready() {
            Some(self.heartbeat.due())
        } else {
            self.starting_limit()
        }
    }

    /// Until when it has to get ready, if it has not.
    pub(super) fn starting_limit(&self) -> Option<Instant> {
        (!self.is_ready && !self.is_over && !self.is_leaving).then_some(self.ready_by)
    }

    /// Moves bytes both ways, and says what is new.
    pub(super) fn step(
        &mut self,
        session: &mut Session,
        now: Instant,
        notice: &mut Vec<Notice>,
    ) -> Result<Step, SessionError> {
        if self.is_over {
            return Ok(Step::default());
        }
        let mut step = self.process.step(session, &mut self.ports)?;
        while let Some(answer) = self.ports.answers.pop_front() {
            self.hear(answer, notice);
        }
        if let Some(exit) = self.process.exit().filter(|_| self.process.is_over()) {
            self.is_over = true;
            self.end(&exit.clone(), notice);
            return Ok(step);
        }
        if self.is_ready && !self.is_leaving {
            let signs = Signs {
                heard: session.last_heard(),
                is_out: self.has_been_told(),
                awake: time_since_boot(),
            };
            match self.heartbeat.tick(now, signs) {
                Tick::Quiet => {}
                Tick::Doubt => session.probe(now)?,
                Tick::Beat(number) => {
                    self.order(Order::Beat(number));
                    // Now, and not when something else happens to wake us.
                    step.progress = true;
                }
                Tick::Silent(since) => {
                    return Err(SessionError::Lost(
                        format!(
                            "heartbeat failed: no answer for {:.0}s",
                            since.as_secs_f64()
                        )
                        .into(),
                    ));
                }
                Tick::Deaf(since) => {
                    // As one that has ended: it does nothing more for us.
                    self.is_over = true;
                    let text = format!(
                        "the connection is there, but the lock holder on the host has not answered for {:.0}s",
                        since.as_secs_f64()
                    );
                    notice.push(Notice::Lost(text.into()));
                }
                Tick::Slept(time) => notice.push(Notice::Lost(
                    format!(
                        "this process did not run for {:.0}s, longer than its locks live",
                        time.as_secs_f64()
                    )
                    .into(),
                )),
            }
        }
        Ok(step)
    }

    fn hear(&mut self, answer: Answer, notice: &mut Vec<Notice>) {
        match answer {
            Answer::Locked(identity) => self.identity = Some(identity),
            Answer::Ready => {
                self.is_ready = true;
                notice.push(Notice::Ready);
            }
            // It says so at every heartbeat.
            Answer::Replaced if self.is_lost => {}
            Answer::Replaced => {
                self.is_lost = true;
                let what = "the lock file has been removed or replaced";
                notice.push(Notice::Lost(what.into()));
            }
            Answer::Ended(survivors) => notice.push(Notice::CommandsEnded(survivors)),
            Answer::RunDirectory(path) => notice.push(Notice::RunDirectory(Ok(path))),
            Answer::NoRunDirectory(reason) => notice.push(Notice::RunDirectory(Err(reason))),
            Answer::Left(path) => notice.push(Notice::Left(path)),
            Answer::Refused(refusal) => notice.push(Notice::Refused(refusal)),
            Answer::Beat(number) => self.heartbeat.answered(number),
            Answer::Noise(text) => self.noise = text,
        }
    }

    fn end(&mut self, exit: &Exit, notice: &mut Vec<Notice>) {
        if self.is_leaving {
            notice.push(Notice::Gone);
        } else if self.is_ready {
            notice.push(Notice::Lost("the lock holder on the host has ended".into()));
        } else if let Some(sudo) = self.ports.sudo.as_ref().filter(|sudo| !sudo.has_let_in()) {
            notice.push(Notice::NotLetIn(sudo.refusal(&self.ports.last_words())));
        } else if !notice
            .iter()
            .any(|notice| matches!(notice, Notice::Refused(_)))
        {
            let what = match exit {
                Exit::Status(code) => format!("status {code}"),
                Exit::Signal(name) => format!("signal {name}"),
            };
            let tree = Tree::new(format!("the host does not run the lock holder ({what})"));
            let words = [self.ports.last_words(), self.noise.clone()];
            let words = words.into_iter().filter(|words| !words.is_empty());
            notice.push(Notice::NotStarted(words.fold(tree, Tree::because)));
        }
    }
}

/// How long the machine has run, the time that it was suspended included (which
/// `Instant` does not count: clock_gettime(2)).
fn time_since_boot() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    Duration::try_from(time).unwrap_or_default()
}

/// When to send heartbeats, and what their absence means. Pure.
#[derive(Debug)]
struct Heartbeat {
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

/// What there is to see at a tick.
#[derive(Debug, Clone, Copy)]
struct Signs {
    /// When anything came from the host.
    heard: Instant,
    /// Everything for the guard is on its way.
    is_out: bool,
    /// How long this machine has run.
    awake: Duration,
}

#[derive(Debug, PartialEq, Eq)]
enum Tick {
    Quiet,
    Beat(u64),
    /// No answer yet: is anybody there at all?
    Doubt,
    /// Nothing comes from the host.
    Silent(Duration),
    /// Something does, but nothing from the guard.
    Deaf(Duration),
    Slept(Duration),
}

impl Heartbeat {
    fn new(period: Duration, now: Instant) -> Self {
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
    fn answered(&mut self, number: u64) {
        if number == self.number {
            self.unanswered = None;
            self.is_doubtful = false;
        }
    }

    /// When there may be something to do.
    fn due(&self) -> Instant {
        match self.sent {
            Some(sent) if self.is_doubtful => self.next.min(sent + self.period / 2),
            _ => self.next,
        }
    }

    /// Bytes of any kind that came after a heartbeat was sent are an answer of the
    /// host, and the guard has until the end of its lease for its own: it may stand
    /// behind others. One that is not out yet cannot be answered: a connection that
    /// takes nothing is for others to judge.
    fn tick(&mut self, now: Instant, signs: Signs) -> Tick {
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

/// What the guard's process is connected to.
struct GuardPorts {
    sudo: Option<SudoDoor>,
    /// Everything before that is the login shell's.
    has_begun: bool,
    /// An unfinished line.
    lines: Vec<u8>,
    answers: VecDeque<Answer>,
    /// The end of what it said on stderr.
    last_words: Vec<u8>,
    orders: Vec<u8>,
    is_leaving: bool,
}

impl GuardPorts {
    fn last_words(&self) -> String {
        super::ports::last_line(&self.last_words)
    }
}

impl Ports for GuardPorts {
    fn room(&mut self) -> usize {
        MOST_NOISE
    }

    fn output(&mut self, stream: Stream, bytes: Vec<u8>) {
        if stream == Stream::Stderr {
            let bytes = match &mut self.sudo {
                Some(sudo) => sudo.output(stream, bytes),
                None => bytes,
            };
            super::ports::keep_tail(&mut self.last_words, &bytes);
            return;
        }
        self.lines.extend_from_slice(&bytes);
        while let Some(at) = memchr::memchr(b'\n', &self.lines) {
            let line = &self.lines[..at];
            if self.has_begun {
                self.answers.push_back(Answer::parse(line));
            } else if line.ends_with(BEGIN.as_bytes()) {
                self.has_begun = true;
            } else {
                let noise = String::from_utf8_lossy(line).into_owned();
                self.answers.push_back(Answer::Noise(noise));
            }
            self.lines.drain(..=at);
        }
        if self.lines.len() > MOST_NOISE {
            self.lines.clear();
        }
    }

    fn input(&mut self, buffer: &mut Vec<u8>) -> Supply {
        if let Some(supply) = self.sudo.as_mut().and_then(|sudo| sudo.input(buffer)) {
            return supply;
        }
        if self.orders.is_empty() {
            return if self.is_leaving {
                Supply::End
            } else {
                Supply::Nothing
            };
        }
        buffer.append(&mut self.orders);
        Supply::Bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_secs(10);
    const SECOND: Duration = Duration::from_secs(1);

    /// Everything that was said is out, and nobody was suspended.
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
