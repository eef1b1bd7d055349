//! What arrives, compared with what GNU tar makes of the same files.

use std::fs;
use std::path::Path;

use super::run;
use crate::hosts::{Host, Hosts};
use crate::support::shell;

/// Sources with one of everything: `zoo` is for everybody, `links` cannot be
/// followed, and `devices` cannot be made by everybody.
const MAKE_SOURCES: &str = r#"
umask 022
mkdir -p zoo/dir/empty links devices
cd zoo
echo content > dir/file
ln dir/file again
: > nothing
head -c 300000 /dev/urandom > random
echo odd > $'a \'b\'\n"c" $d \\n'
echo odd > $'\xff\xfe'
echo long > "$(printf 'n%.0s' {1..255})"
echo 100 > "$(printf 'f%.0s' {1..96})"
echo 101 > "$(printf 'f%.0s' {1..97})"
deep=.
for i in 1 2 3 4 5; do deep=$deep/$(printf 'd%.0s' {1..190}); done
mkdir -p "$deep"
echo deep > "$deep/file"
mkdir closed; echo secret > closed/file
ln -s dir/file 'to file'
ln -s dir todir
ln -s "$PWD/dir" absolute
ln -s "$(printf '../zoo/%.0s' {1..40})dir/file" far
mkfifo fifo
python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind("socket")'
chown 3000000:4000000 random
chown 12:34 dir/file fifo
chown -h 56:78 'to file'
chmod 4755 dir/file
chmod 000 nothing
chmod 604 fifo
chmod 1777 dir/empty
chmod 000 closed
touch -d '2020-02-29 12:34:56.123456789' dir/file
touch -d '1960-01-01 00:00:00.5' nothing
touch -h -d '2010-10-10 10:10:10.000000001' 'to file'
touch -d '2040-03-03 03:03:03.000000001' dir/empty
touch -d '1999-12-31 23:59:59.999999999' dir
chmod 2750 dir
cd ..
ln -s nowhere links/dangling
ln -s . links/loop
mknod devices/null c 1 3
mknod devices/disk b 7 200
chmod 640 devices/disk
"#;

/// Everything below a directory, one line each: what it is, its mode, owner,
/// time, and content or target. Which names are one file is there, too.
const LIST: &str = r#"list() (
    cd "$1" || exit
    find . -mindepth 1 -printf '%y %m %U:%G %T@ %n %l %P\0' | LC_ALL=C sort -z | tr '\n\0' '?\n'
    find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha1sum -z | tr '\n\0' '?\n'
    find . -type c,b -print0 | LC_ALL=C sort -z | xargs -0r stat -c '%t:%T %n'
    find . -samefile ./*/dir/file | LC_ALL=C sort
)
"#;

/// The options of an upload, and what makes GNU tar do the same.
const VARIANTS: [(&str, &str); 5] = [
    ("", ""),
    ("-e", ""),
    ("-e --dereference", "--dereference"),
    ("-e --no-preserve-uid", "--owner=0"),
    ("-e --no-preserve-gid", "--group=0"),
];

/// Where sources are, without the `/`.
fn below_root(sources: &Path) -> String {
    let path = sources.to_str().expect("UTF-8");
    path.trim_start_matches('/').to_owned()
}

#[test]
fn everything_arrives_as_gnu_tar_brings_it() {
    let hosts = Hosts::start(3);
    let sources = hosts.home().join("sources");
    fs::create_dir(&sources).unwrap();
    shell(&sources, MAKE_SOURCES);
    // Who gets what, as whom, and who GNU tar is run as to compare.
    let parties = [
        ("-o root@web1", "zoo devices", "root"),
        ("-o ops@web2 -x", "zoo devices", "root"),
        ("-o ops@web3", "zoo", "ops"),
    ];
    for host in &hosts {
        // Must not interfere.
        host.run_ok("echo umask 077 | tee ~root/.bashrc >~ops/.bashrc");
        let umask = hosts.ssh("ops", host).arg("umask").output().unwrap();
        assert_eq!(String::from_utf8_lossy(&umask.stdout), "0077\n");
    }
    for (number, (options, to_tar)) in VARIANTS.into_iter().enumerate() {
        for (host, (target, names, user)) in hosts.iter().zip(parties) {
            let links = if to_tar == "--dereference" {
                ""
            } else {
                " links"
            };
            let names = format!("{names}{links}");
            let root = format!("/tmp/out{number}");
            let finished = run(
                &hosts,
                &format!("{target} -r {root} {options} -U"),
                names.split(' '),
            )
            .with(|command| _ = command.current_dir(&sources))
            .run()
            .code(0)
            .says("zoo/socket' is a socket, and is left out");
            let stderr = finished.stderr();
            assert!(!stderr.contains("{tar}"), "{stderr}");
            // Beside it, what GNU tar makes of it.
            shell(
                &sources,
                &format!(
                    "tar -c --format=posix --numeric-owner {to_tar} -f ../reference.tar {names} 2>/dev/null",
                ),
            );
            host.write_file(
                "/tmp/reference.tar",
                fs::read(hosts.home().join("reference.tar")).unwrap(),
                0o644,
            );
            let id = host.run_ok(&format!("id -u {user}"));
            let id = id.trim();
            host.run_ok(&format!(
                "mkdir /tmp/reference{number} && chown {id}:{id} /tmp/reference{number} && \
                 cd /tmp/reference{number} && \
                 setpriv --reuid {id} --regid {id} --clear-groups tar -x -p -f ../reference.tar"
            ));
            let below = match options {
                "" => format!("{root}/{}", below_root(&sources)),
                _ => root,
            };
            let list = |directory: &str| host.run_ok(&format!("{LIST}list '{directory}'"));
            let (found, expected) = (list(&below), list(&format!("/tmp/reference{number}")));
            assert_same(&found, &expected, &format!("{target} {options}"));
            assert!(expected.lines().count() > 30, "{}", expected.len());
        }
    }
}

#[track_caller]
fn assert_same(found: &str, expected: &str, what: &str) {
    for (found, expected) in found.lines().zip(expected.lines()) {
        assert_eq!(found, expected, "{what}");
    }
    assert_eq!(found.lines().count(), expected.lines().count(), "{what}");
}

/// Puts another program in place of tar.
fn use_tar(host: &Host, program: &str) {
    host.install_program("tar", format!("#!/bin/sh\nexec {program} \"$@\"\n"));
}

#[test]
fn other_tars_bring_it_as_well_as_they_can() {
    let hosts = Hosts::start(2);
    let sources = hosts.home().join("sources");
    fs::create_dir(&sources).unwrap();
    shell(&sources, MAKE_SOURCES);
    use_tar(&hosts[0], "bsdtar");
    use_tar(&hosts[1], "busybox tar");
    for (number, compress) in ["", "--compress=zstd", "--compress"].iter().enumerate() {
        let root = format!("/srv/{number}");
        for host in &hosts {
            // Where zoo/dir will be, there is a link to a directory.
            host.run_ok(&format!(
                "mkdir -p {root}/zoo {root}/real && ln -s ../real {root}/zoo/dir"
            ));
        }
        let finished = run(
            &hosts,
            &format!("-o web[1-2] -r {root} -e {compress} -U zoo devices links"),
            [""; 0],
        )
        .with(|command| _ = command.current_dir(&sources))
        .run()
        .code(0);
        let stderr = finished.stderr();
        assert!(!stderr.contains("{tar}"), "{stderr}");
        for host in &hosts {
            let found = host.run_ok(&format!("readlink {root}/zoo/dir"));
            assert_eq!(found, "../real\n", "{}", host.name());
            host.run_ok(&format!(
                "rm {root}/zoo/dir && mv {root}/real {root}/zoo/dir"
            ));
        }
    }
    shell(&sources, "rm zoo/socket");
    let list = |directory: &str| format!("{LIST}list '{directory}'");
    let expected = shell(&sources, &list("."));
    for (host, knows_times) in hosts.iter().zip([true, false]) {
        for number in 0..3 {
            let found = host.run_ok(&list(&format!("/srv/{number}")));
            let (found, expected) = (
                comparable(&found, knows_times),
                comparable(&expected, knows_times),
            );
            assert_same(&found, &expected, host.name());
        }
    }
}

/// What can be compared. `zoo` and `zoo/dir` were there before, which is not the
/// same for all tars. Parts of seconds before 1970 are too much for both; BusyBox
/// knows no parts of seconds, no times of directories and links, and no owners of
/// links.
fn comparable(list: &str, knows_times: bool) -> String {
    let lines = list
        .lines()
        .filter(|line| !line.ends_with(" zoo") && !line.ends_with(" zoo/dir"));
    let lines = lines.map(|line| {
        let mut words: Vec<&str> = line.split(' ').collect();
        if line.ends_with(" zoo/nothing") && words.len() > 5 {
            words[3] = "";
        } else if !knows_times && words.len() > 5 {
            let is_lost = ["d", "l"].contains(&words[0]);
            let seconds = words[3].split('.').next().unwrap();
            words[3] = if is_lost { "" } else { seconds };
            // Links are made last, and are whose they are.
            words[2] = if words[0] == "l" { "" } else { words[2] };
        }
        words.join(" ")
    });
    let mut lines: Vec<String> = lines.collect();
    // Their order was one of times.
    lines.sort();
    lines.join("\n")
}

#[test]
fn names_and_places_of_all_kinds() {
    let hosts = Hosts::start(2);
    hosts[1].busybox_userland();
    let home = hosts.home();
    shell(
        &home,
        "mkdir -p a/b 'odd dir'; echo 1 >a/f; echo 2 >a/b/g; echo 3 >'odd dir/h i'; ln -s a/b link",
    );
    for host in &hosts {
        host.run_ok("mkdir -p /srv/real/sub && ln -s real /srv/conf && echo old >/srv/real/f");
    }
    // A root that only quoting brings through, given in full, and one that is relative.
    let root = "/srv/it's \"a\" $root\n*/x";
    run(
        &hosts,
        "-o web[1-2] -e",
        [
            "-r",
            root,
            "-U",
            "a/../odd dir//",
            "./link/",
            "../home/a/f",
            "a/f",
        ],
    )
    .run()
    .code(0)
    .says("    1/4 sending file: 'a/../odd dir//h i'")
    .says("4 files (8 B) uploaded to 2 nodes");
    let look = "cd '/srv/it'\\''s \"a\" $root\n*/x' && find . -type f -exec cat {} + -print";
    for host in &hosts {
        let mut lines: Vec<String> = host.run_ok(look).lines().map(str::to_owned).collect();
        lines.sort();
        let expected = [
            "./home/a/f",
            "./link/g",
            "./odd dir/h i",
            "1",
            "1",
            "2",
            "3",
        ];
        // (a/f and home/a/f are the same file, under two names.)
        let expected: Vec<&str> = expected.into_iter().chain(["./a/f"]).collect();
        let mut expected: Vec<&str> = expected;
        expected.sort_unstable();
        assert_eq!(lines, expected, "{}", host.name());
    }
    // With -v all entries are listed, as they are called on the hosts.
    let finished = run(&hosts, "-o web1 -v -r /srv/v -U a", [""; 0])
        .run()
        .code(0);
    let stderr = finished.stderr();
    let mark = "[DEBUG] {tar} ";
    let listed = stderr
        .lines()
        .filter_map(|line| Some(line.split_once(mark)?.1));
    let base = home.join("a").display().to_string();
    let expected = ["/", "/b/", "/b/g", "/f"].map(|name| format!("{}{name}", &base[1..]));
    assert_eq!(listed.collect::<Vec<_>>(), expected, "{stderr}");
    // A directory of the upload that is a link to a directory there.
    shell(
        &home,
        "mkdir -p conf/sub && echo new >conf/f && echo sub >conf/sub/f",
    );
    run(&hosts, "-o web[1-2] -e -q -r /srv -U conf", [""; 0])
        .run()
        .ok();
    for host in &hosts {
        let found = host.run_ok("readlink /srv/conf; cat /srv/real/f /srv/real/sub/f");
        assert_eq!(found, "real\nnew\nsub\n", "{}", host.name());
    }
}
