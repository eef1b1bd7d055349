//! sudo between us and what we want to run: its questions, the password, its refusal.

use zeroize::Zeroizing;

use crate::error::Tree;
use crate::event::Stream;
use crate::remote::sudo::{Gate, Nonces, SudoEvent};
use crate::ssh::auth::Secret;
use crate::ssh::process::Supply;

/// How a run gets past sudo.
#[derive(Clone)]
pub(crate) struct Sudo {
    /// The words by which sudo and the script under it are known.
    pub(crate) nonces: Nonces,
    /// The answer to sudo's question.
    pub(crate) password: Option<Secret>,
}

/// The talk with one sudo.
pub(super) struct SudoDialog {
    gate: Gate,
    /// Where its words come: on stdout under a pseudo-terminal.
    stream: Stream,
    password: Option<Secret>,
    asked: usize,
    answered: usize,
}

impl SudoDialog {
    pub(super) fn new(sudo: &Sudo, stream: Stream) -> Self {
        Self {
            gate: Gate::new(sudo.nonces.clone()),
            stream,
            password: sudo.password.clone(),
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

    /// Returns bytes that were kept because such a word could begin with them.
    pub(super) fn finish(&mut self) -> (Stream, Vec<u8>) {
        (self.stream, self.gate.finish())
    }

    /// What sudo gets to read until it has let us in, and nothing afterwards: it
    /// would take the input of the command for a password.
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

    /// Why sudo has not let us in; `last_words` are what sudo said.
    pub(super) fn refusal(&self, last_words: &str) -> Tree {
        if self.asked > 1 {
            return "sudo does not take the password".into();
        }
        Tree::new("sudo refused").because(last_words)
    }
}
