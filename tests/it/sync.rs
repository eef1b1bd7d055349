//! Sync (S11): what tools and orgalorg say to each other, what becomes of a run
//! whose tools fail, and putting files in place without any tool.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, pipe};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;
use std::sync::LazyLock;
use std::time::Duration;

use crate::hosts::{Host, Hosts, wait_until};
use crate::support::{Finished, LIMIT, file_in_home, furnish_home, login, on_all, orgalorg};

/// Hosts for all tests that leave nothing on them that others would notice. They
/// run at the same time, so they do not lock.
static HOSTS: LazyLock<Hosts> = LazyLock::new(|| {
    let hosts = Hosts::start(3);
    furnish_home(&hosts);
    hosts
});

/// How long cancelled tools may take: 5 s to TERM, 3 s to KILL, and what a busy
/// machine adds to that.
const CANCELLING: Duration = Duration::from_secs(20);

/// The beginning of a tool in sh: reads up to START, and knows its place.
const HEAD: &str = r#"
read -r prefix word
nodes=0 place=0
while [ "$word" != START ]; do
    read -r tag word node mark || exit 99
    [ "$word" = NODE ] && nodes=$((nodes + 1))
    [ "$mark" = CURRENT ] && place=$nodes
done
say() { printf '%s SYNC %s\n' "$prefix" "$1"; }
# Shows who has said this, until so many have. Anything else is a mistake.
wait_for() {
    missing=$1
    while [ "$missing" -gt 0 ]; do
        read -r tag word node description || exit 99
        [ "$tag $word $description" = "$prefix SYNC $2" ] || { echo "not now: $description"; exit 98; }
        echo "$node $description"
        missing=$((missing - 1))
    done
}
"#;

/// Twenty phases at random speed: each ends when all have announced it.
const PHASES: &str = r#"
phase=1
while [ $phase -le 20 ]; do
    case $((RANDOM % 4)) in 0) sleep 0.0$((RANDOM % 10)) ;; esac
    say "phase $phase"
    wait_for $nodes "phase $phase"
    phase=$((phase + 1))
done
"#;

/// The same for many hosts: a shell reads byte by byte. It waits as often.
const PHASES_IN_PERL: &str = r#"
use strict; use warnings; $| = 1;
my ($prefix, $nodes) = ("", 0);
while (<STDIN>) {
    ($prefix, my $word) = split;
    $nodes++ if $word eq "NODE";
    last if $word eq "START";
}
for my $phase (1 .. 20) {
    select undef, undef, undef, rand 0.1 if rand 4 < 1;
    print "$prefix SYNC phase $phase\r\n";
    my $heard = "";
    for (1 .. $nodes) {
        my ($tag, $word, $node, $description) = split / /, scalar(<STDIN>), 4;
        chomp $description;
        die "not now: $description" if "$tag $word $description" ne "$prefix SYNC phase $phase";
        $heard .= "$node $description\n";
    }
    print $heard;
}
"#;

/// Arguments for all hosts, at once with other tests.
fn all(arguments: &[&str]) -> Vec<String> {
    on_all(&HOSTS, &[&["-y"], arguments].concat())
}

/// Runs a tool on all hosts, without files.
fn run_tool(tool: &str) -> Finished {
    orgalorg(&HOSTS, all(&["-n", tool, "-S", "--no-upload"])).run()
}

/// What each host said on stdout, without its name.
fn by_host(run: &Finished) -> BTreeMap<String, Vec<String>> {
    let mut said: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in run.stdout().lines() {
        let (name, text) = line.split_once(' ').unwrap_or((line, ""));
        said.entry(name.to_owned())
            .or_default()
            .push(text.to_owned());
    }
    said
}

/// That all hosts said the same, and what.
#[track_caller]
fn in_unison(hosts: &Hosts, run: &Finished) -> Vec<String> {
    let mut said = by_host(run);
    assert_eq!(said.len(), hosts.len(), "{}{}", run.stdout(), run.stderr());
    let (first, lines) = said.pop_first().expect("there are hosts");
    for (other, its_lines) in said {
        assert_eq!(its_lines, lines, "{other} and {first} differ");
    }
    lines
}

fn text_of(host: &Host, path: &Path) -> String {
    String::from_utf8(host.read_file(path)).expect("the test's own text")
}

#[track_caller]
fn wait_for_file(host: &Host, path: &str) {
    wait_until(path, LIMIT, || host.has_file(path));
}

// ---- the protocol

#[test]
fn every_tool_is_told_who_is_there_and_that_all_have_started() {
    let runs = [0, 1].map(|_| run_tool("head -n 5").ok());
    let prefixes = runs.map(|run| {
        let said = by_host(&run);
        let prefix = said["web1"][0]
            .strip_suffix(" HELLO")
            .expect("HELLO comes first");
        let number = prefix.strip_prefix("ORGALORG:").expect("the prefix of S11");
        assert!(number.parse::<u64>().is_ok(), "{number}");
        for own in ["web1", "web2", "web3"] {
            let mut expected = vec![format!("{prefix} HELLO")];
            expected.extend(["web1", "web2", "web3"].map(|node| {
                let mark = if node == own { " CURRENT" } else { "" };
                format!("{prefix} NODE [root@{node}:22]{mark}")
            }));
            expected.push(format!("{prefix} START"));
            assert_eq!(said[own], expected);
        }
        prefix.to_owned()
    });
    assert_ne!(prefixes[0], prefixes[1]);
}

#[test]
fn a_plain_command_that_waits_as_a_sync_tool_is_told_of() {
    let hint = "[INFO] no sync tool has said SYNC yet; a plain command needs -m\n";
    let running = orgalorg(&HOSTS, all(&["-n", "cat", "-S", "--no-upload"])).spawn();
    wait_until(hint, LIMIT, || running.stderr().contains(hint));
    running.signal("INT");
    let stderr = running.finish().stderr();
    assert_eq!(stderr.matches("no sync tool").count(), 1, "{stderr}");
}

#[test]
fn nodes_are_named_in_target_order_and_skipped_ones_are_not() {
    let arguments = [
        "-y",
        "-w",
        "-o",
        "web3",
        "-o",
        "ops@web1",
        "-o",
        "nobody@web2",
        "-o",
        "web1",
    ];
    let tool = "while read -r prefix word node mark; do echo \"$word $node\"; \
                [ $word != START ] || exit 0; done";
    let run = orgalorg(
        &HOSTS,
        arguments.iter().chain(&["-n", tool, "-S", "--no-upload"]),
    );
    let run = run.run().code(0);
    let mut lines: Vec<String> = run.stdout().lines().map(str::to_owned).collect();
    lines.retain(|line| line.starts_with("web3 NODE"));
    let nodes = ["[root@web3:22]", "[ops@web1:22]", "[root@web1:22]"];
    assert_eq!(lines, nodes.map(|node| format!("web3 NODE {node}")));
}

#[test]
fn only_what_is_exactly_a_message_is_one() {
    let tool = format!(
        "{HEAD}{}",
        r#"
        printf '%s\n' "$prefix SYNCHRONIZED" "$prefix  SYNC x" "ORGALORG:1 SYNC x" \
            " $prefix SYNC x"
        # In pieces, with blanks around it and CRLF at its end.
        printf '%s' "${prefix%?}"; sleep 0.05
        printf '%s' "${prefix#"${prefix%?}"} SY"; sleep 0.05
        printf 'NC  in pie'; sleep 0.05; printf 'ces \t\r'; sleep 0.05; printf '\n'
        wait_for $nodes "in pieces"
        say ""
        wait_for $nodes ""
        # Without a newline at its end, and behind a line of output.
        printf 'last\n%s SYNC bye' "$prefix"
        "#
    );
    let run = run_tool(&tool).code(0);
    for (host, lines) in by_host(&run) {
        let (prefix, _) = lines[0].split_once(' ').expect("a prefix");
        assert_eq!(lines[0], format!("{prefix} SYNCHRONIZED"), "{host}");
        assert_eq!(lines[1], format!("{prefix}  SYNC x"), "{host}");
        assert_eq!(lines[2], "ORGALORG:1 SYNC x", "{host}");
        assert_eq!(lines[3], format!(" {prefix} SYNC x"), "{host}");
        assert!(
            lines[4..7].iter().all(|line| line.ends_with("] in pieces")),
            "{lines:?}"
        );
        assert!(
            lines[7..10].iter().all(|line| line.ends_with("] ")),
            "{lines:?}"
        );
        assert_eq!(lines[10..], ["last"], "{host}");
    }
}

#[test]
fn descriptions_of_a_million_bytes_arrive_and_longer_ones_are_an_error() {
    // Shells read byte by byte.
    let tool = r#"exec perl -e '
        $| = 1;
        my ($prefix, $nodes, $place) = ("", 0, 0);
        while (<STDIN>) {
            ($prefix, my $word, my $node, my $mark) = split;
            $nodes++ if $word eq "NODE";
            $place = $nodes if $mark eq "CURRENT";
            last if $word eq "START";
        }
        print "$prefix SYNC ", $place x 1000000, "\n";
        for (1 .. $nodes) {
            my (undef, undef, $node, $description) = split / /, scalar(<STDIN>), 4;
            chomp $description;
            print "$node ", length $description, " ", substr($description, 0, 1), "\n";
        }'"#;
    let run = run_tool(tool).ok();
    let mut lines = in_unison(&HOSTS, &run);
    lines.sort();
    let expected = [1, 2, 3].map(|number| format!("[root@web{number}:22] 1000000 {number}"));
    assert_eq!(lines, expected);
    let tool =
        format!("{HEAD}say \"$(head -c 1048577 /dev/zero | tr '\\0' x)\"; read -r line || exit 99");
    run_tool(&tool)
        .code(1)
        .says("SYNC message of more than 1048576 bytes");
}

#[test]
fn a_tool_that_echoes_what_it_reads_starts_no_storm() {
    let tool = r#"
        seen=0
        while [ $seen -lt 3 ]; do
            read -r prefix word rest || exit 99
            printf '%s %s%s\n' "$prefix" "$word" "${rest:+ $rest}"
            [ "$word" != START ] || echo "$prefix SYNC once"
            [ "$word" != SYNC ] || seen=$((seen + 1))
        done"#;
    let run = run_tool(tool).ok();
    for (host, lines) in by_host(&run) {
        let syncs = lines.iter().filter(|line| line.contains(" SYNC [root@web"));
        assert_eq!((syncs.count(), lines.len()), (3, 8), "{host}: {lines:#?}");
    }
}

#[test]
fn tools_in_sh_python_and_perl_understand_each_other() {
    file_in_home(&HOSTS, "languages/tool.sh", format!("{HEAD}{PHASES}"));
    file_in_home(
        &HOSTS,
        "languages/tool.py",
        r#"
import sys
lines = iter(sys.stdin.readline, "")
prefix, nodes = None, 0
for line in lines:
    prefix, word, *rest = line.split()
    nodes += word == "NODE"
    if word == "START":
        break
for phase in range(1, 21):
    print(prefix, "SYNC", "phase", phase, flush=True)
    for _ in range(nodes):
        tag, word, node, description = next(lines).rstrip("\n").split(" ", 3)
        assert description == f"phase {phase}", description
        print(node, description, flush=True)
"#,
    );
    file_in_home(&HOSTS, "languages/tool.pl", PHASES_IN_PERL);
    let tool =
        "cd languages; case $(hostname) in web1) sh=bash ;; web2) sh=python3 ;; *) sh=perl ;; esac
                set -- tool.sh tool.py tool.pl; n=$(hostname | tr -dc 0-9); exec $sh ${!n}";
    let run = all(&["-e", "-r", "/tmp/languages", "-n", tool, "-S", "languages"]);
    let run = orgalorg(&HOSTS, run).run().code(0);
    let lines = in_unison(&HOSTS, &run);
    assert_eq!(lines.len(), 3 * 20, "{lines:#?}");
}

#[test]
fn many_tools_stay_in_step_and_hear_the_same() {
    // Grouped output holds nobody up either.
    let in_shell = format!("{HEAD}{PHASES}");
    let in_perl = format!("exec perl -e '{PHASES_IN_PERL}'");
    for (count, options, tool) in [(16, &["-l"][..], in_shell), (64, &[], in_perl)] {
        let hosts = Hosts::start(count);
        let run = [options, &["-n", &tool, "-S", "--no-upload"]].concat();
        let run = on_all(&hosts, &run);
        let run = orgalorg(&hosts, run).run().ok();
        let lines = in_unison(&hosts, &run);
        assert_eq!(lines.len(), count * 20, "{lines:#?}");
    }
}

#[test]
fn phases_pass_while_nobody_reads_the_output() {
    // Together more than a pipe holds, but what is under way of each host.
    let tool = format!(
        "{HEAD}{}",
        r#"
        for phase in 1 2 3 4 5 6 7 8 9 10; do
            head -c 4000 /dev/zero | tr '\0' x; echo
            say $phase
            wait_for $nodes $phase >/dev/null
        done
        touch /tmp/unread-done"#
    );
    let (mut reader, writer) = pipe().expect("a pipe");
    let run = all(&["-n", &tool, "-S", "--no-upload"]);
    let mut command = orgalorg(&HOSTS, run).into_command();
    command.stdin(Stdio::null()).stdout(writer);
    let mut child = command.spawn().expect("orgalorg");
    drop(command);
    for host in &*HOSTS {
        wait_for_file(host, "/tmp/unread-done");
    }
    let mut text = Vec::new();
    reader.read_to_end(&mut text).expect("readable");
    assert!(child.wait().expect("a child").success());
    assert_eq!(
        text.iter().filter(|&&byte| byte == b'x').count(),
        3 * 40_000
    );
}

#[test]
fn who_does_not_read_reads_late_or_has_ended_holds_up_nobody() {
    let tool = format!(
        "{HEAD}{}",
        r#"
        number=1
        case $place in
            1) exit 0 ;;
            2) while [ ! -e /tmp/late-go ]; do sleep 0.02; done ;;
        esac
        while [ $number -le 300 ]; do
            say "$number $(head -c 1000 /dev/zero | tr '\0' x)"
            # Output in between.
            head -c 10000 /dev/zero; echo
            number=$((number + 1))
        done
        touch /tmp/late-said
        seen=0
        while [ $seen -lt 600 ]; do
            read -r line || exit 99
            seen=$((seen + 1))
        done
        echo all"#
    );
    let run = all(&["-n", &tool, "-S", "--no-upload"]);
    let run = orgalorg(&HOSTS, run).spawn();
    wait_for_file(&HOSTS[2], "/tmp/late-said");
    HOSTS[1].write_file("/tmp/late-go", "", 0o644);
    let run = run.finish().code(0);
    let done = run
        .stdout()
        .lines()
        .filter(|line| line.ends_with(" all"))
        .count();
    assert_eq!(done, 2);
}

// ---- tools that fail

#[test]
fn a_tool_that_dies_cancels_the_others_at_end_of_file_or_by_force() {
    let tool = format!(
        "{HEAD}{}",
        r#"
        say 1; wait_for $nodes 1; say 2; wait_for $nodes 2
        case $place in
            2) exit 7 ;;
            3) trap '' TERM; while :; do sleep 86397; done ;;
        esac
        say 3; wait_for $nodes 3; touch /tmp/dies-passed"#
    );
    let run = all(&["-n", &tool, "-S", "--no-upload"]);
    let run = orgalorg(&HOSTS, run).limit(CANCELLING).run();
    let run = run.code(1).says("code 7");
    assert_eq!(run.stdout().matches("] 2\n").count(), 9, "{}", run.stdout());
    for host in &*HOSTS {
        assert!(!host.has_file("/tmp/dies-passed"));
        let left = host.processes();
        assert!(
            left.iter()
                .all(|process| !process.command.contains("86397")),
            "{left:#?}"
        );
    }
}

#[test]
fn in_a_loose_run_the_others_go_on_without_it() {
    let tool = format!(
        "{HEAD}{}",
        r#"
        say 1; wait_for $nodes 1
        [ $place != 2 ] || kill -KILL $$
        say 2; wait_for $((nodes - 1)) 2; echo passed"#
    );
    let run = all(&["-w", "-n", &tool, "-S", "--no-upload"]);
    let run = orgalorg(&HOSTS, run).run().code(1).says("KILL");
    let passed = run.sorted();
    let passed: Vec<_> = passed
        .iter()
        .filter(|line| line.ends_with("passed"))
        .collect();
    assert_eq!(passed, ["web1 passed", "web3 passed"]);
}

#[test]
fn a_host_that_is_lost_in_the_middle_is_a_tool_that_has_failed() {
    let hosts = Hosts::start(3);
    let tool = format!(
        "{HEAD}{}",
        r#"
        say 1; wait_for $nodes 1
        if [ $place = 2 ]; then touch "$1"; exec sleep 86396; fi
        say 2; wait_for $((nodes - 1)) 2; say 3
        if [ "$2" = strict ]; then wait_for $nodes 3; else wait_for $((nodes - 1)) 3; fi
        echo passed"#
    );
    for (kind, options, code, passed) in [("strict", &["-y"][..], 3, 0), ("loose", &["-w"], 3, 2)] {
        let marker = format!("/tmp/lost-{kind}");
        let arguments = ["-g", &marker, "-g", kind, "-n", &tool, "-S", "--no-upload"];
        let run = on_all(&hosts, &[options, &arguments].concat());
        let run = orgalorg(&hosts, run).spawn();
        wait_for_file(&hosts[1], &marker);
        wait_until("the others to be there too", LIMIT, || {
            run.stdout().matches("] 2\n").count() == 4
        });
        hosts[1].drop_connections();
        let run = run.finish_within(CANCELLING).code(code).says("web2");
        let count = run.stdout().matches(" passed\n").count();
        assert_eq!(count, passed, "{kind}\n{}{}", run.stdout(), run.stderr());
    }
}

#[test]
fn a_tool_that_never_ends_is_ended_by_its_timeout_and_by_interrupt() {
    let run = all(&[
        "--timeout",
        "1s",
        "-n",
        "exec sleep 86395",
        "-S",
        "--no-upload",
    ]);
    orgalorg(&HOSTS, run).limit(CANCELLING).run().code(1);
    let tool = "echo up; cat >/dev/null; exec sleep 86395";
    let run = orgalorg(&HOSTS, all(&["-n", tool, "-S", "--no-upload"])).spawn();
    wait_until("the tools to run", LIMIT, || {
        run.stdout().lines().count() == 3
    });
    run.signal("INT");
    run.finish_within(CANCELLING).killed_by(2);
    for host in &*HOSTS {
        let left = host.processes();
        assert!(
            left.iter()
                .all(|process| !process.command.contains("86395")),
            "{left:#?}"
        );
    }
}

// ---- the tool and its arguments

#[test]
fn arguments_arrive_byte_for_byte() {
    let odd = [
        "two words",
        "it's",
        "\"",
        "*",
        "a\\b\\\\",
        "",
        "$HOME `id`",
        "line\nbreak",
        "-n",
    ];
    let options: Vec<&str> = odd.iter().flat_map(|argument| ["-g", argument]).collect();
    let expected: String = odd
        .iter()
        .map(|argument| format!("<{argument}>\n"))
        .collect();
    for simple in [&[][..], &["-m"]] {
        let tool = ["-n", "printf '<%s>\\n' \"$@\"", "-S", "--no-upload"];
        let run = orgalorg(&HOSTS, all(&[simple, &options, &tool].concat()))
            .run()
            .ok();
        let lines = in_unison(&HOSTS, &run);
        assert_eq!(format!("{}\n", lines.join("\n")), expected);
    }
}

#[test]
fn the_tool_may_be_any_program_of_the_shell() {
    for (tool, said) in [
        ("echo b a | tr ' ' '\\n' | sort", "a\nb"),
        (
            "if [ \"$(pwd)\" = \"$HOME\" ]; then echo 'at home'; fi",
            "at home",
        ),
        ("for i in 1 2; do\n  echo \"$i\"\ndone # comment", "1\n2"),
        ("cat <<'END'\n$HOME 'x'\nEND", "$HOME 'x'"),
        (
            "echo done &\nwait; printf unterminated",
            "done\nunterminated",
        ),
        ("shopt -q login_shell || echo ${BASH_VERSION:+bash}", "bash"),
    ] {
        let run = run_tool(tool).ok();
        assert_eq!(in_unison(&HOSTS, &run).join("\n"), said, "{tool}");
    }
    let run = run_tool("echo out; echo err >&2; exit 3")
        .code(1)
        .says("code 3");
    assert_eq!(in_unison(&HOSTS, &run), ["out"]);
    run.says("web1 err").says("web3 err");
}

#[test]
fn with_m_the_tool_is_a_plain_command() {
    let run = all(&[
        "-m",
        "-i",
        "-",
        "-n",
        "cat; echo ORGALORG:1 SYNC x",
        "-S",
        "--no-upload",
    ]);
    let run = orgalorg(&HOSTS, run).stdin("given\n").run().ok();
    assert_eq!(in_unison(&HOSTS, &run), ["given", "ORGALORG:1 SYNC x"]);
}

#[test]
fn the_tool_of_the_manual_restarts_one_after_the_other() {
    let manual = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/PROTOCOL.md"));
    let manual = manual.expect("docs/PROTOCOL.md can be read");
    let (_, rest) = manual.split_once("```sh tool\n").expect("it has a tool");
    let (tool, _) = rest.split_once("```").expect("it ends");
    let hosts = Hosts::start(3);
    file_in_home(&hosts, "etc/haproxy/haproxy.cfg", "new\n");
    for host in &hosts {
        host.install_program("haproxy", "#!/bin/sh\ngrep -q new \"$3\"\n");
        let restart =
            "#!/bin/sh\nfor i in begin end; do date +%s%N >>/tmp/restarts; sleep 0.05; done\n";
        host.install_program("systemctl", restart);
        host.run_ok("mkdir /etc/haproxy; echo old >/etc/haproxy/haproxy.cfg");
        host.run_ok("mkdir -p /usr/lib/orgalorg");
        host.write_file("/usr/lib/orgalorg/sync", tool, 0o755);
    }
    let files = ["-e", "-S", "etc/haproxy/haproxy.cfg"];
    let run = orgalorg(&hosts, on_all(&hosts, &files)).run().code(0);
    assert!(!run.stderr().contains("has left files"), "{}", run.stderr());
    for (index, (_, lines)) in by_host(&run).into_iter().enumerate() {
        let own = format!("restarted as number {} of 3", index + 1);
        assert_eq!(lines, ["all 3 nodes are prepared", &own]);
    }
    // All hosts have the clock of this machine.
    let times: Vec<u64> = hosts
        .iter()
        .flat_map(|host| {
            assert_eq!(
                text_of(host, Path::new("/etc/haproxy/haproxy.cfg")),
                "new\n"
            );
            assert_eq!(host.run_ok("ls -A /var/run/orgalorg"), "");
            let text = text_of(host, Path::new("/tmp/restarts"));
            text.lines()
                .map(|line| line.parse().expect("a time"))
                .collect::<Vec<u64>>()
        })
        .collect();
    assert_eq!(times.len(), 6);
    assert!(times.is_sorted(), "{times:?}");

    file_in_home(&hosts, "roll", tool);
    let uploaded = ["-e", "-n", "sh ./roll", "-S", "roll"];
    let uploaded = [&uploaded[..], &["etc/haproxy/haproxy.cfg"]].concat();
    let run = orgalorg(&hosts, on_all(&hosts, &uploaded)).run().code(0);
    assert!(!run.stderr().contains("has left files"), "{}", run.stderr());
    assert_eq!(hosts[0].run_ok("ls -A /var/run/orgalorg"), "");
}

// ---- files and run directories

#[test]
fn the_tool_runs_among_the_files_in_a_directory_of_its_own() {
    file_in_home(&HOSTS, "rundir/a file", "content");
    let tool = "stat -c '%a %U' .; ls rundir; pwd >/tmp/rundir-$(id -un); \
                stat -c '%a %U' ..; rm -r \"$PWD\"";
    for (user, place) in [
        ("root", "/run/orgalorg/"),
        ("guest", "/tmp/orgalorg-guest/"),
    ] {
        let names = ["web1", "web2"].map(|name| login(user, HOSTS.host(name)));
        let run = [
            "-y", "-o", &names[0], "-o", &names[1], "-e", "-n", tool, "-S", "rundir",
        ];
        let run = orgalorg(&HOSTS, run).run().code(0);
        for (_, lines) in by_host(&run) {
            let mode = format!("700 {user}");
            assert_eq!(lines[..2], [mode.as_str(), "a file"], "{}", run.stdout());
            assert!(lines[2].ends_with(user), "{}", run.stdout());
        }
        let path = text_of(&HOSTS[0], Path::new(&format!("/tmp/rundir-{user}")));
        let id = path.trim().trim_start_matches("/var").strip_prefix(place);
        let id = id.unwrap_or_else(|| panic!("{path}"));
        // YYYYMMDDhhmmss.ffffff
        let (date, fraction) = id.split_once('.').expect("a dot");
        assert_eq!((date.len(), fraction.len()), (14, 6), "{id}");
        // Nothing was left, so nothing is said of it.
        assert!(!run.stderr().contains("--apply"), "{}", run.stderr());
    }
}

#[test]
fn a_run_directory_is_never_somebody_elses() {
    file_in_home(&HOSTS, "foreign", "content");
    for place in ["mkdir -m 777", "ln -s /home/ops"] {
        HOSTS[0].run_ok(&format!(
            "rm -rf /tmp/orgalorg-carol; {place} /tmp/orgalorg-carol; chown -h ops /tmp/orgalorg-carol"
        ));
        let name = login("carol", &HOSTS[0]);
        let run = ["-y", "-o", &name, "-e", "-n", "echo ran", "-S", "foreign"];
        let run = orgalorg(&HOSTS, run).run().code(1);
        assert_eq!(run.stdout(), "");
        let found = HOSTS[0].run_ok("find /tmp/orgalorg-carol/ -name foreign");
        assert_eq!(found, "", "{place}");
    }
}

#[test]
fn what_a_tool_has_left_is_said_once_also_quietly() {
    file_in_home(&HOSTS, "left", "content");
    for options in [&[][..], &["-q"], &["--json"], &["--json", "-q"]] {
        let run = all(&[options, &["-e", "-n", "test -e left", "-S", "left"]].concat());
        let run = orgalorg(&HOSTS, run).run().code(0);
        let said = run.says("--apply").says("-r /").says("/var/run/orgalorg/");
        assert_eq!(
            said.stderr().matches("--apply").count(),
            1,
            "{}",
            said.stderr()
        );
    }
    // It may be of no use to put in place what a tool has refused.
    let run = all(&["-e", "-n", "test ! -e left", "-S", "left"]);
    let failed = orgalorg(&HOSTS, run).run().code(1);
    let said = failed.says("the sync tool has left files").stderr();
    assert!(!said.contains("--apply"), "{said}");
}

// ---- without a tool

#[test]
fn where_no_host_has_a_tool_the_files_are_put_in_place() {
    let file = file_in_home(&HOSTS, "placed/deep/placed.conf", "new\n");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o604)).expect("ours");
    let directory = file.parent().expect("it has one");
    HOSTS[1].run_ok(&format!(
        "mkdir -p '{0}'; echo old >'{0}/placed.conf'",
        directory.display()
    ));
    let path = file.to_str().expect("UTF-8");
    let run = orgalorg(&HOSTS, all(&["-S", path])).run().code(0);
    assert!(!run.stderr().contains("[WARN]"), "{}", run.stderr());
    // What a tool would have got.
    let options = ["-m", "-i", path, "-g", "x", "-S", path];
    orgalorg(&HOSTS, all(&options))
        .run()
        .code(0)
        .says("there is no sync tool on the hosts to make use of -g and -i");
    for host in &*HOSTS {
        assert_eq!(text_of(host, &file), "new\n");
        assert_eq!(host.run_ok(&format!("stat -c %a '{path}'")), "604\n");
        let names = host.run_ok(&format!("ls -A '{}'", directory.display()));
        assert_eq!(names, "placed.conf\n");
        let left = host.run_ok("find /run/orgalorg -name placed.conf");
        assert_eq!(left, "", "{}", host.name());
    }
}

#[test]
fn what_is_in_the_way_of_a_file_is_left_alone_and_reported() {
    let file = file_in_home(&HOSTS, "way/way.conf", "new\n");
    let path = file.to_str().expect("UTF-8");
    HOSTS[0].run_ok(&format!("mkdir -p '{path}'; echo precious >'{path}/x'"));
    HOSTS[2].run_ok(&format!(
        "mkdir -p \"$(dirname '{path}')\"; ln -s /etc/passwd '{path}'"
    ));
    let run = orgalorg(&HOSTS, all(&["-S", path])).run().code(1);
    run.says(&format!(
        "web1 can't put '{path}' in place: a directory is in the way"
    ))
    .says(&format!(
        "web3 can't put '{path}' in place: a symbolic link is in the way"
    ));
    assert_eq!(text_of(&HOSTS[0], &file.join("x")), "precious\n");
    assert!(text_of(&HOSTS[2], Path::new("/etc/passwd")).starts_with("root:"));
}

#[test]
fn a_tool_that_only_some_hosts_have_is_an_error_before_any_starts() {
    let hosts = Hosts::start(3);
    let install = |host: &Host, tool: &str| {
        host.install_program("orgalorg-sync", tool);
        let link = "ln -sf /usr/bin/orgalorg-sync /usr/lib/orgalorg/sync";
        host.run_ok(&format!("mkdir -p /usr/lib/orgalorg; {link}"));
    };
    install(&hosts[1], "#!/bin/sh\ntouch /tmp/ran\n");
    let file = file_in_home(&hosts, "some.conf", "new\n");
    let path = file.to_str().expect("UTF-8");
    let run = orgalorg(&hosts, on_all(&hosts, &["-S", path]))
        .run()
        .code(1);
    run.says("web[1,3]").says("/usr/lib/orgalorg/sync");
    for host in &hosts {
        assert!(!host.has_file("/tmp/ran") && !host.has_file(path));
        let left = host.run_ok("[ ! -d /run/orgalorg ] || find /run/orgalorg -name some.conf");
        assert_eq!(left, "", "{}", host.name());
    }
    // Where all have it, it is used, with its arguments.
    for host in &hosts {
        install(host, "#!/bin/sh\necho \"$# $1\"; rm -r \"$PWD\"\n");
    }
    let run = orgalorg(&hosts, on_all(&hosts, &["-g", "a b", "-S", path]))
        .run()
        .code(0);
    assert_eq!(in_unison(&hosts, &run), ["1 a b"]);
}

#[test]
fn applied_files_are_in_place_before_the_tool_runs_and_the_directory_goes_after_it() {
    for (user, sudo) in [("root", &[][..]), ("ops", &["-x"])] {
        let file = file_in_home(&HOSTS, &format!("applied-{user}/applied.conf"), "new\n");
        let path = file.to_str().expect("UTF-8");
        let names = ["web1", "web2", "web3"].map(|name| login(user, HOSTS.host(name)));
        let tool = format!("cat '{path}' '.{path}'; pwd; id -un");
        let hosts: Vec<&str> = names.iter().flat_map(|name| ["-o", name]).collect();
        let run = [
            &["-y"],
            &hosts[..],
            sudo,
            &["--apply", "-n", &tool, "-S", path],
        ]
        .concat();
        let run = orgalorg(&HOSTS, run).run().code(0);
        for (name, lines) in by_host(&run) {
            assert_eq!(lines[..2], ["new", "new"], "{name}: {lines:?}");
            assert_eq!(lines[3], "root", "{name}: {lines:?}");
            assert!(
                !HOSTS.host(&name).has_file(&lines[2]),
                "{} is still there",
                lines[2]
            );
        }
        assert!(!run.stderr().contains("--apply"), "{}", run.stderr());
    }
}

#[test]
fn where_files_cannot_be_applied_no_tool_runs() {
    let file = file_in_home(&HOSTS, "unapplied.conf", "new\n");
    let path = file.to_str().expect("UTF-8");
    HOSTS[1].run_ok(&format!("mkdir -p '{path}'"));
    let run = all(&["--apply", "-n", "echo ran", "-S", path]);
    let run = orgalorg(&HOSTS, run).run().code(1);
    let run = run.says(&format!("web2 can't put '{path}' in place"));
    assert_eq!(run.stdout(), "");
}
