//! The machine's time zone, read once.

use std::sync::OnceLock;
use std::time::Duration;

use tz::TimeZone;

/// `None` if it cannot be read, which means UTC.
static LOCAL_ZONE: OnceLock<Option<TimeZone>> = OnceLock::new();

/// Returns the seconds by which local time is ahead of UTC at a time since the Unix epoch. As in nginx, the zone is
/// `TZ`, or else `/etc/localtime`.
pub fn utc_offset_seconds(since_epoch: Duration) -> i32 {
    let zone = LOCAL_ZONE.get_or_init(|| match std::env::var("TZ") {
        Ok(name) => parse_zone(&name),
        Err(_) => TimeZone::local().ok(),
    });
    let seconds = i64::try_from(since_epoch.as_secs()).unwrap_or(i64::MAX);
    zone.as_ref().and_then(|zone| zone.find_local_time_type(seconds).ok()).map_or(0, |local| local.ut_offset())
}

fn parse_zone(name: &str) -> Option<TimeZone> {
    TimeZone::from_posix_tz(name).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_have_summer_time() {
        let offset = |name: &str, seconds| parse_zone(name).unwrap().find_local_time_type(seconds).unwrap().ut_offset();
        assert_eq!(offset("CET-1CEST,M3.5.0,M10.5.0/3", 1_795_355_508), 3_600);
        assert_eq!(offset("CET-1CEST,M3.5.0,M10.5.0/3", 1_782_000_000), 7_200);
        assert_eq!(offset("NST3:30", 0), -12_600);
        assert!(parse_zone("").is_none_or(|zone| zone.find_local_time_type(0).unwrap().ut_offset() == 0));
    }
}
