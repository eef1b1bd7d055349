//! The remote command line: from the words that the user typed to the one
//! string that `sshd` hands to the login shell.
//!
//! `orgalorg -C ARGV` does what `ssh host ARGV` does: the words are joined by
//! single spaces and the result is a shell program. Everything that is wrapped
//! around it (the shell template, `cd`, sudo) must bring that program through
//! unchanged, so all quoting is one function, [`quote`].

use std::fmt::Write as _;

use crate::remote::sudo::Nonces;

/// The template that is used when the user gives none.
pub const DEFAULT_SHELL: &str = "bash -c '{}'";

/// The longest command that fits: libssh2 refuses packets of 34,744 bytes and
/// more, and an `exec` request (RFC 4254 section 6.5) puts 18 bytes before it.
pub const MAX_LENGTH: usize = 34_743 - 18;

/// What cannot be said to a remote shell.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandLineError {
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

/// Quotes any bytes (without NUL) as one word of a POSIX shell.
///
/// Single quotes, and `'\''` for a single quote (POSIX XCU 2.2.2). The result is
/// a string, because that is what can be sent: bytes that are no UTF-8 are
/// written as `"$(printf '\377')"`, which every POSIX shell turns back into the
/// same bytes.
#[must_use]
pub fn quote(word: &[u8]) -> String {
    let mut quoted = String::with_capacity(word.len() + 2);
    quoted.push('\'');
    for chunk in word.utf8_chunks() {
        quoted.push_str(&chunk.valid().replace('\'', r"'\''"));
        if !chunk.invalid().is_empty() {
            quoted.push_str(r#"'"$(printf '"#);
            for byte in chunk.invalid() {
                // Writing to a String cannot fail.
                let _ = write!(quoted, r"\{byte:03o}");
            }
            quoted.push_str(r#"')"'"#);
        }
    }
    quoted.push('\'');
    quoted
}

/// A `--shell` template: what turns a program into a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shell {
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
    pub fn new(template: &str) -> Result<Self, CommandLineError> {
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
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.template.is_empty()
    }

    /// Whether this is the shell that one gets without asking.
    #[must_use]
    pub fn is_default(&self) -> bool {
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Directory<'a> {
    /// The home directory.
    Home,
    /// This one (`-r`); any bytes.
    Path(&'a [u8]),
    /// The run directory, which the guard has made: where it is depends on who we
    /// are on the host, and what it is called on whether there is another one. The
    /// line is complete when it has been told the name ([`in_run_directory`]).
    Run,
}

impl Directory<'_> {
    /// A path that begins with a dash, so that it is not taken for an option (or,
    /// by `cd`, for the directory before).
    pub(super) fn plain(path: &[u8]) -> Vec<u8> {
        let here: &[u8] = if path.starts_with(b"-") { b"./" } else { b"" };
        [here, path].concat()
    }

    /// Goes there, or ends the script. CDPATH must not lead elsewhere (and make
    /// `cd` print where).
    pub(super) fn enter(self) -> String {
        match self {
            Self::Home => String::new(),
            Self::Path(path) => {
                format!("CDPATH= cd {} || exit", quote(&Self::plain(path)))
            }
            Self::Run => format!("{RUN_DIRECTORIES}\ncd \"$base\"/{RUN_NAME} || exit"),
        }
    }
}

/// Stands for the name of the run directory: the one character that no argument of
/// ours, and so no command, can have in it.
pub(super) const RUN_NAME: char = '\0';

/// The longest such name, with room for the number of another one.
const MAX_RUN_NAME: usize = 32;

/// A line in which the run directory has its name. It may stand between any quotes,
/// as it is made of digits, dots and dashes only.
#[must_use]
pub fn in_run_directory(line: &str, name: &str) -> String {
    line.replace(RUN_NAME, name)
}

/// Sets `$base` to where our run directories are; the guard does the same.
pub(super) const RUN_DIRECTORIES: &str = "base=/tmp/orgalorg-$(id -un)
[ \"$(id -u)\" != 0 ] || base=/var/run/orgalorg";

/// What a remote command is made of.
#[derive(Debug, Clone)]
pub struct CommandLine<'a> {
    /// The program: words joined by spaces.
    pub program: &'a [u8],
    /// The shell that runs it.
    pub shell: &'a Shell,
    /// What the program finds as `"$@"`; without, it is a command, not a sync
    /// tool.
    pub arguments: Option<&'a [Vec<u8>]>,
    /// The directory that it runs in.
    pub directory: Directory<'a>,
    /// Run it under sudo, announced by these nonces.
    pub sudo: Option<&'a Nonces>,
}

impl CommandLine<'_> {
    /// The string for the `exec` request.
    ///
    /// # Errors
    /// It cannot be sent; the error says what to do.
    pub fn build(&self) -> Result<String, CommandLineError> {
        let line = if self.shell.is_none() {
            self.bare()?
        } else {
            self.wrapped()
        };
        let length = line.len() + line.matches(RUN_NAME).count() * MAX_RUN_NAME;
        if length > MAX_LENGTH {
            return Err(CommandLineError::TooLong { length });
        }
        Ok(line)
    }

    fn bare(&self) -> Result<String, CommandLineError> {
        if self.sudo.is_some() {
            return Err(CommandLineError::NeedsShell("-x or -K"));
        }
        match self.directory {
            Directory::Home => {}
            Directory::Path(_) => return Err(CommandLineError::NeedsShell("-r")),
            Directory::Run => return Err(CommandLineError::NeedsShell("a run directory")),
        }
        if self
            .arguments
            .is_some_and(|arguments| !arguments.is_empty())
        {
            return Err(CommandLineError::NeedsShell("-g"));
        }
        String::from_utf8(self.program.to_vec()).map_err(|_| CommandLineError::NotUtf8)
    }

    fn wrapped(&self) -> String {
        let command = self.shell.wrap(self.program, self.arguments);
        if self.directory == Directory::Home && self.sudo.is_none() {
            return command;
        }
        let mut script = String::new();
        if let Some(nonces) = self.sudo {
            script.push_str(&nonces.announcement());
            script.push_str("; ");
        }
        if self.directory != Directory::Home {
            script.push_str(&self.directory.enter());
            script.push_str("; ");
        }
        if self.shell.is_plain_call() {
            script.push_str("exec ");
        }
        script.push_str(&command);
        match self.sudo {
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

    fn line(program: &str) -> CommandLine<'_> {
        static SHELL: std::sync::LazyLock<Shell> =
            std::sync::LazyLock::new(|| Shell::new(DEFAULT_SHELL).expect("template"));
        CommandLine {
            program: program.as_bytes(),
            shell: &SHELL,
            arguments: None,
            directory: Directory::Home,
            sudo: None,
        }
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
        assert_eq!(line("uptime").build().as_deref(), Ok("bash -c 'uptime'"));
        assert_eq!(
            line("echo 'a b' $HOME").build().as_deref(),
            Ok(r"bash -c 'echo '\''a b'\'' $HOME'")
        );
    }

    #[test]
    fn a_template_may_quote_the_place_or_not() {
        for template in ["sh -c {}", "sh -c '{}'", "sh -c \"{}\""] {
            let shell = Shell::new(template).expect("template");
            let command = CommandLine {
                shell: &shell,
                ..line("echo {} '{}'")
            };
            assert_eq!(
                command.build().as_deref(),
                Ok(r"sh -c 'echo {} '\''{}'\'''")
            );
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
    fn the_name_of_the_run_directory_comes_last_between_any_quotes() {
        let nonces = Nonces::new([1; 16], false);
        for sudo in [None, Some(&nonces)] {
            let command = CommandLine {
                directory: Directory::Run,
                sudo,
                ..line("it's 2026")
            };
            let line = command.build().expect("a line");
            let named = in_run_directory(&line, "2026.1-2");
            assert!(named.contains("cd \"$base\"/2026.1-2 || exit"), "{named}");
            assert!(!named.contains(RUN_NAME), "{named}");
            assert_eq!(named.len(), line.len() + 7);
        }
        // There is room for it.
        let mut program = "x".repeat(MAX_LENGTH);
        let line = loop {
            let command = CommandLine {
                directory: Directory::Run,
                ..line(&program)
            };
            match command.build() {
                Ok(line) => break line,
                Err(_) => program.pop(),
            };
        };
        let named = in_run_directory(&line, "20260131120000.123456-9999");
        assert!(named.len() <= MAX_LENGTH);
    }

    #[test]
    fn without_a_shell_the_command_goes_as_it_is() {
        let shell = Shell::new("").expect("template");
        let command = CommandLine {
            shell: &shell,
            ..line("show version")
        };
        assert_eq!(command.build().as_deref(), Ok("show version"));
        let in_a_directory = CommandLine {
            directory: Directory::Path(b"/"),
            ..command.clone()
        };
        assert_eq!(
            in_a_directory.build(),
            Err(CommandLineError::NeedsShell("-r"))
        );
    }

    #[test]
    fn a_directory_comes_first_and_stops_the_command_if_it_fails() {
        let command = CommandLine {
            directory: Directory::Path(b"/srv/a b"),
            ..line("ls")
        };
        assert_eq!(
            command.build().as_deref(),
            Ok("CDPATH= cd '/srv/a b' || exit; exec bash -c 'ls'")
        );
        let script = CommandLine {
            directory: Directory::Path(b"/nowhere"),
            ..line("echo no")
        }
        .build()
        .expect("line");
        assert_eq!(run("sh", &script), b"");
    }

    #[test]
    fn a_directory_named_dash_is_a_directory() {
        assert_eq!(Directory::Path(b"-").enter(), "CDPATH= cd './-' || exit");
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
        let error = line(&long).build().expect_err("too long");
        assert!(error.to_string().contains("-i <file> -C bash"), "{error}");
    }

    proptest! {
        #[test]
        fn any_bytes_come_back_from_a_shell(bytes in prop::collection::vec(1u8.., 0..200)) {
            let script = format!("printf %s {}", quote(&bytes));
            for shell in ["dash", "bash"] {
                prop_assert_eq!(&run(shell, &script), &bytes);
            }
        }

        #[test]
        fn any_program_reaches_the_inner_shell(bytes in prop::collection::vec(1u8.., 0..80)) {
            // An inner "shell" that prints the program that it is given.
            let shell = Shell::new("printf %s {}").expect("template");
            let sudo = None;
            let command = CommandLine { program: &bytes, shell: &shell, arguments: None, directory: Directory::Home, sudo };
            prop_assert_eq!(&run("dash", &command.build().expect("line")), &bytes);
        }

        #[test]
        fn any_directory_is_entered(name in "[^/\0]{1,30}") {
            prop_assume!(name != "." && name != "..");
            let parent = tempfile::tempdir().expect("tempdir");
            let name = OsStr::from_bytes(name.as_bytes());
            if std::fs::create_dir(parent.path().join(name)).is_ok() {
                let script = format!("{}; pwd; echo x", Directory::Path(name.as_bytes()).enter());
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
