use super::*;
use crate::remote::command_line::MAX_LENGTH;
use crate::remote::login::BEGIN;
use crate::remote::quoting::quote;
use crate::remote::sudo::Nonces;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Permissions};
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant, SystemTime};
use tempfile::TempDir;

/// A shell, and the programs that it finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Userland {
    Dash,
    Bash,
    BusyBoxShell,
    /// The shell and everything else.
    BusyBox,
}

use Userland::{Bash, BusyBox, BusyBoxShell, Dash};

const USERLANDS: [Userland; 4] = [Dash, Bash, BusyBoxShell, BusyBox];

impl Userland {
    fn command(self, host: &Host) -> Command {
        let shell: &[&str] = match self {
            Dash => &["dash"],
            Bash => &["bash"],
            BusyBoxShell | BusyBox => &["busybox", "sh"],
        };
        let mut command = Command::new(shell[0]);
        command.args(&shell[1..]);
        if self == BusyBox {
            command.env("PATH", host.busybox_programs());
        }
        command
    }
}

/// A run directory, and a host's file system.
struct Host {
    base: TempDir,
    run: PathBuf,
    root: PathBuf,
}

/// These tests make tens of thousands of files.
const MEMORY: &str = "/dev/shm";

impl Host {
    fn new() -> Self {
        let memory = Path::new(MEMORY);
        let directory = match memory.is_dir() {
            true => memory.to_owned(),
            false => std::env::temp_dir(),
        };
        let base = TempDir::with_prefix_in("orgalorg-", directory).expect("tempdir");
        let run = base.path().join("20260131120000.123456");
        let root = base.path().join("root");
        for directory in [&run, &root] {
            fs::create_dir(directory).expect("ours");
        }
        Self { base, run, root }
    }

    /// A directory with all of BusyBox's programs, and nothing else.
    fn busybox_programs(&self) -> PathBuf {
        let directory = self.base.path().join("busybox");
        if directory.exists() {
            return directory;
        }
        fs::create_dir(&directory).expect("ours");
        let mut install = Command::new("busybox");
        install.args(["--install", "-s"]).arg(&directory);
        assert!(install.status().expect("busybox").success());
        let (shell, itself) = (directory.join("sh"), directory.join("busybox"));
        if !itself.exists() {
            symlink(fs::read_link(shell).expect("a link"), itself).expect("ours");
        }
        directory
    }

    /// Writes a file of the upload.
    fn upload(&self, name: &str, content: &str) -> PathBuf {
        put(&self.run.join(name), content)
    }

    /// Writes a file of the host.
    fn has(&self, name: &str, content: &str) -> PathBuf {
        put(&self.root.join(name), content)
    }

    fn script(&self, userland: Userland) -> Command {
        let mut command = userland.command(self);
        command
            .args(["-c", &SCRIPT, "orgalorg-place"])
            .args([&self.run, &self.root])
            .stdin(Stdio::null());
        command
    }

    /// The same, with a program of our own in front of all others.
    fn script_with(&self, userland: Userland, name: &str, program: &str) -> (Command, TempDir) {
        let programs = TempDir::new().expect("tempdir");
        set_mode(&put(&programs.path().join(name), program), 0o755);
        let path = match userland {
            BusyBox => self.busybox_programs().into_os_string(),
            _ => std::env::var_os("PATH").expect("there is a PATH"),
        };
        let mut own_first = programs.path().as_os_str().to_owned();
        own_first.push(":");
        own_first.push(path);
        let mut command = self.script(userland);
        command.env("PATH", own_first);
        (command, programs)
    }

    /// Another target of the run, which is the same machine.
    fn twin(&self) -> Self {
        let twin = Self::new();
        Self {
            root: self.root.clone(),
            ..twin
        }
    }

    #[track_caller]
    fn place(&self, userland: Userland) {
        let output = self.script(userland).output().expect("a shell");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() && said.is_empty(),
            "{userland:?} {said}"
        );
    }

    /// What it says when it cannot do it, having changed nothing.
    #[track_caller]
    fn refuse(&self, command: &mut Command) -> String {
        let before = tree(&self.root);
        let Output { status, stderr, .. } = command.output().expect("a shell");
        let said = String::from_utf8_lossy(&stderr).into_owned();
        assert_eq!(status.code(), Some(1), "{said}");
        assert_eq!(tree(&self.root), before, "{said}");
        assert!(said.ends_with("nothing has been changed\n"), "{said}");
        said
    }

    fn read(&self, name: &str) -> String {
        let content = fs::read_to_string(self.root.join(name));
        content.unwrap_or_else(|error| panic!("{name}: {error}"))
    }
}

fn put(path: &Path, content: &str) -> PathBuf {
    fs::create_dir_all(path.parent().expect("a parent")).expect("ours");
    fs::write(path, content).expect("ours");
    path.to_owned()
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("ours");
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).expect("it is there").mode() & 0o7777
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// All that can be seen of a file.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    mode: u32,
    owner: (u32, u32),
    device: u64,
    modified: SystemTime,
    content: Vec<u8>,
}

/// Everything below a directory. (Times of directories change when something is
/// put into them and taken out again.)
fn tree(directory: &Path) -> BTreeMap<PathBuf, Seen> {
    let mut all = BTreeMap::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(next) = directories.pop() {
        for entry in fs::read_dir(&next).expect("readable") {
            let path = entry.expect("readable").path();
            let meta = fs::symlink_metadata(&path).expect("it is there");
            let content = if meta.is_symlink() {
                fs::read_link(&path)
                    .expect("a link")
                    .into_os_string()
                    .into_vec()
            } else if meta.is_file() {
                fs::read(&path).expect("readable")
            } else {
                Vec::new()
            };
            let modified = match meta.is_dir() {
                true => SystemTime::UNIX_EPOCH,
                false => meta.modified().expect("it has a time"),
            };
            let seen = Seen {
                mode: meta.mode(),
                owner: (meta.uid(), meta.gid()),
                device: meta.rdev(),
                modified,
                content,
            };
            if meta.is_dir() {
                directories.push(path.clone());
            }
            let name = path.strip_prefix(directory).expect("below");
            all.insert(name.to_owned(), seen);
        }
    }
    all
}

/// The same without times, of which BusyBox keeps full seconds, and of special
/// files none.
fn untimed(directory: &Path) -> BTreeMap<PathBuf, Seen> {
    let mut all = tree(directory);
    for seen in all.values_mut() {
        seen.modified = SystemTime::UNIX_EPOCH;
    }
    all
}

fn set_time(path: &Path, nanoseconds: u32) -> SystemTime {
    let time = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, nanoseconds);
    let file = File::open(path).expect("ours");
    file.set_modified(time).expect("ours");
    time
}

#[test]
fn files_come_with_their_attributes() {
    for userland in USERLANDS {
        let host = Host::new();
        let nanoseconds = if userland == BusyBox { 0 } else { 123_456_789 };
        for name in ["etc/plain", "new/below/plain"] {
            set_mode(&host.upload(name, name), 0o640);
            symlink("nowhere/at all", host.run.join(name).with_extension("link")).expect("ours");
            let fifo = host.run.join(name).with_extension("fifo");
            rustix::fs::mknodat(
                rustix::fs::CWD,
                &fifo,
                rustix::fs::FileType::Fifo,
                0o600.into(),
                0,
            )
            .expect("ours");
            let tool = host.upload(&format!("{name}.tool"), "#!/bin/sh");
            if is_root() {
                std::os::unix::fs::chown(&tool, Some(1234), Some(4321)).expect("root");
                let device = host.run.join(name).with_extension("null");
                rustix::fs::mknodat(
                    rustix::fs::CWD,
                    &device,
                    rustix::fs::FileType::CharacterDevice,
                    0o666.into(),
                    rustix::fs::makedev(1, 3),
                )
                .expect("root");
            }
            set_mode(&tool, 0o6755);
            set_time(&tool, nanoseconds);
            set_time(&host.run.join(name), nanoseconds);
        }
        host.upload("new/empty/x", "");
        fs::remove_file(host.run.join("new/empty/x")).expect("ours");
        set_mode(&host.run.join("new/empty"), 0o1777);
        set_time(&host.run.join("new/empty"), nanoseconds);
        fs::create_dir(host.root.join("etc")).expect("ours");
        host.place(userland);
        assert_eq!(untimed(&host.root), untimed(&host.run), "{userland:?}");
        for name in ["etc/plain", "etc/plain.tool", "new/empty"] {
            let time = |top: &Path| fs::metadata(top.join(name)).unwrap().modified().unwrap();
            assert_eq!(time(&host.root), time(&host.run), "{userland:?} {name}");
        }
    }
}

#[test]
fn directories_are_merged_and_those_that_are_there_left_as_they_are() {
    for userland in USERLANDS {
        let host = Host::new();
        host.upload("etc/app/one.conf", "new");
        host.upload("etc/app/.hidden", "new");
        host.upload("etc/app/..odd", "new");
        host.upload("etc/app/conf.d/two.conf", "new");
        host.upload("top", "new");
        set_mode(&host.run.join("etc/app"), 0o755);
        host.has("etc/app/one.conf", "old");
        host.has("etc/app/local.conf", "old");
        host.has("etc/app/.orgalorg-other/x", "old");
        set_mode(&host.root.join("etc/app"), 0o711);
        for _ in 0..2 {
            host.place(userland);
        }
        assert_eq!(mode(&host.root.join("etc/app")), 0o711, "{userland:?}");
        let names: Vec<PathBuf> = tree(&host.root).into_keys().collect();
        let expected = [
            "etc",
            "etc/app",
            "etc/app/..odd",
            "etc/app/.hidden",
            "etc/app/.orgalorg-other",
            "etc/app/.orgalorg-other/x",
            "etc/app/conf.d",
            "etc/app/conf.d/two.conf",
            "etc/app/local.conf",
            "etc/app/one.conf",
            "top",
        ];
        assert_eq!(names, expected.map(PathBuf::from), "{userland:?}");
        assert_eq!(host.read("etc/app/one.conf"), "new");
        assert_eq!(host.read("etc/app/local.conf"), "old");
        // It stays for the tool.
        assert_eq!(fs::read_to_string(host.run.join("top")).unwrap(), "new");
    }
}

#[test]
fn a_file_is_replaced_by_another_one_and_not_written_to() {
    for userland in USERLANDS {
        let host = Host::new();
        let (one, other) = (host.has("bin/tool", "old"), host.root.join("other"));
        fs::hard_link(&one, &other).expect("ours");
        let mut open = File::open(&one).expect("ours");
        host.upload("bin/tool", "new");
        host.place(userland);
        let mut text = String::new();
        open.read_to_string(&mut text).expect("readable");
        assert_eq!((text.as_str(), host.read("other").as_str()), ("old", "old"));
        assert_eq!(host.read("bin/tool"), "new");
    }
}

#[test]
fn what_is_in_the_way_is_reported_all_at_once_and_left_alone() {
    for userland in USERLANDS {
        let host = Host::new();
        for name in [
            "a/good",
            "a/dir",
            "a/link",
            "a/loop",
            "b/file/x",
            "b/dangling/x",
            "a/dirlink",
        ] {
            host.upload(name, "new");
        }
        symlink("anywhere", host.run.join("a/symlink")).expect("ours");
        host.has("a/good", "old");
        host.has("a/dir/precious", "old");
        host.has("a/symlink/precious", "old");
        host.has("b/file", "old");
        let link = |to: &str, name: &str| symlink(to, host.root.join(name)).expect("ours");
        link("good", "a/link");
        link("loop", "a/loop");
        link("dir", "a/dirlink");
        link("/nowhere/at/all", "b/dangling");
        let said = host.refuse(&mut host.script(userland));
        let root = host.root.display();
        for line in [
            format!("can't put '{root}/a/dir' in place: a directory is in the way"),
            format!("can't put '{root}/a/symlink' in place: a directory is in the way"),
            format!("can't put '{root}/a/link' in place: a symbolic link is in the way"),
            format!("can't put '{root}/a/loop' in place: a symbolic link is in the way"),
            format!("can't put '{root}/a/dirlink' in place: a symbolic link is in the way"),
            format!(
                "can't put '{root}/b/file' in place: something that is no directory is in the way"
            ),
            format!(
                "can't put '{root}/b/dangling' in place: something that is no directory is in the way"
            ),
        ] {
            assert!(said.lines().any(|said| said == line), "{line}\n{said}");
        }
        assert_eq!(said.lines().count(), 8, "{said}");
        assert!(host.run.exists(), "it is still needed to find out why");
    }
}

#[test]
fn of_very_many_things_in_the_way_the_first_are_named() {
    let host = Host::new();
    for number in 0..30 {
        host.upload(&format!("{number}"), "");
        fs::create_dir(host.root.join(format!("{number}"))).expect("ours");
    }
    let said = host.refuse(&mut host.script(Dash));
    assert!(said.contains("\n... and 10 more like these\n"), "{said}");
    assert_eq!(said.lines().count(), 22, "{said}");
}

#[test]
fn a_link_to_a_directory_is_gone_into_and_stays() {
    for userland in USERLANDS {
        let host = Host::new();
        host.upload("bin/one", "1");
        host.upload("usr/bin/two", "2");
        host.upload("bin/new/a", "a");
        host.upload("usr/bin/new/b", "b");
        host.has("usr/bin/old", "0");
        symlink("usr/bin", host.root.join("bin")).expect("ours");
        host.place(userland);
        assert!(host.root.join("bin").is_symlink());
        let names = ["one", "two", "old", "new/a", "new/b"];
        let content = names.map(|name| host.read(&format!("usr/bin/{name}")));
        assert_eq!(content.concat(), "120ab", "{userland:?}");
        assert_eq!(fs::read_dir(host.root.join("usr/bin")).unwrap().count(), 4);
    }
}

#[test]
fn a_link_replaces_a_link() {
    for userland in USERLANDS {
        let host = Host::new();
        host.has("releases/4/x", "4");
        host.upload("releases/5/x", "5");
        for (top, to) in [(&host.root, "releases/4"), (&host.run, "releases/5")] {
            symlink(to, top.join("current")).expect("ours");
        }
        host.place(userland);
        assert_eq!(host.read("current/x"), "5", "{userland:?}");
        assert_eq!(host.read("releases/4/x"), "4");
    }
}

#[test]
fn names_of_one_file_stay_names_of_one_file() {
    for userland in USERLANDS {
        let host = Host::new();
        let first = host.upload("a/first", "content");
        let names = ["a/second", "b/third", "new/deep/fourth", "z/fifth"];
        host.upload("b/alone", "alone");
        host.has("a/x", "");
        host.has("z/x", "");
        host.has("b/third", "old");
        host.upload("new/deep/other", "other");
        for name in names {
            put(&host.run.join(name), "");
            fs::remove_file(host.run.join(name)).expect("ours");
            fs::hard_link(&first, host.run.join(name)).expect("ours");
        }
        let time = set_time(&host.run.join("new/deep"), 0);
        for is_first in [true, false] {
            host.place(userland);
            let number = |name: &str| fs::metadata(host.root.join(name)).unwrap().ino();
            for name in names {
                assert_eq!(number(name), number("a/first"), "{userland:?} {name}");
                assert_eq!(host.read(name), "content");
            }
            assert_eq!(host.read("b/alone"), "alone");
            let links = fs::metadata(host.root.join("a/first")).unwrap().nlink();
            assert_eq!(links, 5, "{userland:?}");
            let placed = fs::metadata(host.root.join("new/deep")).unwrap();
            // Later it is a directory that is there already.
            let is_kept = placed.modified().unwrap() == time;
            assert_eq!(is_kept, is_first, "{userland:?}");
        }
    }
}

#[test]
fn a_run_directory_may_be_on_another_file_system() {
    let here = TempDir::new().expect("tempdir");
    let device = |path: &Path| fs::metadata(path).map(|meta| meta.dev()).ok();
    if device(here.path()) == device(&Host::new().run) {
        // There is only one file system to write to.
        return;
    }
    for userland in USERLANDS {
        let here = TempDir::new().expect("tempdir");
        let mut host = Host::new();
        host.root = here.path().to_owned();
        host.upload("etc/x", "new");
        let one = host.upload("new/y", "new");
        fs::hard_link(one, host.run.join("etc/y")).expect("ours");
        host.has("etc/x", "old");
        host.place(userland);
        assert_eq!(host.read("etc/x"), "new", "{userland:?}");
        let number = |name: &str| fs::metadata(host.root.join(name)).unwrap().ino();
        assert_eq!(number("new/y"), number("etc/y"), "{userland:?}");
    }
}

/// A command as a user with few rights, whoever runs the tests.
fn as_nobody(command: &mut Command, host: &Host) {
    if is_root() {
        let own = |path: &Path| {
            std::os::unix::fs::lchown(path, Some(65534), Some(65534)).expect("root");
        };
        for top in [&host.run, &host.root] {
            own(top);
            tree(top).keys().for_each(|name| own(&top.join(name)));
        }
        set_mode(host.base.path(), 0o755);
        command.uid(65534).gid(65534);
    }
}

#[test]
fn where_one_directory_cannot_be_written_to_nothing_changes_anywhere() {
    for userland in USERLANDS {
        let host = Host::new();
        host.upload("a/one", "new");
        host.upload("b/two", "new");
        host.upload("c/three", "new");
        host.has("a/one", "old");
        host.has("b/x", "old");
        set_mode(&host.root.join("b"), 0o555);
        let mut command = host.script(userland);
        as_nobody(&mut command, &host);
        let said = host.refuse(&mut command);
        let expected = format!("can't write to '{}/b/'; ", host.root.display());
        assert!(said.contains(&expected), "{said}");
    }
}

#[test]
fn directories_that_are_not_to_be_written_to_arrive() {
    for userland in USERLANDS {
        let host = Host::new();
        host.upload("fixed/below/x", "new");
        for name in ["fixed/below", "fixed"] {
            set_mode(&host.run.join(name), 0o555);
        }
        let mut command = host.script(userland);
        as_nobody(&mut command, &host);
        set_mode(host.base.path(), 0o777);
        let output = command.output().expect("a shell");
        assert!(output.status.success(), "{userland:?} {output:?}");
        assert_eq!(output.stderr, b"", "{userland:?}");
        assert_eq!(host.read("fixed/below/x"), "new");
        for name in ["fixed/below", "fixed"] {
            assert_eq!(mode(&host.root.join(name)), 0o555);
        }
        // So that the test can be cleaned up.
        for name in ["fixed", "fixed/below"] {
            set_mode(&host.root.join(name), 0o755);
            set_mode(&host.run.join(name), 0o755);
        }
    }
}

#[test]
fn a_copy_that_fails_changes_nothing() {
    for userland in USERLANDS {
        let host = Host::new();
        host.upload("a/small", "new");
        host.upload("b/big", &"x".repeat(100_000));
        host.has("a/small", "old");
        host.has("b/big", "old");
        let mut command = userland.command(&host);
        command
            .args(["-c", &format!("ulimit -f 8; {}", *SCRIPT), "orgalorg-place"])
            .args([&host.run, &host.root]);
        let said = host.refuse(&mut command);
        let expected = format!("can't copy what belongs to '{}/b/'; ", host.root.display());
        assert!(said.contains(&expected), "{userland:?} {said}");
    }
}

#[test]
fn terminated_it_leaves_nothing_behind() {
    for userland in USERLANDS {
        let host = Host::new();
        host.upload("a/x", "new");
        host.upload("b/y", "new");
        host.has("a/x", "old");
        host.has("b/y", "old");
        let before = tree(&host.root);
        // A copy that never ends, of the second directory.
        let slow = "#!/bin/sh\ncase $* in *b/y*) : >\"${0%/*}/ready\"; exec sleep 1000 ;; esac\n\
                    exec /bin/cp \"$@\"\n";
        let (mut command, programs) = host.script_with(userland, "cp", slow);
        let marker = programs.path().join("ready");
        command.process_group(0);
        let child = command.stderr(Stdio::piped()).spawn().expect("a shell");
        let deadline = Instant::now() + Duration::from_secs(60);
        while !marker.exists() {
            assert!(Instant::now() < deadline, "{userland:?}: cp is not called");
            std::thread::sleep(Duration::from_millis(2));
        }
        // As the guard does it: all of its processes.
        let group = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process_group(group, rustix::process::Signal::TERM).expect("ours");
        let output = child.wait_with_output().expect("a child");
        assert!(!output.status.success(), "{userland:?}");
        assert_eq!(tree(&host.root), before, "{userland:?}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            said.ends_with("nothing has been changed\n"),
            "{userland:?} {said}"
        );
    }
}

/// A tree with directories that are new, and hard links across all of them.
fn upload_tree(host: &Host) {
    for directory in ["old", "new", "new/below", "other/a/b", "old/inside"] {
        let first = host.upload(&format!("{directory}/first"), "content");
        for number in 0..20 {
            host.upload(&format!("{directory}/{number}"), "new");
            let link = host.run.join(format!("{directory}/h{number}"));
            fs::hard_link(&first, link).expect("ours");
        }
        let across = host.run.join(format!("other/{}", directory.len()));
        fs::create_dir_all(across.parent().expect("a parent")).expect("ours");
        let _ = fs::hard_link(host.run.join("old/first"), across);
    }
    symlink("new", host.run.join("link")).expect("ours");
}

/// Places from several run directories at once, and says what there is then.
fn place_at_once(hosts: &[Host], userland: Userland) -> BTreeMap<PathBuf, Seen> {
    hosts.iter().for_each(upload_tree);
    let start = |host: &Host| host.script(userland).stderr(Stdio::piped()).spawn();
    let placings: Vec<_> = hosts.iter().map(start).collect();
    for placing in placings {
        let output = placing.expect("a shell").wait_with_output();
        let output = output.expect("a child");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{userland:?} {said}");
        assert_eq!(said, "", "{userland:?}");
    }
    untimed(&hosts[0].root)
}

#[test]
fn two_at_once_on_one_machine_get_along() {
    for userland in USERLANDS {
        for _ in 0..8 {
            let host = Host::new();
            host.has("old/5", "old");
            let hosts = [host.twin(), host.twin(), host];
            let placed = place_at_once(&hosts, userland);
            assert_eq!(placed, untimed(&hosts[0].run), "{userland:?}");
        }
    }
}

#[test]
fn run_directories_of_one_user_are_placed_one_after_the_other() {
    // (There are BusyBoxes without a flock, and so without turns.)
    for userland in [Dash, Bash, BusyBoxShell] {
        let host = Host::new();
        host.has("old/5", "old");
        let mut hosts = [host.twin(), host.twin(), host];
        for number in 0..2 {
            hosts[number].run = hosts[2].base.path().join(format!("run-{number}"));
        }
        place_at_once(&hosts, userland);
        let links = |top: &Path, name: &str| fs::metadata(top.join(name)).unwrap().nlink();
        for name in ["old/first", "new/first", "new/below/h3", "old/inside/first"] {
            let (placed, expected) = (links(&hosts[0].root, name), links(&hosts[0].run, name));
            assert_eq!(placed, expected, "{userland:?} {name}");
        }
    }
}

#[test]
fn a_directory_that_another_makes_meanwhile_is_gone_into() {
    // When the first one has all copies, another one is faster with all of it.
    for userland in USERLANDS {
        let host = Host::new();
        let (first, second) = (host.twin(), host.twin());
        host.has("old/5", "old");
        upload_tree(&first);
        upload_tree(&second);
        put(&first.run.join("new/below/own"), "new");
        let slow = format!(
            "#!/bin/sh\nif mkdir \"${{0%/*}}/once\" 2>/dev/null; then {}; fi\nexec /bin/mv \"$@\"\n",
            "\"$TWIN_SHELL\" ${TWIN_SHELL_ARG} -c \"$TWIN\" orgalorg-place \"$TWIN_RUN\" \"$TWIN_ROOT\""
        );
        let (mut command, _programs) = first.script_with(userland, "mv", &slow);
        let (shell, argument) = match userland {
            Dash => ("dash", ""),
            Bash => ("bash", ""),
            BusyBoxShell | BusyBox => ("busybox", "sh"),
        };
        command
            .env("TWIN_SHELL", shell)
            .env("TWIN_SHELL_ARG", argument);
        command.env("TWIN", &*SCRIPT);
        command
            .env("TWIN_RUN", &second.run)
            .env("TWIN_ROOT", &second.root);
        let output = command.output().expect("a shell");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() && said.is_empty(),
            "{userland:?} {said}"
        );
        assert_eq!(untimed(&host.root), untimed(&first.run), "{userland:?}");
    }
}

#[test]
fn a_staging_directory_that_is_there_is_not_ours() {
    for userland in USERLANDS {
        let host = Host::new();
        host.upload("etc/a/x", "new");
        host.upload("etc/b/y", "new");
        host.has("etc/a/x", "old");
        host.has("etc/b/.orgalorg-known/precious", "old");
        let (mut command, _programs) =
            host.script_with(userland, "mktemp", "#!/bin/sh\necho known\n");
        let said = host.refuse(&mut command);
        let expected = format!("can't write to '{}/etc/b/'; ", host.root.display());
        assert!(said.contains(&expected), "{userland:?} {said}");
    }
}

#[test]
fn thousands_of_files_are_no_matter_of_minutes() {
    let host = Host::new();
    for number in 0..3_000 {
        let name = format!("srv/{}/{number}", number % 50);
        host.upload(&name, "new");
        if number < 1_000 {
            host.has(&name, "old");
        }
    }
    let started = Instant::now();
    host.place(Dash);
    assert!(started.elapsed() < Duration::from_secs(30));
    let placed = tree(&host.root);
    let files = placed.values().filter(|seen| seen.content == b"new");
    assert_eq!((files.count(), placed.len()), (3_000, 3_051));
}

#[test]
fn the_longest_names_arrive() {
    for userland in USERLANDS {
        let host = Host::new();
        let longest = "x".repeat(255);
        let names: Vec<String> = (0..300).map(|number| format!("{number:255}")).collect();
        for name in names.iter().chain([&longest]) {
            host.upload(&format!("srv/{name}"), "new");
        }
        host.upload(&format!("{longest}/{longest}/{longest}"), "new");
        host.has(&format!("srv/{longest}"), "old");
        host.has(&format!("{longest}/{longest}/{longest}"), "old");
        host.place(userland);
        assert_eq!(untimed(&host.root), untimed(&host.run), "{userland:?}");
    }
}

#[test]
fn every_byte_may_stand_in_a_name() {
    for userland in USERLANDS {
        let host = Host::new();
        fs::create_dir(host.run.join("srv")).expect("ours");
        let bytes = (1..=255u8).filter(|&byte| byte != b'/');
        for byte in bytes {
            for name in [&[byte, b'a'][..], &[b'.', byte, b'b'], &[b'.', b'.', byte]] {
                let name = host.run.join("srv").join(OsStr::from_bytes(name));
                fs::write(name, "new").expect("ours");
            }
        }
        host.has("srv/old", "old");
        host.place(userland);
        fs::remove_file(host.root.join("srv/old")).expect("ours");
        let names = |top: &Path| tree(top).into_keys().collect::<Vec<_>>();
        assert_eq!(names(&host.root), names(&host.run), "{userland:?}");
    }
}

#[test]
fn the_command_fits_into_a_packet_also_under_sudo() {
    let nonces = Nonces::new([1; 16], true);
    let command = place(&Login {
        is_root: false,
        sudo: Some(&nonces),
        run_directory: Some("20260131120000.123456-10"),
    });
    assert!(command.len() < MAX_LENGTH, "{}", command.len());
}

#[test]
fn the_commands_do_what_they_say() {
    let host = Host::new();
    host.upload("etc/x y", "new");
    let run = host.run.as_os_str().as_bytes();
    let root = host.root.as_os_str().as_bytes();
    let arguments = format!("orgalorg-place {} {}", quote(run), quote(root));
    let command = call_announced(&SCRIPT, &arguments, &Login::PLAIN);
    let sh = |command: &str| {
        let output = Command::new("sh").args(["-c", command]).output().unwrap();
        assert_eq!([&output.stdout, &output.stderr], [BEGIN.as_bytes(); 2]);
        output.status
    };
    assert!(sh(&command).success());
    assert_eq!(host.read("etc/x y"), "new");
    assert!(host.run.join("etc/x y").exists());
    let is_installed = Path::new(DEFAULT_TOOL).exists();
    assert_eq!(
        sh(&find_default_tool(&Login::PLAIN)).success(),
        is_installed
    );
    let elsewhere = |path: &str| find_default_tool(&Login::PLAIN).replace(DEFAULT_TOOL, path);
    assert!(sh(&elsewhere("/bin/sh")).success());
    assert_eq!(sh(&elsewhere("/etc/passwd")).code(), Some(1));
    assert_eq!(sh(&elsewhere("/bin")).code(), Some(1));
}

/// A name as they are found on hosts where nobody looks.
fn odd_name() -> impl Strategy<Value = OsString> {
    let byte = prop_oneof![
        Just(b'-'),
        Just(b'.'),
        Just(b' '),
        Just(b'\n'),
        Just(b'*'),
        Just(b'\\'),
        Just(b'\''),
        Just(b'a'),
        Just(0x81),
        Just(0xff),
        1u8..=255,
    ]
    .prop_filter("no slash", |byte| *byte != b'/');
    prop::collection::vec(byte, 1..5)
        .prop_filter("a name", |name| !matches!(&name[..], b"." | b".."))
        .prop_map(OsString::from_vec)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn any_tree_arrives_on_any_other_that_does_not_clash(
        new in prop::collection::vec(prop::collection::vec(odd_name(), 1..4), 1..12),
        kept in prop::collection::vec(any::<bool>(), 12),
    ) {
        for userland in USERLANDS {
            let host = Host::new();
            for (path, has_old) in new.iter().zip(&kept) {
                let path: PathBuf = path.iter().collect();
                // One file's name may be the directory of another: the first wins.
                let file = host.run.join(&path);
                if fs::create_dir_all(file.parent().unwrap()).is_err() || fs::write(&file, "new").is_err() {
                    continue;
                }
                if *has_old {
                    let old = host.root.join(&path);
                    fs::create_dir_all(old.parent().unwrap()).unwrap();
                    fs::write(&old, "old").unwrap();
                }
            }
            host.place(userland);
            prop_assert_eq!(untimed(&host.root), untimed(&host.run));
        }
    }
}
