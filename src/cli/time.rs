//! Times on the command line: a number with a unit, and for the options of the
//! older program plain milliseconds too.

use std::time::Duration;

/// The longest time that makes sense: about a month.
const LONGEST: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Reads `500ms`, `30s`, `5m` or `2h`.
///
/// # Errors
/// A sentence that says what is wrong.
pub(super) fn parse(text: &str) -> Result<Duration, String> {
    parse_or_zero(text).and_then(more_than_zero)
}

/// The same, where 0 makes sense.
///
/// # Errors
/// A sentence that says what is wrong.
pub(super) fn parse_or_zero(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text);
    if unit.is_empty() && number.bytes().any(|digit| digit != b'0') {
        return Err(format!(
            "the unit is missing, is {number}ms, {number}s or {number}m meant?"
        ));
    }
    read(number, unit).ok_or("write a time with its unit, such as 500ms, 30s, 5m, 2h")?
}

/// Reads a time of the older program, where a plain number is milliseconds. `name`
/// is what its error messages called the time.
///
/// # Errors
/// The older program's sentence, then one that says what is wrong.
pub(super) fn parse_older(name: &str, text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text);
    read(number, if unit.is_empty() { "ms" } else { unit })
        .unwrap_or_else(|| Err("write milliseconds, or a time such as 500ms, 30s, 5m, 2h".into()))
        .and_then(more_than_zero)
        .map_err(|reason| format!("can't convert specified {name} to number: '{text}': {reason}"))
}

/// The digits that a text begins with, and the rest.
fn split(text: &str) -> (&str, &str) {
    text.split_at(text.bytes().take_while(u8::is_ascii_digit).count())
}

/// Nothing where the text is no time; an error where the time is too long.
fn read(number: &str, unit: &str) -> Option<Result<Duration, String>> {
    let factor: u64 = match unit {
        // Without a unit only 0 gets here.
        "" | "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    if number.is_empty() {
        return None;
    }
    let number: u64 = number.parse().unwrap_or(u64::MAX);
    let time = Duration::from_millis(number.saturating_mul(factor));
    Some(if time > LONGEST {
        Err("the time must not be more than 30 days".into())
    } else {
        Ok(time)
    })
}

fn more_than_zero(time: Duration) -> Result<Duration, String> {
    if time.is_zero() {
        Err("the time must be more than 0".into())
    } else {
        Ok(time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn older(text: &str) -> Result<Duration, String> {
        parse_older("send timeout", text)
    }

    #[test]
    fn a_time_has_a_unit() {
        for parse in [parse, parse_or_zero, older] {
            assert_eq!(parse("500ms"), Ok(Duration::from_millis(500)));
            assert_eq!(parse("30s"), Ok(Duration::from_secs(30)));
            assert_eq!(parse("5m"), Ok(Duration::from_secs(300)));
            assert_eq!(parse("2h"), Ok(Duration::from_secs(7200)));
        }
    }

    #[test]
    fn a_plain_number_is_milliseconds_in_the_older_options_only() {
        assert_eq!(older("1500"), Ok(Duration::from_millis(1500)));
        for parse in [parse, parse_or_zero] {
            assert_eq!(
                parse("5"),
                Err("the unit is missing, is 5ms, 5s or 5m meant?".into())
            );
        }
    }

    #[test]
    fn no_time_at_all_has_to_make_sense() {
        for text in ["0", "00", "0s"] {
            assert_eq!(parse(text), Err("the time must be more than 0".into()));
            assert!(older(text).is_err());
            assert_eq!(parse_or_zero(text), Ok(Duration::ZERO));
        }
        assert!(parse_or_zero("").is_err());
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "",
            "s",
            "-1",
            "1d",
            "1.5s",
            "1 s",
            "wazup",
            "99999999999999999999",
            "31000000000",
            "721h",
        ] {
            assert!(parse(text).is_err(), "{text}");
            assert!(older(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_older_wording_stands_in_every_error_of_an_older_option() {
        for text in ["wazup", "0", "1d", "99999999999999999999"] {
            let error = older(text).unwrap_err();
            let wording = format!("can't convert specified send timeout to number: '{text}': ");
            assert!(error.starts_with(&wording), "{error}");
        }
    }
}
