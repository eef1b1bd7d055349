//! The display for machines (`--json`): one JSON object a line.
//!
//! A pure renderer. Lines of hosts and their results are objects on the stream
//! that they belong to, log messages are objects on stderr.

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
use crate::output::{Fate, Label, Renderer, Sinks, summary};

/// The renderer.
pub struct Json {
    lines: Lines,
    writer: Writer,
}

struct Writer {
    labels: Vec<Label>,
    logs: Logs,
    verbose: bool,
}

/// What every line of a host and every log message begins with; its body follows.
#[derive(Serialize)]
struct Head<'a> {
    stream: &'a str,
    node: Option<&'a str>,
    host: Option<&'a str>,
}

/// How a host ended.
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
    /// A display for these nodes; `verbose` tells each line as a debug message
    /// too.
    #[must_use]
    pub fn new(labels: Vec<Label>, logs: Logs, verbose: bool) -> Self {
        Self {
            // The body says whether the host sent a line's end.
            lines: Lines::new(labels.len(), b""),
            writer: Writer {
                labels,
                logs,
                verbose,
            },
        }
    }
}

impl Renderer for Json {
    fn output(&mut self, node: NodeId, stream: Stream, bytes: &[u8], out: &mut Sinks) -> Fate {
        let Self { lines, writer } = self;
        lines.feed(node, stream, bytes, |line| {
            writer.line(node, stream, &line, out);
        });
        Fate::Shown
    }

    fn end_of_output(&mut self, node: NodeId, out: &mut Sinks) {
        let Self { lines, writer } = self;
        for stream in [Stream::Stdout, Stream::Stderr] {
            lines.end(node, stream, |line| writer.line(node, stream, &line, out));
        }
    }

    fn result(&mut self, node: NodeId, outcome: &Outcome, out: &mut Sinks) {
        let label = &self.writer.labels[node.0];
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

    fn log(&mut self, level: Level, text: &Tree, out: &mut Sinks) {
        self.writer.log(level, text, out);
    }
}

impl Writer {
    fn line(&mut self, node: NodeId, stream: Stream, line: &Line<'_>, out: &mut Sinks) {
        if self.verbose {
            self.log_line(node, stream, line, out);
        }
        let label = &self.labels[node.0];
        begin(
            out.of(stream),
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
            write_text(out.of(stream), &text);
            out.go_on();
        });
        let end = String::from_utf8_lossy(line.end());
        write_text(out.of(stream), &end);
        if !is_text {
            write_base64(stream, line, out);
        }
        finish(out.of(stream));
        if line.short().is_none() {
            out.empty();
        }
    }

    /// What `-v` says of a line.
    fn log_line(&mut self, node: NodeId, stream: Stream, line: &Line<'_>, out: &mut Sinks) {
        begin(&mut out.stderr, &LOG);
        let text = self.logs.flat_line(&self.labels[node.0], stream);
        write_text(&mut out.stderr, &text);
        line.pieces(|piece| {
            write_text(&mut out.stderr, &String::from_utf8_lossy(piece));
            out.go_on();
        });
        finish(&mut out.stderr);
        if line.short().is_none() {
            out.empty();
        }
    }

    fn log(&mut self, level: Level, text: &Tree, out: &mut Sinks) {
        begin(&mut out.stderr, &LOG);
        write_text(&mut out.stderr, &self.logs.flat(level, text));
        finish(&mut out.stderr);
    }
}

/// The beginning of a log message.
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

/// The beginning of an object up to the text in its body.
fn begin(out: &mut Vec<u8>, head: &Head<'_>) {
    write_object(out, head);
    let end = "}\n";
    out.truncate(out.len() - end.len());
    out.extend_from_slice(b",\"body\":\"");
}

/// Its end after that text.
fn finish(out: &mut Vec<u8>) {
    out.extend_from_slice(b"\"}\n");
}

/// A piece of a text, without quotes around it.
fn write_text(out: &mut Vec<u8>, text: &str) {
    let mut serializer =
        serde_json::Serializer::with_formatter(out, Harmless { has_quotes: false });
    text.serialize(&mut serializer)
        .expect("text is written to memory");
}

/// The exact bytes of a line that is no text, after its body.
fn write_base64(stream: Stream, line: &Line<'_>, out: &mut Sinks) {
    out.of(stream).extend_from_slice(b"\",\"body_base64\":\"");
    // Three bytes become four characters, so a few wait for what follows.
    let mut held = Vec::new();
    let mut text = String::new();
    line.pieces(|piece| {
        held.extend_from_slice(piece);
        let whole = held.len() - held.len() % 3;
        text.clear();
        BASE64_STANDARD.encode_string(&held[..whole], &mut text);
        held.drain(..whole);
        out.of(stream).extend_from_slice(text.as_bytes());
        out.go_on();
    });
    held.extend_from_slice(line.end());
    let text = BASE64_STANDARD.encode(held);
    out.of(stream).extend_from_slice(text.as_bytes());
}

/// The name of an end for whoever reads results.
fn status(status: &Status) -> &'static str {
    match status {
        Status::Ok => "ok",
        Status::Exit(_) => "exit",
        Status::Signal(_) => "signal",
        Status::Timeout => "timeout",
        // It let us in, and that was of no use.
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
        serde_json::Serializer::with_formatter(&mut *out, Harmless { has_quotes: true });
    object
        .serialize(&mut serializer)
        .expect("text, numbers and null are written to memory");
    out.push(b'\n');
}

/// JSON that no terminal takes for control characters: it escapes more of them
/// than JSON has to.
struct Harmless {
    /// Whether there are any around texts.
    has_quotes: bool,
}

impl Formatter for Harmless {
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

/// Control characters beyond those that JSON escapes, and those that turn the
/// direction of writing. All have four hexadecimal digits at most.
fn is_harmful(character: char) -> bool {
    matches!(
        character,
        '\u{7f}'..='\u{9f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::Sink;
    use crate::output::theme::Theme;
    use proptest::prelude::*;
    use serde_json::{Value, json};
    use std::time::Duration;

    fn display(nodes: usize) -> Json {
        let label = |number| Label {
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
        let (mut json, mut out) = (display(2), Sinks::default());
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
        let (mut json, mut out) = (display(1), Sinks::default());
        json.output(NodeId(0), Stream::Stdout, b"a\xff\xfe\n", &mut out);
        let object = &objects(&out.stdout)[0];
        assert_eq!(object["body"], "a\u{fffd}\u{fffd}\n");
        assert_eq!(object["body_base64"], "Yf/+Cg==");
    }

    #[test]
    fn a_log_message_is_flat_and_belongs_to_no_host() {
        let (mut json, mut out) = (display(1), Sinks::default());
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
        let (mut json, mut out) = (display(1), Sinks::default());
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
        let (mut json, mut out) = (display(1), Sinks::default());
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
        let (mut json, mut out) = (display(1000), Sinks::default());
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
            let (mut json, mut out) = (display(1), Sinks::default());
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
