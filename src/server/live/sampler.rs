//! The sampler: reads all figures once a second.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

use super::feed::LiveFrame;
use super::history::HistorySample;
use super::message::{self, ReplicaFigures, RouterTotals, ShadowFigures};
use super::recent_requests::SentRows;
use super::window::{CounterReading, CounterWindow, Counts, SeriesKey, share};
use crate::fleet::{MemberState, MemberStatus, Pool};
use crate::server::AppState;
use crate::telemetry::ShadowTotals;
use crate::units::Moment;

const INTERVAL: Duration = Duration::from_secs(1);
/// The window of rates and quantiles.
const RECENT: Duration = Duration::from_secs(10);
/// The window of shares and errors.
const MINUTE: Duration = Duration::from_secs(60);

/// What the sampler keeps from second to second.
#[derive(Default)]
struct Sampler {
    window: CounterWindow,
    /// The state of each member and the Unix time since which it has it.
    states: BTreeMap<SeriesKey, (MemberState, u64)>,
    sent_rows: SentRows,
    meta: Arc<str>,
    /// Of each shadow policy the readings of the last minute: same choices, other choices, cached tokens.
    shadows: BTreeMap<(Arc<str>, &'static str), VecDeque<[u64; 3]>>,
}

/// Samples the router at the start and then once in each second of the Unix time.
pub(in crate::server) async fn run_sampler(app: &AppState) {
    let mut sampler = Sampler::default();
    loop {
        sampler.sample(app, app.clock.now());
        tokio::time::sleep(time_to_next_sample(app.clock.unix_time())).await;
    }
}

/// Returns the time to the middle of the next second, so that a timer's delay moves no sample into another second.
fn time_to_next_sample(unix_time: Duration) -> Duration {
    (INTERVAL * 3 / 2).saturating_sub(Duration::from_nanos(unix_time.subsec_nanos().into()))
}

/// What was counted in each window, by series.
struct WindowCounts {
    second: BTreeMap<SeriesKey, Counts>,
    recent: BTreeMap<SeriesKey, Counts>,
    minute: BTreeMap<SeriesKey, Counts>,
}

impl WindowCounts {
    /// Returns what was counted in the last second and in the last minute, over all series.
    fn sums(&self) -> [Counts; 2] {
        [sum(self.second.values()), sum(self.minute.values())]
    }
}

impl Sampler {
    fn sample(&mut self, app: &AppState, now: Moment) {
        self.window.push(CounterReading::take(&app.metrics, &app.fleet, now));
        let time = app.clock.unix_time().as_secs();
        let counts = WindowCounts {
            second: self.window.counts(INTERVAL),
            recent: self.window.counts(RECENT),
            minute: self.window.counts(MINUTE),
        };
        let recent = sum(counts.recent.values());
        let mut totals = RouterTotals::default();
        let mut replicas = Vec::new();
        for replica in &app.fleet.replicas() {
            let (prompt_rate, generated_rate) = self.token_rates(replica.name());
            totals.in_flight += replica.in_flight();
            totals.prompt_rate += prompt_rate;
            totals.generated_rate += generated_rate;
            replicas.push((replica.name().clone(), generated_rate, replica.load().resident.0));
        }
        let ttft = [0.5, 0.95, 0.99].map(|quantile| recent.ttft_quantile(quantile));
        let outcomes = sum(counts.second.values()).outcomes;
        let sample = HistorySample { time, ttft, outcomes, replicas };
        app.live.history.lock().unwrap_or_else(PoisonError::into_inner).push(&sample);
        let shadows = self.sample_shadows(app, &counts.minute);
        let pools = app.fleet.pools();
        let known_states = std::mem::take(&mut self.states);
        let statuses: Vec<_> = pools.iter().map(|pool| self.sample_states(&known_states, pool, time, now)).collect();
        if app.live.viewers() > 0 {
            let pools = pools.iter().zip(statuses);
            let pools = pools.map(|(pool, statuses)| {
                let shadow = pool.spec().shadow.is_some();
                let shadow = shadow.then(|| shadows.get(pool.name()).copied().unwrap_or_default());
                message::pool_json(&self.figures(pool, statuses, &counts), shadow, app, now)
            });
            let pools: Vec<Value> = pools.collect();
            let router = message::router_json(&recent, self.window.seconds(RECENT), &counts.sums(), totals);
            let requests = self.sent_rows.take_changed(app, now);
            let second = json!({ "time": time, "router": router, "pools": pools, "requests": requests });
            self.publish(app, &second);
        }
    }

    /// Sends the figures of a second to all viewers.
    fn publish(&mut self, app: &AppState, second: &Value) {
        let meta = message::build_meta(app);
        if *self.meta != *meta {
            self.meta = meta.into();
        }
        app.live
            .frames
            .send_replace(Arc::new(LiveFrame { meta: self.meta.clone(), second: second.to_string().into() }));
    }

    /// Returns a replica's prompt tokens per second, which come in lumps, over a while, and its generated ones as of now.
    fn token_rates(&self, replica: &str) -> (f64, f64) {
        (self.window.token_rates(replica, RECENT).0, self.window.token_rates(replica, INTERVAL).1)
    }

    fn figures<'a>(
        &self,
        pool: &'a Pool,
        statuses: Vec<(MemberStatus, u64)>,
        counts: &WindowCounts,
    ) -> Vec<ReplicaFigures<'a>> {
        let figures = pool.replicas().zip(statuses).map(|(replica, (status, since))| {
            let key = (pool.name().clone(), replica.name().clone());
            ReplicaFigures {
                replica,
                status,
                since,
                token_rates: self.token_rates(replica.name()),
                recent: counts.recent.get(&key).cloned().unwrap_or_default(),
                minute: counts.minute.get(&key).cloned().unwrap_or_default(),
            }
        });
        figures.collect()
    }

    /// Returns the status of each member, and the Unix time since which it has its state.
    fn sample_states(
        &mut self,
        known_states: &BTreeMap<SeriesKey, (MemberState, u64)>,
        pool: &Pool,
        time: u64,
        now: Moment,
    ) -> Vec<(MemberStatus, u64)> {
        let statuses = pool.replicas().zip(pool.member_statuses(now));
        statuses
            .map(|(replica, status)| {
                let key = (pool.name().clone(), replica.name().clone());
                let known = known_states.get(&key).filter(|(state, _)| *state == status.state);
                let since = known.map_or(time, |(_, since)| *since);
                self.states.insert(key, (status.state, since));
                (status, since)
            })
            .collect()
    }

    /// Returns what the shadow policies did in the last minute, by pool.
    fn sample_shadows(
        &mut self,
        app: &AppState,
        minute: &BTreeMap<SeriesKey, Counts>,
    ) -> BTreeMap<Arc<str>, ShadowFigures> {
        let mut figures = BTreeMap::new();
        let is_used = |totals: &ShadowTotals| {
            let pool = app.fleet.pool(&totals.pool);
            pool.and_then(|pool| Some(pool.spec().shadow.as_ref()?.name() == totals.policy)).unwrap_or(false)
        };
        for totals in app.metrics.shadow_totals().into_iter().filter(is_used) {
            let now = [totals.same_choices, totals.other_choices, totals.cached_tokens];
            let past = self.shadows.entry((totals.pool.clone(), totals.policy)).or_default();
            if past.len() > MINUTE.as_secs() as usize {
                past.pop_front();
            }
            past.push_back(now);
            let before = past.front().copied().unwrap_or(now);
            let [same, other, cached] = std::array::from_fn(|index| {
                let value = |values: &[u64; 3]| values.get(index).copied().unwrap_or_default();
                value(&now).saturating_sub(value(&before))
            });
            let of_pool = sum(minute.iter().filter(|((pool, _), _)| *pool == totals.pool).map(|(_, counts)| counts));
            figures.insert(
                totals.pool,
                ShadowFigures {
                    other_share: share(other, same + other),
                    cached_share: of_pool.cached_share(),
                    shadow_cached_share: share(cached, of_pool.prompt_tokens),
                },
            );
        }
        figures
    }
}

fn sum<'a>(counts: impl Iterator<Item = &'a Counts>) -> Counts {
    let mut sum = Counts::default();
    counts.for_each(|counts| sum.add(counts));
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_fall_in_the_middle_of_successive_seconds() {
        for millis in [0, 1, 499, 500, 501, 999] {
            let now = Duration::from_secs(1_764_556_061) + Duration::from_millis(millis);
            assert_eq!(now + time_to_next_sample(now), Duration::from_millis(1_764_556_062_500), "{millis}");
        }
    }
}
