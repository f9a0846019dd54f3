//! What is counted of each replica of each pool, and of each model there.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;

use super::gauges::escape_label;
use super::histogram::{self, Histogram, HistogramSpec};
use super::{
    ATTEMPTS, CACHED_PROMPT_TOKENS, COMPLETION_TOKENS, CounterSpec, DURATION, ESTIMATE_ERROR_RATIO, ITL, PROMPT_TOKENS,
    STREAM_TOKENS_PER_SECOND, TPOT, TTFT,
};
use crate::fleet::{Fleet, LeaseReport, Outcome, Pool, Replica};
use crate::units::{ModelName, Moment, Usage};

/// How long a replica that has left is still told of, so that what was counted last is read.
const RETENTION: Duration = Duration::from_secs(15 * 60);

/// One replica in one pool.
struct ReplicaSeries {
    pool: Arc<str>,
    replica: Arc<str>,
    /// Both, as the text format has them.
    labels: String,
    outcome_counts: [(&'static str, AtomicU64); 6],
    duration: Histogram,
    /// By model.
    model_series: ArcSwap<Vec<Arc<ModelSeries>>>,
    /// When it was last found to have left, in nanoseconds; 0 while it is there.
    left_at_nanos: AtomicU64,
}

/// One model on one replica in one pool.
struct ModelSeries {
    model: Option<ModelName>,
    labels: String,
    prompt_tokens: AtomicU64,
    cached_tokens: AtomicU64,
    completion_tokens: AtomicU64,
    ttft: Histogram,
    itl: Histogram,
    tpot: Histogram,
    tokens_per_second: Histogram,
    estimate_error: Histogram,
}

/// A part of a model's series.
type SeriesField<T> = fn(&ModelSeries) -> &T;

/// All of them; looked up once and kept.
#[derive(Default)]
pub(in crate::telemetry) struct ReplicaMetrics(ArcSwap<Vec<Arc<ReplicaSeries>>>);

impl ReplicaMetrics {
    /// Counts a request that has ended.
    pub(in crate::telemetry) fn record(&self, report: &LeaseReport<'_>) {
        let series = self.get_or_create(report.pool, report.replica);
        let name = report.outcome.as_str();
        if let Some((_, count)) = series.outcome_counts.iter().find(|(outcome, _)| *outcome == name) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        if report.outcome == Outcome::Completed {
            series.duration.record(report.ended_at.since(report.chosen_at).as_secs_f64());
        }
        if let Some(usage) = usage_or_estimate(report) {
            series.model_series(report.model).record(report, usage);
        }
    }

    /// Makes the series of all replicas there are, and forgets those that left a while ago.
    pub(in crate::telemetry) fn sync_replicas(&self, fleet: &Fleet, now: Moment) {
        let mut there = Vec::new();
        for pool in fleet.pools() {
            there.extend(pool.replicas().map(|replica| self.get_or_create(&pool, replica)));
        }
        let stays =
            |series: &&Arc<ReplicaSeries>| series.is_retained(there.iter().any(|s| Arc::ptr_eq(s, series)), now);
        let before = self.0.load();
        if before.iter().filter(stays).count() < before.len() {
            self.0.rcu(|list| list.iter().filter(stays).cloned().collect::<Vec<_>>());
        }
    }

    fn get_or_create(&self, pool: &Pool, replica: &Replica) -> Arc<ReplicaSeries> {
        let known = |list: &[Arc<ReplicaSeries>]| {
            list.iter().find(|s| s.pool == *pool.name() && s.replica == *replica.name()).cloned()
        };
        if let Some(found) = known(&self.0.load()) {
            return found;
        }
        let made = Arc::new(ReplicaSeries::new(pool.name().clone(), replica.name().clone()));
        self.0.rcu(|list| match known(list) {
            Some(_) => list.clone(),
            None => Arc::new(list.iter().cloned().chain([made.clone()]).collect()),
        });
        known(&self.0.load()).unwrap_or(made)
    }

    /// Appends all that was counted.
    pub(in crate::telemetry) fn render(&self, out: &mut String) {
        let all = self.0.load();
        let models: Vec<Arc<ModelSeries>> =
            all.iter().flat_map(|series| series.model_series.load_full().to_vec()).collect();
        let mut attempts = String::new();
        for series in all.iter() {
            for (outcome, count) in &series.outcome_counts {
                let (labels, count) = (&series.labels, count.load(Ordering::Relaxed));
                // Writing to a string cannot fail.
                let _ = writeln!(attempts, "{}{{{labels},outcome=\"{outcome}\"}} {count}", ATTEMPTS.name);
            }
        }
        render_counter(&ATTEMPTS, &attempts, out);
        histogram::render_histogram(&DURATION, all.iter().map(|series| (&*series.labels, &series.duration)), out);
        let tokens: [(&CounterSpec, SeriesField<AtomicU64>); 3] = [
            (&PROMPT_TOKENS, |series| &series.prompt_tokens),
            (&CACHED_PROMPT_TOKENS, |series| &series.cached_tokens),
            (&COMPLETION_TOKENS, |series| &series.completion_tokens),
        ];
        for (name, of) in tokens {
            let mut lines = String::new();
            for series in &models {
                let _ = writeln!(lines, "{}{{{}}} {}", name.name, series.labels, of(series).load(Ordering::Relaxed));
            }
            render_counter(name, &lines, out);
        }
        let times: [(&HistogramSpec, SeriesField<Histogram>); 5] = [
            (&TTFT, |series| &series.ttft),
            (&ITL, |series| &series.itl),
            (&TPOT, |series| &series.tpot),
            (&STREAM_TOKENS_PER_SECOND, |series| &series.tokens_per_second),
            (&ESTIMATE_ERROR_RATIO, |series| &series.estimate_error),
        ];
        for (shape, of) in times {
            histogram::render_histogram(shape, models.iter().map(|series| (&*series.labels, of(series))), out);
        }
    }
}

fn render_counter(name: &CounterSpec, lines: &str, out: &mut String) {
    if !lines.is_empty() {
        let _ = writeln!(out, "# HELP {0} {1}\n# TYPE {0} counter\n{lines}", name.name, name.help);
    }
}

impl ReplicaSeries {
    fn new(pool: Arc<str>, replica: Arc<str>) -> Self {
        let labels = format!("pool=\"{}\",replica=\"{}\"", escape_label(&pool), escape_label(&replica));
        let outcomes = ["completed", "client_gone", "refused", "busy", "failed", "router_error"];
        Self {
            pool,
            replica,
            labels,
            outcome_counts: outcomes.map(|outcome| (outcome, AtomicU64::new(0))),
            duration: Histogram::new(&DURATION),
            model_series: ArcSwap::default(),
            left_at_nanos: AtomicU64::new(0),
        }
    }

    /// The series of a model; made when it is first asked for.
    fn model_series(&self, model: Option<&ModelName>) -> Arc<ModelSeries> {
        let known = |list: &[Arc<ModelSeries>]| list.iter().find(|s| s.model.as_ref() == model).cloned();
        if let Some(found) = known(&self.model_series.load()) {
            return found;
        }
        let made = Arc::new(ModelSeries::new(&self.labels, model.cloned()));
        self.model_series.rcu(|list| match known(list) {
            Some(_) => list.clone(),
            None => Arc::new(list.iter().cloned().chain([made.clone()]).collect()),
        });
        known(&self.model_series.load()).unwrap_or(made)
    }

    /// Tells whether it is there, or left not long ago.
    fn is_retained(&self, is_there: bool, now: Moment) -> bool {
        let left = match self.left_at_nanos.load(Ordering::Relaxed) {
            _ if is_there => 0,
            0 => now.as_nanos(),
            left => left,
        };
        self.left_at_nanos.store(left, Ordering::Relaxed);
        left == 0 || now.since(Moment::from_nanos(left)) < RETENTION
    }
}

impl ModelSeries {
    fn new(labels: &str, model: Option<ModelName>) -> Self {
        let name = escape_label(model.as_ref().map(ModelName::as_str).unwrap_or_default());
        Self {
            labels: format!("{labels},model=\"{name}\""),
            model,
            prompt_tokens: AtomicU64::new(0),
            cached_tokens: AtomicU64::new(0),
            completion_tokens: AtomicU64::new(0),
            ttft: Histogram::new(&TTFT),
            itl: Histogram::new(&ITL),
            tpot: Histogram::new(&TPOT),
            tokens_per_second: Histogram::new(&STREAM_TOKENS_PER_SECOND),
            estimate_error: Histogram::new(&ESTIMATE_ERROR_RATIO),
        }
    }

    fn record(&self, report: &LeaseReport<'_>, usage: Usage) {
        for (count, tokens) in [
            (&self.prompt_tokens, usage.prompt),
            (&self.cached_tokens, usage.cached.unwrap_or_default()),
            (&self.completion_tokens, usage.completion),
        ] {
            count.fetch_add(tokens.0, Ordering::Relaxed);
        }
        let Some((first, last)) = report.first_token.zip(report.last_token) else { return };
        self.ttft.record(first.since(report.chosen_at).as_secs_f64());
        self.itl.record_intervals(report.token_intervals);
        let (seconds, tokens) =
            (last.since(first).as_secs_f64(), report.usage.unwrap_or(report.estimated_usage).completion);
        if tokens.0 > 1 && seconds > 0.0 {
            let per_token = seconds / (tokens.0 - 1) as f64;
            self.tpot.record(per_token);
            self.tokens_per_second.record(1.0 / per_token);
        }
        if let Some(usage) = report.usage.filter(|usage| usage.prompt.0 > 0) {
            let ratio = report.estimated_usage.prompt.0 as f64 / usage.prompt.0 as f64;
            self.estimate_error.record((ratio - 1.0).abs());
        }
    }
}

/// The tokens a request came to: as reported, or where a stream ended before it was, as estimated. `None` if as far as
/// one can tell nothing was computed.
fn usage_or_estimate(report: &LeaseReport<'_>) -> Option<Usage> {
    report.usage.or_else(|| report.first_token.map(|_| report.estimated_usage))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_that_has_left_is_told_of_for_a_quarter_of_an_hour() {
        let series = ReplicaSeries::new("p".into(), "r".into());
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
