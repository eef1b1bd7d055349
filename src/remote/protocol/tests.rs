use super::*;
use proptest::prelude::*;

fn prefix() -> Prefix {
    Prefix::new(90_817_263_u64.to_be_bytes())
}

fn names() -> Arc<Names> {
    let names = ["[ops@db7:22]", "[ops@[::1]:2222]", "[a b@db8:22]"];
    Arc::new(names.into_iter().map(str::to_owned).collect())
}

fn filter() -> Filter {
    Filter::new(&prefix(), names())
}

/// What becomes of a stream: its output and its messages.
fn read(pieces: &[&[u8]]) -> (String, Vec<String>) {
    let mut filter = filter();
    let (mut out, mut syncs) = (Vec::new(), Vec::new());
    for piece in pieces {
        let read = filter.feed(piece, &mut out, |text| syncs.push(text));
        read.expect("nothing is too long");
    }
    out.extend(filter.finish(|text| syncs.push(text)));
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (text(out), syncs.into_iter().map(text).collect())
}

#[track_caller]
fn assert_message(line: &str, description: &str) {
    let (out, syncs) = read(&[line.as_bytes()]);
    assert_eq!(syncs, [description], "{line:?}");
    assert_eq!(out, "", "{line:?}");
}

#[track_caller]
fn assert_output(line: &str) {
    let (out, syncs) = read(&[line.as_bytes()]);
    assert_eq!(syncs, [""; 0], "{line:?}");
    assert_eq!(out, line);
}

#[test]
fn what_tools_are_told() {
    let nodes = ["[ops@db7:22]", "[ops@db8:2222]"];
    let text = |bytes: Arc<[u8]>| String::from_utf8_lossy(&bytes).into_owned();
    assert_eq!(
        text(prefix().introduction(nodes, 1)),
        "ORGALORG:90817263 HELLO\n\
         ORGALORG:90817263 NODE [ops@db7:22]\n\
         ORGALORG:90817263 NODE [ops@db8:2222] CURRENT\n"
    );
    assert_eq!(text(prefix().start()), "ORGALORG:90817263 START\n");
    assert_eq!(
        text(prefix().broadcast(nodes[0], b"drained")),
        "ORGALORG:90817263 SYNC [ops@db7:22] drained\n"
    );
    assert_eq!(
        text(prefix().broadcast(nodes[0], b"")),
        "ORGALORG:90817263 SYNC [ops@db7:22]\n"
    );
}

#[test]
fn every_run_has_a_prefix_of_its_own() {
    assert_eq!(Prefix::new([0; 8]).to_string(), "ORGALORG:0");
    assert_ne!(Prefix::new([1; 8]), Prefix::new([2; 8]));
}

#[test]
fn messages_are_taken_out_and_blanks_around_them_dropped() {
    assert_message("ORGALORG:90817263 SYNC drained\n", "drained");
    assert_message("ORGALORG:90817263 SYNC drained\r\n", "drained");
    assert_message("ORGALORG:90817263 SYNC \t two words \t\r\n", "two words");
    for empty in ["", " ", "\r", " \r", "   \t  "] {
        assert_message(&format!("ORGALORG:90817263 SYNC{empty}\n"), "");
    }
    assert_message("ORGALORG:90817263 SYNC SYNC a\n", "SYNC a");
}

#[test]
fn what_only_looks_like_a_message_is_output() {
    for line in [
        "ORGALORG:90817263 SYNCHRONIZED\n",
        "ORGALORG:90817263 SYNC\tdrained\n",
        "ORGALORG:90817263 SYNC\rdrained\n",
        "ORGALORG:90817263 SYNC\r\r\n",
        "ORGALORG:90817263  SYNC drained\n",
        "ORGALORG:90817263\tSYNC drained\n",
        "ORGALORG:90817263 sync drained\n",
        "ORGALORG:90817263SYNC drained\n",
        "ORGALORG:90817264 SYNC drained\n",
        "ORGALORG:9081726 SYNC drained\n",
        "ORGALORG:908172634 SYNC drained\n",
        " ORGALORG:90817263 SYNC drained\n",
        "x ORGALORG:90817263 SYNC drained\n",
        "\rORGALORG:90817263 SYNC drained\n",
        "ORGALORG:90817263 HELLO\n",
        "ORGALORG:90817263 NODE [ops@db7:22] CURRENT\r\n",
        "ORGALORG:90817263\n",
        "ORGALORG:90817263 \n",
        "ORGALORG:90817263 SYN\nC\n",
        "\n\n",
    ] {
        assert_output(line);
    }
}

#[test]
fn a_broadcast_that_a_tool_echoes_is_output() {
    for line in [
        "ORGALORG:90817263 SYNC [ops@db7:22] drained\n",
        "ORGALORG:90817263 SYNC [ops@db7:22]\n",
        "ORGALORG:90817263 SYNC [ops@db7:22]\r\n",
        "ORGALORG:90817263 SYNC [ops@db7:22] drained\r\n",
        "ORGALORG:90817263 SYNC [ops@[::1]:2222] drained\n",
        "ORGALORG:90817263 SYNC [a b@db8:22] drained\n",
        "ORGALORG:90817263 SYNC   [ops@db7:22] drained\n",
        "ORGALORG:90817263 SYNC [ops@db7:22]",
        "ORGALORG:90817263 SYNC [ops@db7:22] drained",
    ] {
        assert_output(line);
    }
    // Megabytes after the name are not kept, and not too long either.
    let echo = prefix().broadcast("[ops@db7:22]", &vec![b'x'; 2 * MAX_DESCRIPTION]);
    assert_eq!(read(&[&echo]).0.as_bytes(), &*echo);
}

#[test]
fn other_words_in_brackets_are_descriptions() {
    for description in [
        "[ops@db9:22] drained",
        "[ops@db7:22]drained",
        "[ops@db7:22",
        "[ops@db7:22]]",
        "x [ops@db7:22]",
        "[ops@db7:2222] drained",
        "[ops@[::1]:2222",
        "[]",
        "] ]",
    ] {
        assert_message(
            &format!("ORGALORG:90817263 SYNC {description}\n"),
            description,
        );
    }
}

#[test]
fn output_is_passed_on_as_soon_as_it_cannot_be_a_message() {
    let mut filter = filter();
    for (piece, passed) in [
        ("x", "x"),
        ("y\n", "y\n"),
        ("ORGALORG:9", ""),
        ("0817263 S", ""),
        ("x", "ORGALORG:90817263 Sx"),
        (" SYNC", " SYNC"),
        ("\nORGALORG:90817263 SYNC", "\n"),
        ("H", "ORGALORG:90817263 SYNCH"),
        ("\nORGALORG:90817263 SYNC", "\n"),
        ("\r", ""),
        ("\r", "ORGALORG:90817263 SYNC\r\r"),
        ("\nORGALORG:90817263 SYNC  [ops@db7:22", "\n"),
        ("]", ""),
        (" ", "ORGALORG:90817263 SYNC  [ops@db7:22] "),
        ("z", "z"),
    ] {
        let mut out = Vec::new();
        let read = filter.feed(piece.as_bytes(), &mut out, |_| panic!("no message"));
        read.expect("nothing is too long");
        assert_eq!(String::from_utf8_lossy(&out), passed, "after {piece:?}");
    }
}

#[test]
fn a_last_line_without_a_newline_counts_if_the_tool_has_ended_by_itself() {
    assert_message("ORGALORG:90817263 SYNC drained", "drained");
    assert_message("ORGALORG:90817263 SYNC", "");
    assert_message("ORGALORG:90817263 SYNC\r", "");
    assert_output("ORGALORG:90817263 SYN");
    assert_output("ORGALORG:90817263 SYNC\ra");
    assert_output("last words");
    // Cut off it may be half a message.
    for text in ["ORGALORG:90817263 SYNC drai", "ORGALORG:90817263 S", "or"] {
        let (mut filter, mut out) = (filter(), Vec::new());
        let read = filter.feed(text.as_bytes(), &mut out, |_| panic!("no message"));
        read.expect("nothing is too long");
        out.extend(filter.abandon());
        assert_eq!(String::from_utf8_lossy(&out), text);
    }
}

#[test]
fn any_bytes_may_stand_in_a_description() {
    let mut filter = filter();
    let mut syncs = Vec::new();
    let line = b"ORGALORG:90817263 SYNC \xff\0\x1b[31m\n";
    let read = filter.feed(line, &mut Vec::new(), |text| syncs.push(text));
    assert_eq!(read, Ok(()));
    assert_eq!(syncs, [b"\xff\0\x1b[31m"]);
}

/// A message with a description of this length, in pieces as packets have it.
fn say(length: usize, around: &str) -> Result<usize, TooLong> {
    let line = format!(
        "ORGALORG:90817263 SYNC {around}{}{around}\r\n",
        "x".repeat(length)
    );
    let mut filter = filter();
    let (mut got, mut out) = (0, Vec::new());
    for piece in line.as_bytes().chunks(32_768) {
        filter.feed(piece, &mut out, |text| got = text.len())?;
    }
    assert_eq!(out, b"");
    Ok(got)
}

#[test]
fn a_description_may_have_a_mebibyte_and_no_more() {
    assert_eq!(say(1_000_000, ""), Ok(1_000_000));
    assert_eq!(say(MAX_DESCRIPTION, ""), Ok(MAX_DESCRIPTION));
    assert_eq!(say(MAX_DESCRIPTION, "  "), Ok(MAX_DESCRIPTION));
    assert_eq!(say(MAX_DESCRIPTION + 1, ""), Err(TooLong));
    assert_eq!(say(3 * MAX_DESCRIPTION, ""), Err(TooLong));
}

#[test]
fn one_that_never_ends_is_refused_before_it_takes_all_memory() {
    let mut filter = filter();
    let mut out = Vec::new();
    let start = b"ORGALORG:90817263 SYNC ";
    let mut result = filter.feed(start, &mut out, |_| panic!("no message"));
    let mut sent = 0;
    while result.is_ok() {
        result = filter.feed(&[b' '; 1000], &mut out, |_| panic!("no message"));
        sent += 1000;
    }
    assert!(sent < MAX_DESCRIPTION + 2 * MAX_BLANKS, "{sent}");
    // It has failed: what else it says is for people.
    let line = b"ORGALORG:90817263 SYNC x\n";
    let read = filter.feed(line, &mut out, |_| panic!("no message"));
    assert_eq!(read, Ok(()));
    assert_eq!(out, line);
}

#[test]
fn the_cost_is_linear_however_small_the_packets() {
    // Quadratic this takes hours.
    let blanks = " ".repeat(MAX_BLANKS / 2);
    let text = format!(
        "ORGALORG:90817263 SYNC {blanks}{}{}\n{}",
        "] ".repeat(1000),
        "x".repeat(1_000_000),
        "ORGALORG:9\n".repeat(50_000),
    );
    let pieces: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
    let (out, syncs) = read(&pieces);
    assert_eq!(out.len(), 550_000);
    assert_eq!(syncs[0].len(), 1_002_000);
}

#[test]
fn an_inbox_gives_what_it_got_and_is_bounded() {
    let mut inbox = Inbox::default();
    for text in ["one\n", "", "two\n", "three\n"] {
        assert_eq!(inbox.push(text.as_bytes().into()), Ok(()));
    }
    let mut got = Vec::new();
    inbox.take(&mut got, 3);
    assert_eq!(got, b"one");
    inbox.take(&mut got, 4);
    inbox.take(&mut got, 0);
    assert_eq!(got, b"one\ntwo");
    assert!(!inbox.is_empty());
    inbox.take(&mut got, 100);
    assert_eq!(got, b"one\ntwo\nthree\n");
    assert!(inbox.is_empty());
    let big: Arc<[u8]> = vec![0; MAX_WAITING / 2].into();
    assert_eq!(inbox.push(Arc::clone(&big)), Ok(()));
    assert_eq!(inbox.push(Arc::clone(&big)), Ok(()));
    assert_eq!(inbox.push(b"x"[..].into()), Err(Overflow));
    inbox.take(&mut Vec::new(), 1);
    assert_eq!(inbox.push(b"x"[..].into()), Ok(()));
}

/// The rule as S11 has it, for a whole line without its newline.
fn description(line: &str) -> Option<String> {
    let rest = line.strip_prefix("ORGALORG:90817263 SYNC")?;
    if rest.is_empty() || rest == "\r" {
        return Some(String::new());
    }
    let text = rest.strip_prefix(' ')?.trim_matches([' ', '\t', '\r']);
    let is_broadcast = ["[ops@db7:22]", "[ops@[::1]:2222]", "[a b@db8:22]"]
        .iter()
        .filter_map(|name| text.strip_prefix(name))
        .any(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r']));
    (!is_broadcast).then(|| text.to_owned())
}

/// Parts that lines with a meaning are made of, in odd orders.
fn part() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => Just("\nORGALORG:90817263 SYNC ".to_owned()),
        3 => Just("\nORGALORG:90817263 SYNC".to_owned()),
        3 => Just("[ops@db7:22]".to_owned()),
        1 => Just("[ops@[::1]:2222]".to_owned()),
        1 => Just("[a b@db8:22]".to_owned()),
        1 => Just("ORGALORG:90817263".to_owned()),
        4 => "[ \r\t\nx\\]\\[]{0,3}",
        1 => "\\PC{0,9}",
    ]
}

proptest! {
    #[test]
    fn it_does_as_the_rule_says_wherever_packets_are_cut(
        parts in prop::collection::vec(part(), 0..24),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        ends_with_newline: bool,
    ) {
        let mut text = parts.concat();
        if ends_with_newline {
            text.push('\n');
        }
        let (mut out, mut syncs) = (String::new(), Vec::new());
        for line in text.split_inclusive('\n') {
            match description(line.strip_suffix('\n').unwrap_or(line)) {
                Some(description) => syncs.push(description),
                None => out.push_str(line),
            }
        }
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
        cuts.extend([0, text.len()]);
        cuts.sort_unstable();
        let pieces: Vec<&[u8]> = cuts
            .windows(2)
            .map(|pair| &text.as_bytes()[pair[0]..pair[1]])
            .collect();
        prop_assert_eq!(read(&pieces), (out, syncs));
    }

    #[test]
    fn whatever_is_broadcast_is_no_message_when_it_comes_back(
        description in prop::collection::vec(any::<u8>().prop_filter("newline", |b| *b != b'\n'), 0..40),
    ) {
        let echo = prefix().broadcast("[ops@db7:22]", &description);
        let (mut filter, mut out) = (filter(), Vec::new());
        prop_assert!(filter.feed(&echo, &mut out, |_| panic!("a storm")).is_ok());
        prop_assert_eq!(&out[..], &*echo);
    }
}
