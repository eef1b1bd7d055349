//! What goes wrong in a fleet, and what a run makes of it: hosts that cannot be
//! reached, that vanish, that refuse; commands that fail; runs that are stopped.

mod commands;
mod connecting;
mod flooding;
mod losing;
mod scale;
mod stopping;

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::thread;

use crate::hosts::{CLIENT_ADDR, Host, Hosts, wait_until};
use crate::support::{LIMIT, Running};

/// What stderr says, without the time at the beginning of log lines (and
/// without the room for it on the lines below).
fn untimed(stderr: &str) -> String {
    const TIME: usize = "2026-01-31 12:00:00 ".len();
    stderr
        .lines()
        .map(|line| {
            let is_log = line.get(4..5) == Some("-") && line.get(13..14) == Some(":");
            let is_below = line.starts_with(&" ".repeat(28));
            let text = if is_log || is_below {
                &line[TIME..]
            } else {
                line
            };
            format!("{text}\n")
        })
        .collect()
}

/// The same without what was said of single hosts before the end.
fn summary(stderr: &str) -> String {
    let lines = untimed(stderr);
    let lines = lines.lines().filter(|line| !line.starts_with("[ERROR] "));
    lines.flat_map(|line| [line, "\n"]).collect()
}

/// A server on the client's own address that is none.
#[derive(Clone, Copy)]
enum Fake {
    /// Takes connections, and says nothing.
    Silent,
    /// Says this, and then nothing.
    Says(&'static str),
    /// Says this without end.
    Repeats(&'static str),
    /// Closes every connection at once.
    Closes,
}

/// Starts one and returns it as a target. It ends with the test process.
fn fake(hosts: &Hosts, behaviour: Fake) -> String {
    let listener = hosts.in_network(|| {
        TcpListener::bind((CLIENT_ADDR, 0)).expect("the client can listen on its own address")
    });
    let address = listener.local_addr().expect("it has an address");
    thread::spawn(move || {
        let mut open = Vec::new();
        for stream in listener.incoming().flatten() {
            match behaviour {
                Fake::Silent => open.push(stream),
                Fake::Says(text) => {
                    let _ = (&stream).write_all(text.as_bytes());
                    open.push(stream);
                }
                Fake::Repeats(text) => drop(thread::spawn(move || repeat(&stream, text))),
                Fake::Closes => drop(stream),
            }
        }
    });
    address.to_string()
}

fn repeat(mut stream: &TcpStream, text: &str) {
    let block = text.repeat(65536 / text.len());
    while stream.write_all(block.as_bytes()).is_ok() {}
}

/// A target where nobody listens.
fn closed_port(host: &Host) -> String {
    format!("{}:1", host.addr())
}

/// The arguments `-o target` for each.
fn each<'a>(targets: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let targets = targets.into_iter();
    targets
        .flat_map(|target| ["-o".to_owned(), target.to_owned()])
        .collect()
}

/// All arguments of a run.
fn arguments(targets: &[String], options: &[&str], command: &str) -> Vec<String> {
    let mut all = targets.to_vec();
    all.extend(options.iter().map(|&option| option.to_owned()));
    all.extend(["-C".to_owned(), command.to_owned()]);
    all
}

/// Waits until the program has written a text to stdout so many times.
#[track_caller]
fn wait_for_stdout(running: &Running, text: &str, times: usize) {
    wait_until(&format!("{times} × {text:?} on stdout"), LIMIT, || {
        running.stdout().matches(text).count() >= times
    });
}

/// Waits until the program has written a text to stderr.
#[track_caller]
fn wait_for_stderr(running: &Running, text: &str) {
    wait_until(&format!("{text:?} on stderr"), LIMIT, || {
        running.stderr().contains(text)
    });
}

/// Whether a file is there.
fn has_file(host: &Host, path: &str) -> bool {
    host.run(&format!("test -e '{path}'")).status.success()
}
