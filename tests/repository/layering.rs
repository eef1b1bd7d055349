//! Modules use only those below them. `src/lib.rs` has the map, this is the law.

use std::fs;
use std::path::{Path, PathBuf};

/// From the bottom up. Modules on one level do not know each other, except at
/// the bottom, where they are one vocabulary in several files.
const LEVELS: [&[&str]; 8] = [
    &["event", "error", "wake", "random"],
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

fn source_files(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).expect("src can be read") {
        let path = entry.expect("src can be read").path();
        if path.is_dir() {
            files.extend(source_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
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
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut wrong = Vec::new();
    let mut seen = 0;
    for file in source_files(&src) {
        let inside = file.strip_prefix(&src).expect("below src");
        let module = inside.components().next().expect("a name");
        let module = module.as_os_str().to_string_lossy().replace(".rs", "");
        if module == "lib" {
            continue;
        }
        let text = fs::read_to_string(&file).expect("a source file can be read");
        // Comments may speak of anybody.
        let code: Vec<&str> = text
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"))
            .collect();
        for used in uses(&code.join("\n")) {
            seen += 1;
            if !is_allowed(&module, &used) {
                wrong.push(format!("{} uses {used}", inside.display()));
            }
        }
    }
    assert!(seen > 50, "only {seen} uses found: the search is broken");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Libraries that belong to one module.
#[test]
fn libraries_stay_in_their_rooms() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for (library, rooms) in [
        ("ssh2::", &["ssh"][..]),
        ("libssh2_sys", &["ssh"]),
        ("ssh_key", &["ssh"]),
        ("clap::", &["cli"]),
        ("rpassword::", &["run"]),
        ("getrandom::", &["random"]),
        ("rand_bytes", &["random"]),
        ("RandomState", &["random"]),
    ] {
        for file in source_files(&src) {
            let inside = file.strip_prefix(&src).expect("below src");
            let module = inside.components().next().expect("a name");
            let module = module.as_os_str().to_string_lossy().replace(".rs", "");
            let text = fs::read_to_string(&file).expect("a source file can be read");
            let is_at_home = rooms.contains(&module.as_str());
            let is_used = text
                .match_indices(library)
                .any(|(at, _)| !text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'));
            assert!(
                is_at_home || !is_used,
                "{} uses {library}",
                inside.display()
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
