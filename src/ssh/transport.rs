//! What an SSH session runs over, and how it is made: a TCP connection, within a time
//! limit and open to interruption.

use std::fs::File;
use std::io;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::net::{Shutdown, SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use socket2::{Domain, Protocol, Socket, Type};

use crate::error::{Tree, io_message};
use crate::event::{Level, Log};
use crate::ssh::wait::{Interrupted, WaitLimit};

/// How much may lie unsent in the kernel: bulk data must not queue ahead of
/// heartbeats for long on a slow link (this takes a second at 1 Mbit/s), and a
/// fast one must not run dry.
const NOTSENT_LOWAT: u32 = 128 * 1024;

/// The connection under an SSH session: a stream socket that does not block.
#[derive(Debug)]
pub(crate) struct Transport {
    socket: Socket,
}

impl Transport {
    /// Ends the connection. A thread that polls it wakes.
    pub(crate) fn shut_down(&self) {
        // It may have ended by itself.
        let _ = self.socket.shutdown(Shutdown::Both);
    }

    /// Whether the peer has ended the connection, and all that it sent has been read.
    pub(crate) fn is_at_end(&self) -> bool {
        let mut byte = [MaybeUninit::uninit()];
        matches!(self.socket.peek(&mut byte), Ok(0))
    }

    /// Bytes that were sent and have not arrived yet, as far as the kernel knows
    /// (tcp(7): SIOCOUTQ).
    #[expect(unsafe_code, reason = "no library asks for it")]
    pub(crate) fn on_the_way(&self) -> i32 {
        let mut bytes = 0;
        // SAFETY: the descriptor is open, and one int is written.
        let answer =
            unsafe { nix::libc::ioctl(self.as_raw_fd(), nix::libc::TIOCOUTQ, &raw mut bytes) };
        if answer == 0 { bytes } else { 0 }
    }

    /// Puts another socket under the descriptor that libssh2 uses.
    ///
    /// # Errors
    /// The system refuses it.
    #[expect(unsafe_code, reason = "the descriptor belongs to libssh2 as well")]
    pub(crate) fn replace_by(&self, other: BorrowedFd<'_>) -> io::Result<()> {
        // SAFETY: the descriptor is open, and is not closed here.
        let socket = unsafe { OwnedFd::from_raw_fd(self.as_raw_fd()) };
        Ok(rustix::io::dup2(other, &mut ManuallyDrop::new(socket))?)
    }
}

impl AsRawFd for Transport {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl AsFd for Transport {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Why there is no connection.
#[derive(Debug)]
pub(crate) enum ConnectError {
    /// The name, or the connection to each of its addresses, failed.
    Failed(Tree),
    /// The time was up, or the run ended.
    Interrupted(Interrupted),
}

/// Connects to the first address of `host` that answers.
///
/// Looking up the name may block (it is getaddrinfo(3)); all else waits in
/// `patience`. The time is shared out: an address that does not answer leaves
/// some for those after it.
///
/// # Errors
/// No address, or none of them took the connection in time.
pub(crate) fn connect(
    host: &str,
    port: u16,
    limit: &WaitLimit<'_>,
    log: &dyn Log,
) -> Result<Transport, ConnectError> {
    let addresses = look_up(host, port, limit, log)?;
    let mut failures = Vec::new();
    for (index, address) in addresses.iter().enumerate() {
        log.log(Level::Debug, format!("connecting to {address}").into());
        let left = u32::try_from(addresses.len() - index).unwrap_or(u32::MAX);
        let now = Instant::now();
        let share = limit.deadline.saturating_duration_since(now) / left;
        let limit = WaitLimit {
            deadline: now + share,
            ..*limit
        };
        let reason = match connect_to(*address, &limit) {
            Ok(transport) => {
                log.log(Level::Debug, format!("connected {}", after(now)).into());
                return Ok(transport);
            }
            Err(ConnectError::Failed(reason)) => reason,
            Err(ConnectError::Interrupted(Interrupted::TimedOut)) if addresses.len() > 1 => {
                timed_out(share)
            }
            Err(ConnectError::Interrupted(reason)) => {
                return Err(ConnectError::Interrupted(reason));
            }
        };
        let text = format!(
            "no connection to {address} {}: {}",
            after(now),
            reason.flat()
        );
        log.log(Level::Debug, text.into());
        failures.push((address, reason));
    }
    Err(ConnectError::Failed(match <[_; 1]>::try_from(failures) {
        Ok([(_, reason)]) => reason,
        Err(several) => several.into_iter().fold(
            Tree::new("no address answers"),
            |tree, (address, reason)| tree.because(Tree::new(address.to_string()).because(reason)),
        ),
    }))
}

/// The addresses of a name, in the order of getaddrinfo(3).
fn look_up(
    host: &str,
    port: u16,
    limit: &WaitLimit<'_>,
    log: &dyn Log,
) -> Result<Vec<SocketAddr>, ConnectError> {
    let addresses: Vec<SocketAddr> = (host, port)
        .to_socket_addrs()
        .map_err(|error| ConnectError::Failed(look_up_failed(host, &error)))?
        .collect();
    if Instant::now() >= limit.deadline {
        return Err(ConnectError::Failed(
            format!("looking up '{host}' took all the time there was").into(),
        ));
    }
    if addresses.len() > 1 {
        let all: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        log.log(
            Level::Debug,
            format!("'{host}' is {}", all.join(", ")).into(),
        );
    }
    Ok(addresses)
}

/// `after 0.042s`
fn after(begun: Instant) -> String {
    format!("after {:.3}s", begun.elapsed().as_secs_f64())
}

fn look_up_failed(host: &str, error: &io::Error) -> Tree {
    // getaddrinfo(3) knows no name when it can't open its files.
    if let Err(error) = File::open("/dev/null") {
        return Tree::from_io(&error);
    }
    let text = io_message(error);
    // std puts this before what getaddrinfo says.
    let reason = text
        .strip_prefix("failed to lookup address information: ")
        .unwrap_or(&text);
    Tree::new(format!("can't resolve '{host}'")).because(reason)
}

fn timed_out(after: Duration) -> Tree {
    format!("no answer within {:.1}s", after.as_secs_f64()).into()
}

fn connect_to(address: SocketAddr, limit: &WaitLimit<'_>) -> Result<Transport, ConnectError> {
    let failed = |error: io::Error| ConnectError::Failed(Tree::from_io(&error));
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )
    .map_err(failed)?;
    socket.set_nonblocking(true).map_err(failed)?;
    // Small packets (keep-alives, typed lines) must not wait for an ACK.
    socket.set_tcp_nodelay(true).map_err(failed)?;
    #[cfg(target_os = "linux")]
    socket
        .set_tcp_notsent_lowat(NOTSENT_LOWAT)
        .map_err(failed)?;
    match socket.connect(&address.into()) {
        Ok(()) => {}
        Err(error)
            if error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()) =>
        {
            limit
                .wait_for(socket.as_fd(), PollFlags::OUT)
                .map_err(ConnectError::Interrupted)?;
            if let Some(error) = socket.take_error().map_err(failed)? {
                return Err(failed(error));
            }
        }
        Err(error) => return Err(failed(error)),
    }
    Ok(Transport { socket })
}
