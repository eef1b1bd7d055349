//! The `orgalorg` command. Everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    orgalorg::main(std::env::args_os())
}
