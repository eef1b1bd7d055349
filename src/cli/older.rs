//! The long options of the older program, whose unique prefixes keep their
//! meaning.
//!
//! Its parser took any prefix that was unique among them, and scripts use that.
//! clap takes prefixes that are unique among today's options. So each prefix that
//! the older program understood becomes a hidden alias, which wins over newer
//! options that begin with it: `--ro` is `--root`, whatever is added.

use clap::Command;

/// All long options of the older program.
const OPTIONS: [&str; 40] = [
    "arg",
    "bar-format",
    "color",
    "colors-dark",
    "colors-light",
    "command",
    "conn-timeout",
    "help",
    "host",
    "json",
    "keep-alive",
    "key",
    "lock",
    "lock-file",
    "log-format",
    "no-conn-fail",
    "no-lock",
    "no-lock-fail",
    "no-preserve-gid",
    "no-preserve-uid",
    "no-upload",
    "password",
    "quiet",
    "read-stdin",
    "recv-timeout",
    "relative",
    "root",
    "send-timeout",
    "serial",
    "shell",
    "simple",
    "stdin",
    "sudo",
    "sync",
    "sync-cmd",
    "threads",
    "upload",
    "user",
    "verbose",
    "version",
];

/// The option that a prefix of a long option (without its dashes) stood for in the
/// older program, if it was unique there.
pub(super) fn option(prefix: &str) -> Option<&'static str> {
    if OPTIONS.contains(&prefix) {
        // Itself, and no prefix of another.
        return None;
    }
    let mut options = OPTIONS
        .into_iter()
        .filter(|option| option.starts_with(prefix));
    let only = options.next()?;
    options.next().is_none().then_some(only)
}

/// Makes the options of a command understand what the older program understood.
pub(super) fn with_prefixes(command: Command) -> Command {
    // A name of today that happens to be a prefix of an older one is that name.
    let taken: Vec<String> = command
        .get_arguments()
        .filter_map(|arg| arg.get_long_and_visible_aliases())
        .flatten()
        .map(str::to_owned)
        .collect();
    command.mut_args(|arg| {
        let long = OPTIONS
            .into_iter()
            .find(|option| arg.get_long() == Some(*option));
        let prefixes = long.into_iter().flat_map(|long| {
            let prefixes = (1..long.len()).map(move |length| &long[..length]);
            prefixes.filter(move |prefix| option(prefix) == Some(long))
        });
        arg.aliases(prefixes.filter(|prefix| !taken.iter().any(|name| name == prefix)))
    })
}

#[cfg(test)]
mod tests {
    use clap::parser::ValueSource;
    use clap::{Arg, ArgAction, CommandFactory};

    use super::*;
    use crate::cli::args::Args;

    #[test]
    fn a_prefix_stands_for_the_only_option_that_began_with_it() {
        for (prefix, expected) in [
            ("ro", "root"),
            ("pa", "password"),
            ("sh", "shell"),
            ("ho", "host"),
            ("com", "command"),
            ("t", "threads"),
            ("a", "arg"),
            ("b", "bar-format"),
            ("j", "json"),
            ("st", "stdin"),
            ("su", "sudo"),
            ("lock-", "lock-file"),
            ("no-c", "no-conn-fail"),
            ("no-lock-", "no-lock-fail"),
            ("sync-", "sync-cmd"),
            ("verb", "verbose"),
            ("colors-d", "colors-dark"),
        ] {
            assert_eq!(option(prefix), Some(expected), "{prefix}");
        }
        for prefix in [
            "",
            "co",
            "colo",
            "h",
            "k",
            "no",
            "no-preserve-",
            "s",
            "ver",
            "x",
        ] {
            assert_eq!(option(prefix), None, "{prefix}");
        }
    }

    /// Today's options, and some that are likely to come, which share prefixes with
    /// those of the older program.
    fn command_of_tomorrow() -> Command {
        let newer = [
            "ask",
            "batch",
            "check",
            "completions",
            "journal",
            "junit",
            "only-failed",
            "password-file",
            "pause",
            "rollback",
            "shared",
            "sudo-password-file",
        ];
        let newer = newer.map(|name| Arg::new(name).long(name).action(ArgAction::SetTrue));
        with_prefixes(Args::command().args(newer))
    }

    #[test]
    fn clap_takes_every_such_prefix_for_that_option() {
        let command = command_of_tomorrow();
        for long in OPTIONS
            .into_iter()
            .filter(|long| !["help", "version"].contains(long))
        {
            let mut arguments = command.get_arguments();
            let arg = arguments
                .find(|arg| arg.get_long() == Some(long))
                .unwrap_or_else(|| panic!("there is no --{long}"));
            let value = match long {
                _ if !arg.get_action().takes_values() => "",
                "color" => "=auto",
                "threads" => "=1",
                _ => "=1s",
            };
            let lengths = 1..=long.len();
            let prefixes = lengths.map(|length| &long[..length]);
            for prefix in prefixes.filter(|text| *text == long || option(text) == Some(long)) {
                let word = format!("--{prefix}{value}");
                let matches = command
                    .clone()
                    .try_get_matches_from(["orgalorg", &word])
                    .unwrap_or_else(|error| panic!("{word}: {error}"));
                let source = matches.value_source(arg.get_id().as_str());
                assert_eq!(source, Some(ValueSource::CommandLine), "{word}");
            }
        }
    }

    #[test]
    fn the_prefixes_are_hidden() {
        let help = |mut command: Command| command.render_long_help().to_string();
        assert_eq!(help(with_prefixes(Args::command())), help(Args::command()));
    }
}
