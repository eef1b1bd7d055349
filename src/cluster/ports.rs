//! What a command on a host is connected to: its output to the printer, its
//! input to `-i` or to an upload, a sync tool to the coordinator, and sudo's
//! questions to the password.

use std::sync::Arc;

use crossbeam_channel::Sender;
use memchr::memmem;
use zeroize::Zeroizing;

use crate::cluster::input::Reader;
use crate::cluster::node::Protocol;
use crate::cluster::stream::Tap;
use crate::error::Tree;
use crate::event::{Identity, NodeId, Stream, ToolEnd, ToolEvent};
use crate::output::credit::Credit;
use crate::output::{Display, Message};
use crate::remote::BEGIN;
use crate::remote::protocol::{Filter, Inbox};
use crate::remote::sudo::{Gate, SudoEvent};
use crate::remote::upload;
use crate::ssh::auth::Secret;
use crate::ssh::process::{INPUT_CHUNK, Ports, Supply};

/// How much of the end of stderr is remembered, for error messages.
const TAIL: usize = 512;

/// The connections of one command.
pub(super) struct CommandPorts {
    node: NodeId,
    display: Display,
    credit: Arc<Credit>,
    source: Source,
    /// What it says is not output, but tar's words.
    tar: Option<TarTalk>,
    /// What it says may be for the other sync tools.
    tool: Option<ToolTalk>,
    sudo: Option<SudoDoor>,
    tail: Vec<u8>,
    /// It is a script of ours, which this comes before.
    prelude: Option<Prelude>,
    /// The beginning of what came on stderr, for a script of ours.
    said: Option<Vec<u8>>,
    input_error: Option<Tree>,
}

/// Where its input comes from.
pub(super) enum Source {
    /// From nowhere: end of file at once.
    Nothing,
    /// From what `-i` names.
    File(Reader),
    /// It is an upload.
    Archive(Tap),
    /// It is a sync tool, which is told what comes in here.
    Tool(Inbox),
    /// It is a sync tool, and is told no more than this.
    LastWords(Inbox),
}

/// The way from a sync tool to the coordinator.
struct ToolTalk {
    node: NodeId,
    filter: Filter,
    events: Sender<ToolEvent>,
    /// Why it has failed, whatever it says itself.
    problem: Option<Tree>,
    has_ended: bool,
}

impl ToolTalk {
    fn tell(&self, event: ToolEvent) {
        // A coordinator that has ended has nothing left to do.
        let _ = self.events.send(event);
    }

    /// Takes the messages out of what it says.
    fn hear(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut output = Vec::with_capacity(bytes.len());
        let (node, events) = (self.node, &self.events);
        let fed = self.filter.feed(bytes, &mut output, |description| {
            // See `tell`.
            let _ = events.send(ToolEvent::Sync(node, description));
        });
        if let Err(error) = fed {
            self.problem.get_or_insert(Tree::from_error(&error));
        }
        output
    }

    /// Nothing more comes, because it has closed its stdout or was cut off.
    fn finish(&mut self, by_itself: bool) -> Vec<u8> {
        if !by_itself {
            return self.filter.abandon();
        }
        let (node, events) = (self.node, &self.events);
        self.filter.finish(|description| {
            // See `tell`.
            let _ = events.send(ToolEvent::Sync(node, description));
        })
    }

    fn end(&mut self, end: ToolEnd) {
        if !std::mem::replace(&mut self.has_ended, true) {
            self.tell(ToolEvent::Ended(self.node, end));
        }
    }
}

impl Drop for ToolTalk {
    fn drop(&mut self) {
        // Whatever became of it: nobody shall wait for it.
        self.end(ToolEnd::Failed);
    }
}

/// What comes before a script of ours begins: kept, for it tells why if that never
/// happens, and forgotten when it does.
struct Prelude {
    /// Of both streams, until the script begins there.
    held: [Option<Vec<u8>>; 2],
}

/// So much of it is kept.
const MOST_HELD: usize = 16 * 1024;

impl Prelude {
    fn new() -> Self {
        Self {
            held: [Some(Vec::new()), Some(Vec::new())],
        }
    }

    /// Takes what came on a stream, and returns what the script has said.
    fn pass(&mut self, stream: Stream, bytes: Vec<u8>) -> Vec<u8> {
        let place = &mut self.held[stream as usize];
        let Some(held) = place else {
            return bytes;
        };
        held.extend_from_slice(&bytes);
        match memmem::find(held, BEGIN.as_bytes()) {
            Some(at) => {
                let said = held.split_off(at + BEGIN.len());
                *place = None;
                said
            }
            None => {
                let excess = held.len().saturating_sub(MOST_HELD);
                held.drain(..excess);
                Vec::new()
            }
        }
    }

    /// What has come instead of the script.
    fn held(&self, stream: Stream) -> Option<&[u8]> {
        self.held[stream as usize].as_deref()
    }
}

/// What is said where an upload is taken: a line that it may come, and then
/// nothing but complaints.
#[derive(Default)]
struct TarTalk {
    /// Unfinished lines, of both streams.
    lines: [Vec<u8>; 2],
    /// The directory that it is in, when it is ready.
    ready_in: Option<Identity>,
    /// The first complaint: the last one says only that there was one.
    first: Vec<u8>,
    /// Everything, up to a bound, to guess the reason from.
    said: Vec<u8>,
}

/// So much of what tar, or a script of ours, says is looked at for the reason.
const MOST_SAID: usize = 16 * 1024;

/// No line of tar's is longer.
const LONGEST_LINE: usize = 8 * 1024;

impl TarTalk {
    /// Takes what came on a stream, and returns the lines for the user.
    fn hear(&mut self, stream: Stream, bytes: &[u8]) -> Vec<u8> {
        let mut shown = Vec::new();
        let mut line = std::mem::take(&mut self.lines[stream as usize]);
        for byte in bytes {
            if *byte != b'\n' {
                line.push(*byte);
            }
            if *byte == b'\n' || line.len() >= LONGEST_LINE {
                self.line(&line, &mut shown);
                line.clear();
            }
        }
        self.lines[stream as usize] = line;
        shown
    }

    /// Nothing more comes.
    fn finish(&mut self) -> Vec<u8> {
        let mut shown = Vec::new();
        for line in std::mem::take(&mut self.lines) {
            if !line.is_empty() {
                self.line(&line, &mut shown);
            }
        }
        shown
    }

    fn line(&mut self, line: &[u8], shown: &mut Vec<u8>) {
        if self.ready_in.is_none()
            && let Some(place) = upload::ready_in(line)
        {
            self.ready_in = Some(place);
            return;
        }
        if self.first.is_empty() {
            self.first = line.to_vec();
        }
        if self.said.len() < MOST_SAID {
            self.said.extend_from_slice(line);
            self.said.push(b'\n');
        }
        shown.extend_from_slice(b"{tar} ");
        shown.extend_from_slice(line);
        shown.push(b'\n');
    }

    /// Why it has failed, as far as it has said.
    fn reason(&self) -> Option<Tree> {
        let first = String::from_utf8_lossy(&self.first).into_owned();
        match upload::likely_reason(&String::from_utf8_lossy(&self.said)) {
            Some(reason) => Some(reason.into()),
            None => (!first.is_empty()).then(|| first.into()),
        }
    }
}

/// sudo between us and what we want to run.
pub(super) struct SudoDoor {
    gate: Gate,
    /// Where its words come: on stdout under a pseudo-terminal.
    stream: Stream,
    password: Option<Secret>,
    asked: usize,
    answered: usize,
}

impl SudoDoor {
    pub(super) fn new(gate: Gate, stream: Stream, password: Option<Secret>) -> Self {
        Self {
            gate,
            stream,
            password,
            asked: 0,
            answered: 0,
        }
    }

    /// Whether sudo has started what is behind it.
    pub(super) fn has_let_in(&self) -> bool {
        self.gate.has_passed()
    }

    /// Takes sudo's words out of what comes.
    pub(super) fn output(&mut self, stream: Stream, bytes: Vec<u8>) -> Vec<u8> {
        if stream != self.stream || self.gate.has_passed() {
            return bytes;
        }
        let asked = &mut self.asked;
        self.gate.feed(&bytes, |event| {
            if event == SudoEvent::Asked {
                *asked += 1;
            }
        })
    }

    /// What was kept because it could have been the beginning of such a word.
    pub(super) fn finish(&mut self) -> (Stream, Vec<u8>) {
        (self.stream, self.gate.finish())
    }

    /// What sudo gets to read until it has let us in, and nothing afterwards:
    /// input that is meant for the command would be taken for a password.
    pub(super) fn input(&mut self, buffer: &mut Vec<u8>) -> Option<Supply> {
        if self.gate.has_passed() {
            return None;
        }
        Some(match &self.password {
            _ if self.asked == self.answered => Supply::Nothing,
            Some(password) if self.answered == 0 => {
                self.answered = self.asked;
                let line = Zeroizing::new(format!("{}\n", password.as_str()));
                buffer.extend_from_slice(line.as_bytes());
                Supply::Secret
            }
            // One answer only: a wrong password must not lock the account.
            _ => Supply::End,
        })
    }

    /// Why we are not in; `last_words` are what sudo said.
    pub(super) fn refusal(&self, last_words: &str) -> Tree {
        if self.asked > 1 {
            return "sudo does not take the password".into();
        }
        Tree::new("sudo refused").because(last_words)
    }
}

/// Remembers the end of what is said.
pub(super) fn keep_tail(tail: &mut Vec<u8>, bytes: &[u8]) {
    let new = &bytes[bytes.len().saturating_sub(TAIL)..];
    let old = (tail.len() + new.len()).saturating_sub(TAIL);
    tail.drain(..old);
    tail.extend_from_slice(new);
}

/// The last line of it that says anything.
pub(super) fn last_line(tail: &[u8]) -> String {
    let text = String::from_utf8_lossy(tail);
    let mut lines = text.lines().map(str::trim);
    lines
        .rfind(|line| !line.is_empty())
        .unwrap_or_default()
        .to_owned()
}

impl CommandPorts {
    pub(super) fn new(node: NodeId, display: Display, credit: Arc<Credit>, source: Source) -> Self {
        Self {
            node,
            display,
            credit,
            tar: matches!(source, Source::Archive(_)).then(TarTalk::default),
            source,
            tool: None,
            sudo: None,
            tail: Vec::new(),
            prelude: None,
            said: None,
            input_error: None,
        }
    }

    /// The same, behind sudo.
    pub(super) fn behind(mut self, sudo: SudoDoor) -> Self {
        self.sudo = Some(sudo);
        self
    }

    /// The same, as a script of ours.
    pub(super) fn of_ours(mut self) -> Self {
        self.prelude = Some(Prelude::new());
        self.said = Some(Vec::new());
        self
    }

    /// The same, as a sync tool that talks to the others.
    pub(super) fn talking(mut self, protocol: &Protocol) -> Self {
        self.source = Source::Tool(Inbox::default());
        self.tool = Some(ToolTalk {
            node: self.node,
            filter: Filter::new(&protocol.prefix, Arc::clone(&protocol.names)),
            events: protocol.events.clone(),
            problem: None,
            has_ended: false,
        });
        self
    }

    /// The host has accepted the command.
    pub(super) fn started(&self) {
        if let Some(tool) = &self.tool {
            tool.tell(ToolEvent::Started(self.node));
        }
    }

    /// Something for the sync tool.
    pub(super) fn deliver(&mut self, text: Arc<[u8]>) {
        let Source::Tool(inbox) = &mut self.source else {
            return;
        };
        if let Err(error) = inbox.push(text) {
            self.fail_tool(Tree::from_error(&error));
        }
    }

    /// The sync tool gets end of file after what it has been sent.
    pub(super) fn close(&mut self) {
        if let Source::Tool(inbox) = &mut self.source {
            self.source = Source::LastWords(std::mem::take(inbox));
        }
    }

    /// The sync tool has failed, whatever it says itself.
    pub(super) fn fail_tool(&mut self, problem: Tree) {
        if let Some(tool) = &mut self.tool {
            tool.problem.get_or_insert(problem);
        }
    }

    /// Why the sync tool has failed, if it did so by talking.
    pub(super) fn tool_problem(&self) -> Option<&Tree> {
        self.tool.as_ref().and_then(|tool| tool.problem.as_ref())
    }

    /// What became of the sync tool.
    pub(super) fn ended(&mut self, end: ToolEnd) {
        if let Some(tool) = &mut self.tool {
            tool.end(end);
        }
    }

    /// Why sudo has not started the command, if it has not.
    pub(super) fn sudo_refusal(&self) -> Option<Tree> {
        let sudo = self.sudo.as_ref().filter(|sudo| !sudo.has_let_in())?;
        Some(sudo.refusal(&self.last_words()))
    }

    /// What went wrong with our own input, once.
    pub(super) fn take_input_error(&mut self) -> Option<Tree> {
        self.input_error.take()
    }

    /// Why a script of ours has failed: its last line, which says what that means for
    /// the host, and what was behind it.
    pub(super) fn complaint(&self) -> Option<Tree> {
        let last = self.last_words();
        if last.is_empty() {
            return None;
        }
        let said = String::from_utf8_lossy(self.said.as_deref().unwrap_or_default());
        let first = said.lines().find(|line| !line.trim().is_empty());
        let cause = upload::likely_reason(&said).or(first);
        let cause = cause.filter(|cause| *cause != last).map(str::to_owned);
        Some(cause.into_iter().fold(Tree::new(last), Tree::because))
    }

    /// The last line of what came on stderr.
    pub(super) fn last_words(&self) -> String {
        last_line(self.before(Stream::Stderr).unwrap_or(&self.tail))
    }

    /// What came on a stream where a script of ours should have begun, if it has not.
    fn before(&self, stream: Stream) -> Option<&[u8]> {
        let prelude = self.prelude.as_ref()?;
        prelude.held(stream)
    }

    /// Whether the host waits for an upload.
    pub(super) fn is_awaiting(&self) -> bool {
        self.upload_place().is_some()
    }

    /// Where the host waits for an upload, if it does.
    pub(super) fn upload_place(&self) -> Option<&Identity> {
        self.tar.as_ref().and_then(|tar| tar.ready_in.as_ref())
    }

    /// Whether the host has been given all of an upload.
    pub(super) fn has_sent_archive(&self) -> bool {
        matches!(&self.source, Source::Archive(tap) if tap.has_ended())
    }

    /// Why the rest of an upload will never come, if that is so.
    pub(super) fn broken_archive(&self) -> Option<&Tree> {
        match &self.source {
            Source::Archive(tap) => tap.broken(),
            _ => None,
        }
    }

    /// Why an upload has failed, as far as the host has said.
    pub(super) fn upload_reason(&self) -> Option<Tree> {
        let reason = self.tar.as_ref().and_then(TarTalk::reason);
        reason.or_else(|| {
            let instead = [Stream::Stderr, Stream::Stdout].map(|stream| self.before(stream));
            let mut lines = instead.into_iter().flatten().map(last_line);
            lines.find(|line| !line.is_empty()).map(Tree::from)
        })
    }

    /// Nothing more will come: the command has ended by itself, or was cut off.
    pub(super) fn finish(&mut self, by_itself: bool) {
        if let Some(sudo) = &mut self.sudo {
            let (stream, rest) = sudo.finish();
            self.pass_on(stream, rest);
        }
        if let Some(prelude) = self.prelude.take().filter(|_| by_itself) {
            for stream in [Stream::Stdout, Stream::Stderr] {
                let instead = prelude.held(stream).unwrap_or_default();
                self.show(stream, instead.to_vec());
            }
        }
        if let Some(tool) = &mut self.tool {
            let rest = tool.finish(by_itself);
            self.print(Stream::Stdout, rest);
        }
        if let Some(tar) = &mut self.tar {
            let rest = tar.finish();
            self.print(Stream::Stderr, rest);
        }
        self.display.send(Message::EndOfOutput { node: self.node });
    }

    fn pass_on(&mut self, stream: Stream, bytes: Vec<u8>) {
        let bytes = match &mut self.prelude {
            Some(prelude) => prelude.pass(stream, bytes),
            None => bytes,
        };
        self.show(stream, bytes);
    }

    fn show(&mut self, stream: Stream, bytes: Vec<u8>) {
        let (stream, shown) = match (&mut self.tar, &mut self.tool) {
            (Some(tar), _) => (Stream::Stderr, tar.hear(stream, &bytes)),
            (None, Some(tool)) if stream == Stream::Stdout => (stream, tool.hear(&bytes)),
            _ => (stream, bytes),
        };
        self.print(stream, shown);
    }

    fn print(&mut self, stream: Stream, bytes: Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        if stream == Stream::Stderr {
            keep_tail(&mut self.tail, &bytes);
            if let Some(said) = &mut self.said {
                let room = MOST_SAID - said.len();
                said.extend_from_slice(&bytes[..bytes.len().min(room)]);
            }
        }
        self.display.send(Message::Output {
            node: self.node,
            stream,
            loan: self.credit.lend(bytes.len()),
            bytes,
        });
    }
}

impl Ports for CommandPorts {
    fn room(&mut self) -> usize {
        self.credit.room()
    }

    fn output(&mut self, stream: Stream, bytes: Vec<u8>) {
        let bytes = match &mut self.sudo {
            Some(sudo) => sudo.output(stream, bytes),
            None => bytes,
        };
        self.pass_on(stream, bytes);
    }

    fn input(&mut self, buffer: &mut Vec<u8>) -> Supply {
        if let Some(supply) = self.sudo.as_mut().and_then(|sudo| sudo.input(buffer)) {
            return supply;
        }
        let is_awaiting = self.is_awaiting();
        match &mut self.source {
            Source::Nothing => Supply::End,
            Source::Archive(tap) if is_awaiting => tap.fill(buffer),
            Source::Archive(_) => Supply::Nothing,
            Source::Tool(inbox) | Source::LastWords(inbox) if !inbox.is_empty() => {
                inbox.take(buffer, INPUT_CHUNK);
                Supply::Bytes
            }
            Source::Tool(_) => Supply::Nothing,
            Source::LastWords(_) => Supply::End,
            Source::File(reader) => reader.fill(buffer).unwrap_or_else(|error| {
                self.input_error.get_or_insert(Tree::from_error(&error));
                buffer.clear();
                // No end of file: the command would take what it has for all.
                Supply::Nothing
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_tar_says_is_told_line_by_line_and_its_first_word_counts() {
        let mut tar = TarTalk::default();
        assert_eq!(
            tar.hear(Stream::Stdout, b"Welcome\nORGALORG RE"),
            b"{tar} Welcome\n"
        );
        assert_eq!(tar.ready_in, None);
        assert_eq!(tar.hear(Stream::Stdout, b"ADY b:1:2\n"), b"");
        assert_eq!(tar.ready_in, Some(Identity("b:1:2".into())));
        let mut tar = TarTalk::default();
        tar.hear(
            Stream::Stderr,
            b"tar: x: Cannot utime\ntar: Exiting with failure",
        );
        assert_eq!(tar.finish(), b"{tar} tar: Exiting with failure\n");
        assert_eq!(tar.reason(), Some("tar: x: Cannot utime".into()));
        tar.hear(Stream::Stderr, b"tar: y: No space left on device\n");
        assert_eq!(tar.reason(), Some("no space left on the host".into()));
    }

    #[test]
    fn what_comes_before_a_script_of_ours_is_not_what_it_says() {
        let text = [b"Welcome", BEGIN.as_bytes(), b"said"].concat();
        for cut in 0..text.len() {
            let mut prelude = Prelude::new();
            let mut said = prelude.pass(Stream::Stdout, text[..cut].to_vec());
            said.extend(prelude.pass(Stream::Stdout, text[cut..].to_vec()));
            assert_eq!(said, b"said");
            assert_eq!(prelude.held(Stream::Stdout), None);
            assert_eq!(prelude.held(Stream::Stderr), Some(&b""[..]));
            // Only the first one counts.
            assert_eq!(prelude.pass(Stream::Stdout, text.clone()), text);
        }
        let mut prelude = Prelude::new();
        for _ in 0..3 {
            let much = [b'x'; MOST_HELD].to_vec();
            assert_eq!(prelude.pass(Stream::Stderr, much), b"");
        }
        let held = prelude.held(Stream::Stderr).expect("it has not begun");
        assert_eq!(held.len(), MOST_HELD);
    }

    #[test]
    fn an_endless_line_of_tar_s_is_cut() {
        let mut tar = TarTalk::default();
        let shown = tar.hear(Stream::Stdout, &vec![b'x'; 3 * LONGEST_LINE]);
        assert_eq!(shown.iter().filter(|&&byte| byte == b'\n').count(), 3);
    }
}
