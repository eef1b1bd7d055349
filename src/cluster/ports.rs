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
    sudo: Option<Sudo>,
    tail: Vec<u8>,
    input_error: Option<Tree>,
}

/// sudo between us and the command.
struct Sudo {
    gate: Gate,
    /// Where its words come: on stdout under a pseudo-terminal.
    stream: Stream,
    password: Option<Secret>,
    asked: usize,
    answered: usize,
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

    /// Expects sudo's words on this stream.
    pub(super) fn behind_sudo(
        mut self,
        gate: Gate,
        stream: Stream,
        password: Option<Secret>,
    ) -> Self {
        self.sudo = Some(Sudo {
            gate,
            stream,
            password,
            asked: 0,
            answered: 0,
        });
        self
    }

    /// Whether sudo (if there is one) has started the command.
    pub(super) fn is_past_sudo(&self) -> bool {
        self.sudo.as_ref().is_none_or(|sudo| sudo.gate.has_passed())
    }

    /// Whether sudo asked again after it got the password.
    pub(super) fn password_was_wrong(&self) -> bool {
        self.sudo.as_ref().is_some_and(|sudo| sudo.asked > 1)
    }

    /// What went wrong with our own input, once.
    pub(super) fn take_input_error(&mut self) -> Option<Tree> {
        self.input_error.take()
    }

    /// The last line (or so) of what came on stderr.
    pub(super) fn last_words(&self) -> String {
        let text = String::from_utf8_lossy(&self.tail);
        let mut lines = text.lines().map(str::trim);
        lines
            .rfind(|line| !line.is_empty())
            .unwrap_or_default()
            .to_owned()
    }

    /// Nothing more will come.
    pub(super) fn finish(&mut self) {
        if let Some(sudo) = &mut self.sudo {
            let (stream, rest) = (sudo.stream, sudo.gate.finish());
            self.print(stream, rest);
        }
        self.display.send(Message::EndOfOutput { node: self.node });
    }

    fn print(&mut self, stream: Stream, bytes: Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        if stream == Stream::Stderr {
            let new = &bytes[bytes.len().saturating_sub(TAIL)..];
            let old = (self.tail.len() + new.len()).saturating_sub(TAIL);
            self.tail.drain(..old);
            self.tail.extend_from_slice(new);
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
            Some(sudo) if stream == sudo.stream && !sudo.gate.has_passed() => {
                let asked = &mut sudo.asked;
                sudo.gate.feed(&bytes, |event| {
                    if event == SudoEvent::Asked {
                        *asked += 1;
                    }
                })
            }
            _ => bytes,
        };
        self.print(stream, bytes);
    }

    fn input(&mut self, buffer: &mut Vec<u8>) -> Supply {
        if let Some(sudo) = &mut self.sudo
            && !sudo.gate.has_passed()
        {
            // Nothing of the command's input may come to sudo, which would take
            // it for a password.
            return match &sudo.password {
                _ if sudo.asked == sudo.answered => Supply::Nothing,
                Some(password) if sudo.answered == 0 => {
                    sudo.answered = sudo.asked;
                    let line = Zeroizing::new(format!("{}\n", password.as_str()));
                    buffer.extend_from_slice(line.as_bytes());
                    Supply::Secret
                }
                // One answer only: a wrong password must not lock the account.
                _ => Supply::End,
            };
        }
        match &mut self.input {
            None => Supply::End,
            Some(reader) => reader.fill(buffer).unwrap_or_else(|error| {
                self.input_error = Some(Tree::from_error(&error));
                buffer.clear();
                Supply::End
            }),
        }
    }
}
