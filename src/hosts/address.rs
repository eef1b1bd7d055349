//! One address, `[user@]host[:port]`, as given.
//!
//! `expression` builds on the same splitting, so that `web[1-3]:22` and
//! `web1:22` cannot come to disagree about where the host ends.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use thiserror::Error;

use super::excerpt;

/// The longest user or host, in bytes. DNS allows 253; the bound keeps a long
/// name times many numbers from filling the memory.
pub(crate) const MAX_PART: usize = 255;

/// A host to connect to, with the user and port where they were named.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Address {
    /// What stood before the last `@`.
    pub(crate) user: Option<String>,
    /// Name, IPv4 or IPv6 address; the latter without brackets, with its zone.
    pub(crate) host: String,
    /// What stood after the host, never 0.
    pub(crate) port: Option<u16>,
}

/// Why a text is no address.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum AddressError {
    /// Nothing where the host should be.
    #[error("the host name is missing")]
    EmptyHost,
    /// An `@` with nothing before it.
    #[error("there is no user before the '@'")]
    EmptyUser,
    /// Something that would look like an option to other programs.
    #[error("the {part} begins with '-', which is taken for an option")]
    LeadingDash {
        /// `user` or `host`.
        part: &'static str,
    },
    /// More than one address, perhaps.
    #[error("there is a blank in the {part}, put commas between several hosts")]
    Blank {
        /// `user` or `host`.
        part: &'static str,
    },
    /// A slash: perhaps a file was meant.
    #[error(
        "there is a '/' in the {part}; a file of hosts is an argument of its own and begins with /, ./, ../ or ~/"
    )]
    Slash {
        /// `user` or `host`.
        part: &'static str,
    },
    /// A wildcard or a set operator of another tool.
    #[error(
        "there is a '{found}' in the host: wildcards and operators are not known here, use ranges such as web[1-20] and --exclude"
    )]
    Pattern {
        /// The character.
        found: char,
    },
    /// A `#` that is no comment.
    #[error("there is a '#' in the host, put a blank before a comment")]
    Comment,
    /// Any other character that cannot be there.
    #[error("the character {found} cannot stand in a {part}")]
    Character {
        /// `user` or `host`.
        part: &'static str,
        /// The character, quoted and escaped.
        found: String,
    },
    /// Longer than [`MAX_PART`].
    #[error("the {part} is longer than {MAX_PART} bytes")]
    TooLong {
        /// `user` or `host`.
        part: &'static str,
    },
    /// A port that is none.
    #[error("'{port}' is no port, write a number from 1 to 65535")]
    Port {
        /// What stood there.
        port: String,
    },
    /// Several colons, or brackets with a colon, but no IPv6 address.
    #[error(
        "'{text}' is not an IPv6 address, and other hosts take one colon only, before the port"
    )]
    NotIpv6 {
        /// What stood there.
        text: String,
    },
    /// `[::1]22` and the like.
    #[error("after an IPv6 address in brackets only a port may follow, as in [::1]:22")]
    AfterIpv6,
    /// Brackets in the user, in the port, in an IPv6 address, or (where no
    /// ranges are allowed) anywhere.
    #[error(
        "brackets belong around a whole IPv6 address, as in [::1]:22, or around numbers in a host name, as in web[1-20]"
    )]
    Brackets,
    /// A range where a single address is expected.
    #[error("one single host is expected here, neither a range nor a list")]
    Several,
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let parts = Parts::split(text)?;
        let host = match parts.host {
            Host::Ipv6(host) => host,
            Host::Name(name) if name.contains(['[', ']', ',']) => {
                return Err(AddressError::Several);
            }
            Host::Name(name) => {
                check_name(name)?;
                name
            }
        };
        Ok(Self {
            user: parts.user.map(str::to_owned),
            host: host.to_owned(),
            port: parts.port,
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(user) = &self.user {
            write!(f, "{user}@")?;
        }
        match self.port {
            Some(port) => f.write_str(&with_port(&self.host, port)),
            None => f.write_str(&self.host),
        }
    }
}

/// `host:port`, with the brackets that an IPv6 address needs to be told from
/// its port.
pub(super) fn with_port(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// The host in the one form by which hosts are compared: names know no case,
/// and an IPv6 address can be written in many ways.
pub(super) fn canonical(host: &str) -> String {
    let (address, zone) = match host.split_once('%') {
        Some((address, zone)) => (address, Some(zone)),
        None => (host, None),
    };
    match (address.parse::<Ipv6Addr>(), zone) {
        (Ok(address), Some(zone)) => format!("{address}%{zone}"),
        (Ok(address), None) => address.to_string(),
        (Err(_), _) => host.to_ascii_lowercase(),
    }
}

/// An address taken apart. User and port are checked; a host name is not yet,
/// as it may still hold ranges.
pub(super) struct Parts<'a> {
    pub(crate) user: Option<&'a str>,
    pub(crate) host: Host<'a>,
    pub(crate) port: Option<u16>,
}

/// The host part of an address.
pub(super) enum Host<'a> {
    /// A name or IPv4 address, perhaps with ranges.
    Name(&'a str),
    /// A valid IPv6 address, perhaps with a zone.
    Ipv6(&'a str),
}

impl<'a> Parts<'a> {
    pub(super) fn split(text: &'a str) -> Result<Self, AddressError> {
        // The last `@`, as ssh does: users of some gateways hold one too.
        let (user, rest) = match text.rsplit_once('@') {
            Some((user, rest)) => (Some(user), rest),
            None => (None, text),
        };
        if let Some(user) = user {
            check_user(user)?;
        }
        let (host, port) = split_port(rest)?;
        Ok(Self { user, host, port })
    }
}

fn split_port(text: &str) -> Result<(Host<'_>, Option<u16>), AddressError> {
    let bracketed = text.strip_prefix('[').and_then(|t| t.split_once(']'));
    if let Some((inside, after)) = bracketed.filter(|(inside, _)| inside.contains(':')) {
        check_ipv6(inside)?;
        let port = match after.strip_prefix(':') {
            Some(port) => Some(parse_port(port)?),
            None if after.is_empty() => None,
            None => return Err(AddressError::AfterIpv6),
        };
        return Ok((Host::Ipv6(inside), port));
    }

    let mut in_brackets = false;
    let mut colons = 0;
    let mut first_colon = None;
    for (at, c) in text.char_indices() {
        match c {
            '[' => in_brackets = true,
            ']' => in_brackets = false,
            // Brackets with a colon are IPv6, and those have been dealt with.
            ':' if in_brackets => return Err(AddressError::Brackets),
            ':' => {
                colons += 1;
                first_colon.get_or_insert(at);
            }
            _ => {}
        }
    }
    match first_colon {
        Some(at) if colons == 1 => {
            let port = parse_port(&text[at + 1..])?;
            Ok((Host::Name(&text[..at]), Some(port)))
        }
        Some(_) => {
            check_ipv6(text)?;
            Ok((Host::Ipv6(text), None))
        }
        None => Ok((Host::Name(text), None)),
    }
}

fn parse_port(text: &str) -> Result<u16, AddressError> {
    if text.contains(['[', ']']) {
        return Err(AddressError::Brackets);
    }
    // `parse` alone would let `+22` through.
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    match text.parse() {
        Ok(port) if digits && port != 0 => Ok(port),
        _ => Err(AddressError::Port {
            port: excerpt(text),
        }),
    }
}

fn check_ipv6(text: &str) -> Result<(), AddressError> {
    if text.contains(['[', ']']) {
        return Err(AddressError::Brackets);
    }
    let (address, zone) = match text.split_once('%') {
        Some((address, zone)) => (address, Some(zone)),
        None => (text, None),
    };
    // A colon in the zone is more likely a port that lacks the brackets.
    let zone_is_right = zone.is_none_or(|z| !z.is_empty() && !z.contains([':', '%', ',']));
    if address.parse::<Ipv6Addr>().is_err() || !zone_is_right {
        return Err(AddressError::NotIpv6 {
            text: excerpt(text),
        });
    }
    zone.map_or(Ok(()), check_host_characters)?;
    check_length("host", text.len())
}

fn check_user(user: &str) -> Result<(), AddressError> {
    const PART: &str = "user";
    if user.is_empty() {
        return Err(AddressError::EmptyUser);
    }
    if user.starts_with('-') {
        return Err(AddressError::LeadingDash { part: PART });
    }
    if user.contains(['[', ']']) {
        return Err(AddressError::Brackets);
    }
    if user.contains(',') {
        return Err(AddressError::Several);
    }
    for c in user.chars() {
        check_character(PART, c)?;
    }
    check_length(PART, user.len())
}

/// Checks a whole host name.
pub(super) fn check_name(name: &str) -> Result<(), AddressError> {
    if name.is_empty() {
        return Err(AddressError::EmptyHost);
    }
    check_name_start(name)?;
    check_host_characters(name)?;
    check_length("host", name.len())
}

/// Checks the beginning of a host name.
pub(super) fn check_name_start(name: &str) -> Result<(), AddressError> {
    if name.starts_with('-') {
        return Err(AddressError::LeadingDash { part: "host" });
    }
    Ok(())
}

/// Checks the characters of a host name, or of a piece of one.
pub(super) fn check_host_characters(piece: &str) -> Result<(), AddressError> {
    for c in piece.chars() {
        match c {
            '*' | '?' | '!' | '&' | '^' | '{' | '}' => {
                return Err(AddressError::Pattern { found: c });
            }
            '#' => return Err(AddressError::Comment),
            _ => check_character("host", c)?,
        }
    }
    Ok(())
}

/// Refuses a part that is too long.
pub(super) fn check_length(part: &'static str, bytes: usize) -> Result<(), AddressError> {
    if bytes > MAX_PART {
        return Err(AddressError::TooLong { part });
    }
    Ok(())
}

/// Refuses what can stand in neither user nor host. Blanks and control
/// characters would break the lines of output, log and sync protocol.
fn check_character(part: &'static str, c: char) -> Result<(), AddressError> {
    match c {
        ' ' | '\t' | '\n' => Err(AddressError::Blank { part }),
        '/' => Err(AddressError::Slash { part }),
        _ if c.is_control() || c.is_whitespace() => Err(AddressError::Character {
            part,
            found: format!("'{}'", c.escape_default()),
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(user: Option<&str>, host: &str, port: Option<u16>) -> Address {
        Address {
            user: user.map(str::to_owned),
            host: host.to_owned(),
            port,
        }
    }

    fn parsed(text: &str) -> Address {
        text.parse().unwrap()
    }

    fn refused(text: &str) -> AddressError {
        text.parse::<Address>().unwrap_err()
    }

    #[test]
    fn user_and_port_may_be_left_out() {
        assert_eq!(parsed("db7"), address(None, "db7", None));
        assert_eq!(parsed("ops@db7"), address(Some("ops"), "db7", None));
        assert_eq!(parsed("db7:2222"), address(None, "db7", Some(2222)));
        assert_eq!(
            parsed("ops@10.0.0.7:2222"),
            address(Some("ops"), "10.0.0.7", Some(2222))
        );
    }

    #[test]
    fn ipv6_is_understood_with_and_without_brackets() {
        assert_eq!(parsed("::1"), address(None, "::1", None));
        assert_eq!(parsed("[::1]"), address(None, "::1", None));
        assert_eq!(
            parsed("user@[::1]:2222"),
            address(Some("user"), "::1", Some(2222))
        );
        assert_eq!(parsed("fe80::1%eth0"), address(None, "fe80::1%eth0", None));
        assert_eq!(
            parsed("user@[fe80::1%eth0]:2222"),
            address(Some("user"), "fe80::1%eth0", Some(2222))
        );
        assert_eq!(parsed("user@::1"), address(Some("user"), "::1", None));
    }

    #[test]
    fn without_brackets_a_last_group_is_never_a_port() {
        assert_eq!(parsed("fe80::1:2222"), address(None, "fe80::1:2222", None));
    }

    #[test]
    fn an_address_is_displayed_as_it_would_be_typed() {
        for text in [
            "db7",
            "ops@db7:2222",
            "::1",
            "[::1]:22",
            "u@[fe80::1%eth0]:22",
            "u@::1",
        ] {
            assert_eq!(parsed(text).to_string(), text);
        }
        assert_eq!(parsed("[::1]").to_string(), "::1");
    }

    #[test]
    fn the_last_at_sign_ends_the_user() {
        assert_eq!(
            parsed("ops@example.com@gate:22"),
            address(Some("ops@example.com"), "gate", Some(22))
        );
        assert_eq!(parsed("a:b@gate"), address(Some("a:b"), "gate", None));
    }

    #[test]
    fn what_is_no_ipv6_address_is_refused() {
        for text in [
            "web1:22:33",
            "[12:34]",
            "[::g]",
            "1:2:3:4:5:6:7:8:9",
            "fe80::1%",
            "fe80::1%eth0:22",
            "[::1-::3]",
            "::1,::2",
        ] {
            assert!(
                matches!(refused(text), AddressError::NotIpv6 { .. }),
                "{text}"
            );
        }
        assert_eq!(refused("[::1]22"), AddressError::AfterIpv6);
        assert_eq!(refused("[::1].example"), AddressError::AfterIpv6);
    }

    #[test]
    fn ports_are_1_to_65535() {
        assert_eq!(parsed("a:1").port, Some(1));
        assert_eq!(parsed("a:65535").port, Some(65535));
        for text in [
            "a:", "a:0", "a:65536", "a:ssh", "a:+22", "a:-1", "[::1]:", "[::1]:0", "a: 22", "a:2²",
        ] {
            assert!(matches!(refused(text), AddressError::Port { .. }), "{text}");
        }
    }

    #[test]
    fn a_missing_host_or_user_is_refused() {
        for text in ["", "ops@", ":22", "ops@:22"] {
            assert_eq!(refused(text), AddressError::EmptyHost, "{text}");
        }
        assert_eq!(refused("@db7"), AddressError::EmptyUser);
    }

    #[test]
    fn what_looks_like_an_option_is_refused() {
        assert_eq!(
            refused("-oProxyCommand=x"),
            AddressError::LeadingDash { part: "host" }
        );
        assert_eq!(
            refused("u@-db7"),
            AddressError::LeadingDash { part: "host" }
        );
        assert_eq!(
            refused("-u@db7"),
            AddressError::LeadingDash { part: "user" }
        );
    }

    #[test]
    fn blanks_slashes_and_control_characters_are_refused() {
        assert_eq!(refused("a b"), AddressError::Blank { part: "host" });
        assert_eq!(refused("a b@c"), AddressError::Blank { part: "user" });
        assert_eq!(refused("a\nb"), AddressError::Blank { part: "host" });
        assert_eq!(refused("10.0.0.0/24"), AddressError::Slash { part: "host" });
        assert_eq!(refused("a/b@c"), AddressError::Slash { part: "user" });
        for text in ["a\0", "a\u{1b}c", "a\u{a0}b", "a\u{85}", "fe80::1%\u{7}"] {
            assert!(
                matches!(refused(text), AddressError::Character { .. }),
                "{text:?}"
            );
        }
        assert_eq!(
            refused("a\u{7}").to_string(),
            r"the character '\u{7}' cannot stand in a host"
        );
    }

    #[test]
    fn wildcards_and_operators_of_other_tools_are_refused() {
        for text in ["web*", "web?", "!web1", "a&b", "web{1..3}", "^file", "a!b"] {
            assert!(
                matches!(refused(text), AddressError::Pattern { .. }),
                "{text}"
            );
        }
        assert_eq!(refused("web1#old"), AddressError::Comment);
    }

    #[test]
    fn a_single_address_takes_no_range_and_no_list() {
        for text in ["web[1-3]", "a,b", "u,v@a", "[5]", "a]"] {
            assert_eq!(refused(text), AddressError::Several, "{text}");
        }
    }

    #[test]
    fn brackets_belong_to_the_host_alone() {
        for text in ["u[1-2]@a", "a:[22-23]", "a:2[2]", "web[1:3]", "fe80::[1-3]"] {
            assert_eq!(refused(text), AddressError::Brackets, "{text}");
        }
    }

    #[test]
    fn overlong_parts_are_refused() {
        let long = "a".repeat(MAX_PART);
        assert_eq!(parsed(&format!("{long}@{long}")).host, long);
        assert_eq!(
            refused(&format!("{long}a")),
            AddressError::TooLong { part: "host" }
        );
        assert_eq!(
            refused(&format!("{long}a@b")),
            AddressError::TooLong { part: "user" }
        );
        assert_eq!(
            refused(&format!("::1%{long}")),
            AddressError::TooLong { part: "host" }
        );
    }

    #[test]
    fn hosts_compare_without_case_and_spelling() {
        assert_eq!(canonical("DB7.Example"), canonical("db7.example"));
        assert_eq!(canonical("0:0::1"), canonical("::1"));
        assert_eq!(canonical("FE80::1%eth0"), canonical("fe80:0::1%eth0"));
        assert_ne!(canonical("fe80::1%eth0"), canonical("fe80::1%eth1"));
    }
}
