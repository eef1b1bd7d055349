//! Questions to the user, on the terminal, wherever stdin and stdout go.
//!
//! A question is read in a thread of its own, so that a signal that comes
//! meanwhile reaches main: it puts the terminal back into order and ends.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::sync::Arc;
use std::thread;

use crossbeam_channel::{Receiver, bounded, select};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use crate::ssh::auth::Secret;

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum NoAnswer {
    /// There is nobody to ask.
    NoTerminal,
    /// The run is to end.
    Signal(i32),
    /// The terminal cannot be read.
    Failed(io::Error),
}

/// Whether there is anybody to ask.
#[must_use]
pub(super) fn is_there() -> bool {
    open().is_ok()
}

/// Asks for a secret, which is not shown.
///
/// # Errors
/// See [`NoAnswer`].
pub(super) fn ask_secret(prompt: &str, signals: &Receiver<i32>) -> Result<Secret, NoAnswer> {
    let prompt = prompt.to_owned();
    ask(signals, move |_| {
        rpassword::prompt_password(prompt).map(|secret| Arc::new(Zeroizing::new(secret)))
    })
}

/// Asks a question until the answer is yes or no.
///
/// # Errors
/// See [`NoAnswer`].
pub(super) fn ask_yes_or_no(question: &str, signals: &Receiver<i32>) -> Result<bool, NoAnswer> {
    let mut question = question.to_owned();
    ask(signals, move |mut terminal| {
        let mut lines = BufReader::new(terminal.try_clone()?);
        loop {
            terminal.write_all(question.as_bytes())?;
            let mut line = String::new();
            if lines.read_line(&mut line)? == 0 {
                return Ok(false);
            }
            match line.trim().to_lowercase().as_str() {
                "yes" => return Ok(true),
                "no" => return Ok(false),
                _ => question = "Please type 'yes' or 'no': ".to_owned(),
            }
        }
    })
}

fn open() -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open("/dev/tty")
}

fn ask<T: Send + 'static>(
    signals: &Receiver<i32>,
    question: impl FnOnce(File) -> io::Result<T> + Send + 'static,
) -> Result<T, NoAnswer> {
    let terminal = open().map_err(|_| NoAnswer::NoTerminal)?;
    let before = tcgetattr(&terminal).map_err(|error| NoAnswer::Failed(error.into()))?;
    let for_thread = terminal.try_clone().map_err(NoAnswer::Failed)?;
    let (sender, answers) = bounded(1);
    thread::Builder::new()
        .name("question".into())
        .spawn(move || sender.send(question(for_thread)))
        .map_err(NoAnswer::Failed)?;
    let restore = || {
        // Nothing can be done about a terminal that has gone.
        let _ = tcsetattr(&terminal, OptionalActions::Now, &before);
        let _ = (&terminal).write_all(b"\n");
    };
    select! {
        recv(answers) -> answer => match answer {
            Ok(Ok(answer)) => Ok(answer),
            // Ctrl-C arrives as an interrupted read, and as a signal.
            Ok(Err(error)) => match signals.try_recv() {
                Ok(signal) => {
                    restore();
                    Err(NoAnswer::Signal(signal))
                }
                Err(_) => Err(NoAnswer::Failed(error)),
            },
            Err(_) => Err(NoAnswer::NoTerminal),
        },
        recv(signals) -> signal => {
            restore();
            Err(NoAnswer::Signal(signal.unwrap_or(signal_hook::consts::SIGTERM)))
        }
    }
}
