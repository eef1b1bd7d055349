//! What can be wrong with a key file, and what all readers of key files share.

use std::io;
use std::path::Path;

use ssh_key::encoding::{self, Reader};
use thiserror::Error;
use zeroize::Zeroizing;

/// Longer files are no keys: an RSA key of 16384 bits takes 13 KiB.
pub(super) const MAX_FILE: usize = 64 << 10;

/// Secret bytes, wiped when dropped.
pub(super) type Secret = Zeroizing<Vec<u8>>;

/// Why a private key cannot be used.
#[derive(Debug, Error)]
pub(crate) enum KeyError {
    /// A file that is missing or not ours to read.
    #[error("can't open private key '{file}'")]
    Open {
        /// The file, as text that a terminal can show.
        file: String,
        /// What the system said.
        source: io::Error,
    },
    /// A disk that fails.
    #[error("can't read private key '{file}'")]
    Read {
        /// The file, as text that a terminal can show.
        file: String,
        /// What the system said.
        source: io::Error,
    },
    /// A file that holds no key, or none that we can use.
    #[error("can't use private key '{file}': {problem}")]
    Unusable {
        /// The file, as text that a terminal can show.
        file: String,
        /// What is wrong with it, and what to do about it.
        problem: KeyProblem,
    },
    /// The key is encrypted, and there is no passphrase.
    #[error("can't use private key '{file}': it is encrypted and needs its passphrase")]
    PassphraseNeeded {
        /// The file, as text that a terminal can show.
        file: String,
    },
    /// The passphrase does not open the key.
    #[error("invalid passphrase for private key '{file}'")]
    InvalidPassphrase {
        /// The file, as text that a terminal can show.
        file: String,
    },
}

/// What is wrong with a key file, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum KeyProblem {
    /// `-k ~/.ssh`.
    #[error("it is a directory: name the key file in it")]
    Directory,
    /// No key is that long.
    #[error("it is larger than 64 KiB, so it is no private key")]
    TooBig,
    /// A file without content.
    #[error("it is empty")]
    Empty,
    /// Some other file.
    #[error("it holds no private key in OpenSSH, PEM or PKCS#8 format")]
    NoKey,
    /// The other half.
    #[error("it is a public key: give {}", private_half(.private.as_deref()))]
    PublicKey {
        /// The name that the private key should have.
        private: Option<String>,
    },
    /// A certificate, which only goes along with a key.
    #[error("it is a certificate: give the private key that belongs to it")]
    Certificate,
    /// A key that we cannot use.
    #[error("{what} are not supported: {advice}")]
    Unsupported {
        /// The keys of this kind, in the plural.
        what: &'static str,
        /// What to do instead.
        advice: &'static str,
    },
    /// A key encrypted in a way that we cannot undo.
    #[error(
        "it is encrypted with {0}, which is not supported: encrypt it anew with `ssh-keygen -p`"
    )]
    UnsupportedCipher(&'static str),
    /// A key that would take minutes to decrypt, most likely a damaged one.
    #[error("its passphrase would take {0} rounds to check, more than the limit of 65536")]
    TooManyRounds(u32),
    /// A file whose end is missing.
    #[error("the end of the file is missing: copy it again")]
    Truncated,
    /// A file that begins as a key and does not make sense.
    #[error("the file is damaged: copy it again")]
    Damaged,
}

fn private_half(private: Option<&str>) -> String {
    private.map_or_else(
        || "the private key that belongs to it".to_owned(),
        |name| format!("the private key, '{name}'"),
    )
}

/// Why a key does not open, before the file's name is added.
pub(super) enum Fault {
    Passphrase,
    Problem(KeyProblem),
}

impl From<KeyProblem> for Fault {
    fn from(problem: KeyProblem) -> Self {
        Self::Problem(problem)
    }
}

impl Fault {
    pub(super) fn of(self, path: &Path) -> KeyError {
        let file = shown(path);
        match self {
            Self::Passphrase => KeyError::InvalidPassphrase { file },
            Self::Problem(problem) => KeyError::Unusable { file, problem },
        }
    }
}

/// A file's name without the control characters that it may hold.
pub(super) fn shown(path: &Path) -> String {
    let mut text = String::new();
    for c in path.to_string_lossy().chars() {
        if c.is_control() {
            text.extend(c.escape_default());
        } else {
            text.push(c);
        }
    }
    text
}

pub(super) fn unsupported_dsa() -> KeyProblem {
    KeyProblem::Unsupported {
        what: "DSA keys",
        advice: "servers refuse them too, make a new key with `ssh-keygen -t ed25519`",
    }
}

/// Reads a string of SSH's wire format in place: `Vec::decode` would leave an unwiped
/// copy of what is secret.
pub(super) fn string<'a>(data: &mut &'a [u8]) -> encoding::Result<&'a [u8]> {
    data.read_prefixed(|string| Ok(*string))
}
