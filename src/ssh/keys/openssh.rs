//! OpenSSH's own format, `openssh-key-v1` (PROTOCOL.key in its sources).
//!
//! The `ssh-key` crate is no way out: up to 0.6 it refuses every fourth key on
//! the curve P-521, those whose secret number begins with a zero byte.

use openssl::error::ErrorStack;
use openssl::memcmp;
use openssl::pkey::{Id, PKey, Private};
use openssl::sign::Signer;
use openssl::symm::{self, Crypter, Mode, decrypt_aead};
use zeroize::Zeroizing;

use super::envelope::unsupported_dsa;
use super::material::{self, Algorithm, RsaNumbers, room};
use super::{Fault, KeyProblem, Secret};

const MAGIC: &[u8] = b"openssh-key-v1\0";

/// 16 rounds are usual and take a tenth of a second; these take minutes.
const MAX_ROUNDS: u32 = 1 << 16;

/// How the private half is encrypted.
#[derive(Clone, Copy)]
struct Cipher {
    name: &'static str,
    key: usize,
    iv: usize,
    block: usize,
    tag: usize,
    kind: Kind,
}

#[derive(Clone, Copy)]
enum Kind {
    Clear,
    /// CBC and CTR.
    Plain(fn() -> symm::Cipher),
    Gcm(fn() -> symm::Cipher),
    ChaCha,
}

const CLEAR: Cipher = Cipher {
    name: "none",
    key: 0,
    iv: 0,
    block: 8,
    tag: 0,
    kind: Kind::Clear,
};

/// All that OpenSSH offers today.
const CIPHERS: [Cipher; 12] = [
    CLEAR,
    plain("aes256-ctr", 32, symm::Cipher::aes_256_ctr),
    plain("aes192-ctr", 24, symm::Cipher::aes_192_ctr),
    plain("aes128-ctr", 16, symm::Cipher::aes_128_ctr),
    plain("aes256-cbc", 32, symm::Cipher::aes_256_cbc),
    plain("aes192-cbc", 24, symm::Cipher::aes_192_cbc),
    plain("aes128-cbc", 16, symm::Cipher::aes_128_cbc),
    plain("rijndael-cbc@lysator.liu.se", 32, symm::Cipher::aes_256_cbc),
    gcm("aes256-gcm@openssh.com", 32, symm::Cipher::aes_256_gcm),
    gcm("aes128-gcm@openssh.com", 16, symm::Cipher::aes_128_gcm),
    Cipher {
        name: "chacha20-poly1305@openssh.com",
        key: 64,
        iv: 0,
        block: 8,
        tag: 16,
        kind: Kind::ChaCha,
    },
    Cipher {
        name: "3des-cbc",
        key: 24,
        iv: 8,
        block: 8,
        tag: 0,
        kind: Kind::Plain(symm::Cipher::des_ede3_cbc),
    },
];

/// What OpenSSH once offered. An error may name these: names from the file may
/// be anything.
const OLD_CIPHERS: [&str; 5] = [
    "blowfish-cbc",
    "cast128-cbc",
    "arcfour",
    "arcfour128",
    "arcfour256",
];

const fn plain(name: &'static str, key: usize, cipher: fn() -> symm::Cipher) -> Cipher {
    Cipher {
        name,
        key,
        iv: 16,
        block: 16,
        tag: 0,
        kind: Kind::Plain(cipher),
    }
}

const fn gcm(name: &'static str, key: usize, cipher: fn() -> symm::Cipher) -> Cipher {
    Cipher {
        name,
        key,
        iv: 12,
        block: 16,
        tag: 16,
        kind: Kind::Gcm(cipher),
    }
}

/// A key file in this format: the public half, and the private one, mostly
/// encrypted.
pub(super) struct Container {
    cipher: Cipher,
    salt: Vec<u8>,
    rounds: u32,
    algorithm: Algorithm,
    public: Vec<u8>,
    private: Secret,
    tag: Vec<u8>,
}

impl Container {
    /// Takes the format apart, as far as that goes without a passphrase.
    pub(super) fn parse(data: &[u8]) -> Result<Self, KeyProblem> {
        use KeyProblem::{Damaged, Truncated};
        let mut wire = Wire::new(data.strip_prefix(MAGIC).ok_or(Damaged)?);
        let cipher_name = wire.string().ok_or(Truncated)?;
        let kdf = wire.string().ok_or(Truncated)?;
        let options = wire.string().ok_or(Truncated)?;
        let keys = wire.u32().ok_or(Truncated)?;
        if keys != 1 {
            return Err(KeyProblem::Unsupported {
                what: "files with several keys",
                advice: "give each key a file of its own",
            });
        }
        let public = wire.string().ok_or(Truncated)?;
        let algorithm = algorithm(public)?;
        let cipher = cipher(cipher_name)?;
        let private = wire.string().ok_or(Truncated)?;
        let tag = wire.take(cipher.tag).ok_or(Truncated)?;
        let (salt, rounds) = match (cipher.kind, kdf) {
            (Kind::Clear, b"none") => (&[][..], 0),
            (Kind::Clear, _) => return Err(Damaged),
            (_, b"bcrypt") => {
                let mut options = Wire::new(options);
                options.string().zip(options.u32()).ok_or(Damaged)?
            }
            _ => return Err(KeyProblem::UnsupportedCipher("an unknown method")),
        };
        if rounds > MAX_ROUNDS {
            return Err(KeyProblem::TooManyRounds(rounds));
        }
        if !wire.is_empty() || private.is_empty() || private.len() % cipher.block != 0 {
            return Err(Damaged);
        }
        Ok(Self {
            cipher,
            salt: salt.to_vec(),
            rounds,
            algorithm,
            public: public.to_vec(),
            private: Zeroizing::new(private.to_vec()),
            tag: tag.to_vec(),
        })
    }

    pub(super) fn is_encrypted(&self) -> bool {
        !matches!(self.cipher.kind, Kind::Clear)
    }

    pub(super) fn public_blob(&self) -> &[u8] {
        &self.public
    }

    #[cfg(test)]
    pub(super) fn rounds(&self) -> u32 {
        self.rounds
    }

    /// Decrypts the private half and takes it apart.
    pub(super) fn open(&self, passphrase: Option<&str>) -> Result<PKey<Private>, Fault> {
        let clear = match passphrase {
            Some(passphrase) => self.decrypt(passphrase)?,
            None => self.private.clone(),
        };
        let mut wire = Wire::new(&clear);
        let checks = wire.u32().zip(wire.u32()).ok_or(KeyProblem::Damaged)?;
        if checks.0 != checks.1 {
            return Err(if self.is_encrypted() {
                Fault::Passphrase
            } else {
                KeyProblem::Damaged.into()
            });
        }
        let key = private_key(self.algorithm, &mut wire).ok_or(KeyProblem::Damaged)?;
        let (_, public) = material::public_half(&key)?;
        if public != self.public {
            return Err(KeyProblem::Damaged.into());
        }
        Ok(key)
    }

    fn decrypt(&self, passphrase: &str) -> Result<Secret, Fault> {
        let cipher = self.cipher;
        let mut key = Zeroizing::new(vec![0; cipher.key + cipher.iv]);
        bcrypt_pbkdf::bcrypt_pbkdf(passphrase, &self.salt, self.rounds, &mut key)
            .map_err(|_| KeyProblem::Damaged)?;
        let (key, iv) = key.split_at(cipher.key);
        let unsupported = |_: ErrorStack| KeyProblem::UnsupportedCipher(cipher.name);
        match cipher.kind {
            Kind::Clear => Ok(self.private.clone()),
            Kind::Plain(algorithm) => {
                let mut crypter =
                    Crypter::new(algorithm(), Mode::Decrypt, key, Some(iv)).map_err(unsupported)?;
                crypter.pad(false);
                let mut clear = room(self.private.len());
                let length = crypter
                    .update(&self.private, &mut clear)
                    .map_err(unsupported)?;
                clear.truncate(length);
                Ok(clear)
            }
            Kind::Gcm(algorithm) => {
                decrypt_aead(algorithm(), key, Some(iv), &[], &self.private, &self.tag)
                    .map(Zeroizing::new)
                    .map_err(|_| Fault::Passphrase)
            }
            Kind::ChaCha => chacha(key, &self.private, &self.tag)
                .map_err(unsupported)?
                .ok_or(Fault::Passphrase),
        }
    }
}

/// OpenSSH's ChaCha20-Poly1305, packet number 0, without the length whose half
/// of the key goes unused. `None` if the tag does not fit.
fn chacha(key: &[u8], sealed: &[u8], tag: &[u8]) -> Result<Option<Secret>, ErrorStack> {
    let start = [0; 16];
    let cipher = symm::Cipher::chacha20();
    let mut crypter = Crypter::new(cipher, Mode::Decrypt, &key[..32], Some(&start))?;
    // The first block of the key stream is for the tag, the rest for the text.
    let mut first = room(64);
    crypter.update(&[0; 64], &mut first)?;
    let one_time = PKey::private_key_from_raw_bytes(&first[..32], Id::POLY1305)?;
    let computed = Signer::new_without_digest(&one_time)?.sign_oneshot_to_vec(sealed)?;
    if computed.len() != tag.len() || !memcmp::eq(&computed, tag) {
        return Ok(None);
    }
    let mut clear = room(sealed.len());
    let length = crypter.update(sealed, &mut clear)?;
    clear.truncate(length);
    Ok(Some(clear))
}

fn cipher(name: &[u8]) -> Result<Cipher, KeyProblem> {
    let known = |other: &str| other.as_bytes() == name;
    CIPHERS
        .into_iter()
        .find(|cipher| known(cipher.name))
        .ok_or_else(|| {
            let old = OLD_CIPHERS.into_iter().find(|name| known(name));
            KeyProblem::UnsupportedCipher(old.unwrap_or("an unknown cipher"))
        })
}

/// The type of a key, from its public half.
fn algorithm(public: &[u8]) -> Result<Algorithm, KeyProblem> {
    let name = Wire::new(public).string().ok_or(KeyProblem::Damaged)?;
    if let Some(algorithm) = Algorithm::ALL
        .into_iter()
        .find(|algorithm| algorithm.name().as_bytes() == name)
    {
        return Ok(algorithm);
    }
    Err(match name {
        b"ssh-dss" => unsupported_dsa(),
        name if name.starts_with(b"sk-") => KeyProblem::Unsupported {
            what: "keys in a hardware token (sk)",
            advice: "add it to an ssh-agent with `ssh-add`",
        },
        _ => KeyProblem::Unsupported {
            what: "keys of this type",
            advice: "use Ed25519, ECDSA or RSA",
        },
    })
}

/// What follows the two check numbers: the key, its comment, and padding.
fn private_key(algorithm: Algorithm, wire: &mut Wire<'_>) -> Option<PKey<Private>> {
    if wire.string()? != algorithm.name().as_bytes() {
        return None;
    }
    let key = match algorithm {
        Algorithm::Ed25519 => {
            wire.string()?;
            // The seed, and the public key once more.
            material::ed25519(wire.string()?.split_at_checked(32)?.0)
        }
        Algorithm::Ecdsa(curve) => {
            if wire.string()? != curve.name().as_bytes() {
                return None;
            }
            material::ecdsa(curve, wire.string()?, wire.string()?)
        }
        Algorithm::Rsa => material::rsa(&RsaNumbers {
            n: wire.string()?,
            e: wire.string()?,
            d: wire.string()?,
            iqmp: wire.string()?,
            p: wire.string()?,
            q: wire.string()?,
        }),
    };
    let _comment = wire.string()?;
    let padding = wire.rest();
    (padding
        .iter()
        .zip(1u8..)
        .all(|(&byte, count)| byte == count)
        && padding.len() < 16)
        .then_some(key.ok()?)
}

/// A reader of SSH's wire format. Nothing is returned where the data ends too
/// early.
pub(super) struct Wire<'a>(&'a [u8]);

impl<'a> Wire<'a> {
    pub(super) fn new(data: &'a [u8]) -> Self {
        Self(data)
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn u32(&mut self) -> Option<u32> {
        let bytes = self.take(4)?;
        Some(u32::from_be_bytes(bytes.try_into().ok()?))
    }

    pub(super) fn string(&mut self) -> Option<&'a [u8]> {
        let length = self.u32()?;
        self.take(usize::try_from(length).ok()?)
    }

    fn rest(&self) -> &'a [u8] {
        self.0
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Appends a string in SSH's wire format.
pub(super) fn put_string(buffer: &mut Vec<u8>, string: &[u8]) {
    let length = u32::try_from(string.len()).expect("a key's parts are shorter than its file");
    buffer.extend_from_slice(&length.to_be_bytes());
    buffer.extend_from_slice(string);
}
