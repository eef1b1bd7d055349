//! Logging in: keys of all kinds, the agent, passwords, and what is said where
//! nothing of it fits.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::hosts::keys::{KeyFormat, public_key};
use crate::hosts::{Host, Hosts, wait_until};
use crate::support::pty::OnTerminal;
use crate::support::{Orgalorg, fingerprint, orgalorg_in_empty_home, program, targets};

/// For what takes a moment.
const SOON: Duration = Duration::from_secs(20);

const PASSPHRASE: &str = "correct horse";

/// The program in a home without keys, on hosts whose own keys are known.
fn orgalorg<A: AsRef<OsStr>>(hosts: &Hosts, arguments: impl IntoIterator<Item = A>) -> Orgalorg {
    let known = hosts.known_hosts().into_os_string();
    let mut all = vec!["--known-hosts".into(), known];
    all.extend(arguments.into_iter().map(|word| word.as_ref().to_owned()));
    orgalorg_in_empty_home(hosts, all)
}

/// The same, with all hosts as targets.
fn on_all<A: AsRef<OsStr>>(hosts: &Hosts, arguments: impl IntoIterator<Item = A>) -> Orgalorg {
    let mut all: Vec<_> = targets(hosts).into_iter().map(Into::into).collect();
    all.extend(arguments.into_iter().map(|word| word.as_ref().to_owned()));
    orgalorg(hosts, all)
}

/// A key pair that root may log in with on all hosts.
fn good_key(hosts: &Hosts, kind: &str, format: KeyFormat, passphrase: &str) -> PathBuf {
    let bits: &[&str] = if kind == "rsa" { &["-b", "2048"] } else { &[] };
    let key = hosts.keygen(kind, bits, format, passphrase);
    hosts.authorize("root", &public_key(&key));
    key
}

/// A key pair that nobody knows.
fn stray_key(hosts: &Hosts) -> PathBuf {
    hosts.keygen("ed25519", &[], KeyFormat::OpenSsh, "")
}

/// Puts a key where the program looks for one by itself.
fn make_default(hosts: &Hosts, key: &Path, name: &str) -> PathBuf {
    let path = hosts.home().join(".ssh").join(name);
    fs::copy(key, &path).expect("the client's home can be written");
    path
}

/// Nobody has connected to the host since it was started.
#[track_caller]
fn assert_untouched(host: &Host) {
    assert!(!host.log().contains("Connection from"), "{}", host.log());
}

/// How often sshd has logged this.
fn logged(host: &Host, text: &str) -> usize {
    host.log().matches(text).count()
}

#[track_caller]
fn assert_shown_once(screen: &str, text: &str) {
    assert_eq!(screen.matches(text).count(), 1, "{text:?} in:\n{screen}");
}

/// A real ssh-agent, which ends with this.
struct Agent {
    child: Child,
    socket: PathBuf,
}

impl Agent {
    fn start(hosts: &Hosts) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("agent-")
            .tempdir_in(hosts.dir())
            .expect("the harness's directory can be written")
            .keep();
        let socket = folder.join("socket");
        let child = Command::new("ssh-agent")
            .args(["-D", "-a"])
            .arg(&socket)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("ssh-agent can be started");
        let agent = Self { child, socket };
        // 2: no agent; 1: it holds nothing.
        wait_until("the agent to answer", SOON, || {
            let output = agent.ssh_add().arg("-l").output();
            output.is_ok_and(|output| output.status.code() == Some(1))
        });
        agent
    }

    fn ssh_add(&self) -> Command {
        let mut add = Command::new("ssh-add");
        add.env("SSH_AUTH_SOCK", &self.socket).stdin(Stdio::null());
        add
    }

    fn add(&self, key: &Path) {
        let mut add = self.ssh_add();
        let output = add.arg("-q").arg(key).output().expect("ssh-add can be run");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "ssh-add: {said}");
    }

    /// Adds a key that is encrypted on disk.
    fn add_encrypted(&self, hosts: &Hosts, key: &Path) {
        let plain = hosts.dir().join("decrypted-for-the-agent");
        fs::copy(key, &plain).expect("a key can be copied");
        let mut keygen = Command::new("ssh-keygen");
        keygen.args(["-q", "-p", "-P", PASSPHRASE, "-N", "", "-f"]);
        keygen.stdout(Stdio::null());
        assert!(
            keygen
                .arg(&plain)
                .status()
                .is_ok_and(|status| status.success())
        );
        self.add(&plain);
        fs::remove_file(&plain).expect("it was just made");
    }

    /// Lets a program see the agent.
    fn with(&self) -> impl FnOnce(&mut Command) {
        let socket = self.socket.clone();
        move |command| {
            command.env("SSH_AUTH_SOCK", socket);
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

// ---- key files

#[test]
fn keys_of_every_format_and_type_log_in() {
    let hosts = Hosts::start(1);
    let mut keys = vec![
        good_key(&hosts, "ed25519", KeyFormat::OpenSsh, ""),
        ed25519_in_pkcs8(&hosts),
    ];
    for kind in ["ecdsa", "rsa"] {
        for format in [KeyFormat::OpenSsh, KeyFormat::Pem, KeyFormat::Pkcs8] {
            keys.push(good_key(&hosts, kind, format, ""));
        }
    }
    for bits in ["384", "521"] {
        let key = hosts.keygen("ecdsa", &["-b", bits], KeyFormat::Pkcs8, "");
        hosts.authorize("root", &public_key(&key));
        keys.push(key);
    }
    for key in keys {
        // The files beside it shall not matter.
        let alone = hosts.dir().join("the-only-key");
        fs::copy(&key, &alone).unwrap();
        let arguments = [
            "-k".as_ref(),
            alone.as_os_str(),
            "-C".as_ref(),
            "id".as_ref(),
        ];
        let finished = on_all(&hosts, arguments).run().ok();
        assert!(finished.stdout().starts_with("web1 uid=0(root)"), "{key:?}");
    }
    let signatures = hosts[0].log();
    assert!(!signatures.contains("Accepted password"), "{signatures}");
}

/// `ssh-keygen` cannot make it, other programs do.
fn ed25519_in_pkcs8(hosts: &Hosts) -> PathBuf {
    let path = hosts.dir().join("ed25519-in-pkcs8");
    let openssl = |arguments: &[&str], file: &Path| {
        let output = Command::new("openssl").args(arguments).arg(file).output();
        let output = output.expect("openssl can be run");
        assert!(output.status.success(), "{output:?}");
        output.stdout
    };
    openssl(&["genpkey", "-algorithm", "ed25519", "-out"], &path);
    let public = openssl(&["pkey", "-pubout", "-outform", "DER", "-in"], &path);
    let mut blob = b"\0\0\0\x0bssh-ed25519\0\0\0 ".to_vec();
    blob.extend_from_slice(&public[public.len() - 32..]);
    let text = format!("ssh-ed25519 {} pkcs8\n", STANDARD.encode(blob));
    let public = hosts.dir().join("ed25519-in-pkcs8.pub");
    fs::write(&public, text).expect("the harness's directory can be written");
    hosts.authorize("root", &public);
    path
}

#[test]
fn a_passphrase_is_asked_for_once_and_serves_all_hosts() {
    let hosts = Hosts::start(3);
    for (kind, format) in [
        ("ed25519", KeyFormat::OpenSsh),
        ("ecdsa", KeyFormat::Pem),
        ("rsa", KeyFormat::Pkcs8),
    ] {
        let key = good_key(&hosts, kind, format, PASSPHRASE);
        let key = key.to_str().unwrap();
        let mut terminal = on_all(&hosts, ["-k", key, "-C", "hostname"]).on_terminal(|_| ());
        let prompt = format!("private key '{key}' is encrypted\r\nKey passphrase: ");
        terminal.expect(&prompt);
        assert_untouched_so_far(&hosts, &terminal);
        terminal.type_in(&format!("{PASSPHRASE}\n"));
        let (status, screen) = terminal.finish();
        assert!(status.success(), "{screen}");
        assert!(screen.starts_with(&format!("{prompt}\r\n")), "{screen}");
        assert_shown_once(&screen, "passphrase");
        assert!(!screen.contains(PASSPHRASE), "{screen}");
        for name in hosts.names() {
            assert_shown_once(&screen, &format!("m {name}\r\n"));
        }
    }
}

/// While a question is open.
#[track_caller]
fn assert_untouched_so_far(hosts: &Hosts, terminal: &OnTerminal) {
    assert!(
        !terminal.echoes(),
        "a secret is asked for and would be shown"
    );
    for host in hosts {
        let open = logged(host, "Connection from") - logged(host, "Received disconnect");
        assert_eq!(open, 0, "{}", host.log());
    }
}

#[test]
fn a_wrong_passphrase_ends_the_run_before_any_connection() {
    let hosts = Hosts::start(1);
    for (kind, format) in [
        ("ed25519", KeyFormat::OpenSsh),
        ("ecdsa", KeyFormat::Pem),
        ("rsa", KeyFormat::Pkcs8),
    ] {
        let key = good_key(&hosts, kind, format, PASSPHRASE);
        let key = key.to_str().unwrap();
        for wrong in ["Correct Horse", ""] {
            let mut terminal = on_all(&hosts, ["-k", key, "-C", "true"]).on_terminal(|_| ());
            terminal.expect("Key passphrase: ");
            terminal.type_in(&format!("{wrong}\n"));
            let (status, screen) = terminal.finish();
            assert_eq!(status.code(), Some(2), "{screen}");
            assert_shown_once(
                &screen,
                &format!("invalid passphrase for private key '{key}'\r\n"),
            );
            assert_shown_once(&screen, "Key passphrase: ");
            assert!(!screen.contains("Horse"), "{screen}");
        }
    }
    assert_untouched(&hosts[0]);
}

#[test]
fn an_encrypted_key_needs_a_terminal_to_ask_on() {
    let hosts = Hosts::start(1);
    let key = good_key(&hosts, "ed25519", KeyFormat::OpenSsh, PASSPHRASE);
    let key = key.to_str().unwrap();
    on_all(&hosts, ["-k", key, "-C", "true"])
        .stdin(format!("{PASSPHRASE}\n"))
        .run()
        .code(2)
        .says(&format!(
            "private key '{key}' is encrypted, and there is no terminal to ask on"
        ));
    assert_untouched(&hosts[0]);
}

#[test]
fn end_of_file_at_a_prompt_is_no_empty_password() {
    let hosts = Hosts::start(1);
    let mut terminal = on_all(&hosts, ["-p", "-C", "true"]).on_terminal(|_| ());
    terminal.expect("Password: ");
    terminal.type_in("\x04");
    let (status, screen) = terminal.finish();
    assert_eq!(status.code(), Some(2), "{screen}");
    assert!(screen.contains("can't read from the terminal"), "{screen}");
    assert_untouched(&hosts[0]);
}

#[test]
fn files_that_are_no_private_key_are_named_with_the_reason() {
    let hosts = Hosts::start(1);
    let dir = hosts.dir().join("junk");
    fs::create_dir(&dir).unwrap();
    let file = |name: &str, content: &[u8]| {
        let path = dir.join(name);
        fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let good = fs::read(hosts.key()).unwrap();
    let secret_line = String::from_utf8(good.clone()).unwrap();
    let secret_line = secret_line.lines().nth(2).unwrap().to_owned();
    let public = fs::read(public_key(hosts.key())).unwrap();
    let damaged = String::from_utf8(good.clone())
        .unwrap()
        .replacen('b', "!", 1);
    let cases = [
        (
            "/nowhere/id",
            "can't open private key '/nowhere/id': No such file or directory",
        ),
        (dir.to_str().unwrap(), "it is a directory"),
        (&file("empty", b""), "it is empty"),
        (
            &file("junk", b"hunter2 is my password\n"),
            "it holds no private key",
        ),
        (
            &file("binary", &[0, 159, 146, 150, 27, b'[', b'2', b'J']),
            "it holds no private key",
        ),
        (
            &file("id.pub", &public),
            "it is a public key: give the private key, '",
        ),
        (
            &file("cut", &good[..good.len() / 2]),
            "the end of the file is missing",
        ),
        (&file("bad", damaged.as_bytes()), "the file is damaged"),
        (&file("big", &[b'x'; 70_000]), "larger than 64 KiB"),
        ("/dev/zero", "larger than 64 KiB"),
    ];
    for (path, reason) in cases {
        let finished = on_all(&hosts, ["-k", path, "-C", "true"]).run().code(2);
        let said = finished.stderr();
        assert!(
            said.contains(reason) && said.contains(path),
            "{path}: {said}"
        );
        assert_eq!(said.lines().count(), 1, "{said}");
        assert_eq!(finished.stdout(), "");
        for secret in ["hunter2", &secret_line, "\u{1b}"] {
            assert!(!said.contains(secret), "{said}");
        }
    }
    assert_untouched(&hosts[0]);
}

#[test]
fn a_key_that_may_not_be_read_is_an_error() {
    let hosts = Hosts::start(1);
    let key = hosts.dir().join("not-mine");
    fs::copy(hosts.key(), &key).unwrap();
    chown(&key, Some(1000), Some(1000)).unwrap();
    // root may read everything, so this one gives that up.
    let mut bounded = hosts.client("setpriv");
    bounded
        .arg("--bounding-set=-dac_override,-dac_read_search")
        .arg(program())
        .arg("-k")
        .arg(&key)
        .args(["-o", "web1", "-C", "true"]);
    let output = bounded.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    let expected = format!(
        "can't open private key '{}': Permission denied",
        key.display()
    );
    assert!(said.contains(&expected), "{said}");
    assert_untouched(&hosts[0]);
}

#[test]
fn each_of_the_default_keys_is_found() {
    let hosts = Hosts::start(1);
    for (kind, name) in [
        ("ed25519", "id_ed25519"),
        ("ecdsa", "id_ecdsa"),
        ("rsa", "id_rsa"),
    ] {
        let key = good_key(&hosts, kind, KeyFormat::OpenSsh, "");
        let path = make_default(&hosts, &key, name);
        on_all(&hosts, ["-C", "true"]).run().ok();
        fs::remove_file(path).unwrap();
    }
    on_all(&hosts, ["-C", "true"]).run().code(3).says(
        "there is no key to offer: name one with -k or start an agent, or use a password with -p",
    );
}

#[test]
fn default_keys_serve_other_users_than_root_too() {
    let hosts = Hosts::start(1);
    make_default(&hosts, &hosts.key(), "id_ed25519");
    let finished = orgalorg(
        &hosts,
        [
            "-u",
            "ops",
            "-o",
            "web1,guest@web1,root@web1",
            "-C",
            "whoami",
        ],
    );
    assert_eq!(
        finished.run().ok().sorted(),
        [
            "guest@web1:22 guest",
            "ops@web1:22 ops",
            "root@web1:22 root"
        ]
    );
}

#[test]
fn an_encrypted_default_key_is_asked_for_where_it_is_needed() {
    let hosts = Hosts::start(1);
    let key = good_key(&hosts, "ed25519", KeyFormat::OpenSsh, PASSPHRASE);
    let path = make_default(&hosts, &key, "id_ed25519");
    let path = path.to_str().unwrap();

    let mut terminal = on_all(&hosts, ["-C", "hostname"]).on_terminal(|_| ());
    terminal.expect(&format!(
        "private key '{path}' is encrypted\r\nKey passphrase: "
    ));
    terminal.type_in(&format!("{PASSPHRASE}\n"));
    let (status, screen) = terminal.finish();
    assert!(status.success(), "{screen}");

    // Nobody to ask: it may not be needed, so that is no error by itself.
    on_all(&hosts, ["-C", "true"])
        .run()
        .code(3)
        .says("permission denied")
        .says(&format!(
            "not tried: key {path}, which is encrypted: there is no terminal to ask for the passphrase on"
        ));
    let other = hosts.key();
    let arguments = [
        "-k".as_ref(),
        other.as_os_str(),
        "-C".as_ref(),
        "true".as_ref(),
    ];
    let terminal = on_all(&hosts, arguments).on_terminal(|_| ());
    let (status, screen) = terminal.finish();
    assert!(status.success() && screen.is_empty(), "{screen}");
}

// ---- the agent

#[test]
fn keys_that_only_the_agent_holds_log_in() {
    let hosts = Hosts::start(2);
    for kind in ["ed25519", "ecdsa", "rsa"] {
        let agent = Agent::start(&hosts);
        let key = good_key(&hosts, kind, KeyFormat::OpenSsh, "");
        agent.add(&key);
        fs::remove_file(&key).unwrap();
        let finished = on_all(&hosts, ["-C", "hostname"]).with(agent.with()).run();
        assert_eq!(finished.ok().sorted(), ["web1 web1", "web2 web2"]);
    }
}

#[test]
fn an_encrypted_key_that_the_agent_holds_is_not_asked_for() {
    let hosts = Hosts::start(1);
    for (kind, format) in [("ed25519", KeyFormat::OpenSsh), ("rsa", KeyFormat::Pem)] {
        let agent = Agent::start(&hosts);
        // It would be the seventh.
        for _ in 0..6 {
            agent.add(&stray_key(&hosts));
        }
        let key = good_key(&hosts, kind, format, PASSPHRASE);
        agent.add_encrypted(&hosts, &key);
        let arguments = [
            "-k".as_ref(),
            key.as_os_str(),
            "-C".as_ref(),
            "true".as_ref(),
        ];
        let run = on_all(&hosts, arguments).with(agent.with());
        let (status, screen) = run.on_terminal(|_| ()).finish();
        assert!(status.success(), "{screen}");
        assert_eq!(screen, "");
    }
}

#[test]
fn a_key_that_others_can_read_is_remarked_on() {
    let hosts = Hosts::start(1);
    let key = hosts.dir().join("exposed");
    fs::copy(hosts.key(), &key).unwrap();
    let arguments = ["-k", key.to_str().unwrap(), "-C", "true"];
    let run = || on_all(&hosts, arguments).run().code(0).stderr();
    let said = run();
    assert!(!said.contains("open to others"), "{said}");
    fs::set_permissions(&key, Permissions::from_mode(0o644)).unwrap();
    let said = run();
    let remark = format!("'{}' is open to others (mode 0644)", key.display());
    assert!(said.contains(&remark), "{said}");
}

#[test]
fn an_explicit_key_comes_before_an_agent_full_of_others() {
    let hosts = Hosts::start(1);
    let agent = Agent::start(&hosts);
    for _ in 0..10 {
        agent.add(&stray_key(&hosts));
    }
    let key = hosts.key();
    let arguments = [
        "-k".as_ref(),
        key.as_os_str(),
        "-C".as_ref(),
        "true".as_ref(),
    ];
    on_all(&hosts, arguments).with(agent.with()).run().ok();

    let finished = on_all(&hosts, ["-C", "true"]).with(agent.with()).run();
    let said = finished.code(3).says("[root@web1:22]").stderr();
    assert!(
        said.contains("closed the connection after 6 failed attempts; name the right key with -k"),
        "{said}"
    );
}

/// sshd counts every request that does not let one in but the first "none", so
/// nothing must be asked between two keys.
#[test]
fn as_many_keys_are_tried_as_ssh_would() {
    let hosts = Hosts::start(1);
    let agent = Agent::start(&hosts);
    for _ in 0..5 {
        agent.add(&stray_key(&hosts));
    }
    agent.add(&good_key(&hosts, "ed25519", KeyFormat::OpenSsh, ""));
    let mut ssh = hosts.client("ssh");
    ssh.args(["-F", "none", "-o", "BatchMode=yes", "-o"])
        .arg(format!(
            "UserKnownHostsFile={}",
            hosts.known_hosts().display()
        ));
    agent.with()(&mut ssh);
    let oracle = ssh.args(["root@web1", "true"]).output().unwrap();
    assert!(oracle.status.success(), "{oracle:?}");

    on_all(&hosts, ["-C", "true"]).with(agent.with()).run().ok();
}

#[test]
fn an_encrypted_default_key_is_skipped_where_the_agent_has_keys() {
    let hosts = Hosts::start(1);
    let agent = Agent::start(&hosts);
    agent.add(&stray_key(&hosts));
    let key = good_key(&hosts, "ed25519", KeyFormat::OpenSsh, PASSPHRASE);
    make_default(&hosts, &key, "id_ed25519");
    let run = || on_all(&hosts, ["-C", "true"]).with(agent.with());
    let (status, screen) = run().on_terminal(|_| ()).finish();
    assert_eq!(status.code(), Some(3), "{screen}");
    assert!(
        screen.contains("id_ed25519, which is encrypted: the agent has other keys"),
        "{screen}"
    );
    // One that is not encrypted is tried after those of the agent.
    make_default(
        &hosts,
        &good_key(&hosts, "ecdsa", KeyFormat::OpenSsh, ""),
        "id_ecdsa",
    );
    run().run().ok();
}

#[test]
fn an_agent_that_is_not_there_does_no_harm() {
    let hosts = Hosts::start(1);
    let dead = hosts.dir().join("dead-agent");
    drop(UnixListener::bind(&dead).unwrap());
    let key = hosts.key();
    let long = "x".repeat(200);
    for socket in [dead.to_str().unwrap(), "/nowhere", "/etc/passwd", "", &long] {
        let see = |command: &mut Command| {
            command.env("SSH_AUTH_SOCK", socket);
        };
        let arguments = [
            "-k".as_ref(),
            key.as_os_str(),
            "-C".as_ref(),
            "true".as_ref(),
        ];
        on_all(&hosts, arguments).with(see).run().ok();
        let said = on_all(&hosts, ["-C", "true"])
            .with(see)
            .run()
            .code(3)
            .stderr();
        assert!(said.contains("permission denied"), "{said}");
        let hint = format!("not tried: the keys of the agent at '{socket}'");
        assert_eq!(said.contains(&hint), !socket.is_empty(), "{said}");
    }
}

#[test]
fn an_agent_that_never_answers_is_given_up() {
    let hosts = Hosts::start(1);
    let socket = hosts.dir().join("mute-agent");
    // The kernel takes the connection; nobody else ever will.
    let _listener = UnixListener::bind(&socket).unwrap();
    let see = |command: &mut Command| {
        command.env("SSH_AUTH_SOCK", &socket);
    };
    let key = hosts.key();
    let arguments = [
        "-c",
        "1500ms",
        "-k",
        key.to_str().unwrap(),
        "-C",
        "hostname",
    ];
    let finished = on_all(&hosts, arguments)
        .with(see)
        .run()
        .code(0)
        .says(&format!(
            "the agent at '{}' has not answered within 1.5s, its keys are not used",
            socket.display()
        ));
    assert_eq!(finished.stdout(), "web1 web1\n");
    let running = on_all(&hosts, ["-c", "5m", "-C", "true"]).with(see).spawn();
    wait_for_signal_handlers(running.child.id());
    running.signal("INT");
    running.finish().killed_by(2);
}

/// As one whose owner does not touch the security key.
#[test]
fn an_agent_that_never_signs_is_not_waited_for_and_ctrl_c_need_not_wait() {
    let hosts = Hosts::start(1);
    let key = public_key(stray_key(&hosts));
    hosts.authorize("root", &key);
    let key = fs::read_to_string(key).unwrap();
    let blob = STANDARD.decode(key.split(' ').nth(1).unwrap()).unwrap();
    let socket = hosts.dir().join("lazy-agent");
    let listener = UnixListener::bind(&socket).unwrap();
    let (sender, asked_to_sign) = channel();
    thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let (blob, sender) = (blob.clone(), sender.clone());
            thread::spawn(move || serve_lazily(&mut client, &blob, &sender));
        }
    });
    let see = |command: &mut Command| {
        command.env("SSH_AUTH_SOCK", &socket);
    };
    let running = on_all(&hosts, ["-C", "true"]).with(see).spawn();
    asked_to_sign.recv_timeout(SOON).unwrap();
    running.signal("INT");
    running.finish().killed_by(2).says("SIGINT received");

    on_all(&hosts, ["-c", "500ms", "-C", "true"])
        .with(see)
        .run()
        .code(3)
        .says("timed out after 0.5s")
        .says("the agent does not answer");
}

/// Lists a key, and thinks about signatures for ever (draft-miller-ssh-agent).
fn serve_lazily(client: &mut UnixStream, blob: &[u8], asked_to_sign: &Sender<()>) {
    let mut length = [0; 4];
    while client.read_exact(&mut length).is_ok() {
        let mut request = vec![0; u32::from_be_bytes(length) as usize];
        if client.read_exact(&mut request).is_err() {
            return;
        }
        if request[0] != 11 {
            // The test may be over.
            let _ = asked_to_sign.send(());
            continue;
        }
        let size = |bytes: &[u8]| u32::try_from(bytes.len()).expect("short").to_be_bytes();
        let mut answer = vec![12, 0, 0, 0, 1];
        answer.extend(size(blob));
        answer.extend(blob);
        answer.extend([0; 4]);
        let message = [&size(&answer)[..], &answer].concat();
        if client.write_all(&message).is_err() {
            return;
        }
    }
}

/// Until the program catches SIGINT.
fn wait_for_signal_handlers(pid: u32) {
    wait_until("the program to handle signals", SOON, || {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
        mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
            .is_some_and(|mask| mask & 0b10 != 0)
    });
}

// ---- passwords

/// `-p` on a terminal, as `ops`, with this password.
fn with_password(hosts: &Hosts, options: &[&str], password: &str) -> OnTerminal {
    let mut arguments = vec!["-u", "ops", "-p"];
    arguments.extend(options);
    arguments.extend(["-C", "whoami"]);
    let mut terminal = on_all(hosts, arguments).on_terminal(|_| ());
    terminal.expect("Password: ");
    assert!(!terminal.echoes(), "the password would be shown");
    terminal.type_in(&format!("{password}\n"));
    terminal
}

#[test]
fn a_password_is_asked_for_once_for_all_hosts() {
    let hosts = Hosts::start(3);
    let (status, screen) = with_password(&hosts, &[], "ops-secret").finish();
    assert!(status.success(), "{screen}");
    assert!(screen.starts_with("Password: \r\n"), "{screen}");
    assert_shown_once(&screen, "Password");
    assert!(!screen.contains("ops-secret"), "{screen}");
    assert_eq!(screen.matches(" ops\r\n").count(), 3, "{screen}");
}

#[test]
fn a_wrong_password_is_tried_once_per_host() {
    for (pam, option) in [
        (false, "PasswordAuthentication yes"),
        (true, "PasswordAuthentication no"),
    ] {
        let hosts = Hosts::builder()
            .count(2)
            .pam(pam)
            .sshd_option(option)
            .start();
        // Keys that would do are not tried beside -p.
        make_default(&hosts, &hosts.key(), "id_ed25519");
        let (status, screen) = with_password(&hosts, &[], "0ps-s3cret").finish();
        assert_eq!(status.code(), Some(3), "{screen}");
        assert!(screen.contains("permission denied"), "{screen}");
        let method = if pam {
            "keyboard-interactive"
        } else {
            "password"
        };
        assert_eq!(
            screen.matches(&format!("not accepted: {method}")).count(),
            2,
            "{screen}"
        );
        assert!(!screen.contains("0ps-s3cret"), "{screen}");
        for host in &hosts {
            let log = host.log();
            let tries =
                logged(host, "Failed password") + logged(host, "Failed keyboard-interactive");
            assert_eq!(tries, 1, "{log}");
            assert!(!log.contains("Accepted"), "{log}");
        }
    }
}

#[test]
fn a_password_serves_a_server_that_only_converses() {
    let hosts = Hosts::builder()
        .pam(true)
        .sshd_option("PasswordAuthentication no")
        .start();
    let (status, screen) = with_password(&hosts, &[], "ops-secret").finish();
    assert!(status.success(), "{screen}");
    assert!(screen.ends_with(" ops\r\n"), "{screen}");
    assert_eq!(logged(&hosts[0], "Accepted keyboard-interactive/pam"), 1);
}

#[test]
fn a_password_needs_a_terminal_to_ask_on() {
    let hosts = Hosts::start(1);
    on_all(&hosts, ["-p", "-C", "true"])
        .stdin("ops-secret\n")
        .run()
        .code(2)
        .says("-p asks for a password, and there is no terminal to ask on");
    assert_untouched(&hosts[0]);
}

#[test]
fn a_server_that_wants_several_things_gets_them() {
    for wanted in [
        "publickey,password",
        "password,publickey",
        "publickey,keyboard-interactive",
        "keyboard-interactive,publickey",
    ] {
        let methods = format!("AuthenticationMethods {wanted}");
        let hosts = Hosts::builder().pam(true).sshd_option(&methods).start();
        // The first one is no good.
        let (stray, key) = (stray_key(&hosts), hosts.key());
        let keys = ["-k", stray.to_str().unwrap(), "-k", key.to_str().unwrap()];
        let (status, screen) = with_password(&hosts, &keys, "ops-secret").finish();
        assert!(status.success(), "{wanted}: {screen}");
        assert!(screen.ends_with(" ops\r\n"), "{screen}");

        // Half of it is not enough, and which half is said.
        let run = ["-u", "ops", "-k", key.to_str().unwrap(), "-C", "true"];
        let said = on_all(&hosts, run).run().code(3).stderr();
        let (first, second) = wanted.split_once(',').unwrap();
        if first == "publickey" {
            assert!(said.contains(&format!("the host wants {second}")), "{said}");
            assert!(said.contains("accepted, but not enough: key"), "{said}");
        } else {
            assert!(said.contains(&format!("the host wants {first}")), "{said}");
        }
    }
}

#[test]
fn a_server_that_wants_two_keys_gets_two() {
    let hosts = Hosts::builder()
        .sshd_option("AuthenticationMethods publickey,publickey")
        .start();
    let first = hosts.key();
    let second = good_key(&hosts, "ecdsa", KeyFormat::OpenSsh, "");
    let key = |path: &Path| ["-k".to_owned(), path.to_str().unwrap().to_owned()];
    let command = ["-C".to_owned(), "true".to_owned()];
    let both = [key(&first), key(&second), command.clone()].concat();
    on_all(&hosts, both).run().ok();
    let one = [key(&first), command].concat();
    on_all(&hosts, one)
        .run()
        .code(3)
        .says("the host wants publickey");
}

#[test]
fn a_refusal_names_what_was_tried_and_what_would_help() {
    let hosts = Hosts::start(2);
    let key = stray_key(&hosts);
    let arguments = [
        "-k".as_ref(),
        key.as_os_str(),
        "-C".as_ref(),
        "true".as_ref(),
    ];
    let said = on_all(&hosts, arguments).run().code(3).stderr();
    let tried = format!(
        "not accepted: key {} ({})",
        key.display(),
        fingerprint(&fs::read_to_string(public_key(&key)).unwrap())
    );
    assert_eq!(said.matches(&tried).count(), 2, "{said}");
    for address in ["[root@web1:22]", "[root@web2:22]"] {
        assert!(said.contains(address), "{said}");
    }
    assert!(
        said.contains("the host wants publickey,password; -p asks for a password"),
        "{said}"
    );
}

#[test]
fn a_server_without_any_way_in_is_told_from_others() {
    let hosts = Hosts::builder()
        .sshd_option("PasswordAuthentication no")
        .sshd_option("PubkeyAuthentication no")
        .start();
    let key = hosts.key();
    let arguments = [
        "-k".as_ref(),
        key.as_os_str(),
        "-C".as_ref(),
        "true".as_ref(),
    ];
    on_all(&hosts, arguments)
        .run()
        .code(3)
        .says("[root@web1:22]")
        .says("permission denied, the host offers no way to log in");
}

#[test]
fn a_server_that_takes_no_passwords_says_what_minus_p_leaves_out() {
    let hosts = Hosts::builder()
        .sshd_option("PasswordAuthentication no")
        .start();
    make_default(&hosts, &hosts.key(), "id_ed25519");
    let (status, screen) = with_password(&hosts, &[], "ops-secret").finish();
    assert_eq!(status.code(), Some(3), "{screen}");
    assert!(
        screen.contains("the host wants publickey; with -p no keys are tried but those of -k"),
        "{screen}"
    );
}

// ---- secrets

#[test]
fn a_password_appears_nowhere() {
    let hosts = Hosts::builder()
        .sshd_option("AuthenticationMethods publickey,password")
        .start();
    let key = hosts.keygen("ed25519", &[], KeyFormat::OpenSsh, PASSPHRASE);
    hosts.authorize("carol", &public_key(&key));
    let key_text = fs::read_to_string(&key).unwrap();
    let key_line = key_text.lines().nth(2).unwrap();
    let arguments = [
        "-vv",
        "-u",
        "carol",
        "-p",
        "-K",
        "-k",
        key.to_str().unwrap(),
        "-C",
        "id -u; touch /tmp/here; while [ -e /tmp/here ]; do sleep 0.01; done",
    ];
    let mut terminal = on_all(&hosts, arguments).on_terminal(|_| ());
    terminal.expect("Key passphrase: ");
    terminal.type_in(&format!("{PASSPHRASE}\n"));
    for prompt in ["\nPassword: ", "\nSudo password: "] {
        terminal.expect(prompt);
        terminal.type_in("carol-secret\n");
    }
    terminal.expect("{cmd} <stdout> [carol@web1:22] 0\r\n");
    wait_until("the command to run", SOON, || {
        hosts[0].has_file("/tmp/here")
    });
    for file in ["cmdline", "environ"] {
        let bytes = fs::read(format!("/proc/{}/{file}", terminal.child.id())).unwrap();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        assert!(text.contains("HOME") || text.contains("carol"), "{text}");
        assert!(
            !text.contains("secret") && !text.contains(PASSPHRASE),
            "{text}"
        );
    }
    for process in hosts[0].processes() {
        assert!(!process.command.contains("carol-secret"), "{process:?}");
    }
    hosts[0].run_ok("rm /tmp/here");
    let (status, screen) = terminal.finish();
    assert!(status.success(), "{screen}");
    for secret in ["carol-secret", PASSPHRASE, key_line, "BEGIN"] {
        assert!(!screen.contains(secret), "{secret}: {screen}");
    }
}

#[test]
fn a_signal_at_a_prompt_ends_the_run_and_leaves_the_terminal_in_order() {
    let hosts = Hosts::start(1);
    let key = good_key(&hosts, "ed25519", KeyFormat::OpenSsh, PASSPHRASE);
    let prompts: [(&[&str], &str); 3] = [
        (&["-k", key.to_str().unwrap()], "Key passphrase: "),
        (&["-p"], "Password: "),
        (&["-K"], "Sudo password: "),
    ];
    for (options, prompt) in prompts {
        for signal in [2, 15] {
            let arguments = [options, &["-C", "true"]].concat();
            let mut terminal = on_all(&hosts, arguments).on_terminal(|_| ());
            terminal.expect(prompt);
            match signal {
                2 => terminal.type_in("half a sec\x03"),
                _ => crate::support::signal(terminal.child.id(), "TERM"),
            }
            // That the terminal is in order is checked here.
            let (status, screen) = terminal.finish();
            assert_eq!(status.signal(), Some(signal), "{prompt}: {screen}");
            assert!(screen.ends_with("\r\n"), "{screen}");
            assert!(!screen.contains("half"), "{screen}");
        }
    }
    assert_untouched(&hosts[0]);
}
