//! The metrics of pools that are ready, of replicas that are left alone and of requests that were sent twice, as Prometheus text.
//!
//! Read from the pools for each scrape, as loads are.

use std::fmt::Write;

use super::families::escaped;
use crate::eject::Cause;
use crate::fleet::{Fleet, State};
use crate::units::Moment;

const READY: &str = "tokenweir_pool_ready";
const EJECTED: &str = "tokenweir_ejected";
const EJECTIONS: &str = "tokenweir_ejections_total";
const REPLAYS: &str = "tokenweir_replays_total";

/// Appends what is so at `now`.
pub(super) fn render(fleet: &Fleet, now: Moment, out: &mut String) {
    let [mut ready, mut ejected, mut ejections, mut replays] = [const { String::new() }; 4];
    // Writing to a string cannot fail.
    for pool in fleet.pools() {
        let name = escaped(pool.name());
        let _ = writeln!(ready, "{READY}{{pool=\"{name}\"}} {}", u8::from(pool.ready(now)));
        let told = pool.replays();
        for (result, count) in [("made", told.made), ("denied", told.denied)] {
            let _ = writeln!(replays, "{REPLAYS}{{pool=\"{name}\",result=\"{result}\"}} {count}");
        }
        for ((replica, state), counts) in pool.replicas().zip(pool.states(now)).zip(pool.ejections()) {
            let labels = format!("pool=\"{name}\",replica=\"{}\"", escaped(replica.name()));
            let is_out = u8::from(matches!(state, State::Ejected(_)));
            let _ = writeln!(ejected, "{EJECTED}{{{labels}}} {is_out}");
            for (cause, count) in Cause::ALL.iter().zip(counts) {
                let _ = writeln!(ejections, "{EJECTIONS}{{{labels},reason=\"{}\"}} {count}", cause.as_str());
            }
        }
    }
    for (name, kind, help, series) in [
        (READY, "gauge", "1 if the pool has a replica that can be chosen.", ready),
        (EJECTED, "gauge", "1 if the replica is left alone now.", ejected),
        (EJECTIONS, "counter", "How often the replica was left alone, by what it did.", ejections),
        (REPLAYS, "counter", "Requests sent to a second replica after a first had them, or kept from it.", replays),
    ] {
        if !series.is_empty() {
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{series}");
        }
    }
}
