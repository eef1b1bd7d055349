//! `make` and `make install`, on a small package in place of the program.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A directory with our Makefile and a program that cargo builds in a moment.
struct Package {
    directory: tempfile::TempDir,
}

impl Package {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("tempdir");
        let write = |name: &str, text: &str| {
            fs::write(directory.path().join(name), text).expect("writable");
        };
        let makefile = Path::new(env!("CARGO_MANIFEST_DIR")).join("Makefile");
        fs::create_dir(directory.path().join("src")).expect("writable");
        write("Makefile", &fs::read_to_string(makefile).expect("ours"));
        write("src/main.rs", "fn main() {}\n");
        let package = "[package]\nname = \"orgalorg\"\nversion = \"0.1.0\"\nedition = \"2024\"\n";
        write("Cargo.toml", &format!("{package}[workspace]\n"));
        write(
            "Cargo.lock",
            "version = 4\n\n[[package]]\nname = \"orgalorg\"\nversion = \"0.1.0\"\n",
        );
        // All that installing needs, and no cargo.
        fs::create_dir(directory.path().join("bin")).expect("writable");
        for program in ["sh", "id", "tr", "sed", "cat", "install"] {
            let path = Path::new("/usr/bin").join(program);
            symlink(path, directory.path().join("bin").join(program)).expect("writable");
        }
        Self { directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Runs make as a user with cargo does.
    fn build(&self, variables: &[(&str, &Path)]) -> Output {
        let toolchain = Path::new(env!("CARGO")).parent().expect("a directory");
        let path = format!(
            "{}:{}",
            toolchain.display(),
            std::env::var("PATH").unwrap_or_default()
        );
        self.make(&[], &[&[("PATH", Path::new(&path))], variables].concat())
    }

    /// Runs make, without what cargo has set for this test.
    fn make(&self, arguments: &[&str], variables: &[(&str, &Path)]) -> Output {
        let mut command = Command::new("/usr/bin/make");
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            let is_ours = text.starts_with("CARGO") && text != "CARGO_HOME";
            if is_ours || text.starts_with("MAKE") {
                command.env_remove(name);
            }
        }
        command.args(arguments).current_dir(&self.directory);
        command.envs(variables.iter().copied());
        command.output().expect("make is installed")
    }

    /// As with sudo: another environment, and no cargo.
    fn install(&self, destination: &str) -> Output {
        let destination = format!("DESTDIR={}", self.path(destination).display());
        let path = self.path("bin");
        self.make(&["install", &destination], &[("PATH", &path)])
    }
}

#[track_caller]
fn assert_success(output: &Output) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
}

fn assert_installed(path: &Path) {
    let mode = fs::metadata(path).expect("installed").permissions().mode();
    assert_eq!(mode & 0o7777, 0o755);
    assert_success(&Command::new(path).output().expect("a program"));
}

#[test]
fn what_make_has_built_is_installed_without_cargo() {
    let package = Package::new();
    assert_success(&package.build(&[]));
    assert!(package.path("target/release/orgalorg").exists());
    assert_success(&package.install("out"));
    assert_installed(&package.path("out/usr/local/bin/orgalorg"));
}

#[test]
fn it_is_found_where_cargo_was_told_to_build() {
    let package = Package::new();
    let elsewhere = package.path("else where");
    assert_success(&package.build(&[("CARGO_TARGET_DIR", &elsewhere)]));
    assert!(!package.path("target").exists());
    assert_success(&package.install("out"));
    assert_installed(&package.path("out/usr/local/bin/orgalorg"));
}

#[test]
fn installing_builds_nothing_and_says_what_is_missing() {
    let package = Package::new();
    let assert_refused = || {
        let output = package.install("out");
        assert!(!output.status.success());
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(
            text.contains("nothing is built yet: run 'make' first"),
            "{text}"
        );
        assert!(!package.path("out").exists());
    };
    assert_refused();
    assert!(!package.path("target").exists());
    assert_success(&package.build(&[]));
    fs::remove_dir_all(package.path("target")).expect("ours");
    assert_refused();
    // A build that fails leaves nothing of the one before.
    assert_success(&package.build(&[]));
    fs::write(package.path("src/main.rs"), "no Rust").expect("ours");
    assert!(!package.build(&[]).status.success());
    assert_refused();
}
