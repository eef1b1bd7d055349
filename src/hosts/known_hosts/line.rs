//! One line of a known_hosts file: what it says, and which host names it speaks of.
//!
//! Works on bytes: the files are not promised to be UTF-8, and a comment in another encoding must
//! not hide a key. Facts: sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT".

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use openssl::sha::Sha1;
use thiserror::Error;

use super::key::{is_whole, key_type};

/// Length of a SHA-1 digest, and of the salts of hashed names.
const DIGEST: usize = 20;

/// Why a line says nothing usable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum BadLine {
    /// An `@` word other than the two that sshd(8) names, or two of them.
    #[error("unknown marker, only @cert-authority and @revoked exist")]
    Marker,
    /// The line ends after the host names or after the key type.
    #[error("no key after the host names")]
    NoKey,
    /// A name that begins with `|` and is not `|1|salt|hash`.
    #[error("hashed host name is damaged")]
    Hash,
    /// The key of a protocol 1 server: its size in bits, exponent and modulus.
    #[error("key of ssh protocol 1, which no server uses any more")]
    Obsolete,
    /// The key is not canonical base64.
    #[error("key is not valid base64")]
    Base64,
    /// The decoded key is not a public key as RFC 4253, section 6.6, has it.
    #[error("key is cut short or damaged")]
    Key,
    /// The key type in the line and the one inside the key differ.
    #[error("key is not of the type that the line names")]
    Type,
}

/// The optional first word of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Marker {
    /// No marker: the host's own key.
    Plain,
    /// `@cert-authority`: signs certificates, is no host's own key.
    Authority,
    /// `@revoked`: must never be accepted.
    Revoked,
}

/// A line that is neither blank nor a comment.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) marker: Marker,
    pub(super) names: Names,
    /// The wire blob (RFC 4253, section 6.6), decoded.
    pub(super) key: Box<[u8]>,
}

/// The host names of a line, by how they are looked up.
#[derive(Debug)]
pub(super) enum Names {
    /// Nothing but plain names, in lower case: can be indexed.
    Exact(Vec<Box<[u8]>>),
    /// At least one wildcard or negation.
    Patterns(Patterns),
    /// A hashed name. A line holds one at most.
    Hashed(Box<HashedName>),
}

/// Reads a line without its line end; `None` if it is blank or a comment.
pub(super) fn parse(line: &[u8]) -> Result<Option<Line>, BadLine> {
    // Windows line ends; ssh, too, reads past them.
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let (mut word, mut rest) = split_word(line);
    if word.is_empty() || word.starts_with(b"#") {
        return Ok(None);
    }

    // ssh before a tab fails to see the marker and drops the whole line. sshd(8) says nothing of
    // the sort, and a revocation should not depend on it.
    let marker = match word {
        b"@cert-authority" => Marker::Authority,
        b"@revoked" => Marker::Revoked,
        _ if word.starts_with(b"@") => return Err(BadLine::Marker),
        _ => Marker::Plain,
    };
    if marker != Marker::Plain {
        (word, rest) = split_word(rest);
        if word.starts_with(b"@") {
            return Err(BadLine::Marker);
        }
    }

    let names = Names::parse(word)?;
    let (kind, rest) = split_word(rest);
    if kind.is_empty() || kind.starts_with(b"#") {
        return Err(BadLine::NoKey);
    }
    if kind.iter().all(u8::is_ascii_digit) {
        return Err(BadLine::Obsolete);
    }
    // What follows the key is a comment.
    let (encoded, _) = split_word(rest);
    if encoded.is_empty() || encoded.starts_with(b"#") {
        return Err(BadLine::NoKey);
    }
    let key = STANDARD.decode(encoded).map_err(|_| BadLine::Base64)?;
    if !is_whole(&key) {
        return Err(BadLine::Key);
    }
    if key_type(&key).map(str::as_bytes) != Some(kind) {
        return Err(BadLine::Type);
    }
    Ok(Some(Line {
        marker,
        names,
        key: key.into(),
    }))
}

/// The first word and what follows it; words are parted by spaces and tabs.
fn split_word(text: &[u8]) -> (&[u8], &[u8]) {
    let blank = |b: &u8| matches!(b, b' ' | b'\t');
    let start = text.iter().position(|b| !blank(b)).unwrap_or(text.len());
    let text = &text[start..];
    text.split_at(text.iter().position(blank).unwrap_or(text.len()))
}

impl Names {
    fn parse(field: &[u8]) -> Result<Names, BadLine> {
        if field.is_empty() {
            return Err(BadLine::NoKey);
        }
        // As in ssh, only the first byte of the field decides: no lists of hashed names.
        if field.starts_with(b"|") {
            let hashed = HashedName::parse(field).ok_or(BadLine::Hash)?;
            return Ok(Names::Hashed(Box::new(hashed)));
        }
        // Most lines hold one name or two, and for them this needs no second list.
        let plain = |name: &[u8]| !name.starts_with(b"!") && !name.iter().any(is_wildcard);
        if !field.split(|&b| b == b',').all(plain) {
            return Ok(Names::Patterns(Patterns::parse(field)));
        }
        let names = field.split(|&b| b == b',').filter(|name| !name.is_empty());
        let names = names.map(|name| name.to_ascii_lowercase().into());
        Ok(Names::Exact(names.collect()))
    }
}

fn is_wildcard(byte: &u8) -> bool {
    matches!(byte, b'*' | b'?')
}

/// A comma list of patterns, some of them negated (ssh_config(5), "PATTERNS").
#[derive(Debug)]
pub(super) struct Patterns(Vec<Pattern>);

#[derive(Debug)]
struct Pattern {
    negated: bool,
    glob: Box<[u8]>,
}

impl Patterns {
    fn parse(field: &[u8]) -> Patterns {
        let patterns = field.split(|&b| b == b',').map(|part| {
            let (negated, glob) = match part.strip_prefix(b"!") {
                Some(glob) => (true, glob),
                None => (false, part),
            };
            let glob = glob.to_ascii_lowercase().into();
            Pattern { negated, glob }
        });
        Patterns(patterns.collect())
    }

    /// Whether the line speaks of this name, given in lower case. A negation that matches rules
    /// the name out whatever else the line says; negations alone match nothing.
    pub(super) fn matches(&self, name: &[u8]) -> bool {
        let mut positive = false;
        for pattern in &self.0 {
            if glob_matches(&pattern.glob, name) {
                if pattern.negated {
                    return false;
                }
                positive = true;
            }
        }
        positive
    }
}

/// `*` is any number of bytes, `?` is one; nothing else is special, brackets of `[host]:port`
/// included. Goes back to the last `*` only, so a hostile pattern costs at most the product of
/// both lengths.
fn glob_matches(glob: &[u8], name: &[u8]) -> bool {
    let (mut g, mut n) = (0, 0);
    // Where to go on after a mismatch: behind the last star, one byte of the name further.
    let mut retry = None;
    while n < name.len() {
        match glob.get(g) {
            Some(b'*') => {
                g += 1;
                retry = Some((g, n));
            }
            Some(&b) if b == b'?' || b == name[n] => {
                g += 1;
                n += 1;
            }
            _ => match retry {
                Some((behind_star, from)) => {
                    g = behind_star;
                    n = from + 1;
                    retry = Some((g, n));
                }
                None => return false,
            },
        }
    }
    glob[g..].iter().all(|&b| b == b'*')
}

/// A name as HashKnownHosts writes it: `|1|salt|hash`, where the hash is HMAC-SHA1 of the name in
/// lower case, keyed with the salt.
///
/// Every lookup has to try every hashed line, so what HMAC (RFC 2104) does with the key alone is
/// done once, here. A fresh HMAC object of OpenSSL 3 for each try takes some 40 times as long.
pub(super) struct HashedName {
    inner: Sha1,
    outer: Sha1,
    hash: [u8; DIGEST],
}

impl std::fmt::Debug for HashedName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("HashedName").field(&self.hash).finish()
    }
}

impl HashedName {
    fn parse(field: &[u8]) -> Option<HashedName> {
        let mut parts = field.strip_prefix(b"|1|")?.split(|&b| b == b'|');
        let salt = decode_digest(parts.next()?)?;
        let hash = decode_digest(parts.next()?)?;
        match parts.next() {
            None => Some(HashedName::new(salt, hash)),
            Some(_) => None,
        }
    }

    fn new(salt: [u8; DIGEST], hash: [u8; DIGEST]) -> HashedName {
        let (inner, outer) = hmac_states(salt);
        HashedName { inner, outer, hash }
    }

    /// Whether this is the hash of the name, given in lower case.
    pub(super) fn matches(&self, name: &[u8]) -> bool {
        hmac(self.inner.clone(), self.outer.clone(), name) == self.hash
    }
}

/// Writes a name, given in lower case, as `|1|salt|hash`.
pub(super) fn hash_name(name: &[u8], salt: [u8; DIGEST]) -> String {
    let (inner, outer) = hmac_states(salt);
    let hash = hmac(inner, outer, name);
    format!("|1|{}|{}", STANDARD.encode(salt), STANDARD.encode(hash))
}

fn decode_digest(encoded: &[u8]) -> Option<[u8; DIGEST]> {
    STANDARD.decode(encoded).ok()?.try_into().ok()
}

/// The two halves of HMAC-SHA1 after their key block (RFC 2104, section 2).
fn hmac_states(key: [u8; DIGEST]) -> (Sha1, Sha1) {
    let keyed = |pad: u8| {
        let mut block = [pad; 64];
        for (byte, key) in block.iter_mut().zip(key) {
            *byte ^= key;
        }
        let mut state = Sha1::new();
        state.update(&block);
        state
    };
    (keyed(0x36), keyed(0x5c))
}

fn hmac(mut inner: Sha1, mut outer: Sha1, text: &[u8]) -> [u8; DIGEST] {
    inner.update(text);
    outer.update(&inner.finish());
    outer.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn glob(glob: &str, name: &str) -> bool {
        glob_matches(glob.as_bytes(), name.as_bytes())
    }

    #[test]
    fn stars_and_question_marks_match_as_in_ssh() {
        for (pattern, name) in [
            ("*", ""),
            ("*", "a"),
            ("a*c", "abbc"),
            ("a*b*c", "axbxbxc"),
            ("?.b", "a.b"),
            ("**a**", "a"),
            ("[*]:22??", "[h]:2222"),
            ("*ab", "aab"),
        ] {
            assert!(glob(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [
            ("", "a"),
            ("?", ""),
            ("a*c", "ab"),
            ("a?", "a"),
            ("[ab]", "a"),
            ("a*b*c", "acb"),
        ] {
            assert!(!glob(pattern, name), "{pattern} {name}");
        }
    }

    #[test]
    fn a_hostile_pattern_takes_no_exponential_time() {
        assert!(!glob(&"*a".repeat(200), &("a".repeat(199) + "b")));
    }

    #[test]
    fn a_matching_negation_rules_the_whole_line_out() {
        let patterns = Patterns::parse(b"*.Example,!bad.example");
        assert!(patterns.matches(b"good.example"));
        assert!(!patterns.matches(b"bad.example"));
        assert!(!Patterns::parse(b"!bad.example").matches(b"good.example"));
    }

    #[test]
    fn hmac_is_that_of_rfc_2202() {
        // Test case 1, the one with a key of 20 bytes and a short text.
        let expected = [
            0xb6, 0x17, 0x31, 0x86, 0x55, 0x05, 0x72, 0x64, 0xe2, 0x8b, 0xc0, 0xb6, 0xfb, 0x37,
            0x8c, 0x8e, 0xf1, 0x46, 0xbe, 0x00,
        ];
        let (inner, outer) = hmac_states([0x0b; 20]);
        assert_eq!(hmac(inner, outer, b"Hi There"), expected);
    }

    #[test]
    fn damaged_hashes_are_told() {
        for field in ["|", "|1|", "|2|a|b", "|1|AAAA|AAAA", "|1|a,b"] {
            let line = format!("{field} ssh-ed25519 AAAA");
            assert_eq!(parse(line.as_bytes()).unwrap_err(), BadLine::Hash);
        }
        let good = hash_name(b"h", [7; 20]);
        assert!(HashedName::parse(good.as_bytes()).is_some());
        assert!(HashedName::parse(format!("{good}|x").as_bytes()).is_none());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn no_near_miss_makes_it_panic(
            line in "(@revoked |@x\t)?[a*?!,|1=\\[\\]:]{0,9}( |\t)?(ssh-rsa|12)?( |\t)?[A-D=]{0,24}\r?"
        ) {
            let _ = parse(line.as_bytes());
        }
    }
}
