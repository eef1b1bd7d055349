//! Many host names in few words: `web[01-03,07]`, as ClusterShell writes them.
//!
//! The way back from `expression`: what comes out of [`fold`] is understood by
//! `-o` and names the same hosts. (The crates that fold either lose `[1-2]` of
//! bare numbers and numbers of more than 32 bits, or read the configuration of
//! ClusterShell on the way.)

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write;

/// A longer number is text: what it counts is no position in a rack.
const MOST_DIGITS: usize = 18;

/// The numbers of one place in a name, as they are written: `07` is not `7`.
/// Shorter ones first, so that `8`, `9`, `10` are a range.
type Numbers = BTreeSet<(usize, String)>;

/// Folds names; the first of each kind says where the kind stands.
///
/// A name with a user or port (`ops@web1:22`) is folded in its host only, and an
/// IPv6 address not at all: brackets would mean something else there.
#[must_use]
pub(crate) fn fold<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let mut order: Vec<Vec<&str>> = Vec::new();
    let mut kinds: HashMap<Vec<&str>, BTreeSet<Vec<&str>>> = HashMap::new();
    for name in names {
        let (texts, numbers) = split(name);
        let kind = kinds.entry(texts.clone()).or_default();
        if kind.is_empty() {
            order.push(texts);
        }
        kind.insert(numbers);
    }
    let mut folded = Vec::new();
    for texts in order {
        for vector in merge(&kinds[&texts]) {
            folded.push(write(&texts, &vector));
        }
    }
    folded.join(",")
}

/// A name as texts with numbers between them.
fn split(name: &str) -> (Vec<&str>, Vec<&str>) {
    let host = host_of(name);
    let (mut texts, mut numbers) = (Vec::new(), Vec::new());
    // Where the text begins that the next number ends.
    let (mut text, mut at) = (0, host.start);
    while at < host.end {
        let rest = &name[at..host.end];
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if digits == 0 {
            at += rest.chars().next().map_or(1, char::len_utf8);
            continue;
        }
        if digits <= MOST_DIGITS {
            texts.push(&name[text..at]);
            numbers.push(&rest[..digits]);
            text = at + digits;
        }
        at += digits;
    }
    texts.push(&name[text..]);
    (texts, numbers)
}

/// Where the host stands in `user@host:port`; nowhere for IPv6.
fn host_of(name: &str) -> std::ops::Range<usize> {
    let start = name.rfind('@').map_or(0, |at| at + 1);
    match name[start..].split_once(':') {
        Some((_, port)) if port.contains(':') => start..start,
        Some((host, _)) => start..start + host.len(),
        None => start..name.len(),
    }
}

/// Finds vectors that differ in one place only and makes them one, until there
/// are none, the last place first: that one counts fastest in most names.
fn merge(vectors: &BTreeSet<Vec<&str>>) -> Vec<Vec<Numbers>> {
    let mut merged: Vec<Vec<Numbers>> = vectors
        .iter()
        .map(|vector| {
            let sets = vector.iter();
            sets.map(|number| Numbers::from([(number.len(), (*number).to_owned())]))
                .collect()
        })
        .collect();
    let places = merged.first().map_or(0, Vec::len);
    loop {
        let before = merged.len();
        for place in (0..places).rev() {
            merged = merge_place(merged, place);
        }
        if merged.len() == before {
            return merged;
        }
    }
}

fn merge_place(vectors: Vec<Vec<Numbers>>, place: usize) -> Vec<Vec<Numbers>> {
    let mut groups: BTreeMap<Vec<Numbers>, Numbers> = BTreeMap::new();
    for mut vector in vectors {
        let numbers = std::mem::take(&mut vector[place]);
        groups.entry(vector).or_default().extend(numbers);
    }
    groups
        .into_iter()
        .map(|(mut vector, numbers)| {
            vector[place] = numbers;
            vector
        })
        .collect()
}

fn write(texts: &[&str], vector: &[Numbers]) -> String {
    let mut name = String::new();
    for (index, text) in texts.iter().enumerate() {
        name.push_str(text);
        let Some(numbers) = vector.get(index) else {
            continue;
        };
        if numbers.len() == 1 {
            name.extend(numbers.iter().map(|(_, number)| number.as_str()));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(name, "[{}]", ranges(numbers));
        }
    }
    name
}

/// `01-03,07`
fn ranges(numbers: &Numbers) -> String {
    let mut ranges: Vec<(&str, &str)> = Vec::new();
    for (_, number) in numbers {
        match ranges.last_mut() {
            Some((first, last)) if follows(first, last, number) => *last = number,
            _ => ranges.push((number, number)),
        }
    }
    let ranges = ranges.into_iter().map(|(first, last)| {
        if first == last {
            first.to_owned()
        } else {
            format!("{first}-{last}")
        }
    });
    ranges.collect::<Vec<_>>().join(",")
}

/// Whether a range that begins with `first` has `next` after `last`, zeros
/// included.
fn follows(first: &str, last: &str, next: &str) -> bool {
    let width = if first.starts_with('0') {
        first.len()
    } else {
        1
    };
    let after = last.parse::<u64>().map(|number| number + 1);
    after.is_ok_and(|after| format!("{after:0width$}") == next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hosts::expression::expand;
    use proptest::prelude::*;

    fn names(expression: &str) -> Vec<String> {
        let addresses = expand(expression).unwrap();
        addresses.iter().map(ToString::to_string).collect()
    }

    fn folded(expression: &str) -> String {
        fold(names(expression).iter().map(String::as_str))
    }

    #[test]
    fn ranges_come_back_as_they_were_written() {
        for expression in [
            "web[01-03,07]",
            "web[1-20].example.com",
            "rack[1-2]-n[1-3,7]",
            "10.0.0.[2-9]",
            "web[8-11]",
            "web[08-11]",
            "web[1-2,01,001]",
            "a,b,c",
            "db9,db[7-8]-prod",
            "ops@web[1-2]:2222",
            "[1-2]",
        ] {
            assert_eq!(folded(expression), expression);
        }
    }

    #[test]
    fn several_numbers_multiply_where_all_of_them_are_there() {
        assert_eq!(folded("10.0.0.[2-9],10.0.1.[2-9]"), "10.0.[0-1].[2-9]");
        assert_eq!(
            folded("rack1-n1,rack1-n2,rack2-n3"),
            "rack1-n[1-2],rack2-n3"
        );
        assert_eq!(folded("a1b1,a2b2,a3b3"), "a1b1,a2b2,a3b3");
    }

    #[test]
    fn a_zero_in_front_is_part_of_the_name() {
        assert_eq!(folded("w9,w09,w10"), "w[9,09-10]");
        assert_eq!(folded("w098,w99,w100"), "w[99,098,100]");
        assert_eq!(folded("w099,w100,w101"), "w[099-101]");
    }

    #[test]
    fn users_ports_addresses_and_very_long_numbers_stay_as_they_are() {
        assert_eq!(fold(["a:22", "a:23"]), "a:22,a:23");
        assert_eq!(fold(["u1@a1", "u1@a2"]), "u1@a[1-2]");
        assert_eq!(fold(["::1", "::2", "[::1]:22"]), "::1,::2,[::1]:22");
        let long = "w99999999999999999999999";
        assert_eq!(fold([long, "w1"]), format!("{long},w1"));
    }

    #[test]
    fn names_are_in_the_order_of_their_first_and_count_once() {
        assert_eq!(fold(["web2", "db1", "web1", "web2"]), "web[1-2],db1");
        assert_eq!(fold([]), "");
    }

    /// Items of a list, without regard to their order.
    fn items(list: &str) -> Vec<String> {
        let mut depth = 0;
        let mut items: Vec<String> = list
            .split(|c| {
                depth += i32::from(c == '[') - i32::from(c == ']');
                c == ',' && depth == 0
            })
            .map(str::to_owned)
            .collect();
        items.sort();
        items
    }

    /// What `nodeset -f` of ClusterShell makes of names; nothing where it is not
    /// installed.
    fn nodeset(names: &[String]) -> Option<String> {
        use std::io::Write;
        use std::process::{Command, Stdio};
        let mut child = Command::new("nodeset")
            .arg("-f")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .ok()?;
        let mut stdin = child.stdin.take().unwrap();
        stdin
            .write_all((names.join("\n") + "\n").as_bytes())
            .unwrap();
        drop(stdin);
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        Some(String::from_utf8(output.stdout).unwrap().trim().to_owned())
    }

    #[test]
    fn clustershell_writes_the_same() {
        for expression in [
            "web[01-03,07]",
            "web[1,3-5,9-12,001,010-012]",
            "rack[1-2]-n[1-3],rack[3-4]-n[2-9]",
            "10.0.0.[2-9],10.0.1.[2-9],10.1.0.1",
            "n[1-100,103,110-120],m[09-11,9],x",
            "a[1-3]b[7-9]c,a[1-3]b[7-9]d",
        ] {
            let names = names(expression);
            let Some(theirs) = nodeset(&names) else {
                return;
            };
            let ours = fold(names.iter().map(String::as_str));
            assert_eq!(items(&ours), items(&theirs), "{expression}");
        }
    }

    proptest! {
        #[test]
        fn a_folded_list_names_the_same_hosts(
            names in prop::collection::hash_set("([ab]@)?[ab]?[0-9]{1,3}(-[0-9]{1,2})?(\\.x[0-9])?(:2[0-9])?", 1..60),
        ) {
            let folded = fold(names.iter().map(String::as_str));
            let expanded: Vec<String> = expand(&folded).unwrap().iter().map(ToString::to_string).collect();
            prop_assert_eq!(expanded.len(), names.len(), "{}", &folded);
            prop_assert_eq!(expanded.into_iter().collect::<std::collections::HashSet<_>>(), names);
        }
    }

    #[test]
    fn many_names_are_folded_in_no_time() {
        let names = names("r[1-20]-n[001-999]");
        let begun = std::time::Instant::now();
        let folded = fold(names.iter().map(String::as_str));
        assert_eq!(folded, "r[1-20]-n[001-999]");
        assert!(begun.elapsed().as_secs() < 10);
    }
}
