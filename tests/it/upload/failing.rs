//! What becomes of an upload when a host, a file, or the client itself fails in
//! the middle of it.

use std::fs;
use std::thread;

use super::{install_slow_tar, run, run_directories, wait_for_slow_tar, wait_until_clean};
use crate::hosts::{Host, Hosts};
use crate::support::{orgalorg_that_may_not_read_everything, shell};

/// More than queues and windows hold, so that a tar that stops holds up the
/// reading of the file.
const SIZE: usize = 12_000_000;

const SIGINT: i32 = 2;

/// A tool that shows that it has been run.
const TOOL: &str = "echo ran >>/tmp/ran";

/// Writes a new file of so many bytes into the client's home.
fn write_file(hosts: &Hosts, name: &str, size: usize) -> Vec<u8> {
    let bytes: Vec<u8> = (0..size).map(|i| (i % 253) as u8).collect();
    let path = hosts.home().join(name);
    if path.exists() {
        fs::remove_file(&path).unwrap();
    }
    fs::write(path, &bytes).unwrap();
    bytes
}

fn go(host: &Host) {
    host.write_file("/tmp/go", "", 0o644);
}

#[track_caller]
fn assert_not_run(hosts: &Hosts) {
    for host in hosts {
        assert!(!host.has_file("/tmp/ran"), "it ran on {}", host.name());
        wait_until_clean(host);
    }
}

// ---- files

#[test]
fn files_that_change_while_they_are_sent() {
    let hosts = Hosts::start(2);
    let home = hosts.home();
    // Begins to send `big`, and does something when it is under way.
    let sync = |change: &str| {
        let bytes = write_file(&hosts, "big", SIZE);
        write_file(&hosts, "second", 1000);
        shell(&home, "rm -rf dir; mkdir dir; touch dir/{1,2,3}");
        install_slow_tar(&hosts[0], 1_000_000);
        let options = "-o ops@web[1-2] -e -m -n".split_whitespace();
        let options = options.chain([TOOL, "-S", "big", "second", "dir"]);
        let running = orgalorg_that_may_not_read_everything(&hosts, options).spawn();
        wait_for_slow_tar(&hosts[0], &running);
        shell(&home, change);
        go(&hosts[0]);
        (running.finish(), bytes)
    };

    for (change, reason) in [
        (
            "truncate -s 11M big",
            "can't upload 'big': it became shorter while it was sent",
        ),
        ("rm second", "can't upload 'second'"),
        ("chmod 0 second", "can't upload 'second'"),
        (
            "rm dir/2",
            "can't upload 'dir/2': it was removed after the check",
        ),
        (
            "rm dir/3",
            "can't upload 'dir/3': it was removed after the check",
        ),
        (
            "rm dir/2; mkdir dir/2",
            "can't upload 'dir/2': it was replaced by something of another kind after the check",
        ),
    ] {
        let (finished, _) = sync(change);
        let finished = finished.code(1).says(reason).says("on all 2 nodes");
        assert!(!finished.stderr().contains("web2 {tar}"));
        assert_not_run(&hosts);
    }

    for (change, warning, uploaded) in [
        (
            "echo more >>big",
            "'big' became longer while it was sent",
            "5 files (11.4 MiB) uploaded to 2 nodes",
        ),
        (
            "mv big old; echo new >big; rm second; echo 2 >second",
            "",
            "5 files (11.4 MiB) uploaded to 2 nodes",
        ),
        (
            "head -c 1M /dev/zero >dir/22; touch dir/4",
            "'dir/22' and 1 more were added after the check, and were sent\n",
            "7 files (12.4 MiB) uploaded to 2 nodes",
        ),
    ] {
        let (finished, bytes) = sync(change);
        finished
            .code(0)
            .says(warning)
            .says(uploaded)
            .says("the sync tool has left files in run directories");
        for host in &hosts {
            let path = run_directories(host);
            let path = path.lines().find(|line| line.ends_with("/big"));
            assert!(host.read_file(path.unwrap()) == bytes, "{change}");
            host.run_ok("rm -r /tmp/orgalorg-ops/* /tmp/ran");
            wait_until_clean(host);
        }
    }
}

// ---- places

#[test]
fn places_that_take_no_files() {
    let hosts = Hosts::start(3);
    write_file(&hosts, "file", 3_000_000);
    let bad = &hosts[2];
    bad.small_disk("/srv/full", 1000);
    bad.small_disk("/srv/fixed", 1000);
    bad.run_ok("mount -o remount,ro /srv/fixed; echo x >/srv/file; mkdir -p /srv/taken/file/x");
    bad.run_ok("mkdir -m 755 /srv/foreign");
    for (target, root, reason, begins) in [
        ("root@", "/srv/full", "no space left on the host", true),
        ("root@", "/srv/fixed", "the file system is read-only", true),
        (
            "root@",
            "/srv/fixed/sub",
            "the file system is read-only",
            false,
        ),
        (
            "root@",
            "/srv/file/sub",
            "something that is no directory is in the way",
            false,
        ),
        (
            "root@",
            "/srv/taken",
            "something of another kind is in the way",
            true,
        ),
        (
            "guest@",
            "/srv/foreign",
            "no permission to write there",
            true,
        ),
    ] {
        let options = format!("-o {target}web[1-3] -y -e -m -r {root}");
        for host in &hosts.iter().collect::<Vec<_>>()[..2] {
            host.run_ok("rm -rf /srv; mkdir -m 1777 /srv");
        }
        let finished = run(&hosts, &options, ["-n", TOOL, "-S", "file"]).run();
        let finished = finished
            .code(1)
            .says("1 out of 3 nodes")
            .says(reason)
            .says("web3 {tar} ");
        assert_eq!(finished.stdout(), "");
        for host in &hosts {
            assert!(!host.has_file("/tmp/ran"), "{root}");
        }
        for host in &hosts.iter().collect::<Vec<_>>()[..2] {
            // Nobody is sent half a file; all or nothing.
            let expected = if begins { "3000000\n" } else { "" };
            let size = host.run(&format!("stat -c %s {root}/file 2>/dev/null"));
            assert_eq!(String::from_utf8_lossy(&size.stdout), expected, "{root}");
        }
    }
    // With -w the others go on, and the run still has failed.
    let options = ["-n", "stat -c %s file", "-S", "file"];
    let finished = run(&hosts, "-o web[1-3] -w -e -m -r /srv/full", options).run();
    let finished = finished.code(1).says("no space left on the host");
    assert_eq!(finished.sorted(), ["web1 3000000", "web2 3000000"]);
    // What is in the way of a lock is no upload's failure.
    let refused = run(&hosts, "-o web3 -e -r /srv/file/sub -U file", [""; 0]).run();
    refused.code(4);
}

#[test]
fn hosts_without_the_programs_fail_before_anything_is_sent() {
    let hosts = Hosts::start(3);
    write_file(&hosts, "file", 1000);
    hosts[1].remove_program("zstd");
    hosts[1].remove_program("gzip");
    hosts[2].remove_program("tar");
    for (target, compress, missing) in [
        (
            "web[1-2]",
            "--compress=zstd",
            "there is no zstd on the host",
        ),
        ("web[1-2]", "--compress", "there is no gzip on the host"),
        ("web1,web3", "", "there is no tar on the host"),
    ] {
        let options = format!("-o {target} -e {compress} -r /srv/x");
        let finished = run(&hosts, &options, ["-U", "file"]).run();
        finished.code(1).says("1 out of 2 nodes").says(missing);
        assert!(!hosts[0].has_file("/srv/x/file"), "{missing}");
    }
    let finished = run(
        &hosts,
        "-w -o web[1-2] --compress=zstd -e -r /srv/x",
        ["-U", "file"],
    )
    .run();
    finished.code(1).says("there is no zstd on the host");
    assert!(hosts[0].has_file("/srv/x/file"));
}

// ---- hosts

#[test]
fn hosts_that_are_lost_on_the_way() {
    let hosts = Hosts::start(2);
    let bytes = write_file(&hosts, "file", SIZE);
    let (good, bad) = (&hosts[0], &hosts[1]);
    let lose = |part: u64, options: &str, happens: &dyn Fn()| {
        good.run_ok("rm -rf /srv/x /tmp/ran");
        install_slow_tar(bad, SIZE as u64 / 100 * part);
        // Once tar has stopped, this is how long there is for what happens.
        let options = format!("-o web[1-2] -j 3000 -e -m -r /srv/x {options}");
        let tool = ["-n", "echo ran; echo ran >/tmp/ran", "-S", "file"];
        let running = run(&hosts, &options, tool).spawn();
        wait_for_slow_tar(bad, &running);
        happens();
        running.finish()
    };
    let has_whole_file = || good.read_file("/srv/x/file") == bytes;

    // A connection that is lost is a lost lock, which ends it all.
    let finished = lose(10, "", &|| bad.freeze()).code(5);
    let finished = finished
        .says("[root@web2:22] heartbeat failed: lock lost")
        .says("heartbeat failed");
    assert_eq!(finished.stdout(), "");
    assert!(!good.has_file("/tmp/ran"));
    wait_until_clean(good);
    bad.thaw();
    wait_until_clean(bad);

    // Without locks the others finish, and nothing is run.
    let finished = lose(50, "-y", &|| bad.cut()).code(3);
    let finished = finished.says("[root@web2:22]").says("1 out of 2 nodes");
    assert_eq!(finished.stdout(), "");
    assert!(!good.has_file("/tmp/ran") && has_whole_file());
    bad.heal();
    wait_until_clean(bad);

    // With -w the others go on.
    let finished = lose(90, "-w", &|| bad.kill()).code(3);
    assert_eq!(finished.stdout(), "web1 ran\n");
    assert!(has_whole_file());
    wait_until_clean(good);
}

#[test]
fn wherever_a_host_is_lost_the_others_go_on_without_it() {
    type Act = fn(&Host);
    let ways: [(Act, Act); 3] = [
        (Host::freeze, Host::thaw),
        (Host::cut, Host::heal),
        (Host::kill, |_| ()),
    ];
    // Most of it is waiting.
    thread::scope(|scope| {
        for (lose, find) in ways {
            scope.spawn(move || {
                for part in [10, 50, 90] {
                    lose_a_host(part, lose, find);
                }
            });
        }
    });
}

/// Loses a host when it has taken this part of an upload, in hundredths.
fn lose_a_host(part: u64, lose: fn(&Host), find: fn(&Host)) {
    let hosts = Hosts::start(2);
    let bytes = write_file(&hosts, "file", SIZE);
    let (good, bad) = (&hosts[0], &hosts[1]);
    install_slow_tar(bad, SIZE as u64 / 100 * part);
    let options = "-o web[1-2] -j 3000 -w -e -m -r /srv/x";
    let tool = ["-n", "echo ran", "-S", "file"];
    let running = run(&hosts, options, tool).spawn();
    wait_for_slow_tar(bad, &running);
    lose(bad);
    let finished = running.finish().code(3);
    assert_eq!(finished.stdout(), "web1 ran\n");
    assert!(good.read_file("/srv/x/file") == bytes);
    wait_until_clean(good);
    find(bad);
    if bad.is_running() {
        wait_until_clean(bad);
    }
}

#[test]
fn a_tar_that_takes_nothing_is_not_waited_for() {
    let hosts = Hosts::start(2);
    // Much and little: what is little lies in the windows, sent and not read.
    for size in [SIZE, 1000] {
        for host in &hosts {
            host.run_ok("rm -rf /srv/x");
        }
        let bytes = write_file(&hosts, "file", size);
        install_slow_tar(&hosts[1], 600);
        let options = ["-n", TOOL, "-S", "file"];
        let finished = run(&hosts, "-o web[1-2] -j 1000 -e -m -r /srv/x", options).run();
        finished
            .code(1)
            .says("1 out of 2 nodes")
            .says("taken no data for 1s");
        assert!(hosts[0].read_file("/srv/x/file") == bytes);
        assert_not_run(&hosts);
    }
}

#[test]
fn a_host_that_does_not_get_ready_is_not_waited_for() {
    let hosts = Hosts::start(2);
    write_file(&hosts, "file", 1000);
    hosts[1].install_program("tar", "#!/bin/sh\nexec sleep 86399\n");
    let options = ["-U", "file"];
    let finished = run(&hosts, "-o web[1-2] -j 1000 -e -r /srv/x", options).run();
    finished
        .code(1)
        .says("1 out of 2 nodes")
        .says("the host has not got ready for it for 1s");
    assert!(!hosts[0].has_file("/srv/x/file"));
    for host in &hosts {
        wait_until_clean(host);
    }
}

// ---- the client

#[test]
fn an_end_in_the_middle_leaves_nothing_behind() {
    let hosts = Hosts::start(2);
    write_file(&hosts, "file", SIZE);
    for (target, compress) in [("root@", ""), ("ops@", "--compress=zstd")] {
        for signal in ["INT", "KILL"] {
            install_slow_tar(&hosts[0], 700);
            let options = format!("-o {target}web[1-2] -e -m {compress}");
            let options = run(&hosts, &options, ["-n", TOOL, "-S", "file"]);
            let running = options.spawn();
            wait_for_slow_tar(&hosts[0], &running);
            assert!(hosts[0].runs("real-tar"));
            assert_ne!(run_directories(&hosts[0]), "");
            running.signal(signal);
            let finished = running.finish();
            if signal == "INT" {
                let finished = finished.killed_by(SIGINT);
                assert_eq!(finished.stdout(), "");
            }
            assert_not_run(&hosts);
        }
    }
}

#[test]
fn two_uploads_to_one_host_do_not_mix() {
    let hosts = Hosts::start(1);
    write_file(&hosts, "file", SIZE);
    install_slow_tar(&hosts[0], 1_000_000);
    let upload = || run(&hosts, "-o web1 -e -r /srv/x", ["-U", "file"]);
    let first = upload().spawn();
    wait_for_slow_tar(&hosts[0], &first);
    upload().run().code(4).says("can't acquire lock");
    go(&hosts[0]);
    first.finish().code(0);
    assert_eq!(
        hosts[0].run_ok("stat -c %s /srv/x/file"),
        format!("{SIZE}\n")
    );
}
