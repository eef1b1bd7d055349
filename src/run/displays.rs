//! The displays that a configuration asks for, for this process's stdout and
//! stderr.

use std::io::{self, IsTerminal};

use crate::config::{Color, Config, Form, Look, Mode};
use crate::output::files::Files;
use crate::output::folded::Folded;
use crate::output::grouped::Grouped;
use crate::output::json::Json;
use crate::output::logs::Logs;
use crate::output::screen::is_one_file;
use crate::output::status::StatusBar;
use crate::output::text::{Options, Text};
use crate::output::{Label, Renderer, Sink};

/// Makes displays.
pub(super) struct Displays<'a> {
    config: &'a Config,
    options: Options,
    labels: Vec<Label>,
}

impl<'a> Displays<'a> {
    pub(super) fn new(config: &'a Config) -> Self {
        let labels = config.targets.iter().map(|target| Label {
            prefix: target.prefix.clone(),
            node: target.node(),
            given: target.given.clone(),
        });
        Self {
            config,
            options: options(config),
            labels: labels.collect(),
        }
    }

    fn look(&self) -> &Look {
        &self.config.look
    }

    fn logs(&self) -> Logs {
        let clock = || jiff::ZonedDateTime::now().strftime("%F %T").to_string();
        let look = self.look();
        let format = look.log_format.as_ref();
        Logs::new(self.options.stderr, look.theme, format, Box::new(clock))
    }

    fn text(&self, labels: Vec<Label>) -> Text {
        Text::new(self.options, labels, self.logs())
    }

    /// The display of the run.
    pub(super) fn renderer(&self) -> Box<dyn Renderer> {
        let labels = self.labels.clone();
        match self.look().form {
            Form::Text => Box::new(self.text(labels)),
            Form::Grouped => Box::new(Grouped::new(self.text(labels), self.labels.len())),
            Form::Folded { diff } => Box::new(Folded::new(
                self.options,
                diff,
                is_one_file(),
                labels,
                self.logs(),
            )),
            Form::Json => Box::new(Json::new(labels, self.logs(), self.options.verbose)),
        }
    }

    /// One that says nothing for hosts, and needs no names.
    pub(super) fn log_only(&self) -> Box<dyn Renderer> {
        match self.look().form {
            Form::Json => Box::new(Json::new(Vec::new(), self.logs(), false)),
            _ => Box::new(self.text(Vec::new())),
        }
    }

    /// The status bar, where there is a place for one.
    pub(super) fn status_bar(&self) -> Option<StatusBar> {
        let look = self.look();
        let is_wanted = !look.quiet
            && look.form != Form::Json
            && !self.config.mode.is_interactive()
            && !self.options.passthrough;
        let sink = self.options.stderr;
        // One that knows no control sequences could not take it away.
        if !is_wanted || !sink.is_terminal || is_dumb() {
            return None;
        }
        let format = look.bar_format.as_ref();
        Some(StatusBar::new(look.theme, sink.colored, format))
    }

    /// The files of `--output-dir`.
    pub(super) fn files(&self) -> Option<Files> {
        let directory = self.look().directory.as_ref()?;
        Some(Files::new(directory, &self.labels))
    }
}

fn options(config: &Config) -> Options {
    let look = &config.look;
    let sink = |is_terminal| Sink {
        is_terminal,
        colored: match look.color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => is_terminal && wants_color(),
        },
    };
    let has_terminal = matches!(&config.mode, Mode::Command(command) if command.terminal);
    let (stdout, stderr) = (
        sink(io::stdout().is_terminal()),
        sink(io::stderr().is_terminal()),
    );
    // The bare bytes of a single host: there is nothing to keep apart, and no
    // terminal to protect.
    let is_bare = look.quiet && (look.raw || !(stdout.is_terminal || stderr.is_terminal));
    Options {
        quiet: look.quiet,
        verbose: look.verbose > 0,
        passthrough: (has_terminal || is_bare) && config.targets.len() == 1,
        raw: look.raw,
        stdout,
        stderr,
        theme: look.theme,
    }
}

/// What the environment says: <https://no-color.org>, and terminals that know no
/// colours.
fn wants_color() -> bool {
    let is_off = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    !is_off && !is_dumb()
}

fn is_dumb() -> bool {
    std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb")
}
