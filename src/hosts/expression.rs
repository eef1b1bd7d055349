//! Host expressions: comma lists of addresses whose host may hold ranges.
//!
//! An expression is read into templates first and counted; only when it is
//! known to stay within [`MAX_HOSTS`] are the addresses made, so that a
//! slipped digit costs an error message and not the memory.

use std::fmt::Write;

use thiserror::Error;

use super::address::{
    Address, AddressError, Host, MAX_PART, Parts, check_host_characters, check_length, check_name,
    check_name_start,
};
use super::excerpt;

/// The most hosts that one expression, or all of a run, may name.
pub(crate) const MAX_HOSTS: usize = 100_000;

/// A host expression that cannot be used, and why (its source).
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("invalid host expression '{expression}'")]
pub(crate) struct ExpressionError {
    /// The expression, or the item of a list that is wrong, fit to be shown.
    pub(crate) expression: String,
    /// What is wrong with it.
    #[source]
    pub(crate) problem: ExpressionProblem,
}

/// What is wrong with a host expression.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum ExpressionProblem {
    /// Nothing at all.
    #[error("it is empty, name a host")]
    Empty,
    /// Two commas in a row, or one at an end.
    #[error("there is a comma too many, with no host on one side of it")]
    EmptyItem,
    /// `a[1[2]]`.
    #[error(
        "there are brackets inside brackets, put them one after the other as in rack[1-2]-n[1-3]"
    )]
    Nested,
    /// `a[1`.
    #[error("a '[' has no ']'")]
    Unclosed,
    /// `a1]`.
    #[error("a ']' has no '['")]
    Unopened,
    /// `a[]`.
    #[error("the brackets are empty, put numbers into them as in [1-20]")]
    EmptyBrackets,
    /// `a[1,,2]`.
    #[error("there is a comma too many in the brackets '[{brackets}]'")]
    EmptyRange {
        /// What is between the brackets.
        brackets: String,
    },
    /// `a[x]`, `a[1-2-3]`, `a[-1]`.
    #[error("'{range}' in brackets is neither a number nor a range such as 01-20")]
    NotARange {
        /// What stood there.
        range: String,
    },
    /// More than 64 bits.
    #[error("the number {number} is too large")]
    NumberTooLarge {
        /// The number.
        number: String,
    },
    /// `a[3-1]`.
    #[error("the range {low}-{high} runs backwards, write {high}-{low}")]
    Reversed {
        /// Where it starts.
        low: String,
        /// Where it ends.
        high: String,
    },
    /// `a[1-010]`.
    #[error(
        "in the range {low}-{high} it is not clear how many zeros to write, did you mean {suggestion}?"
    )]
    Padding {
        /// Where it starts.
        low: String,
        /// Where it ends.
        high: String,
        /// Both bounds with the larger width.
        suggestion: String,
    },
    /// More than [`MAX_HOSTS`].
    #[error("these are more than {MAX_HOSTS} hosts")]
    TooMany,
    /// Something that has nothing to do with lists and ranges.
    #[error(transparent)]
    Address(#[from] AddressError),
}

/// Expands an expression such as `web[01-20].example.com,ops@db7:2222`.
///
/// The order is that of the text; of several brackets the rightmost counts
/// fastest. What is named twice is there twice. An address may stand in the
/// brackets of a node, as in `[ops@db7:2222]`.
///
/// # Errors
/// Says which part cannot be understood and why, also where it would name more
/// than [`MAX_HOSTS`] hosts.
pub(crate) fn expand(text: &str) -> Result<Vec<Address>, ExpressionError> {
    let text = trim(text);
    let wrong = |item: &str, problem| ExpressionError {
        expression: excerpt(item),
        problem,
    };
    if text.is_empty() {
        return Err(wrong(text, ExpressionProblem::Empty));
    }
    let items = || split_list(text).map(|item| without_node_brackets(trim(item)));
    for item in items() {
        check_brackets(item).map_err(|problem| wrong(text, problem))?;
    }

    let mut templates = Vec::new();
    let mut total = 0;
    for item in items() {
        if item.is_empty() {
            return Err(wrong(text, ExpressionProblem::EmptyItem));
        }
        let template = Template::parse(item).map_err(|problem| wrong(item, problem))?;
        total += template.count;
        if total > MAX_HOSTS {
            return Err(wrong(text, ExpressionProblem::TooMany));
        }
        templates.push(template);
    }

    let mut addresses = Vec::with_capacity(total);
    for template in &templates {
        template.expand_into(&mut addresses);
    }
    Ok(addresses)
}

fn trim(text: &str) -> &str {
    text.trim_matches([' ', '\t'])
}

/// The address of a node that is written `[user@host:port]`, or the item as it is.
///
/// Other brackets, of ranges and IPv6 addresses, have no `@` after them: the user
/// comes before these.
fn without_node_brackets(item: &str) -> &str {
    let Some(inside) = item
        .strip_prefix('[')
        .and_then(|item| item.strip_suffix(']'))
    else {
        return item;
    };
    let begins_with_user = inside
        .split(['[', ']'])
        .next()
        .is_some_and(|text| text.contains('@'));
    if begins_with_user { inside } else { item }
}

/// Whether a word is a node, `[user@host:port]`.
pub(super) fn is_node(word: &str) -> bool {
    without_node_brackets(word) != word
}

/// Makes sure that every bracket has its partner and none holds another, on
/// which all that follows relies.
fn check_brackets(text: &str) -> Result<(), ExpressionProblem> {
    let mut open = false;
    for c in text.chars() {
        match c {
            '[' if open => return Err(ExpressionProblem::Nested),
            '[' => open = true,
            ']' if !open => return Err(ExpressionProblem::Unopened),
            ']' => open = false,
            _ => {}
        }
    }
    if open {
        return Err(ExpressionProblem::Unclosed);
    }
    Ok(())
}

/// Splits at the commas that are not between brackets.
fn split_list(text: &str) -> impl Iterator<Item = &str> {
    let mut open = false;
    text.split(move |c| {
        match c {
            '[' => open = true,
            ']' => open = false,
            _ => {}
        }
        c == ',' && !open
    })
}

/// One item of a list: an address whose host is made of fixed text and sets of
/// numbers.
struct Template<'a> {
    user: Option<&'a str>,
    host: Vec<Piece<'a>>,
    port: Option<u16>,
    /// How many addresses it makes, at most [`MAX_HOSTS`].
    count: usize,
}

enum Piece<'a> {
    Text(&'a str),
    Numbers(Vec<Range>),
}

/// The numbers from `low` to `high`, both included, written with at least
/// `width` digits.
struct Range {
    low: u64,
    high: u64,
    width: usize,
}

impl<'a> Template<'a> {
    fn parse(item: &'a str) -> Result<Self, ExpressionProblem> {
        let Parts { user, host, port } = Parts::split(item)?;
        let (host, count) = match host {
            Host::Ipv6(address) => (vec![Piece::Text(address)], 1),
            Host::Name(name) => parse_name(name)?,
        };
        Ok(Self {
            user,
            host,
            port,
            count,
        })
    }

    fn expand_into(&self, addresses: &mut Vec<Address>) {
        self.fill(&self.host, &mut String::new(), addresses);
    }

    /// Appends the addresses that begin with `done`. The depth of the recursion
    /// is bounded: every piece adds a byte to a host of [`MAX_PART`] at most.
    fn fill(&self, pieces: &[Piece], done: &mut String, addresses: &mut Vec<Address>) {
        let length = done.len();
        match pieces.split_first() {
            None => addresses.push(Address {
                user: self.user.map(str::to_owned),
                host: done.clone(),
                port: self.port,
            }),
            Some((Piece::Text(text), rest)) => {
                done.push_str(text);
                self.fill(rest, done, addresses);
                done.truncate(length);
            }
            Some((Piece::Numbers(ranges), rest)) => {
                for range in ranges {
                    let width = range.width;
                    for number in range.low..=range.high {
                        // Writing to a string cannot fail.
                        let _ = write!(done, "{number:0width$}");
                        self.fill(rest, done, addresses);
                        done.truncate(length);
                    }
                }
            }
        }
    }
}

/// Reads a host name with ranges; returns its pieces and how many names it
/// makes.
fn parse_name(name: &str) -> Result<(Vec<Piece<'_>>, usize), ExpressionProblem> {
    if !name.contains('[') {
        check_name(name)?;
        return Ok((vec![Piece::Text(name)], 1));
    }
    check_name_start(name)?;

    let mut pieces = Vec::new();
    let mut count: usize = 1;
    let mut longest = 0;
    let mut rest = name;
    while !rest.is_empty() {
        let (text, after) = rest.split_once('[').unwrap_or((rest, ""));
        if !text.is_empty() {
            check_host_characters(text)?;
            longest += text.len();
            pieces.push(Piece::Text(text));
        }
        // Nothing follows the last text; brackets are known to be paired.
        let Some((brackets, after)) = after.split_once(']') else {
            break;
        };
        let ranges = parse_brackets(brackets)?;
        longest += ranges.iter().map(Range::longest).max().unwrap_or(0);
        count = count.saturating_mul(total(&ranges));
        // Not only at the end: a text of megabytes must not fill the memory
        // with pieces first.
        check_length("host", longest)?;
        pieces.push(Piece::Numbers(ranges));
        rest = after;
    }
    check_length("host", longest)?;
    if count > MAX_HOSTS {
        return Err(ExpressionProblem::TooMany);
    }
    Ok((pieces, count))
}

fn parse_brackets(brackets: &str) -> Result<Vec<Range>, ExpressionProblem> {
    if trim(brackets).is_empty() {
        return Err(ExpressionProblem::EmptyBrackets);
    }
    let mut ranges = Vec::new();
    for text in brackets.split(',').map(trim) {
        if text.is_empty() {
            return Err(ExpressionProblem::EmptyRange {
                brackets: excerpt(brackets),
            });
        }
        ranges.push(Range::parse(text)?);
        if ranges.len() > MAX_HOSTS {
            return Err(ExpressionProblem::TooMany);
        }
    }
    Ok(ranges)
}

fn total(ranges: &[Range]) -> usize {
    ranges
        .iter()
        .fold(0, |sum: usize, range| sum.saturating_add(range.count()))
}

impl Range {
    /// Reads `7`, `1-20` or `01-20`.
    ///
    /// The first bound gives the width, as in `pdsh` and `clush`: `[08-11]`
    /// has two digits throughout, `[98-101]` grows. A second bound padded to
    /// another width is refused, since tools differ in what they make of it.
    fn parse(text: &str) -> Result<Self, ExpressionProblem> {
        let not_a_range = || ExpressionProblem::NotARange {
            range: excerpt(text),
        };
        let (low_text, high_text) = text.split_once('-').unwrap_or((text, text));
        for bound in [low_text, high_text] {
            if bound.is_empty() || !bound.bytes().all(|b| b.is_ascii_digit()) {
                return Err(not_a_range());
            }
            // Zeros can make any number long, and widths have to stay small.
            check_length("host", bound.len())?;
        }

        let low = parse_number(low_text)?;
        let high = parse_number(high_text)?;
        if low > high {
            return Err(ExpressionProblem::Reversed {
                low: low_text.to_owned(),
                high: high_text.to_owned(),
            });
        }
        if is_padded(high_text) && high_text.len() != low_text.len() {
            let width = low_text.len().max(high_text.len());
            return Err(ExpressionProblem::Padding {
                low: low_text.to_owned(),
                high: high_text.to_owned(),
                suggestion: format!("{low:0width$}-{high:0width$}"),
            });
        }
        let width = if is_padded(low_text) {
            low_text.len()
        } else {
            0
        };
        Ok(Self { low, high, width })
    }

    fn count(&self) -> usize {
        usize::try_from(self.high - self.low)
            .unwrap_or(usize::MAX)
            .saturating_add(1)
    }

    /// The length of its longest number.
    fn longest(&self) -> usize {
        self.high.to_string().len().max(self.width)
    }
}

fn is_padded(number: &str) -> bool {
    number.len() > 1 && number.starts_with('0')
}

fn parse_number(digits: &str) -> Result<u64, ExpressionProblem> {
    digits
        .parse()
        .map_err(|_| ExpressionProblem::NumberTooLarge {
            number: excerpt(digits),
        })
}

// Widths are given to `write!`, which takes no more than this.
const _: () = assert!(MAX_PART <= u16::MAX as usize);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn expanded(text: &str) -> Vec<String> {
        expand(text)
            .unwrap()
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    fn refused(text: &str) -> ExpressionProblem {
        expand(text).unwrap_err().problem
    }

    #[test]
    fn a_plain_address_stands_for_itself() {
        assert_eq!(expanded("ops@db7:2222"), ["ops@db7:2222"]);
        assert_eq!(expanded("[::1]"), ["::1"]);
        assert_eq!(expanded("fe80::1%eth0"), ["fe80::1%eth0"]);
    }

    #[test]
    fn a_node_stands_for_its_address() {
        assert_eq!(expanded("[ops@db7:2222]"), ["ops@db7:2222"]);
        assert_eq!(
            expanded("[a@web1:22], [b@[::1]:22],db[1-2],[::1]:23"),
            ["a@web1:22", "b@[::1]:22", "db1", "db2", "[::1]:23"]
        );
        assert_eq!(expanded("[a@web[1-2]:22]"), ["a@web1:22", "a@web2:22"]);
        for wrong in [
            "[a@web1:22",
            "a@web1:22]",
            "[a@web1:22]x",
            "[@web1:22]",
            "[a@]",
            "[web1]",
        ] {
            refused(wrong);
        }
    }

    #[test]
    fn a_range_keeps_its_zero_padding() {
        let hosts = expanded("web[01-20].example.com");
        assert_eq!(hosts.len(), 20);
        assert_eq!(hosts[0], "web01.example.com");
        assert_eq!(hosts[19], "web20.example.com");
        assert_eq!(expanded("n[008-010]"), ["n008", "n009", "n010"]);
    }

    #[test]
    fn the_low_bound_gives_the_width() {
        assert_eq!(expanded("n[9-11]"), ["n9", "n10", "n11"]);
        assert_eq!(expanded("n[098-100]"), ["n098", "n099", "n100"]);
        assert_eq!(expanded("n[99-101]"), ["n99", "n100", "n101"]);
        assert_eq!(expanded("n[01-3]"), ["n01", "n02", "n03"]);
        assert_eq!(expanded("n[0-1]"), ["n0", "n1"]);
        assert_eq!(expanded("n[00-1]"), ["n00", "n01"]);
    }

    #[test]
    fn several_brackets_multiply_and_the_rightmost_counts_fastest() {
        assert_eq!(
            expanded("rack[1-2]-n[1-3,7]"),
            [
                "rack1-n1", "rack1-n2", "rack1-n3", "rack1-n7", "rack2-n1", "rack2-n2", "rack2-n3",
                "rack2-n7"
            ]
        );
        assert_eq!(expanded("[1-2][0-1]"), ["10", "11", "20", "21"]);
    }

    #[test]
    fn single_values_and_ranges_may_be_mixed() {
        assert_eq!(expanded("a[5]"), ["a5"]);
        assert_eq!(expanded("a[007]"), ["a007"]);
        assert_eq!(expanded("a[3,1-2, 05]"), ["a3", "a1", "a2", "a05"]);
        assert_eq!(expanded("10.0.0.[2-3]"), ["10.0.0.2", "10.0.0.3"]);
    }

    #[test]
    fn commas_outside_brackets_separate_items() {
        assert_eq!(
            expanded("a,b[1-2,5],c:2222"),
            ["a", "b1", "b2", "b5", "c:2222"]
        );
        assert_eq!(expanded(" a , u@[::1]:22,::1 "), ["a", "u@[::1]:22", "::1"]);
    }

    #[test]
    fn user_and_port_go_to_every_host_of_a_range() {
        assert_eq!(
            expanded("ops@db[1-2]:2222"),
            ["ops@db1:2222", "ops@db2:2222"]
        );
    }

    #[test]
    fn a_reversed_range_is_refused() {
        let error = expand("web[3-1]").unwrap_err();
        assert_eq!(error.to_string(), "invalid host expression 'web[3-1]'");
        assert_eq!(
            error.problem.to_string(),
            "the range 3-1 runs backwards, write 1-3"
        );
    }

    #[test]
    fn padding_that_can_be_read_in_two_ways_is_refused() {
        assert_eq!(
            refused("web[1-010]").to_string(),
            "in the range 1-010 it is not clear how many zeros to write, did you mean 001-010?"
        );
        assert!(matches!(
            refused("web[0001-010]"),
            ExpressionProblem::Padding { .. }
        ));
    }

    #[test]
    fn unbalanced_nested_and_empty_brackets_are_refused() {
        assert_eq!(refused("web[1-3"), ExpressionProblem::Unclosed);
        assert_eq!(refused("web1-3]"), ExpressionProblem::Unopened);
        assert_eq!(refused("web]1["), ExpressionProblem::Unopened);
        assert_eq!(refused("web[1[2]]"), ExpressionProblem::Nested);
        assert_eq!(refused("[fe80::[1-3]]"), ExpressionProblem::Nested);
        assert_eq!(refused("web[]"), ExpressionProblem::EmptyBrackets);
        assert_eq!(refused("web[ ]"), ExpressionProblem::EmptyBrackets);
        for text in ["web[1,]", "web[,1]", "web[1,,2]"] {
            assert!(
                matches!(refused(text), ExpressionProblem::EmptyRange { .. }),
                "{text}"
            );
        }
    }

    #[test]
    fn only_numbers_make_a_range() {
        for text in [
            "a[x]",
            "a[1-x]",
            "a[-1]",
            "a[1-]",
            "a[-]",
            "a[1-2-3]",
            "a[+1-2]",
            "a[1 - 2]",
            "a[0-9/2]",
            "a[١-٣]",
            "[web1]:22",
        ] {
            assert!(
                matches!(refused(text), ExpressionProblem::NotARange { .. }),
                "{text}"
            );
        }
    }

    #[test]
    fn numbers_beyond_64_bits_are_refused() {
        assert!(matches!(
            refused("a[1-18446744073709551616]"),
            ExpressionProblem::NumberTooLarge { .. }
        ));
        assert_eq!(
            expanded("a[18446744073709551614-18446744073709551615]"),
            ["a18446744073709551614", "a18446744073709551615"]
        );
    }

    #[test]
    fn more_than_the_limit_is_refused_at_once() {
        for text in [
            "a[0-18446744073709551615]",
            "a[1-100001]",
            "a[1-1000]b[1-101]",
            "a[1-100000],b",
            "[0-18446744073709551615,0-18446744073709551615]",
            "[0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9]",
        ] {
            assert_eq!(refused(text), ExpressionProblem::TooMany, "{text}");
        }
        assert_eq!(expand("a[1-100000]").unwrap().len(), MAX_HOSTS);
        assert_eq!(expand("a[1-1000]b[1-100]").unwrap().len(), MAX_HOSTS);
    }

    #[test]
    fn a_range_of_long_names_is_refused_before_it_is_made() {
        let long = format!("{}[1-100000]", "a".repeat(MAX_PART));
        let zeros = format!("a[{}1-2]", "0".repeat(100_000));
        let many = "[1]".repeat(100_000);
        for text in [long, zeros, many] {
            assert_eq!(
                refused(&text),
                AddressError::TooLong { part: "host" }.into()
            );
        }
    }

    #[test]
    fn empty_items_are_refused() {
        for text in ["a,,b", "a,", ",a", ",", "a, ,b"] {
            assert_eq!(refused(text), ExpressionProblem::EmptyItem, "{text}");
        }
        for text in ["", "  "] {
            assert_eq!(refused(text), ExpressionProblem::Empty, "{text}");
        }
    }

    #[test]
    fn the_item_that_is_wrong_is_named() {
        let error = expand("a,b[2-1],c").unwrap_err();
        assert_eq!(error.expression, "b[2-1]");
    }

    #[test]
    fn ranges_outside_the_host_are_refused() {
        for text in ["u[1-2]@a", "a:[22-23]", "fe80::[1-3]", "web[1:3]", "a[::1]"] {
            assert_eq!(refused(text), AddressError::Brackets.into(), "{text}");
        }
    }

    #[test]
    fn the_rules_of_addresses_hold_around_ranges() {
        assert_eq!(
            refused("-a[1-2]"),
            AddressError::LeadingDash { part: "host" }.into()
        );
        assert_eq!(
            refused("a[1-2] b"),
            AddressError::Blank { part: "host" }.into()
        );
        assert_eq!(
            refused("a[1-2]/b"),
            AddressError::Slash { part: "host" }.into()
        );
        assert_eq!(
            refused("web[1-5]!web3"),
            AddressError::Pattern { found: '!' }.into()
        );
        assert_eq!(
            refused("./a,b"),
            AddressError::Slash { part: "host" }.into()
        );
    }

    #[test]
    fn errors_show_neither_control_characters_nor_megabytes() {
        let error = expand(&format!("\u{1b}[2J{}", "x".repeat(1_000_000))).unwrap_err();
        assert!(error.expression.starts_with("\\u{1b}[2Jxx"));
        assert!(error.expression.len() < 200);
    }

    fn address() -> impl Strategy<Value = Address> {
        let user = proptest::option::of("[a-zA-Z_.@:%+$][a-z0-9_.@:+-]{0,9}");
        let ipv6 =
            (any::<u128>(), proptest::option::of("[a-z0-9]{1,6}")).prop_map(|(bits, zone)| {
                let address = std::net::Ipv6Addr::from(bits);
                zone.map_or(address.to_string(), |zone| format!("{address}%{zone}"))
            });
        let host = prop_oneof![3 => "[a-zA-Z0-9_.é][a-z0-9_.-]{0,20}", 1 => ipv6];
        let port = proptest::option::of(1..=u16::MAX);
        (user, host, port).prop_map(|(user, host, port)| Address { user, host, port })
    }

    proptest! {
        #[test]
        fn no_text_panics_or_goes_over_the_limits(
            text in prop_oneof![any::<String>(), r"[ab0-9\[\]\-,:@%. ]{0,40}", r"(a|\[|\]|[0-9]{1,3}|-|,|\[[0-9]{1,6}-[0-9]{1,6}\]){0,8}"],
        ) {
            if let Ok(addresses) = expand(&text) {
                prop_assert!((1..=MAX_HOSTS).contains(&addresses.len()));
                for address in addresses {
                    prop_assert!(!address.host.is_empty() && address.host.len() <= MAX_PART);
                    prop_assert!(address.port != Some(0));
                }
            }
            let _ = text.parse::<Address>();
        }

        #[test]
        fn what_is_displayed_expands_to_itself(address in address()) {
            let shown = address.to_string();
            prop_assert_eq!(expand(&shown).unwrap(), vec![address.clone()]);
            prop_assert_eq!(shown.parse::<Address>().unwrap(), address);
        }

        #[test]
        fn what_expands_can_be_displayed_and_read_again(
            text in r"([ab]@)?[ab0-9:]{1,4}(\[[0-9]\])?[ab.%]{0,2}(:[0-9]{1,4})?",
        ) {
            for address in expand(&text).unwrap_or_default() {
                prop_assert_eq!(expand(&address.to_string()).unwrap(), vec![address]);
            }
        }

        #[test]
        fn the_count_is_the_product_of_the_brackets(
            sizes in proptest::collection::vec((0..50u64, 1..7usize), 1..4),
            width in 1..6usize,
        ) {
            let mut text = String::from("n");
            for (low, size) in &sizes {
                let high = low + *size as u64 - 1;
                write!(text, "-[{low:0width$}-{high:0width$}]").unwrap();
            }
            let addresses = expand(&text).unwrap();
            prop_assert_eq!(addresses.len(), sizes.iter().map(|(_, size)| size).product::<usize>());
            let distinct: std::collections::HashSet<_> = addresses.iter().collect();
            prop_assert_eq!(distinct.len(), addresses.len());
        }
    }
}
