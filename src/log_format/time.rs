//! Text formats of the time of day.

use std::time::Duration;

const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// A calendar date and its time of day.
struct DateTime {
    year: u64,
    month: u64,
    day: u64,
    time: (u64, u64, u64),
}

/// Splits a time since the Unix epoch.
///
/// Source: Howard Hinnant, "chrono-compatible low-level date algorithms", `civil_from_days`.
fn to_date_time(since_epoch: Duration) -> DateTime {
    let seconds = since_epoch.as_secs();
    let z = seconds / 86_400 + 719_468;
    let era = z / 146_097;
    let day_of_era = z % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    DateTime { year, month, day, time: (seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60) }
}

/// Returns a time since the Unix epoch in RFC 3339 with milliseconds.
pub fn format_rfc3339(since_epoch: Duration) -> String {
    let DateTime { year, month, day, time: (hour, minute, second) } = to_date_time(since_epoch);
    let millis = since_epoch.subsec_millis();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

/// Returns a time since the Unix epoch as nginx's `$time_iso8601`, with local time `offset_seconds` ahead of UTC.
pub(super) fn format_iso8601(since_epoch: Duration, offset_seconds: i32) -> String {
    let DateTime { year, month, day, time: (hour, minute, second) } =
        to_date_time(add_utc_offset(since_epoch, offset_seconds));
    let (sign, hours, minutes) = split_utc_offset(offset_seconds);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{sign}{hours:02}:{minutes:02}")
}

/// Returns a time since the Unix epoch as nginx's `$time_local`, in the common log format.
pub(super) fn format_common_log(since_epoch: Duration, offset_seconds: i32) -> String {
    let DateTime { year, month, day, time: (hour, minute, second) } =
        to_date_time(add_utc_offset(since_epoch, offset_seconds));
    let (sign, hours, minutes) = split_utc_offset(offset_seconds);
    let month = usize::try_from(month).ok().and_then(|month| MONTHS.get(month - 1)).copied().unwrap_or_default();
    format!("{day:02}/{month}/{year:04}:{hour:02}:{minute:02}:{second:02} {sign}{hours:02}{minutes:02}")
}

fn add_utc_offset(since_epoch: Duration, offset_seconds: i32) -> Duration {
    let by = Duration::from_secs(offset_seconds.unsigned_abs().into());
    if offset_seconds < 0 { since_epoch.saturating_sub(by) } else { since_epoch.saturating_add(by) }
}

/// Sign, hours and minutes.
const fn split_utc_offset(offset_seconds: i32) -> (char, u32, u32) {
    let minutes = offset_seconds.unsigned_abs() / 60;
    (if offset_seconds < 0 { '-' } else { '+' }, minutes / 60, minutes % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc3339_matches_date_command() {
        let at = |seconds| format_rfc3339(Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00.000Z");
        assert_eq!(at(1_795_355_508), "2026-11-22T13:51:48.000Z");
        assert_eq!(format_rfc3339(Duration::from_millis(4_107_542_399_999)), "2100-02-28T23:59:59.999Z");
    }

    #[test]
    fn all_formats_give_the_same_time() {
        let at = Duration::from_millis(1_795_355_508_042);
        assert_eq!(format_rfc3339(at), "2026-11-22T13:51:48.042Z");
        assert_eq!(format_iso8601(at, 0), "2026-11-22T13:51:48+00:00");
        assert_eq!(format_common_log(at, 0), "22/Nov/2026:13:51:48 +0000");
        assert_eq!(format_iso8601(at, -19_800), "2026-11-22T08:21:48-05:30");
        assert_eq!(format_common_log(at, 37_800), "23/Nov/2026:00:21:48 +1030");
        assert_eq!(format_common_log(Duration::ZERO, 0), "01/Jan/1970:00:00:00 +0000");
    }
}
