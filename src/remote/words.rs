//! Pure readers of the two outputs of our scripts, and of the login shell before them.

use memchr::memmem;

use super::login::BEGIN;
use super::unpack;
use crate::error::Tree;
use crate::event::{Identity, Stream};

/// Bytes of the end of an output that are kept for error messages.
const TAIL: usize = 512;

/// Bytes that are kept of the output before a script of ours begins.
const MOST_HELD: usize = 16 * 1024;

/// Bytes of a script's complaints that are searched for a reason.
const MOST_SAID: usize = 16 * 1024;

/// The longest line of tar that is kept in one piece.
const LONGEST_LINE: usize = 8 * 1024;

/// The end of an output, for error messages.
#[derive(Debug, Default)]
pub(crate) struct Tail(Vec<u8>);

impl Tail {
    /// Adds output.
    pub(crate) fn keep(&mut self, bytes: &[u8]) {
        let new = &bytes[bytes.len().saturating_sub(TAIL)..];
        let old = (self.0.len() + new.len()).saturating_sub(TAIL);
        self.0.drain(..old);
        self.0.extend_from_slice(new);
    }

    /// The last line that is not blank; empty if there is none.
    pub(crate) fn last_line(&self) -> String {
        last_line(&self.0)
    }
}

fn last_line(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let mut lines = text.lines().map(str::trim);
    lines
        .rfind(|line| !line.is_empty())
        .unwrap_or_default()
        .to_owned()
}

/// The output before a script of ours begins. It explains a script that never begins,
/// and is dropped when the script does.
#[derive(Debug)]
pub(crate) struct Prelude {
    /// Of each stream, until the script begins there.
    held: [Option<Vec<u8>>; 2],
}

impl Default for Prelude {
    fn default() -> Self {
        Self {
            held: [Some(Vec::new()), Some(Vec::new())],
        }
    }
}

impl Prelude {
    /// Takes output of a stream and returns the part that the script has written.
    pub(crate) fn pass(&mut self, stream: Stream, bytes: Vec<u8>) -> Vec<u8> {
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

    /// The last line on a stream where the script has not begun.
    pub(crate) fn last_line(&self, stream: Stream) -> Option<String> {
        self.held[stream as usize].as_deref().map(last_line)
    }

    /// The output of the streams where the script has not begun.
    pub(crate) fn finish(&mut self) -> Vec<(Stream, Vec<u8>)> {
        [Stream::Stdout, Stream::Stderr]
            .into_iter()
            .filter_map(|stream| Some((stream, self.held[stream as usize].take()?)))
            .collect()
    }
}

/// What a script of ours has said on stderr.
#[derive(Debug, Default)]
pub(crate) struct Complaint {
    tail: Tail,
    /// The beginning.
    said: Vec<u8>,
}

impl Complaint {
    /// Adds output.
    pub(crate) fn hear(&mut self, bytes: &[u8]) {
        self.tail.keep(bytes);
        let room = MOST_SAID - self.said.len();
        self.said.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    /// The last line.
    pub(crate) fn last_line(&self) -> String {
        self.tail.last_line()
    }

    /// Why the script has failed: its last line, which says what that means for the
    /// host, and the cause, which came before.
    pub(crate) fn reason(&self, last: &str) -> Option<Tree> {
        if last.is_empty() {
            return None;
        }
        let said = String::from_utf8_lossy(&self.said);
        let first = said.lines().find(|line| !line.trim().is_empty());
        let cause = unpack::likely_reason(&said).or(first);
        let cause = cause.filter(|cause| *cause != last).map(str::to_owned);
        Some(cause.into_iter().fold(Tree::new(last), Tree::because))
    }
}

/// What the script that takes an upload says: a line that the archive may come, and
/// then nothing but complaints.
#[derive(Debug, Default)]
pub(crate) struct TarReport {
    /// Unfinished lines, of both streams.
    lines: [Vec<u8>; 2],
    /// The directory that it is in, when it is ready.
    ready_in: Option<Identity>,
    /// The first complaint: the last one says only that there was one.
    first: Vec<u8>,
    /// Everything, up to a bound.
    said: Vec<u8>,
    tail: Tail,
}

impl TarReport {
    /// Takes output of a stream and returns the lines for the user.
    pub(crate) fn hear(&mut self, stream: Stream, bytes: &[u8]) -> Vec<u8> {
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

    /// Nothing more comes. Returns the unfinished lines.
    pub(crate) fn finish(&mut self) -> Vec<u8> {
        let mut shown = Vec::new();
        for line in std::mem::take(&mut self.lines) {
            if !line.is_empty() {
                self.line(&line, &mut shown);
            }
        }
        shown
    }

    /// The directory that the archive is to be unpacked in, once the script waits
    /// for the archive.
    pub(crate) fn ready_in(&self) -> Option<&Identity> {
        self.ready_in.as_ref()
    }

    /// The last line that was said.
    pub(crate) fn last_line(&self) -> String {
        self.tail.last_line()
    }

    /// Why tar has failed, as far as it has said.
    pub(crate) fn reason(&self) -> Option<Tree> {
        let first = String::from_utf8_lossy(&self.first).into_owned();
        match unpack::likely_reason(&String::from_utf8_lossy(&self.said)) {
            Some(reason) => Some(reason.into()),
            None => (!first.is_empty()).then(|| first.into()),
        }
    }

    fn line(&mut self, line: &[u8], shown: &mut Vec<u8>) {
        if self.ready_in.is_none()
            && let Some(place) = unpack::ready_in(line)
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
        let begin = shown.len();
        shown.extend_from_slice(b"{tar} ");
        shown.extend_from_slice(line);
        shown.push(b'\n');
        self.tail.keep(&shown[begin..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_tar_says_is_told_line_by_line_and_its_first_word_counts() {
        let mut tar = TarReport::default();
        assert_eq!(
            tar.hear(Stream::Stdout, b"Welcome\nORGALORG RE"),
            b"{tar} Welcome\n"
        );
        assert_eq!(tar.ready_in(), None);
        assert_eq!(tar.hear(Stream::Stdout, b"ADY b:1:2\n"), b"");
        assert_eq!(tar.ready_in(), Some(&Identity("b:1:2".into())));
        let mut tar = TarReport::default();
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
            let mut prelude = Prelude::default();
            let mut said = prelude.pass(Stream::Stdout, text[..cut].to_vec());
            said.extend(prelude.pass(Stream::Stdout, text[cut..].to_vec()));
            assert_eq!(said, b"said");
            assert_eq!(prelude.last_line(Stream::Stdout), None);
            assert_eq!(prelude.last_line(Stream::Stderr), Some(String::new()));
            // Only the first one counts.
            assert_eq!(prelude.pass(Stream::Stdout, text.clone()), text);
        }
        let mut prelude = Prelude::default();
        for _ in 0..3 {
            let much = [b'x'; MOST_HELD].to_vec();
            assert_eq!(prelude.pass(Stream::Stderr, much), b"");
        }
        let held: Vec<_> = prelude
            .finish()
            .into_iter()
            .map(|(_, held)| held.len())
            .collect();
        assert_eq!(held, [0, MOST_HELD]);
    }

    #[test]
    fn an_endless_line_of_tar_s_is_cut() {
        let mut tar = TarReport::default();
        let shown = tar.hear(Stream::Stdout, &vec![b'x'; 3 * LONGEST_LINE]);
        assert_eq!(shown.iter().filter(|&&byte| byte == b'\n').count(), 3);
    }

    #[test]
    fn the_last_line_of_a_complaint_has_what_came_before_as_its_cause() {
        let mut complaint = Complaint::default();
        complaint.hear(b"cp: x: odd\n\nnothing was put in place\n");
        let last = complaint.last_line();
        assert_eq!(last, "nothing was put in place");
        let expected = Tree::new("nothing was put in place").because("cp: x: odd");
        assert_eq!(complaint.reason(&last), Some(expected));
        assert_eq!(Complaint::default().reason(""), None);
    }
}
