//! The text display: `<host> <line>`, and log lines on stderr.

use crate::error::Tree;
use crate::event::{Level, NodeId, Stream};
use crate::output::lines::{Line, Lines};
use crate::output::logs::Logs;
use crate::output::renderer::{Fate, NodeLabel, Renderer, Sink};
use crate::output::sanitize::{Sanitizer, sanitize_into};
use crate::output::template::paint;
use crate::output::theme::Theme;
use crate::output::writer::Writer;

/// How lines of hosts are shown.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct TextOptions {
    /// No prefixes and no added newlines (`-q`).
    pub(crate) is_quiet: bool,
    /// Each line is a debug message on stderr (`-v`).
    pub(crate) is_verbose: bool,
    /// Bytes of the only host pass unchanged, without waiting for the end of a line
    /// (`--tty`, and `-q` without a terminal).
    pub(crate) is_passthrough: bool,
    /// Remote bytes go to a terminal unchanged (`--raw`).
    pub(crate) is_raw: bool,
    /// What stdout is connected to.
    pub(crate) stdout: Sink,
    /// What stderr is connected to.
    pub(crate) stderr: Sink,
    /// The colours.
    pub(crate) theme: Theme,
}

impl TextOptions {
    /// What a stream's descriptor is connected to.
    #[must_use]
    pub(crate) fn sink(&self, stream: Stream) -> Sink {
        match stream {
            Stream::Stdout => self.stdout,
            Stream::Stderr => self.stderr,
        }
    }

    /// Appends a line of a host, escaped if it goes to a terminal.
    pub(crate) fn safe_into(&self, stream: Stream, line: &[u8], out: &mut Vec<u8>) {
        if self.sink(stream).is_terminal && !self.is_raw {
            sanitize_into(out, line);
        } else {
            out.extend_from_slice(line);
        }
    }

    /// Appends a line of a host with its end, in pieces if it is long.
    pub(crate) fn line_into(&self, stream: Stream, line: &Line<'_>, out: &mut Writer) {
        if let Some(short) = line.short() {
            let out = out.buffer(stream);
            self.safe_into(stream, short, out);
            return out.extend_from_slice(line.end());
        }
        let needs_no_escaping = !self.sink(stream).is_terminal || self.is_raw;
        let mut sanitizer = Sanitizer::default();
        line.pieces(|piece| {
            if needs_no_escaping {
                out.buffer(stream).extend_from_slice(piece);
            } else {
                sanitizer.piece(out.buffer(stream), piece);
            }
            out.flush_if_full();
        });
        sanitizer.end(out.buffer(stream));
        out.buffer(stream).extend_from_slice(line.end());
        out.flush_now();
    }
}

/// The text display.
pub(crate) struct Text {
    lines: Lines,
    layout: Layout,
}

/// Lays out whole lines.
struct Layout {
    options: TextOptions,
    labels: Vec<NodeLabel>,
    prefixes: [Vec<Vec<u8>>; 2],
    logs: Logs,
}

impl Text {
    /// A display for the nodes with these labels.
    #[must_use]
    pub(crate) fn new(options: TextOptions, labels: Vec<NodeLabel>, logs: Logs) -> Self {
        let prefixes = [Stream::Stdout, Stream::Stderr].map(|stream| {
            labels
                .iter()
                .enumerate()
                .map(|(index, label)| prefix(&label.prefix, index, stream, &options))
                .collect()
        });
        let added_end: &[u8] = if options.is_quiet { b"" } else { b"\n" };
        Self {
            lines: Lines::new(labels.len(), added_end),
            layout: Layout {
                options,
                labels,
                prefixes,
                logs,
            },
        }
    }
}

impl Renderer for Text {
    fn output(&mut self, node: NodeId, stream: Stream, bytes: &[u8], out: &mut Writer) -> Fate {
        let Self { lines, layout } = self;
        if layout.options.is_passthrough {
            out.buffer(stream).extend_from_slice(bytes);
        } else {
            lines.feed(node, stream, bytes, |line| {
                layout.line(node, stream, &line, out);
            });
        }
        Fate::Shown
    }

    fn end_of_output(&mut self, node: NodeId, out: &mut Writer) {
        let Self { lines, layout } = self;
        for stream in [Stream::Stdout, Stream::Stderr] {
            lines.end(node, stream, |line| layout.line(node, stream, &line, out));
        }
    }

    fn log(&mut self, level: Level, text: &Tree, out: &mut Writer) {
        self.layout.logs.render(level, text, &mut out.stderr);
    }
}

impl Layout {
    fn line(&mut self, node: NodeId, stream: Stream, line: &Line<'_>, out: &mut Writer) {
        if self.options.is_verbose {
            self.logs.line(&self.labels[node.0], stream, line, out);
            // Programs that read stdout get the lines that they get without `-v`.
            if stream == Stream::Stderr || self.options.stdout.is_terminal {
                return;
            }
        }
        let prefix = &self.prefixes[stream as usize][node.0];
        out.buffer(stream).extend_from_slice(prefix);
        self.options.line_into(stream, line, out);
    }
}

fn prefix(name: &str, index: usize, stream: Stream, options: &TextOptions) -> Vec<u8> {
    if options.is_quiet {
        return Vec::new();
    }
    if !options.sink(stream).is_colored {
        return format!("{name} ").into_bytes();
    }
    format!("{} ", paint(&options.theme.host(index), name)).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(names: &[&str]) -> Vec<NodeLabel> {
        names
            .iter()
            .map(|name| NodeLabel {
                prefix: (*name).to_owned(),
                node: format!("[ops@{name}:22]"),
                given: format!("ops@{name}"),
            })
            .collect()
    }

    fn text(options: TextOptions) -> Text {
        let clock = Box::new(|| "2026-01-31 12:00:00".to_owned());
        let logs = Logs::new(options.stderr, options.theme, None, clock);
        Text::new(options, labels(&["web1", "web2"]), logs)
    }

    const TERMINAL: Sink = Sink {
        is_terminal: true,
        is_colored: false,
    };

    fn stdout_of(options: TextOptions, pieces: &[(usize, &[u8])]) -> String {
        let (mut text, mut out) = (text(options), Writer::in_memory());
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
        let output = stdout_of(TextOptions::default(), &pieces);
        assert_eq!(output, "web2 x\nweb1 ab\nweb1 c\nweb2 y\n");
    }

    #[test]
    fn quiet_output_is_exactly_the_remote_bytes() {
        let options = TextOptions {
            is_quiet: true,
            ..TextOptions::default()
        };
        assert_eq!(
            stdout_of(options, &[(0, b"a\n\nb\0\r\nc")]),
            "a\n\nb\0\r\nc"
        );
    }

    #[test]
    fn empty_lines_are_lines() {
        let output = stdout_of(TextOptions::default(), &[(0, b"\n\n")]);
        assert_eq!(output, "web1 \nweb1 \n");
    }

    #[test]
    fn each_stream_goes_to_its_own_descriptor() {
        let (mut text, mut out) = (text(TextOptions::default()), Writer::in_memory());
        text.output(NodeId(0), Stream::Stdout, b"out", &mut out);
        text.output(NodeId(0), Stream::Stderr, b"err", &mut out);
        text.end_of_output(NodeId(0), &mut out);
        assert_eq!(out.stdout, b"web1 out\n");
        assert_eq!(out.stderr, b"web1 err\n");
    }

    #[test]
    fn a_terminal_gets_escaped_text_and_a_pipe_the_bytes() {
        let hostile: &[(usize, &[u8])] = &[(0, b"\x1b[2Jx\n")];
        let terminal = TextOptions {
            stdout: TERMINAL,
            ..TextOptions::default()
        };
        assert_eq!(stdout_of(terminal, hostile), "web1 ^[[2Jx\n");
        let raw = TextOptions {
            is_raw: true,
            ..terminal
        };
        assert_eq!(stdout_of(raw, hostile), "web1 \x1b[2Jx\n");
        assert_eq!(
            stdout_of(TextOptions::default(), hostile),
            "web1 \x1b[2Jx\n"
        );
    }

    #[test]
    fn a_verbose_pipe_still_gets_the_lines() {
        let options = TextOptions {
            is_verbose: true,
            ..TextOptions::default()
        };
        assert_eq!(stdout_of(options, &[(0, b"a\n")]), "web1 a\n");
        let terminal = TextOptions {
            stdout: TERMINAL,
            ..options
        };
        assert_eq!(stdout_of(terminal, &[(0, b"a\n")]), "");
    }

    #[test]
    fn a_verbose_line_names_stream_and_node() {
        let options = TextOptions {
            is_verbose: true,
            ..TextOptions::default()
        };
        let (mut text, mut out) = (text(options), Writer::in_memory());
        text.output(NodeId(1), Stream::Stderr, b"no\n", &mut out);
        let log = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(
            log.ends_with(" [DEBUG] {cmd} <stderr> [ops@web2:22] no\n"),
            "{log}"
        );
        assert_eq!(log.matches("no\n").count(), 1, "{log}");
    }

    #[test]
    fn the_one_host_of_a_terminal_session_is_passed_through() {
        let options = TextOptions {
            is_passthrough: true,
            ..TextOptions::default()
        };
        assert_eq!(stdout_of(options, &[(0, b"prompt> ")]), "prompt> ");
    }

    #[test]
    fn colours_are_only_used_where_they_are_wanted() {
        let colored = TextOptions {
            stdout: Sink {
                is_terminal: true,
                is_colored: true,
            },
            ..TextOptions::default()
        };
        let output = stdout_of(colored, &[(0, b"a\n")]);
        assert_eq!(output, "\x1b[36mweb1\x1b[0m a\n");
    }
}
