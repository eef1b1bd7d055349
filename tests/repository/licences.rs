//! The licences of everything that is linked into the program go with MIT.

use std::process::Command;

use serde_json::Value;

/// The licences that `deny.toml` allows, for `make audit` and for this test.
fn allowed() -> Vec<&'static str> {
    let (_, list) = include_str!("../../deny.toml")
        .split_once("\nallow = [")
        .expect("deny.toml allows licences");
    let (list, _) = list.split_once(']').expect("the list has an end");
    list.split('"').skip(1).step_by(2).collect()
}

/// Whether one of the alternatives of an SPDX expression consists of allowed
/// licences only. (`/` is how old crates write OR.)
fn is_allowed(expression: &str) -> bool {
    let allowed = allowed();
    let expression = expression.replace('/', " OR ");
    // (A OR B) AND C: each part must have an allowed alternative.
    expression.split(" AND ").all(|part| {
        part.split(" OR ").any(|licence| {
            let licence = licence.trim().trim_matches(['(', ')']);
            allowed.contains(&licence)
        })
    })
}

/// The packages that this machine's program is made of, as cargo describes them.
fn packages() -> Vec<Value> {
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
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo writes JSON");
    let packages = metadata["packages"].as_array();
    packages.expect("cargo lists packages").clone()
}

#[test]
fn all_dependencies_have_permissive_licences() {
    let packages = packages();
    assert!(
        packages.len() > 20,
        "only {} packages found",
        packages.len()
    );
    let bad: Vec<String> = packages
        .iter()
        .filter(|package| !package["license"].as_str().is_some_and(is_allowed))
        .map(|package| format!("{}: {}", package["name"], package["license"]))
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
