//! The sync protocol: the lines between orgalorg and the sync tools.
//!
//! Every message is one line that begins with the [`Prefix`] of the run. A
//! [`Filter`] takes the messages of one tool out of its stdout, and an [`Inbox`]
//! is what waits for its stdin. Who gets what and when is decided by
//! `run::coordinator`; the bytes are moved by `cluster`. For authors of sync
//! tools `docs/PROTOCOL.md` says the same from the other side.

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::sync::Arc;

use memchr::memchr;

/// The longest description that a SYNC message may have.
pub(crate) const MAX_DESCRIPTION: usize = 1024 * 1024;

/// What may stand around a description of full length; it does not count.
const MAX_BLANKS: usize = 4096;

/// Bytes that may wait for a tool: enough for one that reads late, and a bound for
/// one that never reads.
pub(crate) const MAX_WAITING: usize = 16 * 1024 * 1024;

/// The short form of `docs/PROTOCOL.md`, for `--help`.
pub(crate) const HELP: &str = "\
A sync tool runs on every node at once. It reads from its stdin and writes to \
its stdout one message a line, each beginning with a prefix that is new for each run:
  <- ORGALORG:90817263 HELLO
  <- ORGALORG:90817263 NODE [ops@db7:22] CURRENT
  <- ORGALORG:90817263 NODE [ops@db8:2222]
  <- ORGALORG:90817263 START
  -> ORGALORG:90817263 SYNC drained
  <- ORGALORG:90817263 SYNC [ops@db7:22] drained
HELLO shows the prefix. NODE names a node, in the same order everywhere; CURRENT \
is the one that the tool runs on. START comes when all tools have been started. \
What a tool says with SYNC goes to all that run, itself included, with its node \
put in front, and in the same order to all. Tools that wait until each node has said \
'SYNC drained' have a barrier. All other lines of a tool are output. When a tool \
fails the others get end of file, and are ended if they do not go; with -w they \
go on.";

/// What every message of a run begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Prefix(String);

impl Prefix {
    /// A prefix from random bytes: what a tool prints must not be taken for a
    /// message of this run because it was one of another.
    #[must_use]
    pub(crate) fn new(random: [u8; 8]) -> Self {
        Self(format!("ORGALORG:{}", u64::from_be_bytes(random)))
    }

    /// What a tool that has just been started is told: who it talks to, and all
    /// nodes of the run, of which it is the one at `current`.
    #[must_use]
    pub(crate) fn introduction<'a>(
        &self,
        nodes: impl IntoIterator<Item = &'a str>,
        current: usize,
    ) -> Arc<[u8]> {
        let mut text = format!("{self} HELLO\n");
        for (index, node) in nodes.into_iter().enumerate() {
            let mark = if index == current { " CURRENT" } else { "" };
            text.extend([&self.0, " NODE ", node, mark, "\n"]);
        }
        text.into_bytes().into()
    }

    /// All tools have been started.
    #[must_use]
    pub(crate) fn start(&self) -> Arc<[u8]> {
        format!("{self} START\n").into_bytes().into()
    }

    /// The tool on this node has said this.
    #[must_use]
    pub(crate) fn broadcast(&self, node: &str, description: &[u8]) -> Arc<[u8]> {
        let mut text = format!("{self} SYNC {node}").into_bytes();
        if !description.is_empty() {
            text.push(b' ');
            text.extend_from_slice(description);
        }
        text.push(b'\n');
        text.into()
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The names of all nodes of a run, by which a broadcast is known.
#[derive(Debug, Default)]
pub(crate) struct Names {
    names: HashSet<Vec<u8>>,
    longest: usize,
}

impl FromIterator<String> for Names {
    fn from_iter<I: IntoIterator<Item = String>>(names: I) -> Self {
        let names: HashSet<Vec<u8>> = names.into_iter().map(String::into_bytes).collect();
        let longest = names.iter().map(Vec::len).max().unwrap_or(0);
        Self { names, longest }
    }
}

/// A message of a tool is too long to be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the sync tool sent a SYNC message of more than {} bytes",
    MAX_DESCRIPTION
)]
pub(crate) struct TooLong;

/// Takes the messages out of a tool's stdout.
///
/// A message is a line that is exactly the prefix, a space and `SYNC`, and then
/// is at its end (a CR before the newline is part of that) or has a space.
/// All else is output and passed on unchanged, as soon as it cannot be a message
/// any more. That includes a line that is itself a broadcast of this run, with
/// the name of one of its nodes after `SYNC`: a tool that echoes what it reads
/// must not start a storm.
#[derive(Debug)]
pub(crate) struct Filter {
    /// `<prefix> SYNC`.
    head: Vec<u8>,
    names: Arc<Names>,
    state: State,
    /// The line so far after its head, where it may be a message.
    text: Vec<u8>,
}

/// Where in a line the filter is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// So many bytes of the head have come, and nothing else.
    Head(usize),
    /// After the head: in `text` there is nothing, or a CR.
    End,
    /// After the head and a space, which is the first byte of `text`.
    Text(Search),
    /// In a line that is output.
    Output,
    /// The tool has failed; nothing that it says counts any more.
    Deaf,
}

/// How far a text has been looked at, so that nothing is looked at twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Search {
    /// Where it begins, after blanks.
    start: usize,
    /// Up to here there is no name of a node.
    searched: usize,
}

impl Filter {
    /// A filter at the beginning of a tool's stdout.
    #[must_use]
    pub(crate) fn new(prefix: &Prefix, names: Arc<Names>) -> Self {
        Self {
            head: format!("{prefix} SYNC").into_bytes(),
            names,
            state: State::Head(0),
            text: Vec::new(),
        }
    }

    /// Takes what has come. Appends to `out` what is output, and hands the
    /// description of each message, without blanks around it, to `on_sync`.
    ///
    /// # Errors
    /// A description is too long. The tool has failed: the rest of `bytes` is
    /// dropped with this message, and whatever else it says is output.
    pub(crate) fn feed(
        &mut self,
        mut bytes: &[u8],
        out: &mut Vec<u8>,
        mut on_sync: impl FnMut(Vec<u8>),
    ) -> Result<(), TooLong> {
        while !bytes.is_empty() {
            let taken = match self.state {
                State::Deaf => {
                    out.extend_from_slice(bytes);
                    bytes.len()
                }
                State::Output => self.pass(bytes, out),
                State::Head(matched) => self.match_head(matched, bytes, out),
                State::End => self.match_end(bytes[0], out, &mut on_sync),
                State::Text(search) => self.collect(search, bytes, out, &mut on_sync)?,
            };
            bytes = &bytes[taken..];
        }
        Ok(())
    }

    /// The tool has closed its stdout, having ended by itself: a last line without
    /// a newline counts like any other, for output as for messages. (The others
    /// would wait for ever for somebody who has said it all.) Returns what is
    /// output.
    pub(crate) fn finish(&mut self, mut on_sync: impl FnMut(Vec<u8>)) -> Vec<u8> {
        let mut out = Vec::new();
        match self.state {
            State::End => self.end_message(&mut on_sync),
            State::Text(search) if self.is_name(&self.text[search.start..]) => {
                self.give_up(&mut out);
            }
            State::Text(_) if trim(&self.text).len() <= MAX_DESCRIPTION => {
                self.end_message(&mut on_sync);
            }
            _ => self.give_up(&mut out),
        }
        out
    }

    /// Nothing more will come, because the tool or its connection was cut off: a
    /// line without its end may be half of something, and is no message. Returns
    /// what is output.
    pub(crate) fn abandon(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        self.give_up(&mut out);
        out
    }

    /// In a line of output. Returns how many bytes were taken, like all of these.
    fn pass(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> usize {
        let taken = match memchr(b'\n', bytes) {
            Some(end) => {
                self.state = State::Head(0);
                end + 1
            }
            None => bytes.len(),
        };
        out.extend_from_slice(&bytes[..taken]);
        taken
    }

    fn match_head(&mut self, matched: usize, bytes: &[u8], out: &mut Vec<u8>) -> usize {
        let expected = &self.head[matched..];
        let same = expected.iter().zip(bytes).take_while(|(a, b)| a == b);
        let same = same.count();
        self.state = State::Head(matched + same);
        if same == expected.len() {
            self.state = State::End;
        } else if same < bytes.len() {
            self.give_up(out);
        }
        same
    }

    fn match_end(
        &mut self,
        byte: u8,
        out: &mut Vec<u8>,
        on_sync: &mut impl FnMut(Vec<u8>),
    ) -> usize {
        match byte {
            b'\n' => self.end_message(on_sync),
            b' ' if self.text.is_empty() => {
                self.text.push(byte);
                self.state = State::Text(Search {
                    start: 1,
                    searched: 1,
                });
            }
            b'\r' if self.text.is_empty() => self.text.push(byte),
            _ => {
                self.give_up(out);
                return 0;
            }
        }
        1
    }

    fn collect(
        &mut self,
        search: Search,
        bytes: &[u8],
        out: &mut Vec<u8>,
        on_sync: &mut impl FnMut(Vec<u8>),
    ) -> Result<usize, TooLong> {
        let end = memchr(b'\n', bytes);
        let new = &bytes[..end.unwrap_or(bytes.len())];
        let most = MAX_DESCRIPTION + MAX_BLANKS + 1 - self.text.len();
        let taken = new.len().min(most);
        self.text.extend_from_slice(&new[..taken]);
        let is_whole = end == Some(taken);
        let Some(search) = self.search_name(search, is_whole) else {
            self.give_up(out);
            return Ok(taken);
        };
        self.state = State::Text(search);
        if taken == most || (is_whole && trim(&self.text).len() > MAX_DESCRIPTION) {
            self.text = Vec::new();
            self.state = State::Deaf;
            return Err(TooLong);
        }
        if is_whole {
            self.end_message(on_sync);
        }
        Ok(taken + usize::from(is_whole))
    }

    /// Nothing if the text begins with the name of a node, alone or before a
    /// blank.
    fn search_name(&self, search: Search, is_whole: bool) -> Option<Search> {
        let Search {
            mut start,
            searched,
        } = search;
        while self.text.get(start).is_some_and(|&byte| is_blank(byte)) {
            start += 1;
        }
        let text = &self.text[start..];
        let most = text.len().min(self.names.longest + 1);
        let mut ends = searched.saturating_sub(start)..most;
        if ends.any(|end| is_blank(text[end]) && self.is_name(&text[..end]))
            || (is_whole && self.is_name(text))
        {
            return None;
        }
        Some(Search {
            start,
            searched: self.text.len(),
        })
    }

    fn is_name(&self, text: &[u8]) -> bool {
        text.last() == Some(&b']') && self.names.names.contains(text)
    }

    fn end_message(&mut self, on_sync: &mut impl FnMut(Vec<u8>)) {
        // Not `clear`, which would keep a megabyte for every tool.
        let text = std::mem::take(&mut self.text);
        on_sync(trim(&text).to_vec());
        self.state = State::Head(0);
    }

    /// What was kept of this line is output, and so is what follows of it.
    fn give_up(&mut self, out: &mut Vec<u8>) {
        let matched = match self.state {
            State::Head(matched) => matched,
            State::End | State::Text(_) => self.head.len(),
            State::Output | State::Deaf => return,
        };
        out.extend_from_slice(&self.head[..matched]);
        out.append(&mut self.text);
        self.text = Vec::new();
        self.state = State::Output;
    }
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r')
}

/// Without the blanks at both ends.
fn trim(text: &[u8]) -> &[u8] {
    let is_text = |byte: &u8| !is_blank(*byte);
    let start = text.iter().position(is_text).unwrap_or(text.len());
    let end = text
        .iter()
        .rposition(is_text)
        .map_or(start, |last| last + 1);
    &text[start..end]
}

/// A tool leaves too much unread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the sync tool does not read its stdin: more than {} MiB are waiting for it",
    MAX_WAITING / 1024 / 1024
)]
pub(crate) struct Overflow;

/// What waits to be read by a tool, in order. It shares the texts with the
/// inboxes of the other tools.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    texts: VecDeque<Arc<[u8]>>,
    /// How much of the first text has been taken.
    taken: usize,
    waiting: usize,
}

impl Inbox {
    /// Adds a text.
    ///
    /// # Errors
    /// Too much is waiting already. The tool has failed: it would miss something.
    pub(crate) fn push(&mut self, text: Arc<[u8]>) -> Result<(), Overflow> {
        if self.waiting + text.len() > MAX_WAITING {
            return Err(Overflow);
        }
        self.waiting += text.len();
        self.texts.push_back(text);
        Ok(())
    }

    /// Whether nothing waits.
    #[must_use]
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    /// Moves what comes next to `buffer`, at most `most` bytes.
    pub(crate) fn take(&mut self, buffer: &mut Vec<u8>, mut most: usize) {
        while most > 0
            && let Some(text) = self.texts.front()
        {
            let rest = &text[self.taken..];
            let length = rest.len().min(most);
            buffer.extend_from_slice(&rest[..length]);
            most -= length;
            self.waiting -= length;
            self.taken += length;
            if self.taken == text.len() {
                self.texts.pop_front();
                self.taken = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests;
