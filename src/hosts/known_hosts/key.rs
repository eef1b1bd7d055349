//! What can be told from a public key's wire blob without any cryptography of keys.

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use openssl::sha::sha256;

/// The longest algorithm name that RFC 4251, section 6, allows.
const LONGEST_TYPE: usize = 64;

/// The key type at the front of a public key's wire blob, such as `ssh-ed25519` (RFC 4253,
/// section 6.6). `None` if the blob does not begin with an algorithm name.
pub(crate) fn key_type(key: &[u8]) -> Option<&str> {
    let (name, _) = split_string(key)?;
    // RFC 4251, section 6: printable US-ASCII without commas. The name ends up in known_hosts
    // lines and on the terminal, so nothing else may pass.
    let printable = name.iter().all(|&b| b.is_ascii_graphic() && b != b',');
    if name.is_empty() || name.len() > LONGEST_TYPE || !printable {
        return None;
    }
    std::str::from_utf8(name).ok()
}

/// The fingerprint of a public key's wire blob as `ssh-keygen -l` prints it: `SHA256:` and the
/// base64 of the SHA-256 digest without padding (ssh-keygen(1), option `-E`).
pub(crate) fn fingerprint(key: &[u8]) -> String {
    format!("SHA256:{}", STANDARD_NO_PAD.encode(sha256(key)))
}

/// Whether the blob is a key type followed by whole strings (RFC 4251, section 5), as every plain
/// public key is. A line that was cut short, by a full disk for example, fails this; taken for a
/// key it would make its host look changed.
pub(super) fn is_whole(key: &[u8]) -> bool {
    let Some(kind) = key_type(key) else {
        return false;
    };
    let Some((_, mut rest)) = split_string(key) else {
        return false;
    };
    // Certificates hold plain integers too. They never equal a plain key, so a closer look at
    // them is not needed.
    if kind.contains("-cert-v0") {
        return true;
    }
    if rest.is_empty() {
        return false;
    }
    while !rest.is_empty() {
        match split_string(rest) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    true
}

/// Splits off the first `string` of RFC 4251, section 5: a big-endian length and that many bytes.
fn split_string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)
}
