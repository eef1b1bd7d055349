//! Mistakes that clap found, explained better than clap does.

use clap::Command;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::cli::early::{Early, usage};
use crate::cli::older;

/// What to say about a mistake that clap found in what was typed for `command`.
pub(super) fn explain(mut error: clap::Error, command: &mut Command) -> Early {
    match error.kind() {
        ErrorKind::UnknownArgument => {
            if let Some(several) = ambiguity(&error, command) {
                return usage(several);
            }
            suggest_in_full(&mut error);
        }
        ErrorKind::InvalidValue if lacks_value(&error) => {
            let usage = ContextValue::StyledStr(command.render_usage());
            error.insert(ContextKind::Usage, usage);
        }
        _ => {}
    }
    Early::Clap(error)
}

fn text(error: &clap::Error, kind: ContextKind) -> Option<&str> {
    match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text),
        _ => None,
    }
}

/// An option at the end of the command line, without the value that it takes.
fn lacks_value(error: &clap::Error) -> bool {
    text(error, ContextKind::InvalidValue) == Some("")
}

/// Where the beginning of several options was typed: their names.
fn ambiguity(error: &clap::Error, command: &Command) -> Option<String> {
    let typed = text(error, ContextKind::InvalidArg)?;
    let prefix = typed.strip_prefix("--")?;
    let options: Vec<String> = command
        .get_arguments()
        .filter_map(|arg| arg.get_long_and_visible_aliases())
        .flatten()
        .filter(|long| long.starts_with(prefix))
        .map(|long| format!("--{long}"))
        .collect();
    (options.len() > 1).then(|| {
        format!(
            "'{typed}' is the beginning of several options: {}",
            options.join(", ")
        )
    })
}

/// clap knows the older prefixes as names, and would suggest them.
fn suggest_in_full(error: &mut clap::Error) {
    let suggested = text(error, ContextKind::SuggestedArg);
    let prefix = suggested.and_then(|suggested| suggested.strip_prefix("--"));
    if let Some(option) = prefix.and_then(older::option) {
        let option = ContextValue::String(format!("--{option}"));
        error.insert(ContextKind::SuggestedArg, option);
    }
}
