//! The `orgalorg` command: parse, run, exit. Everything else is in the library.

use std::process::ExitCode;

use orgalorg::exit_status::ExitStatus;
use orgalorg::{cli, run};

fn main() -> ExitCode {
    let status = match cli::parse(std::env::args_os()) {
        Ok(config) => run::run(config).unwrap_or_else(cli::complain),
        Err(early) => early.print(),
    };
    match status {
        // The caller sees the signal that ended us, as with any other program.
        ExitStatus::Signal(signal) => cli::die_by(signal),
        ExitStatus::BrokenPipe => cli::die_by(signal_hook::consts::SIGPIPE),
        _ => {}
    }
    ExitCode::from(status.code())
}
