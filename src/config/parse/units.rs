//! Durations and sizes in nginx's notation.

use std::time::Duration;

/// The longest duration that can be configured; longer ones are mistakes, and overflow timers.
const MAX_DURATION: Duration = Duration::from_secs(365 * 86_400);

const DURATION_UNITS: [(&str, u64); 6] = [
    ("ms", 1_000_000),
    ("s", NANOS_PER_SECOND),
    ("m", 60 * NANOS_PER_SECOND),
    ("h", 3_600 * NANOS_PER_SECOND),
    ("d", 86_400 * NANOS_PER_SECOND),
    ("", NANOS_PER_SECOND),
];
const NANOS_PER_SECOND: u64 = 1_000_000_000;

const SIZE_UNITS: [(&str, usize); 7] =
    [("", 1), ("k", 1 << 10), ("m", 1 << 20), ("g", 1 << 30), ("kib", 1 << 10), ("mib", 1 << 20), ("gib", 1 << 30)];

/// Parses `30s`, `500ms`, `3.5s`, `1h30m` or a number of seconds; `None` if malformed or above 365 days.
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    let mut total = Duration::ZERO;
    let mut rest = text.trim();
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let (number, after) = split_leading(rest, |c| c.is_ascii_digit() || c == '.');
        let (unit, after) = split_leading(after, |c| c.is_ascii_alphabetic());
        let (_, scale) = DURATION_UNITS.iter().find(|(name, _)| *name == unit)?;
        total = total.checked_add(scale_decimal(number, *scale)?)?;
        rest = after.trim_start();
        if unit.is_empty() && !rest.is_empty() {
            return None;
        }
    }
    (total <= MAX_DURATION).then_some(total)
}

/// Parses `1024`, `64k`, `32m`, `1g`, `32MiB`, powers of 1024 as in nginx, into bytes; `None` if malformed.
pub(crate) fn parse_size(text: &str) -> Option<usize> {
    let (number, unit) = split_leading(text.trim(), |c| c.is_ascii_digit());
    let unit = unit.trim_start().to_ascii_lowercase();
    let (_, scale) = SIZE_UNITS.iter().find(|(name, _)| *name == unit)?;
    number.parse::<usize>().ok()?.checked_mul(*scale)
}

/// Returns `number`, which may have a fraction, times `nanos` nanoseconds.
fn scale_decimal(number: &str, nanos: u64) -> Option<Duration> {
    let (whole, fraction) = number.split_once('.').map_or((number, "0"), |parts| parts);
    if fraction.is_empty() || fraction.len() > 9 {
        return None;
    }
    let nanos = u128::from(nanos);
    let below_one = u128::from(fraction.parse::<u64>().ok()?) * nanos / 10u128.pow(u32::try_from(fraction.len()).ok()?);
    let total = u128::from(whole.parse::<u64>().ok()?).checked_mul(nanos)?.checked_add(below_one)?;
    Some(Duration::from_nanos(u64::try_from(total).ok()?))
}

fn split_leading(text: &str, belongs: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|c| !belongs(c)).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_of_nginx_are_parsed() {
        for (text, millis) in [
            ("30s", 30_000),
            ("500ms", 500),
            ("3.5s", 3_500),
            ("1h30m", 5_400_000),
            ("1h 30m", 5_400_000),
            ("1m30", 90_000),
            ("5", 5_000),
            ("0.25", 250),
            ("2d", 172_800_000),
            ("0", 0),
        ] {
            assert_eq!(parse_duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "s", "5x", "-1s", "1.s", ".5s", "1 2", "366d", "99999999999999999999s", "1.2.3s", "5S", "inf"]
        {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    #[test]
    fn sizes_are_powers_of_1024() {
        for (text, bytes) in
            [("1024", 1024), ("64k", 65_536), ("32m", 32 << 20), ("32MiB", 32 << 20), ("1 GiB", 1 << 30)]
        {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
        }
        for text in ["", "k", "32MB", "1.5m", "-1", "99999999999999999999", "9999999999999g"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }
}
