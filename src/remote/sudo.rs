//! What sudo says before the command starts.
//!
//! `sudo` shares the command's stdin, stdout and stderr, so three things could
//! be mistaken for each other: sudo's question and the command's output, sudo's
//! refusal and the command's failure, and the password and the command's input.
//! Random words, new for each run, keep them apart: sudo asks with one as its
//! prompt, and the script that it starts announces itself with another.
//! [`Gate`] takes both out of the output.

use std::fmt;

use memchr::memmem;

/// The beginning of all words.
const COMMON: &str = "[orgalorg-sudo-";

/// The words of one run.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Nonces {
    prompt: Option<String>,
    started: String,
}

impl fmt::Debug for Nonces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A program that knows the prompt could make us send the password to it.
        f.write_str("Nonces(..)")
    }
}

impl Nonces {
    /// Words from 16 random bytes; with a prompt where a password can be given.
    #[must_use]
    pub(crate) fn new(random: [u8; 16], with_password: bool) -> Self {
        let number = u128::from_be_bytes(random);
        Self {
            prompt: with_password.then(|| format!("{COMMON}asks-{number:032x}]")),
            started: format!("{COMMON}ok-{number:032x}]"),
        }
    }

    /// `sudo` with its options: never waiting for a terminal, environment kept,
    /// HOME that of the target user.
    pub(super) fn command(&self) -> String {
        match &self.prompt {
            Some(prompt) => format!("sudo -S -p '{prompt}' -E -H"),
            None => "sudo -n -E -H".to_owned(),
        }
    }

    /// The start of the script that runs under sudo.
    pub(super) fn announcement(&self) -> String {
        format!("printf %s '{}' >&2", self.started)
    }
}

/// What the gate noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SudoEvent {
    /// sudo asks for the password.
    Asked,
    /// sudo has let us in; what comes from now on is the command's.
    Passed,
}

/// Watches the outputs of a command until sudo has started it.
#[derive(Debug)]
pub(crate) struct Gate {
    nonces: Nonces,
    passed: bool,
    held: Vec<u8>,
}

impl Gate {
    /// A gate that waits for these words.
    #[must_use]
    pub(crate) fn new(nonces: Nonces) -> Self {
        Self {
            nonces,
            passed: false,
            held: Vec::new(),
        }
    }

    /// Whether the command has been started.
    #[must_use]
    pub(crate) fn has_passed(&self) -> bool {
        self.passed
    }

    /// Takes bytes of the stream that the words come on (stderr, or stdout under
    /// a pseudo-terminal) and gives back what is output. A part that may be the
    /// beginning of a word is kept until more comes.
    pub(crate) fn feed(&mut self, bytes: &[u8], mut notice: impl FnMut(SudoEvent)) -> Vec<u8> {
        self.held.extend_from_slice(bytes);
        let held = std::mem::take(&mut self.held);
        let mut output = Vec::new();
        let mut rest = &held[..];
        while !self.passed {
            let Some((at, length, event)) = self.first_word(rest) else {
                let (known, kept) = rest.split_at(rest.len() - self.possible_beginning(rest));
                output.extend_from_slice(known);
                self.held = kept.to_vec();
                return output;
            };
            output.extend_from_slice(&rest[..at]);
            rest = &rest[at + length..];
            self.passed = event == SudoEvent::Passed;
            notice(event);
        }
        output.extend_from_slice(rest);
        output
    }

    /// What is still kept when the stream has ended.
    pub(crate) fn finish(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.held)
    }

    fn words(&self) -> impl Iterator<Item = (&str, SudoEvent)> {
        let started = (self.nonces.started.as_str(), SudoEvent::Passed);
        let prompt = self.nonces.prompt.as_deref();
        [started]
            .into_iter()
            .chain(prompt.map(|word| (word, SudoEvent::Asked)))
    }

    /// All words begin alike, so that a text full of one is not searched to its end
    /// for the other.
    fn first_word(&self, text: &[u8]) -> Option<(usize, usize, SudoEvent)> {
        memmem::find_iter(text, COMMON.as_bytes()).find_map(|at| {
            let mut words = self.words();
            let (word, event) = words.find(|(word, _)| text[at..].starts_with(word.as_bytes()))?;
            Some((at, word.len(), event))
        })
    }

    /// How many bytes at the end of a text could begin a word.
    fn possible_beginning(&self, text: &[u8]) -> usize {
        self.words()
            .map(|(word, _)| {
                let most = text.len().min(word.len() - 1);
                (0..=most)
                    .rev()
                    .find(|&n| text.ends_with(&word.as_bytes()[..n]))
                    .unwrap_or(0)
            })
            .max()
            .unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn nonces() -> Nonces {
        Nonces::new([7; 16], true)
    }

    fn pass(pieces: &[&[u8]]) -> (Vec<u8>, Vec<SudoEvent>) {
        let mut gate = Gate::new(nonces());
        let (mut output, mut events) = (Vec::new(), Vec::new());
        for piece in pieces {
            output.extend(gate.feed(piece, |event| events.push(event)));
        }
        output.extend(gate.finish());
        (output, events)
    }

    #[test]
    fn prompt_and_announcement_are_taken_out() {
        let text = format!(
            "lecture\n{}{}error: no",
            nonces().prompt.expect("prompt"),
            nonces().started
        );
        let (output, events) = pass(&[text.as_bytes()]);
        assert_eq!(output, b"lecture\nerror: no");
        assert_eq!(events, [SudoEvent::Asked, SudoEvent::Passed]);
    }

    #[test]
    fn after_the_start_everything_is_output_even_the_words() {
        let word = nonces().started;
        let text = format!("{word}{word}");
        assert_eq!(pass(&[text.as_bytes()]).0, word.as_bytes());
    }

    #[test]
    fn a_refusal_is_output_in_full() {
        let (output, events) = pass(&[b"sudo: a password is required\n[orgalorg"]);
        assert_eq!(output, b"sudo: a password is required\n[orgalorg");
        assert_eq!(events, []);
    }

    #[test]
    fn nobody_sees_the_words_in_debug_output() {
        assert!(!format!("{:?}", nonces()).contains("0707"));
    }

    proptest! {
        #[test]
        fn it_does_not_matter_where_packets_are_cut(cuts in prop::collection::vec(0usize..200, 0..8)) {
            let text = format!("a[{}b[orgal{}c", nonces().prompt.expect("prompt"), nonces().started);
            let text = text.as_bytes();
            let mut cuts: Vec<usize> = cuts.into_iter().filter(|&cut| cut < text.len()).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect();
            let (output, events) = pass(&pieces);
            prop_assert_eq!(output, b"a[b[orgalc");
            prop_assert_eq!(events, [SudoEvent::Asked, SudoEvent::Passed]);
        }
    }
}
