//! What shellcheck says about every shell script. `.shellcheckrc` has what holds for
//! all of them; an exception stands above its line, with its reason.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::sources::{files, root};

/// The files of some folders that end in `.sh`, or begin by naming a shell.
fn scripts() -> Vec<PathBuf> {
    let folders = ["src", "tests", ".ci", "benches", "examples"];
    let all = folders
        .into_iter()
        .flat_map(|folder| files(&root().join(folder)));
    let is_script = |path: &PathBuf| {
        let begin = fs::read(path).expect("a file can be read");
        let first = begin
            .split(|&byte| byte == b'\n')
            .next()
            .unwrap_or_default();
        path.extension().is_some_and(|extension| extension == "sh")
            || first.starts_with(b"#!") && first.ends_with(b"sh")
    };
    all.filter(is_script).collect()
}

#[test]
fn shellcheck_has_nothing_to_say() {
    let scripts = scripts();
    assert!(
        scripts.len() >= 7,
        "only these scripts were found: {scripts:?}"
    );
    let output = Command::new("shellcheck")
        .args(["--color=never", "--"])
        .args(&scripts)
        .current_dir(root())
        .output()
        .expect("shellcheck can be run (tests/install-dependencies installs it)");
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
