//! What one node thread does until it is logged in: connect, check the host's
//! key, log in. All of it happens in a row; `serving` goes on from there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};

use crate::cluster::input::Input;
use crate::cluster::serving::Serving;
use crate::cluster::stream::Chunk;
use crate::error::Tree;
use crate::event::{HostKey, Level, Log, NodeEvent, NodeId, Outcome, Status, ToolEvent};
use crate::hosts::Target;
use crate::hosts::known_hosts::KnownHosts;
use crate::output::Display;
use crate::remote::protocol::{Names, Prefix};
use crate::remote::sudo::Nonces;
use crate::ssh::auth::{self, AuthError, Credentials, Secret};
use crate::ssh::connect::{self, ConnectError};
use crate::ssh::host_keys::{self, Judgement, Policy};
use crate::ssh::process::TerminalSize;
use crate::ssh::session::{Interrupted, Liveness, Patience, Plug, Session, SessionError};
use crate::wake::{Waker, Wakeup};

/// What is the same for all nodes of a run.
pub struct Settings {
    /// What is known about host keys.
    pub known_hosts: KnownHosts,
    /// What to do with unknown ones.
    pub policy: Policy,
    /// How to log in.
    pub credentials: Credentials,
    /// For TCP connect, handshake and authentication together.
    pub connect_timeout: Duration,
    /// When a silent host counts as lost.
    pub liveness: Liveness,
    /// How many bytes of output a node may have under way.
    pub credit: usize,
}

/// What a node is told.
pub enum Order {
    /// The host key that it asked about is the right one.
    Trust,
    /// It is not, for this reason.
    Distrust(Tree),
    /// Start a guard.
    Guard(Arc<GuardJob>),
    /// Let the guard go, and wait.
    Unlock,
    /// Have the guard make the run directory of this id.
    MakeRunDirectory(Arc<str>),
    /// Start what takes an upload, and give it this.
    Upload(Arc<Job>, Receiver<Chunk>),
    /// Run this command.
    Run(Arc<Job>),
    /// Give this to the sync tool.
    Tell(Arc<[u8]>),
    /// Give the sync tool end of file.
    Close,
    /// The sync tool has failed, for this reason.
    FailTool(Tree),
    /// All is over.
    Release,
}

/// A guard for many hosts.
pub struct GuardJob {
    /// The string for the login shell, and the one for root, who needs no sudo.
    pub command: String,
    /// See `command`.
    pub as_root: String,
    /// It runs under sudo.
    pub sudo: Option<SudoJob>,
    /// The interval of heartbeats.
    pub period: Duration,
}

/// A command for many hosts.
pub struct Job {
    /// The string for the login shell, and the one for root, who needs no sudo.
    pub command: String,
    /// See `command`.
    pub as_root: String,
    /// The default shell is used, so a missing bash needs a hint.
    pub needs_bash: bool,
    /// It runs under sudo.
    pub sudo: Option<SudoJob>,
    /// The type and size of the pseudo-terminal, if it gets one.
    pub terminal: Option<(String, TerminalSize)>,
    /// What its stdin gets; end of file at once without.
    pub input: Option<Arc<Input>>,
    /// How long it may take.
    pub timeout: Option<Duration>,
    /// What happens to the run directory, if there is one, is up to the command.
    pub keeps_run_directory: bool,
    /// It is a sync tool that talks to the others.
    pub protocol: Option<Protocol>,
    /// It is a script of ours, and not what the user wants to be run.
    pub script: Option<Script>,
    /// Ends what the command has left, if there is no guard any more.
    pub sweep: Arc<GuardJob>,
}

/// A script of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Script {
    /// It looks for the sync tool.
    Look,
    /// It unpacks an upload.
    Unpack,
    /// It puts the files of an upload in place.
    Place,
}

/// How the sync tools of a run talk.
#[derive(Clone)]
pub struct Protocol {
    /// What each message begins with.
    pub prefix: Prefix,
    /// The names of the nodes.
    pub names: Arc<Names>,
    /// The way to the coordinator. Unbounded: it is one thread that never waits,
    /// and how much may be said is bounded at the other end, by what may wait for
    /// a tool.
    pub events: Sender<ToolEvent>,
}

/// How to get past sudo.
#[derive(Clone)]
pub struct SudoJob {
    /// What sudo and the script under it say.
    pub nonces: Nonces,
    /// What sudo wants to know.
    pub password: Option<Secret>,
}

/// One node, in its own thread.
pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) target: Target,
    pub(super) settings: Arc<Settings>,
    pub(super) display: Display,
    pub(super) orders: Receiver<Order>,
    pub(super) events: Sender<(NodeId, NodeEvent)>,
    pub(super) waker: Waker,
    pub(super) wakeup: Wakeup,
    pub(super) cancelled: Arc<AtomicBool>,
    pub(super) plug: Plug,
}

impl Node {
    /// From the first connection to the end.
    pub(super) fn live(&mut self) -> Outcome {
        match self.connect() {
            Ok((session, left)) => {
                self.tell(NodeEvent::Connected);
                Serving::new(self, session, left).serve()
            }
            Err(outcome) => outcome,
        }
    }

    pub(super) fn tell(&self, event: NodeEvent) {
        // Main may be gone already.
        let _ = self.events.send((self.id, event));
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }

    /// Makes the connection and logs in, asking about the host key in between
    /// where nobody knows it. Returns also how much of the time is left.
    fn connect(&self) -> Result<(Session, Duration), Outcome> {
        let mut left = self.settings.connect_timeout;
        let mut trusted: Option<HostKey> = None;
        loop {
            let begun = Instant::now();
            let cancelled = || self.is_cancelled();
            let patience = Patience {
                deadline: begun + left,
                wakeup: &self.wakeup,
                cancelled: &cancelled,
            };
            let (session, key) = self.greet(&patience, trusted.as_ref())?;
            let mut asked = false;
            if let Some(key) = key {
                // Nothing counts against the time-out while somebody decides.
                left = left.saturating_sub(begun.elapsed());
                self.ask_about(&key)?;
                trusted = Some(key);
                asked = true;
            }
            let patience = Patience {
                deadline: if asked {
                    Instant::now() + left
                } else {
                    patience.deadline
                },
                ..patience
            };
            match self.log_in(&session, &patience) {
                Ok(()) => {
                    let left = patience.deadline.saturating_duration_since(Instant::now());
                    return Ok((session, left));
                }
                // While somebody thought about the key, the server may have
                // given up. The next one must show the same key.
                Err(AuthError::Lost(_)) if asked => left = self.settings.connect_timeout,
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

    /// Connects, and checks that the host is the right one: an unknown key comes
    /// back for somebody to decide, unless it is the one that was `trusted`.
    fn greet(
        &self,
        patience: &Patience<'_>,
        trusted: Option<&HostKey>,
    ) -> Result<(Session, Option<HostKey>), Outcome> {
        let node = self.target.node();
        let log = self.display.about(&node);
        let (host, port) = (self.target.host.as_str(), self.target.port);
        let socket = connect::connect(host, port, patience, &log).map_err(|error| match error {
            ConnectError::Failed(reason) => Outcome::failed(Status::Unreachable, reason),
            ConnectError::Interrupted(interrupted) => {
                self.interrupted(interrupted, "while connecting")
            }
        })?;
        let socket = Arc::new(socket);
        self.plug.insert(&socket);
        let known = self.settings.known_hosts.lookup(host, port);
        let mut session = Session::new(socket, self.settings.liveness, &known.types())
            .map_err(|error| self.no_handshake(error, None))?;
        let key = session
            .handshake(patience, &log)
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
        match host_keys::judge(self.settings.policy, verdict, host, port, &key) {
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

    /// Lets main decide about a key, however long that takes.
    fn ask_about(&self, key: &HostKey) -> Result<(), Outcome> {
        self.tell(NodeEvent::UnknownHostKey(key.clone()));
        loop {
            self.wakeup.clear();
            if self.is_cancelled() {
                return Err(Outcome::cancelled());
            }
            match self.orders.try_recv() {
                Ok(Order::Trust) => return Ok(()),
                Ok(Order::Distrust(reason)) => {
                    return Err(Outcome::failed(Status::HostKey, reason));
                }
                Ok(_) | Err(_) => {}
            }
            self.wakeup.wait();
        }
    }

    fn log_in(&self, session: &Session, patience: &Patience<'_>) -> Result<(), AuthError> {
        let node = self.target.node();
        let log = self.display.about(&node);
        let credentials = &self.settings.credentials;
        let begun = Instant::now();
        auth::log_in(session, &self.target.user, credentials, patience, &log)?;
        let text = format!("logged in after {:.3}s", begun.elapsed().as_secs_f64());
        log.log(Level::Debug, text.into());
        Ok(())
    }

    fn interrupted(&self, interrupted: Interrupted, when: &str) -> Outcome {
        match interrupted {
            Interrupted::Cancelled => Outcome::cancelled(),
            Interrupted::TimedOut => Outcome::failed(
                Status::Unreachable,
                format!(
                    "timed out after {}s {when}",
                    self.settings.connect_timeout.as_secs_f64()
                )
                .into(),
            ),
        }
    }

    /// The end of a handshake that came to nothing. What the server said may be
    /// the whole explanation: another service, or that it is too busy.
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
