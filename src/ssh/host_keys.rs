//! Whether a server is the one that it should be: what known_hosts says, under
//! the policy of the user.
//!
//! The files are read and searched by `hosts::known_hosts`; asking the user and
//! recording new keys is up to `run`, once for all hosts.

use std::os::unix::ffi::OsStrExt;

use crate::error::Tree;
use crate::event::HostKey;
use crate::hosts::HostKeyPolicy;
use crate::hosts::known_hosts::{Place, Verdict, record_name};
use crate::remote::quoting::quote;

/// What follows for a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Judgement {
    /// Go on. The text says why, for the log.
    Trusted(String),
    /// Go on, with a warning.
    Tolerated(Tree),
    /// The key is unknown: the user, or the policy, has to decide.
    Unknown,
    /// Never.
    Refused(Tree),
}

/// Judges a server's key.
#[must_use]
pub(crate) fn judge(
    policy: HostKeyPolicy,
    verdict: Verdict,
    host: &str,
    port: u16,
    key: &HostKey,
) -> Judgement {
    let bad = match verdict {
        Verdict::Known { at } => {
            return Judgement::Trusted(format!(
                "host key {} {} is known from {at}",
                key.algorithm, key.fingerprint
            ));
        }
        Verdict::Unknown => match policy {
            HostKeyPolicy::Off => {
                return Judgement::Trusted(format!(
                    "host key {} {} is unknown, and not checked",
                    key.algorithm, key.fingerprint
                ));
            }
            HostKeyPolicy::Strict => return Judgement::Refused(unknown(key)),
            HostKeyPolicy::Ask | HostKeyPolicy::AcceptNew => return Judgement::Unknown,
        },
        Verdict::Changed { at, known } => {
            let what = "the host key has CHANGED";
            changed(what, &at, &known, &record_name(host, port), key)
        }
        // A server that shows none of the known types has lost them all, or is
        // another one; ssh(1) does not tell the two apart either.
        Verdict::OtherType { at, known, .. } => {
            let what = "the host key has CHANGED to another type";
            changed(what, &at, &known, &record_name(host, port), key)
        }
        Verdict::Revoked { at } => Tree::new("the host key has been REVOKED")
            .because(format!(
                "the host shows {} {}",
                key.algorithm, key.fingerprint
            ))
            .because(format!("revoked by {at}")),
    };
    match policy {
        HostKeyPolicy::Off => Judgement::Tolerated(bad),
        _ => Judgement::Refused(bad),
    }
}

fn changed(what: &str, at: &Place, known: &str, name: &str, key: &HostKey) -> Tree {
    Tree::new(format!(
        "{what}: somebody may be listening in, or the host was installed anew"
    ))
    .because(format!(
        "the host shows {} {}",
        key.algorithm, key.fingerprint
    ))
    .because(format!("{at} has {known}"))
    .because(format!(
        "if the change is right, remove that line, or all keys of that name: \
         ssh-keygen -R {} -f {}",
        quote(name.as_bytes()),
        quote(at.file.as_os_str().as_bytes())
    ))
}

/// The refusal of an unknown key.
#[must_use]
pub(crate) fn unknown(key: &HostKey) -> Tree {
    Tree::new(format!(
        "the host key is not known: {} {}",
        key.algorithm, key.fingerprint
    ))
    .because(
        "take it with --host-keys accept-new, or record the right one beforehand with ssh-keyscan",
    )
}
