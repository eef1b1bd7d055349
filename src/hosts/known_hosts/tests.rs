//! What the files mean, in sentences, and the same question put to `ssh-keygen -F`.

use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;

use super::*;

/// A well-formed blob; nobody checks whether it is a point on a curve.
pub(super) fn blob(kind: &str, fill: u8) -> Vec<u8> {
    let mut blob = Vec::new();
    for part in [kind.as_bytes(), &[fill; 32]] {
        blob.extend(u32::try_from(part.len()).unwrap().to_be_bytes());
        blob.extend(part);
    }
    blob
}

fn ed(fill: u8) -> Vec<u8> {
    blob("ssh-ed25519", fill)
}

/// Type and base64 of a key, as they stand in a line.
fn text(key: &[u8]) -> String {
    format!("{} {}", key_type(key).unwrap(), STANDARD.encode(key))
}

/// Puts keys in: `{1}` and `{2}` are Ed25519 keys, `{r}` is an RSA one.
fn with_keys(lines: &str) -> String {
    let lines = lines.replace("{1}", &text(&ed(1)));
    let lines = lines.replace("{2}", &text(&ed(2)));
    lines.replace("{r}", &text(&blob("ssh-rsa", 7)))
}

/// A file `f` with these good lines.
fn known(lines: &str) -> KnownHosts {
    let (known, problems) = with_problems(with_keys(lines).as_bytes());
    assert!(problems.is_empty(), "{problems:?}");
    known
}

/// A file `f` with these bytes.
fn with_problems(bytes: &[u8]) -> (KnownHosts, Vec<String>) {
    let mut known = KnownHosts::default();
    let problems = known.add_file(Path::new("f"), bytes);
    (known, problems.iter().map(Problem::to_string).collect())
}

fn at(line: usize) -> Place {
    Place {
        file: "f".into(),
        line,
    }
}

fn known_at(line: usize) -> Verdict {
    Verdict::Known { at: at(line) }
}

fn revoked_at(line: usize) -> Verdict {
    Verdict::Revoked { at: at(line) }
}

#[test]
fn names_are_compared_without_case() {
    let known = known("Alpha.Example,beta {1}\n");
    assert_eq!(known.verdict("alpha.EXAMPLE", 22, &ed(1)), known_at(1));
    assert_eq!(known.verdict("BETA", 22, &ed(1)), known_at(1));
    assert_eq!(known.verdict("gamma", 22, &ed(1)), Verdict::Unknown);
}

#[test]
fn a_changed_key_names_the_line_and_the_known_fingerprint() {
    let known = known("# mine\n\nh {r}\nh {1}\n");
    let expected = Verdict::Changed {
        at: at(4),
        known: fingerprint(&ed(1)),
    };
    assert_eq!(known.verdict("h", 22, &ed(2)), expected);
}

#[test]
fn a_matching_line_wins_over_lines_that_differ() {
    let known = known("h {1}\nh {2}\nh {r}\n");
    assert_eq!(known.verdict("h", 22, &ed(2)), known_at(2));
}

#[test]
fn a_key_of_a_type_not_on_record_is_not_an_unknown_one() {
    let known = known("h {r}\n");
    let expected = Verdict::OtherType {
        at: at(1),
        known: fingerprint(&blob("ssh-rsa", 7)),
        known_type: "ssh-rsa".into(),
    };
    assert_eq!(known.verdict("h", 22, &ed(1)), expected);
    assert!(matches!(
        known.verdict("h", 22, b"junk"),
        Verdict::OtherType { .. }
    ));
}

#[test]
fn revocation_wins_over_everything() {
    let known = known("h {1}\n@revoked * {1}\n@revoked other {2}\nh {2}\n");
    assert_eq!(known.verdict("h", 22, &ed(1)), revoked_at(2));
    assert_eq!(known.verdict("h", 22, &ed(2)), known_at(4));
}

#[test]
fn a_tab_after_the_marker_still_revokes() {
    let known = known("@revoked\th\t{1} comment\n");
    assert_eq!(known.verdict("h", 22, &ed(1)), revoked_at(1));
}

#[test]
fn a_key_revoked_for_the_bare_name_is_revoked_on_every_port() {
    let known = known("[h]:2222 {1}\n@revoked h {1}\n");
    assert_eq!(known.verdict("h", 2222, &ed(1)), revoked_at(2));
}

#[test]
fn a_revoked_line_alone_is_no_record_of_a_key() {
    let known = known("@revoked h {1}\n");
    assert_eq!(known.verdict("h", 22, &ed(2)), Verdict::Unknown);
    assert!(known.lookup("h", 22).types().is_empty());
}

#[test]
fn authorities_do_not_make_a_plain_key_known_or_changed() {
    let known = known("@cert-authority * {1}\n");
    assert_eq!(known.verdict("h", 22, &ed(1)), Verdict::Unknown);
    assert_eq!(known.verdict("h", 22, &ed(2)), Verdict::Unknown);
    assert!(known.lookup("h", 22).types().is_empty());
}

#[test]
fn another_port_is_looked_up_in_brackets() {
    let known = known("[h]:2222 {1}\n[::1]:2222 {2}\n::1 {1}\n");
    assert_eq!(known.verdict("h", 2222, &ed(1)), known_at(1));
    assert_eq!(known.verdict("h", 22, &ed(1)), Verdict::Unknown);
    assert_eq!(known.verdict("h", 2223, &ed(1)), Verdict::Unknown);
    assert_eq!(known.verdict("::1", 2222, &ed(2)), known_at(2));
    assert_eq!(known.verdict("::1", 22, &ed(1)), known_at(3));
}

#[test]
fn the_bare_name_makes_a_key_known_on_another_port_but_never_changed() {
    let known = known("h {1}\n");
    assert_eq!(known.verdict("h", 2222, &ed(1)), known_at(1));
    assert_eq!(known.verdict("h", 2222, &ed(2)), Verdict::Unknown);
    assert_eq!(known.lookup("h", 2222).types(), ["ssh-ed25519"]);
}

#[test]
fn the_bare_name_does_not_count_where_the_port_is_on_record() {
    let known = known("[h]:2222 {2}\nh {1}\nh {r}\n");
    let verdict = known.verdict("h", 2222, &ed(1));
    assert!(matches!(verdict, Verdict::Changed { .. }));
    assert_eq!(known.lookup("h", 2222).types(), ["ssh-ed25519"]);
}

#[test]
fn an_authority_for_the_port_does_not_hide_the_bare_name() {
    let known = known("@cert-authority [h]:2222 {2}\nh {1}\n");
    assert_eq!(known.verdict("h", 2222, &ed(1)), known_at(2));
}

#[test]
fn types_come_in_the_order_of_the_files_and_once() {
    let known = known("h {r}\n* {1}\nh {2}\n@revoked h {1}\n");
    assert_eq!(known.lookup("h", 22).types(), ["ssh-rsa", "ssh-ed25519"]);
}

#[test]
fn bad_lines_are_told_and_hide_nothing() {
    let bad: &[(&str, &str)] = &[
        ("@rev h {1}", "unknown marker"),
        ("@revoked @revoked h {1}", "unknown marker"),
        ("h", "no key"),
        ("@revoked", "no key"),
        ("h ssh-ed25519", "no key"),
        ("h ssh-ed25519 # comment", "no key"),
        ("|1|x {1}", "hashed host name"),
        ("h 1024 35 123", "protocol 1"),
        ("h ssh-ed25519 A!", "base64"),
        ("h ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIM+2", "cut short"),
        ("h ssh-ed25519 AAAA", "cut short"),
        ("h ssh-rsa AAAAC3NzaC1lZDI1NTE5AAAAAA==", "type"),
    ];
    for (line, part) in bad {
        let (known, problems) = with_problems(with_keys(&format!("{line}\nh {{1}}\n")).as_bytes());
        assert_eq!(problems.len(), 1, "{line}: {problems:?}");
        assert!(problems[0].starts_with("f:1: "), "{}", problems[0]);
        assert!(problems[0].contains(part), "{}", problems[0]);
        assert_eq!(known.verdict("h", 22, &ed(1)), known_at(2), "{line}");
    }
}

#[test]
fn odd_but_good_lines_are_read() {
    let lines = "a {1}\r\n\r\n  b\t {1}\twith % comment\n \t# c {1}\n,d,, {1}\nn%,e {1}";
    let mut bytes = with_keys(lines).into_bytes();
    // Not UTF-8.
    for byte in bytes.iter_mut().filter(|b| **b == b'%') {
        *byte = 0xff;
    }
    let (known, problems) = with_problems(&bytes);
    assert!(problems.is_empty(), "{problems:?}");
    for (host, line) in [("a", 1), ("b", 3), ("d", 5), ("e", 6)] {
        assert_eq!(known.verdict(host, 22, &ed(1)), known_at(line), "{host}");
    }
    assert_eq!(known.verdict("c", 22, &ed(1)), Verdict::Unknown);
}

#[test]
fn missing_files_are_fine_and_unreadable_ones_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let good = dir.path().join("good");
    fs::write(&good, format!("h {}\n", text(&ed(1)))).unwrap();
    let user = [dir.path().join("missing"), dir.path().to_path_buf()];
    let (known, problems) = KnownHosts::load(&user, std::slice::from_ref(&good));
    assert_eq!(problems.len(), 1);
    let told = problems[0].to_string();
    assert!(told.starts_with(&format!("cannot read {}", dir.path().display())));
    let place = Place {
        file: good,
        line: 1,
    };
    let expected = Verdict::Known { at: place };
    assert_eq!(known.verdict("h", 22, &ed(1)), expected);
}

#[test]
fn one_is_shared_by_all_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<KnownHosts>();
}

#[test]
fn key_types_are_taken_from_the_blob_only_if_they_are_names() {
    assert_eq!(key_type(&ed(1)), Some("ssh-ed25519"));
    for junk in [
        &b""[..],
        b"\0\0\0",
        b"\0\0\0\0",
        b"\0\0\0\x09a",
        b"\xff\xff\xff\xffa",
    ] {
        assert_eq!(key_type(junk), None);
    }
    for name in ["", "a b", "a,b", "a\x1b[m", &"a".repeat(65)] {
        assert_eq!(key_type(&blob(name, 0)), None, "{name:?}");
    }
}

#[test]
fn fingerprints_are_those_of_ssh_keygen() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("key.pub");
    for fill in 0..8 {
        fs::write(&file, text(&ed(fill))).unwrap();
        let Some(told) = ssh_keygen(&["-l", "-f"], &file) else {
            return;
        };
        assert!(told.contains(&format!(" {} ", fingerprint(&ed(fill)))));
    }
}

/// What ssh-keygen prints; `None` where it is not installed.
fn ssh_keygen(args: &[&str], file: &Path) -> Option<String> {
    match Command::new("ssh-keygen").args(args).arg(file).output() {
        Ok(output) => Some(String::from_utf8_lossy(&output.stdout).into_owned()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => panic!("ssh-keygen: {e}"),
    }
}

/// The lines that `ssh-keygen -F` finds for a name: `# Host a found: line 1 REVOKED`.
fn lines_by_ssh_keygen(name: &str, file: &Path) -> Option<Vec<usize>> {
    let told = ssh_keygen(&["-F", name, "-f"], file)?;
    let numbers = told.lines().filter_map(|line| {
        let (_, number) = line.strip_prefix("# Host ")?.split_once(" found: line ")?;
        number.split_whitespace().next()?.parse().ok()
    });
    Some(numbers.collect())
}

/// Host names over few letters, so that they often meet.
fn host() -> impl Strategy<Value = String> {
    let name = prop_oneof!["[abAB]{1,2}", "[ab]\\.[ab1]{1,2}", Just("::1".to_owned())];
    (name, prop_oneof![3 => Just(22), 1 => 2222u16..2224]).prop_map(|(name, port)| match port {
        22 => name,
        port => format!("[{name}]:{port}"),
    })
}

fn pattern() -> impl Strategy<Value = String> {
    prop_oneof![
        "!?[ab.*?]{1,4}",
        Just("*".to_owned()),
        "\\[[ab*]{1,2}\\]:(22\\?\\?|2222|\\*)",
        host(),
        host().prop_map(|host| format!("!{host}")),
    ]
}

fn names() -> impl Strategy<Value = String> {
    let list = prop::collection::vec(pattern(), 1..4).prop_map(|list| list.join(","));
    let plain = prop::collection::vec(host(), 1..3).prop_map(|list| list.join(","));
    let hashed = (host(), any::<[u8; 20]>())
        .prop_map(|(host, salt)| line::hash_name(host.to_lowercase().as_bytes(), salt));
    prop_oneof![list, plain, hashed]
}

fn any_line() -> impl Strategy<Value = String> {
    let marker = prop_oneof![4 => Just(""), 1 => Just("@revoked "), 1 => Just("@cert-authority  ")];
    let blank = || prop_oneof![Just(" "), Just("\t"), Just(" \t ")];
    let end = prop_oneof![Just(""), Just(" comment"), Just("\t# x"), Just("\r")];
    let good =
        (marker, names(), blank(), 0..4u8, end).prop_map(|(marker, names, blank, key, end)| {
            format!("{marker}{names}{blank}{}{end}", text(&ed(key)))
        });
    prop_oneof![8 => good, 1 => Just(String::new()), 1 => Just(" # a ".to_owned())]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn names_match_as_for_ssh_keygen(
        lines in prop::collection::vec(any_line(), 1..12),
        hosts in prop::collection::vec(host(), 1..5),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("known_hosts");
        fs::write(&file, lines.join("\n") + "\n").unwrap();
        let (known, problems) = KnownHosts::load(std::slice::from_ref(&file), &[]);
        prop_assert!(problems.is_empty(), "{:?}", problems);
        for host in hosts {
            // It takes the name for a hashed line as it is, where ssh lowers it first.
            let host = host.to_lowercase();
            let Some(expected) = lines_by_ssh_keygen(&host, &file) else {
                return Ok(());
            };
            let found = known.entries_for(&host);
            let found: Vec<usize> = found.iter().map(|&id| known.entries[id].line).collect();
            prop_assert_eq!(found, expected, "{} in\n{}", host, lines.join("\n"));
        }
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let (known, _) = with_problems(&bytes);
        let _ = known.verdict("h", 2222, &bytes);
        let _ = known.lookup("h", 22).types();
    }
}
