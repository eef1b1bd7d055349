//! User keys for the tests, made by `ssh-keygen`.

use std::path::PathBuf;
use std::process::Command;

use super::{Hosts, succeed};

/// The file format of a private key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyFormat {
    /// `-----BEGIN OPENSSH PRIVATE KEY-----`
    OpenSsh,
    /// `-----BEGIN RSA PRIVATE KEY-----` and its like; not for Ed25519.
    Pem,
    /// `-----BEGIN PRIVATE KEY-----`, or `ENCRYPTED PRIVATE KEY`; not for
    /// Ed25519.
    Pkcs8,
}

impl Hosts {
    /// Makes a key pair and returns the path of the private key; the public
    /// one is beside it, see [`public_key`].
    ///
    /// `kind` and `options` are as for `ssh-keygen`: `"rsa"`, `["-b", "3072"]`.
    /// An empty `passphrase` means none. No host knows the key yet: see
    /// [`Hosts::authorize`] and [`Host::authorize`](super::Host::authorize).
    pub fn keygen(
        &self,
        kind: &str,
        options: &[&str],
        format: KeyFormat,
        passphrase: &str,
    ) -> PathBuf {
        let folder = tempfile::Builder::new()
            .prefix("key-")
            .tempdir_in(self.dir())
            .expect("the harness can write to its own directory")
            .keep();
        let path = folder.join(format!("id_{kind}"));
        let mut keygen = Command::new("ssh-keygen");
        keygen.args(["-q", "-t", kind]).args(options);
        match format {
            KeyFormat::OpenSsh => {}
            KeyFormat::Pem => drop(keygen.args(["-m", "PEM"])),
            KeyFormat::Pkcs8 => drop(keygen.args(["-m", "PKCS8"])),
        }
        keygen.args(["-C", "test", "-N", passphrase, "-f"]);
        succeed(keygen.arg(&path));
        path
    }
}

/// The public half of a private key made by [`Hosts::keygen`].
pub fn public_key(private: impl Into<PathBuf>) -> PathBuf {
    let mut path = private.into().into_os_string();
    path.push(".pub");
    path.into()
}
