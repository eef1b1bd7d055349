//! OpenSSL's formats: traditional PEM (`RSA PRIVATE KEY`, `EC PRIVATE KEY`) and
//! PKCS#8.
//!
//! OpenSSL must never see the text of a key without a passphrase or a callback:
//! it would ask for one on the terminal by itself.

use openssl::ec::EcKey;
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::pkcs5::bytes_to_key;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa;
use openssl::symm::{self, Crypter, Mode};
use zeroize::Zeroizing;

use super::envelope::{Block, Label};
use super::material::room;
use super::{Fault, KeyProblem, Secret};

/// OpenSSL's ciphers come from functions.
type NewCipher = fn() -> symm::Cipher;

/// The ciphers of `DEK-Info` that every OpenSSL has.
const CIPHERS: [(&str, NewCipher); 4] = [
    ("AES-128-CBC", symm::Cipher::aes_128_cbc),
    ("AES-192-CBC", symm::Cipher::aes_192_cbc),
    ("AES-256-CBC", symm::Cipher::aes_256_cbc),
    ("DES-EDE3-CBC", symm::Cipher::des_ede3_cbc),
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
pub(super) struct Sealed {
    label: Label,
    data: Secret,
    /// How a traditional PEM is encrypted; PKCS#8 says that inside.
    dek: Option<Dek>,
}

/// The header `DEK-Info`.
struct Dek {
    name: &'static str,
    cipher: NewCipher,
    iv: Vec<u8>,
}

/// Parses a block that is not in OpenSSH's own format.
pub(super) fn parse(label: Label, block: Block) -> Result<Parsed, KeyProblem> {
    let dek = block.encryption.as_deref().map(dek).transpose()?;
    if let Some(dek) = &dek {
        let size = (dek.cipher)().block_size();
        if !block.data.len().is_multiple_of(size) {
            return Err(KeyProblem::Truncated);
        }
    } else {
        whole_sequence(&block.data)?;
        if label != Label::EncryptedPkcs8 {
            let key = private_key(label, &block.data).map_err(|_| KeyProblem::Damaged)?;
            return Ok(Parsed::Open(key));
        }
    }
    Ok(Parsed::Sealed(Sealed {
        label,
        data: block.data,
        dek,
    }))
}

impl Sealed {
    /// Decrypts the key. (A passphrase that is wrong may still find valid
    /// padding, once in 256 times, so junk inside means the same as bad padding.)
    pub(super) fn open(&self, passphrase: &str) -> Result<PKey<Private>, Fault> {
        match &self.dek {
            Some(dek) => {
                let clear = dek.decrypt(&self.data, passphrase)?;
                private_key(self.label, &clear).map_err(|_| Fault::Passphrase)
            }
            None => PKey::private_key_from_pkcs8_callback(&self.data, |buffer| {
                let Some(place) = buffer.get_mut(..passphrase.len()) else {
                    // Longer than OpenSSL takes, so it cannot be the right one.
                    return Err(ErrorStack::get());
                };
                place.copy_from_slice(passphrase.as_bytes());
                Ok(passphrase.len())
            })
            .map_err(|errors| {
                if lacks_algorithm(&errors) {
                    KeyProblem::UnsupportedCipher("an outdated or unknown cipher").into()
                } else {
                    Fault::Passphrase
                }
            }),
        }
    }
}

impl Dek {
    fn decrypt(&self, data: &[u8], passphrase: &str) -> Result<Secret, Fault> {
        let cipher = (self.cipher)();
        let unsupported = |_: ErrorStack| KeyProblem::UnsupportedCipher(self.name);
        let salt = &self.iv[..8];
        let md5 = MessageDigest::md5();
        let key = bytes_to_key(cipher, md5, passphrase.as_bytes(), Some(salt), 1)
            .map(|pair| Zeroizing::new(pair.key))
            .map_err(unsupported)?;
        let mut crypter =
            Crypter::new(cipher, Mode::Decrypt, &key, Some(&self.iv)).map_err(unsupported)?;
        let mut clear = room(data.len());
        let mut length = crypter.update(data, &mut clear).map_err(unsupported)?;
        length += crypter
            .finalize(&mut clear[length..])
            .map_err(|_| Fault::Passphrase)?;
        clear.truncate(length);
        Ok(clear)
    }
}

fn dek(header: &str) -> Result<Dek, KeyProblem> {
    let (name, iv) = header.split_once(',').ok_or(KeyProblem::Damaged)?;
    let name = name.trim();
    let Some((name, cipher)) = CIPHERS.into_iter().find(|(known, _)| *known == name) else {
        let other = OTHER_CIPHERS.into_iter().find(|known| *known == name);
        let name = other.unwrap_or("an unknown cipher");
        return Err(KeyProblem::UnsupportedCipher(name));
    };
    let iv = hexadecimal(iv.trim()).ok_or(KeyProblem::Damaged)?;
    if Some(iv.len()) != cipher().iv_len() {
        return Err(KeyProblem::Damaged);
    }
    Ok(Dek { name, cipher, iv })
}

fn hexadecimal(text: &str) -> Option<Vec<u8>> {
    let digit = |&byte: &u8| char::from(byte).to_digit(16);
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    pairs
        .iter()
        .map(|[high, low]| u8::try_from(digit(high)? << 4 | digit(low)?).ok())
        .collect()
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
/// way to see that an encrypted file was cut off.
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
