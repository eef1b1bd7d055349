//! Escapes control characters in remote bytes for a terminal.
//!
//! A compromised host must not be able to retitle the user's terminal, to write into its
//! clipboard, or to paint over earlier lines. Tab, newline and colours (SGR sequences,
//! ECMA-48 section 8.3.117) pass. A colour that a line leaves on is switched off at its
//! end.

/// Switches off all colours.
const RESET: &[u8] = b"\x1b[0m";

/// A longer sequence is escaped even if it is a colour.
const LONGEST_SEQUENCE: usize = 64;

/// Appends a line, with or without its newline, so that it only moves the cursor forward.
pub(crate) fn sanitize_into(out: &mut Vec<u8>, line: &[u8]) {
    let (text, newline) = match line.strip_suffix(b"\n") {
        Some(text) => (text, true),
        None => (line, false),
    };
    let mut sanitizer = Sanitizer::default();
    sanitizer.last(out, text);
    if newline {
        out.push(b'\n');
    }
}

/// Escapes a line that comes in pieces.
#[derive(Debug, Default)]
pub(crate) struct Sanitizer {
    is_colored: bool,
    /// The beginning of a sequence that may continue in the next piece.
    held: Vec<u8>,
}

impl Sanitizer {
    /// Appends a piece that does not end within a character.
    pub(crate) fn piece(&mut self, out: &mut Vec<u8>, piece: &[u8]) {
        self.held.extend_from_slice(piece);
        let held = std::mem::take(&mut self.held);
        let (now, later) = held.split_at(held.len() - undecided(&held));
        self.add(out, now);
        self.held.extend_from_slice(later);
    }

    /// Appends the end of the line.
    pub(crate) fn end(&mut self, out: &mut Vec<u8>) {
        let held = std::mem::take(&mut self.held);
        self.last(out, &held);
    }

    fn last(&mut self, out: &mut Vec<u8>, text: &[u8]) {
        // Programs that write for a terminal end their lines with CR LF.
        self.add(out, text.strip_suffix(b"\r").unwrap_or(text));
        if self.is_colored {
            out.extend_from_slice(RESET);
        }
    }

    fn add(&mut self, out: &mut Vec<u8>, text: &[u8]) {
        for chunk in text.utf8_chunks() {
            valid_into(out, chunk.valid(), &mut self.is_colored);
            for byte in chunk.invalid() {
                // Some terminals obey these bytes as C1 controls.
                escape_into(out, u32::from(*byte));
            }
        }
    }
}

/// The length of an end that may be the beginning of a sequence or of a CR LF.
fn undecided(text: &[u8]) -> usize {
    let from = text.len().saturating_sub(LONGEST_SEQUENCE);
    let last = text[from..]
        .iter()
        .rposition(|byte| matches!(byte, 0x1b | b'\r'));
    last.map_or(0, |at| {
        let rest = &text[from + at..];
        let is_parameter = |byte: &u8| byte.is_ascii_digit() || matches!(byte, b';' | b':');
        let may_go_on = match rest {
            [_] => true,
            [0x1b, b'[', parameters @ ..] => parameters.iter().all(is_parameter),
            _ => false,
        };
        if may_go_on { rest.len() } else { 0 }
    })
}

fn valid_into(out: &mut Vec<u8>, text: &str, is_colored: &mut bool) {
    let mut rest = text;
    while let Some(at) = rest.find(is_unsafe) {
        out.extend_from_slice(&rest.as_bytes()[..at]);
        rest = &rest[at..];
        if let Some(sequence) = color_sequence(rest) {
            out.extend_from_slice(sequence.as_bytes());
            *is_colored = !matches!(sequence, "\x1b[m" | "\x1b[0m");
            rest = &rest[sequence.len()..];
        } else if let Some(character) = rest.chars().next() {
            escape_into(out, u32::from(character));
            rest = &rest[character.len_utf8()..];
        }
    }
    out.extend_from_slice(rest.as_bytes());
}

/// Control characters, and the marks that change the direction of text, which can make a
/// text read as another one.
fn is_unsafe(character: char) -> bool {
    (character.is_control() && character != '\t')
        || matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The colour sequence at the beginning of `text`: `ESC [`, digits, `;` or `:`, and `m`.
fn color_sequence(text: &str) -> Option<&str> {
    let parameters = text.strip_prefix("\x1b[")?;
    let length = parameters
        .bytes()
        .take_while(|byte| byte.is_ascii_digit() || matches!(byte, b';' | b':'))
        .take(LONGEST_SEQUENCE)
        .count();
    let is_color =
        length + 3 <= LONGEST_SEQUENCE && parameters.as_bytes().get(length) == Some(&b'm');
    is_color.then(|| &text[..length + 3])
}

fn escape_into(out: &mut Vec<u8>, code: u32) {
    let text = match code {
        0..=0x1f => {
            let letter = char::from_u32(code + 0x40).unwrap_or('?');
            format!("^{letter}")
        }
        0x7f => "^?".to_owned(),
        0x80..=0xff => format!("\\x{code:02x}"),
        _ => format!("\\u{{{code:x}}}"),
    };
    out.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sanitized(line: &[u8]) -> String {
        let mut out = Vec::new();
        sanitize_into(&mut out, line);
        String::from_utf8(out).expect("always UTF-8")
    }

    #[test]
    fn text_goes_through() {
        assert_eq!(sanitized("a\tb ü 漢字\n".as_bytes()), "a\tb ü 漢字\n");
    }

    #[test]
    fn the_title_the_clipboard_and_the_cursor_are_out_of_reach() {
        assert_eq!(sanitized(b"\x1b]0;owned\x07"), "^[]0;owned^G");
        assert_eq!(sanitized(b"\x1b]52;c;QQ==\x1b\\"), "^[]52;c;QQ==^[\\");
        assert_eq!(sanitized(b"\x1b[2A\x1b[2K"), "^[[2A^[[2K");
        assert_eq!(sanitized(b"good\rbad\x08\n"), "good^Mbad^H\n");
        assert_eq!(sanitized("\u{9b}2J".as_bytes()), "\\x9b2J");
        assert_eq!(sanitized(b"\x9b2J"), "\\x9b2J");
    }

    #[test]
    fn a_line_end_of_a_terminal_program_is_a_line_end() {
        assert_eq!(sanitized(b"text\r\n"), "text\n");
    }

    #[test]
    fn colours_go_through_and_end_with_the_line() {
        assert_eq!(sanitized(b"\x1b[1;31mred\n"), "\x1b[1;31mred\x1b[0m\n");
        assert_eq!(sanitized(b"\x1b[31mred\x1b[0m\n"), "\x1b[31mred\x1b[0m\n");
        assert_eq!(sanitized(b"\x1b[31mred\x1b[m"), "\x1b[31mred\x1b[m");
        assert_eq!(sanitized(b"\x1b[31"), "^[[31");
    }

    #[test]
    fn direction_cannot_be_turned() {
        assert_eq!(sanitized("a\u{202e}b".as_bytes()), "a\\u{202e}b");
    }

    proptest! {
        #[test]
        fn it_does_not_matter_where_a_line_is_cut(
            parts in prop::collection::vec(
                prop_oneof![
                    Just("\x1b[1;31m".to_owned()), Just("\x1b[".to_owned()), Just("\r".to_owned()),
                    Just("\x1b[m".to_owned()), Just("ab".to_owned()), Just("\u{fc}".to_owned()),
                    Just(format!("\x1b[{}m", "1;".repeat(LONGEST_SEQUENCE))), Just("7m".to_owned()),
                ],
                0..12,
            ),
            size in 1usize..20,
        ) {
            let line = parts.concat();
            let mut out = Vec::new();
            let mut sanitizer = Sanitizer::default();
            let characters: Vec<char> = line.chars().collect();
            for piece in characters.chunks(size) {
                sanitizer.piece(&mut out, piece.iter().collect::<String>().as_bytes());
            }
            sanitizer.end(&mut out);
            prop_assert_eq!(String::from_utf8(out).unwrap(), sanitized(line.as_bytes()));
        }

        #[test]
        fn nothing_that_moves_a_cursor_comes_out(line in prop::collection::vec(any::<u8>(), 0..100)) {
            let text = sanitized(&line);
            let body = text.strip_suffix('\n').unwrap_or(&text);
            let mut rest = body;
            while let Some(at) = rest.find(|c: char| c.is_control() && c != '\t' && c != '\n') {
                let sequence = color_sequence(&rest[at..]);
                prop_assert!(sequence.is_some(), "{text:?}");
                rest = &rest[at + sequence.map_or(1, str::len)..];
            }
        }
    }
}
