//! What a command on a host is connected to: its output to the printer, its
//! input to `-i`, and sudo's questions to the password.

use std::sync::Arc;

use zeroize::Zeroizing;

use crate::cluster::input::Reader;
use crate::error::Tree;
use crate::event::{NodeId, Stream};
use crate::output::credit::Credit;
use crate::output::{Display, Message};
use crate::remote::sudo::{Gate, SudoEvent};
use crate::ssh::auth::Secret;
use crate::ssh::process::{Ports, Supply};

/// How much of the end of stderr is remembered, for error messages.
const TAIL: usize = 512;

/// The connections of one command.
pub(super) struct CommandPorts {
    node: NodeId,
    display: Display,
    credit: Arc<Credit>,
    input: Option<Reader>,
    sudo: Option<SudoDoor>,
    tail: Vec<u8>,
    input_error: Option<Tree>,
}

/// sudo between us and what we want to run.
pub(super) struct SudoDoor {
    gate: Gate,
    /// Where its words come: on stdout under a pseudo-terminal.
    stream: Stream,
    password: Option<Secret>,
    asked: usize,
    answered: usize,
}

impl SudoDoor {
    pub(super) fn new(gate: Gate, stream: Stream, password: Option<Secret>) -> Self {
        Self {
            gate,
            stream,
            password,
            asked: 0,
            answered: 0,
        }
    }

    /// Whether sudo has started what is behind it.
    pub(super) fn has_let_in(&self) -> bool {
        self.gate.has_passed()
    }

    /// Takes sudo's words out of what comes.
    pub(super) fn output(&mut self, stream: Stream, bytes: Vec<u8>) -> Vec<u8> {
        if stream != self.stream || self.gate.has_passed() {
            return bytes;
        }
        let asked = &mut self.asked;
        self.gate.feed(&bytes, |event| {
            if event == SudoEvent::Asked {
                *asked += 1;
            }
        })
    }

    /// What was kept because it could have been the beginning of such a word.
    pub(super) fn finish(&mut self) -> (Stream, Vec<u8>) {
        (self.stream, self.gate.finish())
    }

    /// What sudo gets to read until it has let us in, and nothing afterwards:
    /// input that is meant for the command would be taken for a password.
    pub(super) fn input(&mut self, buffer: &mut Vec<u8>) -> Option<Supply> {
        if self.gate.has_passed() {
            return None;
        }
        Some(match &self.password {
            _ if self.asked == self.answered => Supply::Nothing,
            Some(password) if self.answered == 0 => {
                self.answered = self.asked;
                let line = Zeroizing::new(format!("{}\n", password.as_str()));
                buffer.extend_from_slice(line.as_bytes());
                Supply::Secret
            }
            // One answer only: a wrong password must not lock the account.
            _ => Supply::End,
        })
    }

    /// Why we are not in; `last_words` are what sudo said.
    pub(super) fn refusal(&self, last_words: &str) -> Tree {
        if self.asked > 1 {
            return "sudo does not take the password".into();
        }
        Tree::new("sudo refused").because(last_words)
    }
}

/// Remembers the end of what is said.
pub(super) fn keep_tail(tail: &mut Vec<u8>, bytes: &[u8]) {
    let new = &bytes[bytes.len().saturating_sub(TAIL)..];
    let old = (tail.len() + new.len()).saturating_sub(TAIL);
    tail.drain(..old);
    tail.extend_from_slice(new);
}

/// The last line of it that says anything.
pub(super) fn last_line(tail: &[u8]) -> String {
    let text = String::from_utf8_lossy(tail);
    let mut lines = text.lines().map(str::trim);
    lines
        .rfind(|line| !line.is_empty())
        .unwrap_or_default()
        .to_owned()
}

impl CommandPorts {
    pub(super) fn new(
        node: NodeId,
        display: Display,
        credit: Arc<Credit>,
        input: Option<Reader>,
    ) -> Self {
        Self {
            node,
            display,
            credit,
            input,
            sudo: None,
            tail: Vec::new(),
            input_error: None,
        }
    }

    /// The same, behind sudo.
    pub(super) fn behind(mut self, sudo: SudoDoor) -> Self {
        self.sudo = Some(sudo);
        self
    }

    /// Why sudo has not started the command, if it has not.
    pub(super) fn sudo_refusal(&self) -> Option<Tree> {
        let sudo = self.sudo.as_ref().filter(|sudo| !sudo.has_let_in())?;
        Some(sudo.refusal(&self.last_words()))
    }

    /// What went wrong with our own input, once.
    pub(super) fn take_input_error(&mut self) -> Option<Tree> {
        self.input_error.take()
    }

    /// The last line of what came on stderr.
    pub(super) fn last_words(&self) -> String {
        last_line(&self.tail)
    }

    /// Nothing more will come.
    pub(super) fn finish(&mut self) {
        if let Some(sudo) = &mut self.sudo {
            let (stream, rest) = sudo.finish();
            self.print(stream, rest);
        }
        self.display.send(Message::EndOfOutput { node: self.node });
    }

    fn print(&mut self, stream: Stream, bytes: Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        if stream == Stream::Stderr {
            keep_tail(&mut self.tail, &bytes);
        }
        self.display.send(Message::Output {
            node: self.node,
            stream,
            loan: self.credit.lend(bytes.len()),
            bytes,
        });
    }
}

impl Ports for CommandPorts {
    fn room(&mut self) -> usize {
        self.credit.room()
    }

    fn output(&mut self, stream: Stream, bytes: Vec<u8>) {
        let bytes = match &mut self.sudo {
            Some(sudo) => sudo.output(stream, bytes),
            None => bytes,
        };
        self.print(stream, bytes);
    }

    fn input(&mut self, buffer: &mut Vec<u8>) -> Supply {
        if let Some(supply) = self.sudo.as_mut().and_then(|sudo| sudo.input(buffer)) {
            return supply;
        }
        match &mut self.input {
            None => Supply::End,
            Some(reader) => reader.fill(buffer).unwrap_or_else(|error| {
                self.input_error.get_or_insert(Tree::from_error(&error));
                buffer.clear();
                // No end of file: the command would take what it has for all.
                Supply::Nothing
            }),
        }
    }
}
