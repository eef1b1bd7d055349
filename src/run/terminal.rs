//! Questions to the user, on the terminal, wherever stdin and stdout go.
//!
//! A question is read in a thread of its own, so that a signal that comes
//! meanwhile reaches main: it puts the terminal back into order and ends. Main
//! alone changes the terminal's settings, so that nobody can undo the last word.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded, select};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use crate::ssh::auth::Secret;

/// More than a terminal keeps of a line that is being typed.
const LONGEST_LINE: usize = 8192;

/// How long a signal may take from where it arrives to the main thread.
const SIGNAL_IS_DUE: Duration = Duration::from_millis(500);

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
    ask(signals, Typing::Hidden, move |mut terminal| {
        terminal.write_all(prompt.as_bytes())?;
        read_secret(terminal)
    })
}

/// Reads a line that leaves nothing behind in memory.
fn read_secret(mut terminal: impl Read) -> io::Result<Secret> {
    // Of one size from the beginning: a buffer that grows leaves copies behind.
    let mut line = Zeroizing::new(vec![0; LONGEST_LINE]);
    let mut length = 0;
    while !line[..length].ends_with(b"\n") {
        match terminal.read(&mut line[length..]) {
            Ok(0) => {
                return Err(io::Error::new(
                    ErrorKind::UnexpectedEof,
                    "nothing was typed",
                ));
            }
            Ok(count) => length += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let typed = &line[..length - 1];
    let typed = typed.strip_suffix(b"\r").unwrap_or(typed);
    match std::str::from_utf8(typed) {
        Ok(text) => Ok(Arc::new(Zeroizing::new(text.to_owned()))),
        Err(_) => Err(io::Error::new(
            ErrorKind::InvalidData,
            "what was typed is not UTF-8",
        )),
    }
}

/// Asks a question until the answer is yes or no.
///
/// # Errors
/// See [`NoAnswer`].
pub(super) fn ask_yes_or_no(question: &str, signals: &Receiver<i32>) -> Result<bool, NoAnswer> {
    let mut question = question.to_owned();
    ask(signals, Typing::Shown, move |mut terminal| {
        let mut lines = BufReader::new(terminal.try_clone()?);
        loop {
            terminal.write_all(question.as_bytes())?;
            let mut line = String::new();
            if lines.read_line(&mut line)? == 0 {
                terminal.write_all(b"\n")?;
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

/// Whether the terminal shows what is typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Typing {
    Shown,
    /// All but the line end.
    Hidden,
}

fn ask<T: Send + 'static>(
    signals: &Receiver<i32>,
    typing: Typing,
    question: impl FnOnce(File) -> io::Result<T> + Send + 'static,
) -> Result<T, NoAnswer> {
    let failed = |error: io::Error| NoAnswer::Failed(error);
    let terminal = open().map_err(|_| NoAnswer::NoTerminal)?;
    let before = tcgetattr(&terminal).map_err(|error| failed(error.into()))?;
    let for_thread = terminal.try_clone().map_err(failed)?;
    if typing == Typing::Hidden {
        // Before the prompt: whoever waits for it may type at once.
        set(&terminal, OptionalActions::Now, &hidden(&before)).map_err(failed)?;
    }
    let (sender, answers) = bounded(1);
    let asking = thread::Builder::new()
        .name("question".into())
        .spawn(move || sender.send(question(for_thread)));
    let answer = match asking {
        Ok(_) => wait(&answers, signals),
        Err(error) => Err(failed(error)),
    };
    // Nothing can be done about a terminal that has gone.
    if answer.is_ok() {
        let _ = set(&terminal, OptionalActions::Now, &before);
    } else {
        // Half a password is not for the shell that reads next.
        let _ = set(&terminal, OptionalActions::Flush, &before);
        let _ = (&terminal).write_all(b"\n");
    }
    answer
}

fn wait<T>(answers: &Receiver<io::Result<T>>, signals: &Receiver<i32>) -> Result<T, NoAnswer> {
    select! {
        recv(answers) -> answer => match answer {
            Ok(Ok(answer)) => Ok(answer),
            // A terminal that is closed is an error here, and a signal, which has
            // to come through a thread.
            Ok(Err(error)) => Err(signals
                .recv_timeout(SIGNAL_IS_DUE)
                .map_or(NoAnswer::Failed(error), NoAnswer::Signal)),
            Err(_) => Err(NoAnswer::NoTerminal),
        },
        recv(signals) -> signal => {
            Err(NoAnswer::Signal(signal.unwrap_or(signal_hook::consts::SIGTERM)))
        }
    }
}

fn hidden(settings: &Termios) -> Termios {
    let mut hidden = settings.clone();
    hidden.local_modes.remove(LocalModes::ECHO);
    hidden.local_modes.insert(LocalModes::ECHONL);
    hidden
}

fn set(terminal: &File, when: OptionalActions, settings: &Termios) -> io::Result<()> {
    Ok(tcsetattr(terminal, when, settings)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(bytes: &[u8]) -> io::Result<String> {
        read_secret(bytes).map(|secret| secret.to_string())
    }

    #[test]
    fn a_secret_is_all_of_its_line() {
        assert_eq!(typed(b" s3cret \tx \n").unwrap(), " s3cret \tx ");
        assert_eq!(typed(b"s3cret\r\n").unwrap(), "s3cret");
        assert_eq!(typed(b"\n").unwrap(), "");
        let halves = (&b"one"[..]).chain(&b"two\n"[..]);
        assert_eq!(**read_secret(halves).unwrap(), "onetwo");
    }

    #[test]
    fn end_of_file_is_no_empty_secret() {
        assert!(typed(b"").is_err());
        assert!(typed(b"half").is_err());
        assert!(typed(&[b'x'; LONGEST_LINE + 1]).is_err());
        assert!(typed(b"\xff\n").is_err());
    }
}
