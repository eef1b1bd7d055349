//! The files of `src/`, and their code without comments and unit tests.

use std::fs;
use std::path::{Path, PathBuf};

/// A file below `src/`.
pub(crate) struct Source {
    /// Its path below `src/`.
    pub(crate) path: PathBuf,
    pub(crate) text: String,
}

impl Source {
    /// The names of its module and of those around it: `["cluster", "guard"]`. The
    /// root of the crate has none.
    pub(crate) fn module(&self) -> Vec<String> {
        let path = self.path.with_extension("");
        let names = path.iter().map(|name| name.to_string_lossy().into_owned());
        names
            .filter(|name| name != "mod" && name != "lib")
            .collect()
    }

    /// Whether the whole file is a unit test.
    pub(crate) fn is_test(&self) -> bool {
        self.path.ends_with("tests.rs")
    }

    /// Its code, without the lines that are comments and without `mod tests { … }`.
    pub(crate) fn code(&self) -> String {
        let mut code = String::new();
        let mut is_in_tests = false;
        for line in self.text.lines() {
            is_in_tests |= line == "mod tests {";
            if !is_in_tests && !line.trim_start().starts_with("//") {
                code += line;
                code.push('\n');
            }
            is_in_tests &= line != "}";
        }
        code
    }
}

/// The repository.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files below a folder of the repository.
pub(crate) fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{folder:?}: {error}"));
    for entry in entries {
        let path = entry.expect("a folder can be read").path();
        if path.is_dir() {
            files.extend(self::files(&path));
        } else {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// All Rust files below `src/`.
pub(crate) fn sources() -> Vec<Source> {
    let src = root().join("src");
    let mut files = files(&src);
    files.retain(|path| path.extension().is_some_and(|extension| extension == "rs"));
    let read = |path: PathBuf| Source {
        text: fs::read_to_string(&path).expect("a source file can be read"),
        path: path.strip_prefix(&src).expect("below src").to_owned(),
    };
    files.into_iter().map(read).collect()
}
