//! Logging in: which keys and secrets are tried, in which order, once each.
//!
//! What there is to try is collected before the first connection (`run`), the
//! same for all hosts; this module tries it on one of them. The order is that of
//! ssh(1): keys named on the command line, the agent's, the default files; a
//! password only when `-p` was given, and then only once, so that no account is
//! ever locked.

use std::sync::Arc;

use ssh2::{Agent, ErrorCode, KeyboardInteractivePrompt, Prompt, PublicKey};
use zeroize::Zeroizing;

use crate::error::Tree;
use crate::event::{Level, Log};
use crate::hosts::known_hosts::fingerprint;
use crate::ssh::keys::UserKey;
use crate::ssh::session::{Interrupted, Patience, Session, SessionError, is_again};

/// A secret that the user typed, wiped when the last copy goes.
pub type Secret = Arc<Zeroizing<String>>;

/// One key to try.
#[derive(Debug, Clone)]
pub enum Key {
    /// A key that we hold ourselves.
    File(UserKey),
    /// A key that the agent holds, by its public part (SSH wire format).
    Agent(Vec<u8>),
}

/// All that may be tried on a host.
#[derive(Clone, Default)]
pub struct Credentials {
    /// Keys, in the order of trying.
    pub keys: Vec<Key>,
    /// The password of `-p`.
    pub password: Option<Secret>,
}

/// Why a login failed.
#[derive(Debug)]
pub enum AuthError {
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

/// The public keys that the agent holds; none where there is no agent.
#[must_use]
pub fn agent_identities() -> Vec<Vec<u8>> {
    let list = || -> Result<Vec<Vec<u8>>, ssh2::Error> {
        let session = ssh2::Session::new()?;
        let mut agent = session.agent()?;
        agent.connect()?;
        agent.list_identities()?;
        let identities = agent.identities()?;
        Ok(identities.iter().map(|key| key.blob().to_vec()).collect())
    };
    if std::env::var_os("SSH_AUTH_SOCK").is_none() {
        return Vec::new();
    }
    list().unwrap_or_default()
}

/// Logs in as `user`.
///
/// # Errors
/// See [`AuthError`].
pub fn log_in(
    session: &Session,
    user: &str,
    credentials: &Credentials,
    patience: &Patience<'_>,
    log: &dyn Log,
) -> Result<(), AuthError> {
    let mut attempt = Attempt {
        session,
        user,
        patience,
        log,
        tried: Vec::new(),
    };
    let mut methods = attempt.methods()?;
    let mut agent = None;
    for key in &credentials.keys {
        if attempt.is_in() {
            return Ok(());
        }
        if !methods.has("publickey") {
            break;
        }
        attempt.key(key, &mut agent)?;
        if !attempt.is_in() {
            // "publickey,password" and the like: after the key the server wants
            // something else, and only the list of methods shows that.
            let left = attempt.methods()?;
            if left != methods {
                log.log(
                    Level::Debug,
                    format!("key accepted, server wants {left} too").into(),
                );
                methods = left;
            }
        }
    }
    if attempt.is_in() {
        return Ok(());
    }
    if let Some(password) = &credentials.password {
        if methods.has("password") {
            attempt.password(password)?;
        } else if methods.has("keyboard-interactive") {
            attempt.keyboard_interactive(password)?;
        }
    }
    if attempt.is_in() {
        return Ok(());
    }
    // A password may be the first of two things as well.
    let methods = attempt.methods().unwrap_or(methods);
    Err(AuthError::Refused(attempt.refusal(&methods, credentials)))
}

/// The ways to log in that a server offers, as it lists them.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Methods(String);

impl Methods {
    fn has(&self, method: &str) -> bool {
        self.0.split(',').any(|offered| offered == method)
    }
}

impl std::fmt::Display for Methods {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

struct Attempt<'a> {
    session: &'a Session,
    user: &'a str,
    patience: &'a Patience<'a>,
    log: &'a dyn Log,
    /// What has been tried without success, for the error.
    tried: Vec<String>,
}

impl Attempt<'_> {
    fn is_in(&self) -> bool {
        self.session.inner().authenticated()
    }

    fn methods(&mut self) -> Result<Methods, AuthError> {
        if self.is_in() {
            return Ok(Methods(String::new()));
        }
        let listed = self.session.drive(self.patience, |session| {
            session.auth_methods(self.user).map(str::to_owned)
        });
        match listed {
            Ok(methods) => {
                let methods = Methods(methods);
                self.log
                    .log(Level::Debug, format!("server offers {methods}").into());
                Ok(methods)
            }
            // The "none" request that asks for the list was enough.
            Err(SessionError::Refused(_)) if self.is_in() => Ok(Methods(String::new())),
            Err(error) => Err(self.ended(error)),
        }
    }

    /// Tries a key. A refusal is not an error: others may follow.
    fn key(&mut self, key: &Key, agent: &mut Option<OpenAgent>) -> Result<(), AuthError> {
        let (name, result) = match key {
            Key::File(key) => {
                let name = format!("{} ({})", key.path().display(), key.fingerprint());
                let result = self.session.drive(self.patience, |session| {
                    let public = Some(key.public_text());
                    session.userauth_pubkey_memory(self.user, public, key.private_text(), None)
                });
                (name, result)
            }
            Key::Agent(blob) => {
                let name = format!("agent's {}", fingerprint(blob));
                let result = self.agent_key(blob, agent);
                (name, result)
            }
        };
        let verdict = match &result {
            Ok(()) => "accepted",
            Err(_) => "not accepted",
        };
        self.log
            .log(Level::Debug, format!("key {name}: {verdict}").into());
        match result {
            Ok(()) => Ok(()),
            Err(SessionError::Refused(_)) => {
                self.tried.push(format!("key {name}"));
                Ok(())
            }
            Err(error) => {
                self.tried.push(format!("key {name}"));
                Err(self.ended(error))
            }
        }
    }

    fn agent_key(&self, blob: &[u8], agent: &mut Option<OpenAgent>) -> Result<(), SessionError> {
        if agent.is_none() {
            *agent = Some(OpenAgent::open(self.session.inner()).map_err(|error| {
                SessionError::Refused(format!("no agent: {}", error.message()).into())
            })?);
        }
        let Some(open) = agent else { return Ok(()) };
        let Some(identity) = open.identities.iter().find(|key| key.blob() == blob) else {
            return Err(SessionError::Refused("the agent has lost the key".into()));
        };
        self.session
            .drive(self.patience, |_| open.agent.userauth(self.user, identity))
    }

    fn password(&mut self, password: &Secret) -> Result<(), AuthError> {
        let result = self.session.drive(self.patience, |session| {
            session.userauth_password(self.user, password)
        });
        self.secret("password", result)
    }

    fn keyboard_interactive(&mut self, password: &Secret) -> Result<(), AuthError> {
        // One and the same object on every retry: libssh2 calls back into it
        // between two of them.
        let mut prompter = OneAnswer {
            password: Arc::clone(password),
            given: false,
        };
        let session = self.session.inner();
        let result = loop {
            match session.userauth_keyboard_interactive(self.user, &mut prompter) {
                Err(error) if is_again(&error) => {
                    // Nothing to do but to wait for the socket.
                    let mut first = true;
                    self.session
                        .drive(self.patience, |_| {
                            if std::mem::take(&mut first) {
                                Err(ssh2::Error::from_errno(error.code()))
                            } else {
                                Ok(())
                            }
                        })
                        .map_err(|error| self.ended(error))?;
                }
                Ok(()) => break Ok(()),
                Err(error) => break Err(super::session::classify(&error)),
            }
        };
        self.secret("keyboard-interactive", result)
    }

    fn secret(&mut self, method: &str, result: Result<(), SessionError>) -> Result<(), AuthError> {
        let verdict = if result.is_ok() {
            "accepted"
        } else {
            "not accepted"
        };
        self.log
            .log(Level::Debug, format!("{method}: {verdict}").into());
        match result {
            Ok(()) => Ok(()),
            Err(SessionError::Refused(_)) => {
                self.tried.push(method.to_owned());
                Ok(())
            }
            Err(error) => {
                self.tried.push(method.to_owned());
                Err(self.ended(error))
            }
        }
    }

    /// A connection that ends while we log in is mostly the server's answer to
    /// too many keys.
    fn ended(&self, error: SessionError) -> AuthError {
        match error {
            SessionError::Interrupted(interrupted) => AuthError::Interrupted(interrupted),
            SessionError::Lost(reason) if self.tried.is_empty() => AuthError::Lost(reason),
            SessionError::Lost(_) => {
                let tree = Tree::new(format!(
                    "the host closed the connection after {} failed attempts; \
                     name the right key with -k",
                    self.tried.len()
                ));
                AuthError::Refused(self.with_tried(tree))
            }
            SessionError::Refused(reason) => AuthError::Refused(reason),
        }
    }

    fn refusal(&self, methods: &Methods, credentials: &Credentials) -> Tree {
        let hint = if self.tried.is_empty()
            && credentials.keys.is_empty()
            && credentials.password.is_none()
        {
            "; there is no key to offer, name one with -k or start an agent"
        } else if credentials.password.is_none() && methods.has("password") {
            "; -p asks for a password"
        } else {
            ""
        };
        let tree = Tree::new(format!("permission denied, the host wants {methods}{hint}"));
        self.with_tried(tree)
    }

    fn with_tried(&self, tree: Tree) -> Tree {
        self.tried.iter().fold(tree, |tree, tried| {
            tree.because(format!("not accepted: {tried}"))
        })
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
            return Err(ssh2::Error::new(ErrorCode::Session(-42), "it is empty"));
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
