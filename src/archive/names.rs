//! What a file is called on the hosts: by the text of its path alone. Pure.

use std::path::{Component, Path, PathBuf};

/// How uploaded files are named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Naming {
    /// By their absolute path, without the leading `/`.
    Absolute,
    /// By their path as given, made clean (`-e`).
    Relative,
}

impl Naming {
    /// The name of `path`, which is relative to the directory `current` if it is
    /// not absolute. Empty for what is the root itself: its contents go there
    /// without a directory of their own.
    ///
    /// Symbolic links are not looked at: `a/../b` is `b` whatever `a` is.
    #[must_use]
    pub(crate) fn name(self, path: &Path, current: &Path) -> PathBuf {
        match self {
            Self::Absolute => clean(&current.join(path)),
            Self::Relative => clean(path),
        }
    }
}

/// The path without `/` and `..` at its beginning, and without `.` and `..` in
/// it.
fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => clean.push(part),
            // Beyond the beginning there is nothing to take away.
            Component::ParentDir => {
                clean.pop();
            }
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn named(naming: Naming, path: &str) -> String {
        let name = naming.name(Path::new(path), Path::new("/srv/app"));
        name.to_str().expect("UTF-8").to_owned()
    }

    #[test]
    fn an_absolute_name_has_everything_but_the_slash() {
        for (path, name) in [
            ("/etc/motd", "etc/motd"),
            ("conf/a", "srv/app/conf/a"),
            ("../other/./b/", "srv/other/b"),
            ("/etc//ssh///", "etc/ssh"),
            ("/../../x", "x"),
            (".", "srv/app"),
            ("/", ""),
        ] {
            assert_eq!(named(Naming::Absolute, path), name, "{path}");
        }
    }

    #[test]
    fn a_relative_name_is_the_path_as_given_made_clean() {
        for (path, name) in [
            ("/etc/motd", "etc/motd"),
            ("a/../b", "b"),
            ("./conf/a", "conf/a"),
            ("../../other/b/", "other/b"),
            ("a/./b//c", "a/b/c"),
            ("a/b/../../../c", "c"),
            (".", ""),
            ("..", ""),
        ] {
            assert_eq!(named(Naming::Relative, path), name, "{path}");
        }
    }

    proptest! {
        #[test]
        fn no_name_leads_out_of_where_it_is_put(path in "(/|\\.\\./|\\./|[ab]/|c|\\.|-){0,12}") {
            for naming in [Naming::Absolute, Naming::Relative] {
                let name = naming.name(Path::new(&path), Path::new("/srv"));
                let is_plain = |part: Component<'_>| matches!(part, Component::Normal(_));
                prop_assert!(name.components().all(is_plain), "{name:?}");
                // Clean names stay as they are.
                prop_assert_eq!(Naming::Relative.name(&name, Path::new("/")), name);
            }
        }
    }
}
