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

use crate::hosts::{CLIENT_ADDR, Host, Hosts};

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
