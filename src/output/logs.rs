//! Log lines: a time, a level, a text, and the tree of its causes below, laid out by a
//! template. In JSON they are flat.

use crate::error::Tree;
use crate::event::{Level, Stream};
use crate::output::lines::Line;
use crate::output::renderer::{Clock, NodeLabel, Sink};
use crate::output::sanitize::{Sanitizer, sanitize_into};
use crate::output::template::{Template, TemplateError, brush};
use crate::output::theme::Theme;
use crate::output::tree;
use crate::output::writer::Writer;

/// The keys of a template for log lines.
const KEYS: [&str; 3] = ["time", "level", "text"];

/// The template without `--log-format`.
const DEFAULT: &str = "{time} {level} {text}";

/// The layout of log lines.
pub(crate) struct Logs {
    sink: Sink,
    theme: Theme,
    /// The template up to the text.
    before: Template,
    /// Control sequences before and after each line of the text.
    brush: (String, String),
    /// The template after the text.
    after: Template,
    clock: Clock,
}

/// Parses `--log-format`.
///
/// # Errors
/// It is no template, or has no `{text}`.
pub(crate) fn template(text: &str) -> Result<Template, TemplateError> {
    Template::parse(text, &KEYS)?.requiring("text")
}

impl Logs {
    /// Log lines for this descriptor; `format` is the user's template.
    #[must_use]
    pub(crate) fn new(sink: Sink, theme: Theme, format: Option<&Template>, clock: Clock) -> Self {
        let format = format
            .cloned()
            .unwrap_or_else(|| template(DEFAULT).expect("the default is as templates have to be"));
        let (before, style, after) = format.split_at("text");
        let style = style.filter(|_| sink.is_colored);
        Self {
            sink,
            theme,
            before,
            brush: style.as_ref().map(brush).unwrap_or_default(),
            after,
            clock,
        }
    }

    /// Appends a log line with its causes below.
    pub(crate) fn render(&mut self, level: Level, text: &Tree, out: &mut Vec<u8>) {
        let time = (self.clock)();
        let lines = tree::lines(text);
        let first = lines.first().map_or("", String::as_str);
        let value = |key: &str| match key {
            "time" => (time.clone(), None),
            "level" => (tag(level), self.theme.level(level)),
            _ => (self.again(first), None),
        };
        let colored = self.sink.is_colored;
        let before = self.before.render(colored, value);
        let margin = " ".repeat(console::measure_text_width(&before));
        out.extend_from_slice(before.as_bytes());
        self.safe_into(out, first);
        out.extend_from_slice(self.after.render(colored, value).as_bytes());
        out.push(b'\n');
        for line in lines.iter().skip(1) {
            out.extend_from_slice(margin.as_bytes());
            self.safe_into(out, line);
            out.push(b'\n');
        }
    }

    /// Appends a line of a host as a debug message, for `-v`.
    pub(crate) fn line(
        &mut self,
        label: &NodeLabel,
        stream: Stream,
        line: &Line<'_>,
        out: &mut Writer,
    ) {
        let time = (self.clock)();
        let level = Level::Debug;
        let begin = of_line(label, stream);
        let value = |key: &str| match key {
            "time" => (time.clone(), None),
            "level" => (tag(level), self.theme.level(level)),
            _ => (self.again(&whole(&begin, line)), None),
        };
        let colored = self.sink.is_colored;
        let before = self.before.render(colored, value);
        out.stderr.extend_from_slice(before.as_bytes());
        let (open, close) = &self.brush;
        out.stderr.extend_from_slice(open.as_bytes());
        out.stderr.extend_from_slice(begin.as_bytes());
        let mut sanitizer = Sanitizer::default();
        line.pieces(|piece| {
            let text = String::from_utf8_lossy(piece);
            if self.sink.is_terminal {
                sanitizer.piece(&mut out.stderr, text.as_bytes());
            } else {
                out.stderr.extend_from_slice(text.as_bytes());
            }
            out.flush_if_full();
        });
        sanitizer.end(&mut out.stderr);
        out.stderr.extend_from_slice(close.as_bytes());
        let after = self.after.render(colored, value);
        out.stderr.extend_from_slice(after.as_bytes());
        out.stderr.push(b'\n');
        if line.short().is_none() {
            out.flush_now();
        }
    }

    /// The beginning of that debug message without colours; the line of the host follows.
    pub(crate) fn flat_line(&mut self, label: &NodeLabel, stream: Stream) -> String {
        self.flat(Level::Debug, &of_line(label, stream).into())
    }

    /// A log line with its causes on one line, without colours.
    pub(crate) fn flat(&mut self, level: Level, text: &Tree) -> String {
        format!("{} {} {}", (self.clock)(), tag(level), text.flat())
    }

    /// The text, for a template that has it twice.
    fn again(&self, text: &str) -> String {
        let mut out = Vec::new();
        if self.sink.is_terminal {
            sanitize_into(&mut out, text.as_bytes());
        } else {
            out.extend_from_slice(text.as_bytes());
        }
        String::from_utf8_lossy(&out).into_owned()
    }

    /// Appends a line of the text in its style. It is escaped, because errors quote hosts.
    fn safe_into(&self, out: &mut Vec<u8>, text: &str) {
        let (open, close) = &self.brush;
        out.extend_from_slice(open.as_bytes());
        if self.sink.is_terminal {
            sanitize_into(out, text.as_bytes());
        } else {
            out.extend_from_slice(text.as_bytes());
        }
        out.extend_from_slice(close.as_bytes());
    }
}

/// The whole text of a debug message about a line of a host.
fn whole(begin: &str, line: &Line<'_>) -> String {
    let mut text = begin.to_owned();
    line.pieces(|piece| text.push_str(&String::from_utf8_lossy(piece)));
    text
}

/// The beginning of a debug message about a line of a host.
fn of_line(label: &NodeLabel, stream: Stream) -> String {
    format!("{{cmd}} <{stream}> {} ", label.node)
}

/// A level, right-aligned: ` [WARN]`.
fn tag(level: Level) -> String {
    format!("{:>7}", format!("[{}]", level.name()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(format: Option<&str>, sink: Sink, level: Level, text: &Tree) -> String {
        let format = format.map(|format| template(format).unwrap());
        let clock = Box::new(|| "2026-01-31 12:00:00".to_owned());
        let mut logs = Logs::new(sink, Theme::Default, format.as_ref(), clock);
        let mut out = Vec::new();
        logs.render(level, text, &mut out);
        String::from_utf8(out).unwrap()
    }

    const PIPE: Sink = Sink {
        is_terminal: false,
        is_colored: false,
    };

    #[test]
    fn levels_are_aligned_to_the_right() {
        let line = rendered(None, PIPE, Level::Warn, &"careful".into());
        assert_eq!(line, "2026-01-31 12:00:00  [WARN] careful\n");
    }

    #[test]
    fn causes_are_branches_below_the_text() {
        let tree = Tree::new("connecting to cluster failed").because(
            Tree::new("connection to 2 of 40 nodes failed")
                .because(
                    Tree::new("can't connect to address: [ops@db7:22]")
                        .because("connection refused"),
                )
                .because("two\nlines"),
        );
        let expected = "\
2026-01-31 12:00:00 [FATAL] connecting to cluster failed
                            └─ connection to 2 of 40 nodes failed
                               ├─ can't connect to address: [ops@db7:22]
                               │  └─ connection refused
                               └─ two
                                  lines
";
        assert_eq!(rendered(None, PIPE, Level::Fatal, &tree), expected);
    }

    #[test]
    fn a_template_moves_the_margin_with_it() {
        let tree = Tree::new("a").because("b");
        let line = rendered(Some("{level:blue} > {text} <"), PIPE, Level::Info, &tree);
        assert_eq!(line, " [INFO] > a <\n          └─ b\n");
        assert!(template("{time}").is_err());
    }

    #[test]
    fn the_text_has_the_style_that_the_template_gives_it() {
        let format = Some("{level:blue} {text:red}.");
        let tree = Tree::new("a").because("b");
        let colored = Sink {
            is_terminal: false,
            is_colored: true,
        };
        let margin = " ".repeat(8);
        assert_eq!(
            rendered(format, colored, Level::Info, &tree),
            format!(" \x1b[34m[INFO]\x1b[0m \x1b[31ma\x1b[0m.\n{margin}\x1b[31m└─ b\x1b[0m\n")
        );
        let plain = rendered(format, PIPE, Level::Info, &tree);
        assert_eq!(plain, format!(" [INFO] a.\n{margin}└─ b\n"));
    }

    #[test]
    fn a_text_that_comes_twice_is_harmless_twice() {
        let terminal = Sink {
            is_terminal: true,
            is_colored: false,
        };
        let line = rendered(
            Some("{text}|{text}"),
            terminal,
            Level::Info,
            &"a\x1b[2J".into(),
        );
        assert_eq!(line, "a^[[2J|a^[[2J\n");
    }

    #[test]
    fn a_terminal_gets_colours_and_nothing_harmful() {
        let sink = Sink {
            is_terminal: true,
            is_colored: true,
        };
        let tree = Tree::new("a\x1b[2Jb").because("c\rd");
        let line = rendered(None, sink, Level::Warn, &tree);
        let margin = " ".repeat(28);
        assert_eq!(
            line,
            format!("2026-01-31 12:00:00  \x1b[35m[WARN]\x1b[0m a^[[2Jb\n{margin}└─ c^Md\n")
        );
    }
}
