//! Plain sync tools (`-S -m`): what they are given, where they run, and what
//! becomes of the run directories.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;

use super::{install_slow_tar, run, run_directories, wait_for_slow_tar, wait_until_clean};
use crate::hosts::Hosts;
use crate::support::shell;

fn hosts_with_file(count: usize) -> Hosts {
    let hosts = Hosts::start(count);
    fs::write(hosts.home().join("f"), "content\n").unwrap();
    hosts
}

const LEFT: &str = "the sync tool has left files in run directories";

#[test]
fn run_directories_are_ours_alone_and_up_to_the_tool() {
    let hosts = hosts_with_file(2);
    let look = r#"pwd; stat -c '%a %U %n' . .. f; cat f; rm -r "$PWD""#;
    for (target, options, base, owner) in [
        ("root@", "", "/var/run/orgalorg", "root"),
        ("ops@", "", "/tmp/orgalorg-ops", "ops"),
        ("ops@", "-x", "/run/orgalorg", "root"),
    ] {
        let options = format!("-o {target}web1 {options} -e -m -q");
        let finished = run(&hosts, &options, ["-n", look, "-S", "f"]).run().ok();
        let stdout = finished.stdout();
        let lines: Vec<&str> = stdout.lines().collect();
        let base = base.trim_start_matches("/var");
        let id = lines[0].trim_start_matches("/var");
        let id = id.strip_prefix(base).unwrap().strip_prefix('/').unwrap();
        // YYYYMMDDhhmmss.ffffff
        let (seconds, micros) = id.split_once('.').unwrap();
        assert_eq!((seconds.len(), micros.len()), (14, 6), "{id}");
        assert!(id.starts_with("20"), "{id}");
        assert_eq!(lines[1], format!("700 {owner} ."));
        assert_eq!(lines[2], format!("700 {owner} .."));
        assert!(lines[3].starts_with("644 "), "{stdout}");
        assert_eq!(lines[4], "content");
        wait_until_clean(&hosts[0]);
    }

    // What is left is told, whatever is quiet, and whatever the tool said.
    for (options, tool, code) in [("-q", "true", 0), ("", "exit 17", 1)] {
        let options = format!("-o ops@web1,root@web2 -e -m {options}");
        let finished = run(&hosts, &options, ["-n", tool, "-S", "f"]).run();
        let finished = finished.code(code).says(LEFT);
        let has_advice = finished.stderr().contains("--apply or -r /");
        assert_eq!(has_advice, code == 0, "advice is of use after success");
        let finished = finished.says("/tmp/orgalorg-ops/");
        finished.says("/var/run/orgalorg/").says("(1 node): web2");
        for (host, base) in hosts.iter().zip(["/tmp/orgalorg-ops", "/var/run/orgalorg"]) {
            let left = run_directories(host);
            assert_eq!(left.lines().count(), 2, "{left}");
            assert!(left.starts_with(base) && left.ends_with("/f\n"), "{left}");
            host.run_ok(&format!("rm -r {base}"));
        }
    }
    // With -r there is none to be left.
    let finished = run(
        &hosts,
        "-o web1 -r /srv/x -e -m -q",
        ["-n", "cat f", "-S", "f"],
    );
    assert_eq!(finished.run().ok().stdout(), "content\n");
    wait_until_clean(&hosts[0]);
}

#[test]
fn run_directories_are_not_made_where_others_could_reach_in() {
    let hosts = hosts_with_file(2);
    for trap in [
        "mkdir -m 777 /tmp/orgalorg-ops && chown guest /tmp/orgalorg-ops",
        "mkdir /home/ops/d && chown ops /home/ops/d && ln -s /home/ops/d /tmp/orgalorg-ops",
        "ln -s /nowhere /tmp/orgalorg-ops",
        "echo >/tmp/orgalorg-ops; chown ops /tmp/orgalorg-ops",
    ] {
        let host = &hosts[1];
        host.run_ok("rm -rf /tmp/orgalorg-ops");
        host.run_ok(trap);
        let before =
            host.run_ok("ls -lad /tmp/orgalorg-ops; find /home/ops /nowhere 2>/dev/null || true");
        let options = ["-n", "echo ran", "-S", "f"];
        let finished = run(&hosts, "-o ops@web[1-2] -e -m", options).run().code(1);
        let finished = finished
            .says("1 out of 2 nodes")
            .says("can't make the run directory")
            .says("/tmp/orgalorg-ops");
        assert_eq!(finished.stdout(), "", "{trap}");
        let after =
            host.run_ok("ls -lad /tmp/orgalorg-ops; find /home/ops /nowhere 2>/dev/null || true");
        assert_eq!(after, before, "{trap}");
        wait_until_clean(&hosts[0]);
    }
    // One of ours that is open to others is closed first.
    hosts[1].run_ok(
        "rm -rf /tmp/orgalorg-ops; mkdir -m 777 /tmp/orgalorg-ops; chown ops /tmp/orgalorg-ops",
    );
    let tool = "stat -c %a ..; rm -r \"$PWD\"";
    let finished = run(&hosts, "-o ops@web2 -q -e -m", ["-n", tool, "-S", "f"]).run();
    assert_eq!(finished.ok().stdout(), "700\n");
}

#[test]
fn tools_get_arguments_and_input_byte_for_byte() {
    let hosts = hosts_with_file(1);
    let odd: Vec<&[u8]> = vec![
        b"",
        b" a  b ",
        b"it's \"$HOME\" `id` \\n * ~",
        b"new\nline",
        b"-n",
        b"\xff\xfe",
        b"{}",
    ];
    let mut options: Vec<&OsStr> = Vec::new();
    for argument in &odd {
        options.extend([OsStr::new("-g"), OsStr::from_bytes(argument)]);
    }
    // Quotes, pipes and lines in the command itself.
    let tool = "printf '%s|' \"$0\" \"${@}\" |\nsed 's/^_|//' | cat; echo \"it's\" '\"here\"' | tr -d \"'\"\ncat";
    options.extend(["-n", tool, "-i", "input", "-S", "--no-upload"].map(OsStr::new));
    fs::write(hosts.home().join("input"), b"\xfe input\n").unwrap();
    for shell in ["bash -c '{}'", "sh -c {}"] {
        let mut all: Vec<&OsStr> = vec![OsStr::new("--shell"), OsStr::new(shell)];
        all.extend(&options);
        let finished = run(&hosts, "-o web1 -m -q", all).run().ok();
        let mut expected = odd.join(&b'|');
        expected.extend(b"|its \"here\"\n\xfe input\n");
        let shown = String::from_utf8_lossy(&finished.stdout).into_owned();
        assert!(finished.stdout == expected, "{shown}");
    }
    // Without files it runs at home, and there is no run directory.
    let options = ["-n", "pwd; wc -c", "-S", "--no-upload"];
    let finished = run(&hosts, "-o ops@web1 -m -q", options).run().ok();
    assert_eq!(finished.stdout(), "/home/ops\n0\n");
    wait_until_clean(&hosts[0]);
}

/// Many files, each with two names, in `big` and `other`.
fn write_many_files(hosts: &Hosts) {
    let script = "mkdir big other; for i in $(seq 300); do echo $i >big/$i; \
                  ln big/$i big/h$i; ln big/$i other/$i; done";
    shell(&hosts.home(), script);
}

/// Two targets that are one machine and one user.
const TWICE: [&str; 2] = ["-o web1,ops@web1 -x", "-o web1,web1-v6"];

#[test]
fn one_machine_under_two_names_has_two_run_directories() {
    let hosts = hosts_with_file(1);
    write_many_files(&hosts);
    let tool = r#"echo "$(ls big other | wc -l) $(find . -type f -links 3 | wc -l) $PWD"
        rm -r "$PWD""#;
    for targets in TWICE {
        for _ in 0..3 {
            let options = format!("{targets} -e -m -q");
            let options = run(&hosts, &options, ["-n", tool, "-S", "big", "other"]);
            let finished = options.run().ok();
            let stdout = finished.stdout();
            let mut places: Vec<&str> = stdout
                .lines()
                .map(|line| line.strip_prefix("903 900 ").expect(line))
                .collect();
            places.dedup();
            assert_eq!(places.len(), 2, "{stdout}");
            wait_until_clean(&hosts[0]);
        }
    }
    // What is left is left in both.
    let finished = run(&hosts, "-o web1,web1-v6 -e -m", ["-n", "cat f", "-S", "f"]).run();
    let finished = finished.code(0).says("-2 (1 node): web1");
    assert_eq!(finished.stderr().matches("(1 node)").count(), 2);
    assert_eq!(finished.stdout().matches("content\n").count(), 2);
}

#[test]
fn one_directory_under_two_names_gets_the_archive_once() {
    let hosts = hosts_with_file(2);
    write_many_files(&hosts);
    let count = "cd /srv/one && ls big other | wc -l; find . -type f -links 3 | wc -l";
    for targets in TWICE {
        for options in ["", "-y", "--compress", "--compress=zstd -y"] {
            // (A link to it is the same directory.)
            hosts[0].run_ok("rm -rf /srv/one /srv/link; mkdir /srv/one; ln -s one /srv/link");
            for root in ["one", "link"] {
                let options = format!("{targets} -o web2 {options} -r /srv/{root} -e");
                let options = run(&hosts, &options, ["-U", "big", "other"]);
                options.run().code(0).says("uploaded to 3 nodes");
                assert_eq!(hosts[0].run_ok(count), "903\n900\n");
            }
        }
        let options = format!("{targets} -r /srv/one -e -m -q");
        let tool = ["-n", "ls big | wc -l", "-S", "big"];
        let finished = run(&hosts, &options, tool).run().ok();
        assert_eq!(finished.stdout(), "600\n600\n");
    }
    wait_until_clean(&hosts[0]);
}

#[test]
fn where_one_directory_takes_no_archive_all_its_names_have_failed() {
    let hosts = hosts_with_file(2);
    hosts[0].small_disk("/srv", 1000);
    fs::write(hosts.home().join("big"), vec![0; 3_000_000]).unwrap();
    for (options, code) in [("", 1), ("-y", 1), ("-w", 1), ("-w -y", 1)] {
        let options = format!("-o web1,web1-v6,web2 -r /srv/x -e -m {options}");
        let finished = run(&hosts, &options, ["-n", "stat -c %s big", "-S", "big"]).run();
        let finished = finished
            .code(code)
            .says("uploads are failed on 2 out of 3 nodes");
        let reason = "upload failed: no space left on the host (2 nodes): web1,web1-v6";
        let finished = finished.says(reason);
        let is_loose = options.contains("-w");
        let expected = if is_loose { "web2 3000000\n" } else { "" };
        assert_eq!(finished.stdout(), expected, "{options}");
        assert!(finished.stderr().contains("uploaded to 1 node "));
    }
    // One that is lost takes its other name with it.
    hosts[0].run_ok("umount /srv");
    install_slow_tar(&hosts[0], 1000);
    let options = "-o web1,web1-v6,web2 -j 1000 -w -r /srv/x -e -m";
    let running = run(&hosts, options, ["-n", "stat -c %s big", "-S", "big"]).spawn();
    wait_for_slow_tar(&hosts[0], &running);
    hosts[0].kill();
    let finished = running.finish().code(3);
    assert_eq!(finished.stdout(), "web2 3000000\n");
}

#[test]
fn one_machine_under_two_names_gets_files_in_place_at_once() {
    let hosts = hosts_with_file(1);
    write_many_files(&hosts);
    let home = hosts.home();
    let count = format!(
        "cd {} && ls -A big other | wc -l && find . -type f -links 3 | wc -l; rm -r big other",
        home.display()
    );
    for targets in TWICE {
        for (options, tool) in [("", &[][..]), ("--apply -m", &["-n", "echo ok"])] {
            for _ in 0..2 {
                let options = format!("{targets} {options} -q");
                let others = tool.iter().chain(&["-S", "big", "other"]);
                let finished = run(&hosts, &options, others).run().ok();
                let said = finished.stdout().matches("ok\n").count();
                assert_eq!(said, tool.len(), "{}", finished.stdout());
                assert_eq!(hosts[0].run_ok(&count), "903\n900\n");
                wait_until_clean(&hosts[0]);
            }
        }
    }
}

#[test]
fn with_a_password_for_sudo_the_archive_is_not_taken_for_it() {
    let hosts = hosts_with_file(1);
    let tool = "stat -c '%U %n' f; cat; rm -r \"$PWD\"";
    fs::write(hosts.home().join("input"), "input\n").unwrap();
    let options = ["-n", tool, "-i", "input", "-S", "f"];
    let mut terminal = run(&hosts, "-o carol@web1 -K -e -m", options).on_terminal(|_| {});
    terminal.expect("Sudo password: ");
    terminal.type_in("carol-secret\n");
    let (status, screen) = terminal.finish();
    let screen = console::strip_ansi_codes(&screen);
    assert_eq!(status.code(), Some(0), "{screen}");
    // (It was root who made it, and root keeps owners.)
    assert!(
        screen.contains("web1 root f") && screen.contains("web1 input"),
        "{screen}"
    );
    assert!(screen.contains("1/1 sending file: 'f'"), "{screen}");
    assert!(!screen.contains("secret"), "{screen}");
    wait_until_clean(&hosts[0]);
}
