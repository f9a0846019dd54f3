//! The metrics of pools that are ready, of replicas that are left alone and of requests that were sent twice, as Prometheus text.
//!
//! Read from the pools for each scrape, as loads are.

use std::fmt::Write;

use super::gauges::escape_label;
use crate::eject::EjectCause;
use crate::fleet::{Fleet, MemberState};
use crate::units::Moment;

const POOL_READY: &str = "tokenweir_pool_ready";
const REPLICA_EJECTED: &str = "tokenweir_ejected";
const EJECTIONS: &str = "tokenweir_ejections_total";
const RETRIES: &str = "tokenweir_retries_total";

/// Appends what is so at `now`.
pub(in crate::telemetry) fn render_health(fleet: &Fleet, now: Moment, out: &mut String) {
    let [mut ready, mut ejected, mut ejections, mut replays] = [const { String::new() }; 4];
    // Writing to a string cannot fail.
    for pool in fleet.pools() {
        let name = escape_label(pool.name());
        let _ = writeln!(ready, "{POOL_READY}{{pool=\"{name}\"}} {}", u8::from(pool.has_eligible(now)));
        let told = pool.retry_stats();
        for (result, count) in [("made", told.made), ("denied", told.denied)] {
            let _ = writeln!(replays, "{RETRIES}{{pool=\"{name}\",result=\"{result}\"}} {count}");
        }
        for ((replica, state), counts) in pool.replicas().zip(pool.member_states(now)).zip(pool.ejections()) {
            let labels = format!("pool=\"{name}\",replica=\"{}\"", escape_label(replica.name()));
            let is_out = u8::from(matches!(state, MemberState::Ejected(_)));
            let _ = writeln!(ejected, "{REPLICA_EJECTED}{{{labels}}} {is_out}");
            for (cause, count) in EjectCause::ALL.iter().zip(counts) {
                let _ = writeln!(ejections, "{EJECTIONS}{{{labels},reason=\"{}\"}} {count}", cause.as_str());
            }
        }
    }
    for (name, kind, help, series) in [
        (POOL_READY, "gauge", "1 if the pool has a replica that can be chosen.", ready),
        (REPLICA_EJECTED, "gauge", "1 if the replica is left alone now.", ejected),
        (EJECTIONS, "counter", "How often the replica was left alone, by what it did.", ejections),
        (RETRIES, "counter", "Requests sent to a second replica after a first had them, or kept from it.", replays),
    ] {
        if !series.is_empty() {
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{series}");
        }
    }
}
