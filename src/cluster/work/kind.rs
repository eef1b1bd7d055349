//! What every kind of work can tell about its process.

use std::time::{Duration, Instant};

use crate::cluster::output_port::OutputPort;
use crate::error::Tree;
use crate::event::{NodeEvent, Outcome, Status, Stream};
use crate::ssh::process::{Exit, Process, Supply};
use crate::ssh::session::Session;

/// How something ended, and why, where the status does not say it all.
pub(crate) type Verdict = (Status, Option<Tree>);

/// Work of one kind.
pub(crate) trait Kind {
    /// Where its output goes.
    fn port(&self) -> &OutputPort;

    /// Takes what the process has written.
    fn output(&mut self, stream: Stream, bytes: Vec<u8>);

    /// Adds input to the (empty) buffer.
    fn input(&mut self, buffer: &mut Vec<u8>) -> Supply;

    /// The last line of what came on stderr.
    fn last_words(&self) -> String;

    /// Nothing more comes: the process has ended by itself, or was cut off.
    fn finish(&mut self, by_itself: bool);

    /// What the end of the process means.
    fn verdict(&self, exit: &Exit) -> Verdict;

    /// The host has started the process.
    fn started(&mut self) {}

    /// What main has to hear, once.
    fn news(&mut self) -> Option<NodeEvent> {
        None
    }

    /// Why the process has to be ended, if it has to. The verdict is then this one.
    fn problem(&mut self, _state: &ChannelState<'_>) -> Option<Verdict> {
        None
    }

    /// When [`Kind::problem`] has to be asked again, if nothing happens before.
    fn next_look(&self, _state: &ChannelState<'_>) -> Option<Instant> {
        None
    }

    /// The task is over, with this outcome. Returns what main hears of it.
    fn ended(&mut self, outcome: Outcome) -> NodeEvent {
        NodeEvent::Finished(outcome)
    }
}

/// What a kind of work may look at to tell whether its process is stuck.
pub(crate) struct ChannelState<'a> {
    /// The time.
    pub(crate) now: Instant,
    /// How long a host may take no data.
    pub(crate) send_timeout: Duration,
    /// The process.
    pub(crate) process: &'a Process,
    /// Its connection.
    pub(crate) session: &'a Session,
}
