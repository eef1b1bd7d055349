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

/// Reads a line. rpassword reads from a reader, so that it neither opens nor changes
/// the terminal: that is main's part.
fn read_secret(terminal: impl Read + 'static) -> io::Result<Secret> {
    let config = rpassword::ConfigBuilder::new()
        .input_reader(Line {
            terminal,
            length: 0,
            last: 0,
        })
        .output_discard()
        .build();
    let secret = Zeroizing::new(rpassword::read_password_with_config(config)?);
    // rpassword puts this in the place of what is not UTF-8.
    if secret.contains(char::REPLACEMENT_CHARACTER) {
        return Err(invalid("what was typed is not UTF-8"));
    }
    Ok(Arc::new(secret))
}

/// The bytes of one line. What rpassword would silently make another secret of is an
/// error.
struct Line<R> {
    terminal: R,
    length: usize,
    last: u8,
}

impl<R: Read> Read for Line<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(place) = buffer.first_mut() else {
            return Ok(0);
        };
        // rpassword asks for more where the line ends within a character.
        if matches!(self.last, b'\n' | b'\r') {
            return Ok(0);
        }
        let mut byte = [0];
        if let Err(error) = self.terminal.read_exact(&mut byte) {
            return Err(match error.kind() {
                // rpassword takes this kind for the end of the line.
                ErrorKind::UnexpectedEof => io::Error::other("nothing was typed"),
                _ => error,
            });
        }
        let [byte] = byte;
        let is_control = match byte {
            b'\n' | b'\r' => false,
            0x80..=0x9f => self.last == 0xc2, // U+0080 to U+009F
            byte => byte.is_ascii_control(),
        };
        if is_control {
            // rpassword drops them, or edits the line as they say.
            return Err(invalid("what was typed holds a control character"));
        }
        self.length += 1;
        if self.length > LONGEST_LINE {
            return Err(invalid("what was typed is too long"));
        }
        self.last = byte;
        *place = byte;
        Ok(1)
    }
}

fn invalid(why: &'static str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, why)
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

    fn typed(bytes: &'static [u8]) -> io::Result<String> {
        read_secret(bytes).map(|secret| secret.to_string())
    }

    #[test]
    fn a_secret_is_all_of_its_line() {
        assert_eq!(typed(b" s3cret  x \n").unwrap(), " s3cret  x ");
        assert_eq!(
            typed("gr\u{fc}\u{df}e\u{1f600}\n".as_bytes()).unwrap(),
            "gr\u{fc}\u{df}e\u{1f600}"
        );
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
    }

    #[test]
    fn what_would_become_another_secret_is_refused() {
        for line in [
            &b"\xff\n"[..],
            b"gr\xc3\n",
            b"tab\there\n",
            b"dele\x7fted\n",
            b"back\x08space\n",
            b"arrow\x1b[D\n",
            b"killed\x15\n",
            b"end\x04\n",
            b"control \xc2\x85\n",
        ] {
            assert!(typed(line).is_err(), "{line:?}");
        }
    }
}
