//! Metrics that are read from the fleet at each scrape: load, health and what engines report.
//!
//! Nothing is kept between scrapes. So a removed replica has no load, and a value is absent if the engine does not
//! report it or its report has expired.

use std::sync::Arc;

use super::exposition::Exposition;
use super::names;
use super::spec::MetricSpec;
use crate::eject::EjectCause;
use crate::fleet::{EngineReport, Fleet, MemberState, Pool, Replica};
use crate::units::Moment;

/// A metric with a value for each replica.
type LoadGauge = (&'static MetricSpec, fn(&Replica) -> f64);
/// A metric with a value for each replica whose engine reports it.
type EngineGauge = (&'static MetricSpec, fn(&EngineReport) -> Option<f64>);

static LOAD_GAUGES: [LoadGauge; 4] = [
    (&names::IN_FLIGHT, |replica| f64::from(replica.in_flight())),
    (&names::PREFILL_TOKENS, |replica| replica.load().prefill.0 as f64),
    (&names::RESIDENT_TOKENS, |replica| replica.load().resident.0 as f64),
    (&names::DECODING_STREAMS, |replica| f64::from(replica.load().decoding_streams)),
];

static ENGINE_GAUGES: [EngineGauge; 8] = [
    (&names::ENGINE_REQUESTS_RUNNING, |report| Some(f64::from(report.stats.running))),
    (&names::ENGINE_REQUESTS_WAITING, |report| Some(f64::from(report.stats.waiting))),
    (&names::ENGINE_KV_USAGE_RATIO, |report| report.stats.kv_usage),
    (&names::ENGINE_KV_TOKENS, |report| report.stats.kv_capacity.map(|tokens| tokens.0 as f64)),
    (&names::EXTERNAL_REQUESTS, |report| Some(f64::from(report.external.requests))),
    (&names::EXTERNAL_TOKENS, |report| Some(report.external.load.resident.0 as f64)),
    (&names::ENGINE_PROMPT_TOKENS, |report| report.stats.prompt_tokens.map(|tokens| tokens.0 as f64)),
    (&names::ENGINE_COMPLETION_TOKENS, |report| report.stats.generated_tokens.map(|tokens| tokens.0 as f64)),
];

/// The state of one pool at the scrape.
struct PoolSnapshot {
    pool: Arc<Pool>,
    replicas: Vec<ReplicaSnapshot>,
}

struct ReplicaSnapshot {
    replica: Arc<Replica>,
    report: Option<Arc<EngineReport>>,
    ejected: bool,
    ejections: [u64; EjectCause::ALL.len()],
}

/// Appends the metrics of every pool and replica at `now`.
pub(super) fn render_fleet(fleet: &Fleet, now: Moment, exposition: &mut Exposition) {
    let pools: Vec<PoolSnapshot> = fleet.pools().iter().map(|pool| PoolSnapshot::take(pool, now)).collect();
    for (spec, value) in &LOAD_GAUGES {
        exposition.write_metric(spec, |samples| {
            for_each_replica(&pools, |labels, replica| samples.sample(&labels, value(&replica.replica)));
        });
    }
    for (spec, value) in &ENGINE_GAUGES {
        exposition.write_metric(spec, |samples| {
            for_each_replica(&pools, |labels, replica| {
                if let Some(value) = replica.report.as_deref().and_then(value) {
                    samples.sample(&labels, value);
                }
            });
        });
    }
    render_health(&pools, now, exposition);
}

fn render_health(pools: &[PoolSnapshot], now: Moment, exposition: &mut Exposition) {
    exposition.write_metric(&names::POOL_READY, |samples| {
        for PoolSnapshot { pool, .. } in pools {
            samples.sample(&[pool.name()], u8::from(pool.has_eligible(now)));
        }
    });
    exposition.write_metric(&names::EJECTED, |samples| {
        for_each_replica(pools, |labels, replica| samples.sample(&labels, u8::from(replica.ejected)));
    });
    exposition.write_metric(&names::EJECTIONS, |samples| {
        for_each_replica(pools, |[pool, name], replica| {
            for (cause, count) in EjectCause::ALL.iter().zip(replica.ejections) {
                samples.sample(&[pool, name, cause.as_str()], count);
            }
        });
    });
    exposition.write_metric(&names::RETRIES, |samples| {
        for PoolSnapshot { pool, .. } in pools {
            let retries = pool.retry_stats();
            samples.sample(&[pool.name(), "made"], retries.made);
            samples.sample(&[pool.name(), "denied"], retries.denied);
        }
    });
}

/// Calls `visit` with the labels `pool` and `replica` of each replica of each pool.
fn for_each_replica<'a>(pools: &'a [PoolSnapshot], mut visit: impl FnMut([&'a str; 2], &'a ReplicaSnapshot)) {
    for PoolSnapshot { pool, replicas } in pools {
        replicas.iter().for_each(|replica| visit([pool.name(), replica.replica.name()], replica));
    }
}

impl PoolSnapshot {
    fn take(pool: &Arc<Pool>, now: Moment) -> Self {
        let states = pool.replicas().zip(pool.member_states(now)).zip(pool.ejections());
        let replicas = states.map(|((replica, state), ejections)| ReplicaSnapshot {
            replica: replica.clone(),
            report: replica.engine_report(now),
            ejected: matches!(state, MemberState::Ejected(_)),
            ejections,
        });
        Self { replicas: replicas.collect(), pool: pool.clone() }
    }
}
