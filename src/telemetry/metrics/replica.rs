//! Requests, tokens and latency by replica and model.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::exposition::Exposition;
use super::histogram::Histogram;
use super::labelled_series::LabelledSeries;
use super::names;
use super::spec::MetricSpec;
use super::totals::ReplicaTotals;
use crate::fleet::{Fleet, LeaseReport, Outcome, Replica};
use crate::units::{ModelName, Moment, Usage};

/// Time for which the series of a removed replica stay, so that the last values are scraped.
const RETENTION: Duration = Duration::from_secs(15 * 60);

/// The series of all replicas.
#[derive(Default)]
pub(super) struct ReplicaMetrics(LabelledSeries<ReplicaLabels, ReplicaSeries>);

#[derive(Clone)]
struct ReplicaLabels {
    pool: Arc<str>,
    replica: Arc<str>,
}

/// The series of one replica in one pool.
struct ReplicaSeries {
    /// By [`Outcome::index`].
    outcome_counts: [AtomicU64; Outcome::ALL.len()],
    duration: Histogram,
    model_series: LabelledSeries<Option<ModelName>, ModelSeries>,
    /// Nanoseconds at which the replica was first missed; 0 while the fleet has it.
    left_at_nanos: AtomicU64,
}

/// The series of one model on one replica in one pool.
struct ModelSeries {
    prompt_tokens: AtomicU64,
    cached_tokens: AtomicU64,
    estimated_cached_tokens: AtomicU64,
    completion_tokens: AtomicU64,
    ttft: Histogram,
    itl: Histogram,
    tpot: Histogram,
    tokens_per_second: Histogram,
    estimate_error: Histogram,
}

type ModelCounter = (&'static MetricSpec, fn(&ModelSeries) -> &AtomicU64);
type ModelHistogram = (&'static MetricSpec, fn(&ModelSeries) -> &Histogram);

static MODEL_COUNTERS: [ModelCounter; 4] = [
    (&names::PROMPT_TOKENS, |series| &series.prompt_tokens),
    (&names::CACHED_PROMPT_TOKENS, |series| &series.cached_tokens),
    (&names::ESTIMATED_CACHED_PROMPT_TOKENS, |series| &series.estimated_cached_tokens),
    (&names::COMPLETION_TOKENS, |series| &series.completion_tokens),
];
static MODEL_HISTOGRAMS: [ModelHistogram; 5] = [
    (&names::TTFT, |series| &series.ttft),
    (&names::ITL, |series| &series.itl),
    (&names::TPOT, |series| &series.tpot),
    (&names::STREAM_TOKENS_PER_SECOND, |series| &series.tokens_per_second),
    (&names::ESTIMATE_ERROR_RATIO, |series| &series.estimate_error),
];

impl ReplicaMetrics {
    /// Records a request that has ended.
    pub(super) fn record(&self, report: &LeaseReport<'_>) {
        let series = self.get_or_create(report.pool, report.replica);
        series.outcome_counts[report.outcome.index()].fetch_add(1, Ordering::Relaxed);
        if report.outcome == Outcome::Completed {
            series.duration.record(report.ended_at.since(report.timeline.chosen_at).as_secs_f64());
        }
        if let Some(usage) = usage_or_estimate(report) {
            series.model_series(report.model).record(report, usage);
        }
    }

    /// Creates the series of every replica of the fleet, and removes those of replicas that left [`RETENTION`] ago.
    pub(super) fn sync_replicas(&self, fleet: &Fleet, now: Moment) {
        let mut present = Vec::new();
        for pool in fleet.pools() {
            present.extend(pool.replicas().map(|replica| self.get_or_create(pool.name(), replica)));
        }
        self.0.retain(|series| series.is_retained(present.iter().any(|s| Arc::ptr_eq(s, series)), now));
    }

    /// Appends all series.
    pub(super) fn render(&self, exposition: &mut Exposition) {
        let replicas = self.0.load();
        exposition.write_metric(&names::ATTEMPTS, |samples| {
            for (labels, series) in replicas.iter() {
                for (outcome, count) in Outcome::ALL.iter().zip(&series.outcome_counts) {
                    let count = count.load(Ordering::Relaxed);
                    samples.sample(&[&labels.pool, &labels.replica, outcome.as_str()], count);
                }
            }
        });
        exposition.write_metric(&names::DURATION, |samples| {
            for (labels, series) in replicas.iter() {
                samples.histogram(&[&labels.pool, &labels.replica], &series.duration);
            }
        });
        let models: Vec<_> = replicas.iter().map(|(labels, series)| (labels, series.model_series.load())).collect();
        let rows = || {
            models.iter().flat_map(|(labels, models)| {
                models.iter().map(|(model, series)| {
                    let model = model.as_ref().map_or("", ModelName::as_str);
                    ([&*labels.pool, &*labels.replica, model], series)
                })
            })
        };
        for (spec, counter) in &MODEL_COUNTERS {
            exposition.write_metric(spec, |samples| {
                rows().for_each(|(labels, series)| samples.sample(&labels, counter(series).load(Ordering::Relaxed)));
            });
        }
        for (spec, histogram) in &MODEL_HISTOGRAMS {
            exposition.write_metric(spec, |samples| {
                rows().for_each(|(labels, series)| samples.histogram(&labels, histogram(series)));
            });
        }
    }

    /// Returns the totals of every replica in every pool.
    pub(super) fn totals(&self) -> Vec<ReplicaTotals> {
        self.0.load().iter().map(|(labels, series)| series.totals(labels)).collect()
    }

    fn get_or_create(&self, pool: &Arc<str>, replica: &Replica) -> Arc<ReplicaSeries> {
        let replica = replica.name();
        self.0.get_or_create(
            |known| known.pool == *pool && known.replica == *replica,
            || (ReplicaLabels { pool: pool.clone(), replica: replica.clone() }, ReplicaSeries::default()),
        )
    }
}

impl ReplicaSeries {
    fn totals(&self, labels: &ReplicaLabels) -> ReplicaTotals {
        let mut totals = ReplicaTotals {
            pool: labels.pool.clone(),
            replica: labels.replica.clone(),
            outcomes: [0; Outcome::ALL.len()],
            prompt_tokens: 0,
            cached_tokens: 0,
            estimated_cached_tokens: 0,
            ttft: vec![0; names::TTFT.bounds().len() + 1],
        };
        for (total, count) in totals.outcomes.iter_mut().zip(&self.outcome_counts) {
            *total = count.load(Ordering::Relaxed);
        }
        for (_, model) in self.model_series.load().iter() {
            totals.prompt_tokens += model.prompt_tokens.load(Ordering::Relaxed);
            totals.cached_tokens += model.cached_tokens.load(Ordering::Relaxed);
            totals.estimated_cached_tokens += model.estimated_cached_tokens.load(Ordering::Relaxed);
            for (total, count) in totals.ttft.iter_mut().zip(model.ttft.snapshot().0) {
                *total += count;
            }
        }
        totals
    }

    fn model_series(&self, model: Option<&ModelName>) -> Arc<ModelSeries> {
        self.model_series.get_or_create(|known| known.as_ref() == model, || (model.cloned(), ModelSeries::default()))
    }

    /// Returns whether the fleet has the replica, or had it less than [`RETENTION`] ago. Notes when it was first
    /// missed.
    fn is_retained(&self, is_present: bool, now: Moment) -> bool {
        let left_at = match self.left_at_nanos.load(Ordering::Relaxed) {
            _ if is_present => 0,
            0 => now.as_nanos(),
            left_at => left_at,
        };
        self.left_at_nanos.store(left_at, Ordering::Relaxed);
        left_at == 0 || now.since(Moment::from_nanos(left_at)) < RETENTION
    }
}

impl Default for ReplicaSeries {
    fn default() -> Self {
        Self {
            outcome_counts: [const { AtomicU64::new(0) }; Outcome::ALL.len()],
            duration: Histogram::new(&names::DURATION),
            model_series: LabelledSeries::default(),
            left_at_nanos: AtomicU64::new(0),
        }
    }
}

impl ModelSeries {
    fn record(&self, report: &LeaseReport<'_>, usage: Usage) {
        for (count, tokens) in [
            (&self.prompt_tokens, usage.prompt),
            (&self.cached_tokens, usage.cached.unwrap_or_default()),
            (&self.estimated_cached_tokens, report.estimated_usage.cached.unwrap_or_default()),
            (&self.completion_tokens, usage.completion),
        ] {
            count.fetch_add(tokens.0, Ordering::Relaxed);
        }
        let Some((first, last)) = report.timeline.first_token.zip(report.timeline.last_token) else { return };
        self.ttft.record(first.since(report.timeline.chosen_at).as_secs_f64());
        self.itl.record_intervals(&report.timeline.token_intervals);
        let seconds = last.since(first).as_secs_f64();
        if usage.completion.0 > 1 && seconds > 0.0 {
            let per_token = seconds / (usage.completion.0 - 1) as f64;
            self.tpot.record(per_token);
            self.tokens_per_second.record(1.0 / per_token);
        }
        if let Some(usage) = report.usage.filter(|usage| usage.prompt.0 > 0) {
            let ratio = report.estimated_usage.prompt.0 as f64 / usage.prompt.0 as f64;
            self.estimate_error.record((ratio - 1.0).abs());
        }
    }
}

impl Default for ModelSeries {
    fn default() -> Self {
        Self {
            prompt_tokens: AtomicU64::new(0),
            cached_tokens: AtomicU64::new(0),
            estimated_cached_tokens: AtomicU64::new(0),
            completion_tokens: AtomicU64::new(0),
            ttft: Histogram::new(&names::TTFT),
            itl: Histogram::new(&names::ITL),
            tpot: Histogram::new(&names::TPOT),
            tokens_per_second: Histogram::new(&names::STREAM_TOKENS_PER_SECOND),
            estimate_error: Histogram::new(&names::ESTIMATE_ERROR_RATIO),
        }
    }
}

/// Returns the reported tokens of a request; if a stream ended before they arrived, the estimated ones. `None` if there
/// was no first token.
fn usage_or_estimate(report: &LeaseReport<'_>) -> Option<Usage> {
    report.usage.or_else(|| report.timeline.first_token.map(|_| report.estimated_usage))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_of_a_removed_replica_stay_for_a_quarter_of_an_hour() {
        let series = ReplicaSeries::default();
        let at = |minutes: u64| Moment::ZERO + Duration::from_secs(60 * minutes);
        assert!(
            series.is_retained(true, at(1)) && series.is_retained(false, at(2)) && series.is_retained(false, at(16))
        );
        assert!(
            series.is_retained(true, at(16)) && series.is_retained(false, at(20)) && series.is_retained(false, at(34))
        );
        assert!(!series.is_retained(false, at(35)));
    }
}
