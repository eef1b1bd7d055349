//! Times on the command line: plain milliseconds, or with a unit.

use std::time::Duration;

/// The longest time that makes sense: about a month.
const LONGEST: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Reads `500`, `500ms`, `30s`, `5m` or `2h`.
///
/// # Errors
/// A sentence that says what is wrong.
pub(super) fn parse(text: &str) -> Result<Duration, String> {
    match parse_or_zero(text) {
        Ok(time) if time.is_zero() => Err("the time must be more than 0".into()),
        parsed => parsed,
    }
}

/// The same, where 0 makes sense.
///
/// # Errors
/// A sentence that says what is wrong.
pub(super) fn parse_or_zero(text: &str) -> Result<Duration, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit {
        "" | "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err("write milliseconds, or a time such as 500ms, 30s, 5m, 2h".into()),
    };
    let number: u64 = match number.parse() {
        Ok(number) => number,
        Err(_) if number.is_empty() => {
            return Err("write milliseconds, or a time such as 500ms, 30s, 5m, 2h".into());
        }
        Err(_) => u64::MAX,
    };
    let time = Duration::from_millis(number.saturating_mul(factor));
    if time > LONGEST {
        return Err("the time must not be more than 30 days".into());
    }
    Ok(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_numbers_are_milliseconds() {
        assert_eq!(parse("1500"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(parse("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(parse("2h"), Ok(Duration::from_secs(7200)));
    }

    #[test]
    fn no_time_at_all_has_to_make_sense() {
        assert!(parse("0s").is_err());
        assert_eq!(parse_or_zero("0s"), Ok(Duration::ZERO));
        assert_eq!(parse_or_zero("0"), Ok(Duration::ZERO));
        assert!(parse_or_zero("").is_err());
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "",
            "s",
            "0",
            "0s",
            "-1",
            "1d",
            "1.5s",
            "1 s",
            "99999999999999999999",
            "31000000000",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
