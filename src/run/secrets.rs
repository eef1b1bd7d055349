//! What is needed to log in, collected before the first connection: keys are
//! read and unlocked once, passwords asked for once, for all hosts.

use crossbeam_channel::Receiver;

use crate::config::{Config, Mode};
use crate::error::Tree;
use crate::event::{Level, Log};
use crate::run::ending::Stop;
use crate::run::terminal::{self, NoAnswer};
use crate::ssh::auth::{Credentials, Key, Secret, agent_identities};
use crate::ssh::keys::{self, KeyFile, UserKey};

/// What was collected.
pub(super) struct Secrets {
    pub(super) credentials: Credentials,
    pub(super) sudo_password: Option<Secret>,
}

pub(super) fn collect(
    config: &Config,
    signals: &Receiver<i32>,
    log: &dyn Log,
) -> Result<Secrets, Stop> {
    let mut collector = Collector {
        agent: agent_identities(),
        keys: Vec::new(),
        signals,
        log,
    };
    for file in &config.connection.keys {
        collector.add_named(file)?;
    }
    let only_password = config.secrets.password;
    if !only_password {
        collector.add_agents();
        let may_ask = config.connection.keys.is_empty();
        for path in &config.connection.default_keys {
            collector.add_default(path, may_ask)?;
        }
    }
    let ask = |wanted: bool, prompt: &str, option: &str| {
        wanted
            .then(|| collector.ask(prompt, &format!("{option} asks for a password")))
            .transpose()
    };
    let password = ask(config.secrets.password, "Password: ", "-p")?;
    let sudo_password = match config.mode {
        Mode::Command(_) => ask(config.secrets.sudo_password, "Sudo password: ", "-K")?,
        Mode::List => None,
    };
    Ok(Secrets {
        credentials: Credentials {
            keys: collector.keys,
            password,
        },
        sudo_password,
    })
}

struct Collector<'a> {
    /// Public keys that the agent holds.
    agent: Vec<Vec<u8>>,
    keys: Vec<Key>,
    signals: &'a Receiver<i32>,
    log: &'a dyn Log,
}

impl Collector<'_> {
    /// A key of `-k`: tried in any case.
    fn add_named(&mut self, file: &KeyFile) -> Result<(), Stop> {
        let in_agent = file.public_blob().filter(|blob| self.holds(blob));
        match in_agent {
            Some(blob) if file.is_encrypted() => self.keys.push(Key::Agent(blob.to_vec())),
            _ => {
                let key = self.unlock(file)?;
                self.keys.push(Key::File(key));
            }
        }
        Ok(())
    }

    fn add_agents(&mut self) {
        let named: Vec<Vec<u8>> = self
            .keys
            .iter()
            .map(|key| match key {
                Key::File(key) => key.public_blob().to_vec(),
                Key::Agent(blob) => blob.clone(),
            })
            .collect();
        let others = self.agent.iter().filter(|blob| !named.contains(blob));
        self.keys.extend(others.cloned().map(Key::Agent));
    }

    /// A key that ssh tries too, if it is there. Whatever is wrong with it is
    /// only said under `-v`: nobody asked for it.
    fn add_default(&mut self, path: &std::path::Path, may_ask: bool) -> Result<(), Stop> {
        if !path.exists() {
            return Ok(());
        }
        let skip = |why: String| {
            let text = format!("key '{}' is not used: {why}", path.display());
            self.log.log(Level::Debug, text.into());
            Ok(())
        };
        let file = match keys::read(path) {
            Ok(file) => file,
            Err(error) => return skip(Tree::from_error(&error).flat()),
        };
        let is_known = file.public_blob().is_some_and(|blob| {
            self.holds(blob)
                || self
                    .keys
                    .iter()
                    .any(|key| matches!(key, Key::File(key) if key.public_blob() == blob))
        });
        if is_known {
            return skip("it is there already".into());
        }
        if file.is_encrypted() {
            if !self.agent.is_empty() {
                return skip("it is encrypted, and the agent has keys".into());
            }
            if !may_ask || !terminal::is_there() {
                return skip("it is encrypted, and nobody was asked for its passphrase".into());
            }
        }
        let key = self.unlock(&file)?;
        self.keys.push(Key::File(key));
        Ok(())
    }

    fn holds(&self, blob: &[u8]) -> bool {
        self.agent.iter().any(|held| held == blob)
    }

    fn unlock(&self, file: &KeyFile) -> Result<UserKey, Stop> {
        let failed = |error| Stop::Local(Tree::from_error(&error));
        if !file.is_encrypted() {
            return file.unlock(None).map_err(failed);
        }
        let path = file.path().display();
        let passphrase = self.ask(
            &format!("Key passphrase for '{path}': "),
            &format!("private key '{path}' is encrypted"),
        )?;
        file.unlock(Some(&passphrase)).map_err(failed)
    }

    fn ask(&self, prompt: &str, why: &str) -> Result<Secret, Stop> {
        terminal::ask_secret(prompt, self.signals).map_err(|no_answer| match no_answer {
            NoAnswer::Signal(signal) => Stop::Signal(signal),
            NoAnswer::NoTerminal => {
                Stop::Local(format!("{why}, and there is no terminal to ask on").into())
            }
            NoAnswer::Failed(error) => Stop::Local(
                Tree::new("can't read from the terminal").because(Tree::from_error(&error)),
            ),
        })
    }
}
