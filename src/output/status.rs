//! The text of the status bar: the phase, hosts done and failed, and for uploads bytes,
//! rate and time left. [`super::screen`] draws it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use console::{Style, measure_text_width, truncate_str};

use crate::output::message::{Phase, Progress};
use crate::output::size::size;
use crate::output::template::{Template, TemplateError};
use crate::output::theme::Theme;

/// The keys of a template for the bar.
const KEYS: [&str; 12] = [
    "phase", "done", "total", "failed", "failures", "marks", "bar", "percent", "transfer", "rate",
    "clock", "elapsed",
];

/// The templates without `--bar-format`, widest first. The bar takes the first that fits.
const DEFAULTS: [&str; 6] = [
    "{phase} {bar} {done}/{total}{failures}{transfer}{clock}",
    "{phase} {done}/{total}{failures}{transfer}{clock}",
    "{phase} {done}/{total}{failures} {percent}{clock}",
    "{phase} {done}/{total}{failures} {percent}",
    "{phase} {done}/{total}{marks} {percent}",
    "{phase} {done}/{total}{marks}",
];

/// Columns of `{bar}`.
const BAR: usize = 24;

/// The rate is the mean over this time.
const WINDOW: Duration = Duration::from_secs(5);

/// The time between two samples for the rate.
const SAMPLE: Duration = Duration::from_millis(200);

/// The state of the bar.
pub(crate) struct StatusBar {
    theme: Theme,
    is_colored: bool,
    templates: Vec<Template>,
    progress: Option<Progress>,
    /// The beginning of the phase.
    since: Option<Instant>,
    /// Bytes sent so far, at some times.
    samples: VecDeque<(Instant, u64)>,
}

/// Parses `--bar-format`.
///
/// # Errors
/// It is no template, has no key, or has control characters.
pub(crate) fn template(text: &str) -> Result<Template, TemplateError> {
    Template::parse(text, &KEYS)?.changing_line()
}

impl StatusBar {
    /// A bar without text; `format` is the user's template.
    #[must_use]
    pub(crate) fn new(theme: Theme, is_colored: bool, format: Option<&Template>) -> Self {
        let defaults = || {
            DEFAULTS
                .iter()
                .map(|text| template(text).expect("the defaults are as templates have to be"))
        };
        Self {
            theme,
            is_colored,
            templates: match format {
                Some(format) => vec![format.clone()],
                None => defaults().collect(),
            },
            progress: None,
            since: None,
            samples: VecDeque::new(),
        }
    }

    /// Takes in progress of the run.
    pub(crate) fn update(&mut self, progress: Progress, now: Instant) {
        let old = self.progress.filter(|old| old.phase == progress.phase);
        if old.is_none() {
            self.since = Some(now);
            self.samples.clear();
        }
        // The feeder counts bytes, main counts hosts: each message updates one of both.
        self.progress = Some(match (old, progress.bytes) {
            (Some(old), Some(_)) => Progress {
                bytes: progress.bytes,
                ..old
            },
            (Some(old), None) => Progress {
                bytes: old.bytes,
                ..progress
            },
            (None, _) => progress,
        });
        let Some((bytes, _)) = progress.bytes else {
            return;
        };
        let last = self.samples.back();
        if last.is_none_or(|(at, _)| now.saturating_duration_since(*at) >= SAMPLE) {
            self.samples.push_back((now, bytes));
        }
        while self.samples.len() > 2 && now.saturating_duration_since(self.samples[1].0) >= WINDOW {
            self.samples.pop_front();
        }
    }

    /// Has no text until the next update.
    pub(crate) fn forget(&mut self) {
        self.progress = None;
    }

    /// The bar for a terminal of this width. The last column stays empty: some terminals
    /// wrap there.
    #[must_use]
    pub(crate) fn line(&self, columns: usize, now: Instant) -> Option<String> {
        let progress = self.progress?;
        let room = columns.checked_sub(1).filter(|room| *room > 0)?;
        let mut line = String::new();
        for template in &self.templates {
            line = template.render(self.is_colored, |key| self.value(key, &progress, now));
            if measure_text_width(&line) <= room {
                return Some(line);
            }
        }
        Some(truncate_str(&line, room, "…").into_owned())
    }

    fn value(&self, key: &str, progress: &Progress, now: Instant) -> (String, Option<Style>) {
        let Progress {
            phase,
            done,
            total,
            failed,
            ..
        } = *progress;
        let bad = Some(self.theme.bad());
        match key {
            "phase" => (phase.name().to_owned(), Some(self.theme.heading())),
            "done" => (done.to_string(), None),
            "total" => (total.to_string(), None),
            "failed" => (failed.to_string(), bad.filter(|_| failed > 0)),
            "failures" if failed > 0 => (format!("  {failed} failed"), bad),
            "marks" if failed > 0 => (format!(" !{failed}"), bad),
            "bar" => (self.bar(progress), Some(self.theme.aside())),
            "transfer" => (self.transfer(progress, now), None),
            "percent" => (format!("{:.0}%", 100.0 * fraction(progress)), None),
            "rate" => match self.rate(now) {
                Some(rate) => (format!("{}/s", size_of(rate)), None),
                None => (String::new(), None),
            },
            "elapsed" => (self.elapsed(now), None),
            // An upload shows the time left instead.
            "clock" if progress.bytes.is_none() => (format!("  {}", self.elapsed(now)), None),
            _ => (String::new(), None),
        }
    }

    fn elapsed(&self, now: Instant) -> String {
        let since = self.since.unwrap_or(now);
        time(now.saturating_duration_since(since))
    }

    fn bar(&self, progress: &Progress) -> String {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "from 0 to the length of the bar"
        )]
        let full = (fraction(progress) * BAR as f64) as usize;
        format!("{}{}", "━".repeat(full), "┄".repeat(BAR - full))
    }

    /// `  12.3 MiB of 200.0 MiB  3.1 MiB/s  0:30 left`
    fn transfer(&self, progress: &Progress, now: Instant) -> String {
        let Some((done, total)) = progress.bytes else {
            return String::new();
        };
        let mut text = format!("  {} of {}", size(done), size(total));
        if let Some(rate) = self.rate(now) {
            text.push_str(&format!("  {}/s", size_of(rate)));
            #[expect(clippy::cast_precision_loss, reason = "a few digits are shown")]
            let left = total.saturating_sub(done) as f64 / rate;
            if done < total && left < 360_000.0 {
                text.push_str(&format!("  {} left", time(Duration::from_secs_f64(left))));
            }
        }
        text
    }

    /// Bytes per second, once there are two samples.
    fn rate(&self, now: Instant) -> Option<f64> {
        let (first, before) = self.samples.front()?;
        let (_, bytes) = self.samples.back()?;
        let time = now.saturating_duration_since(*first).as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "a few digits are shown")]
        let rate = bytes.saturating_sub(*before) as f64 / time;
        (rate.is_finite() && rate > 0.0).then_some(rate)
    }
}

/// The part that is done, from 0 to 1: of the bytes if they are counted, else of the
/// hosts.
fn fraction(progress: &Progress) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a few digits are shown")]
    let (done, total) = match progress.bytes {
        Some((done, total)) => (done as f64, total as f64),
        None => (progress.done as f64, progress.total as f64),
    };
    if total > 0.0 {
        (done / total).clamp(0.0, 1.0)
    } else {
        0.0
    }
}

/// A size for a number of bytes that is not whole.
fn size_of(bytes: f64) -> String {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "rates are positive, and less than 2^63"
    )]
    size(bytes as u64)
}

/// A time as `0:42` or `1:02:03`.
fn time(time: Duration) -> String {
    let seconds = time.as_secs();
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match hours {
        0 => format!("{minutes}:{seconds:02}"),
        _ => format!("{hours}:{minutes:02}:{seconds:02}"),
    }
}

impl Phase {
    /// The name in the status bar.
    #[must_use]
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Connect => "CONNECT",
            Self::Lock => "LOCK",
            Self::Upload => "UPLOAD",
            Self::Exec => "EXEC",
            Self::Wait => "WAIT",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    fn progress(phase: Phase, done: usize, failed: usize) -> Progress {
        Progress {
            phase,
            done,
            total: 40,
            failed,
            bytes: None,
        }
    }

    fn uploading(bytes: u64) -> Progress {
        Progress {
            bytes: Some((bytes, 200 * MIB)),
            ..progress(Phase::Upload, 0, 0)
        }
    }

    fn bar() -> StatusBar {
        StatusBar::new(Theme::Default, false, None)
    }

    #[test]
    fn there_is_none_before_anything_happens() {
        let mut bar = bar();
        let now = Instant::now();
        assert_eq!(bar.line(80, now), None);
        bar.update(progress(Phase::Connect, 0, 0), now);
        assert!(bar.line(80, now).is_some());
        bar.forget();
        assert_eq!(bar.line(80, now), None);
    }

    #[test]
    fn it_says_as_much_as_there_is_room_for() {
        let (mut bar, begun) = (bar(), Instant::now());
        bar.update(progress(Phase::Connect, 0, 0), begun);
        bar.update(progress(Phase::Connect, 10, 2), begun);
        let now = begun + Duration::from_secs(62);
        for (columns, expected) in [
            (80, "CONNECT ━━━━━━┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄ 10/40  2 failed  1:02"),
            (40, "CONNECT 10/40  2 failed  1:02"),
            (28, "CONNECT 10/40  2 failed 25%"),
            (22, "CONNECT 10/40 !2 25%"),
            (20, "CONNECT 10/40 !2"),
            (12, "CONNECT 10…"),
        ] {
            let line = bar.line(columns, now).unwrap();
            assert_eq!(line, expected);
            assert!(measure_text_width(&line) < columns);
        }
        assert_eq!(bar.line(1, now), None);
    }

    #[test]
    fn an_upload_has_bytes_a_rate_and_a_time_left() {
        let (mut bar, begun) = (bar(), Instant::now());
        bar.update(uploading(0), begun);
        let line = |bar: &StatusBar, now| bar.line(100, now).unwrap();
        assert!(line(&bar, begun).ends_with(" 0/40  0 B of 200.0 MiB"));
        for second in 1..=10 {
            let now = begun + Duration::from_secs(second);
            bar.update(uploading(second * 10 * MIB), now);
        }
        let now = begun + Duration::from_secs(10);
        assert_eq!(
            line(&bar, now),
            "UPLOAD ━━━━━━━━━━━━┄┄┄┄┄┄┄┄┄┄┄┄ 0/40  100.0 MiB of 200.0 MiB  10.0 MiB/s  0:10 left"
        );
        assert_eq!(bar.line(30, now).unwrap(), "UPLOAD 0/40 50%");
        // Hosts that are through with it are told apart from bytes.
        bar.update(progress(Phase::Upload, 2, 1), now);
        bar.update(uploading(100 * MIB), now);
        assert_eq!(bar.line(30, now).unwrap(), "UPLOAD 2/40  1 failed 50%");
        bar.update(progress(Phase::Upload, 0, 0), now);
        // Nothing comes any more: the rate goes down.
        let later = line(&bar, now + Duration::from_secs(5));
        assert!(later.contains("  5.0 MiB/s  0:20 left"), "{later}");
    }

    #[test]
    fn the_rate_is_that_of_the_last_seconds() {
        let (mut bar, begun) = (bar(), Instant::now());
        let mut bytes = 0;
        for tenth in 0..=400 {
            bytes += if tenth < 200 { MIB } else { MIB / 10 };
            bar.update(uploading(bytes), begun + Duration::from_millis(100 * tenth));
        }
        let now = begun + Duration::from_secs(40);
        assert_eq!(bar.value("rate", &uploading(bytes), now).0, "1.0 MiB/s");
        assert!(bar.samples.len() < 30);
    }

    #[test]
    fn each_phase_has_its_own_time() {
        let (mut bar, begun) = (bar(), Instant::now());
        bar.update(progress(Phase::Connect, 0, 0), begun);
        let later = begun + Duration::from_secs(4000);
        assert!(bar.line(80, later).unwrap().ends_with(" 1:06:40"));
        bar.update(progress(Phase::Wait, 1, 0), later);
        assert!(bar.line(80, later).unwrap().ends_with(" 1/40  0:00"));
    }

    #[test]
    fn a_template_of_the_users_is_cut_to_the_width() {
        let format = template("{phase:blue} {done} of {total}, {failed} bad").unwrap();
        let mut bar = StatusBar::new(Theme::Default, true, Some(&format));
        let now = Instant::now();
        bar.update(progress(Phase::Exec, 3, 1), now);
        assert_eq!(
            bar.line(80, now).unwrap(),
            "\x1b[34mEXEC\x1b[0m 3 of 40, \x1b[31m1\x1b[0m bad"
        );
        let narrow = bar.line(10, now).unwrap();
        assert_eq!(console::strip_ansi_codes(&narrow), "EXEC 3 o…");
    }
}
