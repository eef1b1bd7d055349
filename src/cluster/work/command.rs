//! The user's command, or a sync tool that is a plain command: output to the printer
//! as it is, stdin from `-i`.

use super::kind::{Kind, Verdict};
use crate::cluster::input::Reader;
use crate::cluster::output_port::OutputPort;
use crate::error::Tree;
use crate::event::{NodeEvent, Status, Stream};
use crate::remote::words::Tail;
use crate::ssh::process::{Exit, Supply};

/// A command of the user.
pub(crate) struct CommandWork {
    port: OutputPort,
    input: Option<Reader>,
    input_error: Option<Tree>,
    tail: Tail,
    needs_bash: bool,
}

impl CommandWork {
    pub(super) fn new(port: OutputPort, input: Option<Reader>, needs_bash: bool) -> Self {
        Self {
            port,
            input,
            input_error: None,
            tail: Tail::default(),
            needs_bash,
        }
    }
}

impl Kind for CommandWork {
    fn port(&self) -> &OutputPort {
        &self.port
    }

    fn output(&mut self, stream: Stream, bytes: Vec<u8>) {
        if stream == Stream::Stderr {
            self.tail.keep(&bytes);
        }
        self.port.print(stream, bytes);
    }

    fn input(&mut self, buffer: &mut Vec<u8>) -> Supply {
        let Some(reader) = &mut self.input else {
            return Supply::End;
        };
        reader.fill(buffer).unwrap_or_else(|error| {
            self.input_error.get_or_insert(Tree::from_error(&error));
            buffer.clear();
            // No end of file: the command would take what it has for all.
            Supply::Nothing
        })
    }

    fn last_words(&self) -> String {
        self.tail.last_line()
    }

    fn finish(&mut self, _by_itself: bool) {
        self.port.end();
    }

    fn verdict(&self, exit: &Exit) -> Verdict {
        of_command(exit, self.needs_bash, &self.last_words())
    }

    fn news(&mut self) -> Option<NodeEvent> {
        self.input_error.take().map(NodeEvent::InputFailed)
    }
}

/// What the end of a command or sync tool means.
pub(super) fn of_command(exit: &Exit, needs_bash: bool, last_words: &str) -> Verdict {
    match exit {
        Exit::Status(0) => (Status::Ok, None),
        Exit::Status(127) if needs_bash && is_bash_missing(last_words) => {
            let hint = "there is no bash on the host, use --shell \"sh -c {}\"";
            (Status::Exit(127), Some(hint.into()))
        }
        Exit::Status(code) => (Status::Exit(*code), None),
        Exit::Signal(name) => (Status::Signal(name.clone()), None),
    }
}

/// What shells say when they do not find bash: `sh: 1: exec: bash: not found`,
/// `sh: bash: command not found`.
fn is_bash_missing(last_words: &str) -> bool {
    last_words.ends_with("bash: not found") || last_words.ends_with("bash: command not found")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_bash_is_told_from_other_missing_commands() {
        assert!(is_bash_missing("sh: 1: exec: bash: not found"));
        assert!(is_bash_missing("bash: line 1: exec: bash: not found"));
        assert!(!is_bash_missing("bash: line 1: foo: command not found"));
        assert!(!is_bash_missing("bash: foo: command not found"));
    }
}
