//! The test hosts themselves: that they are what the other tests take them for.

use std::collections::HashSet;
use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use crate::hosts::keys::{KeyFormat, public_key};
use crate::hosts::{Host, Hosts, holds_within, wait_until};

const SOON: Duration = Duration::from_secs(20);

/// Long enough for an answer of a host that could give one.
const A_MOMENT: Duration = Duration::from_millis(300);

/// Set for the process that [`owner_of_hosts`] runs in.
const OWNER: &str = "TEST_HOSTS_OWNER";

#[test]
fn hosts_have_a_name_a_file_system_and_processes_of_their_own() {
    let hosts = Hosts::start(3);

    for host in &hosts {
        let name = output_of(hosts.ssh("ops", host).arg("hostname; hostname >/tmp/name"));
        assert_eq!(name, host.name());
    }
    for host in &hosts {
        assert_eq!(
            host.read_file("/tmp/name"),
            format!("{}\n", host.name()).as_bytes()
        );
        assert_eq!(output_of(hosts.ssh("ops", host).arg("ls /tmp")), "name");
        assert!(
            host.processes()
                .iter()
                .any(|process| process.pid == 1 && process.name == "sh")
        );
        let pids = output_of(hosts.ssh("root", host).arg("ls /proc | grep -c '^[0-9]'"));
        assert!(pids.parse::<u32>().unwrap() < 20, "{pids} processes");
    }
}

#[test]
fn hosts_are_reached_by_address_and_over_ipv6() {
    let hosts = Hosts::builder().names(["db1"]).port(2222).start();
    let host = &hosts[0];

    for target in [
        "ops@db1-v6".to_owned(),
        format!("ops@{}", host.addr()),
        format!("ops@{}", host.addr6()),
        "ssh://ops@db1:2222".to_owned(),
    ] {
        let mut ssh = hosts.client("ssh");
        ssh.args(hosts.ssh_args()).args([&target, "hostname"]);
        assert_eq!(output_of(&mut ssh), "db1", "{target}");
    }
}

#[test]
fn programs_see_neither_the_users_nor_the_machines_ssh_settings() {
    let hosts = Hosts::start(1);

    let mut shell = hosts.client("sh");
    shell
        .current_dir(hosts.dir())
        .args(["-c", "pwd; echo ~root; ls -A /etc/ssh ~root/.ssh; env"])
        .env("LEFT", "alone");
    let said = output_of(&mut shell);

    let home = hosts.home();
    assert!(
        said.starts_with(&format!(
            "{}\n{}\n/etc/ssh:\n\n{}/.ssh:\n",
            hosts.dir().display(),
            home.display(),
            home.display()
        )),
        "{said}"
    );
    assert!(said.contains("\nLEFT=alone"), "{said}");
    assert!(!said.contains("SSH_AUTH_SOCK"), "{said}");
}

#[test]
fn a_cut_host_is_silent_until_it_is_healed() {
    let hosts = Hosts::start(2);
    let host = &hosts[0];
    let mut session = hosts.ssh("ops", host);
    let mut session = session
        .arg("cat")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = session.stdin.take().unwrap();
    let mut lines = BufReader::new(session.stdout.take().unwrap()).lines();
    writeln!(stdin, "before").unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "before");

    host.cut();
    assert!(!host.is_reachable());
    assert!(hosts[1].is_reachable());

    host.heal();
    writeln!(stdin, "after").unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "after");
    drop(stdin);
    assert!(session.wait().unwrap().success());
}

#[test]
fn a_frozen_host_takes_connections_but_says_nothing() {
    let hosts = Hosts::start(1);
    let host = &hosts[0];

    for (freeze, still_runs) in [
        (Host::freeze as fn(&Host), false),
        (Host::freeze_listener, true),
    ] {
        let mut session = hosts.ssh("ops", host);
        let mut session = session
            .arg("while :; do echo tick; sleep 0.02; done")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(session.stdout.take().unwrap()).lines();
        lines.next().unwrap().unwrap();

        freeze(host);
        assert!(!greets(&hosts, host));
        let ticking = || {
            let processes = host.processes();
            processes.iter().any(|p| p.name == "bash" && p.state != 'T')
        };
        assert_eq!(ticking(), still_runs);

        host.thaw();
        wait_until("sshd to greet again", SOON, || greets(&hosts, host));
        lines.next().unwrap().unwrap();
        host.drop_connections();
        assert!(!session.wait().unwrap().success());
        // It has outlived its connection.
        host.kill_matching("echo tick");
    }
}

#[test]
fn a_killed_host_is_gone_and_the_others_stay() {
    let hosts = Hosts::start(2);

    hosts[0].kill();

    assert!(!hosts[0].is_running());
    assert!(hosts[0].processes().is_empty());
    assert!(!hosts[0].is_reachable());
    assert_eq!(
        output_of(hosts.ssh("ops", &hosts[1]).arg("hostname")),
        "web2"
    );
}

#[test]
fn a_changed_host_key_is_seen_by_new_connections() {
    let hosts = Hosts::start(2);
    let old = hosts[0].host_keys();

    hosts[0].change_host_key();

    assert!(hosts[0].host_keys().iter().all(|key| !old.contains(key)));
    let refused = hosts.ssh("ops", &hosts[0]).arg("true").output().unwrap();
    assert_eq!(refused.status.code(), Some(255));
    assert!(stderr(&refused).contains("REMOTE HOST IDENTIFICATION HAS CHANGED"));
    output_of(hosts.ssh("ops", &hosts[1]).arg("true"));

    hosts.write_known_hosts();
    output_of(hosts.ssh("ops", &hosts[0]).arg("true"));
}

#[test]
fn only_the_host_keys_asked_for_are_offered() {
    let hosts = Hosts::builder().host_keys(&["rsa"]).start();

    let scan = output_of(
        hosts
            .client("ssh-keyscan")
            .arg("web1")
            .stderr(Stdio::null()),
    );

    let types: HashSet<&str> = scan
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .collect();
    assert_eq!(types, HashSet::from(["ssh-rsa"]));
}

#[test]
fn passwords_work_with_and_without_pam() {
    for (pam, method) in [(false, "password"), (true, "keyboard-interactive")] {
        let hosts = Hosts::builder()
            .pam(pam)
            .sshd_option(&format!("AuthenticationMethods {method}"))
            .start();
        let host = &hosts[0];

        let mut right = hosts.ssh_with_password("ops", "ops-secret", host);
        assert_eq!(output_of(right.arg("id -un")), "ops");
        let mut wrong = hosts.ssh_with_password("ops", "wrong", host);
        assert_eq!(wrong.arg("true").output().unwrap().status.code(), Some(255));
        wait_until("sshd to say so", Duration::from_secs(20), || {
            host.log().contains("Failed ")
        });
    }
}

#[test]
fn sudo_asks_ops_nothing_carol_for_her_password_and_never_lets_guest() {
    let hosts = Hosts::start(1);
    let id = |user: &str, sudo: &str| {
        let command = format!("{sudo} id -un");
        hosts.ssh(user, &hosts[0]).arg(command).output().unwrap()
    };

    assert_eq!(id("ops", "sudo -n").stdout, b"root\n");
    assert_eq!(id("ops", "sudo -n A=b").stdout, b"root\n");
    for user in ["guest", "carol"] {
        let refused = id(user, "sudo -n");
        assert!(!refused.status.success());
        assert!(stderr(&refused).contains("password is required"), "{user}");
    }
    assert_eq!(id("carol", "echo carol-secret | sudo -S").stdout, b"root\n");
    assert!(!id("guest", "echo guest-secret | sudo -S").status.success());
}

#[test]
fn keys_of_all_formats_can_be_authorized() {
    let hosts = Hosts::start(1);

    for (kind, options, format, header) in [
        ("ed25519", &[][..], KeyFormat::OpenSsh, "OPENSSH"),
        ("ecdsa", &["-b", "384"], KeyFormat::Pkcs8, "PRIVATE"),
        ("rsa", &["-b", "2048"], KeyFormat::Pem, "RSA"),
    ] {
        let key = hosts.keygen(kind, options, format, "");
        let text = fs::read_to_string(&key).unwrap();
        assert!(text.starts_with(&format!("-----BEGIN {header} ")), "{text}");
        let login = || {
            let mut ssh = hosts.client("ssh");
            ssh.args(hosts.ssh_args_with(&key))
                .args(["carol@web1", "true"]);
            ssh.output().unwrap().status.success()
        };
        assert!(!login(), "{kind}");
        hosts.authorize("carol", &public_key(&key));
        assert!(login(), "{kind}");
    }
}

#[test]
fn a_slow_wire_takes_its_time() {
    let hosts = Hosts::start(1);
    let host = &hosts[0];
    let fetch_takes_long = || {
        let mut ssh = hosts.ssh("ops", host);
        let mut ssh = ssh
            .arg("head -c 400000 /dev/zero")
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        // 400 kB at 1 Mbit/s are three seconds.
        let quick = holds_within(Duration::from_millis(2500), || {
            ssh.try_wait().unwrap().is_some()
        });
        ssh.wait().unwrap();
        !quick
    };

    host.slow("1mbit");
    assert!(fetch_takes_long());
    host.fast();
    // A busy machine may be slow by itself, but not for ever.
    assert!((0..10).any(|_| !fetch_takes_long()));
}

#[test]
fn a_host_can_be_given_an_odd_system() {
    let hosts = Hosts::start(3);
    let [plain, bare, busybox] = [0, 1, 2].map(|i| &hosts[i]);

    plain.small_disk("/srv/small", 64);
    let full = "head -c 100000 /dev/zero >/srv/small/file";
    let refused = hosts.ssh("ops", plain).arg(full).output().unwrap();
    assert!(stderr(&refused).contains("No space left on device"));

    bare.login_shell("ops", "/bin/sh");
    bare.remove_program("bash");
    let look = "command -v bash || echo none; ls /bin/bash 2>/dev/null; echo $0";
    assert_eq!(output_of(hosts.ssh("ops", bare).arg(look)), "none\nsh");
    bare.install_program("bash", "#!/bin/sh\necho not really\n");
    assert_eq!(
        output_of(hosts.ssh("ops", bare).arg("bash -c true")),
        "not really"
    );

    busybox.busybox_userland();
    let look = "for p in sh tar ls; do readlink -f $(command -v $p); done; sudo -n id -un";
    assert_eq!(
        output_of(hosts.ssh("ops", busybox).arg(look)),
        "/usr/bin/busybox\n/usr/bin/busybox\n/usr/bin/busybox\nroot"
    );
    assert!(
        plain
            .run("bash --version && tar --version")
            .status
            .success()
    );
}

#[test]
fn files_are_read_and_written_as_the_host_sees_them() {
    let hosts = Hosts::start(1);
    let host = &hosts[0];

    host.write_file("/var/run/note", "hello", 0o640);

    assert_eq!(
        host.run_ok("ls -l /run/note; cat /run/note")
            .split_whitespace()
            .next(),
        Some("-rw-r-----")
    );
    // An absolute link leads to the host's file, not to the machine's.
    host.run_ok("ln -s /etc/hostname /tmp/link");
    assert_eq!(host.read_file("/tmp/link"), b"web1\n");
}

#[test]
fn a_wrong_sshd_option_is_told_with_the_log() {
    let panic = std::panic::catch_unwind(|| Hosts::builder().sshd_option("Nonsense yes").start())
        .err()
        .expect("sshd refuses to start");

    let message = panic.downcast_ref::<String>().unwrap();
    assert!(message.contains("host web1 did not start"), "{message}");
    assert!(message.contains("Nonsense"), "{message}");
}

#[test]
fn nothing_is_left_when_the_hosts_are_dropped() {
    let hosts = Hosts::start(2);
    let mut program = hosts.client("sleep").arg("1000").spawn().unwrap();
    hosts.iter().for_each(|host| {
        host.run_ok("sleep 1000 >/dev/null 2>&1 &");
    });
    let traces = Traces::of(hosts.dir(), hosts.iter(), program.id());

    drop(hosts);

    assert!(!program.wait().unwrap().success());
    traces.assert_gone();
}

#[test]
fn nothing_is_left_when_the_owner_is_killed() {
    let test = format!("{}::owner_of_hosts", module_path_in_crate());
    let mut owner = Command::new(env::current_exe().unwrap())
        .args(["--exact", &test, "--ignored", "--nocapture"])
        .env(OWNER, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(owner.stdout.take().unwrap()).lines();
    let traces = loop {
        let line = lines.next().expect("the owner starts its hosts").unwrap();
        if let Some(list) = line.split_once("traces: ").map(|(_, list)| list) {
            break Traces::parse(list);
        }
    };
    assert!(traces.pids.iter().all(|&pid| is_alive(pid)));

    // SIGKILL, that is.
    owner.kill().unwrap();
    owner.wait().unwrap();

    traces.assert_gone();
}

/// Not a test: the process that the test above kills.
#[test]
#[ignore = "run by nothing_is_left_when_the_owner_is_killed"]
fn owner_of_hosts() {
    if env::var_os(OWNER).is_none() {
        return;
    }
    let hosts = Hosts::start(2);
    let mut program = hosts.client("sleep").arg("1000").spawn().unwrap();
    let traces = Traces::of(hosts.dir(), hosts.iter(), program.id());
    println!("\ntraces: {}", traces.to_line());
    // Ends only if the killing does not.
    let mut nothing = String::new();
    std::io::stdin().read_line(&mut nothing).unwrap();
    program.kill().unwrap();
    program.wait().unwrap();
}

/// What must go with the hosts.
struct Traces {
    dir: PathBuf,
    pids: Vec<u32>,
}

impl Traces {
    fn of<'a>(dir: &Path, hosts: impl Iterator<Item = &'a Host>, program: u32) -> Self {
        let on_hosts = hosts.flat_map(Host::processes);
        let mut pids: Vec<u32> = on_hosts.map(|p| p.outer_pid.unsigned_abs()).collect();
        pids.push(program);
        // The keeper, the supervisor and so on name the directory.
        let name = dir.to_str().unwrap();
        pids.extend(all_pids().filter(|pid| {
            let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&command).contains(name)
        }));
        pids.sort_unstable();
        pids.dedup();
        Self {
            dir: dir.to_owned(),
            pids,
        }
    }

    fn to_line(&self) -> String {
        let pids: Vec<String> = self.pids.iter().map(u32::to_string).collect();
        format!("{} {}", self.dir.display(), pids.join(" "))
    }

    fn parse(line: &str) -> Self {
        let mut words = line.split_whitespace();
        Self {
            dir: words.next().unwrap().into(),
            pids: words.map(|pid| pid.parse().unwrap()).collect(),
        }
    }

    fn assert_gone(&self) {
        wait_until("all processes of the hosts to end", SOON, || {
            self.pids.iter().all(|&pid| !is_alive(pid))
        });
        wait_until("the hosts' directory to go", SOON, || !self.dir.exists());
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        assert!(!mounts.contains(self.dir.to_str().unwrap()), "{mounts}");
    }
}

fn all_pids() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").unwrap();
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

fn is_alive(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        stat.rsplit(')')
            .next()
            .is_some_and(|rest| !rest.starts_with(" Z"))
    })
}

/// Whether sshd says its first words to a new connection.
fn greets(hosts: &Hosts, host: &Host) -> bool {
    hosts.in_network(|| {
        let address = SocketAddr::from((host.addr(), 22));
        let stream = TcpStream::connect_timeout(&address, SOON).expect("the kernel answers");
        stream.set_read_timeout(Some(A_MOMENT)).unwrap();
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).is_ok() && line.starts_with("SSH-2.0-")
    })
}

/// The path of this module as the test runner writes it: without the crate.
fn module_path_in_crate() -> &'static str {
    module_path!().split_once("::").map_or("", |(_, path)| path)
}

#[track_caller]
fn output_of(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}: {}",
        output.status,
        stderr(&output)
    );
    String::from_utf8(output.stdout)
        .unwrap()
        .trim_end()
        .to_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
