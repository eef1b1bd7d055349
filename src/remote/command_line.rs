//! The remote command line: from the words that the user typed to the one
//! string that `sshd` hands to the login shell.
//!
//! `orgalorg -C ARGV` does what `ssh host ARGV` does: the words are joined by
//! single spaces and the result is a shell program. Everything that is wrapped
//! around it (the shell template, `cd`, sudo) must bring that program through
//! unchanged, so all quoting is one function, [`quote`].

use super::login::{Login, RUN_DIRECTORIES};
use super::quoting::quote;
use super::sudo::Nonces;

/// The template that is used when the user gives none.
pub(crate) const DEFAULT_SHELL: &str = "bash -c '{}'";

/// The longest command that fits: libssh2 refuses packets of 34,744 bytes and
/// more, and an `exec` request (RFC 4254 section 6.5) puts 18 bytes before it.
pub(crate) const MAX_LENGTH: usize = 34_743 - 18;

/// What cannot be said to a remote shell.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CommandLineError {
    /// A template without a place for the command.
    #[error(
        "the shell template '{0}' has no {{}} where the command goes, as in the default \"bash -c '{{}}'\""
    )]
    NoPlaceholder(String),
    /// A template that quotes the place of the command together with other text.
    #[error(
        "in the shell template '{0}' the {{}} stands between quotes with other text, but it has to be \
         a word of its own, as in: bash -c 'set -e; eval \"$1\"' _ {{}}"
    )]
    QuotedPlaceholder(String),
    /// Too long for an SSH packet.
    #[error(
        "the command is too long: {length} bytes with its quoting, at most {MAX_LENGTH} fit; \
         put it into a file and run it with '-i <file> -C bash'"
    )]
    TooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// Without a shell wrapper there is nothing to carry such bytes.
    #[error(
        "the command is not valid UTF-8, which needs a shell wrapper; leave out --shell '' or use another one"
    )]
    NotUtf8,
    /// `--shell ''` with something that needs a shell.
    #[error(
        "--shell '' sends the command as it is, so {0} cannot be added to it; use --shell 'sh -c {{}}'"
    )]
    NeedsShell(&'static str),
}

/// A `--shell` template: what turns a program into a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shell {
    template: String,
    /// The template without its places: one piece more than there are places.
    pieces: Vec<String>,
}

impl Shell {
    /// Checks a template. Empty means no wrapper.
    ///
    /// # Errors
    /// A template without `{}`, or with one where the program could not be one
    /// word.
    pub(crate) fn new(template: &str) -> Result<Self, CommandLineError> {
        let pieces = split_at_places(template)?;
        if !template.is_empty() && pieces.len() == 1 {
            return Err(CommandLineError::NoPlaceholder(template.to_owned()));
        }
        Ok(Self {
            template: template.to_owned(),
            pieces,
        })
    }

    /// Whether commands are sent as they are.
    pub(crate) fn is_none(&self) -> bool {
        self.template.is_empty()
    }

    /// Whether this is the shell that one gets without asking.
    pub(crate) fn is_default(&self) -> bool {
        self.template == DEFAULT_SHELL
    }

    /// The command that runs `program`, with what follows it as its `$0` and
    /// `"$@"`, if it is a sync tool.
    fn wrap(&self, program: &[u8], arguments: Option<&[Vec<u8>]>) -> String {
        let mut words = quote(program);
        if let Some(arguments) = arguments {
            words.push_str(" _");
            for argument in arguments {
                words.push(' ');
                words.push_str(&quote(argument));
            }
        }
        self.pieces.join(&words)
    }

    /// Whether the template is a plain call of a shell, so that `exec` may stand
    /// before it. That saves a process, and lets a signal that ends the command
    /// be seen as one. (Not so `FOO=1 sh -c {}` or `{} | tee log`.)
    fn is_plain_call(&self) -> bool {
        let mut words = self.template.split(' ');
        let name = words.next().unwrap_or_default();
        let name = name.rsplit('/').next().unwrap_or_default();
        matches!(
            name,
            "sh" | "bash" | "dash" | "ash" | "zsh" | "ksh" | "mksh" | "busybox"
        ) && words.all(|word| {
            PLACES.contains(&word)
                || word
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"-+_".contains(&byte))
        })
    }
}

/// How a template may write the place of the program: also between quotes of its
/// own, for the program is quoted anyway.
const PLACES: [&str; 3] = ["'{}'", "\"{}\"", "{}"];

/// Splits a template at its places.
///
/// Any other quotes around a place would end where those of the program begin,
/// and lay it bare to the login shell.
fn split_at_places(template: &str) -> Result<Vec<String>, CommandLineError> {
    let mut pieces = vec![String::new()];
    let mut quoted_by = None;
    let mut rest = template;
    while let Some(next) = rest.chars().next() {
        let place = PLACES.iter().find(|place| rest.starts_with(**place));
        if let Some(place) = place.filter(|_| quoted_by.is_none()) {
            pieces.push(String::new());
            rest = &rest[place.len()..];
            continue;
        }
        if rest.starts_with("{}") {
            return Err(CommandLineError::QuotedPlaceholder(template.to_owned()));
        }
        let mut length = next.len_utf8();
        match (next, quoted_by) {
            ('\'' | '"', None) => quoted_by = Some(next),
            ('\'' | '"', Some(quote)) if quote == next => quoted_by = None,
            // What follows is no quote.
            ('\\', None | Some('"')) => {
                length += rest[length..].chars().next().map_or(0, char::len_utf8);
            }
            _ => {}
        }
        let (text, after) = rest.split_at(length);
        if let Some(piece) = pieces.last_mut() {
            piece.push_str(text);
        }
        rest = after;
    }
    Ok(pieces)
}

/// Where something happens on a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Directory {
    /// The home directory.
    Home,
    /// This one (`-r`); any bytes.
    Path(Vec<u8>),
    /// The run directory, which the guard has made. Its parent depends on the login
    /// user, and its name on whether the host already had one of that name.
    Run,
}

impl Directory {
    /// The path, marked so that `cd` and others take one that begins with a dash
    /// for a path.
    pub(super) fn plain(path: &[u8]) -> Vec<u8> {
        let here: &[u8] = if path.starts_with(b"-") { b"./" } else { b"" };
        [here, path].concat()
    }

    /// Shell text that enters the directory or ends the script. CDPATH is unset: it
    /// could lead elsewhere, and makes `cd` print the path.
    pub(super) fn enter(&self, login: &Login<'_>) -> String {
        match self {
            Self::Home => String::new(),
            Self::Path(path) => {
                format!("CDPATH= cd {} || exit", quote(&Self::plain(path)))
            }
            Self::Run => {
                let find = Self::find_run_directory(login);
                format!("{find}\ncd \"$base/$name\" || exit")
            }
        }
    }

    /// Shell text that sets `$base` and `$name` of the run directory, or ends the
    /// script where the guard has made none.
    pub(super) fn find_run_directory(login: &Login<'_>) -> String {
        match login.run_directory {
            Some(name) => format!("{RUN_DIRECTORIES}\nname={}", quote(name.as_bytes())),
            None => "echo 'there is no run directory' >&2; exit 1".to_owned(),
        }
    }
}

/// As long as the name of a run directory ever gets: the time, and the number of
/// another one beside it.
const LONGEST_RUN_NAME: &str = "20260131120000.123456-9999999999";

/// The user's command, or a sync tool.
#[derive(Debug, Clone)]
pub(crate) struct CommandLine {
    /// The program: words joined by spaces.
    pub(crate) program: Vec<u8>,
    /// The shell that runs it.
    pub(crate) shell: Shell,
    /// The `"$@"` of a sync tool; a command of `-C` has none.
    pub(crate) arguments: Option<Vec<Vec<u8>>>,
    /// The directory that it runs in.
    pub(crate) directory: Directory,
}

impl CommandLine {
    /// Checks that the line can be rendered for every login, with sudo or without.
    ///
    /// # Errors
    /// It cannot be sent; the error says what to do.
    pub(crate) fn check(&self, sudo: Option<&Nonces>) -> Result<(), CommandLineError> {
        if self.shell.is_none() {
            self.check_bare(sudo)?;
        }
        // The line for root is shorter: root needs no sudo.
        let longest = Login {
            is_root: false,
            sudo,
            run_directory: Some(LONGEST_RUN_NAME),
        };
        let length = self.render(&longest).len();
        if length > MAX_LENGTH {
            return Err(CommandLineError::TooLong { length });
        }
        Ok(())
    }

    fn check_bare(&self, sudo: Option<&Nonces>) -> Result<(), CommandLineError> {
        let has_arguments = self.arguments.as_ref().is_some_and(|all| !all.is_empty());
        let needs_shell = match self.directory {
            _ if sudo.is_some() => Some("-x or -K"),
            Directory::Path(_) => Some("-r"),
            Directory::Run => Some("a run directory"),
            Directory::Home => has_arguments.then_some("-g"),
        };
        match needs_shell {
            Some(what) => Err(CommandLineError::NeedsShell(what)),
            None if std::str::from_utf8(&self.program).is_err() => Err(CommandLineError::NotUtf8),
            None => Ok(()),
        }
    }

    /// The string for the `exec` request. To be checked before ([`Self::check`]).
    pub(super) fn render(&self, login: &Login<'_>) -> String {
        if self.shell.is_none() {
            return String::from_utf8_lossy(&self.program).into_owned();
        }
        let command = self.shell.wrap(&self.program, self.arguments.as_deref());
        let sudo = login.sudo();
        if self.directory == Directory::Home && sudo.is_none() {
            return command;
        }
        let mut script = String::new();
        if let Some(nonces) = sudo {
            script.push_str(&nonces.announcement());
            script.push_str("; ");
        }
        if self.directory != Directory::Home {
            script.push_str(&self.directory.enter(login));
            script.push_str("; ");
        }
        if self.shell.is_plain_call() {
            script.push_str("exec ");
        }
        script.push_str(&command);
        match sudo {
            Some(nonces) => format!("{} sh -c {}", nonces.command(), quote(script.as_bytes())),
            None => script,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::process::Command;

    fn line(program: &str) -> CommandLine {
        CommandLine {
            program: program.as_bytes().to_vec(),
            shell: Shell::new(DEFAULT_SHELL).expect("template"),
            arguments: None,
            directory: Directory::Home,
        }
    }

    /// The line for an ordinary user without sudo.
    fn plain(line: &CommandLine) -> String {
        line.check(None).expect("a line that can be sent");
        line.render(&Login::PLAIN)
    }

    fn run(shell: &str, script: &str) -> Vec<u8> {
        let output = Command::new(shell)
            .args(["-c", script])
            .output()
            .expect("a shell");
        output.stdout
    }

    #[test]
    fn a_command_is_one_quoted_word_for_bash() {
        assert_eq!(plain(&line("uptime")), "bash -c 'uptime'");
        assert_eq!(
            plain(&line("echo 'a b' $HOME")),
            r"bash -c 'echo '\''a b'\'' $HOME'"
        );
    }

    #[test]
    fn a_template_may_quote_the_place_or_not() {
        for template in ["sh -c {}", "sh -c '{}'", "sh -c \"{}\""] {
            let command = CommandLine {
                shell: Shell::new(template).expect("template"),
                ..line("echo {} '{}'")
            };
            assert_eq!(plain(&command), r"sh -c 'echo {} '\''{}'\'''");
        }
    }

    #[test]
    fn a_template_without_a_place_is_refused() {
        assert_eq!(
            Shell::new("bash -c"),
            Err(CommandLineError::NoPlaceholder("bash -c".into()))
        );
    }

    #[test]
    fn a_place_within_other_quotes_is_refused() {
        for template in [
            "bash -c 'set -e; {}'",
            "bash -c \"{}; true\"",
            "bash -c \"'{}'\"",
            "bash -c '\"{}\"'",
            "bash -c \"a \\\" {}\"",
            "sh -c {} '{} '",
        ] {
            assert_eq!(
                Shell::new(template),
                Err(CommandLineError::QuotedPlaceholder(template.into()))
            );
        }
        for (template, command) in [
            ("echo 'a b' {} \"c\" {}", "echo 'a b' 'x' \"c\" 'x'"),
            (r"echo \' {} \' {}", r"echo \' 'x' \' 'x'"),
            (r"echo '\' {} é{}", r"echo '\' 'x' é'x'"),
        ] {
            let shell = Shell::new(template).expect("template");
            assert_eq!(shell.wrap(b"x", None), command);
        }
    }

    #[test]
    fn the_node_names_the_run_directory() {
        let nonces = Nonces::new([1; 16], false);
        for sudo in [None, Some(&nonces)] {
            let command = CommandLine {
                directory: Directory::Run,
                ..line("it's 2026")
            };
            let login = |run_directory| Login {
                is_root: false,
                sudo,
                run_directory,
            };
            let named = command.render(&login(Some("2026.1-2")));
            assert!(named.contains("2026.1-2"), "{named}");
            let unnamed = command.render(&login(None));
            assert!(unnamed.contains("there is no run directory"), "{unnamed}");
        }
    }

    #[test]
    fn without_a_run_directory_nothing_runs_in_another_one() {
        let command = CommandLine {
            directory: Directory::Run,
            ..line("echo no")
        };
        assert_eq!(run("sh", &command.render(&Login::PLAIN)), b"");
    }

    #[test]
    fn a_line_that_passes_the_check_fits_with_the_longest_name() {
        let mut program = "x".repeat(MAX_LENGTH);
        let command = loop {
            let command = CommandLine {
                directory: Directory::Run,
                ..line(&program)
            };
            match command.check(None) {
                Ok(()) => break command,
                Err(_) => program.pop(),
            };
        };
        let login = Login {
            run_directory: Some("20260131120000.123456-9999"),
            ..Login::PLAIN
        };
        assert!(command.render(&login).len() <= MAX_LENGTH);
    }

    #[test]
    fn root_needs_no_sudo() {
        let nonces = Nonces::new([1; 16], true);
        let login = |is_root| Login {
            is_root,
            sudo: Some(&nonces),
            run_directory: None,
        };
        assert_eq!(line("id").render(&login(true)), "bash -c 'id'");
        assert!(line("id").render(&login(false)).starts_with("sudo -S "));
    }

    #[test]
    fn without_a_shell_the_command_goes_as_it_is() {
        let command = CommandLine {
            shell: Shell::new("").expect("template"),
            ..line("show version")
        };
        assert_eq!(plain(&command), "show version");
        let refused = |change: fn(&mut CommandLine), sudo| {
            let mut changed = command.clone();
            change(&mut changed);
            changed.check(sudo).expect_err("refused")
        };
        let root = |line: &mut CommandLine| line.directory = Directory::Path(b"/".to_vec());
        assert_eq!(refused(root, None), CommandLineError::NeedsShell("-r"));
        let bytes = |line: &mut CommandLine| line.program = b"\xff".to_vec();
        assert_eq!(refused(bytes, None), CommandLineError::NotUtf8);
        let nonces = Nonces::new([1; 16], false);
        let sudo = Some(&nonces);
        assert_eq!(
            refused(|_| {}, sudo),
            CommandLineError::NeedsShell("-x or -K")
        );
    }

    #[test]
    fn a_directory_comes_first_and_stops_the_command_if_it_fails() {
        let command = CommandLine {
            directory: Directory::Path(b"/srv/a b".to_vec()),
            ..line("ls")
        };
        assert_eq!(
            plain(&command),
            "CDPATH= cd '/srv/a b' || exit; exec bash -c 'ls'"
        );
        let script = plain(&CommandLine {
            directory: Directory::Path(b"/nowhere".to_vec()),
            ..line("echo no")
        });
        assert_eq!(run("sh", &script), b"");
    }

    #[test]
    fn a_directory_named_dash_is_a_directory() {
        let dash = Directory::Path(b"-".to_vec());
        assert_eq!(dash.enter(&Login::PLAIN), "CDPATH= cd './-' || exit");
    }

    #[test]
    fn a_template_with_more_than_a_shell_is_not_replaced_by_exec() {
        for template in [
            "FOO=1 sh -c {}",
            "sh -c {} | tee log",
            "time sh -c {}",
            "nice sh -c {}",
        ] {
            assert!(
                !Shell::new(template).expect("template").is_plain_call(),
                "{template}"
            );
        }
        for template in ["sh -c {}", "/bin/bash -euc '{}'", "busybox sh -c {}"] {
            assert!(
                Shell::new(template).expect("template").is_plain_call(),
                "{template}"
            );
        }
    }

    #[test]
    fn what_does_not_fit_into_a_packet_is_refused_beforehand() {
        let long = "x".repeat(MAX_LENGTH);
        let error = line(&long).check(None).expect_err("too long");
        assert!(error.to_string().contains("-i <file> -C bash"), "{error}");
    }

    proptest! {
        #[test]
        fn any_program_reaches_the_inner_shell(bytes in prop::collection::vec(1u8.., 0..80)) {
            // An inner "shell" that prints the program that it is given.
            let shell = Shell::new("printf %s {}").expect("template");
            let command = CommandLine { program: bytes.clone(), shell, ..line("") };
            prop_assert_eq!(&run("dash", &plain(&command)), &bytes);
        }

        #[test]
        fn any_directory_is_entered(name in "[^/\0]{1,30}") {
            prop_assume!(name != "." && name != "..");
            let parent = tempfile::tempdir().expect("tempdir");
            let name = OsStr::from_bytes(name.as_bytes());
            if std::fs::create_dir(parent.path().join(name)).is_ok() {
                let directory = Directory::Path(name.as_bytes().to_vec());
                let script = format!("{}; pwd; echo x", directory.enter(&Login::PLAIN));
                let output = Command::new("dash")
                    .current_dir(parent.path())
                    .args(["-c", &script])
                    .output()
                    .expect("dash");
                let expected = [parent.path().join(name).as_os_str().as_bytes(), b"\nx\n"].concat();
                prop_assert_eq!(output.stdout, expected);
            }
        }
    }
}
