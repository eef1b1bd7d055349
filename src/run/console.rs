//! The ways to and from the user: the printer, its problems, and signals.

use std::io::{self, IsTerminal};
use std::sync::Arc;

use crossbeam_channel::{Receiver, after, bounded, select, unbounded};

use crate::config::{Config, OutputOptions};
use crate::deadlines::LAST_WORDS;
use crate::event::{Level, Log, NodeId, Outcome};
use crate::exit_status::ExitStatus;
use crate::output::bar_state::BarState;
use crate::output::pending_logs::PendingLogs;
use crate::output::printer;
use crate::output::screen::Screen;
use crate::output::{Display, Message, OutputError};
use crate::run::stop::Stop;
use crate::run::{displays, signals};

/// The ways to and from the user.
pub(super) struct Console {
    pub(super) display: Display,
    pending_logs: PendingLogs,
    pub(super) output_problems: Receiver<OutputError>,
    pub(super) signals: Receiver<i32>,
}

impl Console {
    /// Starts the printer, and listens to signals.
    ///
    /// # Errors
    /// The system gives no thread, or no signal handler.
    pub(super) fn open(config: &Config) -> io::Result<Self> {
        let bar = Arc::new(BarState::default());
        let signals = signals::listen(Arc::clone(&bar))?;
        let display = displays::Displays::new(config);
        // Unbounded: nobody may ever wait for the printer. Output is bounded by
        // the nodes' credit, and everything else is said seldom.
        let (sender, messages) = unbounded();
        // Unbounded, for one thing that is said once.
        let (problems, output_problems) = unbounded();
        let pending_logs = PendingLogs::new(display.log_only(), messages.clone(), Arc::clone(&bar));
        let status = display
            .status_bar()
            .map(|status| (status, Arc::clone(&bar)));
        let shows_progress = status.is_some();
        if shows_progress {
            signals::clear_when_stopped(bar)?;
        }
        let screen = Screen::new(io::stdout().is_terminal(), status, problems.clone());
        let setup = printer::Setup {
            renderer: display.renderer(),
            screen,
            files: display.files(),
            nodes: config.targets.len(),
            wants_warnings: least_level(&config.output) <= Level::Warn,
            problems,
        };
        printer::start(setup, messages)?;
        Ok(Self {
            display: Display::new(sender, least_level(&config.output), shows_progress),
            pending_logs,
            output_problems,
            signals,
        })
    }

    /// The end of a run that did not begin.
    pub(super) fn close(&mut self, stop: Stop, hosts: usize) -> ExitStatus {
        for node in (0..hosts).map(NodeId) {
            let outcome = Outcome::cancelled();
            self.display.send(Message::Result { node, outcome });
        }
        match &stop {
            // Ctrl-C at a prompt needs no explanation.
            Stop::Signal(_) => {}
            _ => self.announce(&stop),
        }
        self.flush_briefly(Some(&stop));
        stop.status(ExitStatus::Success)
    }

    /// Waits until everything is written that has been said so far, but not for
    /// long: the run must end.
    pub(super) fn flush_briefly(&mut self, stop: Option<&Stop>) {
        let done = self.request_flush();
        select! {
            recv(done) -> _ => {}
            recv(after(LAST_WORDS)) -> _ => {
                // A reader that has gone away does not miss it.
                if !matches!(stop, Some(Stop::Output(_))) {
                    let warning = "the end of the output was not read in time, and is lost";
                    self.display.log(Level::Warn, warning.into());
                }
                self.pending_logs.write();
            }
        }
    }

    pub(super) fn announce(&self, stop: &Stop) {
        if let Some((level, text)) = stop.announcement() {
            self.display.log(level, text);
        }
    }

    /// Waits until everything is written that has been said so far.
    ///
    /// # Errors
    /// The output cannot be written, or a signal came.
    pub(super) fn flush(&self) -> Result<(), Stop> {
        let done = self.request_flush();
        select! {
            recv(done) -> _ => match self.output_problems.try_recv() {
                Ok(problem) => Err(Stop::Output(problem)),
                Err(_) => Ok(()),
            },
            recv(self.output_problems) -> problem => {
                Err(Stop::Output(problem.unwrap_or(OutputError::Closed)))
            }
            recv(self.signals) -> signal => Err(Stop::signal(signal)),
        }
    }

    fn request_flush(&self) -> Receiver<()> {
        let (sender, done) = bounded(1);
        self.display.send(Message::Flush(sender));
        done
    }
}

fn least_level(output: &OutputOptions) -> Level {
    match output.verbosity {
        _ if output.is_quiet => Level::Error,
        0 => Level::Info,
        1 => Level::Debug,
        _ => Level::Trace,
    }
}
