//! Recording keys: whole lines at the end of a file, and nothing else in it ever changed.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustix::fs::{FlockOperation, flock};
use rustix::io::retry_on_intr;

use crate::random;

use super::key::is_whole;
use super::line::hash_name;
use super::{KnownHosts, Verdict, key_type, record_name};

/// A server's key to be recorded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NewKey<'a> {
    /// The name that was asked for, or the HostKeyAlias.
    pub(crate) host: &'a str,
    /// The port; 22 with a HostKeyAlias.
    pub(crate) port: u16,
    /// The wire blob (RFC 4253, section 6.6).
    pub(crate) key: &'a [u8],
}

/// Appends keys to a known_hosts file, with hashed names if `hash` (HashKnownHosts in
/// ssh_config(5)), under a lock of the file and in one write. Creates the file, readable by its
/// owner only, and its directory if that is called `.ssh`.
///
/// Returns what the file said of each key under the lock, before that key was added. Only what
/// was `Unknown` is written. `Known` means that somebody else recorded the same key meanwhile;
/// any other verdict, that somebody was shown a different one, and the caller has to refuse the
/// server after all.
pub(crate) fn append(file: &Path, keys: &[NewKey<'_>], hash: bool) -> io::Result<Vec<Verdict>> {
    keys.iter().try_for_each(check)?;
    create_ssh_dir(file)?;
    let mut opened = open_locked(file)?;

    let mut before = Vec::new();
    // /dev/null is a common choice; there is nothing to be read from devices and pipes.
    if opened.metadata()?.is_file() {
        opened.read_to_end(&mut before)?;
    }
    let mut known = KnownHosts::default();
    // The loading of the file has reported its bad lines.
    let _ = known.add_file(file, &before);
    let mut number = before.iter().filter(|&&b| b == b'\n').count() + 1;
    let mut text = String::new();
    if before.last().is_some_and(|&b| b != b'\n') {
        text.push('\n');
        number += 1;
    }

    let mut verdicts = Vec::with_capacity(keys.len());
    let mut anything = false;
    for new in keys {
        let verdict = known.verdict(new.host, new.port, new.key);
        if verdict == Verdict::Unknown {
            let line = line_for(new, hash)?;
            // Two targets may be the same server.
            known
                .add_line(number, line.as_bytes())
                .map_err(io::Error::other)?;
            text.push_str(&line);
            text.push('\n');
            number += 1;
            anything = true;
        }
        verdicts.push(verdict);
    }
    if anything {
        opened.write_all(text.as_bytes())?;
    }
    Ok(verdicts)
}

/// Refuses what would not be one good line, or would speak of other hosts too.
fn check(new: &NewKey<'_>) -> io::Result<()> {
    let special = |c: char| c.is_whitespace() || c.is_control() || matches!(c, ',' | '*' | '?');
    if new.host.is_empty()
        || new.host.contains(special)
        || new.host.starts_with(['!', '|', '#', '@'])
    {
        let message = "host name cannot be written to a known_hosts file";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    if !is_whole(new.key) {
        let message = "host key is not a public key";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    Ok(())
}

fn line_for(new: &NewKey<'_>, hash: bool) -> io::Result<String> {
    let mut name = record_name(new.host, new.port);
    if hash {
        name = hash_name(name.as_bytes(), random::bytes()?);
    }
    let kind = key_type(new.key).unwrap_or_default();
    Ok(format!("{name} {kind} {}", STANDARD.encode(new.key)))
}

/// Creates a missing `~/.ssh`. Any other missing directory is more likely a misspelt one.
fn create_ssh_dir(file: &Path) -> io::Result<()> {
    match file.parent() {
        Some(dir) if dir.ends_with(".ssh") => match DirBuilder::new().mode(0o700).create(dir) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            result => result,
        },
        _ => Ok(()),
    }
}

/// Opens the file for appending and locks it, if it is one. The lock ends with the file.
fn open_locked(path: &Path) -> io::Result<File> {
    loop {
        let mut options = OpenOptions::new();
        options.read(true).append(true).create(true).mode(0o600);
        let file = options.open(path)?;
        let opened = file.metadata()?;
        // A lock of /dev/null would be shared with everybody on the machine.
        if !opened.is_file() {
            return Ok(file);
        }
        retry_on_intr(|| flock(&file, FlockOperation::LockExclusive))?;
        // `ssh-keygen -R` puts a new file in place of the old one. What is appended to the old
        // one then would be lost.
        match fs::metadata(path) {
            Ok(now) if (now.dev(), now.ino()) == (opened.dev(), opened.ino()) => return Ok(file),
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Place;
    use super::super::tests::blob;
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;
    use std::process::Command;
    use std::thread;

    fn new<'a>(host: &'a str, port: u16, key: &'a [u8]) -> NewKey<'a> {
        NewKey { host, port, key }
    }

    fn load(file: &Path) -> KnownHosts {
        let (known, problems) = KnownHosts::load(&[file.to_path_buf()], &[]);
        assert!(problems.is_empty(), "{problems:?}");
        known
    }

    fn is_known(known: &KnownHosts, host: &str, port: u16, key: &[u8]) -> bool {
        matches!(known.verdict(host, port, key), Verdict::Known { .. })
    }

    fn scratch() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("known_hosts");
        (dir, file)
    }

    #[test]
    fn what_was_recorded_is_known_plain_and_hashed() {
        let key = blob("ssh-ed25519", 1);
        for hash in [false, true] {
            let (_dir, file) = scratch();
            let keys = [new("A.example", 22, &key), new("::1", 2222, &key)];
            append(&file, &keys, hash).unwrap();
            let known = load(&file);
            assert!(is_known(&known, "a.EXAMPLE", 22, &key));
            assert!(is_known(&known, "::1", 2222, &key));
            assert_eq!(known.verdict("::1", 22, &key), Verdict::Unknown);
            let text = fs::read_to_string(&file).unwrap();
            assert_eq!(text.contains("a.example"), !hash);
            assert_eq!(text.contains("[::1]:2222"), !hash);
            assert_eq!(text.starts_with("|1|"), hash);
        }
    }

    #[test]
    fn a_missing_ssh_directory_and_file_are_made_private() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(".ssh/known_hosts");
        append(&file, &[new("h", 22, &blob("ssh-ed25519", 1))], false).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&file), 0o600);
        assert_eq!(mode(file.parent().unwrap()), 0o700);
    }

    #[test]
    fn other_missing_directories_are_not_made() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("shh/known_hosts");
        let error = append(&file, &[new("h", 22, &blob("ssh-ed25519", 1))], false).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_last_line_without_a_line_end_gets_one() {
        let (_dir, file) = scratch();
        fs::write(&file, "# mine").unwrap();
        let key = blob("ssh-ed25519", 1);
        append(&file, &[new("h", 22, &key)], false).unwrap();
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.starts_with("# mine\nh ssh-ed25519 "));
        assert_eq!(
            load(&file).verdict("h", 22, &key),
            Verdict::Known {
                at: Place { file, line: 2 }
            }
        );
    }

    #[test]
    fn what_is_known_already_leaves_the_file_alone() {
        let (_dir, file) = scratch();
        let key = blob("ssh-ed25519", 1);
        append(&file, &[new("h", 22, &key), new("H", 22, &key)], true).unwrap();
        let before = fs::read(&file).unwrap();
        assert_eq!(before.iter().filter(|&&b| b == b'\n').count(), 1);
        let verdicts = append(&file, &[new("h", 22, &key)], true).unwrap();
        assert!(matches!(verdicts[..], [Verdict::Known { .. }]));
        assert_eq!(fs::read(&file).unwrap(), before);
    }

    #[test]
    fn a_key_that_contradicts_the_file_is_told_and_not_written() {
        let (_dir, file) = scratch();
        let first = blob("ssh-ed25519", 1);
        append(&file, &[new("h", 22, &first)], false).unwrap();
        let before = fs::read(&file).unwrap();
        let (second, third) = (blob("ssh-ed25519", 2), blob("ssh-rsa", 3));
        let keys = [new("h", 22, &second), new("h", 22, &third)];
        let verdicts = append(&file, &keys, false).unwrap();
        assert!(matches!(
            verdicts[..],
            [Verdict::Changed { .. }, Verdict::OtherType { .. }]
        ));
        assert_eq!(fs::read(&file).unwrap(), before);
    }

    #[test]
    fn names_that_would_mean_something_else_are_refused() {
        let (_dir, file) = scratch();
        let key = blob("ssh-ed25519", 1);
        for host in [
            "", "a b", "a\nb", "a,b", "*", "a?", "!a", "|1|", "#a", "@revoked",
        ] {
            let error = append(&file, &[new(host, 22, &key)], false).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{host:?}");
        }
        assert!(append(&file, &[new("h", 22, b"junk")], false).is_err());
        assert!(!file.exists());
    }

    #[test]
    fn devices_are_neither_read_nor_locked() {
        let key = blob("ssh-ed25519", 1);
        append(Path::new("/dev/null"), &[new("h", 22, &key)], false).unwrap();
    }

    #[test]
    fn many_writers_leave_whole_lines() {
        let (_dir, file) = scratch();
        // Another program that takes the lock and writes its lines in two halves.
        let script = r##"i=0
            while [ $i -lt 20 ]; do
                flock "$1" sh -c 'printf "# half " >>"$1"; sleep 0.002; echo "line" >>"$1"' - "$1"
                i=$((i + 1))
            done"##;
        let mut other = Command::new("sh")
            .args(["-c", script, "sh"])
            .arg(&file)
            .spawn()
            .unwrap();
        let hosts: Vec<_> = (0..8).map(|t| format!("h{t}")).collect();
        let shared = blob("ssh-ed25519", 99);
        thread::scope(|scope| {
            for host in &hosts {
                scope.spawn(|| {
                    for i in 0..25 {
                        let key = blob("ssh-ed25519", i);
                        let port = 1000 + u16::from(i);
                        let keys = [new(host, port, &key), new("shared", port, &shared)];
                        append(&file, &keys, i % 2 == 0).unwrap();
                    }
                });
            }
        });
        assert!(other.wait().unwrap().success());

        let known = load(&file);
        for host in &hosts {
            for i in 0..25 {
                let port = 1000 + u16::from(i);
                assert!(is_known(&known, host, port, &blob("ssh-ed25519", i)));
            }
        }
        let text = fs::read_to_string(&file).unwrap();
        let (comments, keys): (Vec<&str>, Vec<&str>) =
            text.lines().partition(|line| line.starts_with('#'));
        assert!(comments.iter().all(|&line| line == "# half line"));
        // Each thread's own keys, and those that all of them had, once.
        assert_eq!((comments.len(), keys.len()), (20, 8 * 25 + 25));
    }

    #[test]
    fn a_file_that_is_replaced_all_the_time_loses_nothing() {
        let (dir, file) = scratch();
        fs::write(&file, "").unwrap();
        let copy = dir.path().join("copy");
        let key = blob("ssh-ed25519", 1);
        thread::scope(|scope| {
            let replacer = scope.spawn(|| {
                for _ in 0..200 {
                    // What a careful `ssh-keygen -R` would do.
                    let held = open_locked(&file).unwrap();
                    fs::copy(&file, &copy).unwrap();
                    fs::rename(&copy, &file).unwrap();
                    drop(held);
                }
            });
            for i in 0..200 {
                append(&file, &[new("h", 1000 + i, &key)], false).unwrap();
            }
            replacer.join().unwrap();
        });
        let known = load(&file);
        assert!((0..200).all(|i| is_known(&known, "h", 1000 + i, &key)));
    }
}
