//! Folders use only those below them. `src/lib.rs` has the map, this is the law. (The
//! files inside a folder are looked at in `circles`.)

use crate::sources::sources;

/// From the bottom up. Modules on one level do not know each other, except at
/// the bottom, where they are one vocabulary in several files.
const LEVELS: [&[&str]; 8] = [
    &[
        "event",
        "error",
        "exit_status",
        "deadlines",
        "wake",
        "random",
    ],
    &["hosts", "remote"],
    &["ssh", "archive", "output"],
    &["config"],
    &["cluster"],
    &["run"],
    &["cli"],
    &["main"],
];

fn level(module: &str) -> usize {
    let known = LEVELS.iter().position(|level| level.contains(&module));
    known.unwrap_or_else(|| panic!("the module '{module}' has no level yet"))
}

/// May a module use another one?
fn is_allowed(from: &str, to: &str) -> bool {
    from == to || level(to) < level(from) || (level(from) == 0 && level(to) == 0)
}

/// The modules of the top level that a text names as `crate::module` or, in the
/// program, `orgalorg::module`; `{a, b}` too.
fn uses(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for root in ["crate::", "orgalorg::"] {
        for (at, _) in text.match_indices(root) {
            let rest = &text[at + root.len()..];
            let names = match rest.strip_prefix('{') {
                Some(list) => list.split('}').next().unwrap_or_default(),
                None => rest
                    .split(|c: char| !c.is_alphanumeric() && c != '_')
                    .next()
                    .unwrap_or_default(),
            };
            for name in names.split(',') {
                let name = name.trim().split("::").next().unwrap_or_default();
                if !name.is_empty() {
                    found.push(name.to_owned());
                }
            }
        }
    }
    found
}

#[test]
fn modules_use_only_those_below_them() {
    let mut wrong = Vec::new();
    let mut seen = 0;
    for source in sources() {
        let module = source.module();
        // The root of the crate only has the map.
        let Some(module) = module.first() else {
            continue;
        };
        // Comments may speak of anybody.
        let lines = source.text.lines();
        let code: Vec<&str> = lines
            .filter(|line| !line.trim_start().starts_with("//"))
            .collect();
        for used in uses(&code.join("\n")) {
            seen += 1;
            if !is_allowed(module, &used) {
                wrong.push(format!("{} uses {used}", source.path.display()));
            }
        }
    }
    assert!(seen > 50, "only {seen} uses found: the search is broken");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Libraries that belong to one module.
#[test]
fn libraries_stay_in_their_rooms() {
    for (library, room) in [
        ("ssh2::", "ssh"),
        ("libssh2_sys", "ssh"),
        ("ssh_key::", "ssh"),
        ("clap::", "cli"),
        ("rpassword::", "run"),
        ("getrandom::", "random"),
        ("rand_bytes", "random"),
        ("RandomState", "random"),
    ] {
        for source in sources() {
            let is_at_home = source.module().first().is_some_and(|module| module == room);
            let text = &source.text;
            let is_used = text
                .match_indices(library)
                .any(|(at, _)| !text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'));
            assert!(
                is_at_home || !is_used,
                "{} uses {library}",
                source.path.display()
            );
        }
    }
}

#[test]
fn the_search_finds_single_and_grouped_uses() {
    assert_eq!(uses("use crate::event::NodeId;"), ["event"]);
    assert_eq!(uses("use orgalorg::{cli, run};"), ["cli", "run"]);
    assert!(is_allowed("ssh", "hosts"));
    assert!(!is_allowed("ssh", "output"));
    assert!(!is_allowed("hosts", "cluster"));
}
