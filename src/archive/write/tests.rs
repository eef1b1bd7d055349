//! What the hosts' programs make of an archive.

use super::*;
use crate::archive::names::Naming;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};

const PLAIN: Options = Options {
    naming: Naming::Relative,
    dereference: false,
    keep_uid: true,
    keep_gid: true,
};

/// The programs, and whether they know parts of seconds, and set the times of
/// directories when these are full.
const TARS: [(&[&str], bool); 3] = [
    (&["tar", "--warning=no-timestamp"], true),
    (&["bsdtar"], true),
    (&["busybox", "tar"], false),
];

#[derive(Default)]
struct Heard {
    files: Vec<String>,
    entries: Vec<PathBuf>,
    bytes: u64,
    warnings: Vec<Warning>,
    /// Done when the first file is announced.
    trick: Option<Box<dyn FnOnce()>>,
}

impl Listener for Heard {
    fn file(&mut self, number: u64, path: &Path) {
        self.files.push(format!("{number} {}", path.display()));
        if let Some(trick) = self.trick.take() {
            trick();
        }
    }

    fn entry(&mut self, entry: &Entry) {
        self.entries.push(entry.name.clone());
    }

    fn bytes(&mut self, sent: u64) {
        self.bytes = sent;
    }

    fn warn(&mut self, warning: Warning) {
        self.warnings.push(warning);
    }
}

/// What makes two things the same: kind and mode, owner, time, and content.
type Looks = (u32, (u32, u32), (i64, i64), Vec<u8>);

/// Everything below a directory.
fn looks(root: &Path, knows_times: bool) -> BTreeMap<PathBuf, Looks> {
    let entries = walkdir::WalkDir::new(root).min_depth(1).into_iter();
    entries
        .map(|entry| {
            let entry = entry.expect("readable");
            let metadata = entry.metadata().expect("readable");
            let kind = metadata.file_type();
            let content = if kind.is_file() {
                fs::read(entry.path()).expect("readable")
            } else if kind.is_symlink() {
                let to = fs::read_link(entry.path()).expect("readable");
                to.into_os_string().into_encoded_bytes()
            } else {
                metadata.rdev().to_string().into_bytes()
            };
            // The times of links are not set by all programs.
            let time = if kind.is_symlink() || (kind.is_dir() && !knows_times) {
                (0, 0)
            } else if knows_times {
                (metadata.mtime(), metadata.mtime_nsec())
            } else {
                (metadata.mtime(), 0)
            };
            let name = entry.path().strip_prefix(root).expect("below").to_owned();
            let owner = (metadata.uid(), metadata.gid());
            (name, (metadata.mode(), owner, time, content))
        })
        .collect()
}

fn archive(paths: &[PathBuf], options: Options) -> (Vec<u8>, Heard) {
    let mut sources = Sources::check(paths, options).expect("sources");
    let mut heard = Heard::default();
    let mut archive = Vec::new();
    let sent = write(&mut sources, &mut archive, &mut heard).expect("an archive");
    assert_eq!((sent.files, sent.bytes), (sources.files, sources.bytes));
    (archive, heard)
}

fn extract(program: &[&str], archive: &[u8], into: &Path) {
    let mut child = Command::new(program[0])
        .args(&program[1..])
        .args(["-x", "-p", "-f", "-"])
        .current_dir(into)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it is installed");
    let mut stdin = child.stdin.take().expect("piped");
    // What it says, if it does not read all of it, is below.
    let _ = stdin.write_all(archive);
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program:?}: {said}");
    assert_eq!(said, "", "{program:?}");
}

fn set(path: &Path, mode: u32, time: &str) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("ours");
    let touched = Command::new("touch").args(["-d", time]).arg(path).status();
    assert!(touched.expect("touch").success());
}

/// One of everything. (A test that is not root makes no devices.)
fn zoo() -> tempfile::TempDir {
    let zoo = tempfile::tempdir().expect("tempdir");
    let at = |name: &str| zoo.path().join(name);
    fs::create_dir_all(at("z/dir/empty")).expect("writable");
    fs::write(at("z/dir/file"), "content").expect("writable");
    fs::hard_link(at("z/dir/file"), at("z/again")).expect("writable");
    fs::write(at("z/nothing"), "").expect("writable");
    fs::write(at("z/block"), vec![7; 512]).expect("writable");
    fs::write(at("z/big"), vec![1; 300_000]).expect("writable");
    fs::write(at("z/a 'b'\n\"c\" $d"), "odd").expect("writable");
    let not_utf8 = std::os::unix::ffi::OsStrExt::from_bytes(b"z/\xff\xfe");
    fs::write(zoo.path().join::<&OsStr>(not_utf8), "odd").expect("writable");
    fs::write(at("z").join("n".repeat(255)), "long").expect("writable");
    // Exactly what fits, and one more.
    for length in [100, 101] {
        let name = format!("z/{}", "f".repeat(length - 2));
        fs::write(at(&name), "long").expect("writable");
    }
    let mut deep = at("z");
    for _ in 0..5 {
        deep.push("d".repeat(199));
    }
    fs::create_dir_all(&deep).expect("writable");
    fs::write(deep.join("file"), "deep").expect("writable");
    symlink("dir/file", at("z/to file")).expect("writable");
    symlink("dir", at("z/to dir")).expect("writable");
    symlink("t".repeat(300), at("z/dangling")).expect("writable");
    let made = Command::new("mkfifo").arg(at("z/fifo")).status();
    assert!(made.expect("mkfifo").success());
    set(&at("z/dir/file"), 0o4755, "2020-02-29 12:34:56.123456789");
    set(&at("z/big"), 0o000, "1960-01-01 00:00:00");
    set(&at("z/fifo"), 0o604, "2001-01-01 00:00:00");
    set(&at("z/dir/empty"), 0o1777, "2033-03-03 03:03:03.000000001");
    set(&at("z/dir"), 0o2750, "1999-12-31 23:59:59.999999999");
    zoo
}

/// Where files are given away, not everybody may do it.
fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn every_tar_brings_everything_back() {
    let zoo = zoo();
    if is_root() {
        let path = zoo.path().join("z/block");
        std::os::unix::fs::chown(&path, Some(3_000_000), Some(4_000_000)).expect("root");
        let made = Command::new("mknod")
            .arg(zoo.path().join("z/null"))
            .args(["c", "1", "3"])
            .status();
        assert!(made.expect("mknod").success());
    } else {
        set(&zoo.path().join("z/big"), 0o400, "1970-01-02 00:00:00");
    }
    let named = zoo.path().join("z");
    let options = Options {
        naming: Naming::Absolute,
        ..PLAIN
    };
    let (archive, heard) = archive(&[named], options);
    assert_eq!(heard.bytes, 7 + 512 + 300_000 + 3 + 3 + 4 * 4);
    for (program, knows_times) in TARS {
        let out = tempfile::tempdir().expect("tempdir");
        extract(program, &archive, out.path());
        let root = out
            .path()
            .join(zoo.path().strip_prefix("/").expect("absolute"));
        let mut expected = looks(zoo.path(), knows_times);
        if !knows_times {
            // Nor does it know times before 1970.
            let big = expected.get_mut(Path::new("z/big")).expect("it is there");
            big.2 = if is_root() { (0, 0) } else { big.2 };
        }
        for (name, found) in looks(&root, knows_times) {
            let expected = expected.remove(&name).expect("nothing else");
            assert_eq!(found.3, expected.3, "{program:?} {name:?}");
            assert_eq!(
                (found.0, found.1, found.2),
                (expected.0, expected.1, expected.2),
                "{program:?} {name:?}"
            );
        }
        assert!(expected.is_empty(), "{program:?}: {expected:?}");
        let inode = |name: &str| fs::metadata(root.join(name)).expect("there").ino();
        assert_eq!(inode("z/again"), inode("z/dir/file"), "{program:?}");
    }
}

#[test]
fn owners_that_are_not_to_be_kept_are_nobody_in_particular() {
    let zoo = tempfile::tempdir().expect("tempdir");
    let file = zoo.path().join("file");
    fs::write(&file, "x").expect("writable");
    if is_root() {
        std::os::unix::fs::chown(&file, Some(12), Some(34)).expect("root");
    }
    let real = fs::metadata(&file).expect("there");
    for (keep_uid, keep_gid) in [(true, false), (false, true)] {
        let options = Options {
            keep_uid,
            keep_gid,
            ..PLAIN
        };
        let (archive, _) = archive(std::slice::from_ref(&file), options);
        let mut reader = tar::Archive::new(archive.as_slice());
        let entry = reader.entries().expect("entries").next().expect("one");
        let header = entry.expect("readable").header().clone();
        let expected = |keep, id: u32| if keep { u64::from(id) } else { 0 };
        assert_eq!(header.uid().ok(), Some(expected(keep_uid, real.uid())));
        assert_eq!(header.gid().ok(), Some(expected(keep_gid, real.gid())));
    }
}

#[test]
fn a_size_beyond_8_gib_is_written_so_that_all_can_read_it() {
    let mut header = Header::new_gnu();
    let size = 9 << 30;
    header.set_size(size);
    assert_eq!(header.size().ok(), Some(size));
    // Base 256, GNU's way: the first bit says so.
    assert_eq!(header.as_old().size[0] & 0x80, 0x80);
}

#[test]
fn progress_names_files_and_counts_bytes() {
    let zoo = tempfile::tempdir().expect("tempdir");
    fs::create_dir(zoo.path().join("d")).expect("writable");
    fs::write(zoo.path().join("d/one"), vec![0; 10_000]).expect("writable");
    let (_, heard) = archive(&[zoo.path().join("d")], PLAIN);
    let name = zoo.path().join("d/one").display().to_string();
    assert_eq!(heard.files, [format!("1 {name}")]);
    assert_eq!(heard.bytes, 10_000);
}

/// Writes two files, of which the second is changed meanwhile.
fn changed(change: impl FnOnce(&Path) + 'static) -> (Result<Sent, ArchiveError>, Heard) {
    let zoo = tempfile::tempdir().expect("tempdir");
    let (first, second) = (zoo.path().join("first"), zoo.path().join("second"));
    fs::write(&first, "1").expect("writable");
    fs::write(&second, vec![2; 100_000]).expect("writable");
    let mut sources = Sources::check(&[first, second.clone()], PLAIN).expect("sources");
    let mut heard = Heard {
        trick: Some(Box::new(move || change(&second))),
        ..Heard::default()
    };
    (write(&mut sources, &mut Vec::new(), &mut heard), heard)
}

#[test]
fn a_file_that_is_replaced_before_its_turn_is_sent_as_it_is_then() {
    let (result, heard) = changed(|path| {
        fs::rename(path, path.with_extension("old")).expect("writable");
        fs::write(path, "new").expect("writable");
    });
    assert_eq!(result.expect("an archive").bytes, 4);
    assert_eq!(heard.warnings, []);
}

#[test]
fn a_file_that_goes_or_becomes_something_else_is_named() {
    let (result, _) = changed(|path| fs::remove_file(path).expect("writable"));
    let error = result.expect_err("it is gone").to_string();
    assert!(error.contains("can't upload"), "{error}");
    let (result, _) = changed(|path| {
        fs::remove_file(path).expect("writable");
        let made = Command::new("mkfifo").arg(path).status();
        assert!(made.expect("mkfifo").success());
    });
    let error = result.expect_err("it is a FIFO").to_string();
    assert!(
        error.contains("replaced by something of another kind"),
        "{error}"
    );
}

/// Checks a tree of files, changes it, and writes the archive.
fn changed_before(
    files: &[&str],
    change: impl FnOnce(&Path),
) -> (Result<Sent, String>, Heard, tempfile::TempDir) {
    let zoo = tempfile::tempdir().expect("tempdir");
    for file in files {
        let path = zoo.path().join(file);
        fs::create_dir_all(path.parent().expect("below")).expect("writable");
        fs::write(path, "x").expect("writable");
    }
    let mut sources = Sources::check(&[zoo.path().join("z")], PLAIN).expect("sources");
    change(zoo.path());
    let mut heard = Heard::default();
    let result = write(&mut sources, &mut Vec::new(), &mut heard);
    (result.map_err(|error| error.to_string()), heard, zoo)
}

#[test]
fn an_entry_that_is_gone_before_its_turn_fails_the_upload() {
    let files = ["z/a/1", "z/b/1", "z/b/2", "z/c"];
    for gone in ["z/a/1", "z/b", "z/b/1", "z/c"] {
        let (result, _, zoo) = changed_before(&files, |zoo| {
            let path = zoo.join(gone);
            let removed = fs::remove_file(&path).or_else(|_| fs::remove_dir_all(&path));
            removed.expect("writable");
        });
        let path = zoo.path().join(gone);
        let expected = format!(
            "can't upload '{}': it was removed after the check",
            path.display()
        );
        assert_eq!(result, Err(expected));
    }
}

#[test]
fn an_entry_of_another_kind_fails_the_upload() {
    let (result, _, zoo) = changed_before(&["z/a", "z/b"], |zoo| {
        fs::remove_file(zoo.join("z/b")).expect("writable");
        symlink("a", zoo.join("z/b")).expect("writable");
    });
    let error = result.expect_err("it is a link");
    let path = zoo.path().join("z/b").display().to_string();
    assert!(
        error.contains(&path) && error.contains("another kind"),
        "{error}"
    );
}

#[test]
fn new_entries_are_sent_and_counted_and_warned_of_once() {
    let (result, heard, zoo) = changed_before(&["z/b"], |zoo| {
        fs::create_dir(zoo.join("z/a")).expect("writable");
        fs::write(zoo.join("z/a/1"), "12").expect("writable");
        fs::write(zoo.join("z/c"), "345").expect("writable");
    });
    assert_eq!(result, Ok(Sent { files: 3, bytes: 6 }));
    let first = zoo.path().join("z/a");
    assert_eq!(heard.warnings, [Warning::Added { first, count: 3 }]);
    let names = heard
        .entries
        .iter()
        .map(|name| name.strip_prefix(clean(zoo.path())).unwrap());
    let names: Vec<_> = names.map(|name| name.to_str().unwrap()).collect();
    assert_eq!(names, ["z", "z/a", "z/a/1", "z/b", "z/c"]);
}

fn clean(path: &Path) -> &Path {
    path.strip_prefix("/").expect("absolute")
}

#[test]
fn sockets_that_come_and_go_are_no_failure() {
    use std::os::unix::net::UnixListener;
    let (result, heard, zoo) = changed_before(&["z/a"], |zoo| {
        UnixListener::bind(zoo.join("z/socket")).expect("a socket");
    });
    assert_eq!(result, Ok(Sent { files: 1, bytes: 1 }));
    assert_eq!(
        heard.warnings,
        [Warning::Socket(zoo.path().join("z/socket"))]
    );
}

#[test]
fn the_order_of_names_in_a_directory_does_not_matter() {
    let names = ["z/b", "z/a", "z/d/2", "z/d/1", "z/c"];
    let [first, second] = [false, true].map(|is_reverse| {
        let zoo = tempfile::tempdir().expect("tempdir");
        let mut names = names.to_vec();
        if is_reverse {
            names.reverse();
        }
        fs::create_dir_all(zoo.path().join("z/d")).expect("writable");
        for name in &names {
            fs::write(zoo.path().join(name), name).expect("writable");
        }
        for name in names.iter().chain(&["z/d", "z"]) {
            set(&zoo.path().join(name), 0o755, "2001-01-01 00:00:00");
        }
        let mut sources = Sources::check(&[zoo.path().join("z")], PLAIN).expect("sources");
        // The same name for both.
        sources.list[0].name = "z".into();
        let mut archive = Vec::new();
        write(&mut sources, &mut archive, &mut Heard::default()).expect("an archive");
        archive
    });
    assert!(first == second);
}

/// Cuts the file off, or makes it longer, when a part of it has been read.
struct Meddler {
    path: PathBuf,
    length: u64,
    warnings: Vec<Warning>,
}

impl Listener for Meddler {
    fn file(&mut self, _: u64, _: &Path) {}

    fn entry(&mut self, _: &Entry) {}

    fn bytes(&mut self, sent: u64) {
        if sent > 0 {
            let file = fs::OpenOptions::new().write(true).open(&self.path);
            file.and_then(|file| file.set_len(self.length))
                .expect("ours");
        }
    }

    fn warn(&mut self, warning: Warning) {
        self.warnings.push(warning);
    }
}

fn meddled(length: u64) -> (Result<Sent, ArchiveError>, PathBuf, Vec<Warning>) {
    let zoo = tempfile::tempdir().expect("tempdir");
    let path = zoo.path().join("file");
    fs::write(&path, vec![2; 1_000_000]).expect("writable");
    let mut sources = Sources::check(std::slice::from_ref(&path), PLAIN).expect("sources");
    let mut meddler = Meddler {
        path: path.clone(),
        length,
        warnings: Vec::new(),
    };
    let result = write(&mut sources, &mut Vec::new(), &mut meddler);
    (result, path, meddler.warnings)
}

#[test]
fn a_file_that_shrinks_while_it_is_sent_is_an_error() {
    let (result, path, _) = meddled(600_000);
    let error = result.expect_err("it shrank");
    assert!(
        matches!(&error, ArchiveError::Shrunk(shrunk) if *shrunk == path),
        "{error}"
    );
}

#[test]
fn a_file_that_grows_is_sent_with_the_size_it_had() {
    // By much, and by less than is read at once.
    for length in [2_000_000, 1_000_001] {
        let (result, path, warnings) = meddled(length);
        assert_eq!(result.expect("an archive").bytes, 1_000_000);
        assert_eq!(warnings, [Warning::Grown(path)]);
    }
}

#[test]
fn parts_of_seconds_are_written_as_pax_wants_them() {
    assert_eq!(pax_time(5, 0), None);
    assert_eq!(pax_time(0, 1).as_deref(), Some("0.000000001"));
    assert_eq!(pax_time(-1, 0).as_deref(), Some("-1.000000000"));
    // Half a second before 1970.
    assert_eq!(pax_time(-1, 500_000_000).as_deref(), Some("-0.500000000"));
    assert_eq!(pax_time(-3, 250_000_000).as_deref(), Some("-2.750000000"));
}

#[test]
fn a_pax_record_counts_itself() {
    assert_eq!(pax_record("mtime", "1.5"), "13 mtime=1.5\n");
    // Where the length of the length makes it longer.
    assert_eq!(pax_record("a", "12345"), "11 a=12345\n");
    for length in 0..300 {
        let record = pax_record("key", &"v".repeat(length));
        let (number, _) = record.split_once(' ').expect("a blank");
        assert_eq!(number.parse(), Ok(record.len()));
    }
}
