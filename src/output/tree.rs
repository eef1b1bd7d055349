//! Log lines, and error trees below them.
//!
//! ```text
//! 2026-01-31 12:00:00 [FATAL] connecting to cluster failed
//!                             └─ connection to 1 of 40 nodes failed
//!                                └─ can't connect to address: [ops@db7:22]
//! ```

use crate::error::Tree;
use crate::event::Level;

/// Where the text of a log line begins: `2026-01-31 12:00:00 [FATAL] `.
const INDENT: usize = 28;

/// A log line with everything below it, without the final newline.
#[must_use]
pub fn log_line(time: &str, level: Level, text: &Tree) -> String {
    let level = format!("[{}]", level.name());
    let mut line = format!("{time} {level:>7} ");
    let margin = " ".repeat(INDENT);
    let mut lines = text.message.lines();
    line.push_str(lines.next().unwrap_or_default());
    for more in lines {
        line.push('\n');
        line.push_str(&margin);
        line.push_str(more);
    }
    branches(&mut line, &text.causes, &margin);
    line
}

fn branches(out: &mut String, causes: &[Tree], margin: &str) {
    for (index, cause) in causes.iter().enumerate() {
        let is_last = index + 1 == causes.len();
        let (branch, below) = if is_last {
            ("└─ ", "   ")
        } else {
            ("├─ ", "│  ")
        };
        let below = format!("{margin}{below}");
        let mut lines = cause.message.lines();
        out.push('\n');
        out.push_str(margin);
        out.push_str(branch);
        out.push_str(lines.next().unwrap_or_default());
        for more in lines {
            out.push('\n');
            out.push_str(&below);
            out.push_str(more);
        }
        branches(out, &cause.causes, &below);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: &str = "2026-01-31 12:00:00";

    #[test]
    fn levels_are_aligned_to_the_right() {
        let warning = log_line(TIME, Level::Warn, &"careful".into());
        assert_eq!(warning, "2026-01-31 12:00:00  [WARN] careful");
    }

    #[test]
    fn lines_after_the_first_stand_below_it() {
        let line = log_line(TIME, Level::Error, &"one\ntwo".into());
        let expected = format!("{TIME} [ERROR] one\n{}two", " ".repeat(28));
        assert_eq!(line, expected);
    }

    #[test]
    fn causes_are_branches() {
        let tree = Tree::new("connecting to cluster failed").because(
            Tree::new("connection to 2 of 40 nodes failed")
                .because(
                    Tree::new("can't connect to address: [ops@db7:22]")
                        .because("connection refused"),
                )
                .because("two\nlines"),
        );
        let line = log_line(TIME, Level::Fatal, &tree);
        let expected = "\
2026-01-31 12:00:00 [FATAL] connecting to cluster failed
                            └─ connection to 2 of 40 nodes failed
                               ├─ can't connect to address: [ops@db7:22]
                               │  └─ connection refused
                               └─ two
                                  lines";
        assert_eq!(line, expected);
    }
}
