//! The text display: `<host> <line>`, and log lines on stderr.
//!
//! A pure renderer: messages in, bytes for stdout and stderr out. It keeps one
//! unfinished line per node and stream, so that lines of different hosts never
//! mix.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};

use console::Style;
use memchr::memchr;

use crate::error::Tree;
use crate::event::{Level, NodeId, Stream};
use crate::output::sanitize::sanitize_into;
use crate::output::tree::log_line;

/// A longer line is continued on a new output line.
pub const LONGEST_LINE: usize = 1024 * 1024;

/// How much of an unfinished line each stream may keep in memory of its own.
const OWN_SHARE: usize = 16 * 1024;

/// How many longer lines may be in memory at once; the others wait in temporary
/// files.
const LONG_LINES: usize = 4;

/// What a display of text needs to know.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// No prefixes, no added newlines (`-q`).
    pub quiet: bool,
    /// Each line as a debug message on stderr too (`-v`).
    pub verbose: bool,
    /// The bytes of the one and only host as they come, at once (`--tty`, and
    /// `-q` away from terminals).
    pub passthrough: bool,
    /// Remote bytes on a terminal unchanged (`--raw`).
    pub raw: bool,
    /// What stdout is.
    pub stdout: Sink,
    /// What stderr is.
    pub stderr: Sink,
}

/// What a file descriptor is connected to, as far as looks go.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sink {
    /// A terminal, which obeys control sequences.
    pub is_terminal: bool,
    /// Colours are wanted.
    pub colored: bool,
}

/// Who a node is, on screen.
#[derive(Debug, Clone)]
pub struct Label {
    /// What stands before its lines.
    pub prefix: String,
    /// `[user@host:port]`.
    pub node: String,
}

/// Bytes for the two file descriptors.
#[derive(Debug, Default)]
pub struct Sinks {
    /// For file descriptor 1.
    pub stdout: Vec<u8>,
    /// For file descriptor 2.
    pub stderr: Vec<u8>,
}

impl Sinks {
    fn of(&mut self, stream: Stream) -> &mut Vec<u8> {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }
}

/// The renderer.
pub struct Text {
    options: Options,
    labels: Vec<Label>,
    prefixes: [Vec<Vec<u8>>; 2],
    unfinished: Vec<[Unfinished; 2]>,
    pool: Pool,
    clock: Box<dyn FnMut() -> String + Send>,
}

impl Text {
    /// A display for these nodes; `clock` tells the local time for log lines.
    #[must_use]
    pub fn new(
        options: Options,
        labels: Vec<Label>,
        clock: Box<dyn FnMut() -> String + Send>,
    ) -> Self {
        let prefixes = [options.stdout, options.stderr].map(|sink| {
            labels
                .iter()
                .enumerate()
                .map(|(index, label)| prefix(&label.prefix, index, sink, options.quiet))
                .collect()
        });
        let unfinished = labels.iter().map(|_| Default::default()).collect();
        Self {
            options,
            labels,
            prefixes,
            unfinished,
            pool: Pool {
                left: LONG_LINES,
                used: Vec::new(),
                reader: Vec::new(),
            },
            clock,
        }
    }

    /// Bytes from a host: finished lines come out, the rest is kept.
    pub fn output(&mut self, node: NodeId, stream: Stream, bytes: &[u8], out: &mut Sinks) {
        if self.options.passthrough {
            out.of(stream).extend_from_slice(bytes);
            return;
        }
        let mut rest = bytes;
        while let Some(at) = memchr(b'\n', rest) {
            let (line, after) = rest.split_at(at + 1);
            if self.kept(node, stream) == 0 && at <= LONGEST_LINE {
                self.line(node, stream, line, out);
            } else {
                self.keep(node, stream, &line[..at], out);
                self.kept_line(node, stream, b"\n", out);
            }
            rest = after;
        }
        self.keep(node, stream, rest, out);
    }

    /// A host will say nothing more: its unfinished lines come out.
    pub fn end_of_output(&mut self, node: NodeId, out: &mut Sinks) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            if self.kept(node, stream) > 0 {
                self.kept_line(node, stream, self.added_end(), out);
            }
        }
    }

    /// A log line.
    pub fn log(&mut self, level: Level, text: &Tree, out: &mut Sinks) {
        let line = log_line(&(self.clock)(), level, text);
        self.log_text(level, &line, &mut out.stderr);
    }

    fn log_text(&self, level: Level, line: &str, out: &mut Vec<u8>) {
        let sink = self.options.stderr;
        let mut lines: Vec<Vec<u8>> = Vec::new();
        for text in line.lines() {
            // Errors may quote what a host said.
            let mut safe = Vec::with_capacity(text.len());
            if sink.is_terminal {
                sanitize_into(&mut safe, text.as_bytes());
            } else {
                safe.extend_from_slice(text.as_bytes());
            }
            lines.push(safe);
        }
        let mut text = lines.join(&b'\n');
        if sink.colored
            && let Some(style) = level_style(level)
        {
            let tag = format!("[{}]", level.name());
            if let Some(at) = memchr::memmem::find(&text, tag.as_bytes()) {
                let styled = style.force_styling(true).apply_to(&tag).to_string();
                text.splice(at..at + tag.len(), styled.into_bytes());
            }
        }
        out.extend_from_slice(&text);
        out.push(b'\n');
    }

    fn kept(&self, node: NodeId, stream: Stream) -> usize {
        self.unfinished[node.0][stream as usize].length
    }

    /// Adds to the unfinished line, which comes out in parts where it grows too
    /// long.
    fn keep(&mut self, node: NodeId, stream: Stream, mut bytes: &[u8], out: &mut Sinks) {
        while !bytes.is_empty() {
            if self.kept(node, stream) == LONGEST_LINE {
                self.kept_line(node, stream, self.added_end(), out);
            }
            let unfinished = &mut self.unfinished[node.0][stream as usize];
            let room = LONGEST_LINE - unfinished.length;
            let (now, later) = bytes.split_at(bytes.len().min(room));
            unfinished.push(now, &mut self.pool);
            bytes = later;
        }
    }

    /// What ends a line that did not end by itself.
    fn added_end(&self) -> &'static [u8] {
        if self.options.quiet { b"" } else { b"\n" }
    }

    /// The unfinished line is finished, and comes out.
    fn kept_line(&mut self, node: NodeId, stream: Stream, end: &[u8], out: &mut Sinks) {
        let unfinished = &mut self.unfinished[node.0][stream as usize];
        let was_spilled = unfinished.file.is_some();
        let mut line = unfinished.take(&mut self.pool);
        line.extend_from_slice(end);
        self.line(node, stream, &line, out);
        if was_spilled {
            self.pool.reader = line;
        } else {
            self.pool.take_back(line);
        }
    }

    /// A line that is to be written, with its newline if it gets one.
    fn line(&mut self, node: NodeId, stream: Stream, line: &[u8], out: &mut Sinks) {
        if self.options.verbose {
            self.debug_line(node, stream, line, out);
            if self.options.stdout.is_terminal {
                return;
            }
        }
        let sink = match stream {
            Stream::Stdout => self.options.stdout,
            Stream::Stderr => self.options.stderr,
        };
        let out = out.of(stream);
        out.extend_from_slice(&self.prefixes[stream as usize][node.0]);
        if sink.is_terminal && !self.options.raw {
            sanitize_into(out, line);
        } else {
            out.extend_from_slice(line);
        }
    }

    fn debug_line(&mut self, node: NodeId, stream: Stream, line: &[u8], out: &mut Sinks) {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let text = format!(
            "{{cmd}} <{stream}> {} {}",
            self.labels[node.0].node,
            String::from_utf8_lossy(line)
        );
        let line = log_line(&(self.clock)(), Level::Debug, &text.into());
        self.log_text(Level::Debug, &line, &mut out.stderr);
    }
}

fn prefix(name: &str, index: usize, sink: Sink, quiet: bool) -> Vec<u8> {
    if quiet {
        return Vec::new();
    }
    if !sink.colored {
        return format!("{name} ").into_bytes();
    }
    // The colours that can be read on dark and on light ground.
    let style = Style::new().force_styling(true);
    let style = match index % 5 {
        0 => style.cyan(),
        1 => style.green(),
        2 => style.magenta(),
        3 => style.yellow(),
        _ => style.blue(),
    };
    format!("{} ", style.apply_to(name)).into_bytes()
}

fn level_style(level: Level) -> Option<Style> {
    match level {
        Level::Trace | Level::Debug => Some(Style::new().dim()),
        Level::Info => None,
        Level::Warn => Some(Style::new().yellow()),
        Level::Error | Level::Fatal => Some(Style::new().red().bold()),
    }
}

/// Buffers for long lines. There are few, and they are used again and again:
/// fresh memory costs more than everything else that is done with a line.
struct Pool {
    /// How many more may be made.
    left: usize,
    /// Those that nobody uses now, empty.
    used: Vec<Vec<u8>>,
    /// One more, for lines that come back from files.
    reader: Vec<u8>,
}

impl Pool {
    /// A buffer that any line fits into, if there is one.
    fn lend(&mut self) -> Option<Vec<u8>> {
        self.used.pop().or_else(|| {
            self.left = self.left.checked_sub(1)?;
            // One more for the newline.
            Some(Vec::with_capacity(LONGEST_LINE + 1))
        })
    }

    /// Takes it back, if it is one.
    fn take_back(&mut self, mut buffer: Vec<u8>) {
        if buffer.capacity() > LONGEST_LINE && self.used.len() < LONG_LINES {
            buffer.clear();
            self.used.push(buffer);
        }
    }
}

/// A line whose end has not come yet.
#[derive(Debug, Default)]
struct Unfinished {
    memory: Vec<u8>,
    /// What stands before `memory`, where the line is long and memory is short.
    file: Option<File>,
    length: usize,
}

impl Unfinished {
    fn push(&mut self, bytes: &[u8], pool: &mut Pool) {
        self.length += bytes.len();
        let size = self.memory.len() + bytes.len();
        if size > self.memory.capacity().max(OWN_SHARE) {
            if let Some(buffer) = pool.lend() {
                let short = std::mem::replace(&mut self.memory, buffer);
                self.memory.extend_from_slice(&short);
            } else if self.spill(bytes).is_ok() {
                return;
            }
            // Without a temporary file, memory has to do.
        }
        self.memory.extend_from_slice(bytes);
    }

    /// Moves what is in memory, and more, to a temporary file that has no name.
    fn spill(&mut self, more: &[u8]) -> std::io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert(tempfile::tempfile()?),
        };
        let end = file.seek(SeekFrom::End(0))?;
        let written = file.write_all(&self.memory);
        if let Err(error) = written.and_then(|()| file.write_all(more)) {
            file.set_len(end)?;
            return Err(error);
        }
        self.memory.clear();
        Ok(())
    }

    /// The whole line; its memory goes back to the pool afterwards.
    fn take(&mut self, pool: &mut Pool) -> Vec<u8> {
        self.length = 0;
        let memory = std::mem::take(&mut self.memory);
        let Some(mut file) = self.file.take() else {
            return memory;
        };
        let mut whole = std::mem::take(&mut pool.reader);
        whole.clear();
        whole.reserve_exact(LONGEST_LINE + 1);
        // The file has just been written and nobody else has it; should it be
        // unreadable all the same, what can be had is shown.
        let read = file.rewind().and_then(|()| file.read_to_end(&mut whole));
        if read.is_err() {
            whole.extend_from_slice(b"[orgalorg: part of a long line was lost]");
        }
        whole.extend_from_slice(&memory);
        pool.take_back(memory);
        whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn labels(names: &[&str]) -> Vec<Label> {
        names
            .iter()
            .map(|name| Label {
                prefix: (*name).to_owned(),
                node: format!("[ops@{name}:22]"),
            })
            .collect()
    }

    fn text(options: Options) -> Text {
        let clock = Box::new(|| "2026-01-31 12:00:00".to_owned());
        Text::new(options, labels(&["web1", "web2"]), clock)
    }

    const TERMINAL: Sink = Sink {
        is_terminal: true,
        colored: false,
    };

    fn stdout_of(options: Options, pieces: &[(usize, &[u8])]) -> String {
        let (mut text, mut out) = (text(options), Sinks::default());
        for (node, bytes) in pieces {
            text.output(NodeId(*node), Stream::Stdout, bytes, &mut out);
        }
        for node in [0, 1] {
            text.end_of_output(NodeId(node), &mut out);
        }
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    #[test]
    fn lines_of_two_hosts_do_not_mix() {
        let pieces: [(usize, &[u8]); 4] = [(0, b"a"), (1, b"x\n"), (0, b"b\nc"), (1, b"y")];
        let output = stdout_of(Options::default(), &pieces);
        assert_eq!(output, "web2 x\nweb1 ab\nweb1 c\nweb2 y\n");
    }

    #[test]
    fn quiet_output_is_exactly_the_remote_bytes() {
        let options = Options {
            quiet: true,
            ..Options::default()
        };
        assert_eq!(
            stdout_of(options, &[(0, b"a\n\nb\0\r\nc")]),
            "a\n\nb\0\r\nc"
        );
    }

    #[test]
    fn empty_lines_are_lines() {
        let output = stdout_of(Options::default(), &[(0, b"\n\n")]);
        assert_eq!(output, "web1 \nweb1 \n");
    }

    #[test]
    fn each_stream_goes_to_its_own_descriptor() {
        let (mut text, mut out) = (text(Options::default()), Sinks::default());
        text.output(NodeId(0), Stream::Stdout, b"out", &mut out);
        text.output(NodeId(0), Stream::Stderr, b"err", &mut out);
        text.end_of_output(NodeId(0), &mut out);
        assert_eq!(out.stdout, b"web1 out\n");
        assert_eq!(out.stderr, b"web1 err\n");
    }

    #[test]
    fn a_terminal_gets_escaped_text_and_a_pipe_the_bytes() {
        let hostile: &[(usize, &[u8])] = &[(0, b"\x1b[2Jx\n")];
        let terminal = Options {
            stdout: TERMINAL,
            ..Options::default()
        };
        assert_eq!(stdout_of(terminal, hostile), "web1 ^[[2Jx\n");
        let raw = Options {
            raw: true,
            ..terminal
        };
        assert_eq!(stdout_of(raw, hostile), "web1 \x1b[2Jx\n");
        assert_eq!(stdout_of(Options::default(), hostile), "web1 \x1b[2Jx\n");
    }

    #[test]
    fn a_verbose_pipe_still_gets_the_lines() {
        let options = Options {
            verbose: true,
            ..Options::default()
        };
        assert_eq!(stdout_of(options, &[(0, b"a\n")]), "web1 a\n");
        let terminal = Options {
            stdout: TERMINAL,
            ..options
        };
        assert_eq!(stdout_of(terminal, &[(0, b"a\n")]), "");
    }

    #[test]
    fn a_verbose_line_names_stream_and_node() {
        let options = Options {
            verbose: true,
            ..Options::default()
        };
        let (mut text, mut out) = (text(options), Sinks::default());
        text.output(NodeId(1), Stream::Stderr, b"no\n", &mut out);
        let log = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(
            log.contains(" [DEBUG] {cmd} <stderr> [ops@web2:22] no\n"),
            "{log}"
        );
    }

    #[test]
    fn a_very_long_line_is_continued() {
        let long = vec![b'x'; LONGEST_LINE];
        let exact = [long.as_slice(), b"\n"].concat();
        let output = stdout_of(Options::default(), &[(0, &exact)]);
        assert_eq!(output.len(), "web1 \n".len() + LONGEST_LINE);
        let longer = [long.as_slice(), b"y\nz\n"].concat();
        let output = stdout_of(Options::default(), &[(0, &longer)]);
        assert!(output.ends_with("x\nweb1 y\nweb1 z\n"));
    }

    #[test]
    fn long_lines_of_several_hosts_follow_each_other_in_the_same_memory() {
        let (mut text, mut out) = (text(Options::default()), Sinks::default());
        let mut expected = Vec::new();
        for (node, name, letter) in [(0, "web1 ", b'a'), (1, "web2 ", b'b'), (0, "web1 ", b'c')] {
            let line = [vec![letter; LONGEST_LINE - 1], vec![b'\n']].concat();
            for piece in line.chunks(30_000) {
                text.output(NodeId(node), Stream::Stdout, piece, &mut out);
            }
            // The other host is in the middle of one too.
            text.output(NodeId(1 - node), Stream::Stdout, b"-", &mut out);
            let begun = if expected.is_empty() { "" } else { "-" };
            expected.extend_from_slice(&[name.as_bytes(), begun.as_bytes(), &line].concat());
            assert_eq!(text.pool.used.len(), 1);
        }
        assert_eq!(out.stdout.len(), expected.len());
        assert!(out.stdout == expected);
    }

    #[test]
    fn many_long_lines_go_to_disk_and_come_back() {
        let render = |in_memory| {
            let (mut text, mut out) = (text(Options::default()), Sinks::default());
            text.pool.left = in_memory;
            for piece in 0..20 {
                let piece = vec![b'a' + piece; 30_000];
                for node in [0, 1] {
                    text.output(NodeId(node), Stream::Stdout, &piece, &mut out);
                    let memory = &text.unfinished[node][0].memory;
                    assert!(in_memory > 0 || memory.capacity() <= OWN_SHARE);
                }
            }
            for node in [0, 1] {
                text.output(NodeId(node), Stream::Stdout, b"end\n", &mut out);
            }
            out.stdout
        };
        let (on_disk, in_memory) = (render(0), render(LONG_LINES));
        assert_eq!(on_disk.len(), 2 * ("web1 end\n".len() + 600_000));
        assert!(on_disk == in_memory);
    }

    #[test]
    fn the_one_host_of_a_terminal_session_is_passed_through() {
        let options = Options {
            passthrough: true,
            ..Options::default()
        };
        assert_eq!(stdout_of(options, &[(0, b"prompt> ")]), "prompt> ");
    }

    #[test]
    fn colours_are_only_used_where_they_are_wanted() {
        let colored = Options {
            stdout: Sink {
                is_terminal: true,
                colored: true,
            },
            ..Options::default()
        };
        let output = stdout_of(colored, &[(0, b"a\n")]);
        assert_eq!(output, "\x1b[36mweb1\x1b[0m a\n");
    }

    proptest! {
        #[test]
        fn it_does_not_matter_where_packets_are_cut(
            body in prop::collection::vec(prop_oneof![Just(b'\n'), any::<u8>()], 0..200),
            cuts in prop::collection::vec(0usize..200, 0..8),
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().filter(|&cut| cut < body.len()).collect();
            cuts.extend([0, body.len()]);
            cuts.sort_unstable();
            let pieces: Vec<(usize, &[u8])> =
                cuts.windows(2).map(|pair| (0, &body[pair[0]..pair[1]])).collect();
            let whole = stdout_of(Options::default(), &[(0, &body)]);
            prop_assert_eq!(stdout_of(Options::default(), &pieces), whole);
        }
    }
}
