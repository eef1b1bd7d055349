//! How hosts end that only got files, unpacked or put in place: where that is
//! stopped, takes too long, or fails, and how long it took.

use std::fs;
use std::thread;
use std::time::Duration;

use super::{install_slow_tar, run, wait_until_clean};
use crate::hosts::{Host, Hosts, wait_until};
use crate::support::{Finished, LIMIT, Running};

const SIGINT: i32 = 2;

fn hosts_with_file(count: usize) -> Hosts {
    let hosts = Hosts::start(count);
    fs::create_dir(hosts.home().join("d")).unwrap();
    fs::write(hosts.home().join("d/f"), "content\n").unwrap();
    hosts
}

/// A cp that never ends, and says that it has begun by making `/tmp/at`.
fn install_hanging_cp(host: &Host) {
    host.install_program("cp", "#!/bin/sh\n: >/tmp/at\nexec sleep 86394\n");
}

/// Waits until one host hangs and others are done, as far as can be seen.
fn wait_for_hanging(hosts: &Hosts) {
    wait_until("it to hang", LIMIT, || hosts[0].has_file("/tmp/at"));
    thread::sleep(Duration::from_millis(500));
}

/// Interrupts it when one host hangs and the other one is done.
fn interrupt(hosts: &Hosts, running: Running) -> Finished {
    wait_for_hanging(hosts);
    running.signal("INT");
    running.finish().killed_by(SIGINT)
}

/// The statuses of web1 and web2.
fn statuses(finished: &Finished) -> [String; 2] {
    ["web1", "web2"].map(|host| {
        let result = result_of(finished, host);
        result["status"].as_str().expect("a status").to_owned()
    })
}

/// The result of a host.
fn result_of(finished: &Finished, host: &str) -> serde_json::Value {
    let stdout = finished.stdout();
    let mut results = stdout
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"))
        .filter(|line| line["stream"] == "result" && line["host"] == host);
    let result = results.next().expect("a result");
    assert!(results.next().is_none(), "{stdout}");
    result
}

/// Nothing is left, in place or beside it.
#[track_caller]
fn assert_untouched(hosts: &Hosts) {
    assert!(!hosts[0].has_file(hosts.home().join("d")));
    let staging = "find / -xdev -name '.orgalorg-*' 2>/dev/null || true";
    for host in hosts {
        wait_until_clean(host);
        assert_eq!(host.run_ok(staging), "", "{}", host.name());
    }
}

#[test]
fn a_host_is_not_done_before_its_tool_has_run() {
    let hosts = hosts_with_file(2);
    install_hanging_cp(&hosts[0]);
    let apply = ["--apply", "-m", "-n", "echo ok", "-S", "d"];
    let finished = interrupt(&hosts, run(&hosts, "--json -o web1,web2", apply).spawn());
    assert_eq!(statuses(&finished), ["cancelled", "cancelled"]);
    assert!(
        !finished.stdout().contains("ok\\n"),
        "{}",
        finished.stdout()
    );
    assert_untouched(&hosts);
    hosts[0].run_ok("rm /tmp/at");
    let finished = interrupt(&hosts, run(&hosts, "-o web1,web2", apply).spawn());
    finished.says("not finished (2 nodes): web[1-2]");
    hosts[0].run_ok("rm /tmp/at");

    // Where nothing comes after it, it is done.
    let finished = interrupt(
        &hosts,
        run(&hosts, "--json -o web1,web2", ["-S", "d"]).spawn(),
    );
    assert_eq!(statuses(&finished), ["cancelled", "ok"]);
    assert_untouched(&hosts);
}

#[test]
fn a_tool_that_was_only_looked_for_is_nobodys_end() {
    let hosts = hosts_with_file(2);
    // It hangs on the second channel: the first one is the guard's.
    let script = "mkdir /tmp/first 2>/dev/null || { : >/tmp/at; sleep 86393; }\n";
    hosts[0].write_file("/root/.bashrc", script, 0o644);
    for has_tool in [false, true] {
        if has_tool {
            hosts[1].install_program("orgalorg-sync", "#!/bin/sh\n");
            let link = "ln -s /usr/bin/orgalorg-sync /usr/lib/orgalorg/sync";
            hosts[1].run_ok(&format!("mkdir -p /usr/lib/orgalorg; {link}"));
        }
        let finished = interrupt(
            &hosts,
            run(&hosts, "--json -o web1,web2", ["-S", "d"]).spawn(),
        );
        assert_eq!(
            statuses(&finished),
            ["cancelled", "cancelled"],
            "{has_tool}"
        );
        hosts[0].run_ok("rm -rf /tmp/at /tmp/first");
        wait_until_clean(&hosts[1]);
    }
}

#[test]
fn a_placing_that_takes_too_long_is_ended_by_its_timeout() {
    let hosts = hosts_with_file(2);
    install_hanging_cp(&hosts[0]);
    let apply = ["--apply", "-m", "-n", "echo ok", "-S", "d"];
    for (options, others, status) in [
        ("", &["-S", "d"][..], "ok"),
        ("", &apply, "cancelled"),
        ("-w", &apply, "ok"),
    ] {
        let options = format!("--json --timeout 1s -o web1,web2 {options}");
        let finished = run(&hosts, &options, others).run().code(1);
        assert_eq!(statuses(&finished), ["timeout", status], "{options}");
        let has_run = finished.stdout().contains("ok\\n");
        assert_eq!(has_run, options.ends_with("-w"), "{options}");
        assert_untouched(&hosts);
    }
}

#[test]
fn a_placing_that_fails_is_an_upload_that_has_failed() {
    let hosts = hosts_with_file(2);
    let directory = hosts.home().join("d");
    let place = directory.display().to_string();
    hosts[0].run_ok(&format!("mkdir -p {place}/f"));
    let in_the_way = format!("can't put '{place}/f' in place: a directory is in the way");
    let apply = ["--apply", "-m", "-n", "echo ok", "-S", "d"];
    for others in [&["-S", "d"][..], &apply] {
        let finished = run(&hosts, "-o web1,web2", others).run().code(1);
        let finished = finished
            .says("uploads are failed on 1 out of 2 nodes")
            .says("upload failed: something is in the way; nothing has been changed: ");
        finished.says(&format!("{in_the_way} (1 node): web1"));
        let finished = run(&hosts, "--json -o web1,web2", others).run().code(1);
        assert_eq!(result_of(&finished, "web1")["status"], "upload");
        let body = result_of(&finished, "web1")["body"].to_string();
        assert!(body.contains(&in_the_way), "{body}");
    }
    hosts[0].run_ok(&format!("rmdir {place}/f"));

    // What the system has against it is told in our words.
    hosts[0].run_ok(&format!("chown -R root {place}; chmod 755 {place}"));
    let finished = run(&hosts, "-o guest@web1", ["-S", "d"]).run().code(1);
    let reason = format!(
        "upload failed: can't write to '{place}/'; nothing has been changed: \
         no permission to write there (as root: -x) (1 node): web1"
    );
    finished.says(&reason);
    // Or it says nothing at all.
    hosts[0].install_program("mktemp", "#!/bin/sh\nexit 3\n");
    let finished = run(&hosts, "-o web1", ["-S", "d"]).run().code(1);
    finished.says("upload failed: can't put it in place: code 3");
}

#[test]
fn a_host_that_has_taken_its_files_is_done_where_nothing_comes_after_it() {
    let hosts = hosts_with_file(2);
    install_slow_tar(&hosts[0], 700);
    let upload = run(&hosts, "--json -o web1,web2 -e -r /srv/x", ["-U", "d"]);
    let finished = interrupt(&hosts, upload.spawn());
    assert_eq!(statuses(&finished), ["cancelled", "ok"]);
    assert!(hosts[1].has_file("/srv/x/d/f"));
    assert_ne!(result_of(&finished, "web2")["duration_ms"], 0);
    // And where something does, it is not.
    hosts[0].run_ok("rm /tmp/at");
    let tool = ["-n", "echo ok", "-S", "d"];
    let sync = run(&hosts, "--json -o web1,web2 -e -m -r /srv/x", tool);
    let finished = interrupt(&hosts, sync.spawn());
    assert_eq!(statuses(&finished), ["cancelled", "cancelled"]);
}

#[test]
fn results_say_how_long_an_upload_took() {
    let hosts = hosts_with_file(1);
    for (program, options) in [("tar", "-r /srv/x -U d"), ("cp", "-S d")] {
        hosts[0].run_ok(&format!("cp /bin/{program} /tmp/real-{program}"));
        let slow = format!("#!/bin/sh\nsleep 0.5\nexec /tmp/real-{program} \"$@\"\n");
        hosts[0].install_program(program, slow);
        let options = format!("--json -o web1 {options}");
        let finished = run(&hosts, &options, [""; 0]).run().code(0);
        let time = result_of(&finished, "web1")["duration_ms"].as_u64();
        assert!((500..20_000).contains(&time.expect("a number")), "{time:?}");
    }
}

#[test]
fn what_a_login_shell_says_is_output_of_the_users_command_only() {
    let hosts = hosts_with_file(1);
    for (target, home) in [("web1", "/root"), ("ops@web1 -x", "/home/ops")] {
        // (Behind sudo it is said before sudo is asked.)
        let profile = "echo noise; printf noise; echo noise >&2; printf noise >&2\n";
        hosts[0].write_file(format!("{home}/.bashrc"), profile, 0o644);
        let silent = [&["-e", "-r", "/srv/x", "-U", "d"][..], &["-S", "d"]];
        for others in silent {
            let finished = run(&hosts, &format!("-o {target} -q"), others).run();
            let finished = finished.ok();
            assert_eq!(finished.stdout(), "");
            let finished = run(&hosts, &format!("-o {target}"), others).run().code(0);
            assert!(
                !finished.stderr().contains("noise"),
                "{}",
                finished.stderr()
            );
        }
        let apply = ["--apply", "-m", "-n", "echo ok", "-S", "d"];
        let finished = run(&hosts, &format!("-o {target} -q"), apply).run().code(0);
        // (A shell that is started by a shell may say it again.)
        let alone = ["-m", "-n", "echo ok", "-S", "--no-upload"];
        let alone = run(&hosts, &format!("-o {target} -q -r /srv/x"), alone).run();
        assert!(alone.stdout().starts_with("noise\nnoise"));
        assert_eq!(finished.stdout(), alone.stdout());
        assert_eq!(finished.stderr(), alone.stderr());
    }
    // Where the script never begins, it is the reason.
    let profile = "mkdir /tmp/first 2>/dev/null || { echo 'no service today' >&2; exit 7; }\n";
    hosts[0].write_file("/root/.bashrc", profile, 0o644);
    let finished = run(&hosts, "-o web1 -e -r /srv/y", ["-U", "d"])
        .run()
        .code(1);
    let finished = finished.says("web1 {tar} no service today");
    finished.says("upload failed: no service today (1 node): web1");
}
