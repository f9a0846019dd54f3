//! The machine's time zone, read once.

use std::sync::OnceLock;
use std::time::Duration;

use tz::TimeZone;

/// `None` where there is none that can be read: UTC.
static LOCAL_ZONE: OnceLock<Option<TimeZone>> = OnceLock::new();

/// How many seconds local time is ahead of UTC at a time since the Unix epoch. As for nginx, `TZ` tells the zone, or else
/// `/etc/localtime`.
pub(crate) fn utc_offset_seconds(since_epoch: Duration) -> i32 {
    let zone = LOCAL_ZONE.get_or_init(|| match std::env::var("TZ") {
        Ok(name) => parse_zone(&name),
        Err(_) => TimeZone::local().ok(),
    });
    let at = i64::try_from(since_epoch.as_secs()).unwrap_or(i64::MAX);
    zone.as_ref().and_then(|zone| zone.find_local_time_type(at).ok()).map_or(0, |local| local.ut_offset())
}

fn parse_zone(name: &str) -> Option<TimeZone> {
    TimeZone::from_posix_tz(name).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_have_their_summer_time() {
        let ahead = |name: &str, at| parse_zone(name).unwrap().find_local_time_type(at).unwrap().ut_offset();
        assert_eq!(ahead("CET-1CEST,M3.5.0,M10.5.0/3", 1_795_355_508), 3_600);
        assert_eq!(ahead("CET-1CEST,M3.5.0,M10.5.0/3", 1_782_000_000), 7_200);
        assert_eq!(ahead("NST3:30", 0), -12_600);
        assert!(parse_zone("").is_none_or(|zone| zone.find_local_time_type(0).unwrap().ut_offset() == 0));
    }
}
