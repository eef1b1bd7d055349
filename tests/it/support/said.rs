//! Taking apart what the program has said.

/// What stderr says, without the time at the beginning of log lines (and
/// without the room for it on the lines below).
pub(crate) fn untimed(stderr: &str) -> String {
    const TIME: usize = "2026-01-31 12:00:00 ".len();
    stderr
        .lines()
        .map(|line| {
            let is_log = line.get(4..5) == Some("-") && line.get(13..14) == Some(":");
            let is_below = line.starts_with(&" ".repeat(28));
            let text = if is_log || is_below {
                &line[TIME..]
            } else {
                line
            };
            format!("{text}\n")
        })
        .collect()
}

/// The same without what was said of single hosts before the end.
pub(crate) fn summary(stderr: &str) -> String {
    let lines = untimed(stderr);
    let lines = lines.lines().filter(|line| !line.starts_with("[ERROR] "));
    lines.flat_map(|line| [line, "\n"]).collect()
}

/// What stderr says, without the warnings that connecting takes long, as it may where
/// the machine is busy.
pub(crate) fn without_slowness(stderr: &str) -> String {
    let is_slowness = |line: &&str| line.contains(" [WARN] still connecting to ");
    let lines = stderr.split_inclusive('\n');
    lines.filter(|line| !is_slowness(line)).collect()
}
