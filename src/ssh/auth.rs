//! Logging in: which keys and secrets are tried, in which order, once each.
//!
//! What there is to try is collected before the first connection (`run`), the
//! same for all hosts; this module tries it on one of them. The order is that of
//! ssh(1): keys named on the command line, the agent's, the default files; a
//! password only when `-p` was given, and then only once, so that no account is
//! ever locked.

use std::sync::Arc;

use libssh2_sys::{LIBSSH2_ERROR_AGENT_PROTOCOL, LIBSSH2_ERROR_AUTHENTICATION_FAILED};
use ssh2::{Agent, ErrorCode, KeyboardInteractivePrompt, Prompt, PublicKey};
use zeroize::Zeroizing;

use crate::error::Tree;
use crate::event::{Level, Log};
use crate::hosts::known_hosts::fingerprint;
use crate::ssh::keys::UserKey;
use crate::ssh::session::{Session, SessionError};
use crate::ssh::sign::PublicKeyLogin;
use crate::ssh::wait::{Interrupted, WaitLimit};

/// A secret that the user typed, wiped when the last copy goes.
pub(crate) type Secret = Arc<Zeroizing<String>>;

/// One key to try.
#[derive(Debug, Clone)]
pub(crate) enum Key {
    /// A key that we hold ourselves.
    File(UserKey),
    /// A key that the agent holds, by its public part (SSH wire format).
    Agent(Vec<u8>),
}

/// All that may be tried on a host.
#[derive(Clone, Default)]
pub(crate) struct Credentials {
    /// Keys, in the order of trying.
    pub(crate) keys: Vec<Key>,
    /// The password of `-p`.
    pub(crate) password: Option<Secret>,
    /// Keys that were left out, and why: said where none of the others fits.
    pub(crate) left_out: Vec<String>,
}

/// Why a login failed.
#[derive(Debug)]
pub(crate) enum AuthError {
    /// The host did not let us in.
    Refused(Tree),
    /// The connection ended without a sign that it was about our keys.
    Lost(Tree),
    /// The time was up, or the run ended.
    Interrupted(Interrupted),
}

impl From<Interrupted> for AuthError {
    fn from(interrupted: Interrupted) -> Self {
        Self::Interrupted(interrupted)
    }
}

/// The public keys that the agent holds, for as long as it takes to answer.
///
/// # Errors
/// Nobody answers there.
pub(crate) fn agent_identities() -> Result<Vec<Vec<u8>>, Tree> {
    let list = || -> Result<Vec<Vec<u8>>, ssh2::Error> {
        let session = ssh2::Session::new()?;
        let mut agent = session.agent()?;
        agent.connect()?;
        agent.list_identities()?;
        let identities = agent.identities()?;
        Ok(identities.iter().map(|key| key.blob().to_vec()).collect())
    };
    list().map_err(|error| error.message().to_owned().into())
}

/// Logs in as `user`.
///
/// # Errors
/// See [`AuthError`].
pub(crate) fn log_in(
    session: &Session,
    user: &str,
    credentials: &Credentials,
    limit: &WaitLimit<'_>,
    log: &dyn Log,
) -> Result<(), AuthError> {
    let mut attempt = Attempt {
        session,
        user,
        limit,
        log,
        tried: Vec::new(),
    };
    let mut methods = attempt.methods()?;
    attempt.log_banner();
    let mut keys = credentials.keys.iter();
    let mut password = credentials.password.as_ref();
    let mut agent = None;
    while !attempt.is_in() {
        let answer = if methods.has("publickey")
            && let Some(key) = keys.next()
        {
            attempt.key(key, &mut agent)?
        } else if let Some(password) = password.take_if(|_| methods.has("password")) {
            attempt.password(password)?
        } else if let Some(password) = password.take_if(|_| methods.has("keyboard-interactive")) {
            attempt.keyboard_interactive(password)?
        } else {
            return Err(AuthError::Refused(attempt.refusal(&methods, credentials)));
        };
        if answer == Answer::NotYet {
            // "publickey,password" and the like: the server may want something
            // else now, and only the list of methods shows that.
            let left = attempt.methods()?;
            if left != methods {
                attempt.was_accepted();
                methods = left;
            }
        }
    }
    Ok(())
}

/// What came of a key or a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// We are in.
    Yes,
    /// The server does not want it.
    No,
    /// We are not in; it may have been the first of several things. To find out
    /// costs a request that servers count, and some log, as one more failure.
    NotYet,
}

/// The ways to log in that a server offers, as it lists them.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Methods(String);

impl Methods {
    fn has(&self, method: &str) -> bool {
        self.0.split(',').any(|offered| offered == method)
    }
}

struct Attempt<'a> {
    session: &'a Session,
    user: &'a str,
    limit: &'a WaitLimit<'a>,
    log: &'a dyn Log,
    /// What has been tried and what came of it, for the error.
    tried: Vec<String>,
}

impl Attempt<'_> {
    fn is_in(&self) -> bool {
        self.session.inner().authenticated()
    }

    /// What the server says to everybody before the login.
    fn log_banner(&self) {
        if self.log.enabled(Level::Debug)
            && let Ok(Some(banner)) = self.session.inner().userauth_banner()
        {
            let text = format!("server says: {}", banner.trim_end());
            self.log.log(Level::Debug, text.into());
        }
    }

    fn methods(&mut self) -> Result<Methods, AuthError> {
        if self.is_in() {
            return Ok(Methods(String::new()));
        }
        let listed = self.session.drive(self.limit, |session| {
            session.auth_methods(self.user).map(str::to_owned)
        });
        match listed {
            Ok(methods) => {
                let methods = Methods(methods);
                self.log
                    .log(Level::Debug, format!("server offers {}", methods.0).into());
                Ok(methods)
            }
            // The "none" request that asks for the list was enough.
            Err(SessionError::Refused(_)) if self.is_in() => Ok(Methods(String::new())),
            Err(error) => Err(self.ended(error)),
        }
    }

    /// Tries a key. A refusal is not an error: others may follow.
    fn key(&mut self, key: &Key, agent: &mut Option<OpenAgent>) -> Result<Answer, AuthError> {
        let (name, result) = match key {
            Key::File(key) => return self.own_key(key),
            Key::Agent(blob) => {
                let name = format!("the agent's key {}", fingerprint(blob));
                let result = match self.in_agent(blob, agent) {
                    Ok((agent, identity)) => self.try_out(|_| agent.userauth(self.user, identity)),
                    Err(why) => {
                        self.note(&format!("{name} ({why})"), Answer::No);
                        return Ok(Answer::No);
                    }
                };
                (name, result)
            }
        };
        self.judge(&name, result)
    }

    fn own_key(&mut self, key: &UserKey) -> Result<Answer, AuthError> {
        let mut name = format!("key {} ({})", key.path().display(), key.fingerprint());
        let sign = |algorithm: &[u8], data: &[u8]| key.sign(algorithm, data);
        let login = PublicKeyLogin::new(self.user, key.public_blob(), &sign)
            .map_err(|_| AuthError::Refused("the user's name holds a NUL byte".into()))?;
        let mut result = self.try_out(|session| login.step(session));
        if login.has_failed_to_sign() {
            // An old server may want SHA-1, which the system's OpenSSL may forbid.
            name.push_str(" (OpenSSL here refuses to sign as the server asks)");
            result = result.map(|_| Answer::No);
        }
        self.judge(&name, result)
    }

    /// Offers something to the server.
    fn try_out(
        &self,
        mut call: impl FnMut(&ssh2::Session) -> Result<(), ssh2::Error>,
    ) -> Result<Answer, SessionError> {
        let mut answer = Answer::Yes;
        let result = self.session.drive(self.limit, |session| {
            call(session).inspect_err(|error| answer = answer_of(error))
        });
        match result {
            Ok(()) => Ok(Answer::Yes),
            Err(SessionError::Refused(_)) => Ok(answer),
            Err(error) => Err(error),
        }
    }

    /// The agent, and the key in it.
    fn in_agent<'a>(
        &self,
        blob: &[u8],
        agent: &'a mut Option<OpenAgent>,
    ) -> Result<(&'a Agent, &'a PublicKey), String> {
        if agent.is_none() {
            let opened = OpenAgent::open(self.session.inner())
                .map_err(|error| format!("no agent: {}", error.message()))?;
            *agent = Some(opened);
        }
        agent
            .as_ref()
            .and_then(|open| {
                let mut identities = open.identities.iter();
                let identity = identities.find(|key| key.blob() == blob)?;
                Some((&open.agent, identity))
            })
            .ok_or_else(|| "the agent has lost it".to_owned())
    }

    fn password(&mut self, password: &Secret) -> Result<Answer, AuthError> {
        let result = self.try_out(|session| session.userauth_password(self.user, password));
        self.judge("password", result.map(Answer::of_password))
    }

    fn keyboard_interactive(&mut self, password: &Secret) -> Result<Answer, AuthError> {
        // One and the same object on every retry: libssh2 calls back into it
        // between two of them.
        let mut prompter = OneAnswer {
            password: Arc::clone(password),
            given: false,
        };
        let result =
            self.try_out(|session| session.userauth_keyboard_interactive(self.user, &mut prompter));
        self.judge("keyboard-interactive", result.map(Answer::of_password))
    }

    fn judge(
        &mut self,
        name: &str,
        result: Result<Answer, SessionError>,
    ) -> Result<Answer, AuthError> {
        match result {
            Ok(answer) => {
                self.note(name, answer);
                Ok(answer)
            }
            Err(error) => {
                self.note(name, Answer::No);
                Err(self.ended(error))
            }
        }
    }

    fn note(&mut self, name: &str, answer: Answer) {
        let verdict = match answer {
            Answer::Yes => "accepted",
            Answer::No => "not accepted",
            Answer::NotYet => "not accepted, or not enough",
        };
        self.log
            .log(Level::Debug, format!("{name}: {verdict}").into());
        if answer != Answer::Yes {
            self.tried.push(format!("not accepted: {name}"));
        }
    }

    /// The last attempt was right, but the server wants another method too.
    fn was_accepted(&mut self) {
        if let Some(last) = self.tried.last_mut()
            && let Some(name) = last.strip_prefix("not accepted: ")
        {
            *last = format!("accepted, but not enough: {name}");
            self.log.log(Level::Debug, last.as_str().into());
        }
    }

    /// A connection that ends while we log in is mostly the server's answer to
    /// too many keys.
    fn ended(&self, error: SessionError) -> AuthError {
        match error {
            SessionError::Interrupted(interrupted) => AuthError::Interrupted(interrupted),
            SessionError::Lost(reason) if self.tried.is_empty() => AuthError::Lost(reason),
            SessionError::Lost(_) => {
                let attempts = match self.tried.len() {
                    1 => "a failed attempt".to_owned(),
                    several => format!("{several} failed attempts"),
                };
                let hint = if self.tried.len() > 1 {
                    "; name the right key with -k, it is tried first"
                } else {
                    ""
                };
                let text = format!("the host closed the connection after {attempts}{hint}");
                AuthError::Refused(self.with_tried(text.into()))
            }
            SessionError::Refused(reason) => AuthError::Refused(reason),
        }
    }

    fn refusal(&self, methods: &Methods, credentials: &Credentials) -> Tree {
        let has_password = credentials.password.is_some();
        let has_keys = !credentials.keys.is_empty();
        let (key, password) = (methods.has("publickey"), methods.has("password"));
        let hint = match (has_keys, has_password) {
            (false, true) if key => "; with -p no keys are tried but those of -k",
            (false, false) if key && password => {
                "; there is no key to offer: name one with -k or start an agent, \
                 or use a password with -p"
            }
            (false, false) if key => {
                "; there is no key to offer: name one with -k or start an agent"
            }
            (_, false) if password => "; -p asks for a password",
            _ => "",
        };
        let tree = match methods.0.as_str() {
            "" => Tree::new("permission denied, the host offers no way to log in"),
            methods => Tree::new(format!("permission denied, the host wants {methods}{hint}")),
        };
        let left_out = credentials.left_out.iter();
        left_out.fold(self.with_tried(tree), |tree, left_out| {
            tree.because(format!("not tried: {left_out}"))
        })
    }

    fn with_tried(&self, tree: Tree) -> Tree {
        let tried = self.tried.iter();
        tried.fold(tree, |tree, tried| tree.because(tried.as_str()))
    }
}

impl Answer {
    /// libssh2 does not tell a wrong password from one that was the first of
    /// several things.
    fn of_password(self) -> Self {
        match self {
            Self::Yes => Self::Yes,
            Self::No | Self::NotYet => Self::NotYet,
        }
    }
}

/// What a failed attempt with a key means. Before it signs anything libssh2 asks
/// whether the key would do; if not, there is no doubt (AUTHENTICATION_FAILED).
fn answer_of(error: &ssh2::Error) -> Answer {
    match error.code() {
        ErrorCode::Session(LIBSSH2_ERROR_AUTHENTICATION_FAILED) => Answer::No,
        _ => Answer::NotYet,
    }
}

/// A connection to the agent, and what it holds.
struct OpenAgent {
    agent: Agent,
    identities: Vec<PublicKey>,
}

impl OpenAgent {
    fn open(session: &ssh2::Session) -> Result<Self, ssh2::Error> {
        let mut agent = session.agent()?;
        agent.connect()?;
        agent.list_identities()?;
        let identities = agent.identities()?;
        if identities.is_empty() {
            let code = ErrorCode::Session(LIBSSH2_ERROR_AGENT_PROTOCOL);
            return Err(ssh2::Error::new(code, "it is empty"));
        }
        Ok(Self { agent, identities })
    }
}

/// Answers the first hidden question with the password, and nothing else ever.
struct OneAnswer {
    password: Secret,
    given: bool,
}

impl KeyboardInteractivePrompt for OneAnswer {
    fn prompt(&mut self, _: &str, _: &str, prompts: &[Prompt<'_>]) -> Vec<String> {
        prompts
            .iter()
            .map(|prompt| {
                if prompt.echo || std::mem::replace(&mut self.given, true) {
                    String::new()
                } else {
                    self.password.to_string()
                }
            })
            .collect()
    }
}
