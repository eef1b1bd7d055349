//! Options that have no effect in a mode or beside other options.
//!
//! The older program accepted them there, so scripts have them: they are accepted
//! with a warning. Options that the older program did not have are usage errors in
//! such places.

use crate::cli::args::{Args, DEFAULT_SYNC};
use crate::output::theme::Theme;
use crate::remote::command_line::DEFAULT_SHELL;

/// One warning that names all of them, if there are any. `colors` is the last of
/// `--colors-dark` and `--colors-light`.
pub(super) fn warning(args: &Args, colors: Option<Theme>) -> Option<String> {
    let mut parts: Vec<(&str, Vec<&str>)> = Vec::new();
    for (option, beside) in find(args, colors) {
        match parts.iter_mut().find(|(other, _)| *other == beside) {
            Some((_, options)) => options.push(option),
            None => parts.push((beside, vec![option])),
        }
    }
    let parts: Vec<String> = parts
        .into_iter()
        .map(|(beside, options)| {
            let verb = if options.len() == 1 { "has" } else { "have" };
            format!("{} {verb} no effect with {beside}", join(&options))
        })
        .collect();
    (!parts.is_empty()).then(|| parts.join("; "))
}

/// `-e`, `-e and -n`, `-e, -n and -m`.
fn join(options: &[&str]) -> String {
    match options {
        [firsts @ .., last] if !firsts.is_empty() => format!("{} and {last}", firsts.join(", ")),
        _ => options.concat(),
    }
}

/// Each of them, with the mode or option that leaves it without an effect.
///
/// `-v` beside `-q` is none of them: under `-q` nobody would see the warning.
fn find(args: &Args, colors: Option<Theme>) -> Vec<(&'static str, &'static str)> {
    [in_mode(args), beside_another(args, colors)]
        .into_iter()
        .flatten()
        .filter_map(|(is_idle, option, beside)| is_idle.then_some((option, beside)))
        .collect()
}

type Rule = (bool, &'static str, &'static str);

fn in_mode(args: &Args) -> Vec<Rule> {
    let mode = match () {
        () if args.command => "-C",
        () if args.upload => "-U",
        () if args.lock => "-L",
        () => "-S",
    };
    let no_stdin = if args.sync { "-S without -m" } else { mode };
    let no_files = if args.sync { "--no-upload" } else { mode };
    let uploads = args.uploads();
    let has_tool = args.sync_cmd != DEFAULT_SYNC.as_str();
    vec![
        (args.stdin.is_some() && !args.runs_plainly(), "-i", no_stdin),
        (args.shell != DEFAULT_SHELL && !args.runs(), "--shell", mode),
        (args.relative && !uploads, "-e", no_files),
        (
            args.no_preserve_uid && !uploads,
            "--no-preserve-uid",
            no_files,
        ),
        (
            args.no_preserve_gid && !uploads,
            "--no-preserve-gid",
            no_files,
        ),
        (args.dereference && !uploads, "--dereference", no_files),
        (args.compress.is_some() && !uploads, "--compress", no_files),
        (has_tool && !args.sync, "-n", mode),
        (!args.sync_args.is_empty() && !args.sync, "-g", mode),
        (args.simple && !args.sync, "-m", mode),
        (args.no_upload && !args.sync, "--no-upload", mode),
        (args.serial && args.lock, "-l", mode),
        (args.no_lock_fail && args.lock, "-t", mode),
    ]
}

fn beside_another(args: &Args, colors: Option<Theme>) -> Vec<Rule> {
    let both_colors = args.colors_dark && args.colors_light;
    let is_dark = colors == Some(Theme::Dark);
    vec![
        (args.no_lock_fail && args.no_lock, "-t", "-y"),
        (
            args.lock_file.is_some() && args.no_lock,
            "--lock-file",
            "-y",
        ),
        (args.serial && args.json, "-l", "--json"),
        (
            args.log_format.is_some() && args.json,
            "--log-format",
            "--json",
        ),
        (
            args.bar_format.is_some() && args.json,
            "--bar-format",
            "--json",
        ),
        (
            both_colors && is_dark,
            "--colors-light",
            "--colors-dark after it",
        ),
        (
            both_colors && !is_dark,
            "--colors-dark",
            "--colors-light after it",
        ),
    ]
}
