//! Refuses to build against a libssh2 of the system that is older than the one which
//! `libssh2-sys` bundles: that one has fixes for security which 1.11.1 and before lack.
//!
//! The bundled one is the default. `LIBSSH2_SYS_USE_PKG_CONFIG` asks for the system's.

use std::env;
use std::process::Command;

/// The release that has what the bundled snapshot has.
const OLDEST: [u32; 3] = [1, 11, 2];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=LIBSSH2_SYS_USE_PKG_CONFIG");
    if env::var_os("LIBSSH2_SYS_USE_PKG_CONFIG").is_none() {
        return;
    }
    // Without an answer libssh2-sys falls back to its own.
    let Ok(output) = Command::new("pkg-config")
        .args(["--modversion", "libssh2"])
        .output()
    else {
        return;
    };
    let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if output.status.success() && !is_new_enough(&version) {
        println!(
            "cargo::error=libssh2 {version} of the system lacks fixes for security; \
             build without LIBSSH2_SYS_USE_PKG_CONFIG, or against a release from \
             1.11.2 on"
        );
    }
}

/// Whether it is a release (`1.11.2_DEV` may be any snapshot before it).
fn is_new_enough(version: &str) -> bool {
    let numbers: Result<Vec<u32>, _> = version.split('.').map(str::parse).collect();
    numbers.is_ok_and(|numbers| numbers.as_slice() >= &OLDEST[..])
}
