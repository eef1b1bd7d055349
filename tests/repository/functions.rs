//! Functions are short. A longer one says why, in the comment above it.

use crate::sources::sources;

/// Lines of a function, from its signature to its closing brace.
const MAX_LINES: usize = 60;

/// How the sentence begins that gives the reason.
const REASON: &str = "Long because";

/// A function as rustfmt lays it out.
#[derive(Debug, PartialEq)]
struct Function<'a> {
    name: &'a str,
    lines: usize,
    /// Whether the comment above it says why it is long.
    has_reason: bool,
}

fn functions(text: &str) -> Vec<Function<'_>> {
    let lines: Vec<&str> = text.lines().collect();
    let mut functions = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let Some(name) = name_of_function(line) else {
            continue;
        };
        let indent = &line[..line.len() - line.trim_start().len()];
        let end = format!("{indent}}}");
        // A signature without a body ends with a semicolon, in the same column.
        let has_column =
            |line: &str| line.starts_with(indent) && !line[indent.len()..].starts_with(' ');
        let is_end = |line: &str| line == end || has_column(line) && line.ends_with(';');
        let is_one_line = line.ends_with([';', '}']);
        let length = match lines[at..].iter().position(|line| is_end(line)) {
            Some(length) if !is_one_line && lines[at + length] == end => length + 1,
            _ => 1,
        };
        let above = lines[..at].iter().rev().map(|line| line.trim_start());
        let above: Vec<&str> = above
            .take_while(|line| line.starts_with("//") || line.starts_with("#["))
            .collect();
        functions.push(Function {
            name,
            lines: length,
            has_reason: above.iter().any(|line| line.contains(REASON)),
        });
    }
    functions
}

/// The name, if a function begins on this line.
fn name_of_function(line: &str) -> Option<&str> {
    let (before, after) = line.trim_start().split_once("fn ")?;
    let is_qualifier = |word: &str| {
        matches!(word, "const" | "async" | "unsafe" | "extern" | "\"C\"") || word.starts_with("pub")
    };
    let name = after
        .split(|c: char| !c.is_alphanumeric() && c != '_')
        .next()?;
    let is_function = before.split_whitespace().all(is_qualifier) && !name.is_empty();
    is_function.then_some(name)
}

#[test]
fn long_functions_give_a_reason() {
    let mut seen = 0;
    let mut wrong = Vec::new();
    for source in sources() {
        for function in functions(&source.text) {
            seen += 1;
            if function.lines <= MAX_LINES || function.has_reason {
                continue;
            }
            let shown = format!("{}: {}", source.path.display(), function.name);
            wrong.push(format!("{shown} has {} lines", function.lines));
        }
    }
    assert!(
        seen > 500,
        "only {seen} functions found: the search is broken"
    );
    assert!(
        wrong.is_empty(),
        "longer than {MAX_LINES} lines, without \"{REASON} …\" in the comment above:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn a_function_ends_at_the_brace_below_its_beginning() {
    let text = "\
fn short() {}

/// Long because it is an example.
#[test]
pub(crate) fn longer(
    a: u8,
) -> u8 {
    if a == 0 {

    }
    a
}

trait Some {
    fn none(
        &self,
    );

    fn last(&self) {
        none();
    }
}
";
    let function = |name, lines, has_reason| Function {
        name,
        lines,
        has_reason,
    };
    assert_eq!(
        functions(text),
        [
            function("short", 1, false),
            function("longer", 8, true),
            function("none", 1, false),
            function("last", 3, false),
        ]
    );
}
