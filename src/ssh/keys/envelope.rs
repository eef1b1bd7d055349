//! The text around a key: finding the block that holds it, and recognizing what
//! people give by mistake. No crate does that: their PEM parsers take a file that is
//! right, or say that it is wrong.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::problem::{KeyProblem, MAX_FILE, Secret, string, unsupported_dsa};

/// What the line `-----BEGIN …-----` promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Label {
    OpenSsh,
    Rsa,
    Ec,
    Pkcs8,
    EncryptedPkcs8,
}

/// The first private key of a file.
pub(super) struct Block {
    pub(super) label: Label,
    /// The value of the header `DEK-Info`, if the block says that it is
    /// encrypted.
    pub(super) encryption: Option<String>,
    pub(super) data: Secret,
}

/// What a file holds.
pub(super) enum Contents {
    Private(Block),
    Public,
}

/// Looks for a private key. Text before and after it is ignored, as
/// for OpenSSL.
pub(super) fn contents(file: &[u8]) -> Result<Contents, KeyProblem> {
    if file.trim_ascii().is_empty() {
        return Err(KeyProblem::Empty);
    }
    let mut lines = lines(file);
    while let Some(line) = lines.next() {
        if let Some(name) = label_text(line, b"-----BEGIN ")
            && let Some(label) = label(name)?
        {
            return block(label, name, lines).map(Contents::Private);
        }
    }
    Err(match something_else(file)? {
        Some(contents) => return Ok(contents),
        None => KeyProblem::NoKey,
    })
}

/// The public key in SSH's wire format, from the text of a `.pub` file.
pub(super) fn public_blob(file: &[u8]) -> Option<Vec<u8>> {
    let line = lines(file).find(|line| !line.is_empty() && !line.starts_with(b"#"))?;
    let mut words = line
        .split(u8::is_ascii_whitespace)
        .filter(|word| !word.is_empty());
    let name = words.next()?;
    let blob = STANDARD.decode(words.next()?).ok()?;
    (string(&mut blob.as_slice()).ok()? == name).then_some(blob)
}

/// The lines of a file, from whatever system, without what surrounds them.
fn lines(file: &[u8]) -> impl Iterator<Item = &[u8]> {
    let file = file.strip_prefix("\u{feff}".as_bytes()).unwrap_or(file);
    file.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii)
}

fn label_text<'a>(line: &'a [u8], start: &[u8]) -> Option<&'a [u8]> {
    line.strip_prefix(start)?.strip_suffix(b"-----")
}

/// The private keys that we read. Those that we know and do not read are an
/// error, all else (public keys, curve parameters, certificates) is passed over.
fn label(name: &[u8]) -> Result<Option<Label>, KeyProblem> {
    Ok(Some(match name {
        b"OPENSSH PRIVATE KEY" => Label::OpenSsh,
        b"RSA PRIVATE KEY" => Label::Rsa,
        b"EC PRIVATE KEY" => Label::Ec,
        b"PRIVATE KEY" => Label::Pkcs8,
        b"ENCRYPTED PRIVATE KEY" => Label::EncryptedPkcs8,
        b"DSA PRIVATE KEY" => return Err(unsupported_dsa()),
        _ => return Ok(None),
    }))
}

fn block<'a>(
    label: Label,
    name: &[u8],
    lines: impl Iterator<Item = &'a [u8]>,
) -> Result<Block, KeyProblem> {
    // As long as it can become: a vector that grows leaves copies behind.
    let mut text = Zeroizing::new(Vec::with_capacity(MAX_FILE));
    let mut encrypted = false;
    let mut encryption = None;
    for line in lines {
        if let Some(end) = label_text(line, b"-----END ") {
            if end != name {
                return Err(KeyProblem::Damaged);
            }
            let mut data = Zeroizing::new(Vec::with_capacity(text.len()));
            STANDARD
                .decode_vec(&*text, &mut data)
                .map_err(|_| KeyProblem::Damaged)?;
            if data.is_empty() {
                return Err(KeyProblem::Damaged);
            }
            return Ok(Block {
                label,
                // Encrypted, but nothing says how: that is for the caller to refuse.
                encryption: encrypted.then(|| encryption.unwrap_or_default()),
                data,
            });
        }
        match line.iter().position(|&byte| byte == b':') {
            Some(colon) if text.is_empty() => {
                let value = line[colon + 1..].trim_ascii();
                match &line[..colon] {
                    b"Proc-Type" => encrypted = value.ends_with(b"ENCRYPTED"),
                    b"DEK-Info" => encryption = String::from_utf8(value.to_vec()).ok(),
                    _ => {}
                }
            }
            _ => text.extend_from_slice(line),
        }
    }
    Err(KeyProblem::Truncated)
}

/// What a file without a private key for us is.
fn something_else(file: &[u8]) -> Result<Option<Contents>, KeyProblem> {
    if file.starts_with(b"SSH PRIVATE KEY FILE FORMAT 1.1\n") {
        return Err(KeyProblem::Unsupported {
            what: "keys for version 1 of SSH",
            advice: "make a new key with `ssh-keygen -t ed25519`",
        });
    }
    for line in lines(file).filter(|line| !line.is_empty()) {
        if line.starts_with(b"PuTTY-User-Key-File-") {
            return Err(KeyProblem::Unsupported {
                what: "keys in PuTTY's format",
                advice: "convert it with `puttygen FILE -O private-openssh -o NEWFILE`",
            });
        }
        if line.starts_with(b"---- BEGIN SSH2 ENCRYPTED PRIVATE KEY") {
            return Err(KeyProblem::Unsupported {
                what: "private keys in SSH2 format",
                advice: "convert it with `ssh-keygen -i -f FILE`",
            });
        }
        if line.starts_with(b"-----BEGIN CERTIFICATE") {
            return Err(KeyProblem::Certificate);
        }
        if line.starts_with(b"---- BEGIN SSH2 PUBLIC KEY")
            || label_text(line, b"-----BEGIN ").is_some_and(|name| name.ends_with(b"PUBLIC KEY"))
        {
            return Ok(Some(Contents::Public));
        }
    }
    let Some(blob) = public_blob(file) else {
        return Ok(None);
    };
    match string(&mut blob.as_slice()) {
        Ok(name) if name.ends_with(b"-cert-v01@openssh.com") => Err(KeyProblem::Certificate),
        _ => Ok(Some(Contents::Public)),
    }
}
