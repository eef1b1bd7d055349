//! The licences of everything that is linked into the program go with MIT.

use std::process::Command;

/// Licences that ask for no more than a notice.
const ALLOWED: [&str; 10] = [
    "MIT",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Unlicense",
    "Unicode-3.0",
    "Zlib",
    "0BSD",
];

/// Whether one of the alternatives of an SPDX expression consists of allowed
/// licences only. (`/` is how old crates write OR.)
fn is_allowed(expression: &str) -> bool {
    let expression = expression.replace('/', " OR ");
    // (A OR B) AND C: each part must have an allowed alternative.
    expression.split(" AND ").all(|part| {
        part.split(" OR ").any(|licence| {
            let licence = licence.trim().trim_matches(['(', ')']);
            ALLOWED.contains(&licence)
        })
    })
}

/// The string values of a key in JSON that cargo has written, with the package
/// names that stand before them.
fn licences(metadata: &str) -> Vec<(String, Option<String>)> {
    metadata
        .split("{\"name\":\"")
        .skip(1)
        .filter_map(|package| {
            let (name, rest) = package.split_once('"')?;
            // Dependencies have a name too, but no version beside it.
            rest.strip_prefix(",\"version\":\"")?;
            let (_, licence) = rest.split_once("\"license\":")?;
            let licence = licence
                .strip_prefix('"')
                .and_then(|text| text.split_once('"'));
            Some((name.to_owned(), licence.map(|(text, _)| text.to_owned())))
        })
        .collect()
}

#[test]
fn all_dependencies_have_permissive_licences() {
    // What other systems need has not been downloaded.
    let rustc = Command::new("rustc").arg("-vV").output().expect("rustc");
    let rustc = String::from_utf8_lossy(&rustc.stdout).into_owned();
    let host = rustc
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .expect("rustc names its host");
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--offline"])
        .args(["--filter-platform", host])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo metadata");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let packages = licences(&String::from_utf8_lossy(&output.stdout));
    assert!(
        packages.len() > 20,
        "only {} packages found",
        packages.len()
    );
    let bad: Vec<_> = packages
        .iter()
        .filter(|(_, licence)| !licence.as_deref().is_some_and(is_allowed))
        .collect();
    assert!(bad.is_empty(), "look at the licences of {bad:?}");
}

#[test]
fn an_expression_is_allowed_if_one_of_its_alternatives_is() {
    assert!(is_allowed("MIT OR GPL-3.0"));
    assert!(is_allowed("MIT/Apache-2.0"));
    assert!(is_allowed("(MIT OR Apache-2.0) AND Unicode-3.0"));
    assert!(!is_allowed("GPL-3.0"));
    assert!(!is_allowed("MIT AND GPL-2.0"));
}
