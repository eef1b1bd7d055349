//! The options about output: which of them go together, and what they mean.

use std::cmp::Ordering;
use std::path::{Path, PathBuf};

use clap::ArgMatches;
use rustix::fs::{Access, access};

use crate::cli::args::Args;
use crate::cli::early::{Early, usage};
use crate::cli::paths::expand_home;
use crate::config::{DisplayMode, OutputOptions};
use crate::error::Tree;
use crate::output::template::{Template, TemplateError};
use crate::output::theme::Theme;
use crate::output::{logs, status};

/// Refuses options about output that make no sense together.
pub(super) fn check_combinations(args: &Args) -> Result<(), Early> {
    let has_directory = args.output_dir.is_some();
    let wrong = [
        (
            args.diff && !args.fold,
            "--diff shows how folded output differs, so it needs --fold",
        ),
        (
            args.json && args.fold,
            "--json is for programs, which fold by themselves; leave out --fold, or --json",
        ),
        (
            args.json && args.tty,
            "--tty passes on what is meant for a terminal, and --json is for programs; take one of them",
        ),
        (
            args.json && args.raw,
            "--raw is about what a terminal gets, and --json escapes everything; leave out one of them",
        ),
        (
            args.json && args.list,
            "--list prints plain lines; leave out --json",
        ),
        (
            args.fold && args.serial,
            "-l shows output host by host and --fold once for many; take one of them",
        ),
        (
            args.fold && args.quiet,
            "--fold prints headings and -q nothing but what hosts send; take one of them",
        ),
        (
            args.fold && args.tty,
            "--fold shows output at the end, and --tty is for what is used meanwhile; take one of them",
        ),
        (
            args.lock && args.fold,
            "-L runs nothing, so there is no output to fold; leave out --fold",
        ),
        (
            args.lock && has_directory,
            "-L runs nothing, so there is no output to keep; leave out --output-dir",
        ),
        (
            args.list && has_directory,
            "--list runs nothing, so there is no output to keep; leave out --output-dir",
        ),
    ];
    match wrong.into_iter().find(|(is_wrong, _)| *is_wrong) {
        Some((_, reason)) => Err(usage(reason)),
        None => Ok(()),
    }
}

/// The last of `--colors-dark` and `--colors-light`.
pub(super) fn last_colors(args: &Args, matches: &ArgMatches) -> Option<Theme> {
    let place = |is_given: bool, id| is_given.then(|| matches.index_of(id)).flatten();
    let dark = place(args.colors_dark, "colors_dark");
    let light = place(args.colors_light, "colors_light");
    // An option that was not given comes before all others.
    match dark.cmp(&light) {
        Ordering::Greater => Some(Theme::Dark),
        Ordering::Less => Some(Theme::Light),
        Ordering::Equal => None,
    }
}

/// What the options mean.
pub(super) fn look(
    args: &Args,
    colors: Option<Theme>,
    home: Option<&Path>,
) -> Result<OutputOptions, Early> {
    let (bar_theme, bar_format) =
        format("--bar-format", args.bar_format.as_deref(), status::template)?;
    let (log_theme, log_format) =
        format("--log-format", args.log_format.as_deref(), logs::template)?;
    let theme = colors.or(log_theme).or(bar_theme).unwrap_or_default();
    Ok(OutputOptions {
        mode: if args.json {
            DisplayMode::Json
        } else if args.fold {
            DisplayMode::Folded {
                wants_diff: args.diff,
            }
        } else if args.serial && !args.lock {
            DisplayMode::Grouped
        } else {
            DisplayMode::Text
        },
        directory: args
            .output_dir
            .as_deref()
            .map(|path| directory(&expand_home(path, home)))
            .transpose()?,
        theme,
        log_format: log_format.filter(|_| !args.json),
        bar_format: bar_format.filter(|_| !args.json),
        is_quiet: args.quiet,
        verbosity: if args.quiet { 0 } else { args.verbose },
        is_raw: args.raw,
        color: args.color.into(),
    })
}

/// The name of a theme, or a template.
fn format(
    option: &str,
    text: Option<&str>,
    parse: fn(&str) -> Result<Template, TemplateError>,
) -> Result<(Option<Theme>, Option<Template>), Early> {
    let Some(text) = text else {
        return Ok((None, None));
    };
    if let Some(theme) = Theme::by_name(text) {
        return Ok((Some(theme), None));
    }
    match parse(text) {
        Ok(template) => Ok((None, Some(template))),
        Err(error) => Err(usage(format!(
            "{option} '{text}' is neither a theme (default, dark, light) nor a template: {error}"
        ))),
    }
}

/// Makes the directory if it is missing.
fn directory(path: &Path) -> Result<PathBuf, Early> {
    let made = std::fs::create_dir_all(path).and_then(|()| {
        access(path, Access::WRITE_OK | Access::EXEC_OK)?;
        Ok(())
    });
    match made {
        Ok(()) => Ok(path.to_owned()),
        Err(error) => {
            let what = format!("can't write into the directory '{}'", path.display());
            Err(Early::Usage(
                Tree::new(what).because(Tree::from_error(&error)),
            ))
        }
    }
}
