//! Quoting for POSIX shells. All of it is one function.

use std::fmt::Write as _;

/// Quotes any bytes (without NUL) as one word of a POSIX shell.
///
/// Single quotes, and `'\''` for a single quote (POSIX XCU 2.2.2). The result is
/// a string, because that is what can be sent: bytes that are no UTF-8 are
/// written as `"$(printf '\377')"`, which every POSIX shell turns back into the
/// same bytes.
pub(crate) fn quote(word: &[u8]) -> String {
    let mut quoted = String::with_capacity(word.len() + 2);
    quoted.push('\'');
    for chunk in word.utf8_chunks() {
        quoted.push_str(&chunk.valid().replace('\'', r"'\''"));
        if !chunk.invalid().is_empty() {
            quoted.push_str(r#"'"$(printf '"#);
            for byte in chunk.invalid() {
                // Writing to a String cannot fail.
                let _ = write!(quoted, r"\{byte:03o}");
            }
            quoted.push_str(r#"')"'"#);
        }
    }
    quoted.push('\'');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::process::Command;

    fn run(shell: &str, script: &str) -> Vec<u8> {
        let output = Command::new(shell).args(["-c", script]).output();
        output.expect("a shell").stdout
    }

    proptest! {
        #[test]
        fn any_bytes_come_back_from_a_shell(bytes in prop::collection::vec(1u8.., 0..200)) {
            let script = format!("printf %s {}", quote(&bytes));
            for shell in ["dash", "bash"] {
                prop_assert_eq!(&run(shell, &script), &bytes);
            }
        }
    }
}
