//! Commands that fail, and hosts that refuse to run any.

use std::fs::File;
use std::time::{Duration, Instant};

use super::Hosts;
use crate::support::said::{summary, untimed};
use crate::support::{arguments, each, login, orgalorg, targets};

#[test]
fn the_summary_groups_hosts_by_what_went_wrong() {
    let hosts = Hosts::start(5);
    let all = targets(&hosts);

    let one_code = "case $(hostname) in web[135]) exit 17;; esac; echo fine";
    let finished = orgalorg(&hosts, arguments(&all, &[], one_code))
        .run()
        .code(1);
    assert_eq!(finished.sorted(), ["web2 fine", "web4 fine"]);
    assert_eq!(
        untimed(&finished.stderr()),
        "[FATAL] remote execution failed
        └─ commands are failed on 3 out of 5 nodes
           └─ exited with non-zero code 17 (3 nodes): web[1,3,5]
"
    );

    let three = each(["web1", "web2", "web3"]);
    let finished = orgalorg(&hosts, arguments(&three, &[], "exit 17"))
        .run()
        .code(1);
    assert_eq!(
        untimed(&finished.stderr()),
        "[FATAL] remote execution failed
        └─ commands are failed on all 3 nodes
           └─ exited with non-zero code 17 (3 nodes): web[1-3]
"
    );

    let many = "case $(hostname) in
        web1) exit 17;;
        web2) kill -TERM $$; sleep 60;;
        web3) sleep 60;;
        web4) exit 255;;
    esac; echo fine";
    let begun = Instant::now();
    let finished = orgalorg(&hosts, arguments(&all, &["--timeout", "3s"], many))
        .run()
        .code(1);
    assert!(begun.elapsed() < Duration::from_secs(20));
    assert_eq!(finished.stdout(), "web5 fine\n");
    assert_eq!(
        untimed(&finished.stderr()),
        "[FATAL] remote execution failed
        └─ commands are failed on 4 out of 5 nodes
           ├─ exited with non-zero code 17 (1 node): web1
           ├─ exited with non-zero code 255 (1 node): web4
           ├─ signal TERM (1 node): web2
           └─ timeout: longer than 3s (1 node): web3
"
    );

    // A lost connection counts before a failed command.
    let lost = "case $(hostname) in web1) kill -KILL $PPID;; esac; exit 17";
    let finished = orgalorg(&hosts, arguments(&all, &[], lost))
        .run()
        .code(3)
        .says("[ERROR] [root@web1:22] the host closed the connection\n");
    assert_eq!(
        summary(&finished.stderr()),
        "[FATAL] remote execution failed
        └─ commands are failed on all 5 nodes
           ├─ exited with non-zero code 17 (4 nodes): web[2-5]
           └─ connection lost: the host closed the connection (1 node): web1
"
    );
}

#[test]
fn the_first_failure_ends_a_run_under_fail_fast() {
    let hosts = Hosts::start(3);
    let command = "echo begun
        case $(hostname) in
            web2) until [ -e /tmp/go ]; do sleep 0.05; done; exit 4;;
            *) sleep 60;;
        esac";
    let run = orgalorg(
        &hosts,
        arguments(&targets(&hosts), &["--fail-fast"], command),
    )
    .spawn();
    run.wait_for_stdout("begun", 3);
    hosts[1].write_file("/tmp/go", "", 0o644);
    let finished = run.finish_within(Duration::from_secs(20)).code(1);
    assert_eq!(
        untimed(&finished.stderr()),
        "[FATAL] remote execution failed
        └─ commands are failed on 1 out of 3 nodes
           ├─ exited with non-zero code 4 (1 node): web2
           └─ not finished (2 nodes): web[1,3]
"
    );
}

#[test]
fn a_command_that_closes_its_outputs_is_waited_for() {
    let hosts = Hosts::start(1);
    let run = |command: &str| orgalorg(&hosts, arguments(&each(["web1"]), &[], command)).run();

    let finished = run("exec >&- 2>&-; sleep 1; touch /tmp/done; exit 7").code(1);
    assert!(hosts[0].has_file("/tmp/done"));
    assert!(finished.stderr().contains("code 7 (1 node): web1"));

    let finished = run("echo one; exec >&-; sleep 0.5; echo two >&2").code(0);
    assert_eq!(finished.stdout(), "web1 one\n");
    assert_eq!(finished.stderr(), "web1 two\n");

    assert_eq!(run("true").ok().stdout(), "");
}

#[test]
fn a_process_left_behind_is_waited_for_exactly_when_ssh_does() {
    let hosts = Hosts::start(1);
    for (command, waits) in [
        ("sleep 2 & echo hi", true),
        ("sleep 86380 >/dev/null 2>&1 & echo hi", false),
        ("sleep 86381 >/dev/null 2>&1 </dev/null & exit 3", false),
    ] {
        let begun = Instant::now();
        let ssh = hosts
            .ssh("root", &hosts[0])
            .arg(command)
            .output()
            .expect("ssh can be run");
        let as_ssh = begun.elapsed();
        let finished = orgalorg(&hosts, arguments(&each(["web1"]), &[], command)).run();
        if waits {
            let shorter = as_ssh.min(finished.elapsed);
            assert!(shorter > Duration::from_secs(2), "{command}: {shorter:?}");
        } else {
            let (process, _) = command.split_once(" >").expect("it is redirected");
            assert!(hosts[0].runs(process), "{command}");
        }
        let expected = String::from_utf8_lossy(&ssh.stdout).replace("hi", "web1 hi");
        assert_eq!(finished.stdout(), expected);
        assert_eq!(finished.status.success(), ssh.status.success(), "{command}");
    }
}

#[test]
fn a_command_may_end_or_idle_while_there_is_input_for_it() {
    let hosts = Hosts::start(1);
    let input = hosts.dir().join("input");
    let size = 50 << 20;
    let file = File::create(&input).expect("there is room");
    file.set_len(size).expect("there is room for a sparse file");
    let input = input.to_str().expect("the path is UTF-8");
    // Both are much shorter than the silence.
    let options = ["-i", input, "-j", "1s", "-z", "1s"];
    let run = |command: &str| orgalorg(&hosts, arguments(&each(["web1"]), &options, command)).run();

    let finished = run("head -c 1 >/dev/null; echo enough; exit 5").code(1);
    assert_eq!(finished.stdout(), "web1 enough\n");
    assert!(finished.stderr().contains("code 5 (1 node): web1"));

    // Closed stdin, and a process that goes on.
    let finished = run("exec <&-; sleep 4; echo late").ok();
    assert_eq!(finished.stdout(), "web1 late\n");

    // A full window is no full connection.
    let finished = run("sleep 4; wc -c").ok();
    assert_eq!(finished.stdout(), format!("web1 {size}\n"));
}

#[test]
fn what_a_server_does_not_allow_is_said_clearly() {
    let hosts = Hosts::builder()
        .sshd_option("Match User guest\n  MaxSessions 0")
        .sshd_option("Match User carol\n  ForceCommand echo \"not $SSH_ORIGINAL_COMMAND\"; exit 9")
        .sshd_option("Match User ops\n  PermitTTY no")
        .start();
    let run = |user: &str, options: &[&str]| {
        let target = each([login(user, &hosts[0]).as_str()]);
        orgalorg(&hosts, arguments(&target, options, "hostname")).run()
    };

    // No channel at all is found out before anything is run.
    let finished = run("guest", &[]).code(3);
    assert_eq!(finished.stdout(), "");
    assert_eq!(
        untimed(&finished.stderr()),
        "[FATAL] connecting to cluster failed
        └─ connection to 1 of 1 node failed
           └─ refused by the host: [guest@web1:22]
              └─ the host allows no (further) session (MaxSessions in its sshd_config?)
                 └─ channel open failure (connect failed)
"
    );

    // Whatever is asked for, something else is run: there can be no lock.
    let finished = run("carol", &[])
        .code(3)
        .says("the host does not run the lock holder (status 9)");
    assert_eq!(finished.stdout(), "");

    let finished = run("ops", &["--tty"]).code(3);
    assert_eq!(
        untimed(&finished.stderr()),
        "[FATAL] remote execution failed
        └─ the command is failed on the only node
           └─ refused: the host gives no pseudo-terminal (PermitTTY in its sshd_config?) (1 node): web1
"
    );
    run("ops", &[]).ok();
}

#[test]
fn a_user_without_a_usable_shell_fails_with_the_words_of_the_host() {
    let hosts = Hosts::start(1);
    let run = |shell: &str| {
        hosts[0].login_shell("guest", shell);
        orgalorg(&hosts, arguments(&each(["guest@web1"]), &[], "hostname")).run()
    };
    run("/usr/sbin/nologin")
        .code(3)
        .says("refused by the host: [guest@web1:22]")
        .says("the host does not run the lock holder (status 1)")
        .says("This account is currently not available.");
    run("/bin/false")
        .code(3)
        .says("the host does not run the lock holder (status 1)");
    // sshd lets nobody in whose shell is not there.
    run("/no/such/shell")
        .code(3)
        .says("can't authenticate: [guest@web1:22]");
}

#[test]
fn a_slow_link_is_no_lost_connection() {
    let hosts = Hosts::start(1);
    hosts[0].slow("1mbit");
    let input = vec![b'x'; 300_000];
    let options = ["-i", "-", "-j", "2s", "-z", "2s"];
    let command = "seq 1 30000; wc -c";
    let finished = orgalorg(&hosts, arguments(&each(["web1"]), &options, command))
        .stdin(input)
        .run()
        .ok();
    let lines: Vec<String> = finished.stdout().lines().map(str::to_owned).collect();
    assert_eq!(lines.len(), 30_001);
    assert_eq!(lines[29_999], "web1 30000");
    assert_eq!(lines[30_000], "web1 300000");
}
