//! Files use each other one way: no file uses another one that uses it, directly or
//! through others. (Which folder may use which is in `layering`.)
//!
//! What counts is each path in the code, as it is written: `crate::…`, `super::…`, and
//! in the file of a folder the name of a module in it. `mod name;` and `pub use` make a
//! map of that file, and do not count; who uses a name that such a map hands on uses
//! the file that has it. Unit tests may use anything.

use std::collections::{BTreeMap, BTreeSet};

use crate::sources::{Source, sources};

type Module = Vec<String>;

/// Which files use which.
fn uses(sources: &[Source]) -> BTreeMap<Module, BTreeSet<Module>> {
    let sources: Vec<&Source> = sources.iter().filter(|source| !source.is_test()).collect();
    let modules: BTreeSet<Module> = sources.iter().map(|source| source.module()).collect();
    let mut handed_on = BTreeMap::new();
    for source in &sources {
        for path in paths(&source.module(), &modules, &public_uses(&source.code()).0) {
            let name = path.last().cloned().unwrap_or_default();
            handed_on.insert((source.module(), name), path);
        }
    }
    let uses_of = |source: &&Source| {
        let module = source.module();
        let code = public_uses(&source.code()).1;
        let used = paths(&module, &modules, &code).into_iter();
        let used = used.filter_map(|path| home(&path, &modules, &handed_on));
        let used = used.filter(|used| *used != module).collect();
        (module, used)
    };
    sources.iter().map(uses_of).collect()
}

/// The `pub use …;` of a file, and the rest of its code.
fn public_uses(code: &str) -> (String, String) {
    let (mut handed_on, mut rest) = (String::new(), String::new());
    for statement in code.split_inclusive(';') {
        let line = statement.trim_start();
        let is_use = line.starts_with("pub") && line.split_whitespace().nth(1) == Some("use");
        if is_use {
            handed_on += statement;
        } else {
            rest += statement;
        }
    }
    (handed_on, rest)
}

/// The file that has what a path names.
fn home(
    path: &[String],
    modules: &BTreeSet<Module>,
    handed_on: &BTreeMap<(Module, String), Module>,
) -> Option<Module> {
    let length = (0..=path.len())
        .rev()
        .find(|&length| modules.contains(&path[..length]))?;
    let (module, rest) = path.split_at(length);
    let name = rest.first().cloned().unwrap_or_default();
    match handed_on.get(&(module.to_vec(), name)) {
        Some(further) if further.as_slice() != path => home(further, modules, handed_on),
        _ => Some(module.to_vec()),
    }
}

/// All paths into this crate that the code of a module has, from the root.
fn paths(module: &Module, modules: &BTreeSet<Module>, code: &str) -> Vec<Module> {
    let mut found = Vec::new();
    let mut end = 0;
    for (at, _) in code.match_indices("::") {
        // The rest of a longer path, or of a tree, was taken with its beginning.
        if at < end {
            continue;
        }
        let before = &code[..at];
        let begin = before
            .rfind(|c: char| !is_of_name(c))
            .map_or(0, |at| at + 1);
        let first = &before[begin..];
        let mut root = match first {
            "crate" | "orgalorg" => Vec::new(),
            "self" => module.clone(),
            "super" => parent(module),
            _ => [module.as_slice(), &[first.to_owned()]].concat(),
        };
        let mut rest = &code[at + 2..];
        while let Some(further) = rest.strip_prefix("super::") {
            root = parent(&root);
            rest = further;
        }
        let is_ours = matches!(first, "crate" | "orgalorg" | "self" | "super");
        if is_ours || modules.contains(&root) {
            end = code.len() - expand(&root, rest, &mut found).len();
        }
    }
    found
}

fn parent(module: &[String]) -> Module {
    module[..module.len().saturating_sub(1)].to_vec()
}

fn is_of_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Takes a path, or a tree of paths in braces, apart. Returns what follows it.
fn expand<'a>(root: &[String], text: &'a str, found: &mut Vec<Module>) -> &'a str {
    if let Some(mut rest) = text.strip_prefix('{') {
        loop {
            rest = rest.trim_start().trim_start_matches(',').trim_start();
            if let Some(rest) = rest.strip_prefix('}') {
                return rest;
            }
            let before = rest.len();
            rest = expand(root, rest, found);
            // `as name`, or something that no path has.
            if rest.len() == before || !rest.trim_start().starts_with([',', '}']) {
                let end = rest.find([',', '}']).unwrap_or(rest.len());
                rest = &rest[end..];
            }
            if rest.is_empty() {
                return rest;
            }
        }
    }
    let end = text.find(|c: char| !is_of_name(c)).unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let mut path = root.to_vec();
    // `self` in braces, `*`.
    if !name.is_empty() && name != "self" {
        path.push(name.to_owned());
    }
    match rest.strip_prefix("::") {
        Some(rest) => expand(&path, rest, found),
        None => {
            found.push(path);
            rest
        }
    }
}

/// The circles, each with all modules that are on it.
fn circles(uses: &BTreeMap<Module, BTreeSet<Module>>) -> BTreeSet<BTreeSet<Module>> {
    let reached_from = |start: &Module| {
        let mut reached = BTreeSet::new();
        let mut next: Vec<&Module> = vec![start];
        while let Some(module) = next.pop() {
            for used in uses.get(module).into_iter().flatten() {
                if reached.insert(used.clone()) {
                    next.push(used);
                }
            }
        }
        reached
    };
    let reached: BTreeMap<&Module, BTreeSet<Module>> = uses
        .keys()
        .map(|module| (module, reached_from(module)))
        .collect();
    let is_on_circle = |module: &&Module| reached[*module].contains(*module);
    let circle_of = |module: &Module| {
        let others = reached[module].iter();
        others
            .filter(|other| reached.get(other).is_some_and(|from| from.contains(module)))
            .cloned()
            .collect()
    };
    uses.keys().filter(is_on_circle).map(circle_of).collect()
}

/// A circle as a list of names, and the uses that make it one.
fn shown(circle: &BTreeSet<Module>, uses: &BTreeMap<Module, BTreeSet<Module>>) -> String {
    let names: Vec<String> = circle.iter().map(|module| module.join("::")).collect();
    let mut text = format!("a circle of {names:?}:\n");
    for module in circle {
        for used in uses[module].intersection(circle) {
            text += &format!("    {} uses {}\n", module.join("::"), used.join("::"));
        }
    }
    text
}

#[test]
fn no_file_uses_one_that_uses_it() {
    let uses = uses(&sources());
    let seen: usize = uses.values().map(BTreeSet::len).sum();
    assert!(seen > 100, "only {seen} uses found: the search is broken");
    let circles = circles(&uses).into_iter();
    let shown: String = circles.map(|circle| shown(&circle, &uses)).collect();
    assert!(shown.is_empty(), "{shown}");
}

#[test]
fn paths_are_found_as_they_may_be_written() {
    let module = |name: &str| -> Module { name.split("::").map(str::to_owned).collect() };
    let modules: BTreeSet<Module> = ["a", "a::b", "a::c", "d"].map(module).into();
    let found = |text: &str| -> Vec<String> {
        let found = paths(&module("a"), &modules, text);
        found.iter().map(|path| path.join("::")).collect()
    };
    assert_eq!(
        found("use crate::{a::{self, b::X as Y, c}, d};"),
        ["a", "a::b::X", "a::c", "d"]
    );
    assert_eq!(
        found("b::f(super::d::g(), std::mem::take(x))"),
        ["a::b::f", "d::g"]
    );
    assert_eq!(found("use super::*; Vec::<u8>::new()"), [""]);
    let code = "use crate::d::X;\npub use c::{Y,\n Z};\nf()";
    let (handed_on, rest) = public_uses(code);
    assert_eq!(found(&handed_on), ["a::c::Y", "a::c::Z"]);
    assert_eq!(found(&rest), ["d::X"]);
}

#[test]
fn a_circle_is_found_through_others() {
    let file = |path: &str, text: &str| Source {
        path: path.into(),
        text: text.to_owned(),
    };
    let sources = [
        file("lib.rs", "mod a;"),
        file("a/mod.rs", "mod b;\nmod c;\npub use c::C;\n"),
        file("a/b.rs", "use crate::a::C;\n"),
        file("a/c.rs", "use crate::d::D;\n"),
        file("d.rs", "fn f() {\n    crate::a::b::g();\n}\n"),
    ];
    let circles = circles(&uses(&sources));
    let names: Vec<Vec<String>> = circles
        .iter()
        .map(|circle| circle.iter().map(|module| module.join("::")).collect())
        .collect();
    assert_eq!(names, [["a::b", "a::c", "d"]]);
}
