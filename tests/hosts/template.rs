//! What the hosts' file systems hold beside `/usr`, and what the programs
//! under test see in `/etc`.
//!
//! Everything here is written once per [`Hosts`](super::Hosts), before anything
//! starts; `supervisor.sh` and `host.sh` then copy and mount it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

use super::{Address, Builder, CLIENT_ADDR, CLIENT_ADDR6, CLIENT_MAC, succeed};

/// A login on every host. root has a key login only, so it is not among them.
struct Login {
    name: &'static str,
    uid: u32,
    /// crypt(3) of `<name>-secret`, with few rounds so that a login is quick.
    password: &'static str,
    sudo: Option<&'static str>,
}

const LOGINS: [Login; 3] = [
    Login {
        name: "ops",
        uid: 1000,
        password: "$6$rounds=1000$fleet$6W1nlb2iH8n71aJEOsxGa.AAiqPF.iCu/sJJ/nTphyqRGTP.gw4ac4ib6kJTxz1DJXia.JUgkh3S3j9OI1jTD1",
        sudo: Some("NOPASSWD:SETENV: ALL"),
    },
    Login {
        name: "guest",
        uid: 1001,
        password: "$6$rounds=1000$fleet$zthVPxX.VT0PA3xZxirHIp8OO5lzWy93vVcrRdDisaa1jIloJv9YmlOObGIm2jw1dI2KQL54kVydHg4E9cMXd1",
        sudo: None,
    },
    Login {
        name: "carol",
        uid: 1002,
        password: "$6$rounds=1000$fleet$X4xc2rMI.EPt45sKFMiVzKNrawRakQm99bxxFCY1wFPRslvNQCRH.jXT/02DmqdHmaGcYfc9eryUch7mAzC0i.",
        sudo: Some("ALL"),
    },
];

/// How names are looked up: in files only, so that no test asks a DNS
/// server or waits for one.
const NSSWITCH: &str = "passwd: files\ngroup: files\nshadow: files\nhosts: files\n";

/// Minimal PAM rules: the password decides, sessions set nothing up.
const PAM: &str = "\
auth required pam_unix.so
account required pam_unix.so
password required pam_unix.so
session required pam_permit.so
";

/// Writes below `dir` what the scripts need.
pub(super) fn write(dir: &Path, builder: &Builder, addresses: &[Address], authorized: &Path) {
    for folder in ["log", "root", "usr"] {
        make_dir(&dir.join(folder), 0o755);
    }
    for (name, text) in [
        ("keeper.sh", include_str!("keeper.sh")),
        ("supervisor.sh", include_str!("supervisor.sh")),
        ("host.sh", include_str!("host.sh")),
    ] {
        put(&dir.join(name), text, 0o644);
    }
    let askpass = "#!/bin/sh\nprintf '%s\\n' \"$ASKPASS_ANSWER\"\n";
    put(&dir.join("askpass.sh"), askpass, 0o755);
    let settings = format!(
        "sshd={}\nclient_mac={CLIENT_MAC}\nhost_keys='{}'\n",
        sshd_path().display(),
        builder.host_keys.join(" "),
    );
    put(&dir.join("settings.sh"), &settings, 0o644);
    put(&dir.join("hosts.list"), &host_list(addresses), 0o644);
    put(&dir.join("alternatives"), &alternatives(), 0o644);
    put(&dir.join("bridge.batch"), &bridge_batch(addresses), 0o644);

    let host_table = host_table(addresses);
    write_client_view(&dir.join("client"), &host_table);
    write_host_root(&dir.join("template"), builder, &host_table, authorized);
}

fn host_list(addresses: &[Address]) -> String {
    addresses.iter().fold(String::new(), |mut list, host| {
        let Address {
            name,
            link,
            mac,
            v4,
            v6,
        } = host;
        writeln!(list, "{name} {link} {mac} {v4} {v6}").expect("a String takes all text");
        list
    })
}

/// The client's end of the network, for `ip -batch`.
///
/// All neighbours are permanent: the kernel's table of learned ones is small
/// and shared by the whole machine, and a host that is cut off swallows
/// packets the same way every time, whatever was learned before.
fn bridge_batch(addresses: &[Address]) -> String {
    let mut batch = format!(
        "\
link set lo up
link add name br0 address {CLIENT_MAC} type bridge mcast_snooping 0
addr add {CLIENT_ADDR}/16 dev br0
addr add {CLIENT_ADDR6}/64 dev br0 nodad
link add name idle0 master br0 up type veth peer name idle1
link set idle1 up
link set br0 up
"
    );
    // The idle port keeps the bridge up when all hosts are cut off.
    for Address { mac, v4, v6, .. } in addresses {
        for address in [v4.to_string(), v6.to_string()] {
            writeln!(
                batch,
                "neigh add {address} lladdr {mac} dev br0 nud permanent"
            )
            .expect("a String takes all text");
        }
    }
    batch
}

/// `/etc/hosts`, the same for the hosts and for the programs under test.
fn host_table(addresses: &[Address]) -> String {
    let mut table = String::from("127.0.0.1 localhost\n::1 localhost\n");
    for Address { name, v4, v6, .. } in addresses {
        writeln!(table, "{v4} {name}\n{v6} {name}-v6").expect("a String takes all text");
    }
    table
}

/// What the programs under test see in place of the machine's `/etc/...`.
fn write_client_view(client: &Path, host_table: &str) {
    make_dir(client, 0o755);
    make_dir(&client.join("ssh"), 0o755);
    make_dir(&client.join("home"), 0o700);
    make_dir(&client.join("home/.ssh"), 0o700);
    put(&client.join("hosts"), host_table, 0o644);
    put(&client.join("nsswitch.conf"), NSSWITCH, 0o644);

    // OpenSSH's tools look into the home directory that passwd names, whatever
    // $HOME says.
    let passwd = fs::read_to_string("/etc/passwd").expect("/etc/passwd is readable");
    let home = client.join("home");
    let passwd = passwd.lines().fold(String::new(), |text, line| {
        let mut fields: Vec<&str> = line.split(':').collect();
        if fields[0] == "root" && fields.len() == 7 {
            fields[5] = home.to_str().expect("the temporary directory is UTF-8");
        }
        text + &fields.join(":") + "\n"
    });
    put(&client.join("passwd"), &passwd, 0o644);
}

/// The `/` that every host gets a copy of.
fn write_host_root(root: &Path, builder: &Builder, host_table: &str, authorized: &Path) {
    make_dir(root, 0o755);
    for folder in [
        "dev",
        "dev/pts",
        "etc",
        "etc/pam.d",
        "etc/ssh",
        "home",
        "mnt",
        "opt",
        "proc",
        "run",
        "run/sshd",
        "run/lock",
        "srv",
        "sys",
        "usr",
        "var",
        "var/lib",
        "var/log",
        "var/spool",
    ] {
        make_dir(&root.join(folder), 0o755);
    }
    for folder in ["dev/shm", "tmp", "var/tmp"] {
        make_dir(&root.join(folder), 0o1777);
    }
    link(&root.join("var/run"), "../run");
    link_to_usr(root);
    make_devices(&root.join("dev"));
    write_etc(&root.join("etc"), host_table);
    write_sshd_config(&root.join("etc"), builder);
    make_shared_host_keys(&root.join("etc/ssh"), builder);

    make_home(&root.join("root"), 0, authorized);
    for login in &LOGINS {
        make_home(&root.join("home").join(login.name), login.uid, authorized);
    }
}

/// `/bin`, `/lib` and so on, the way the machine has them.
fn link_to_usr(root: &Path) {
    for name in ["bin", "sbin", "lib", "lib32", "lib64", "libx32"] {
        let Ok(metadata) = fs::symlink_metadata(Path::new("/").join(name)) else {
            continue;
        };
        assert!(
            metadata.is_symlink(),
            "/{name} is not a link into /usr: the test hosts need a system with a merged /usr"
        );
        link(&root.join(name), &format!("usr/{name}"));
    }
}

fn make_devices(dev: &Path) {
    for (name, major, minor) in [
        ("null", 1, 3),
        ("zero", 1, 5),
        ("full", 1, 7),
        ("random", 1, 8),
        ("urandom", 1, 9),
        ("tty", 5, 0),
    ] {
        let path = dev.join(name);
        mknodat(
            CWD,
            &path,
            FileType::CharacterDevice,
            Mode::from_raw_mode(0o666),
            makedev(major, minor),
        )
        .unwrap_or_else(|error| panic!("can't make {}: {error}", path.display()));
        set_mode(&path, 0o666);
    }
    link(&dev.join("ptmx"), "pts/ptmx");
    link(&dev.join("fd"), "/proc/self/fd");
    link(&dev.join("stdin"), "/proc/self/fd/0");
    link(&dev.join("stdout"), "/proc/self/fd/1");
    link(&dev.join("stderr"), "/proc/self/fd/2");
}

fn write_etc(etc: &Path, host_table: &str) {
    let mut passwd = "root:x:0:0:root:/root:/bin/bash\n\
         daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n\
         sshd:x:100:65534::/run/sshd:/usr/sbin/nologin\n\
         nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
        .to_owned();
    let mut shadow = "root:*:19000::::::\ndaemon:*:19000::::::\n\
                      sshd:*:19000::::::\nnobody:*:19000::::::\n"
        .to_owned();
    let mut group = "root:x:0:\ndaemon:x:1:\ntty:x:5:\nshadow:x:42:\nnogroup:x:65534:\n".to_owned();
    let mut sudoers = "Defaults env_reset\n\
                       Defaults !lecture\n\
                       Defaults secure_path=\"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\"\n\
                       root ALL=(ALL:ALL) SETENV: ALL\n"
        .to_owned();
    for login in &LOGINS {
        let Login {
            name,
            uid,
            password,
            sudo,
        } = login;
        passwd += &format!("{name}:x:{uid}:{uid}:{name}:/home/{name}:/bin/bash\n");
        shadow += &format!("{name}:{password}:19000::::::\n");
        group += &format!("{name}:x:{uid}:\n");
        if let Some(rights) = sudo {
            sudoers += &format!("{name} ALL=(ALL:ALL) {rights}\n");
        }
    }
    put(&etc.join("passwd"), &passwd, 0o644);
    put(&etc.join("shadow"), &shadow, 0o640);
    put(&etc.join("group"), &group, 0o644);
    put(&etc.join("sudoers"), &sudoers, 0o440);
    put(&etc.join("hosts"), host_table, 0o644);
    put(&etc.join("nsswitch.conf"), NSSWITCH, 0o644);
    let shells = "/bin/sh\n/usr/bin/sh\n/bin/bash\n/usr/bin/bash\n";
    put(&etc.join("shells"), shells, 0o644);
    for service in ["sshd", "sudo", "other"] {
        put(&etc.join("pam.d").join(service), PAM, 0o644);
    }
    // Where shared libraries are, on systems that keep some in odd places.
    if Path::new("/etc/ld.so.cache").exists() {
        fs::copy("/etc/ld.so.cache", etc.join("ld.so.cache"))
            .unwrap_or_else(|error| panic!("can't copy /etc/ld.so.cache: {error}"));
    }
    make_dir(&etc.join("alternatives"), 0o755);
}

/// The names of Debian's links that lead from, say, `/usr/bin/awk` to a program, one
/// a line. `host.sh` copies them from the machine.
fn alternatives() -> String {
    let Ok(entries) = fs::read_dir("/etc/alternatives") else {
        return String::new();
    };
    let names = entries.flatten().map(|entry| entry.file_name());
    let is_program = |name: &OsString| {
        let folders = ["/usr/bin", "/usr/sbin"].iter();
        folders
            .map(|folder| Path::new(folder).join(name))
            .any(|path| path.is_symlink())
    };
    let names = names
        .filter(is_program)
        .filter_map(|name| name.into_string().ok());
    names.map(|name| name + "\n").collect()
}

fn write_sshd_config(etc: &Path, builder: &Builder) {
    let yes_no = |on: bool| if on { "yes" } else { "no" };
    // The first value of an option counts, so the test's own come first; but
    // everything below a `Match` belongs to it, so those come last.
    let (matches, options): (Vec<_>, Vec<_>) = builder
        .sshd_options
        .iter()
        .partition(|option| option.starts_with("Match"));
    let mut config = String::new();
    for option in options {
        config += &format!("{option}\n");
    }
    for port in &builder.ports {
        config += &format!("Port {port}\n");
    }
    for kind in &builder.host_keys {
        config += &format!("HostKey /etc/ssh/ssh_host_{kind}_key\n");
    }
    config += &format!(
        "\
UsePAM {pam}
KbdInteractiveAuthentication {pam}
PasswordAuthentication yes
PermitRootLogin prohibit-password
AuthorizedKeysFile .ssh/authorized_keys
MaxStartups 1000
MaxSessions 1000
UseDNS no
PrintMotd no
PrintLastLog no
LogLevel VERBOSE
PidFile /run/sshd.pid
Subsystem sftp internal-sftp
",
        pam = yes_no(builder.pam),
    );
    // Since 9.8 sshd turns hosts away that fail to log in too often, which is
    // what many tests do.
    if sshd_version() >= (9, 8) {
        config += "PerSourcePenalties no\n";
    }
    for block in matches {
        config += &format!("{block}\n");
    }
    put(&etc.join("ssh/sshd_config"), &config, 0o644);
}

/// Host keys that take long to make are the same on all hosts; `host.sh` makes
/// the Ed25519 keys, one for each.
fn make_shared_host_keys(folder: &Path, builder: &Builder) {
    for kind in builder.host_keys.iter().filter(|kind| *kind != "ed25519") {
        let key = shared_host_key(kind);
        let path = folder.join(format!("ssh_host_{kind}_key"));
        put(&path, &key.private, 0o600);
        put(&path.with_extension("pub"), &key.public, 0o644);
    }
}

#[derive(Clone)]
struct KeyPair {
    private: String,
    public: String,
}

/// A host key of this type, made once in the process: an RSA key takes longer than
/// all else about a host.
fn shared_host_key(kind: &str) -> KeyPair {
    static KEYS: Mutex<BTreeMap<String, KeyPair>> = Mutex::new(BTreeMap::new());
    let mut keys = KEYS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(key) = keys.get(kind) {
        return key.clone();
    }
    let folder = tempfile::tempdir().expect("the temporary directory is writable");
    let path = folder.path().join("key");
    let mut keygen = Command::new("ssh-keygen");
    keygen.args(["-q", "-t", kind, "-N", "", "-C", "root@hosts"]);
    if kind == "rsa" {
        keygen.args(["-b", "2048"]);
    }
    succeed(keygen.arg("-f").arg(&path));
    let read = |path: &Path| fs::read_to_string(path).expect("ssh-keygen has written it");
    let key = KeyPair {
        private: read(&path),
        public: read(&path.with_extension("pub")),
    };
    keys.insert(kind.to_owned(), key.clone());
    key
}

fn make_home(home: &Path, uid: u32, authorized: &Path) {
    let ssh = home.join(".ssh");
    let keys = ssh.join("authorized_keys");
    make_dir(home, 0o700);
    make_dir(&ssh, 0o700);
    let public_key = fs::read_to_string(authorized).expect("the user key was just made");
    put(&keys, &public_key, 0o600);
    for path in [home, &ssh, &keys] {
        chown(path, Some(uid), Some(uid))
            .unwrap_or_else(|error| panic!("can't chown {}: {error}", path.display()));
    }
}

fn sshd_path() -> PathBuf {
    ["/usr/sbin/sshd", "/usr/bin/sshd"]
        .iter()
        .map(PathBuf::from)
        .find(|path| path.exists())
        .expect("the test hosts need sshd: install openssh-server")
}

fn sshd_version() -> (u32, u32) {
    // Old versions do not know -V, but name their version when they say so.
    let output = Command::new(sshd_path())
        .arg("-V")
        .output()
        .expect("sshd can be run");
    let text = String::from_utf8_lossy(&output.stderr);
    let version = text.split_once("OpenSSH_").map_or("", |(_, rest)| rest);
    let mut numbers = version
        .split(|c: char| !c.is_ascii_digit())
        .map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

fn make_dir(path: &Path, mode: u32) {
    fs::create_dir_all(path)
        .unwrap_or_else(|error| panic!("can't make {}: {error}", path.display()));
    set_mode(path, mode);
}

fn put(path: &Path, text: &str, mode: u32) {
    fs::write(path, text).unwrap_or_else(|error| panic!("can't write {}: {error}", path.display()));
    set_mode(path, mode);
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode))
        .unwrap_or_else(|error| panic!("can't chmod {}: {error}", path.display()));
}

fn link(path: &Path, target: &str) {
    symlink(target, path).unwrap_or_else(|error| panic!("can't link {}: {error}", path.display()));
}
