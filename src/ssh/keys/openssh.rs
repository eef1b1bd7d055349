//! OpenSSH's own format, `openssh-key-v1` (PROTOCOL.key in its sources).
//!
//! Passphrases, ciphers and the wire format are those of the `ssh-key` crate. The
//! private numbers are taken apart here: `ssh_key::PrivateKey` (0.7.0-rc.12) refuses
//! each 256th key on the curve P-256, those whose secret number begins with a zero byte.

use openssl::pkey::{PKey, Private};
use ssh_key::cipher::Tag;
use ssh_key::encoding::{self, Decode, Reader};
use ssh_key::{Algorithm, Cipher, Kdf};
use zeroize::Zeroizing;

use super::problem::{Fault, KeyProblem, Secret, string, unsupported_dsa};
use super::signing_key::{self, RsaNumbers, SigningKey};

const MAGIC: &[u8] = b"openssh-key-v1\0";

/// 16 rounds are usual and take a tenth of a second; these take minutes.
const MAX_ROUNDS: u32 = 1 << 16;

/// What OpenSSH once offered. An error may name these: names from the file may
/// be anything.
const OLD_CIPHERS: [&str; 5] = [
    "blowfish-cbc",
    "cast128-cbc",
    "arcfour",
    "arcfour128",
    "arcfour256",
];

/// A key file in this format: the public half, and the private one, mostly
/// encrypted.
pub(super) struct Container {
    cipher: Cipher,
    kdf: Kdf,
    algorithm: Algorithm,
    public: Vec<u8>,
    private: Secret,
    tag: Option<Tag>,
}

impl Container {
    /// Takes the format apart, as far as that goes without a passphrase.
    pub(super) fn parse(data: &[u8]) -> Result<Self, KeyProblem> {
        use KeyProblem::Damaged;
        let truncated = |_: encoding::Error| KeyProblem::Truncated;
        let mut data = data.strip_prefix(MAGIC).ok_or(Damaged)?;
        let data = &mut data;
        let cipher_name = string(data).map_err(truncated)?;
        let mut kdf = *data;
        data.drain_prefixed().map_err(truncated)?;
        data.drain_prefixed().map_err(truncated)?;
        if u32::decode(data).map_err(truncated)? != 1 {
            return Err(KeyProblem::Unsupported {
                what: "files with several keys",
                advice: "give each key a file of its own",
            });
        }
        let public = string(data).map_err(truncated)?;
        let algorithm = algorithm(public)?;
        let cipher = cipher(cipher_name)?;
        let private = string(data).map_err(truncated)?;
        let mut tag = cipher.has_tag().then(Tag::default);
        if let Some(tag) = &mut tag {
            data.read(tag).map_err(truncated)?;
        }
        let kdf = parse_kdf(&mut kdf)?;
        if kdf.is_none() != cipher.is_none()
            || !data.is_finished()
            || private.is_empty()
            || private.len() % cipher.block_size() != 0
        {
            return Err(Damaged);
        }
        Ok(Self {
            cipher,
            kdf,
            algorithm,
            public: public.to_vec(),
            private: Zeroizing::new(private.to_vec()),
            tag,
        })
    }

    pub(super) fn is_encrypted(&self) -> bool {
        self.cipher.is_some()
    }

    pub(super) fn public_blob(&self) -> &[u8] {
        &self.public
    }

    #[cfg(test)]
    pub(super) fn rounds(&self) -> u32 {
        rounds(&self.kdf)
    }

    /// Decrypts the private half and takes it apart.
    pub(super) fn open(&self, passphrase: Option<&str>) -> Result<SigningKey, Fault> {
        let clear = match passphrase {
            Some(passphrase) => self.decrypt(passphrase)?,
            None => self.private.clone(),
        };
        let mut data = clear.as_slice();
        let damaged = |_: encoding::Error| KeyProblem::Damaged;
        let check = u32::decode(&mut data).map_err(damaged)?;
        if check != u32::decode(&mut data).map_err(damaged)? {
            return Err(if self.is_encrypted() {
                Fault::Passphrase
            } else {
                KeyProblem::Damaged.into()
            });
        }
        let key = self.private_key(data).ok_or(KeyProblem::Damaged)?;
        let key = SigningKey::new(key)?;
        if key.public_blob()? != self.public {
            return Err(KeyProblem::Damaged.into());
        }
        Ok(key)
    }

    fn decrypt(&self, passphrase: &str) -> Result<Secret, Fault> {
        if self.cipher.is_none() {
            return Ok(self.private.clone());
        }
        let (key, iv) = self
            .kdf
            .derive_key_and_iv(self.cipher, passphrase)
            .map_err(|_| KeyProblem::Damaged)?;
        let mut clear = self.private.clone();
        self.cipher
            .decrypt(&key, &iv, &mut clear, self.tag)
            .map_err(|_| Fault::Passphrase)?;
        Ok(clear)
    }

    /// What follows the two check numbers: the key, its comment, and padding.
    fn private_key(&self, mut data: &[u8]) -> Option<PKey<Private>> {
        let data = &mut data;
        let mut string = || string(data).ok();
        if string()? != self.algorithm.as_str().as_bytes() {
            return None;
        }
        let key = match self.algorithm {
            Algorithm::Ed25519 => {
                string()?;
                // The seed, and the public key once more.
                signing_key::ed25519(string()?.split_at_checked(32)?.0)
            }
            Algorithm::Ecdsa { curve } => {
                if string()? != curve.as_str().as_bytes() {
                    return None;
                }
                signing_key::ecdsa(curve, string()?, string()?)
            }
            _ => signing_key::rsa(&RsaNumbers {
                n: string()?,
                e: string()?,
                d: string()?,
                iqmp: string()?,
                p: string()?,
                q: string()?,
            }),
        };
        let _comment = string()?;
        let padding = *data;
        (padding
            .iter()
            .zip(1u8..)
            .all(|(&byte, count)| byte == count)
            && padding.len() < 16)
            .then_some(key.ok()?)
    }
}

fn parse_kdf(data: &mut &[u8]) -> Result<Kdf, KeyProblem> {
    let mut name = *data;
    let name = string(&mut name).map_err(|_| KeyProblem::Truncated)?;
    if !matches!(name, b"none" | b"bcrypt") {
        return Err(KeyProblem::UnsupportedCipher("an unknown method"));
    }
    let kdf = Kdf::decode(data).map_err(|_| KeyProblem::Damaged)?;
    match rounds(&kdf) {
        too_many if too_many > MAX_ROUNDS => Err(KeyProblem::TooManyRounds(too_many)),
        _ => Ok(kdf),
    }
}

fn rounds(kdf: &Kdf) -> u32 {
    match kdf {
        Kdf::Bcrypt { rounds, .. } => *rounds,
        _ => 0,
    }
}

fn cipher(name: &[u8]) -> Result<Cipher, KeyProblem> {
    match std::str::from_utf8(name).unwrap_or_default() {
        // What aes256-cbc was called before it had that name.
        "rijndael-cbc@lysator.liu.se" => Ok(Cipher::Aes256Cbc),
        name => Cipher::new(name).map_err(|_| {
            let old = OLD_CIPHERS.into_iter().find(|old| *old == name);
            KeyProblem::UnsupportedCipher(old.unwrap_or("an unknown cipher"))
        }),
    }
}

/// The type of a key, from its public half.
fn algorithm(mut public: &[u8]) -> Result<Algorithm, KeyProblem> {
    let name = string(&mut public).map_err(|_| KeyProblem::Damaged)?;
    let name = std::str::from_utf8(name).unwrap_or_default();
    match Algorithm::new(name) {
        Ok(
            algorithm @ (Algorithm::Ed25519
            | Algorithm::Ecdsa { .. }
            | Algorithm::Rsa { hash: None }),
        ) => Ok(algorithm),
        Ok(Algorithm::Dsa) => Err(unsupported_dsa()),
        _ if name.starts_with("sk-") => Err(KeyProblem::Unsupported {
            what: "keys in a hardware token (sk)",
            advice: "add it to an ssh-agent with `ssh-add`",
        }),
        _ => Err(KeyProblem::Unsupported {
            what: "keys of this type",
            advice: "use Ed25519, ECDSA or RSA",
        }),
    }
}
