//! Makes the display that a configuration asks for, for this process's stdout and stderr.

use std::io::{self, IsTerminal};

use crate::config::{Color, Config, DisplayMode, Mode, OutputOptions};
use crate::output::descriptors::is_one_file;
use crate::output::files::Files;
use crate::output::folded::Folded;
use crate::output::grouped::Grouped;
use crate::output::json::Json;
use crate::output::logs::Logs;
use crate::output::renderer::{NodeLabel, Renderer, Sink};
use crate::output::status::StatusBar;
use crate::output::text::{Text, TextOptions};

/// Makes displays and what goes with them.
pub(super) struct Displays<'a> {
    config: &'a Config,
    text_options: TextOptions,
    labels: Vec<NodeLabel>,
}

impl<'a> Displays<'a> {
    pub(super) fn new(config: &'a Config) -> Self {
        let labels = config.targets.iter().map(|target| NodeLabel {
            prefix: target.prefix.clone(),
            node: target.node(),
            given: target.given.clone(),
        });
        Self {
            config,
            text_options: text_options(config),
            labels: labels.collect(),
        }
    }

    fn output(&self) -> &OutputOptions {
        &self.config.output
    }

    fn logs(&self) -> Logs {
        let clock = || jiff::ZonedDateTime::now().strftime("%F %T").to_string();
        let output = self.output();
        let format = output.log_format.as_ref();
        Logs::new(
            self.text_options.stderr,
            output.theme,
            format,
            Box::new(clock),
        )
    }

    fn text(&self, labels: Vec<NodeLabel>) -> Text {
        Text::new(self.text_options, labels, self.logs())
    }

    /// The display of the run.
    pub(super) fn renderer(&self) -> Box<dyn Renderer> {
        let labels = self.labels.clone();
        match self.output().mode {
            DisplayMode::Text => Box::new(self.text(labels)),
            DisplayMode::Grouped => Box::new(Grouped::new(self.text(labels), self.labels.len())),
            DisplayMode::Folded { wants_diff } => Box::new(Folded::new(
                self.text_options,
                wants_diff,
                is_one_file(),
                labels,
                self.logs(),
            )),
            DisplayMode::Json => {
                Box::new(Json::new(labels, self.logs(), self.text_options.is_verbose))
            }
        }
    }

    /// A display for log lines only.
    pub(super) fn log_only(&self) -> Box<dyn Renderer> {
        match self.output().mode {
            DisplayMode::Json => Box::new(Json::new(Vec::new(), self.logs(), false)),
            _ => Box::new(self.text(Vec::new())),
        }
    }

    /// The status bar, if stderr is a terminal that can show one.
    pub(super) fn status_bar(&self) -> Option<StatusBar> {
        let output = self.output();
        let is_wanted = !output.is_quiet
            && output.mode != DisplayMode::Json
            && !self.config.mode.is_interactive()
            && !self.text_options.is_passthrough;
        let sink = self.text_options.stderr;
        // A dumb terminal has no sequence to erase the bar with.
        if !is_wanted || !sink.is_terminal || is_dumb() {
            return None;
        }
        let format = output.bar_format.as_ref();
        Some(StatusBar::new(output.theme, sink.is_colored, format))
    }

    /// The files of `--output-dir`.
    pub(super) fn files(&self) -> Option<Files> {
        let directory = self.output().directory.as_ref()?;
        Some(Files::new(directory, &self.labels))
    }
}

fn text_options(config: &Config) -> TextOptions {
    let output = &config.output;
    let sink = |is_terminal| Sink {
        is_terminal,
        is_colored: match output.color {
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
    // The output of a single host, without prefixes and escapes, needs no lines.
    let is_bare = output.is_quiet && (output.is_raw || !(stdout.is_terminal || stderr.is_terminal));
    TextOptions {
        is_quiet: output.is_quiet,
        is_verbose: output.verbosity > 0,
        is_passthrough: (has_terminal || is_bare) && config.targets.len() == 1,
        is_raw: output.is_raw,
        stdout,
        stderr,
        theme: output.theme,
    }
}

/// Whether the environment allows colours (<https://no-color.org>).
fn wants_color() -> bool {
    let is_off = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    !is_off && !is_dumb()
}

fn is_dumb() -> bool {
    std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb")
}
