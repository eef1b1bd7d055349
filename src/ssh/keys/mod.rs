//! Private keys of the user, from their files to a parsed key that signs.
//!
//! [`read`] looks at a file and says at once what is wrong with it, so that
//! [`KeyFile::unlock`] can only fail on the passphrase or on what it hides. The
//! way through is `envelope` (which of the many texts that people call a key is
//! this?), then `openssh` (by the `ssh-key` crate) or `pem` (by OpenSSL), and last
//! `signing_key`, the one form in which every key is used: parsed once per run, and
//! shared by all threads. Logging in with it is [`super::auth`]'s part.
//!
//! # Why libssh2 does not read the files
//! It would decrypt an encrypted file twice for every login, and gives the same
//! error for a wrong passphrase, for none and for junk.
//!
//! # Secrets
//! No error and no `Debug` output holds a piece of a key file. Parsers' messages
//! are dropped where they arise, names of ciphers come from our own tables. What
//! is secret is wiped when it is dropped.

mod envelope;
mod openssh;
mod pem;
mod problem;
mod signing_key;

#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ssh_key::Algorithm;
use zeroize::Zeroizing;

use crate::hosts::known_hosts::fingerprint;
use envelope::{Contents, Label};
use problem::{Fault, MAX_FILE, Secret, shown};
use signing_key::SigningKey;

pub(crate) use problem::{KeyError, KeyProblem};

/// A private key file, read once.
pub(crate) struct KeyFile {
    path: PathBuf,
    state: State,
    /// The public key that an encrypted PEM or PKCS#8 file itself does not tell.
    public_beside: Option<Vec<u8>>,
}

enum State {
    Open(UserKey),
    /// An encrypted key in OpenSSH's format.
    OpenSsh(openssh::Container),
    /// An encrypted key in PEM or PKCS#8.
    Pem(pem::Sealed),
}

/// Reads the private key in `path`, and decrypts it if that takes no passphrase.
///
/// # Errors
/// If there is no such file, if it cannot be read, or if it is not a private key
/// that we can use. The error tells what it is instead, where we know.
pub(crate) fn read(path: &Path) -> Result<KeyFile, KeyError> {
    let content = read_file(path)?;
    let state = state(path, &content).map_err(|fault| fault.of(path))?;
    let public_beside = match state {
        State::Pem(_) => public_beside(path),
        State::Open(_) | State::OpenSsh(_) => None,
    };
    Ok(KeyFile {
        path: path.to_owned(),
        state,
        public_beside,
    })
}

fn state(path: &Path, content: &[u8]) -> Result<State, Fault> {
    let block = match envelope::contents(content)? {
        Contents::Private(block) => block,
        Contents::Public => {
            return Err(KeyProblem::PublicKey {
                private: private_name(path),
            }
            .into());
        }
    };
    let key = match block.label {
        Label::OpenSsh => {
            let container = openssh::Container::parse(&block.data)?;
            if container.is_encrypted() {
                return Ok(State::OpenSsh(container));
            }
            container.open(None)?
        }
        label => match pem::parse(label, block)? {
            pem::Parsed::Open(key) => SigningKey::new(key)?,
            pem::Parsed::Sealed(sealed) => return Ok(State::Pem(sealed)),
        },
    };
    Ok(State::Open(UserKey::new(path, key)?))
}

fn read_file(path: &Path) -> Result<Secret, KeyError> {
    let file = || shown(path);
    let unusable = |problem| Fault::Problem(problem).of(path);
    let mut opened = File::open(path).map_err(|source| KeyError::Open {
        file: file(),
        source,
    })?;
    if opened.metadata().is_ok_and(|metadata| metadata.is_dir()) {
        return Err(unusable(KeyProblem::Directory));
    }
    // Of one size from the beginning: a vector that grows leaves copies behind.
    let mut content = Zeroizing::new(vec![0; MAX_FILE + 1]);
    let mut length = 0;
    while length < content.len() {
        match opened.read(&mut content[length..]) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => {
                return Err(KeyError::Read {
                    file: file(),
                    source,
                });
            }
        }
    }
    if length > MAX_FILE {
        return Err(unusable(KeyProblem::TooBig));
    }
    content.truncate(length);
    Ok(content)
}

/// The public key in `<path>.pub`, if there is one.
fn public_beside(path: &Path) -> Option<Vec<u8>> {
    let mut name = OsString::from(path);
    name.push(".pub");
    let content = read_file(Path::new(&name)).ok()?;
    envelope::public_blob(&content)
}

/// `id_rsa` for `id_rsa.pub`.
fn private_name(path: &Path) -> Option<String> {
    (path.extension()? == "pub").then(|| shown(&path.with_extension("")))
}

impl KeyFile {
    /// The file.
    #[must_use]
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The permissions of the file, if it is ours and they let others at it. (ssh(1)
    /// would not use such a key.)
    #[must_use]
    pub(crate) fn exposing_mode(&self) -> Option<u32> {
        let metadata = std::fs::metadata(&self.path).ok()?;
        let is_ours = metadata.uid() == rustix::process::geteuid().as_raw();
        let mode = metadata.mode() & 0o777;
        (is_ours && metadata.is_file() && mode & 0o077 != 0).then_some(mode)
    }

    /// Whether [`unlock`](Self::unlock) needs a passphrase.
    #[must_use]
    pub(crate) fn is_encrypted(&self) -> bool {
        !matches!(self.state, State::Open(_))
    }

    /// The public key in SSH's wire format, as far as it is known without the
    /// passphrase.
    ///
    /// For an encrypted key in PEM or PKCS#8 it is what `<path>.pub` says, which
    /// need not be true: good for finding the key in an agent, and no more.
    #[must_use]
    pub(crate) fn public_blob(&self) -> Option<&[u8]> {
        match &self.state {
            State::Open(key) => Some(key.public_blob()),
            State::OpenSsh(container) => Some(container.public_blob()),
            State::Pem(_) => self.public_beside.as_deref(),
        }
    }

    /// Decrypts the key. A key that is not encrypted takes any passphrase, and
    /// none.
    ///
    /// # Errors
    /// If the passphrase is missing, wrong or empty (no encrypted key has an
    /// empty one), or if what it hides cannot be used.
    pub(crate) fn unlock(&self, passphrase: Option<&str>) -> Result<UserKey, KeyError> {
        if let State::Open(key) = &self.state {
            return Ok(key.clone());
        }
        let Some(passphrase) = passphrase else {
            return Err(KeyError::PassphraseNeeded {
                file: shown(&self.path),
            });
        };
        self.decrypt(passphrase)
            .map_err(|fault| fault.of(&self.path))
    }

    fn decrypt(&self, passphrase: &str) -> Result<UserKey, Fault> {
        if passphrase.is_empty() {
            return Err(Fault::Passphrase);
        }
        let key = match &self.state {
            State::Open(key) => return Ok(key.clone()),
            State::OpenSsh(container) => container.open(Some(passphrase))?,
            State::Pem(sealed) => SigningKey::new(sealed.open(passphrase)?)?,
        };
        Ok(UserKey::new(&self.path, key)?)
    }
}

impl fmt::Debug for KeyFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyFile")
            .field("path", &self.path)
            .field("encrypted", &self.is_encrypted())
            .finish_non_exhaustive()
    }
}

/// A private key, ready for logging in to any number of hosts.
///
/// Clones share one secret, which is wiped with the last of them.
#[derive(Clone)]
pub(crate) struct UserKey(Arc<Inner>);

struct Inner {
    path: PathBuf,
    key: SigningKey,
    algorithm: Algorithm,
    public_blob: Vec<u8>,
    fingerprint: String,
}

impl UserKey {
    fn new(path: &Path, key: SigningKey) -> Result<Self, KeyProblem> {
        let public_blob = key.public_blob()?;
        Ok(Self(Arc::new(Inner {
            path: path.to_owned(),
            algorithm: key.algorithm(),
            fingerprint: fingerprint(&public_blob),
            public_blob,
            key,
        })))
    }

    /// The file that the key comes from.
    #[must_use]
    pub(crate) fn path(&self) -> &Path {
        &self.0.path
    }

    /// The key's type as SSH names it: `ssh-ed25519`, `ecdsa-sha2-nistp256`,
    /// `ssh-rsa`.
    #[must_use]
    pub(crate) fn algorithm(&self) -> &str {
        self.0.algorithm.as_str()
    }

    /// `SHA256:…`, as `ssh-keygen -l` shows it.
    #[must_use]
    pub(crate) fn fingerprint(&self) -> &str {
        &self.0.fingerprint
    }

    /// The public key in SSH's wire format.
    #[must_use]
    pub(crate) fn public_blob(&self) -> &[u8] {
        &self.0.public_blob
    }

    /// Signs data with an algorithm of this key (`rsa-sha2-512`, …): what follows the
    /// algorithm's name in a signature on the wire. `None` if the key does not know the
    /// algorithm, or OpenSSL refuses to sign with it.
    #[must_use]
    pub(crate) fn sign(&self, algorithm: &[u8], data: &[u8]) -> Option<Vec<u8>> {
        self.0.key.sign(algorithm, data)
    }
}

impl fmt::Debug for UserKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UserKey")
            .field("path", &self.0.path)
            .field("algorithm", &self.algorithm())
            .field("fingerprint", &self.fingerprint())
            .finish_non_exhaustive()
    }
}
