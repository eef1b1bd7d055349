//! Makes remote bytes harmless on a terminal.
//!
//! A host that has been broken into must not be able to retitle the user's
//! terminal, write into its clipboard, or paint over the line before. On a
//! terminal, control characters are shown escaped; tab, newline and colours
//! (SGR sequences, ECMA-48 section 8.3.117) go through, and a colour that is
//! left on is switched off at the end of its line. In pipes and files nothing is
//! changed.

/// Switches off all colours.
const RESET: &[u8] = b"\x1b[0m";

/// Appends a line (with or without its newline) in a form that only moves the
/// cursor forward.
pub fn sanitize_into(out: &mut Vec<u8>, line: &[u8]) {
    let (text, newline) = match line.strip_suffix(b"\n") {
        Some(text) => (text, true),
        None => (line, false),
    };
    // Programs that write for a terminal end their lines so.
    let text = text.strip_suffix(b"\r").unwrap_or(text);
    let mut colored = false;
    for chunk in text.utf8_chunks() {
        valid_into(out, chunk.valid(), &mut colored);
        for byte in chunk.invalid() {
            // Terminals take some of these for C1 control characters.
            escape_into(out, u32::from(*byte));
        }
    }
    if colored {
        out.extend_from_slice(RESET);
    }
    if newline {
        out.push(b'\n');
    }
}

fn valid_into(out: &mut Vec<u8>, text: &str, colored: &mut bool) {
    let mut rest = text;
    while let Some(at) = rest.find(is_unsafe) {
        out.extend_from_slice(&rest.as_bytes()[..at]);
        rest = &rest[at..];
        if let Some(sequence) = color_sequence(rest) {
            out.extend_from_slice(sequence.as_bytes());
            *colored = !matches!(sequence, "\x1b[m" | "\x1b[0m");
            rest = &rest[sequence.len()..];
        } else if let Some(character) = rest.chars().next() {
            escape_into(out, u32::from(character));
            rest = &rest[character.len_utf8()..];
        }
    }
    out.extend_from_slice(rest.as_bytes());
}

/// Control characters, and those that turn the direction of writing (which can
/// make a text read as another one).
fn is_unsafe(character: char) -> bool {
    (character.is_control() && character != '\t')
        || matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// `ESC [ digits and ; or : m` at the beginning of `text`.
fn color_sequence(text: &str) -> Option<&str> {
    let parameters = text.strip_prefix("\x1b[")?;
    let length = parameters
        .bytes()
        .take_while(|byte| byte.is_ascii_digit() || matches!(byte, b';' | b':'))
        .count();
    (parameters.as_bytes().get(length) == Some(&b'm')).then(|| &text[..length + 3])
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
