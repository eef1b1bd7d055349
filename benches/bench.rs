//! `make bench`: what orgalorg costs, beside other tools, on the same hosts and
//! the same work.
//!
//! Whole processes with all their children: client CPU (user + system) first,
//! then wall time. The tools take turns, so that a machine that gets slower hits
//! all of them; medians are printed. `docs/PERFORMANCE.md` keeps the results.

#[allow(dead_code, unreachable_pub)]
#[path = "../tests/hosts/mod.rs"]
mod hosts;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use hosts::Hosts;
use nix::sys::resource::{Usage, UsageWho, getrusage};
use rustix::process::{Pid, Signal, kill_process};

/// Rounds whose median is printed, after one that is not counted.
const ROUNDS: usize = 5;

/// One run of one tool.
#[derive(Clone, Copy)]
struct Sample {
    cpu: Duration,
    wall: Duration,
    peak_kib: u64,
}

/// A tool at work.
struct Contender<'a> {
    name: &'a str,
    command: Box<dyn Fn() -> Command + 'a>,
    /// How many bytes it must write to stdout, at least.
    output: u64,
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(at) = arguments
        .iter()
        .position(|argument| argument == "bare-loop")
    {
        return bare_loop(&arguments[at + 1..]);
    }
    if let Some(at) = arguments
        .iter()
        .position(|argument| argument == "bare-send")
    {
        return bare_send(&arguments[at + 1..]);
    }
    let wanted = arguments
        .get(1)
        .filter(|argument| !argument.starts_with('-'));
    let is_wanted = |row: &str| wanted.is_none_or(|wanted| row.contains(wanted.as_str()));
    println!("| work | tool | client CPU | wall | peak memory (largest process) |");
    println!("|---|---|---|---|---|");
    if is_wanted("connect") {
        let hosts = Hosts::start(64);
        let bench = Bench::new(&hosts);
        bench.row(
            "connect, `true`, 64 hosts",
            64,
            "host",
            &[
                bench.orgalorg("true", 0),
                bench.pdsh("true", 0),
                bench.forked_ssh("true", 0),
            ],
        );
    }
    if is_wanted("connect-1000") && wanted.is_some() {
        let hosts = Hosts::start(1000);
        let bench = Bench::new(&hosts);
        bench.row(
            "connect, `true`, 1,000 hosts",
            1000,
            "host",
            &[bench.orgalorg("true", 0)],
        );
    }
    if is_wanted("lines") {
        let hosts = Hosts::start(8);
        let bench = Bench::new(&hosts);
        let command = "seq 1 500000";
        let bytes = 8 * 3_388_895;
        bench.row(
            "8 hosts × `seq 1 500000` to a pipe",
            1,
            "",
            &[
                bench.orgalorg(command, bytes),
                bench.pdsh(command, bytes),
                bench.forked_ssh(command, bytes),
            ],
        );
    }
    if is_wanted("upload") {
        upload();
    }
    if is_wanted("upload-large") {
        large_upload();
    }
    let hosts = Hosts::start(1);
    let bench = Bench::new(&hosts);
    if is_wanted("into") {
        let file = hosts.home().join("file");
        std::fs::write(&file, text(1 << 30)).expect("the client's home can be written");
        bench.row(
            "1 GiB into one host",
            1,
            "",
            &[
                bench.upload("orgalorg", &[]),
                bench.senders("bare libssh2 loop"),
                bench.script("scp", SCP),
            ],
        );
        // The hosts live in memory.
        std::fs::remove_file(file).expect("it was there");
        hosts[0].run_ok("rm -rf /root/up");
    }
    if is_wanted("bulk") {
        let command = "head -c 1G /dev/zero";
        let bytes = 1 << 30;
        bench.row(
            "1 GiB out of one host",
            1,
            "",
            &[
                bench.orgalorg_with(&["-q"], command, bytes),
                bench.bare(command, bytes),
                bench.forked_ssh(command, bytes),
            ],
        );
    }
    if is_wanted("long-line") {
        let command = "head -c 40000000 /dev/zero | tr '\\0' x";
        bench.row(
            "one line of 40 MB",
            1,
            "",
            &[
                bench.orgalorg(command, 40_000_000),
                // pdsh cuts such a line off.
                bench.forked_ssh(command, 40_000_000),
            ],
        );
    }
    if is_wanted("late") {
        late_host();
    }
    if is_wanted("kept") {
        let hosts = Hosts::start(10);
        let bench = Bench::new(&hosts);
        let command = "yes 0123456789012345678 | head -c 200000000";
        bench.row(
            "10 hosts × 200 MB, `-l`, to a pipe",
            1,
            "",
            &[bench.orgalorg_with(&["-l"], command, 10 * 200_000_000)],
        );
    }
    if is_wanted("idle") {
        idle();
    }
}

/// Parallel `scp`: one for each host.
const SCP: &str = "for host in $hosts; do scp -q \"$@\" file \"root@$host:up/\" & done; wait";

/// `parallel-scp` of pssh, which asks ssh's configuration for the rest.
const PSSH: &str = "parallel-scp -p 64 -l root $(printf ' -x %s' \"$@\") \
                    $(printf ' -H %s' $hosts) file up/file";

/// `clush` of ClusterShell.
const CLUSH: &str = "clush -q -l root -w $(echo $hosts | tr ' ' ,) -o \"$*\" -c file --dest up/";

/// Files into 8 hosts.
fn upload() {
    let hosts = Hosts::start(8);
    let bench = Bench::new(&hosts);
    std::fs::write(hosts.home().join("file"), text(200_000_000))
        .expect("the client's home can be written");
    bench.row(
        "200 MB of text to 8 hosts",
        1,
        "",
        &[
            bench.upload("orgalorg", &[]),
            bench.upload("orgalorg --compress=zstd", &["--compress=zstd"]),
            bench.upload("orgalorg --compress", &["--compress"]),
            bench.senders("bare libssh2 loop × 8"),
            bench.script("scp × 8", SCP),
            bench.script("parallel-scp", PSSH),
            bench.script("clush -c", CLUSH),
        ],
    );
}

/// So much that it shows whether memory grows with it. The hosts live in memory
/// themselves, so theirs read it as files, and keep nothing.
fn large_upload() {
    let hosts = Hosts::start(8);
    let bench = Bench::new(&hosts);
    let tar = "#!/bin/sh
               case \" $* \" in *' --version '*) exec /tmp/real-tar \"$@\" ;; esac
               exec /tmp/real-tar \"$@\" --to-command='cat >/dev/null'";
    for host in &hosts {
        host.run_ok("cp /usr/bin/tar /tmp/real-tar");
        host.install_program("tar", tar);
    }
    let path = hosts.home().join("file");
    let mut file = std::fs::File::create(path).expect("the client's home can be written");
    let part = text(200_000_000);
    for _ in 0..10 {
        file.write_all(&part).expect("there is room");
    }
    bench.rounds(
        1,
        "2 GB of text to 8 hosts, not kept there",
        1,
        "",
        &[bench.upload("orgalorg", &[])],
    );
}

/// Lines as they stand in a log: half known, half new.
fn text(size: usize) -> Vec<u8> {
    let mut text = Vec::with_capacity(size + 200);
    let mut number = 1_u32;
    while text.len() < size {
        number = number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let (user, time) = (number >> 20, number % 86_400);
        let line = format!(
            "2026-01-31 {:02}:{:02}:{:02} web{} app[{user}]: request {number:08x} from 10.0.{}.{} \
             took {} ms\n",
            time / 3600,
            time / 60 % 60,
            time % 60,
            number >> 29,
            number >> 24,
            number >> 16 & 255,
            number >> 10 & 1023,
        );
        text.extend_from_slice(line.as_bytes());
    }
    text.truncate(size);
    text
}

/// With one of 64 hosts answering late: when is the first line of the others
/// there? Beside it, the same without a late one.
fn late_host() {
    let hosts = Hosts::start(64);
    let bench = Bench::new(&hosts);
    let last = hosts
        .names()
        .last()
        .map(|name| (*name).to_owned())
        .unwrap_or_default();
    let late = format!("[ $(hostname) != {last} ] || sleep 2; echo line");
    for (name, command) in [
        ("all at once", "echo line"),
        ("one of them 2 s late", &late),
    ] {
        let mut firsts = Vec::new();
        let mut most = Vec::new();
        for _ in 0..ROUNDS {
            let started = Instant::now();
            let mut child = (bench.orgalorg(command, 0).command)()
                .stdout(Stdio::piped())
                .spawn()
                .expect("orgalorg can be started");
            let mut stdout = child.stdout.take().expect("it is a pipe");
            let mut buffer = [0; 4096];
            let (mut lines, mut first) = (0, None);
            while let Ok(read @ 1..) = stdout.read(&mut buffer) {
                first.get_or_insert(started.elapsed());
                lines += buffer[..read].iter().filter(|&&byte| byte == b'\n').count();
                if lines >= 63 {
                    most.push(started.elapsed());
                    lines = 0;
                }
            }
            firsts.extend(first);
            child.wait().expect("it ends");
        }
        firsts.sort();
        most.sort();
        println!(
            "| first line, and 63 lines, of 64 hosts, {name} | orgalorg | | {:.2} s, {:.2} s | |",
            firsts[firsts.len() / 2].as_secs_f64(),
            most[most.len() / 2].as_secs_f64()
        );
    }
}

/// What a run takes while nothing happens but heartbeats.
fn idle() {
    const TIME: Duration = Duration::from_secs(30);
    let hosts = Hosts::start(100);
    let bench = Bench::new(&hosts);
    let silent = "echo up; exec tail -f /dev/null";
    for (name, contender) in [
        ("`-L`", bench.orgalorg_with(&["-v", "-L"], "", 0)),
        ("`tail -f` of a silent file", bench.orgalorg(silent, 0)),
    ] {
        let mut child = (contender.command)()
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("orgalorg can be started");
        // A line of every host, or the one that all are locked.
        let lines: &mut dyn Read = match name {
            "`-L`" => child.stderr.as_mut().expect("it is a pipe"),
            _ => child.stdout.as_mut().expect("it is a pipe"),
        };
        let mut said = Vec::new();
        let is_up = |said: &[u8]| {
            let said = String::from_utf8_lossy(said);
            said.contains("waiting for interrupt") || said.matches(" up\n").count() == 100
        };
        while !is_up(&said) {
            let mut buffer = [0; 4096];
            let read = lines.read(&mut buffer).expect("a pipe can be read");
            assert!(read > 0, "{}", String::from_utf8_lossy(&said));
            said.extend_from_slice(&buffer[..read]);
        }
        let before = cpu_of(child.id());
        thread::sleep(TIME);
        let used = cpu_of(child.id()) - before;
        let peak = Duration::from_secs(peak_of(child.id())).as_secs_f64() / 1024.0;
        let pid = Pid::from_child(&child);
        kill_process(pid, Signal::INT).expect("it is our child");
        child.wait().expect("it ends");
        println!(
            "| idle, 100 hosts, {name} | orgalorg | {:.2} ms/s | | {peak:.1} MiB |",
            used.as_secs_f64() * 1e3 / TIME.as_secs_f64(),
        );
    }
}

/// What all threads of a process have used so far (proc(5), /proc/pid/schedstat).
fn cpu_of(pid: u32) -> Duration {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("it lives");
    let nanoseconds = tasks.flatten().filter_map(|task| {
        let stat = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        stat.split_whitespace().next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanoseconds.sum())
}

/// The hosts, and where the tools find their keys.
struct Bench<'a> {
    hosts: &'a Hosts,
}

impl<'a> Bench<'a> {
    fn new(hosts: &'a Hosts) -> Self {
        let ssh = hosts.home().join(".ssh");
        for (from, name) in [
            (hosts.key(), "id_ed25519"),
            (hosts.known_hosts(), "known_hosts"),
        ] {
            std::fs::copy(from, ssh.join(name)).expect("the client's home can be written");
        }
        Self { hosts }
    }

    fn orgalorg(&self, command: &'a str, output: u64) -> Contender<'a> {
        self.orgalorg_with(&[], command, output)
    }

    fn orgalorg_with(
        &self,
        options: &'a [&'a str],
        command: &'a str,
        output: u64,
    ) -> Contender<'a> {
        let hosts = self.hosts;
        let targets = hosts.names().join(",");
        Contender {
            name: "orgalorg",
            output,
            command: Box::new(move || {
                let mut client = hosts.client(orgalorg());
                client.args(options).args(["-o", &targets]);
                if !command.is_empty() {
                    client.args(["-C", command]);
                }
                client
            }),
        }
    }

    fn pdsh(&self, command: &'a str, output: u64) -> Contender<'a> {
        let hosts = self.hosts;
        let targets = hosts.names().join(",");
        let arguments = hosts.ssh_args().join(" ");
        Contender {
            name: "pdsh -R ssh",
            output,
            command: Box::new(move || {
                let mut client = hosts.client("pdsh");
                client.env("PDSH_SSH_ARGS_APPEND", &arguments);
                client.args(["-R", "ssh", "-f", "64", "-w", &targets, command]);
                client
            }),
        }
    }

    fn forked_ssh(&self, command: &'a str, output: u64) -> Contender<'a> {
        let hosts = self.hosts;
        let script = "command=$1; shift; hosts=$1; shift
                      for host in $hosts; do ssh \"$@\" \"root@$host\" \"$command\" & done; wait";
        Contender {
            name: "forked ssh",
            output,
            command: Box::new(move || {
                let mut client = hosts.client("sh");
                client.args(["-c", script, "sh", command, &hosts.names().join(" ")]);
                client.args(hosts.ssh_args());
                client
            }),
        }
    }

    /// Uploads `file` from the client's home.
    fn upload(&self, name: &'a str, options: &'a [&'a str]) -> Contender<'a> {
        let hosts = self.hosts;
        let targets = hosts.names().join(",");
        Contender {
            name,
            output: 0,
            command: Box::new(move || {
                let mut client = hosts.client(orgalorg());
                client.current_dir(hosts.home()).args(options);
                client.args(["-o", &targets, "-e", "-r", "up", "-U", "file"]);
                client
            }),
        }
    }

    /// A shell script in the client's home that knows the `$hosts`, and ssh's
    /// options as its arguments.
    fn script(&self, name: &'a str, script: &'a str) -> Contender<'a> {
        let hosts = self.hosts;
        Contender {
            name,
            output: 0,
            command: Box::new(move || {
                let mut client = hosts.client("sh");
                client.current_dir(hosts.home());
                client.env("hosts", hosts.names().join(" "));
                client.args(["-c", script, "sh"]).args(hosts.ssh_args());
                client
            }),
        }
    }

    /// One program with a bare libssh2 loop for each host: see [`bare_send`].
    fn senders(&self, name: &'a str) -> Contender<'a> {
        let hosts = self.hosts;
        let script = "for address in $addresses; do \"$@\" \"$address\" \"$key\" & done; wait";
        Contender {
            name,
            output: 0,
            command: Box::new(move || {
                let program = std::env::current_exe().expect("a running program has a path");
                let addresses: Vec<String> =
                    hosts.iter().map(|host| host.addr().to_string()).collect();
                let mut client = hosts.client("sh");
                client.current_dir(hosts.home());
                client.env("addresses", addresses.join(" "));
                client.env("key", hosts.key());
                client
                    .args(["-c", script, "sh"])
                    .arg(program)
                    .arg("bare-send");
                client
            }),
        }
    }

    /// The least that can be done with libssh2: see [`bare_loop`].
    fn bare(&self, command: &'a str, output: u64) -> Contender<'a> {
        let hosts = self.hosts;
        let host = &hosts[0];
        Contender {
            name: "bare libssh2 loop",
            output,
            command: Box::new(move || {
                let program = std::env::current_exe().expect("a running program has a path");
                let mut client = hosts.client(program);
                client.args(["bare-loop", &host.addr().to_string()]);
                client.arg(hosts.key()).arg(command);
                client
            }),
        }
    }

    /// Lets the contenders take turns and prints their medians.
    fn row(&self, work: &str, parts: u32, part: &str, contenders: &[Contender<'_>]) {
        self.rounds(ROUNDS, work, parts, part, contenders);
    }

    /// The same with so many rounds.
    fn rounds(
        &self,
        rounds: usize,
        work: &str,
        parts: u32,
        part: &str,
        contenders: &[Contender<'_>],
    ) {
        let mut samples: Vec<Vec<Sample>> = contenders.iter().map(|_| Vec::new()).collect();
        for round in 0..=rounds {
            for (contender, samples) in contenders.iter().zip(&mut samples) {
                let sample = measure(contender);
                if round > 0 {
                    samples.push(sample);
                }
            }
        }
        for (contender, samples) in contenders.iter().zip(&samples) {
            let median = |value: fn(&Sample) -> Duration| {
                let mut values: Vec<Duration> = samples.iter().map(value).collect();
                values.sort();
                values[values.len() / 2]
            };
            let cpu = median(|sample| sample.cpu);
            let per_part = match part {
                "" => String::new(),
                part => format!(
                    " ({:.2} ms/{part})",
                    cpu.as_secs_f64() * 1e3 / f64::from(parts)
                ),
            };
            let peak = samples
                .iter()
                .map(|sample| sample.peak_kib)
                .max()
                .unwrap_or(0);
            println!(
                "| {work} | {} | {:.2} s{per_part} | {:.2} s | {:.1} MiB |",
                contender.name,
                cpu.as_secs_f64(),
                median(|sample| sample.wall).as_secs_f64(),
                Duration::from_secs(peak).as_secs_f64() / 1024.0,
            );
        }
    }
}

/// The release build, beside this program's directory.
fn orgalorg() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_orgalorg")).to_owned()
}

/// Runs a tool to its end, with its output into a pipe that is read at once.
fn measure(contender: &Contender<'_>) -> Sample {
    let before = children_cpu();
    let started = Instant::now();
    let mut child = (contender.command)()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("can't start {}: {error}", contender.name));
    let mut stdout = child.stdout.take().expect("it is a pipe");
    let (ended, is_over) = mpsc::channel::<()>();
    let pid = child.id();
    // The kernel forgets the peak with the process, so it is looked at often.
    let watcher = thread::spawn(move || {
        let mut peak = 0;
        while is_over.recv_timeout(Duration::from_millis(5)) == Err(RecvTimeoutError::Timeout) {
            peak = peak.max(peak_of(pid));
        }
        peak
    });
    let mut buffer = vec![0; 1 << 18];
    let mut bytes = 0;
    while let read @ 1.. = stdout.read(&mut buffer).expect("a pipe can be read") {
        bytes += read as u64;
    }
    let mut complaints = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        // Only shown if the tool fails.
        let _ = stderr.read_to_string(&mut complaints);
    }
    let status = child.wait().expect("a child can be waited for");
    drop(ended);
    let peak_kib = watcher.join().expect("the watcher does not panic");
    assert!(
        status.success(),
        "{}: {status}\n{complaints}",
        contender.name
    );
    assert!(
        bytes >= contender.output,
        "{} wrote only {bytes} bytes\n{complaints}",
        contender.name
    );
    Sample {
        cpu: children_cpu() - before,
        wall: started.elapsed(),
        peak_kib,
    }
}

fn children_cpu() -> Duration {
    let usage: Usage = getrusage(UsageWho::RUSAGE_CHILDREN).expect("getrusage");
    let micros = |time: nix::sys::time::TimeVal| {
        Duration::from_micros((time.tv_sec() * 1_000_000 + time.tv_usec()).unsigned_abs())
    };
    micros(usage.user_time()) + micros(usage.system_time())
}

/// The largest memory that a process had so far, in KiB (0 when it is gone).
fn peak_of(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// What any program based on libssh2 has to do: connect, log in, read the output
/// of a command, write it to stdout. Blocking, with nothing around it.
fn bare_loop(arguments: &[String]) {
    let [address, key, command] = arguments else {
        panic!("bare-loop <address> <key> <command>");
    };
    let mut channel = bare_channel(address, key, command);
    let mut stdout = std::io::stdout().lock();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = channel.read(&mut buffer).expect("the channel can be read");
        if read == 0 {
            break;
        }
        stdout
            .write_all(&buffer[..read])
            .expect("the pipe can be written");
    }
}

/// The same the other way: reads `file`, and sends it to a command.
fn bare_send(arguments: &[String]) {
    let [address, key] = arguments else {
        panic!("bare-send <address> <key>");
    };
    let mut file = std::fs::File::open("file").expect("it is there");
    let mut channel = bare_channel(address, key, "mkdir -p up && cat >up/file");
    let mut buffer = vec![0; 32_700];
    loop {
        let read = file.read(&mut buffer).expect("a file can be read");
        if read == 0 {
            break;
        }
        channel
            .write_all(&buffer[..read])
            .expect("the host takes it");
    }
    channel.send_eof().expect("the host is there");
    channel.wait_eof().expect("the host is there");
    channel.close().expect("the host is there");
    channel.wait_close().expect("the host is there");
    assert_eq!(channel.exit_status().ok(), Some(0), "cat has failed");
}

/// A command at work on a host.
fn bare_channel(address: &str, key: &str, command: &str) -> ssh2::Channel {
    let stream = TcpStream::connect((address, 22)).expect("the host answers");
    let mut session = ssh2::Session::new().expect("libssh2 works");
    session.set_tcp_stream(stream);
    let cipher = "chacha20-poly1305@openssh.com";
    for method in [ssh2::MethodType::CryptCs, ssh2::MethodType::CryptSc] {
        session
            .method_pref(method, cipher)
            .expect("libssh2 knows it");
    }
    session.handshake().expect("an SSH server");
    session
        .userauth_pubkey_file("root", None, Path::new(key), None)
        .expect("the key is right");
    let mut channel = session
        .channel_open("session", 256 * 1024, 32 * 1024, None)
        .expect("a channel");
    channel.exec(command).expect("the command starts");
    channel
}
