//! What is needed to log in, collected before the first connection: keys are
//! read and unlocked once, passwords asked for once, for all hosts.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, after, bounded, select};

use crate::config::{Config, Mode};
use crate::error::Tree;
use crate::event::{Level, Log};
use crate::run::stop::Stop;
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
    let limit = config
        .endpoints
        .iter()
        .map(|endpoint| endpoint.connect_timeout);
    let limit = limit.max().unwrap_or_default();
    let mut collector = Collector {
        agent: Vec::new(),
        credentials: Credentials::default(),
        signals,
        log,
    };
    collector.ask_agent(limit)?;
    for file in &config.keys {
        collector.add_named(file)?;
    }
    let only_password = config.secrets.password;
    if !only_password {
        collector.add_agents();
        let may_ask = config.keys.is_empty();
        for path in identity_files(config) {
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
        Mode::Command(_) | Mode::Upload(_) | Mode::Sync(_) | Mode::Lock => {
            ask(config.secrets.sudo_password, "Sudo password: ", "-K")?
        }
        Mode::List => None,
    };
    Ok(Secrets {
        credentials: Credentials {
            password,
            ..collector.credentials
        },
        sudo_password,
    })
}

/// The identity files of all endpoints, each once.
fn identity_files(config: &Config) -> Vec<&Path> {
    let endpoints = config.endpoints.iter();
    let mut seen = HashSet::new();
    endpoints
        .flat_map(|endpoint| endpoint.identity_files.iter())
        .map(PathBuf::as_path)
        .filter(|path| seen.insert(*path))
        .collect()
}

struct Collector<'a> {
    /// Public keys that the agent holds.
    agent: Vec<Vec<u8>>,
    credentials: Credentials,
    signals: &'a Receiver<i32>,
    log: &'a dyn Log,
}

impl Collector<'_> {
    /// Asks the agent for its keys, no longer than connecting may take. Libraries
    /// wait for an agent's answer as long as it likes, so it is a thread that
    /// waits, and is left behind when nobody answers.
    fn ask_agent(&mut self, limit: Duration) -> Result<(), Stop> {
        let Some(socket) = std::env::var_os("SSH_AUTH_SOCK").filter(|path| !path.is_empty()) else {
            return Ok(());
        };
        let (sender, answers) = bounded(1);
        let asking = thread::Builder::new()
            .name("agent".into())
            .spawn(move || sender.send(agent_identities()));
        if let Err(error) = asking {
            return Err(Stop::Local(
                Tree::new("can't start another thread").because(Tree::from_error(&error)),
            ));
        }
        let problem = select! {
            recv(answers) -> answer => match answer {
                Ok(Ok(identities)) => {
                    self.agent = identities;
                    return Ok(());
                }
                Ok(Err(problem)) => problem.flat(),
                Err(_) => "it gave a strange answer".to_owned(),
            },
            recv(self.signals) -> signal => return Err(Stop::signal(signal)),
            recv(after(limit)) -> _ => {
                let text = format!(
                    "the agent at '{}' has not answered within {:.1}s, its keys are not used",
                    Path::new(&socket).display(),
                    limit.as_secs_f64()
                );
                self.log.log(Level::Warn, text.into());
                return Ok(());
            }
        };
        self.leave_out(format!(
            "the keys of the agent at '{}': {problem}",
            Path::new(&socket).display()
        ));
        Ok(())
    }

    /// Something that might have been tried. Nobody asked for it, so this is
    /// said only under `-v`, and where nothing else lets us in.
    fn leave_out(&mut self, what: String) {
        self.log
            .log(Level::Debug, format!("not used: {what}").into());
        self.credentials.left_out.push(what);
    }

    /// A key of `-k`: tried in any case.
    fn add_named(&mut self, file: &KeyFile) -> Result<(), Stop> {
        let in_agent = file.public_blob().filter(|blob| self.holds(blob));
        match in_agent {
            Some(blob) if file.is_encrypted() => {
                self.credentials.keys.push(Key::Agent(blob.to_vec()))
            }
            _ => {
                let key = self.unlock(file)?;
                self.credentials.keys.push(Key::File(key));
            }
        }
        Ok(())
    }

    fn add_agents(&mut self) {
        let named: Vec<Vec<u8>> = self
            .credentials
            .keys
            .iter()
            .map(|key| match key {
                Key::File(key) => key.public_blob().to_vec(),
                Key::Agent(blob) => blob.clone(),
            })
            .collect();
        let others = self.agent.iter().filter(|blob| !named.contains(blob));
        self.credentials
            .keys
            .extend(others.cloned().map(Key::Agent));
    }

    /// A key that ssh tries too, if it is there.
    fn add_default(&mut self, path: &Path, may_ask: bool) -> Result<(), Stop> {
        if !path.exists() {
            return Ok(());
        }
        let file = match keys::read(path) {
            Ok(file) => file,
            Err(error) => {
                self.leave_out(Tree::from_error(&error).flat());
                return Ok(());
            }
        };
        if file.public_blob().is_some_and(|blob| self.has(blob)) {
            return Ok(());
        }
        if file.is_encrypted() {
            let why_not = if !self.agent.is_empty() {
                Some("the agent has other keys, add it with ssh-add or name it with -k")
            } else if !may_ask {
                Some("-k names another key")
            } else if !terminal::is_there() {
                Some("there is no terminal to ask for the passphrase on")
            } else {
                None
            };
            if let Some(why_not) = why_not {
                let path = path.display();
                self.leave_out(format!("key {path}, which is encrypted: {why_not}"));
                return Ok(());
            }
        }
        let key = self.unlock(&file)?;
        self.credentials.keys.push(Key::File(key));
        Ok(())
    }

    /// Whether a key will be tried anyway.
    fn has(&self, blob: &[u8]) -> bool {
        let mut keys = self.credentials.keys.iter();
        self.holds(blob)
            || keys.any(|key| matches!(key, Key::File(key) if key.public_blob() == blob))
    }

    fn holds(&self, blob: &[u8]) -> bool {
        self.agent.iter().any(|held| held == blob)
    }

    fn unlock(&self, file: &KeyFile) -> Result<UserKey, Stop> {
        let failed = |error| Stop::Local(Tree::from_error(&error));
        if let Some(mode) = file.exposing_mode() {
            let path = file.path().display();
            let text = format!("private key '{path}' is open to others (mode {mode:04o})");
            let tree = Tree::new(text).because(format!("chmod 600 '{path}'"));
            self.log.log(Level::Warn, tree);
        }
        if !file.is_encrypted() {
            return file.unlock(None).map_err(failed);
        }
        let path = file.path().display();
        // The prompt is the older program's, for expect(1). The line above it tells
        // several keys apart.
        let why = format!("private key '{path}' is encrypted");
        let passphrase = self.ask(&format!("{why}\nKey passphrase: "), &why)?;
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
