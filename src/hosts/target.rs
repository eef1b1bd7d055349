//! What a run works on: addresses with every open question answered, each
//! once, and with the name under which its output appears.

use std::collections::{HashMap, HashSet};

use super::address::{Address, canonical, with_port};

/// A host of the run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// Whom to log in as.
    pub(crate) user: String,
    /// The host as given; IPv6 without brackets.
    pub(crate) host: String,
    /// The port to connect to.
    pub(crate) port: u16,
    /// The address as typed, such as `ops@db7`.
    pub(crate) given: String,
    /// What stands before its lines of output. No two targets share it.
    pub(crate) prefix: String,
}

impl Target {
    /// The node as messages and the sync protocol name it: `[user@host:port]`,
    /// and `[user@[::1]:22]` for IPv6, so that the port can be told.
    #[must_use]
    pub(crate) fn node(&self) -> String {
        format!("[{}]", self.login())
    }

    /// `user@host:port`.
    fn login(&self) -> String {
        format!("{}@{}", self.user, with_port(&self.host, self.port))
    }
}

/// Makes targets of addresses: fills in the user and port of `defaults` where
/// an address leaves them open, and drops what is there already. The order is
/// kept.
#[must_use]
pub(crate) fn resolve(
    addresses: Vec<Address>,
    defaults: impl Fn(&Address) -> (String, u16),
) -> Vec<Target> {
    let mut seen = HashSet::new();
    let mut targets = Vec::new();
    for address in addresses {
        let given = address.to_string();
        let (default_user, default_port) = defaults(&address);
        let user = address.user.unwrap_or(default_user);
        let port = address.port.unwrap_or(default_port);
        if seen.insert((user.clone(), canonical(&address.host), port)) {
            targets.push(Target {
                user,
                host: address.host,
                port,
                given,
                prefix: String::new(),
            });
        }
    }
    name_prefixes(&mut targets);
    targets
}

/// Drops the targets that a pattern names: by the host, and by user and port
/// where the pattern has them. Prefixes are those of the targets that stay.
#[must_use]
pub(crate) fn exclude(mut targets: Vec<Target>, patterns: &[Address]) -> Vec<Target> {
    // A set, so that thousands of patterns against thousands of targets do not
    // take seconds; a target is looked up once for each kind of pattern.
    let patterns: HashSet<(String, Option<&str>, Option<u16>)> = patterns
        .iter()
        .map(|p| (canonical(&p.host), p.user.as_deref(), p.port))
        .collect();
    targets.retain(|target| {
        let host = canonical(&target.host);
        let user = target.user.as_str();
        let port = target.port;
        [
            (None, None),
            (Some(user), None),
            (None, Some(port)),
            (Some(user), Some(port)),
        ]
        .into_iter()
        .all(|(user, port)| !patterns.contains(&(host.clone(), user, port)))
    });
    name_prefixes(&mut targets);
    targets
}

/// Gives every target the shortest of `host`, `host:port` and `user@host:port`
/// that it has for itself.
fn name_prefixes(targets: &mut [Target]) {
    let mut hosts: HashMap<&str, usize> = HashMap::new();
    let mut ports: HashMap<(&str, u16), usize> = HashMap::new();
    for target in targets.iter() {
        *hosts.entry(&target.host).or_default() += 1;
        *ports.entry((&target.host, target.port)).or_default() += 1;
    }
    let prefixes: Vec<String> = targets
        .iter()
        .map(|target| {
            let host = target.host.as_str();
            if hosts.get(host) == Some(&1) {
                host.to_owned()
            } else if ports.get(&(host, target.port)) == Some(&1) {
                with_port(host, target.port)
            } else {
                target.login()
            }
        })
        .collect();
    for (target, prefix) in targets.iter_mut().zip(prefixes) {
        target.prefix = prefix;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hosts::expression::expand;
    use proptest::prelude::*;

    fn targets(text: &str) -> Vec<Target> {
        resolve(expand(text).unwrap(), |_| ("me".to_owned(), 22))
    }

    fn without(text: &str, patterns: &str) -> Vec<String> {
        nodes(&exclude(targets(text), &expand(patterns).unwrap()))
    }

    fn nodes(targets: &[Target]) -> Vec<String> {
        targets.iter().map(Target::node).collect()
    }

    fn prefixes(targets: &[Target]) -> Vec<&str> {
        targets.iter().map(|t| t.prefix.as_str()).collect()
    }

    #[test]
    fn defaults_fill_in_what_an_address_leaves_open() {
        let found = targets("ops@db7,db8:2222,root@[::1]:23");
        assert_eq!(
            nodes(&found),
            ["[ops@db7:22]", "[me@db8:2222]", "[root@[::1]:23]"]
        );
        assert_eq!(found[0].given, "ops@db7");
        assert_eq!(found[2].given, "root@[::1]:23");
    }

    #[test]
    fn defaults_may_depend_on_the_address() {
        let found = resolve(expand("a,b").unwrap(), |address| {
            (format!("of-{}", address.host), 1)
        });
        assert_eq!(nodes(&found), ["[of-a@a:1]", "[of-b@b:1]"]);
    }

    #[test]
    fn the_order_is_kept_and_duplicates_count_once() {
        assert_eq!(
            nodes(&targets("b,a,me@b,b:22,c,a:23")),
            ["[me@b:22]", "[me@a:22]", "[me@c:22]", "[me@a:23]"]
        );
    }

    #[test]
    fn a_host_written_in_two_ways_counts_once() {
        assert_eq!(
            nodes(&targets("DB7,db7,::1,0:0::1")),
            ["[me@DB7:22]", "[me@[::1]:22]"]
        );
    }

    #[test]
    fn the_prefix_is_as_long_as_it_has_to_be() {
        assert_eq!(prefixes(&targets("ops@a,b:2222")), ["a", "b"]);
        assert_eq!(prefixes(&targets("a,a:2222,b")), ["a:22", "a:2222", "b"]);
        assert_eq!(
            prefixes(&targets("x@a,y@a,x@a:23,b")),
            ["x@a:22", "y@a:22", "a:23", "b"]
        );
        assert_eq!(prefixes(&targets("::1,[::2]:23")), ["::1", "::2"]);
        assert_eq!(prefixes(&targets("::1,[::1]:23")), ["[::1]:22", "[::1]:23"]);
    }

    #[test]
    fn exclusion_goes_by_host_and_by_what_else_is_named() {
        let all = "web[1-3],ops@web1:2222,ops@web1";
        assert_eq!(without(all, "web1"), ["[me@web2:22]", "[me@web3:22]"],);
        assert_eq!(
            without(all, "ops@web1,web3:22"),
            ["[me@web1:22]", "[me@web2:22]"]
        );
        assert_eq!(without(all, "web1:22,web[2-3]"), ["[ops@web1:2222]"]);
        assert_eq!(without(all, "ops@web1:22,root@web2,web3:23").len(), 4);
        assert_eq!(without(all, "web1.example.com,web").len(), 5);
    }

    #[test]
    fn exclusion_does_not_mind_spelling() {
        assert_eq!(without("db7,::1", "DB7,0::1"), [""; 0]);
    }

    #[test]
    fn prefixes_are_those_of_the_targets_that_stay() {
        let stay = exclude(targets("a:22,a:2222"), &expand("a:22").unwrap());
        assert_eq!(prefixes(&stay), ["a"]);
    }

    proptest! {
        #[test]
        fn no_two_targets_share_prefix_or_node(
            items in proptest::collection::vec("([xy]@)?([abA]|::1|::1:22|\\[::1\\]|\\[0::1\\]:22)(:2[23])?", 1..12),
        ) {
            let addresses: Vec<_> = items.iter().filter_map(|i| i.parse().ok()).collect();
            let found = resolve(addresses, |_| ("x".to_owned(), 22));
            let distinct: HashSet<_> = found.iter().map(|t| &t.prefix).collect();
            prop_assert_eq!(distinct.len(), found.len());
            let distinct: HashSet<_> = found.iter().map(Target::node).collect();
            prop_assert_eq!(distinct.len(), found.len());
            for target in &found {
                let again = targets(&target.node());
                prop_assert_eq!(nodes(&again), [target.node()]);
            }
        }
    }
}
