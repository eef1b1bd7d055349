//! OpenSSL's formats: traditional PEM (`RSA PRIVATE KEY`, `EC PRIVATE KEY`) and
//! PKCS#8.
//!
//! OpenSSL must never see the text of a key without a passphrase or a callback:
//! it would ask for one on the terminal by itself.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use openssl::ec::EcKey;
use openssl::error::ErrorStack;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa;
use zeroize::Zeroizing;

use super::envelope::{Block, Label};
use super::problem::{Fault, KeyProblem, Secret};

/// The ciphers of `DEK-Info` that every OpenSSL has, and their block sizes.
const CIPHERS: [(&str, usize); 4] = [
    ("AES-128-CBC", 16),
    ("AES-192-CBC", 16),
    ("AES-256-CBC", 16),
    ("DES-EDE3-CBC", 8),
];

/// Those that it has no more, or not everywhere. An error may name these: names
/// from the file may be anything.
const OTHER_CIPHERS: [&str; 8] = [
    "DES-CBC",
    "RC2-CBC",
    "BF-CBC",
    "IDEA-CBC",
    "CAST5-CBC",
    "CAMELLIA-128-CBC",
    "CAMELLIA-256-CBC",
    "SEED-CBC",
];

/// A key in one of these formats.
pub(super) enum Parsed {
    Open(PKey<Private>),
    Sealed(Sealed),
}

/// An encrypted key.
pub(super) enum Sealed {
    /// Traditional PEM, with its headers.
    Pem(Secret),
    Pkcs8(Secret),
}

/// Parses a block that is not in OpenSSH's own format.
pub(super) fn parse(label: Label, block: Block) -> Result<Parsed, KeyProblem> {
    if let Some(dek) = &block.encryption {
        check_dek(dek, block.data.len())?;
        return Ok(Parsed::Sealed(Sealed::Pem(pem(label, dek, &block.data))));
    }
    whole_sequence(&block.data)?;
    if label == Label::EncryptedPkcs8 {
        return Ok(Parsed::Sealed(Sealed::Pkcs8(block.data)));
    }
    private_key(label, &block.data)
        .map(Parsed::Open)
        .map_err(|_| KeyProblem::Damaged)
}

impl Sealed {
    /// Decrypts the key. (A passphrase that is wrong may still find valid
    /// padding, once in 256 times, so junk inside means the same as bad padding.)
    pub(super) fn open(&self, passphrase: &str) -> Result<PKey<Private>, Fault> {
        let answer = |buffer: &mut [u8]| {
            let Some(place) = buffer.get_mut(..passphrase.len()) else {
                // Longer than OpenSSL takes, so it cannot be the right one.
                return Err(ErrorStack::get());
            };
            place.copy_from_slice(passphrase.as_bytes());
            Ok(passphrase.len())
        };
        let opened = match self {
            Self::Pem(text) => PKey::private_key_from_pem_callback(text, answer),
            Self::Pkcs8(der) => PKey::private_key_from_pkcs8_callback(der, answer),
        };
        opened.map_err(|errors| {
            if lacks_algorithm(&errors) {
                KeyProblem::UnsupportedCipher("an outdated or unknown cipher").into()
            } else {
                Fault::Passphrase
            }
        })
    }
}

/// Checks the header `DEK-Info`. OpenSSL does not tell a header that it cannot use
/// from a wrong passphrase.
fn check_dek(header: &str, length: usize) -> Result<(), KeyProblem> {
    let (name, iv) = header.split_once(',').ok_or(KeyProblem::Damaged)?;
    let (name, iv) = (name.trim(), iv.trim());
    let known = CIPHERS.into_iter().find(|(known, _)| *known == name);
    let Some((_, block_size)) = known else {
        let other = OTHER_CIPHERS.into_iter().find(|known| *known == name);
        let name = other.unwrap_or("an unknown cipher");
        return Err(KeyProblem::UnsupportedCipher(name));
    };
    if iv.len() != 2 * block_size || !iv.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(KeyProblem::Damaged);
    }
    if length.is_multiple_of(block_size) {
        Ok(())
    } else {
        Err(KeyProblem::Truncated)
    }
}

/// The text as OpenSSL wants it, whatever surrounded the lines in the file.
fn pem(label: Label, dek: &str, data: &[u8]) -> Secret {
    let label = match label {
        Label::Ec => "EC PRIVATE KEY",
        _ => "RSA PRIVATE KEY",
    };
    let body = Zeroizing::new(STANDARD.encode(data));
    // As long as it becomes: a vector that grows leaves copies behind.
    let mut text = Zeroizing::new(Vec::with_capacity(2 * body.len() + dek.len() + 200));
    let head = format!("-----BEGIN {label}-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: {dek}\n\n");
    text.extend_from_slice(head.as_bytes());
    for line in body.as_bytes().chunks(64) {
        text.extend_from_slice(line);
        text.push(b'\n');
    }
    text.extend_from_slice(format!("-----END {label}-----\n").as_bytes());
    text
}

fn private_key(label: Label, der: &[u8]) -> Result<PKey<Private>, ErrorStack> {
    match label {
        Label::Rsa => PKey::from_rsa(Rsa::private_key_from_der(der)?),
        Label::Ec => PKey::from_ec_key(EcKey::private_key_from_der(der)?),
        Label::Pkcs8 | Label::EncryptedPkcs8 | Label::OpenSsh => PKey::private_key_from_pkcs8(der),
    }
}

/// Whether OpenSSL failed for want of an algorithm: old ones live in a provider
/// that few have.
fn lacks_algorithm(errors: &ErrorStack) -> bool {
    errors.errors().iter().any(|error| {
        error.library() == Some("digital envelope routines")
            && error.reason().is_some_and(|reason| {
                reason.starts_with("unsupported") || reason.starts_with("unknown")
            })
    })
}

/// Checks that the data is one ASN.1 sequence, no less and no more: the only
/// way to see that an encrypted file was cut off. (The `openssl` crate shows
/// nothing of PKCS#8 but the key in it.)
fn whole_sequence(der: &[u8]) -> Result<(), KeyProblem> {
    let (&[tag, first], rest) = der.split_first_chunk().ok_or(KeyProblem::Truncated)?;
    if tag != 0x30 {
        return Err(KeyProblem::Damaged);
    }
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let count = usize::from(first & 0x7f);
        if count > 4 {
            return Err(KeyProblem::Damaged);
        }
        let (bytes, rest) = rest.split_at_checked(count).ok_or(KeyProblem::Truncated)?;
        let length = bytes
            .iter()
            .fold(0, |length, &byte| length << 8 | usize::from(byte));
        (length, rest)
    };
    match rest.len().cmp(&length) {
        std::cmp::Ordering::Less => Err(KeyProblem::Truncated),
        std::cmp::Ordering::Equal => Ok(()),
        std::cmp::Ordering::Greater => Err(KeyProblem::Damaged),
    }
}
