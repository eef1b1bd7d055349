//! The first part of a node's life: connect, check the host's key, log in. All of it
//! happens in a row; `node_loop` goes on from there.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cluster::job::Order;
use crate::cluster::node::Node;
use crate::event::{HostKey, Level, Log, NodeEvent, Outcome, Status};
use crate::ssh::auth::{self, AuthError};
use crate::ssh::host_keys::{self, Judgement};
use crate::ssh::session::{Session, SessionError};
use crate::ssh::transport::{self, ConnectError};
use crate::ssh::wait::{Interrupted, WaitLimit};

impl Node {
    /// Makes the connection and logs in. Asks about an unknown host key in between.
    /// Returns also how much of the time is left.
    pub(super) fn connect(&self) -> Result<(Session, Duration), Outcome> {
        let mut left = self.endpoint.connect_timeout;
        let mut trusted: Option<HostKey> = None;
        loop {
            let begun = Instant::now();
            let cancelled = || self.is_cancelled();
            let limit = WaitLimit {
                deadline: begun + left,
                wakeup: &self.wakeup,
                cancelled: &cancelled,
            };
            let (session, key) = self.greet(&limit, trusted.as_ref())?;
            let mut asked = false;
            if let Some(key) = key {
                // The time-out does not run while the user decides.
                left = left.saturating_sub(begun.elapsed());
                self.ask_about(&key)?;
                trusted = Some(key);
                asked = true;
            }
            let limit = WaitLimit {
                deadline: if asked {
                    Instant::now() + left
                } else {
                    limit.deadline
                },
                ..limit
            };
            match self.log_in(&session, &limit) {
                Ok(()) => {
                    let left = limit.deadline.saturating_duration_since(Instant::now());
                    return Ok((session, left));
                }
                // While the user thought about the key, the server may have given
                // up. The next connection must show the same key.
                Err(AuthError::Lost(_)) if asked => left = self.endpoint.connect_timeout,
                Err(AuthError::Lost(reason)) => {
                    return Err(Outcome::failed(Status::Unreachable, reason));
                }
                Err(AuthError::Refused(reason)) => {
                    return Err(Outcome::failed(Status::Auth, reason));
                }
                Err(AuthError::Interrupted(interrupted)) => {
                    return Err(self.interrupted(interrupted, "while logging in"));
                }
            }
        }
    }

    /// Connects and checks the host key. Returns a key that is unknown and is not
    /// the `trusted` one, for main to decide on.
    fn greet(
        &self,
        limit: &WaitLimit<'_>,
        trusted: Option<&HostKey>,
    ) -> Result<(Session, Option<HostKey>), Outcome> {
        let node = self.target.node();
        let log = self.display.about(&node);
        let (host, port) = (self.endpoint.host.as_str(), self.endpoint.port);
        let transport =
            transport::connect(host, port, limit, &log).map_err(|error| match error {
                ConnectError::Failed(reason) => Outcome::failed(Status::Unreachable, reason),
                ConnectError::Interrupted(interrupted) => {
                    self.interrupted(interrupted, "while connecting")
                }
            })?;
        let transport = Arc::new(transport);
        self.plug.insert(&transport);
        let known = self.shared.known_hosts.lookup(host, port);
        let mut session = Session::new(transport, self.endpoint.liveness, &known.types())
            .map_err(|error| self.no_handshake(error, None))?;
        let key = session
            .handshake(limit, &log)
            .and_then(|()| session.host_key())
            .map_err(|error| self.no_handshake(error, session.greeting()))?;
        let refused = |reason| Err(Outcome::failed(Status::HostKey, reason));
        if let Some(trusted) = trusted {
            return if trusted.blob == key.blob {
                Ok((session, None))
            } else {
                refused(
                    format!(
                        "the host shows another key than the accepted one: {} {}",
                        key.algorithm, key.fingerprint
                    )
                    .into(),
                )
            };
        }
        let verdict = known.verdict(&key.blob);
        match host_keys::judge(self.endpoint.host_keys, verdict, host, port, &key) {
            Judgement::Trusted(why) => {
                log.log(Level::Debug, why.into());
                Ok((session, None))
            }
            Judgement::Tolerated(warning) => {
                log.log(Level::Warn, warning);
                Ok((session, None))
            }
            Judgement::Unknown => {
                let text = format!(
                    "host key {} {} is not known",
                    key.algorithm, key.fingerprint
                );
                log.log(Level::Debug, text.into());
                Ok((session, Some(key)))
            }
            Judgement::Refused(reason) => refused(reason),
        }
    }

    /// Waits for main to decide on a key, without a time limit.
    fn ask_about(&self, key: &HostKey) -> Result<(), Outcome> {
        self.tell(NodeEvent::UnknownHostKey(key.clone()));
        loop {
            self.wakeup.clear();
            if self.is_cancelled() {
                return Err(Outcome::cancelled());
            }
            match self.next_order() {
                Some(Order::Trust) => return Ok(()),
                Some(Order::Distrust(reason)) => {
                    return Err(Outcome::failed(Status::HostKey, reason));
                }
                Some(_) | None => {}
            }
            self.wakeup.wait();
        }
    }

    fn log_in(&self, session: &Session, limit: &WaitLimit<'_>) -> Result<(), AuthError> {
        let node = self.target.node();
        let log = self.display.about(&node);
        let credentials = &self.shared.credentials;
        let begun = Instant::now();
        auth::log_in(session, &self.endpoint.user, credentials, limit, &log)?;
        let text = format!("logged in after {:.3}s", begun.elapsed().as_secs_f64());
        log.log(Level::Debug, text.into());
        Ok(())
    }

    fn interrupted(&self, interrupted: Interrupted, when: &str) -> Outcome {
        match interrupted {
            Interrupted::Cancelled => Outcome::cancelled(),
            Interrupted::TimedOut => self.timed_out(when),
        }
    }

    /// The outcome where `--conn-timeout` was exceeded.
    pub(super) fn timed_out(&self, when: &str) -> Outcome {
        let limit = self.endpoint.connect_timeout.as_secs_f64();
        let reason = format!("timed out after {limit}s {when}");
        Outcome::failed(Status::Unreachable, reason.into())
    }

    /// The outcome of a failed handshake. The greeting may be the whole explanation:
    /// another service listens there, or the server is too busy.
    fn no_handshake(&self, error: SessionError, greeting: Option<String>) -> Outcome {
        let said = greeting.map(|line| format!("the host says: {line}"));
        let (outcome, said) = match error {
            SessionError::Lost(reason) | SessionError::Refused(reason) => {
                (Outcome::failed(Status::Unreachable, reason), said)
            }
            SessionError::Interrupted(interrupted) => (
                self.interrupted(interrupted, "during the SSH handshake"),
                said.or_else(|| Some("the host says nothing".to_owned())),
            ),
        };
        let reason = outcome.reason.map(|reason| match said {
            Some(said) => reason.because(said),
            None => reason,
        });
        Outcome { reason, ..outcome }
    }
}
