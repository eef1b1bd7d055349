//! What takes an upload on a host: it gets ready, says so, and becomes `tar`.

use std::time::Instant;

use super::kind::{ChannelState, Kind, Verdict};
use crate::cluster::output_port::OutputPort;
use crate::cluster::stream::Tap;
use crate::error::Tree;
use crate::event::{NodeEvent, Outcome, Status, Stream};
use crate::remote::words::{Prelude, TarReport};
use crate::ssh::process::{Exit, Supply};

/// Unsent bytes in the kernel are compared in steps of this size: more than a few
/// heartbeats take, and little on any wire.
const PAGE: i32 = 4096;

/// An upload to one host.
pub(crate) struct UnpackWork {
    port: OutputPort,
    /// What the login shell says before the script.
    prelude: Prelude,
    report: TarReport,
    archive: Tap,
    /// Main knows that the host is ready for the archive.
    is_announced: bool,
    flow: Option<Flow>,
}

/// How far the host has taken the upload.
struct Flow {
    /// Bytes that the connection has taken, the window of the channel, and, once all
    /// is sent, the pages that the kernel still has.
    taken: (u64, u32, i32),
    /// Since when `taken` is the same although there was something to be taken.
    stuck_since: Instant,
}

impl UnpackWork {
    pub(super) fn new(port: OutputPort, archive: Tap) -> Self {
        Self {
            port,
            prelude: Prelude::default(),
            report: TarReport::default(),
            archive,
            is_announced: false,
            flow: None,
        }
    }

    /// Whether the upload waits for the host: to get ready, to take more, or to end
    /// after it was sent everything.
    fn waits_for_host(&self, state: &ChannelState<'_>) -> bool {
        let is_ready = self.report.ready_in().is_some();
        let waits_for_us = is_ready && state.process.is_flushed() && !self.archive.has_ended();
        state.process.exit().is_none() && !waits_for_us
    }

    fn show(&mut self, stream: Stream, bytes: &[u8]) {
        let shown = self.report.hear(stream, bytes);
        self.port.print(Stream::Stderr, shown);
    }

    /// Why the upload has failed, as far as the host has said.
    fn reason(&self) -> Option<Tree> {
        self.report.reason().or_else(|| {
            let instead = [Stream::Stderr, Stream::Stdout];
            let lines = instead.into_iter();
            let mut lines = lines.filter_map(|stream| self.prelude.last_line(stream));
            lines.find(|line| !line.is_empty()).map(Tree::from)
        })
    }
}

impl Kind for UnpackWork {
    fn port(&self) -> &OutputPort {
        &self.port
    }

    fn output(&mut self, stream: Stream, bytes: Vec<u8>) {
        let bytes = self.prelude.pass(stream, bytes);
        self.show(stream, &bytes);
    }

    fn input(&mut self, buffer: &mut Vec<u8>) -> Supply {
        if self.report.ready_in().is_none() {
            return Supply::Nothing;
        }
        self.archive.fill(buffer)
    }

    fn last_words(&self) -> String {
        match self.prelude.last_line(Stream::Stderr) {
            Some(line) => line,
            None => self.report.last_line(),
        }
    }

    fn finish(&mut self, by_itself: bool) {
        for (stream, instead) in self.prelude.finish() {
            if by_itself {
                self.show(stream, &instead);
            }
        }
        let rest = self.report.finish();
        self.port.print(Stream::Stderr, rest);
        self.port.end();
    }

    fn verdict(&self, exit: &Exit) -> Verdict {
        let otherwise = match exit {
            Exit::Status(0) if self.archive.has_ended() => return (Status::Ok, None),
            Exit::Status(0) => "tar ended before it had all of it".to_owned(),
            Exit::Status(code) => format!("tar: code {code}"),
            Exit::Signal(name) => format!("tar: signal {name}"),
        };
        let reason = self.reason().unwrap_or_else(|| otherwise.into());
        (Status::Upload, Some(reason))
    }

    fn news(&mut self) -> Option<NodeEvent> {
        let place = self.report.ready_in()?;
        let was_announced = std::mem::replace(&mut self.is_announced, true);
        (!was_announced).then(|| NodeEvent::Awaiting(place.clone()))
    }

    fn problem(&mut self, state: &ChannelState<'_>) -> Option<Verdict> {
        if let Some(reason) = self.archive.broken() {
            return Some((Status::Upload, Some(reason.clone())));
        }
        let waits_for_host = self.waits_for_host(state);
        // The end of the archive may take its time on a slow link. (In pages:
        // heartbeats come and go meanwhile, and are no sign that tar reads.)
        let on_the_way = if self.archive.has_ended() {
            state.session.on_the_way() / PAGE
        } else {
            0
        };
        let taken = (state.process.taken(), state.process.window(), on_the_way);
        let fresh = Flow {
            taken,
            stuck_since: state.now,
        };
        match &self.flow {
            Some(flow) if waits_for_host && taken == flow.taken => {}
            _ => self.flow = Some(fresh),
        }
        let stuck_since = self.flow.as_ref()?.stuck_since;
        if state.now < stuck_since + state.send_timeout {
            return None;
        }
        let what = if self.is_announced {
            "the host has taken no data"
        } else {
            "the host has not got ready for it"
        };
        let reason = format!("{what} for {}s", state.send_timeout.as_secs_f64());
        Some((Status::Upload, Some(reason.into())))
    }

    fn next_look(&self, state: &ChannelState<'_>) -> Option<Instant> {
        let flow = self.flow.as_ref()?;
        self.waits_for_host(state)
            .then(|| flow.stuck_since + state.send_timeout)
    }

    fn ended(&mut self, outcome: Outcome) -> NodeEvent {
        if outcome.is_ok() {
            NodeEvent::Uploaded(outcome)
        } else {
            NodeEvent::Finished(outcome)
        }
    }
}
