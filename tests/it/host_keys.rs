//! Host keys: known, unknown, changed and revoked ones, and the question about
//! them.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::hosts::{Host, Hosts, wait_until};
use crate::support::{Orgalorg, fingerprint, orgalorg_in_empty_home, targets};

/// For what takes a moment.
const SOON: Duration = Duration::from_secs(30);

/// The program with a key that lets it in, in a home that knows no host.
fn orgalorg<A: AsRef<OsStr>>(hosts: &Hosts, arguments: impl IntoIterator<Item = A>) -> Orgalorg {
    let mut all = vec!["-k".into(), hosts.key().into_os_string()];
    all.extend(arguments.into_iter().map(|word| word.as_ref().to_owned()));
    orgalorg_in_empty_home(hosts, all)
}

/// The same, with all hosts as targets and these options, running a command
/// that leaves a trace on them.
fn on_all(hosts: &Hosts, options: &[&str]) -> Orgalorg {
    let mut all = targets(hosts);
    all.extend(options.iter().map(|&word| word.to_owned()));
    all.extend(["-C", "touch /tmp/run && hostname"].map(str::to_owned));
    orgalorg(hosts, all)
}

/// Whether the command has been run there.
fn has_run(host: &Host) -> bool {
    host.has_file("/tmp/run")
}

#[track_caller]
fn assert_nothing_has_run(hosts: &Hosts) {
    for host in hosts {
        assert!(!has_run(host), "the command was run on {}", host.name());
    }
}

/// Only Ed25519 keys: nothing to choose from.
fn simple_hosts(count: usize) -> Hosts {
    Hosts::builder()
        .count(count)
        .host_keys(&["ed25519"])
        .start()
}

/// The file that is read and recorded to by default.
fn user_file(hosts: &Hosts) -> PathBuf {
    hosts.home().join(".ssh/known_hosts")
}

/// A host's key: type and base64, without the comment.
fn key(host: &Host, kind: &str) -> String {
    let keys = host.host_keys();
    let key = keys.iter().find(|key| key.starts_with(kind));
    without_comment(key.expect("the host has such a key"))
}

/// A key that no host has.
fn nobodys_key(hosts: &Hosts) -> String {
    let public = crate::hosts::keys::public_key(hosts.key());
    without_comment(&fs::read_to_string(public).expect("a public key is text"))
}

fn without_comment(key: &str) -> String {
    let words: Vec<&str> = key.split(' ').take(2).collect();
    words.join(" ")
}

/// What a real ssh makes of a known_hosts file.
fn ssh(hosts: &Hosts, policy: &str, file: &Path, host: &str, port: u16) -> bool {
    let mut ssh = hosts.client("ssh");
    ssh.args(["-F", "none", "-o", "BatchMode=yes", "-o"])
        .arg(format!("StrictHostKeyChecking={policy}"))
        .args(["-o", "GlobalKnownHostsFile=/dev/null", "-o"])
        .arg(format!("UserKnownHostsFile={}", file.display()))
        // It would learn the other keys of a host.
        .args(["-o", "UpdateHostKeys=no", "-l", "root", "-i"])
        .arg(hosts.key())
        .args(["-p", &port.to_string(), host, "true"]);
    let output = ssh.output().expect("ssh can be run");
    output.status.success()
}

// ---- what is known

#[test]
fn lines_of_known_hosts_mean_what_they_mean_to_ssh() {
    let hosts = Hosts::builder().host_keys(&["ed25519"]).port(2222).start();
    let file = hosts.dir().join("tried");
    let (good, bad) = (key(&hosts[0], "ssh-ed25519"), nobodys_key(&hosts));
    let (v4, v6) = (hosts[0].addr().to_string(), hosts[0].addr6().to_string());
    let hashed = |name: &str| {
        let path = hosts.dir().join("to-be-hashed");
        fs::write(&path, format!("{name} {good}\n")).unwrap();
        let hashing = Command::new("ssh-keygen").arg("-Hf").arg(&path).output();
        assert!(hashing.unwrap().status.success());
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("|1|"), "{text}");
        text
    };
    let cases = [
        (true, "web1", 22, format!("web1 {good}\n")),
        (
            true,
            "web1",
            22,
            format!("web1 {good} a comment, web1 {bad}"),
        ),
        (true, "web1", 22, format!("WEB1 {good}\n")),
        (
            true,
            "web1",
            22,
            format!("# mine\n\n\tother {bad}\r\nweb1 {good}\r\n"),
        ),
        (true, "web1", 22, format!("other,web1,{v4} {good}\n")),
        (true, &v4, 22, format!("other,web1,{v4} {good}\n")),
        (true, &v6, 22, format!("{v6} {good}\n")),
        (true, "web1", 22, format!("web1 {bad}\nweb1 {good}\n")),
        (true, "web1", 22, hashed("web1")),
        (false, "web1-v6", 22, hashed("web1")),
        (true, "web1", 2222, format!("[web1]:2222 {good}\n")),
        (true, "web1", 2222, hashed("[web1]:2222")),
        (true, &v6, 2222, format!("[{v6}]:2222 {good}\n")),
        (false, "web1", 22, format!("[web1]:2222 {good}\n")),
        // The bare name serves where the port is not listed.
        (true, "web1", 2222, format!("web1 {good}\n")),
        (true, "web1", 2222, hashed("web1")),
        (
            false,
            "web1",
            2222,
            format!("[web1]:2222 {bad}\nweb1 {good}\n"),
        ),
        (false, "web1", 2222, format!("web1 {bad}\n")),
        (true, "web1", 22, format!("web* {good}\n")),
        (true, "web1", 22, format!("?eb? {good}\n")),
        (true, "web1", 22, format!("*,!web2 {good}\n")),
        (false, "web1", 22, format!("*,!web1 {good}\n")),
        (false, "web1", 22, format!("!web2 {good}\n")),
        (true, "web1", 2222, format!("[*]:2222 {good}\n")),
        (false, "web1", 22, format!("@cert-authority * {good}\n")),
        (
            true,
            "web1",
            22,
            format!("@cert-authority * {bad}\nweb1 {good}\n"),
        ),
        (
            false,
            "web1",
            22,
            format!("web1 {good}\n@revoked * {good}\n"),
        ),
        (true, "web1", 22, format!("web1 {good}\n@revoked * {bad}\n")),
        (false, "web1", 22, format!("web1 {bad}\n")),
        (false, "web1", 22, String::new()),
    ];
    for (is_known, host, port, text) in cases {
        fs::write(&file, &text).unwrap();
        let oracle = ssh(&hosts, "yes", &file, host, port);
        assert_eq!(oracle, is_known, "ssh itself: {host} {port}\n{text}");
        let target = if host.contains(':') {
            format!("[{host}]:{port}")
        } else {
            format!("{host}:{port}")
        };
        let file = file.to_str().unwrap();
        let options = [
            "--host-keys",
            "strict",
            "--known-hosts",
            file,
            "-o",
            &target,
        ];
        let finished = orgalorg(&hosts, [&options[..], &["-C", "true"]].concat()).run();
        if is_known {
            finished.ok();
        } else {
            let said = finished.code(3).stderr();
            assert!(said.contains("host key"), "{target}: {said}\n{text}");
        }
    }
}

#[test]
fn the_files_of_user_and_system_are_both_read() {
    let hosts = simple_hosts(1);
    let good = key(&hosts[0], "ssh-ed25519");
    let system = hosts.dir().join("client/ssh/ssh_known_hosts");
    for path in [
        user_file(&hosts),
        hosts.home().join(".ssh/known_hosts2"),
        system,
        hosts.dir().join("client/ssh/ssh_known_hosts2"),
    ] {
        on_all(&hosts, &["--host-keys", "strict"]).run().code(3);
        fs::write(&path, format!("web1 {good}\n")).unwrap();
        on_all(&hosts, &["--host-keys", "strict"]).run().ok();
        fs::remove_file(&path).unwrap();
    }
}

#[test]
fn a_bad_line_is_named_and_hides_no_other() {
    let hosts = simple_hosts(1);
    let good = key(&hosts[0], "ssh-ed25519");
    let file = user_file(&hosts);
    fs::write(
        &file,
        format!("\u{0}junk\nweb1 {good}\nweb1 ssh-ed25519 AAAA\n"),
    )
    .unwrap();
    let said = on_all(&hosts, &["--host-keys", "strict"])
        .run()
        .code(0)
        .stderr();
    for place in [":1: ", ":3: "] {
        assert!(
            said.contains(&format!("{}{place}", file.display())),
            "{said}"
        );
    }
    assert!(!said.contains(":2: "), "{said}");
}

#[test]
fn a_host_is_asked_for_the_type_of_key_that_is_known() {
    let hosts = Hosts::start(1);
    for (kind, shown) in [
        ("ssh-rsa", "rsa-sha2-"),
        ("ecdsa", "ecdsa-sha2-nistp256"),
        ("ssh-ed25519", "ssh-ed25519"),
    ] {
        fs::write(
            user_file(&hosts),
            format!("web1 {}\n", key(&hosts[0], kind)),
        )
        .unwrap();
        on_all(&hosts, &["--host-keys", "strict"]).run().ok();
        let said = on_all(&hosts, &["--host-keys", "strict", "-v"])
            .run()
            .code(0)
            .stderr();
        assert!(said.contains(&format!(", {shown}")), "{said}");
    }
}

#[test]
fn a_server_without_the_known_type_of_key_is_refused_as_changed() {
    let hosts = Hosts::builder().host_keys(&["rsa"]).start();
    let file = user_file(&hosts);
    let known = nobodys_key(&hosts);
    fs::write(&file, format!("web1 {known}\n")).unwrap();
    for policy in ["strict", "ask", "accept-new"] {
        on_all(&hosts, &["--host-keys", policy])
            .run()
            .code(3)
            .says("host key refused: [root@web1:22]")
            .says("the host key has CHANGED to another type")
            .says(&fingerprint(&known))
            .says(&fingerprint(&key(&hosts[0], "ssh-rsa")));
    }
    assert_eq!(
        fs::read_to_string(&file).unwrap(),
        format!("web1 {known}\n")
    );
    assert!(!ssh(&hosts, "accept-new", &file, "web1", 22));
    assert_nothing_has_run(&hosts);
}

// ---- changed and revoked

#[test]
fn a_changed_host_key_is_refused_under_every_policy_but_off() {
    let hosts = simple_hosts(2);
    let file = user_file(&hosts);
    let before = key(&hosts[1], "ssh-ed25519");
    fs::write(
        &file,
        format!(
            "# mine\nweb1 {}\nweb2 {before}\n",
            key(&hosts[0], "ssh-ed25519")
        ),
    )
    .unwrap();
    let text = fs::read_to_string(&file).unwrap();
    on_all(&hosts, &[]).run().ok();
    hosts[0].run_ok("rm /tmp/run");
    hosts[1].run_ok("rm /tmp/run");
    hosts[1].change_host_key();
    let after = key(&hosts[1], "ssh-ed25519");
    for policy in ["strict", "ask", "accept-new"] {
        for skip in [&[][..], &["-w"]] {
            let options = [&["--host-keys", policy], skip].concat();
            let said = on_all(&hosts, &options)
                .run()
                .code(3)
                .says("host key refused: [root@web2:22]")
                .says("the host key has CHANGED")
                .says(&format!(
                    "the host shows ssh-ed25519 {}",
                    fingerprint(&after)
                ))
                .says(&format!(
                    "{}:3 has {}",
                    file.display(),
                    fingerprint(&before)
                ))
                .says(&format!("ssh-keygen -R 'web2' -f '{}'", file.display()))
                .stderr();
            assert!(!said.contains("web1"), "{said}");
        }
    }
    assert_nothing_has_run(&hosts);
    let finished = on_all(&hosts, &["--host-keys", "off"]).run().code(0);
    assert_eq!(finished.sorted(), ["web1 web1", "web2 web2"]);
    let said = finished.stderr();
    assert!(said.contains("[WARN] host keys are not checked"), "{said}");
    assert!(said.contains("the host key has CHANGED"), "{said}");
    assert!(said.contains("[root@web2:22]"), "{said}");
    assert_eq!(fs::read_to_string(&file).unwrap(), text);
}

#[test]
fn the_advice_about_a_changed_key_works() {
    let hosts = Hosts::builder().host_keys(&["ed25519"]).port(2222).start();
    let file = hosts.dir().join("it's here");
    fs::write(&file, format!("[web1]:2222 {}\n", nobodys_key(&hosts))).unwrap();
    let options = ["--known-hosts", file.to_str().unwrap(), "-o", "web1:2222"];
    let run = |policy| {
        orgalorg(
            &hosts,
            [&options[..], &["--host-keys", policy, "-C", "true"]].concat(),
        )
    };
    let said = run("strict").run().code(3).stderr();
    let (_, advice) = said.split_once("or all keys of that name: ").unwrap();
    let advice = advice.lines().next().unwrap();
    let removed = Command::new("sh").args(["-c", advice]).output().unwrap();
    assert!(removed.status.success(), "{advice}: {removed:?}");
    run("accept-new").run().code(0);
    run("strict").run().ok();
}

#[test]
fn a_revoked_key_is_refused_whatever_else_is_said_of_it() {
    let hosts = simple_hosts(1);
    let good = key(&hosts[0], "ssh-ed25519");
    let file = user_file(&hosts);
    for known in ["", &format!("web1 {good}\n")] {
        fs::write(&file, format!("{known}@revoked * {good}\n")).unwrap();
        let line = known.lines().count() + 1;
        for policy in ["strict", "ask", "accept-new"] {
            on_all(&hosts, &["-w", "--host-keys", policy])
                .run()
                .code(3)
                .says("host key refused: [root@web1:22]")
                .says("the host key has been REVOKED")
                .says(&format!("{}:{line}", file.display()))
                .says(&fingerprint(&good));
        }
        assert_nothing_has_run(&hosts);
        // As ssh does where nothing is checked.
        assert!(ssh(&hosts, "no", &file, "web1", 22));
        let finished = on_all(&hosts, &["--host-keys", "off"]).run().code(0);
        finished.says("the host key has been REVOKED");
        hosts[0].run_ok("rm /tmp/run");
    }
}

// ---- unknown, without a question

#[test]
fn unknown_keys_stop_the_run_where_nobody_may_take_them() {
    let hosts = simple_hosts(3);
    // One of them is known, and must not be touched either.
    fs::write(
        user_file(&hosts),
        format!("web2 {}\n", key(&hosts[1], "ssh-ed25519")),
    )
    .unwrap();
    for policy in ["strict", "ask"] {
        for skip in [&[][..], &["-w"], &["-d", "1"]] {
            let options = [&["--host-keys", policy], skip].concat();
            let said = on_all(&hosts, &options)
                .run()
                .code(3)
                .says("connecting to cluster failed")
                .says("connection to 2 of 3 nodes failed")
                .stderr();
            for host in [&hosts[0], &hosts[2]] {
                let name = host.name();
                assert!(
                    said.contains(&format!("host key refused: [root@{name}:22]")),
                    "{said}"
                );
                assert!(
                    said.contains(&fingerprint(&key(host, "ssh-ed25519"))),
                    "{said}"
                );
            }
            assert!(!said.contains("web2"), "{said}");
            assert!(said.contains("--host-keys accept-new"), "{said}");
            assert!(said.contains("ssh-keyscan"), "{said}");
            assert_nothing_has_run(&hosts);
        }
    }
    assert_eq!(
        fs::read_to_string(user_file(&hosts))
            .unwrap()
            .lines()
            .count(),
        1
    );
}

#[test]
fn off_takes_unknown_keys_and_records_nothing() {
    let hosts = simple_hosts(1);
    on_all(&hosts, &["--host-keys", "off"])
        .run()
        .code(0)
        .says("[WARN] host keys are not checked: anybody could be listening in");
    assert!(!user_file(&hosts).exists());
    let quiet = on_all(&hosts, &["-q", "--host-keys", "off"]).run().ok();
    assert_eq!(quiet.stdout(), "web1\n");
}

#[test]
fn new_keys_are_recorded_and_known_from_then_on() {
    let hosts = Hosts::start(2);
    let file = user_file(&hosts);
    fs::remove_dir_all(hosts.home().join(".ssh")).unwrap();
    let finished = on_all(&hosts, &["--host-keys", "accept-new"]).run().code(0);
    assert_eq!(finished.sorted(), ["web1 web1", "web2 web2"]);
    let said = finished.stderr();
    assert!(
        said.contains("[INFO]") && said.contains("recorded in"),
        "{said}"
    );
    assert!(!said.contains("WARN"), "{said}");

    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&file), 0o600);
    assert_eq!(mode(&hosts.home().join(".ssh")), 0o700);
    let mut lines: Vec<String> = hosts
        .iter()
        .map(|host| format!("{} {}\n", host.name(), key(host, "ssh-ed25519")))
        .collect();
    let text = fs::read_to_string(&file).unwrap();
    if text.starts_with("web2") {
        lines.reverse();
    }
    assert_eq!(text, lines.concat());
    for policy in ["accept-new", "strict", "ask"] {
        on_all(&hosts, &["--host-keys", policy]).run().ok();
    }
    for host in &hosts {
        assert!(ssh(&hosts, "yes", &file, host.name(), 22));
    }
}

#[test]
fn a_new_line_is_added_to_what_is_there() {
    let hosts = Hosts::builder().host_keys(&["ed25519"]).port(2222).start();
    let file = hosts.dir().join("mine");
    let there = format!("# mine\nother {}", nobodys_key(&hosts));
    fs::write(&file, &there).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    let v6 = format!("[{}]:2222", hosts[0].addr6());
    // One server under two names, one of them twice.
    let arguments = [
        "--known-hosts",
        file.to_str().unwrap(),
        "--host-keys",
        "accept-new",
        "-o",
        "Web1",
        "-o",
        "ops@web1",
        "-o",
        &v6,
        "-C",
        "true",
    ];
    let said = orgalorg(&hosts, arguments).run().code(0).stderr();
    assert!(
        said.contains(&format!("recorded in '{}'", file.display())),
        "{said}"
    );
    let text = fs::read_to_string(&file).unwrap();
    let (first, added) = text.split_at(there.len());
    assert_eq!(first, there);
    let mut added: Vec<&str> = added.strip_prefix('\n').unwrap().lines().collect();
    added.sort();
    let good = key(&hosts[0], "ssh-ed25519");
    assert_eq!(added, [format!("{v6} {good}"), format!("web1 {good}")]);
    assert!(text.ends_with('\n'));
    let mode = fs::metadata(&file).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode, 0o640);
    orgalorg(&hosts, arguments).run().ok();
    assert!(!user_file(&hosts).exists());
}

#[test]
fn another_known_hosts_file_stands_in_for_the_users() {
    let hosts = simple_hosts(1);
    fs::write(
        user_file(&hosts),
        format!("web1 {}\n", key(&hosts[0], "ssh-ed25519")),
    )
    .unwrap();
    on_all(&hosts, &["--known-hosts", "other", "--host-keys", "strict"])
        .run()
        .code(3);
    on_all(
        &hosts,
        &[
            "--known-hosts",
            "~/.ssh/known_hosts",
            "--host-keys",
            "strict",
        ],
    )
    .run()
    .ok();
}

#[test]
fn a_file_that_cannot_be_written_is_a_warning() {
    let hosts = simple_hosts(1);
    let dir = hosts.dir().join("a-directory");
    fs::create_dir(&dir).unwrap();
    for path in [
        dir.to_str().unwrap(),
        "/nowhere/known_hosts",
        "/proc/version",
    ] {
        let finished = on_all(
            &hosts,
            &["--known-hosts", path, "--host-keys", "accept-new"],
        )
        .run();
        let finished = finished
            .code(0)
            .says(&format!("can't record host keys in '{path}'"));
        assert_eq!(finished.stdout(), "web1 web1\n");
        assert!(finished.stderr().contains("[WARN]"));
    }
    on_all(
        &hosts,
        &["--known-hosts", "/dev/null", "--host-keys", "accept-new"],
    )
    .run()
    .code(0);
}

#[test]
fn two_runs_that_record_at_once_leave_whole_lines() {
    let hosts = simple_hosts(20);
    let run = || on_all(&hosts, &["--host-keys", "accept-new", "--lock-wait=60s"]);
    let both = [run().spawn(), run().spawn()];
    for finished in both.map(crate::support::Running::finish) {
        assert_eq!(finished.code(0).sorted().len(), 20);
    }
    let text = fs::read_to_string(user_file(&hosts)).unwrap();
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort();
    let mut expected: Vec<String> = hosts
        .iter()
        .map(|host| format!("{} {}", host.name(), key(host, "ssh-ed25519")))
        .collect();
    expected.sort();
    assert_eq!(lines, expected);
    on_all(&hosts, &["--host-keys", "strict"]).run().ok();
}

// ---- the question

const QUESTION: &str = "? (yes/no) ";

#[test]
fn one_question_shows_the_keys_of_all_unknown_hosts() {
    let hosts = simple_hosts(4);
    fs::write(
        user_file(&hosts),
        format!("web4 {}\n", key(&hosts[3], "ssh-ed25519")),
    )
    .unwrap();
    let mut terminal = on_all(&hosts, &[]).on_terminal(|_| ());
    terminal.expect(QUESTION);
    let screen = terminal.screen();
    let mut places = Vec::new();
    for host in hosts.iter().take(3) {
        let key = key(host, "ssh-ed25519");
        let line = format!(
            "  [root@{}:22] ssh-ed25519 {}\r\n",
            host.name(),
            fingerprint(&key)
        );
        assert!(screen.contains(&line), "{screen}");
        places.push(screen.find(&line));
    }
    assert!(places.is_sorted(), "{screen}");
    assert!(!screen.contains("web4"), "{screen}");
    assert!(
        screen.contains("host keys of these 3 nodes are not known"),
        "{screen}"
    );
    assert!(
        screen.contains(user_file(&hosts).to_str().unwrap()),
        "{screen}"
    );
    for garbage in ["y", "", "yess", "SHA256:x"] {
        let before = terminal
            .screen()
            .matches("Please type 'yes' or 'no': ")
            .count();
        terminal.type_in(&format!("{garbage}\n"));
        wait_until("the question to be asked again", SOON, || {
            terminal
                .screen()
                .matches("Please type 'yes' or 'no': ")
                .count()
                > before
        });
    }
    assert_nothing_has_run(&hosts);
    terminal.type_in("Yes\n");
    let (status, screen) = terminal.finish();
    assert!(status.success(), "{screen}");
    assert_eq!(screen.matches(QUESTION).count(), 1, "{screen}");
    assert!(screen.contains("3 host keys recorded in"), "{screen}");
    for host in &hosts {
        assert!(has_run(host));
    }
    on_all(&hosts, &["--host-keys", "strict"]).run().ok();
}

#[test]
fn no_is_an_answer_and_so_is_end_of_file() {
    let hosts = simple_hosts(3);
    let known = format!("web2 {}\n", key(&hosts[1], "ssh-ed25519"));
    fs::write(user_file(&hosts), &known).unwrap();
    for (options, answer) in [(&[][..], "no\n"), (&["-w"], "NO\n"), (&["-q"], "\x04")] {
        let mut terminal = on_all(&hosts, options).on_terminal(|_| ());
        terminal.expect(QUESTION);
        terminal.type_in(answer);
        let (status, screen) = terminal.finish();
        assert_eq!(status.code(), Some(3), "{screen}");
        assert!(screen.contains("connecting to cluster failed"), "{screen}");
        assert!(
            screen.contains("host key refused: [root@web1:22]"),
            "{screen}"
        );
        assert_nothing_has_run(&hosts);
        assert_eq!(fs::read_to_string(user_file(&hosts)).unwrap(), known);
    }
}

#[test]
fn the_question_reaches_the_terminal_wherever_output_goes() {
    let hosts = simple_hosts(1);
    let output = hosts.dir().join("output");
    let mut terminal = on_all(&hosts, &[]).on_terminal(|command| {
        let file = File::create(&output).unwrap();
        command.stdin(std::process::Stdio::null());
        command.stderr(file.try_clone().unwrap()).stdout(file);
    });
    terminal.expect(QUESTION);
    terminal.type_in("yes\n");
    let (status, screen) = terminal.finish();
    assert!(status.success(), "{screen}");
    let output = fs::read_to_string(output).unwrap();
    assert!(
        output.contains("web1 web1\n") && !output.contains("yes/no"),
        "{output}"
    );
}

#[test]
fn a_signal_at_the_question_ends_the_run_and_records_nothing() {
    let hosts = simple_hosts(2);
    for signal in [2, 15] {
        let mut terminal = on_all(&hosts, &[]).on_terminal(|_| ());
        terminal.expect(QUESTION);
        match signal {
            2 => terminal.type_in("\x03"),
            _ => crate::support::signal(terminal.child.id(), "TERM"),
        }
        // That the terminal is in order is checked here.
        let (status, screen) = terminal.finish();
        assert_eq!(status.signal(), Some(signal), "{screen}");
        assert!(screen.ends_with("\r\n"), "{screen}");
        assert!(!user_file(&hosts).exists());
        assert_nothing_has_run(&hosts);
    }
}

/// Hosts that wait for a login for no longer than people think about keys.
fn impatient_hosts(count: usize) -> Hosts {
    Hosts::builder()
        .count(count)
        .host_keys(&["ed25519"])
        .sshd_option("LoginGraceTime 2s")
        .start()
}

/// Waits until the servers have given up on the connections that they have.
fn wait_for_impatience(hosts: &Hosts) {
    for host in hosts {
        wait_until("sshd to give up", SOON, || {
            let processes = host.processes();
            let sshds = processes.iter().filter(|it| it.name.starts_with("sshd"));
            sshds.count() == 1
        });
    }
}

#[test]
fn while_it_asks_no_time_limit_and_no_place_in_the_queue_counts() {
    let hosts = impatient_hosts(3);
    // All three are in the question though only one may connect at once.
    let mut terminal = on_all(&hosts, &["-c", "1500ms", "-d", "1"]).on_terminal(|_| ());
    terminal.expect(QUESTION);
    assert!(
        terminal.screen().contains("these 3 nodes"),
        "{}",
        terminal.screen()
    );
    wait_for_impatience(&hosts);
    terminal.type_in("yes\n");
    let (status, screen) = terminal.finish();
    assert!(status.success(), "{screen}");
    for host in &hosts {
        assert!(has_run(host));
        assert_eq!(
            host.log().matches("Connection from").count(),
            2,
            "{}",
            host.log()
        );
    }
    assert!(!screen.contains("WARN"), "{screen}");
}

#[test]
fn a_connection_that_is_made_again_must_show_the_same_key() {
    let hosts = impatient_hosts(2);
    let mut terminal = on_all(&hosts, &["-w"]).on_terminal(|_| ());
    terminal.expect(QUESTION);
    wait_for_impatience(&hosts);
    hosts[1].change_host_key();
    terminal.type_in("yes\n");
    let (status, screen) = terminal.finish();
    assert_eq!(status.code(), Some(3), "{screen}");
    assert!(
        screen.contains("host key refused: [root@web2:22]"),
        "{screen}"
    );
    assert!(
        screen.contains(&fingerprint(&key(&hosts[1], "ssh-ed25519"))),
        "{screen}"
    );
    assert_nothing_has_run(&hosts);
}
