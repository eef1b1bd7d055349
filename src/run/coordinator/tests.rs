use super::*;
use crossbeam_channel::unbounded;
use proptest::prelude::*;
use std::collections::VecDeque;

const FIRST: NodeId = NodeId(2);
const SECOND: NodeId = NodeId(3);
const THIRD: NodeId = NodeId(7);

fn name(node: NodeId) -> String {
    format!("[ops@db{}:22]", node.0)
}

/// Of three nodes; some before and between them were skipped.
fn coordinator(is_loose: bool) -> Coordinator {
    let nodes = [THIRD, FIRST, SECOND].map(|node| (node, name(node)));
    Coordinator::new(Prefix::new([0; 8]), nodes, is_loose)
}

fn sync(node: NodeId, text: &str) -> ToolEvent {
    ToolEvent::Sync(node, text.into())
}

/// What comes of events, a line each: `2< HELLO`, `cancel 3`.
fn play(coordinator: &mut Coordinator, events: impl IntoIterator<Item = ToolEvent>) -> Vec<String> {
    let mut lines = Vec::new();
    for event in events {
        for action in coordinator.on(event, Instant::now()) {
            match action {
                Action::Send(node, text) => {
                    let text = String::from_utf8_lossy(&text).into_owned();
                    lines.extend(text.lines().map(|line| {
                        let message = line.strip_prefix("ORGALORG:0 ").expect("a prefix");
                        format!("{}< {message}", node.0)
                    }));
                }
                Action::Cancel(node) => lines.push(format!("cancel {}", node.0)),
                Action::Stop(node) => lines.push(format!("stop {}", node.0)),
                Action::TellSilence => panic!("an event is no silence"),
            }
        }
    }
    lines
}

/// A coordinator whose tools have all been started.
fn under_way(is_loose: bool) -> Coordinator {
    let mut coordinator = coordinator(is_loose);
    play(
        &mut coordinator,
        [FIRST, SECOND, THIRD].map(ToolEvent::Started),
    );
    coordinator
}

#[test]
fn a_tool_is_introduced_to_all_nodes_in_target_order() {
    let told = play(&mut coordinator(false), [ToolEvent::Started(SECOND)]);
    assert_eq!(
        told,
        [
            "3< HELLO",
            "3< NODE [ops@db2:22]",
            "3< NODE [ops@db3:22] CURRENT",
            "3< NODE [ops@db7:22]",
        ]
    );
}

#[test]
fn start_comes_when_the_last_tool_has_its_list() {
    let mut coordinator = coordinator(false);
    let told = play(&mut coordinator, [THIRD, FIRST].map(ToolEvent::Started));
    assert!(told.iter().all(|line| !line.contains("START")), "{told:?}");
    let told = play(&mut coordinator, [ToolEvent::Started(SECOND)]);
    assert_eq!(told[4..], ["2< START", "3< START", "7< START"]);
}

#[test]
fn what_is_said_before_start_follows_it() {
    let events = [
        ToolEvent::Started(FIRST),
        sync(FIRST, "a"),
        ToolEvent::Started(SECOND),
        sync(SECOND, "b"),
        sync(FIRST, "c"),
    ];
    let mut coordinator = coordinator(false);
    let told = play(&mut coordinator, events);
    assert!(told.iter().all(|line| !line.contains("SYNC")), "{told:?}");
    let told = play(&mut coordinator, [ToolEvent::Started(THIRD)]);
    let third: Vec<&String> = told.iter().filter(|line| line.starts_with('7')).collect();
    assert_eq!(
        third[4..],
        [
            "7< START",
            "7< SYNC [ops@db2:22] a",
            "7< SYNC [ops@db3:22] b",
            "7< SYNC [ops@db2:22] c",
        ]
    );
}

#[test]
fn a_broadcast_goes_to_all_that_run_and_to_its_sender() {
    let mut coordinator = under_way(false);
    let told = play(&mut coordinator, [sync(SECOND, "drained")]);
    let text = "SYNC [ops@db3:22] drained";
    assert_eq!(told, [2, 3, 7].map(|node| format!("{node}< {text}")));
    let events = [
        ToolEvent::Ended(FIRST, ToolEnd::Succeeded),
        sync(SECOND, ""),
    ];
    let told = play(&mut coordinator, events);
    assert_eq!(
        told,
        [3, 7].map(|node| format!("{node}< SYNC [ops@db3:22]"))
    );
}

#[test]
fn the_text_of_a_broadcast_exists_once() {
    let actions = under_way(false).on(sync(SECOND, "drained"), Instant::now());
    let [Action::Send(_, one), Action::Send(_, other), _] = &actions[..] else {
        panic!("{actions:?}")
    };
    assert!(Arc::ptr_eq(one, other));
}

#[test]
fn a_failing_tool_cancels_the_run_once_and_nothing_follows() {
    let mut coordinator = under_way(false);
    let events = [
        ToolEvent::Ended(SECOND, ToolEnd::Failed),
        sync(FIRST, "x"),
        ToolEvent::Ended(FIRST, ToolEnd::Failed),
    ];
    assert_eq!(play(&mut coordinator, events), ["cancel 3"]);
    assert!(coordinator.is_over());
}

#[test]
fn a_loose_run_goes_on_without_the_failing_tool() {
    let mut coordinator = under_way(true);
    let events = [ToolEvent::Ended(SECOND, ToolEnd::Failed), sync(FIRST, "x")];
    let told = play(&mut coordinator, events);
    assert_eq!(
        told,
        [2, 7].map(|node| format!("{node}< SYNC [ops@db2:22] x"))
    );
    assert!(!coordinator.is_over());
    play(
        &mut coordinator,
        [FIRST, THIRD].map(|node| ToolEvent::Ended(node, ToolEnd::Succeeded)),
    );
    assert!(coordinator.is_over());
}

#[test]
fn a_tool_that_is_over_before_start_is_not_waited_for() {
    let mut coordinator = coordinator(false);
    let events = [
        ToolEvent::Started(FIRST),
        sync(FIRST, "done"),
        ToolEvent::Ended(FIRST, ToolEnd::Succeeded),
        ToolEvent::Started(SECOND),
        ToolEvent::Started(THIRD),
    ];
    let told = play(&mut coordinator, events);
    assert_eq!(
        told[12..],
        [
            "3< START",
            "7< START",
            "3< SYNC [ops@db2:22] done",
            "7< SYNC [ops@db2:22] done",
        ]
    );
}

#[test]
fn a_host_that_is_lost_before_its_tool_runs_is_not_waited_for() {
    let events = [
        ToolEvent::Started(FIRST),
        ToolEvent::Started(SECOND),
        ToolEvent::Ended(THIRD, ToolEnd::Failed),
    ];
    let told = play(&mut coordinator(true), events.clone());
    assert_eq!(told[8..], ["2< START", "3< START"]);
    let told = play(&mut coordinator(false), events);
    assert_eq!(told[8..], ["cancel 7"]);
}

#[test]
fn first_words_may_overtake_the_news_of_the_start() {
    let mut coordinator = coordinator(false);
    let told = play(&mut coordinator, [sync(FIRST, "x")]);
    assert_eq!(told[0], "2< HELLO");
    assert_eq!(play(&mut coordinator, [ToolEvent::Started(FIRST)]), [""; 0]);
}

#[test]
fn strangers_and_the_dead_have_no_say() {
    let mut coordinator = under_way(false);
    let events = [
        ToolEvent::Started(NodeId(0)),
        sync(NodeId(4), "x"),
        ToolEvent::Ended(NodeId(99), ToolEnd::Failed),
        ToolEvent::Ended(FIRST, ToolEnd::Succeeded),
        sync(FIRST, "x"),
        ToolEvent::Started(FIRST),
        ToolEvent::Ended(FIRST, ToolEnd::Failed),
    ];
    assert_eq!(play(&mut coordinator, events), [""; 0]);
}

#[test]
fn who_floods_the_others_before_start_is_stopped() {
    let mut coordinator = coordinator(false);
    play(&mut coordinator, [ToolEvent::Started(FIRST)]);
    let much = "x".repeat(1_000_000);
    let told = play(&mut coordinator, (0..9).map(|_| sync(FIRST, &much)));
    assert_eq!(told, ["stop 2"]);
}

#[test]
fn silence_after_start_is_told_once() {
    let begin = Instant::now();
    let at = |seconds| begin + Duration::from_secs(seconds);
    let mut coordinator = coordinator(false);
    for (node, seconds) in [(FIRST, 0), (SECOND, 100)] {
        coordinator.on(ToolEvent::Started(node), at(seconds));
        assert_eq!(coordinator.alarm(), None);
    }
    coordinator.on(ToolEvent::Started(THIRD), at(200));
    assert_eq!(coordinator.alarm(), Some(at(210)));
    assert_eq!(coordinator.tick(at(209)), []);
    assert_eq!(coordinator.tick(at(210)), [Action::TellSilence]);
    assert_eq!(coordinator.alarm(), None);
    assert_eq!(coordinator.tick(at(300)), []);
}

#[test]
fn a_sync_or_an_end_breaks_the_silence() {
    let now = Instant::now();
    let started = [FIRST, SECOND, THIRD].map(ToolEvent::Started);
    let has_alarm = |events: &[ToolEvent]| {
        let mut coordinator = coordinator(true);
        for event in events {
            coordinator.on(event.clone(), now);
        }
        coordinator.alarm().is_some()
    };
    let [first, second, third] = started;
    let end = |node| ToolEvent::Ended(node, ToolEnd::Succeeded);
    for event in [sync(FIRST, "x"), end(FIRST)] {
        let mut events = [first.clone(), second.clone(), third.clone()].to_vec();
        assert!(has_alarm(&events));
        // After START, and before it.
        for place in [3, 1] {
            events.insert(place, event.clone());
            assert!(!has_alarm(&events), "{events:?}");
            events.remove(place);
        }
    }
    // A host that was lost before has no tool that could have ended.
    assert!(has_alarm(&[first, second, end(THIRD)]));
    let mut coordinator = under_way(false);
    coordinator.on(ToolEvent::Ended(FIRST, ToolEnd::Failed), now);
    assert_eq!(coordinator.alarm(), None);
}

#[test]
fn the_thread_ends_with_the_tools_and_with_the_last_sender() {
    for with_senders in [true, false] {
        let (sender, events) = unbounded();
        let (act, actions) = unbounded();
        let act = move |action| act.send(action).expect("the test listens");
        spawn(coordinator(false), events, act).expect("a thread");
        for node in [FIRST, SECOND, THIRD] {
            sender.send(ToolEvent::Started(node)).expect("it listens");
        }
        if with_senders {
            for node in [FIRST, SECOND, THIRD] {
                let event = ToolEvent::Ended(node, ToolEnd::Succeeded);
                sender.send(event).expect("it listens");
            }
        } else {
            drop(sender);
        }
        // Ends when the thread drops its sender.
        assert_eq!(actions.iter().count(), 6);
    }
}

/// A tool as the test plays it: what it does next, if it has its turn.
struct Player {
    script: VecDeque<ToolEvent>,
    heard: Vec<String>,
}

/// `rounds` phases for each tool, with some ending early; the order in which
/// they get their turns is random.
fn players(phases: &[usize], fails: bool) -> Vec<Player> {
    let players = phases.iter().enumerate();
    players
        .map(|(index, &phases)| {
            let node = NodeId(index);
            let syncs = (0..phases).map(|phase| sync(node, &phase.to_string()));
            let end = if fails {
                ToolEnd::Failed
            } else {
                ToolEnd::Succeeded
            };
            Player {
                script: std::iter::once(ToolEvent::Started(node))
                    .chain(syncs)
                    .chain([ToolEvent::Ended(node, end)])
                    .collect(),
                heard: Vec::new(),
            }
        })
        .collect()
}

proptest! {
    /// Long because it plays a whole run, step by step, against what tools must hear.
    #[test]
    fn all_tools_hear_the_same_in_the_same_order(
        phases in prop::collection::vec(0usize..6, 1..9),
        turns in prop::collection::vec(any::<prop::sample::Index>(), 100),
        fails: bool,
    ) {
        let count = phases.len();
        let nodes = (0..count).map(|index| (NodeId(index), name(NodeId(index))));
        let mut coordinator = Coordinator::new(Prefix::new([0; 8]), nodes, fails);
        let mut players = players(&phases, fails);
        let mut turns = turns.iter().cycle();
        let mut running = vec![false; count];
        let mut started = 0;
        // What everybody who runs to the end hears after START.
        let mut said = Vec::new();
        while players.iter().any(|player| !player.script.is_empty()) {
            let ready: Vec<usize> = (0..count).filter(|&i| !players[i].script.is_empty()).collect();
            let index = ready[turns.next().expect("endless").index(ready.len())];
            let event = players[index].script.pop_front().expect("ready");
            match &event {
                ToolEvent::Started(node) => {
                    running[node.0] = true;
                    started += 1;
                }
                ToolEvent::Sync(node, text) => {
                    said.push(format!("SYNC {} {}", name(*node), String::from_utf8_lossy(text)));
                }
                ToolEvent::Ended(node, _) => running[node.0] = false,
            }
            for line in play(&mut coordinator, [event]) {
                let (node, message) = line.split_once("< ").expect("nothing is cancelled");
                let node: usize = node.parse().expect("a number");
                prop_assert!(running[node], "an ended tool is sent {message}");
                if message == "START" {
                    prop_assert_eq!(started, count, "START before all were started");
                }
                players[node].heard.push(message.to_owned());
            }
            for (index, player) in players.iter().enumerate().filter(|(i, _)| running[*i]) {
                let introduction: Vec<String> = std::iter::once("HELLO".to_owned())
                    .chain((0..count).map(|i| {
                        let mark = if i == index { " CURRENT" } else { "" };
                        format!("NODE {}{mark}", name(NodeId(i)))
                    }))
                    .collect();
                prop_assert_eq!(&player.heard[..=count], &introduction[..]);
                let rest = &player.heard[count + 1..];
                if started < count {
                    prop_assert!(rest.is_empty());
                } else {
                    prop_assert_eq!(&rest[0], "START");
                    prop_assert_eq!(&rest[1..], &said[..]);
                }
            }
        }
        prop_assert!(coordinator.is_over());
        // Those that ended early heard the beginning of the same.
        for player in &players {
            if let Some(rest) = player.heard.get(count + 2..) {
                prop_assert!(said.starts_with(rest));
            }
        }
    }
}

/// Tools that run on this machine, connected as the nodes will be: with a filter
/// on their stdout, the coordinator's thread, and what waits for their stdin.
/// Long because it is a small node loop, with all its connections.
fn run_tools(tools: Vec<std::process::Command>) -> Vec<(bool, String)> {
    use crate::remote::protocol::{Filter, Names};
    use std::io::{Read, Write};
    use std::process::Stdio;
    use std::sync::Mutex;

    let prefix = Prefix::new([7; 8]);
    let nodes: Vec<NodeId> = (0..tools.len()).map(NodeId).collect();
    let names: Arc<Names> = Arc::new(nodes.iter().map(|&node| name(node)).collect());
    let (sender, events) = unbounded();
    let mut inboxes = Vec::new();
    let mut readers = Vec::new();
    for (&node, mut tool) in nodes.iter().zip(tools) {
        tool.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = tool.spawn().expect("a tool");
        let mut stdin = child.stdin.take().expect("piped");
        let (inbox, texts) = unbounded::<Arc<[u8]>>();
        inboxes.push(Some(inbox));
        thread::spawn(move || {
            for text in texts {
                // It may have ended.
                let _ = stdin.write_all(&text);
            }
        });
        let mut filter = Filter::new(&prefix, Arc::clone(&names));
        let sender = sender.clone();
        readers.push(thread::spawn(move || {
            let (mut out, mut buffer) = (Vec::new(), [0; 7]);
            let mut stdout = child.stdout.take().expect("piped");
            let tell = |event| drop(sender.send(event));
            tell(ToolEvent::Started(node));
            while let Ok(read @ 1..) = stdout.read(&mut buffer) {
                let sync = |text| tell(ToolEvent::Sync(node, text));
                let fed = filter.feed(&buffer[..read], &mut out, sync);
                fed.expect("nothing is too long");
            }
            out.extend(filter.finish(|text| tell(ToolEvent::Sync(node, text))));
            let succeeded = child.wait().expect("a child").success();
            let end = if succeeded {
                ToolEnd::Succeeded
            } else {
                ToolEnd::Failed
            };
            tell(ToolEvent::Ended(node, end));
            (succeeded, String::from_utf8_lossy(&out).into_owned())
        }));
    }
    drop(sender);
    let inboxes = Mutex::new(inboxes);
    let nodes = nodes.into_iter().map(|node| (node, name(node)));
    let coordinator = Coordinator::new(prefix, nodes, false);
    let act = move |action| {
        let mut inboxes = inboxes.lock().expect("nobody panics");
        match action {
            Action::Send(node, text) => {
                let inbox = inboxes[node.0].as_ref().expect("nothing follows the end");
                // Its thread may have gone with the tool.
                let _ = inbox.send(text);
            }
            // ToolEnd of file.
            Action::Cancel(_) => inboxes.iter_mut().for_each(|inbox| *inbox = None),
            Action::Stop(node) => panic!("{node:?} has flooded nobody"),
            Action::TellSilence => panic!("they speak"),
        }
    };
    spawn(coordinator, events, act).expect("a thread");
    let ends = readers.into_iter();
    ends.map(|reader| reader.join().expect("no panic"))
        .collect()
}

/// The tool of `docs/PROTOCOL.md`.
fn documented_tool() -> String {
    let text = include_str!("../../../docs/PROTOCOL.md");
    let (_, rest) = text.split_once("```sh tool\n").expect("it has one");
    let (tool, _) = rest.split_once("```").expect("it ends");
    tool.to_owned()
}

/// That tool, `count` times, with programs of ours in place of those that it
/// starts: they write down what they do to `log`.
fn documented_tools(directory: &std::path::Path, count: usize) -> Vec<std::process::Command> {
    use std::os::unix::fs::PermissionsExt;
    let bin = directory.join("bin");
    std::fs::create_dir(&bin).expect("ours");
    for (name, body) in [
        (
            "haproxy",
            "echo \"check $TOOL\" >>log; [ \"$TOOL\" != \"$BAD\" ]",
        ),
        ("mv", ":"),
        (
            "systemctl",
            "echo \"begin $TOOL\" >>log; echo \"end $TOOL\" >>log",
        ),
    ] {
        let path = bin.join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).expect("ours");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("ours");
    }
    let path = std::env::var("PATH").expect("there is a PATH");
    let tools = (1..=count).map(|number| {
        let mut tool = std::process::Command::new("sh");
        tool.args(["-c", &documented_tool()])
            .current_dir(directory)
            .env("PATH", format!("{}:{path}", bin.display()))
            .env("TOOL", number.to_string())
            .env("BAD", "");
        tool
    });
    tools.collect()
}

#[test]
fn the_documented_tool_checks_everywhere_and_restarts_one_after_the_other() {
    let directory = tempfile::tempdir().expect("tempdir");
    let ends = run_tools(documented_tools(directory.path(), 5));
    for (index, (succeeded, output)) in ends.into_iter().enumerate() {
        assert!(succeeded, "{output}");
        let expected = format!(
            "all 5 nodes are prepared\nrestarted as number {} of 5\n",
            index + 1
        );
        assert_eq!(output, expected);
    }
    let log = std::fs::read_to_string(directory.path().join("log")).expect("written");
    let mut lines: Vec<&str> = log.lines().collect();
    lines[..5].sort_unstable();
    let checks = (1..=5).map(|number| format!("check {number}"));
    let restarts = (1..=5).flat_map(|number| [format!("begin {number}"), format!("end {number}")]);
    assert_eq!(lines, checks.chain(restarts).collect::<Vec<_>>());
}

#[test]
fn the_documented_tool_restarts_nothing_where_one_node_fails() {
    let directory = tempfile::tempdir().expect("tempdir");
    let mut tools = documented_tools(directory.path(), 4);
    for tool in &mut tools {
        tool.env("BAD", "3");
    }
    let ends = run_tools(tools);
    assert!(ends.iter().all(|(succeeded, _)| !succeeded), "{ends:?}");
    let log = std::fs::read_to_string(directory.path().join("log")).expect("written");
    assert!(!log.contains("begin"), "{log}");
}

#[test]
fn tools_stay_in_step_through_many_phases() {
    // Each phase ends when all have announced it; who sees an announcement of the
    // next one before that says so.
    let script = r#"
        read -r prefix word
        nodes=0
        while [ "$word" != START ]; do
            read -r tag word rest
            [ "$word" != NODE ] || nodes=$((nodes + 1))
        done
        phase=0
        while [ $phase -lt 20 ]; do
            [ $((($phase + $TOOL) % 7)) != 0 ] || sleep 0.01
            echo "$prefix SYNC $phase"
            missing=$nodes
            while [ $missing -gt 0 ]; do
                read -r tag word node description || exit 1
                [ "$description" = $phase ] || { echo "out of step"; exit 1; }
                echo "$node $description"
                missing=$((missing - 1))
            done
            phase=$((phase + 1))
        done"#;
    let tools = (0..16).map(|number| {
        let mut tool = std::process::Command::new("sh");
        tool.args(["-c", script]).env("TOOL", number.to_string());
        tool
    });
    let ends = run_tools(tools.collect());
    let (_, first) = &ends[0];
    assert_eq!(first.lines().count(), 16 * 20, "{first}");
    for (succeeded, output) in &ends {
        assert!(succeeded, "{output}");
        assert_eq!(output, first);
    }
}
