//! Paths on this machine that options name.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::cli::early::Early;
use crate::config::InputFile;
use crate::error::Tree;

/// `~/` at the beginning, for where no shell has seen it (`--key=~/k`).
pub(super) fn expand_home(path: &Path, home: Option<&Path>) -> PathBuf {
    match (path.strip_prefix("~"), home) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => path.to_owned(),
    }
}

pub(super) fn is_stdin(path: &Path) -> bool {
    ["-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"]
        .iter()
        .any(|name| path == Path::new(name))
}

/// Opens what `-i` names, so that a mistake is found before anything is run.
pub(super) fn open_input(path: &Path) -> Result<InputFile, Early> {
    let failed = |error: &io::Error| {
        Early::Usage(
            Tree::new(format!("can't open input file '{}'", path.display()))
                .because(Tree::from_error(error)),
        )
    };
    let file = if is_stdin(path) {
        io::stdin()
            .as_fd()
            .try_clone_to_owned()
            .map(File::from)
            .map_err(|error| failed(&error))?
    } else {
        File::open(path).map_err(|error| failed(&error))?
    };
    let metadata = file.metadata().map_err(|error| failed(&error))?;
    if metadata.is_dir() {
        // Said as the system says it.
        return Err(failed(&Errno::ISDIR.into()));
    }
    let name = if is_stdin(path) {
        "stdin".to_owned()
    } else {
        format!("'{}'", path.display())
    };
    Ok(InputFile { file, name })
}
