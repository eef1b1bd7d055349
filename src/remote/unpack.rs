//! What takes an upload on a host: a script that gets everything ready, says so,
//! and becomes `tar`.
//!
//! Nothing is sent before every host has said that it is ready, so a host on
//! which this cannot work (no right to the directory, no `zstd`) fails while
//! nothing has been changed anywhere.

use crate::event::Identity;

use super::command_line::Directory;
use super::login::{Login, call_announced};
use super::quoting::quote;

/// What the line on stdout begins with that says that the archive may come. The
/// directory that it is unpacked in follows, as the guard names what it locks: two
/// targets of a run may be one machine.
const READY: &str = "ORGALORG READY ";

const SAY_READY: &str = r#"{ read -r boot </proc/sys/kernel/random/boot_id; } 2>/dev/null || boot=
printf 'ORGALORG READY %s:%s\n' "$boot" "$(stat -L -c %d:%i . 2>/dev/null)"
"#;

/// The directory that waits for an upload, if this line (without its newline) says so.
pub(crate) fn ready_in(line: &[u8]) -> Option<Identity> {
    let place = line.strip_prefix(READY.as_bytes())?;
    Some(Identity(String::from_utf8_lossy(place).into_owned()))
}

/// Takes an upload on one host.
#[derive(Debug, Clone)]
pub(crate) struct Unpack {
    /// Where the files go. A path is made if it is missing.
    pub(crate) directory: Directory,
    /// The program that unpacks a compressed archive.
    pub(crate) unpacker: Option<&'static str>,
}

/// Options from the environment of the host's user, for GNU tar, bsdtar and gzip:
/// `--strip-components` among them would put files elsewhere, without a word. (What
/// zstd takes from there is about compressing only.)
const FORGET_OPTIONS: &str = "unset TAR_OPTIONS TAR_READER_OPTIONS TAR_WRITER_OPTIONS GZIP\n";

/// Sets the options that tar needs here. It has to go into a link to a directory
/// where the archive has a directory: GNU tar does so if it is told to, BusyBox
/// does so anyway, bsdtar with -P; whatever else there is has to show it. (And
/// GNU tar has something to say about each file if the clocks differ.)
const FIND_OPTIONS: &str = r#"keeps() {
d=$(mktemp -d) || return
(cd "$d" && mkdir a b && : >a/f && tar -c -f t a && rm -r a && ln -s b a &&
tar -x -f t "$@" && [ -L a ] && [ -f b/f ]) >/dev/null 2>&1
r=$?
rm -rf "$d"
return $r
}
if tar --keep-directory-symlink --version >/dev/null 2>&1; then
set -- --keep-directory-symlink --warning=no-timestamp
elif keeps; then set --
elif keeps -P; then set -- -P
else fail "the tar of this host would replace symbolic links to directories: install GNU tar"
fi
"#;

impl Unpack {
    /// The string for the login shell.
    pub(super) fn render(&self, login: &Login<'_>) -> String {
        let mut script = String::from(
            "fail() { printf '%s\\n' \"$1\" >&2; exit 1; }\n\
             umask 022\n",
        );
        script.push_str(FORGET_OPTIONS);
        if let Directory::Path(path) = &self.directory {
            let path = Directory::plain(path);
            script.push_str(&format!("mkdir -p {} || exit\n", quote(&path)));
        }
        script.push_str(&self.directory.enter(login));
        script.push('\n');
        let tar = self.unpacker.into_iter().chain(["tar"]);
        for program in tar {
            script.push_str(&format!(
                "command -v {program} >/dev/null 2>&1 || fail 'there is no {program} on the host'\n"
            ));
        }
        script.push_str(FIND_OPTIONS);
        script.push_str(SAY_READY);
        script.push_str(&match self.unpacker {
            None => "exec tar -x -p -f - \"$@\"\n".to_owned(),
            Some(program) => format!("{program} -d -c | tar -x -p -f - \"$@\"\n"),
        });
        call_announced(&script, "orgalorg-upload", login)
    }
}

/// Why a host's tar has failed, from what it said. The words of the system's
/// errors are those of the C locale, and of most others.
pub(crate) fn likely_reason(messages: &str) -> Option<&'static str> {
    let reasons = [
        ("No space left on device", "no space left on the host"),
        // What GNU tar says where a part of a block still fits.
        ("Wrote only", "no space left on the host"),
        (
            "Disk quota exceeded",
            "the user's quota on the host is used up",
        ),
        ("Read-only file system", "the file system is read-only"),
        (
            "Permission denied",
            "no permission to write there (as root: -x)",
        ),
        (
            "Operation not permitted",
            "no permission to do that (as root: -x)",
        ),
        (
            "Not a directory",
            "something that is no directory is in the way",
        ),
        // A file where a directory should be, or the other way round.
        ("File exists", "something of another kind is in the way"),
        ("Is a directory", "a directory is where a file should be"),
        (
            "Directory not empty",
            "a directory is where a file should be",
        ),
    ];
    let found = reasons.iter().find(|(words, _)| messages.contains(words));
    found.map(|(_, reason)| *reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::remote::login::BEGIN;
    use std::io::Write;
    use std::path::Path;
    use std::process::{Command, Output, Stdio};

    /// Runs it here, with these programs standing in front of all others.
    fn run(upload: &Unpack, programs: &Path, archive: &[u8]) -> Output {
        let path = std::env::var("PATH").unwrap_or_default();
        let mut child = Command::new("sh")
            .args(["-c", &upload.render(&Login::PLAIN)])
            .env("PATH", format!("{}:{path}", programs.display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("sh");
        // It may end before it has read anything.
        let _ = child.stdin.take().expect("piped").write_all(archive);
        let Output {
            status,
            stdout,
            stderr,
        } = child.wait_with_output().expect("it ends");
        let begin = BEGIN.as_bytes();
        let said = |all: Vec<u8>| all.strip_prefix(begin).expect("it begins").to_vec();
        Output {
            status,
            stdout: said(stdout),
            stderr: said(stderr),
        }
    }

    fn install(programs: &Path, name: &str, script: &str) {
        use std::os::unix::fs::PermissionsExt;
        let path = programs.join(name);
        std::fs::write(&path, script).expect("writable");
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&path, mode).expect("ours");
    }

    /// An archive of a directory `d` with a file `f`.
    fn archive() -> Vec<u8> {
        let tree = tempfile::tempdir().expect("tempdir");
        std::fs::create_dir(tree.path().join("d")).expect("writable");
        std::fs::write(tree.path().join("d/f"), "new").expect("writable");
        let mut tar = Command::new("tar");
        let tar = tar.args(["-c", "-C"]).arg(tree.path()).arg("d");
        tar.output().expect("tar").stdout
    }

    fn to(path: &[u8]) -> Unpack {
        Unpack {
            directory: Directory::Path(path.to_vec()),
            unpacker: None,
        }
    }

    fn identity(path: &Path) -> Identity {
        use std::os::unix::fs::MetadataExt;
        let meta = std::fs::metadata(path).expect("there");
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("Linux");
        Identity(format!("{}:{}:{}", boot.trim(), meta.dev(), meta.ino()))
    }

    #[test]
    fn every_tar_goes_into_a_link_to_a_directory() {
        for script in [
            "#!/bin/sh\nexec /usr/bin/tar \"$@\"\n",
            "#!/bin/sh\nexec bsdtar \"$@\"\n",
            "#!/bin/sh\nexec busybox tar \"$@\"\n",
        ] {
            let place = tempfile::tempdir().expect("tempdir");
            let at = |name: &str| place.path().join(name);
            std::fs::create_dir_all(at("programs")).expect("writable");
            std::fs::create_dir_all(at("root/real")).expect("writable");
            std::os::unix::fs::symlink("real", at("root/d")).expect("writable");
            install(&at("programs"), "tar", script);
            let root = at("root").into_os_string().into_encoded_bytes();
            let output = run(&to(&root), &at("programs"), &archive());
            assert!(output.status.success(), "{script}{output:?}");
            let line = output.stdout.strip_suffix(b"\n").expect("a line");
            assert_eq!(ready_in(line), Some(identity(&at("root"))), "{script}");
            assert!(at("root/d").is_symlink(), "{script}");
            assert_eq!(std::fs::read(at("root/real/f")).expect("there"), b"new");
        }
    }

    #[test]
    fn options_from_the_environment_put_no_file_elsewhere() {
        for (unpacker, pack) in [
            (None, "cat"),
            (Some("gzip"), "gzip"),
            (Some("zstd"), "zstd -c"),
        ] {
            for (name, options) in [
                ("TAR_OPTIONS", "--strip-components=1"),
                ("TAR_OPTIONS", "--exclude=f --no-such-option"),
                ("GZIP", "-l"),
                ("GZIP", "--test"),
                ("ZSTD_CLEVEL", "99"),
                ("POSIXLY_CORRECT", "1"),
            ] {
                let place = tempfile::tempdir().expect("tempdir");
                std::fs::write(place.path().join("archive"), archive()).expect("writable");
                let packed = Command::new("sh")
                    .args(["-c", &format!("{pack} <archive")])
                    .current_dir(place.path())
                    .output()
                    .expect("sh")
                    .stdout;
                let root = place
                    .path()
                    .join("root")
                    .into_os_string()
                    .into_encoded_bytes();
                let command = Unpack {
                    unpacker,
                    ..to(&root)
                }
                .render(&Login::PLAIN);
                let mut child = Command::new("sh")
                    .args(["-c", &command])
                    .env(name, options)
                    .stdin(Stdio::piped())
                    .stdout(Stdio::null())
                    .stderr(Stdio::piped())
                    .spawn()
                    .expect("sh");
                let _ = child.stdin.take().expect("piped").write_all(&packed);
                let output = child.wait_with_output().expect("it ends");
                assert!(output.status.success(), "{name}={options} {output:?}");
                let file = place.path().join("root/d/f");
                assert_eq!(
                    std::fs::read(file).expect("there"),
                    b"new",
                    "{name}={options}"
                );
            }
        }
    }

    #[test]
    fn a_tar_that_would_replace_the_link_does_not_get_ready() {
        let place = tempfile::tempdir().expect("tempdir");
        // GNU tar, which denies that it knows how not to.
        let script = "#!/bin/sh\ncase \" $* \" in *keep-directory-symlink*) exit 64;; esac\n\
                      exec /usr/bin/tar \"$@\"\n";
        install(place.path(), "tar", script);
        let root = place.path().join("root");
        let bytes = root.clone().into_os_string().into_encoded_bytes();
        let output = run(&to(&bytes), place.path(), &archive());
        assert!(!output.status.success());
        assert_eq!(output.stdout, b"");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(stderr.contains("would replace symbolic links"), "{stderr}");
        assert!(!root.join("d").exists());
    }

    #[test]
    fn a_missing_program_is_named_before_anything_is_sent() {
        let place = tempfile::tempdir().expect("tempdir");
        let root = place
            .path()
            .join("root")
            .into_os_string()
            .into_encoded_bytes();
        let upload = Unpack {
            unpacker: Some("no-such-program"),
            ..to(&root)
        };
        let output = run(&upload, place.path(), &[]);
        assert_eq!(output.stdout, b"");
        assert_eq!(output.stderr, b"there is no no-such-program on the host\n");
    }

    #[test]
    fn any_root_is_made_and_entered() {
        let place = tempfile::tempdir().expect("tempdir");
        for name in [&b"a 'b' \"$c\"\n*/x"[..], b"\xff\xfe", b"-p", b"a\\nb"] {
            let mut root = place.path().as_os_str().as_encoded_bytes().to_vec();
            root.push(b'/');
            root.extend_from_slice(name);
            let output = run(&to(&root), place.path(), &archive());
            assert!(output.status.success(), "{output:?}");
            use std::os::unix::ffi::OsStrExt;
            let file = Path::new(std::ffi::OsStr::from_bytes(&root)).join("d/f");
            assert_eq!(std::fs::read(file).expect("there"), b"new");
        }
    }

    #[test]
    fn the_usual_reasons_are_told() {
        let said = "tar: etc/motd: Cannot write: No space left on device\n\
                    tar: Exiting with failure status due to previous errors";
        assert_eq!(likely_reason(said), Some("no space left on the host"));
        assert_eq!(likely_reason("tar: who knows"), None);
    }
}
