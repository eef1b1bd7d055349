//! Numbers of bytes for people.

const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];

/// `512 B`, `1.5 KiB`, `3.0 GiB`, rounded to tenths.
#[must_use]
pub(crate) fn size(bytes: u64) -> String {
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut text = String::new();
    let mut unit_size = 1u128;
    for unit in UNITS {
        unit_size *= 1024;
        let tenths = (u128::from(bytes) * 10 + unit_size / 2) / unit_size;
        text = format!("{}.{} {unit}", tenths / 10, tenths % 10);
        if tenths < 10 * 1024 {
            break;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_for_people() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (1024 * 1024 - 100, "1023.9 KiB"),
            (1024 * 1024 - 1, "1.0 MiB"),
            (200 * 1024 * 1024, "200.0 MiB"),
            (9 << 30, "9.0 GiB"),
            (5 << 40, "5.0 TiB"),
            (u64::MAX, "16777216.0 TiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }
}
