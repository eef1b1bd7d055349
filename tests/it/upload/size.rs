//! Large files, many files, slow links: what an upload costs, and that it gets
//! through.

use std::fs::{self, Permissions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::thread;
use std::time::Duration;

use super::{run, wait_until_clean};
use crate::hosts::{Host, Hosts};
use crate::support::{Finished, Orgalorg, peak_memory, shell};

/// Runs it to its end, and looks at its memory meanwhile.
fn with_peak(run: Orgalorg) -> (Finished, u64) {
    let running = run.spawn();
    let pid = running.child.id();
    let watcher = thread::spawn(move || {
        let mut highest = 0;
        while let Some(now) = peak_memory(pid) {
            highest = now.max(highest);
            thread::sleep(Duration::from_millis(5));
        }
        highest
    });
    let finished = running.finish_within(Duration::from_secs(120));
    (finished, watcher.join().unwrap())
}

/// 20 MiB, and a quarter of one for each host.
#[track_caller]
fn assert_modest(peak: u64, hosts: u64) {
    assert!(peak > 1000, "that is no measurement");
    let most = 20 * 1024 + 256 * hosts;
    assert!(peak < most, "{peak} KiB are more than {most} KiB");
}

/// A tar that reads everything and does this with it.
fn install_tar(host: &Host, command: &str) {
    host.run_ok("cp /usr/bin/tar /tmp/real-tar");
    let script = format!(
        "#!/bin/sh\n\
         case \" $* \" in *\" --version \"*) exec /tmp/real-tar \"$@\" ;; esac\n\
         exec {command}\n"
    );
    host.install_program("tar", script);
}

#[test]
fn memory_does_not_grow_with_files_and_hosts() {
    const SIZE: u64 = 300 << 20;
    let hosts = Hosts::start(8);
    // One host stores it; the others only count.
    for host in hosts.iter().skip(1) {
        install_tar(host, "wc -c >/tmp/size");
    }
    let file = fs::File::create(hosts.home().join("file")).unwrap();
    file.set_len(SIZE).unwrap();
    let (finished, peak) = with_peak(run(&hosts, "-o web[1-8] -e -r /srv/x", ["-U", "file"]));
    finished
        .code(0)
        .says("1 file (300.0 MiB) uploaded to 8 nodes");
    assert_modest(peak, 8);
    assert_eq!(
        hosts[0].run_ok("stat -c %s /srv/x/file; rm /srv/x/file"),
        format!("{SIZE}\n")
    );
    for host in hosts.iter().skip(1) {
        // Header and end, 512 and 1,024 bytes, and a record for the time.
        let size: u64 = host.run_ok("cat /tmp/size").trim().parse().unwrap();
        assert_eq!(size - SIZE, 512 + 1024 + 1024);
    }
}

#[test]
fn many_files_take_no_more_memory_than_few() {
    let hosts = Hosts::start(1);
    let home = hosts.home();
    shell(
        &home,
        "mkdir d; cd d; seq 100000 | xargs touch; echo x >100000",
    );
    let (finished, peak) = with_peak(run(&hosts, "-o web1 -e -r /srv/x", ["-U", "d"]));
    let finished = finished.code(0).says(" 100000/100000 sending file: 'd/");
    assert_eq!(finished.stderr().lines().count(), 100_001);
    assert_modest(peak, 1);
    let count = "ls -U /srv/x/d | wc -l; cat /srv/x/d/100000; rm -r /srv/x";
    assert_eq!(hosts[0].run_ok(count), "100000\nx\n");
}

#[test]
fn a_slow_link_takes_its_time_and_keeps_its_lock() {
    let hosts = Hosts::start(2);
    let size = 1_000_000;
    let bytes: Vec<u8> = (0..size)
        .map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    fs::write(hosts.home().join("file"), &bytes).unwrap();
    hosts[1].slow("1mbit");
    // Heartbeats every 3.2 s, two or more while it lasts (and when the machine is
    // busy, TCP loses packets on such a link, and is silent for up to two seconds).
    // The link has no room for much besides the file.
    let finished = run(&hosts, "-o web[1-2] -j 4000 -e -r /srv/x", ["-U", "file"]).run();
    let finished = finished.code(0);
    assert!(
        finished.elapsed > Duration::from_secs(6),
        "{:?}",
        finished.elapsed
    );
    hosts[1].fast();
    for host in &hosts {
        assert!(host.read_file("/srv/x/file") == bytes);
        wait_until_clean(host);
    }
}

#[test]
fn files_of_more_than_8_gib() {
    const SIZE: u64 = (8 << 30) + 1;
    let hosts = Hosts::start(1);
    // Read as a file, but not kept: that would take more time than all other tests.
    let record = r#"echo "$TAR_FILENAME $TAR_SIZE $TAR_MODE $(tail -c 4)" >>/tmp/list"#;
    install_tar(
        &hosts[0],
        &format!("/tmp/real-tar -x -f - --to-command='{record}'"),
    );
    let path = hosts.home().join("file");
    let mut file = fs::File::create(&path).unwrap();
    file.set_len(SIZE - 3).unwrap();
    file.seek(SeekFrom::End(0)).unwrap();
    file.write_all(b"end").unwrap();
    file.set_permissions(Permissions::from_mode(0o640)).unwrap();
    fs::write(hosts.home().join("next"), "x").unwrap();
    let options = "-o web1 --compress=zstd -e -r /srv/x";
    let (finished, peak) = with_peak(run(&hosts, options, ["-U", "file", "next"]));
    finished
        .code(0)
        .says("2 files (8.0 GiB) uploaded to 1 node");
    assert_modest(peak, 1);
    let list = hosts[0].run_ok("tr -d '\\000' </tmp/list");
    assert_eq!(list, format!("file {SIZE} 0640 end\nnext 1 0644 x\n"));
}
