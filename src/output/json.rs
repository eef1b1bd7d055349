//! The display for programs (`--json`): one JSON object a line.
//!
//! Lines of hosts are objects on the descriptor of their stream, results of hosts are
//! objects on stdout, and log lines are objects on stderr.

use std::borrow::Cow;
use std::io::{self, Write};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Serialize;
use serde_json::ser::Formatter;

use crate::error::Tree;
use crate::event::{Level, NodeId, Outcome, Status, Stream};
use crate::output::lines::{Line, Lines};
use crate::output::logs::Logs;
use crate::output::renderer::{Fate, NodeLabel, Renderer};
use crate::output::summary;
use crate::output::writer::Writer;

/// The JSON display.
pub(crate) struct Json {
    lines: Lines,
    layout: Layout,
}

/// Lays out whole lines.
struct Layout {
    labels: Vec<NodeLabel>,
    logs: Logs,
    is_verbose: bool,
}

/// The beginning of an object with a line of a host, or with a log line. The body
/// follows.
#[derive(Serialize)]
struct Head<'a> {
    stream: &'a str,
    node: Option<&'a str>,
    host: Option<&'a str>,
}

/// The result of a host.
#[derive(Serialize)]
struct End<'a> {
    stream: &'a str,
    node: &'a str,
    host: &'a str,
    status: &'a str,
    code: Option<i32>,
    signal: Option<&'a str>,
    duration_ms: u64,
    body: String,
}

impl Json {
    /// A display for the nodes with these labels. With `is_verbose` each line of a host
    /// is a log line, too.
    #[must_use]
    pub(crate) fn new(labels: Vec<NodeLabel>, logs: Logs, is_verbose: bool) -> Self {
        Self {
            // No newline is added: the body shows whether the host sent one.
            lines: Lines::new(labels.len(), b""),
            layout: Layout {
                labels,
                logs,
                is_verbose,
            },
        }
    }
}

impl Renderer for Json {
    fn output(&mut self, node: NodeId, stream: Stream, bytes: &[u8], out: &mut Writer) -> Fate {
        let Self { lines, layout } = self;
        lines.feed(node, stream, bytes, |line| {
            layout.line(node, stream, &line, out);
        });
        Fate::Shown
    }

    fn end_of_output(&mut self, node: NodeId, out: &mut Writer) {
        let Self { lines, layout } = self;
        for stream in [Stream::Stdout, Stream::Stderr] {
            lines.end(node, stream, |line| layout.line(node, stream, &line, out));
        }
    }

    fn result(&mut self, node: NodeId, outcome: &Outcome, out: &mut Writer) {
        let label = &self.layout.labels[node.0];
        let (code, signal) = match &outcome.status {
            Status::Ok => (Some(0), None),
            Status::Exit(code) => (Some(*code), None),
            Status::Signal(name) => (None, Some(name.as_str())),
            _ => (None, None),
        };
        let end = End {
            stream: "result",
            node: &label.node,
            host: &label.given,
            status: status(&outcome.status),
            code,
            signal,
            duration_ms: u64::try_from(outcome.duration.as_millis()).unwrap_or(u64::MAX),
            body: summary::cause(outcome),
        };
        write_object(&mut out.stdout, &end);
    }

    fn log(&mut self, level: Level, text: &Tree, out: &mut Writer) {
        self.layout.log(level, text, out);
    }
}

impl Layout {
    fn line(&mut self, node: NodeId, stream: Stream, line: &Line<'_>, out: &mut Writer) {
        if self.is_verbose {
            self.log_line(node, stream, line, out);
        }
        let label = &self.labels[node.0];
        begin(
            out.buffer(stream),
            &Head {
                stream: name(stream),
                node: Some(&label.node),
                host: Some(&label.given),
            },
        );
        let mut is_text = true;
        line.pieces(|piece| {
            let text = String::from_utf8_lossy(piece);
            is_text &= matches!(text, Cow::Borrowed(_));
            write_text(out.buffer(stream), &text);
            out.flush_if_full();
        });
        let end = String::from_utf8_lossy(line.end());
        write_text(out.buffer(stream), &end);
        if !is_text {
            write_base64(stream, line, out);
        }
        finish(out.buffer(stream));
        if line.short().is_none() {
            out.flush_now();
        }
    }

    /// Renders a line of a host as a log line, for `-v`.
    fn log_line(&mut self, node: NodeId, stream: Stream, line: &Line<'_>, out: &mut Writer) {
        begin(&mut out.stderr, &LOG);
        let text = self.logs.flat_line(&self.labels[node.0], stream);
        write_text(&mut out.stderr, &text);
        line.pieces(|piece| {
            write_text(&mut out.stderr, &String::from_utf8_lossy(piece));
            out.flush_if_full();
        });
        finish(&mut out.stderr);
        if line.short().is_none() {
            out.flush_now();
        }
    }

    fn log(&mut self, level: Level, text: &Tree, out: &mut Writer) {
        begin(&mut out.stderr, &LOG);
        write_text(&mut out.stderr, &self.logs.flat(level, text));
        finish(&mut out.stderr);
    }
}

/// The beginning of the object with a log line.
const LOG: Head<'static> = Head {
    stream: "stderr",
    node: None,
    host: None,
};

fn name(stream: Stream) -> &'static str {
    match stream {
        Stream::Stdout => "stdout",
        Stream::Stderr => "stderr",
    }
}

/// Appends an object up to the opening quote of its body.
fn begin(out: &mut Vec<u8>, head: &Head<'_>) {
    write_object(out, head);
    let end = "}\n";
    out.truncate(out.len() - end.len());
    out.extend_from_slice(b",\"body\":\"");
}

/// Appends the end of an object after its last text.
fn finish(out: &mut Vec<u8>) {
    out.extend_from_slice(b"\"}\n");
}

/// Appends a piece of a text, escaped, without quotes.
fn write_text(out: &mut Vec<u8>, text: &str) {
    let mut serializer =
        serde_json::Serializer::with_formatter(out, SafeFormatter { has_quotes: false });
    text.serialize(&mut serializer)
        .expect("text is written to memory");
}

/// Appends the exact bytes of a line that is not valid UTF-8, after its body.
fn write_base64(stream: Stream, line: &Line<'_>, out: &mut Writer) {
    out.buffer(stream)
        .extend_from_slice(b"\",\"body_base64\":\"");
    // Three bytes become four characters: up to two bytes wait for the next piece.
    let mut held = Vec::new();
    let mut text = String::new();
    line.pieces(|piece| {
        held.extend_from_slice(piece);
        let whole = held.len() - held.len() % 3;
        text.clear();
        BASE64_STANDARD.encode_string(&held[..whole], &mut text);
        held.drain(..whole);
        out.buffer(stream).extend_from_slice(text.as_bytes());
        out.flush_if_full();
    });
    held.extend_from_slice(line.end());
    let text = BASE64_STANDARD.encode(held);
    out.buffer(stream).extend_from_slice(text.as_bytes());
}

/// The `status` of a result.
fn status(status: &Status) -> &'static str {
    match status {
        Status::Ok => "ok",
        Status::Exit(_) => "exit",
        Status::Signal(_) => "signal",
        Status::Timeout => "timeout",
        Status::Connection | Status::Refused => "connection",
        Status::Unreachable => "unreachable",
        Status::Auth => "auth",
        Status::HostKey => "host-key",
        Status::Lock => "lock",
        Status::LockLost => "lock-lost",
        Status::Upload => "upload",
        Status::Cancelled => "cancelled",
    }
}

fn write_object(out: &mut Vec<u8>, object: &impl Serialize) {
    let mut serializer =
        serde_json::Serializer::with_formatter(&mut *out, SafeFormatter { has_quotes: true });
    object
        .serialize(&mut serializer)
        .expect("text, numbers and null are written to memory");
    out.push(b'\n');
}

/// Escapes control characters that JSON allows, so that a terminal obeys none.
struct SafeFormatter {
    /// Texts are quoted.
    has_quotes: bool,
}

impl Formatter for SafeFormatter {
    fn begin_string<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        let quote: &[u8] = if self.has_quotes { b"\"" } else { b"" };
        writer.write_all(quote)
    }

    fn end_string<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.begin_string(writer)
    }

    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        if fragment.is_ascii() && !fragment.contains('\x7f') {
            return writer.write_all(fragment.as_bytes());
        }
        let mut rest = fragment;
        while let Some(at) = rest.find(is_harmful) {
            writer.write_all(&rest.as_bytes()[..at])?;
            let mut characters = rest[at..].chars();
            if let Some(character) = characters.next() {
                write!(writer, "\\u{:04x}", u32::from(character))?;
            }
            rest = characters.as_str();
        }
        writer.write_all(rest.as_bytes())
    }
}

/// DEL, the C1 controls, and the marks that change the direction of text. JSON itself
/// escapes the C0 controls. Each has at most four hexadecimal digits.
fn is_harmful(character: char) -> bool {
    matches!(
        character,
        '\u{7f}'..='\u{9f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::renderer::Sink;
    use crate::output::theme::Theme;
    use proptest::prelude::*;
    use serde_json::{Value, json};
    use std::time::Duration;

    fn display(nodes: usize) -> Json {
        let label = |number| NodeLabel {
            prefix: format!("web{number}"),
            node: format!("[ops@web{number}:22]"),
            given: format!("ops@web{number}"),
        };
        let clock = Box::new(|| "2026-01-31 12:00:00".to_owned());
        let logs = Logs::new(Sink::default(), Theme::Default, None, clock);
        Json::new((1..=nodes).map(label).collect(), logs, false)
    }

    fn text(bytes: &[u8]) -> &str {
        std::str::from_utf8(bytes).expect("JSON is UTF-8")
    }

    fn objects(bytes: &[u8]) -> Vec<Value> {
        let lines = text(bytes).lines();
        lines
            .map(|line| serde_json::from_str(line).expect("each line is an object"))
            .collect()
    }

    #[test]
    fn a_line_is_an_object_on_its_stream() {
        let (mut json, mut out) = (display(2), Writer::in_memory());
        json.output(NodeId(1), Stream::Stdout, b"one\nt\"wo", &mut out);
        json.output(NodeId(0), Stream::Stderr, b"three\r\n", &mut out);
        json.end_of_output(NodeId(1), &mut out);
        assert_eq!(
            text(&out.stdout),
            concat!(
                r#"{"stream":"stdout","node":"[ops@web2:22]","host":"ops@web2","body":"one\n"}"#,
                "\n",
                r#"{"stream":"stdout","node":"[ops@web2:22]","host":"ops@web2","body":"t\"wo"}"#,
                "\n",
            )
        );
        assert_eq!(
            text(&out.stderr),
            concat!(
                r#"{"stream":"stderr","node":"[ops@web1:22]","host":"ops@web1","body":"three\r\n"}"#,
                "\n"
            )
        );
    }

    #[test]
    fn bytes_that_are_no_text_come_twice() {
        let (mut json, mut out) = (display(1), Writer::in_memory());
        json.output(NodeId(0), Stream::Stdout, b"a\xff\xfe\n", &mut out);
        let object = &objects(&out.stdout)[0];
        assert_eq!(object["body"], "a\u{fffd}\u{fffd}\n");
        assert_eq!(object["body_base64"], "Yf/+Cg==");
    }

    #[test]
    fn a_log_message_is_flat_and_belongs_to_no_host() {
        let (mut json, mut out) = (display(1), Writer::in_memory());
        let tree = Tree::new("a").because("b").because("c");
        json.log(Level::Fatal, &tree, &mut out);
        assert_eq!(
            text(&out.stderr),
            concat!(
                r#"{"stream":"stderr","node":null,"host":null,"#,
                r#""body":"2026-01-31 12:00:00 [FATAL] a: b; c"}"#,
                "\n"
            )
        );
        assert_eq!(out.stdout, b"");
    }

    #[test]
    fn a_result_says_how_a_host_ended() {
        let (mut json, mut out) = (display(1), Writer::in_memory());
        let ended = |status, reason: Option<&str>| Outcome {
            status,
            reason: reason.map(Tree::from),
            duration: Duration::from_millis(1234),
        };
        for outcome in [
            ended(Status::Exit(17), None),
            ended(Status::Signal("TERM".into()), None),
            ended(Status::Unreachable, Some("connection refused")),
        ] {
            json.result(NodeId(0), &outcome, &mut out);
        }
        let found = objects(&out.stdout);
        assert_eq!(
            found[0],
            json!({
                "stream": "result", "node": "[ops@web1:22]", "host": "ops@web1",
                "status": "exit", "code": 17, "signal": null,
                "duration_ms": 1234, "body": "exited with non-zero code 17",
            })
        );
        assert_eq!(
            (&found[1]["status"], &found[1]["signal"]),
            (&json!("signal"), &json!("TERM"))
        );
        assert_eq!(found[2]["status"], "unreachable");
        assert_eq!(found[2]["body"], "unreachable: connection refused");
        assert_eq!(found[2]["code"], Value::Null);
    }

    #[test]
    fn a_terminal_finds_nothing_to_obey() {
        let (mut json, mut out) = (display(1), Writer::in_memory());
        let hostile = "\x1b[2J\u{9b}2J\x7f\u{202e}ü\n";
        json.output(NodeId(0), Stream::Stdout, hostile.as_bytes(), &mut out);
        assert!(
            text(&out.stdout)
                .trim_end()
                .chars()
                .all(|c| !c.is_control() && c != '\u{202e}')
        );
        assert_eq!(objects(&out.stdout)[0]["body"], hostile);
    }

    #[test]
    fn a_thousand_hosts_that_talk_at_once_are_whole_objects() {
        let (mut json, mut out) = (display(1000), Writer::in_memory());
        for round in 0..20usize {
            for node in 0..1000 {
                let bytes = format!("{round}\nhalf \u{fc}");
                // Cut anywhere, a character too.
                let (first, second) = bytes.as_bytes().split_at((round * 7 + node) % bytes.len());
                json.output(NodeId(node), Stream::Stdout, first, &mut out);
                json.output(NodeId(node), Stream::Stdout, second, &mut out);
            }
        }
        let found = objects(&out.stdout);
        assert_eq!(found.len(), 20_000);
        for (number, object) in found.iter().enumerate() {
            let (round, node) = (number / 1000, number % 1000 + 1);
            let before = if round == 0 { "" } else { "half \u{fc}" };
            assert_eq!(object["body"], format!("{before}{round}\n"));
            assert_eq!(object["node"], format!("[ops@web{node}:22]"));
        }
    }

    proptest! {
        #[test]
        fn every_byte_can_be_had_back(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let (mut json, mut out) = (display(1), Writer::in_memory());
            json.output(NodeId(0), Stream::Stdout, &bytes, &mut out);
            json.end_of_output(NodeId(0), &mut out);
            let mut found = Vec::new();
            for object in objects(&out.stdout) {
                match object.get("body_base64") {
                    Some(base64) => {
                        found.extend(BASE64_STANDARD.decode(base64.as_str().unwrap()).unwrap());
                    }
                    None => found.extend_from_slice(object["body"].as_str().unwrap().as_bytes()),
                }
            }
            prop_assert_eq!(found, bytes);
        }
    }
}
