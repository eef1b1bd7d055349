//! Where hosts come from: arguments, files of hosts, and stdin.
//!
//! The same function reads the values of `--host` and of `--exclude`.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::address::Address;
use super::excerpt;
use super::expression::{ExpressionError, MAX_HOSTS, expand, is_node};

/// The longest line of a file of hosts, in bytes: enough for a list of as many
/// hosts as a run may have, but not for all of `/dev/zero`.
const MAX_LINE: usize = 16 << 20;

const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// Why the hosts could not be collected.
#[derive(Debug, Error)]
pub(crate) enum HostsError {
    /// A file that is missing or not ours to read.
    #[error("can't open hosts file '{file}'")]
    Open {
        /// The file as given.
        file: String,
        /// What the system said.
        source: io::Error,
    },
    /// A file that turns out to be a directory, a disk that fails.
    #[error("can't read hosts file '{file}'")]
    Read {
        /// The file as given.
        file: String,
        /// What the system said.
        source: io::Error,
    },
    /// The same for stdin.
    #[error("can't read hosts from stdin")]
    ReadStdin {
        /// What the system said.
        source: io::Error,
    },
    /// `~/` without a home directory.
    #[error("can't open hosts file '{file}': the home directory is not known, set HOME")]
    NoHome {
        /// The file as given.
        file: String,
    },
    /// An argument that is not text.
    #[error("the host '{value}' is not valid UTF-8")]
    NotUtf8 {
        /// The argument, as far as it can be shown.
        value: String,
    },
    /// An argument that is no expression.
    #[error(transparent)]
    Argument(#[from] ExpressionError),
    /// A line of a file or of stdin that cannot be used.
    #[error("invalid line at {place}")]
    Line {
        /// `./hosts:3` or `<stdin>:3`.
        place: String,
        /// What is wrong with it.
        #[source]
        problem: LineProblem,
    },
    /// Every source is small enough, but not all together.
    #[error("these are more than {MAX_HOSTS} hosts in all")]
    TooMany,
}

/// What is wrong with a line of hosts.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum LineProblem {
    /// No expression.
    #[error(transparent)]
    Expression(#[from] ExpressionError),
    /// Another file of hosts.
    #[error(
        "'{text}' is a file: a file of hosts cannot name other files, give each with its own --host"
    )]
    NestedFile {
        /// The line.
        text: String,
    },
    /// Not text.
    #[error("the line is not valid UTF-8")]
    NotUtf8,
    /// Longer than any list of hosts.
    #[error("the line is longer than {MAX_LINE} bytes, is this a file of hosts?")]
    TooLong,
}

/// Collects the addresses that `values` name, and after them those on `stdin`,
/// in the order in which they stand there.
///
/// A value that begins with `/`, `./`, `../` or `~/` is a file of hosts; `home`
/// is what `~` stands for.
///
/// # Errors
/// Names the argument, or file and line, that cannot be read or understood.
pub(crate) fn collect(
    values: &[OsString],
    stdin: Option<&mut dyn BufRead>,
    home: Option<&Path>,
) -> Result<Vec<Address>, HostsError> {
    let mut addresses = Vec::new();
    for value in values {
        if is_file(value.as_bytes()) {
            read_file(value, home, &mut addresses)?;
        } else {
            let Some(text) = value.to_str() else {
                return Err(HostsError::NotUtf8 {
                    value: shown(value),
                });
            };
            append(&mut addresses, expand(text)?)?;
        }
    }
    if let Some(stdin) = stdin {
        let failed = |source| HostsError::ReadStdin { source };
        read_lines("<stdin>", stdin, failed, &mut addresses)?;
    }
    Ok(addresses)
}

fn is_file(value: &[u8]) -> bool {
    let beginnings: [&[u8]; 4] = [b"/", b"./", b"../", b"~/"];
    beginnings.iter().any(|start| value.starts_with(start))
}

fn read_file(
    value: &OsStr,
    home: Option<&Path>,
    addresses: &mut Vec<Address>,
) -> Result<(), HostsError> {
    let name = shown(value);
    let Some(path) = resolve_home(value, home) else {
        return Err(HostsError::NoHome { file: name });
    };
    let file = File::open(path).map_err(|source| HostsError::Open {
        file: name.clone(),
        source,
    })?;
    let failed = |source| HostsError::Read {
        file: name.clone(),
        source,
    };
    read_lines(&name, &mut BufReader::new(file), failed, addresses)
}

fn resolve_home(value: &OsStr, home: Option<&Path>) -> Option<PathBuf> {
    let Some(rest) = value.as_bytes().strip_prefix(b"~/") else {
        return Some(PathBuf::from(value));
    };
    // Joined to `/etc` (from `~//etc`) the home directory would be lost.
    let slashes = rest.iter().take_while(|&&b| b == b'/').count();
    Some(home?.join(OsStr::from_bytes(&rest[slashes..])))
}

fn read_lines(
    source: &str,
    reader: &mut dyn BufRead,
    failed: impl Fn(io::Error) -> HostsError,
    addresses: &mut Vec<Address>,
) -> Result<(), HostsError> {
    let mut line = Vec::new();
    for number in 1_u64.. {
        line.clear();
        let read = Read::take(&mut *reader, MAX_LINE as u64 + 1)
            .read_until(b'\n', &mut line)
            .map_err(&failed)?;
        if read == 0 {
            break;
        }
        let bytes = match number {
            1 => line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&line),
            _ => &line,
        };
        let found = read_line(bytes).map_err(|problem| HostsError::Line {
            place: format!("{source}:{number}"),
            problem,
        })?;
        append(addresses, found)?;
    }
    Ok(())
}

fn read_line(line: &[u8]) -> Result<Vec<Address>, LineProblem> {
    if line.len() > MAX_LINE {
        return Err(LineProblem::TooLong);
    }
    // Comments go first: their encoding does not matter.
    let text = without_comment(line).trim_ascii();
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let text = std::str::from_utf8(text).map_err(|_| LineProblem::NotUtf8)?;
    if is_file(text.as_bytes()) {
        return Err(LineProblem::NestedFile {
            text: excerpt(text),
        });
    }
    Ok(expand(without_route(text))?)
}

/// The node of a line of `--list`, without what stands after it there: the name as
/// given, and the route.
fn without_route(line: &str) -> &str {
    match line.split_once([' ', '\t']) {
        // Words such as KEY=VALUE are none of these.
        Some((node, rest)) if is_node(node) && !rest.contains('=') => node,
        _ => line,
    }
}

/// The line up to a `#` at its beginning or after a blank.
fn without_comment(line: &[u8]) -> &[u8] {
    let starts =
        |at: &usize| line[*at] == b'#' && (*at == 0 || matches!(line[*at - 1], b' ' | b'\t'));
    match (0..line.len()).find(starts) {
        Some(at) => &line[..at],
        None => line,
    }
}

/// Adds what one expression names, unless that makes too many.
fn append(addresses: &mut Vec<Address>, mut found: Vec<Address>) -> Result<(), HostsError> {
    if addresses.len() + found.len() > MAX_HOSTS {
        return Err(HostsError::TooMany);
    }
    addresses.append(&mut found);
    Ok(())
}

fn shown(value: &OsStr) -> String {
    excerpt(&value.to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Tree;
    use proptest::prelude::*;
    use std::fs;
    use std::os::unix::ffi::OsStringExt;

    fn arguments(values: &[&str]) -> Vec<OsString> {
        values.iter().map(OsString::from).collect()
    }

    fn texts(addresses: &[Address]) -> Vec<String> {
        addresses.iter().map(ToString::to_string).collect()
    }

    fn from_stdin(mut input: &[u8]) -> Result<Vec<String>, HostsError> {
        collect(&[], Some(&mut input), None).map(|found| texts(&found))
    }

    /// The error and its sources as a log line shows them.
    fn flat(error: &HostsError) -> String {
        Tree::from_error(error).flat()
    }

    #[test]
    fn arguments_files_and_stdin_keep_their_order() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("hosts");
        fs::write(&file, "f1\nf2\n").unwrap();
        let values = arguments(&["a,b[1-2]", file.to_str().unwrap(), "c"]);
        let mut stdin: &[u8] = b"s1\ns2";
        let found = collect(&values, Some(&mut stdin), None).unwrap();
        assert_eq!(
            texts(&found),
            ["a", "b1", "b2", "f1", "f2", "c", "s1", "s2"]
        );
    }

    #[test]
    fn lines_are_trimmed_and_comments_skipped() {
        let input = b"\xef\xbb\xbf# all of them\r\n\r\n  web1\t\r\n\n   # more\nweb[2-3],web4 # old\n#web5\nweb6\t#x\n";
        assert_eq!(
            from_stdin(input).unwrap(),
            ["web1", "web2", "web3", "web4", "web6"]
        );
        assert_eq!(from_stdin(b"\xef\xbb\xbfweb1").unwrap(), ["web1"]);
        assert_eq!(from_stdin(b"").unwrap(), [""; 0]);
        assert_eq!(from_stdin(b"# caf\xe9\nweb1 # \xff").unwrap(), ["web1"]);
    }

    #[test]
    fn the_lines_of_a_list_are_read_by_their_first_word() {
        let input = b"[ops@db7:22]\n[root@[::1]:2222] router via jump1\t# core\n[a@b:1], c\n";
        assert_eq!(
            from_stdin(input).unwrap(),
            ["ops@db7:22", "root@[::1]:2222", "a@b:1", "c"]
        );
        for wrong in ["[ops@db7:22] KEY=value", "web1 [ops@db7:22]", "web[1-2] x"] {
            assert!(from_stdin(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_missing_file_is_named_with_the_words_of_the_system() {
        let error = collect(&arguments(&["./blah"]), None, None).unwrap_err();
        let tree = Tree::from_error(&error);
        assert_eq!(tree.message, "can't open hosts file './blah'");
        assert_eq!(tree.causes, ["No such file or directory".into()]);
    }

    #[test]
    fn a_directory_is_refused() {
        let error = collect(&arguments(&["/"]), None, None).unwrap_err();
        assert_eq!(flat(&error), "can't read hosts file '/': Is a directory");
    }

    #[test]
    fn the_tilde_is_the_home_directory() {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join("hosts"), "h1").unwrap();
        for value in ["~/hosts", "~//hosts"] {
            let found = collect(&arguments(&[value]), None, Some(home.path())).unwrap();
            assert_eq!(texts(&found), ["h1"]);
        }
        let error = collect(&arguments(&["~/hosts"]), None, None).unwrap_err();
        assert!(matches!(error, HostsError::NoHome { .. }));
        let error = collect(&arguments(&["~/no"]), None, Some(home.path())).unwrap_err();
        assert_eq!(error.to_string(), "can't open hosts file '~/no'");
    }

    #[test]
    fn a_file_name_may_hold_any_byte() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(OsStr::from_bytes(b"h\xff, [1"));
        fs::write(&file, "h1").unwrap();
        let found = collect(&[file.into_os_string()], None, None).unwrap();
        assert_eq!(texts(&found), ["h1"]);
    }

    #[test]
    fn errors_name_file_and_line() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("hosts");
        fs::write(&file, "a\n\nweb[3-1]\n").unwrap();
        let name = file.to_str().unwrap();
        let error = collect(&arguments(&[name]), None, None).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("invalid line at {}:3", excerpt(name))
        );
        assert_eq!(
            flat(&from_stdin(b"a\n#\nweb[3-1]\n").unwrap_err()),
            "invalid line at <stdin>:3: invalid host expression 'web[3-1]': the range 3-1 runs backwards, write 1-3"
        );
    }

    #[test]
    fn an_error_in_an_argument_names_the_expression() {
        let error = collect(&arguments(&["a", "web[1"]), None, None).unwrap_err();
        assert_eq!(
            flat(&error),
            "invalid host expression 'web[1': a '[' has no ']'"
        );
    }

    #[test]
    fn text_that_is_no_utf8_is_refused() {
        assert_eq!(
            flat(&from_stdin(b"a\nb\xff\n").unwrap_err()),
            "invalid line at <stdin>:2: the line is not valid UTF-8"
        );
        let value = OsString::from_vec(b"web\xff".to_vec());
        let error = collect(&[value], None, None).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the host 'web\u{fffd}' is not valid UTF-8"
        );
    }

    #[test]
    fn two_hosts_on_a_line_need_a_comma() {
        let text = flat(&from_stdin(b"a b\n").unwrap_err());
        assert!(text.ends_with("put commas between several hosts"), "{text}");
    }

    #[test]
    fn a_file_cannot_name_another_file() {
        for line in ["/etc/hosts", "./more", "../more", "  ~/more"] {
            let error = from_stdin(line.as_bytes()).unwrap_err();
            assert!(flat(&error).contains("cannot name other files"), "{line}");
        }
    }

    #[test]
    fn the_limit_holds_for_all_sources_together() {
        let values = arguments(&["a[1-60000]", "b[1-60000]"]);
        let error = collect(&values, None, None).unwrap_err();
        assert_eq!(error.to_string(), "these are more than 100000 hosts in all");
    }

    #[test]
    fn an_endless_line_is_refused() {
        let mut endless = BufReader::new(io::repeat(b'a'));
        let error = collect(&[], Some(&mut endless), None).unwrap_err();
        assert!(flat(&error).starts_with("invalid line at <stdin>:1: the line is longer than"));
    }

    proptest! {
        #[test]
        fn no_input_panics(
            value in proptest::collection::vec(any::<u8>(), 0..40),
            input in proptest::collection::vec(prop_oneof![any::<u8>(), Just(b'\n'), Just(b'a'), Just(b'#'), Just(b' ')], 0..80),
        ) {
            let value = OsString::from_vec([b"x".as_slice(), &value].concat());
            let _ = collect(&[value], Some(&mut input.as_slice()), None);
        }
    }
}
