//! Step 4 of a run, and the mode `-U`: files for all hosts.
//!
//! First all hosts get ready for it, then the archive is made and sent, once. So
//! a host that cannot take it is found out before anything has been changed
//! anywhere.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::archive::compress::{Compression, Encoder};
use crate::archive::sources::Sources;
use crate::archive::walk::Entry;
use crate::archive::write::{self, Listener, Sent};
use crate::archive::{ArchiveError, Warning};
use crate::cluster::job::{Job, JobKind, Order};
use crate::cluster::stream::Stream;
use crate::config::Upload;
use crate::error::Tree;
use crate::event::{Level, Log, NodeId, Outcome, Status};
use crate::output::size::size;
use crate::output::{Display, Message, Phase, Progress, summary};
use crate::remote::command_line::Directory;
use crate::remote::script::Script;
use crate::remote::unpack::Unpack;
use crate::run::delivery::Follower;
use crate::run::roster::{Activity, State, Step};
use crate::run::running::Run;
use crate::run::stop::Stop;

/// How often the progress is told.
const OFTEN_ENOUGH: Duration = Duration::from_millis(50);

/// How many names of files may be on their way to the printer.
const NAMES: u64 = 256;

impl Run {
    /// `-U`: uploads, and nothing else.
    pub(super) fn upload_only(&mut self, upload: Upload) -> Result<(), Stop> {
        self.upload(upload, true)
    }

    /// Uploads to all hosts. Afterwards those that have taken it are ready for
    /// more, unless it is the last step; whether the others matter is still to be judged.
    pub(super) fn upload(&mut self, upload: Upload, is_last: bool) -> Result<(), Stop> {
        for warning in &upload.sources.warnings {
            self.log(Level::Warn, warning.clone());
        }
        self.roster.enter(Step::Upload { is_last });
        self.enter(Phase::Upload);
        if upload.directory == Directory::Run {
            let id = run_directory_id();
            self.prepare(|_, _| Order::MakeRunDirectory(Arc::clone(&id)))?;
        }
        let script = Script::Unpack(Unpack {
            directory: upload.directory.clone(),
            unpacker: upload.compression.map(Compression::program),
        });
        let job = Arc::new(Job {
            kind: JobKind::Unpack,
            ..Job::internal(script)
        });
        let mut stream = Stream::new();
        let prepared = self.prepare(|run, node| {
            let chunks = stream.add(node, run.cluster.waker(node));
            Order::Unpack(Arc::clone(&job), chunks)
        });
        if let Err(stop) = prepared {
            self.delivery.unsent = Some(stream);
            return Err(stop);
        }
        let begun = Instant::now();
        let takers = self.roster.nodes(State::is_awaiting);
        self.find_followers(&mut stream);
        self.roster.send_upload();
        let compression = upload.compression;
        let sent = self.send(upload, stream, takers.len())?;
        while self.roster.any(State::is_uploading) {
            self.next_event(None)?;
            self.tell_followers(compression);
        }
        let takers = takers.into_iter();
        let taken = takers.filter(|node| self.roster.has_taken_upload(*node));
        let taken = taken.count();
        // A host that has taken all of it did so after this was told.
        if taken > 0
            && let Ok(sent) = sent.try_recv()
        {
            self.log(Level::Info, done(sent, taken, begun.elapsed()));
        }
        Ok(())
    }

    /// Of several targets that are one directory of one machine, only the first gets
    /// the archive: two that unpack it at the same time get in each other's way.
    fn find_followers(&mut self, stream: &mut Stream) {
        let mut firsts = HashMap::new();
        for (node, place) in self.roster.places() {
            let leader = *firsts.entry(place).or_insert(node);
            if leader != node
                && place.is_known()
                && let Some(outlet) = stream.remove(node)
            {
                let follower = Follower { leader, outlet };
                self.delivery.followers.push(follower);
            }
        }
    }

    /// What became of the upload to one target became of it to all that follow.
    fn tell_followers(&mut self, compression: Option<Compression>) {
        for follower in std::mem::take(&mut self.delivery.followers) {
            let leader = follower.leader;
            if self.roster.state(leader).is_uploading() {
                self.delivery.followers.push(follower);
                continue;
            }
            let outcome = self.roster.outcome(leader);
            if let Some(failure) = outcome.filter(|outcome| !outcome.is_ok()) {
                let reason = self.reason_to_follow(leader, failure);
                follower.outlet.break_off(reason);
                continue;
            }
            // All of it is there, so that nothing is left to be unpacked.
            match write::empty(compression) {
                Ok(archive) => follower.outlet.finish(archive),
                Err(error) => follower.outlet.break_off(Tree::from_error(&error)),
            }
        }
    }

    fn reason_to_follow(&self, leader: NodeId, outcome: &Outcome) -> Tree {
        let reason = outcome.reason.clone();
        if outcome.status == Status::Upload
            && let Some(reason) = reason
        {
            return reason;
        }
        let leader = self.targets[leader.0].node();
        let tree = Tree::new(format!(
            "it is one directory with that of {leader}, which has failed"
        ));
        reason.into_iter().fold(tree, Tree::because)
    }

    /// Gives each host an order that has it get ready, waits until all are, and judges
    /// those that are not.
    fn prepare(&mut self, order: impl FnMut(&Self, NodeId) -> Order) -> Result<(), Stop> {
        let ready = self.roster.nodes(State::is_ready);
        self.begin_all(ready, Activity::Prepare, order)?;
        self.judge_upload()
    }

    /// Whether the run may go on with the hosts that have taken everything so
    /// far. (Those that have not stand in the summary.)
    pub(super) fn judge_upload(&self) -> Result<(), Stop> {
        if self.roster.may_go_on() {
            return Ok(());
        }
        Err(Stop::NotUploaded)
    }

    /// Starts the thread that makes the archive. It is never waited for: the
    /// nodes say what became of it. It tells what was sent before the archive ends.
    fn send(
        &self,
        mut upload: Upload,
        stream: Stream,
        takers: usize,
    ) -> Result<Receiver<Sent>, Stop> {
        // Room for the one thing that is told.
        let (sender, sent) = bounded(1);
        let mut teller = Teller {
            display: self.console.display.clone(),
            files: upload.sources.files,
            bytes: upload.sources.bytes,
            nodes: takers,
            told: None,
            names: 0,
            sent: sender,
        };
        thread::Builder::new()
            .name("feeder".into())
            .spawn(move || {
                let compression = upload.compression;
                feed(&mut upload.sources, compression, stream, &mut teller);
            })
            .map(|_| sent)
            .map_err(|error| {
                let tree = Tree::new("can't start another thread");
                Stop::Local(tree.because(Tree::from_error(&error)))
            })
    }
}

/// The name of a run directory: when the upload began, in local time.
fn run_directory_id() -> Arc<str> {
    let now = jiff::ZonedDateTime::now();
    now.strftime("%Y%m%d%H%M%S.%6f").to_string().into()
}

/// Makes the archive. What goes wrong with it, all nodes are told.
fn feed(
    sources: &mut Sources,
    compression: Option<Compression>,
    stream: Stream,
    teller: &mut Teller,
) {
    let mut encoder = match Encoder::new(compression, stream) {
        Ok(encoder) => encoder,
        // The stream has gone with it, which the nodes notice.
        Err(error) => {
            let tree = Tree::new("can't compress").because(Tree::from_error(&error));
            return teller.display.log(Level::Error, tree);
        }
    };
    match write::write(sources, &mut encoder, teller) {
        Ok(sent) => {
            // Main may have ended the run.
            let _ = teller.sent.send(sent);
            // Nobody is left to be told where this fails.
            drop(encoder.finish().and_then(Stream::finish));
        }
        Err(ArchiveError::NotTaken(_)) => {}
        Err(error) => encoder.get_mut().break_off(&Tree::from_error(&error)),
    }
}

/// Says what is being sent.
struct Teller {
    display: Display,
    files: u64,
    bytes: u64,
    /// How many hosts it is sent to.
    nodes: usize,
    /// When the progress was told last.
    told: Option<Instant>,
    /// How many names have been given to the printer.
    names: u64,
    sent: Sender<Sent>,
}

impl Teller {
    /// Logs a line with a name, and waits for the printer once in [`NAMES`] of them:
    /// names must not pile up while nobody reads them.
    fn name(&mut self, level: Level, text: String) {
        self.display.log(level, text.into());
        self.names += 1;
        if self.names.is_multiple_of(NAMES) {
            let (sender, done) = bounded(1);
            self.display.send(Message::Flush(sender));
            // Without a printer nothing piles up.
            let _ = done.recv();
        }
    }
}

impl Listener for Teller {
    fn file(&mut self, number: u64, path: &Path) {
        if !self.display.enabled(Level::Info) {
            return;
        }
        let (files, path) = (self.files.max(number), path.display());
        let text = format!("{number:>5}/{files} sending file: '{path}'");
        self.name(Level::Info, text);
    }

    fn entry(&mut self, entry: &Entry) {
        if !self.display.enabled(Level::Debug) {
            return;
        }
        let slash = if entry.metadata.is_dir() { "/" } else { "" };
        let text = format!("{{tar}} {}{slash}", entry.name.display());
        self.name(Level::Debug, text);
    }

    fn bytes(&mut self, sent: u64) {
        if !self.display.shows_progress() {
            return;
        }
        let now = Instant::now();
        let is_due = self.told.is_none_or(|told| now >= told + OFTEN_ENOUGH);
        // Files may have grown since they were counted, and new ones come.
        let total = self.bytes.max(sent);
        if is_due || sent == self.bytes {
            self.told = Some(now);
            self.display.progress(Progress {
                phase: Phase::Upload,
                done: 0,
                total: self.nodes,
                failed: 0,
                bytes: Some((sent, total)),
            });
        }
    }

    fn warn(&mut self, warning: Warning) {
        self.display.log(Level::Warn, warning.into());
    }
}

/// `3 files (1.5 MiB) uploaded to 8 nodes in 0.4s`.
fn done(sent: Sent, nodes: usize, time: Duration) -> String {
    let Sent { files, bytes } = sent;
    let s = if files == 1 { "" } else { "s" };
    format!(
        "{files} file{s} ({}) uploaded to {} in {:.1}s",
        size(bytes),
        summary::nodes(nodes),
        time.as_secs_f64()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_done_is_one_sentence() {
        let time = Duration::from_millis(440);
        let sent = |files, bytes| Sent { files, bytes };
        let text = done(sent(1, 100), 1, time);
        assert_eq!(text, "1 file (100 B) uploaded to 1 node in 0.4s");
        let text = done(sent(3, 4096), 8, time);
        assert_eq!(text, "3 files (4.0 KiB) uploaded to 8 nodes in 0.4s");
    }
}
