//! Error trees as lines.
//!
//! ```text
//! connecting to cluster failed
//! └─ connection to 1 of 40 nodes failed
//!    └─ can't connect to address: [ops@db7:22]
//! ```

use crate::error::Tree;

/// The lines of a tree: at least one.
#[must_use]
pub(crate) fn lines(tree: &Tree) -> Vec<String> {
    let mut lines: Vec<String> = tree.message.lines().map(str::to_owned).collect();
    if lines.is_empty() {
        lines.push(String::new());
    }
    branches(&mut lines, &tree.causes, "");
    lines
}

fn branches(out: &mut Vec<String>, causes: &[Tree], margin: &str) {
    for (index, cause) in causes.iter().enumerate() {
        let is_last = index + 1 == causes.len();
        let (branch, below) = if is_last {
            ("└─ ", "   ")
        } else {
            ("├─ ", "│  ")
        };
        let below = format!("{margin}{below}");
        let mut lines = cause.message.lines();
        let first = lines.next().unwrap_or_default();
        out.push(format!("{margin}{branch}{first}"));
        out.extend(lines.map(|line| format!("{below}{line}")));
        branches(out, &cause.causes, &below);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_after_the_first_stand_below_it() {
        let tree = Tree::new("one\ntwo").because("three\nfour");
        assert_eq!(lines(&tree), ["one", "two", "└─ three", "   four"]);
        assert_eq!(lines(&Tree::new("")), [""]);
    }
}
