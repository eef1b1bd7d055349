//! A libssh2 session on its socket, and all waiting that is done for it.
//!
//! While a connection is made, steps follow each other and [`Session::drive`]
//! runs one call until it is done. Afterwards `cluster::node_loop` has several things
//! going on at once and polls by itself, with [`Session::poll`].

use std::cell::Cell;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use libssh2_sys as ffi;
use rustix::event::{PollFd, PollFlags};
use ssh2::{BlockDirections, DisconnectCode, ErrorCode, MethodType};

use crate::error::Tree;
use crate::event::{HostKey, Level, Log};
use crate::hosts::{Liveness, known_hosts};
use crate::ssh::algorithms::Offer;
use crate::ssh::transport::Transport;
use crate::ssh::wait::{Interrupted, WaitLimit, poll_until};
use crate::wake::Wakeup;

/// libssh2 counts keep-alives in seconds, makes two out of one, and sends none
/// before they have passed by its own clock (hence a little more).
const SHORTEST_KEEP_ALIVE: Duration = Duration::from_millis(2_100);

/// Characters of a server's greeting that are shown.
const LONGEST_GREETING: usize = 200;

/// Breaks a connection off from another thread.
///
/// While a server sends faster than libssh2 reads (an endless banner is enough),
/// a call into it does not come back, and the thread that made it can watch no
/// clock. So main does, and pulls the plug of a host that is overdue.
#[derive(Debug, Clone, Default)]
pub(crate) struct Plug {
    transport: Arc<Mutex<Weak<Transport>>>,
}

impl Plug {
    /// It belongs to this connection from now on.
    pub(crate) fn insert(&self, transport: &Arc<Transport>) {
        *self.lock() = Arc::downgrade(transport);
    }

    /// Ends the connection, if there is one.
    pub(crate) fn pull(&self) {
        if let Some(transport) = self.lock().upgrade() {
            transport.shut_down();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Weak<Transport>> {
        // Nothing can go wrong between lock and unlock.
        self.transport
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a step of a session failed.
#[derive(Debug)]
pub(crate) enum SessionError {
    /// The connection is gone, or the peer breaks the protocol.
    Lost(Tree),
    /// The peer said no; the connection lives.
    Refused(Tree),
    /// See [`Interrupted`].
    Interrupted(Interrupted),
}

/// What a failed call means. After the deadline, or the end of the run, it means
/// that: main has pulled the [`Plug`] of a server that kept a call busy.
fn failed(limit: &WaitLimit<'_>, error: &ssh2::Error) -> SessionError {
    if (limit.cancelled)() {
        SessionError::Interrupted(Interrupted::Cancelled)
    } else if Instant::now() >= limit.deadline {
        SessionError::Interrupted(Interrupted::TimedOut)
    } else {
        classify(error)
    }
}

/// What a libssh2 call says that could not finish yet.
pub(super) fn is_again(error: &ssh2::Error) -> bool {
    error.code() == ErrorCode::Session(ffi::LIBSSH2_ERROR_EAGAIN)
}

/// What a libssh2 call says when the host said no to a request on a channel.
pub(super) fn is_denial(error: &ssh2::Error) -> bool {
    error.code() == ErrorCode::Session(ffi::LIBSSH2_ERROR_CHANNEL_REQUEST_DENIED)
}

/// What libssh2 says when the end of a channel is waited for that has not said that
/// it will end.
pub(super) fn is_too_early(error: &ssh2::Error) -> bool {
    error.code() == ErrorCode::Session(ffi::LIBSSH2_ERROR_INVAL)
}

/// Sorts libssh2's errors: those that end the session, and refusals.
pub(super) fn classify(error: &ssh2::Error) -> SessionError {
    let text = describe(error);
    match error.code() {
        ErrorCode::Session(
            ffi::LIBSSH2_ERROR_SOCKET_SEND
            | ffi::LIBSSH2_ERROR_SOCKET_DISCONNECT
            | ffi::LIBSSH2_ERROR_SOCKET_RECV
            | ffi::LIBSSH2_ERROR_BANNER_RECV
            | ffi::LIBSSH2_ERROR_PROTO
            | ffi::LIBSSH2_ERROR_INVALID_MAC
            | ffi::LIBSSH2_ERROR_KEX_FAILURE
            | ffi::LIBSSH2_ERROR_KEY_EXCHANGE_FAILURE
            | ffi::LIBSSH2_ERROR_DECRYPT
            | ffi::LIBSSH2_ERROR_ALLOC
            | ffi::LIBSSH2_ERROR_HOSTKEY_INIT
            | ffi::LIBSSH2_ERROR_BAD_SOCKET
            | ffi::LIBSSH2_ERROR_OUT_OF_BOUNDARY
            | ffi::LIBSSH2_ERROR_METHOD_NONE,
        ) => SessionError::Lost(text.into()),
        _ => SessionError::Refused(text.into()),
    }
}

fn describe(error: &ssh2::Error) -> String {
    match error.code() {
        // Whichever of them comes first.
        ErrorCode::Session(
            ffi::LIBSSH2_ERROR_SOCKET_SEND
            | ffi::LIBSSH2_ERROR_SOCKET_DISCONNECT
            | ffi::LIBSSH2_ERROR_SOCKET_RECV,
        ) => "the host closed the connection".to_owned(),
        ErrorCode::Session(ffi::LIBSSH2_ERROR_BANNER_RECV) => {
            "the host does not speak SSH".to_owned()
        }
        ErrorCode::Session(ffi::LIBSSH2_ERROR_KEX_FAILURE | ffi::LIBSSH2_ERROR_METHOD_NONE) => {
            "no common algorithm, or the key exchange failed".to_owned()
        }
        ErrorCode::Session(ffi::LIBSSH2_ERROR_KEY_EXCHANGE_FAILURE) => {
            "the key exchange failed".to_owned()
        }
        // What libssh2 and ssh2 have no words for.
        ErrorCode::Session(number)
            if matches!(
                error.message(),
                "" | "unknown error" | "no other error listed"
            ) =>
        {
            format!("unknown error {number} of libssh2")
        }
        _ => error.message().to_lowercase(),
    }
}

/// An SSH connection to one host.
pub(crate) struct Session {
    inner: ssh2::Session,
    transport: Arc<Transport>,
    offer: Offer,
    liveness: Liveness,
    last_heard: Instant,
    last_probe: Instant,
    /// When the oldest keep-alive without any sign of life after it was sent.
    unanswered_since: Option<Instant>,
    /// libssh2 has something to send that the socket does not take.
    blocked: Option<Blocked>,
    /// Why the connection is lost, and the other end of what stands in for its
    /// socket.
    lost: Option<(Tree, UnixStream)>,
    /// What the socket had has been taken in this turn.
    drained: Cell<bool>,
}

/// A socket that takes nothing. On a slow connection it takes data in steps of a
/// second and more, but what it has goes out all the time.
#[derive(Debug)]
struct Blocked {
    /// Since when nothing has gone out.
    since: Instant,
    /// How much was on the way then.
    on_the_way: i32,
}

/// How many times per send timeout the unsent bytes are sampled.
const LOOKS: u32 = 4;

impl Session {
    /// A session on a connected, non-blocking socket; known host-key types are
    /// preferred, or a host that is known by its RSA key would look changed as
    /// soon as it also has an Ed25519 key.
    ///
    /// # Errors
    /// libssh2 cannot be set up (no memory).
    pub(crate) fn new(
        transport: Arc<Transport>,
        liveness: Liveness,
        known_types: &[String],
    ) -> Result<Self, SessionError> {
        let lost = |error: ssh2::Error| classify(&error);
        let mut inner = ssh2::Session::new().map_err(lost)?;
        inner.set_tcp_stream(Arc::clone(&transport));
        inner.set_blocking(false);
        let offer = Offer::set(&inner, known_types).map_err(lost)?;
        // When one is due is decided in `tend`; this is the least that libssh2
        // lets pass between two.
        inner.set_keepalive(true, 1);
        let now = Instant::now();
        Ok(Self {
            inner,
            transport,
            offer,
            liveness,
            last_heard: now,
            last_probe: now,
            unanswered_since: None,
            blocked: None,
            lost: None,
            drained: Cell::new(false),
        })
    }

    pub(super) fn inner(&self) -> &ssh2::Session {
        &self.inner
    }

    /// From here on what the socket has is taken once.
    pub(crate) fn begin_turn(&self) {
        self.drained.set(false);
    }

    pub(super) fn is_drained(&self) -> bool {
        self.drained.get()
    }

    pub(super) fn set_drained(&self, drained: bool) {
        self.drained.set(drained);
    }

    /// Exchanges keys with the server.
    ///
    /// # Errors
    /// No SSH server, no common algorithm, or out of limit.
    pub(crate) fn handshake(
        &mut self,
        limit: &WaitLimit<'_>,
        log: &dyn Log,
    ) -> Result<(), SessionError> {
        let begun = Instant::now();
        if log.enabled(Level::Trace) {
            self.log_preferences(log);
        }
        loop {
            match self.inner.handshake() {
                Ok(()) => break,
                Err(error) if is_again(&error) => self.wait(limit)?,
                Err(error) => return Err(self.no_handshake(&error, limit)),
            }
        }
        if log.enabled(Level::Debug) {
            let method = |kind| self.inner.methods(kind).unwrap_or("?");
            let banner = self.inner.banner_bytes().unwrap_or_default();
            log.log(
                Level::Debug,
                format!(
                    "server {}; {}, {}, {}, {}; keys exchanged after {:.3}s",
                    String::from_utf8_lossy(banner),
                    method(MethodType::Kex),
                    method(MethodType::HostKey),
                    method(MethodType::CryptCs),
                    method(MethodType::MacCs),
                    begun.elapsed().as_secs_f64(),
                )
                .into(),
            );
        }
        Ok(())
    }

    /// What we offer to the server, in our order.
    fn log_preferences(&self, log: &dyn Log) {
        for (what, list) in self.offer.lists() {
            log.log(Level::Trace, format!("we offer as {what}: {list}").into());
        }
    }

    /// Why a handshake failed. While keys are exchanged libssh2 does not tell a
    /// connection that has ended from all else that may go wrong.
    fn no_handshake(&self, error: &ssh2::Error, limit: &WaitLimit<'_>) -> SessionError {
        let hint = match error.code() {
            ErrorCode::Session(ffi::LIBSSH2_ERROR_KEX_FAILURE) => " (no common algorithm?)",
            ErrorCode::Session(ffi::LIBSSH2_ERROR_KEY_EXCHANGE_FAILURE) => "",
            _ => return failed(limit, error),
        };
        match (failed(limit, error), self.transport.is_at_end()) {
            (SessionError::Lost(_), true) => SessionError::Lost(
                format!("the host closed the connection during the key exchange{hint}").into(),
            ),
            (failed, _) => failed,
        }
    }

    /// The first line that the server said (or its last one before that which
    /// made it an SSH server), made fit for a message. It may be anything: the
    /// server may be none.
    #[must_use]
    pub(crate) fn greeting(&self) -> Option<String> {
        let line = String::from_utf8_lossy(self.inner.banner_bytes()?).into_owned();
        let text: String = line.chars().take(LONGEST_GREETING).collect();
        Some(text.escape_debug().to_string())
    }

    /// The key that the server proved to have.
    ///
    /// # Errors
    /// The server has none of a known kind.
    pub(crate) fn host_key(&self) -> Result<HostKey, SessionError> {
        let (blob, _) = self
            .inner
            .host_key()
            .ok_or_else(|| SessionError::Lost("the host shows no key".into()))?;
        Ok(HostKey {
            blob: blob.to_vec(),
            algorithm: known_hosts::key_type(blob).unwrap_or("unknown").to_owned(),
            fingerprint: known_hosts::fingerprint(blob),
        })
    }

    /// Makes one call until it is done.
    ///
    /// # Errors
    /// Those of the call, sorted; or out of limit.
    pub(super) fn drive<T>(
        &self,
        limit: &WaitLimit<'_>,
        mut call: impl FnMut(&ssh2::Session) -> Result<T, ssh2::Error>,
    ) -> Result<T, SessionError> {
        loop {
            match call(&self.inner) {
                Ok(value) => return Ok(value),
                Err(error) if is_again(&error) => self.wait(limit)?,
                Err(error) => return Err(failed(limit, &error)),
            }
        }
    }

    fn wait(&self, limit: &WaitLimit<'_>) -> Result<(), SessionError> {
        let flags = match self.inner.block_directions() {
            BlockDirections::Outbound | BlockDirections::Both => PollFlags::IN | PollFlags::OUT,
            BlockDirections::Inbound | BlockDirections::None => PollFlags::IN,
        };
        limit
            .wait_for(self.transport.as_fd(), flags)
            .map_err(SessionError::Interrupted)
    }

    /// Whether libssh2 has begun to send something that the socket did not take.
    pub(super) fn is_blocked_outbound(&self) -> bool {
        matches!(
            self.inner.block_directions(),
            BlockDirections::Outbound | BlockDirections::Both
        )
    }

    /// Whether the socket takes data right now.
    #[must_use]
    pub(crate) fn is_writable(&self) -> bool {
        let now = Instant::now();
        let mut fds = [PollFd::new(&*self.transport, PollFlags::OUT)];
        poll_until(&mut fds, now, now);
        fds[0].revents().contains(PollFlags::OUT)
    }

    /// Sleeps until the host says something, the socket takes data (if
    /// `writing`), somebody wakes us, or `deadline`. What we have been woken for is
    /// to be looked at after this.
    pub(crate) fn poll(&mut self, wakeup: &Wakeup, writing: bool, deadline: Instant) {
        let writing = writing || self.is_blocked_outbound();
        let mut flags = PollFlags::IN;
        if writing {
            flags |= PollFlags::OUT;
        }
        let now = Instant::now();
        let deadline = if writing {
            deadline.min(now + self.liveness.send_timeout / LOOKS)
        } else {
            deadline
        };
        let mut fds = [
            PollFd::new(&*self.transport, flags),
            PollFd::new(wakeup, PollFlags::IN),
        ];
        poll_until(&mut fds, deadline, now);
        let revents = fds[0].revents();
        if !fds[1].revents().is_empty() {
            wakeup.clear();
        }
        if revents.contains(PollFlags::IN) {
            self.heard(Instant::now());
        }
        if writing && !revents.contains(PollFlags::OUT) {
            let on_the_way = self.on_the_way();
            self.blocked.get_or_insert(Blocked {
                since: now,
                on_the_way,
            });
        } else {
            self.blocked = None;
        }
    }

    /// Puts a socket that neither says nor minds anything in the place of one
    /// that has ended; says whether that could be done. For libssh2 gives out
    /// nothing of what it has queued while its socket is at its end, and that
    /// may be the last words of a host.
    pub(super) fn retire(&mut self, reason: &Tree) -> bool {
        let Ok((stand_in, other)) = UnixStream::pair() else {
            return false;
        };
        if stand_in.set_nonblocking(true).is_err()
            || self.transport.replace_by(stand_in.as_fd()).is_err()
        {
            return false;
        }
        self.lost = Some((reason.clone(), other));
        true
    }

    /// Why the connection is lost, while what came before is still handed out.
    #[must_use]
    pub(crate) fn lost(&self) -> Option<&Tree> {
        self.lost.as_ref().map(|(reason, _)| reason)
    }

    /// How many bytes of what was sent have not arrived yet, as far as the system
    /// knows.
    #[must_use]
    pub(crate) fn on_the_way(&self) -> i32 {
        self.transport.on_the_way()
    }

    /// The host has shown life.
    pub(crate) fn heard(&mut self, now: Instant) {
        self.last_heard = now;
        self.unanswered_since = None;
    }

    /// When the host last showed life.
    #[must_use]
    pub(crate) fn last_heard(&self) -> Instant {
        self.last_heard
    }

    /// Does what is due by now to keep the connection alive, and says when to
    /// come back.
    ///
    /// # Errors
    /// The host has been silent, or has taken no data, for too long.
    pub(crate) fn tend(&mut self, now: Instant) -> Result<Instant, SessionError> {
        let on_the_way = self.blocked.as_ref().map(|_| self.on_the_way());
        if let (Some(blocked), Some(on_the_way)) = (&mut self.blocked, on_the_way)
            && on_the_way < blocked.on_the_way
        {
            blocked.on_the_way = on_the_way;
            blocked.since = now;
        }
        let blocked_since = self.blocked.as_ref().map(|blocked| blocked.since);
        if blocked_since.is_some_and(|since| now >= since + self.liveness.send_timeout) {
            return Err(SessionError::Lost(
                format!(
                    "the connection has taken no data for {}s",
                    self.liveness.send_timeout.as_secs_f64()
                )
                .into(),
            ));
        }
        if now >= self.next_probe() {
            self.probe(now)?;
        }
        // (In this order: a client that was suspended for long has to ask first.)
        if now >= self.silence_deadline() {
            return Err(SessionError::Lost(
                format!(
                    "no sign of life for {}s",
                    self.liveness.recv_timeout.as_secs_f64()
                )
                .into(),
            ));
        }
        let next = self.next_probe().min(self.silence_deadline());
        Ok(match blocked_since {
            Some(since) => next
                .min(since + self.liveness.send_timeout)
                .min(now + self.liveness.send_timeout / LOOKS),
            None => next,
        })
    }

    /// Asks the host whether it lives, if that can be done now.
    ///
    /// # Errors
    /// The connection is lost.
    pub(crate) fn probe(&mut self, now: Instant) -> Result<(), SessionError> {
        // The packet is built on libssh2's stack: sent at a moment when the
        // socket does not take it, it could never be finished.
        if !self.is_blocked_outbound() && self.is_writable() {
            match self.inner.keepalive_send() {
                Ok(_) => {}
                // Not while keys are exchanged; that has to be answered as well.
                Err(error) if is_again(&error) => {}
                Err(error) => return Err(classify(&error)),
            }
            self.unanswered_since.get_or_insert(now);
        }
        self.last_probe = now;
        Ok(())
    }

    fn next_probe(&self) -> Instant {
        // Often enough that silence can be told from a silent command in time.
        let interval = self
            .liveness
            .keep_alive
            .min(self.liveness.recv_timeout / 3)
            .max(SHORTEST_KEEP_ALIVE);
        self.last_probe.max(self.last_heard) + interval
    }

    /// When silence means that the host is lost: after the time-out, but not
    /// before it had a chance to answer a keep-alive.
    fn silence_deadline(&self) -> Instant {
        let chance = self.liveness.recv_timeout.min(SHORTEST_KEEP_ALIVE);
        let asked = self.unanswered_since.unwrap_or_else(|| self.next_probe());
        (self.last_heard + self.liveness.recv_timeout).max(asked + chance)
    }

    /// Says goodbye, if that can be done without waiting.
    pub(crate) fn disconnect(&self) {
        if self.is_writable() {
            let by_us = Some(DisconnectCode::ByApplication);
            // The peer sees the socket close in any case.
            let _ = self.inner.disconnect(by_us, "done", None);
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // libssh2 says goodbye for each channel and for the session when they
        // are freed; with a silent peer that hangs, or leaks. On a socket that
        // has been shut down it does neither.
        self.transport.shut_down();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_without_words_have_their_number() {
        let text = |number, words| describe(&ssh2::Error::new(ErrorCode::Session(number), words));
        let number = ffi::LIBSSH2_ERROR_MISSING_USERAUTH_BANNER;
        let told = text(number, "unknown error");
        assert_eq!(told, "unknown error -50 of libssh2");
        let number = ffi::LIBSSH2_ERROR_TIMEOUT;
        assert_eq!(text(number, "Timed out"), "timed out");
    }
}
