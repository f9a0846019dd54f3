//! What is counted of each replica of each pool, and of each model there.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;

use super::families::escaped;
use super::histogram::{self, Histogram, Shape};
use super::metrics::{
    ATTEMPTS, CACHED_TOKENS, COMPLETION_TOKENS, DURATION, ESTIMATE_ERROR, ITL, Name, PROMPT_TOKENS, STREAM_SPEED, TPOT,
    TTFT,
};
use crate::fleet::{Fleet, Outcome, Pool, Replica, Report};
use crate::units::{ModelName, Moment, Usage};

/// How long a replica that has left is still told of, so that what was counted last is read.
const REMEMBERED: Duration = Duration::from_secs(15 * 60);

/// One replica in one pool.
struct Series {
    pool: Arc<str>,
    replica: Arc<str>,
    /// Both, as the text format has them.
    labels: String,
    outcomes: [(&'static str, AtomicU64); 6],
    duration: Histogram,
    /// By model.
    tokens: ArcSwap<Vec<Arc<TokenSeries>>>,
    /// When it was last found to have left, in nanoseconds; 0 while it is there.
    left: AtomicU64,
}

/// One model on one replica in one pool.
struct TokenSeries {
    model: Option<ModelName>,
    labels: String,
    prompt: AtomicU64,
    cached: AtomicU64,
    completion: AtomicU64,
    ttft: Histogram,
    itl: Histogram,
    tpot: Histogram,
    speed: Histogram,
    error: Histogram,
}

/// A part of a model's series.
type Part<T> = fn(&TokenSeries) -> &T;

/// All of them; looked up once and kept.
#[derive(Default)]
pub(super) struct AllSeries(ArcSwap<Vec<Arc<Series>>>);

impl AllSeries {
    /// Counts a request that has ended.
    pub(super) fn count(&self, report: &Report<'_>) {
        let series = self.of(report.pool, report.replica);
        let name = report.outcome.as_str();
        if let Some((_, count)) = series.outcomes.iter().find(|(outcome, _)| *outcome == name) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        if report.outcome == Outcome::Completed {
            series.duration.record(report.ended.since(report.chosen).as_secs_f64());
        }
        if let Some(usage) = counted(report) {
            series.tokens(report.model).count(report, usage);
        }
    }

    /// Makes the series of all replicas there are, and forgets those that left a while ago.
    pub(super) fn follow(&self, fleet: &Fleet, now: Moment) {
        let mut there = Vec::new();
        for pool in fleet.pools() {
            there.extend(pool.replicas().map(|replica| self.of(&pool, replica)));
        }
        let stays = |series: &&Arc<Series>| series.is_kept(there.iter().any(|s| Arc::ptr_eq(s, series)), now);
        let before = self.0.load();
        if before.iter().filter(stays).count() < before.len() {
            self.0.rcu(|list| list.iter().filter(stays).cloned().collect::<Vec<_>>());
        }
    }

    fn of(&self, pool: &Pool, replica: &Replica) -> Arc<Series> {
        let known = |list: &[Arc<Series>]| {
            list.iter().find(|s| s.pool == *pool.name() && s.replica == *replica.name()).cloned()
        };
        if let Some(found) = known(&self.0.load()) {
            return found;
        }
        let made = Arc::new(Series::new(pool.name().clone(), replica.name().clone()));
        self.0.rcu(|list| match known(list) {
            Some(_) => list.clone(),
            None => Arc::new(list.iter().cloned().chain([made.clone()]).collect()),
        });
        known(&self.0.load()).unwrap_or(made)
    }

    /// Appends all that was counted.
    pub(super) fn render(&self, out: &mut String) {
        let all = self.0.load();
        let models: Vec<Arc<TokenSeries>> = all.iter().flat_map(|series| series.tokens.load_full().to_vec()).collect();
        let mut attempts = String::new();
        for series in all.iter() {
            for (outcome, count) in &series.outcomes {
                let (labels, count) = (&series.labels, count.load(Ordering::Relaxed));
                // Writing to a string cannot fail.
                let _ = writeln!(attempts, "{}{{{labels},outcome=\"{outcome}\"}} {count}", ATTEMPTS.name);
            }
        }
        counter(&ATTEMPTS, &attempts, out);
        histogram::render(&DURATION, all.iter().map(|series| (&*series.labels, &series.duration)), out);
        let tokens: [(&Name, Part<AtomicU64>); 3] = [
            (&PROMPT_TOKENS, |series| &series.prompt),
            (&CACHED_TOKENS, |series| &series.cached),
            (&COMPLETION_TOKENS, |series| &series.completion),
        ];
        for (name, of) in tokens {
            let mut lines = String::new();
            for series in &models {
                let _ = writeln!(lines, "{}{{{}}} {}", name.name, series.labels, of(series).load(Ordering::Relaxed));
            }
            counter(name, &lines, out);
        }
        let times: [(&Shape, Part<Histogram>); 5] = [
            (&TTFT, |series| &series.ttft),
            (&ITL, |series| &series.itl),
            (&TPOT, |series| &series.tpot),
            (&STREAM_SPEED, |series| &series.speed),
            (&ESTIMATE_ERROR, |series| &series.error),
        ];
        for (shape, of) in times {
            histogram::render(shape, models.iter().map(|series| (&*series.labels, of(series))), out);
        }
    }
}

fn counter(name: &Name, lines: &str, out: &mut String) {
    if !lines.is_empty() {
        let _ = writeln!(out, "# HELP {0} {1}\n# TYPE {0} counter\n{lines}", name.name, name.help);
    }
}

impl Series {
    fn new(pool: Arc<str>, replica: Arc<str>) -> Self {
        let labels = format!("pool=\"{}\",replica=\"{}\"", escaped(&pool), escaped(&replica));
        let outcomes = ["completed", "client_gone", "refused", "busy", "failed", "ours"];
        Self {
            pool,
            replica,
            labels,
            outcomes: outcomes.map(|outcome| (outcome, AtomicU64::new(0))),
            duration: Histogram::new(&DURATION),
            tokens: ArcSwap::default(),
            left: AtomicU64::new(0),
        }
    }

    /// The series of a model; made when it is first asked for.
    fn tokens(&self, model: Option<&ModelName>) -> Arc<TokenSeries> {
        let known = |list: &[Arc<TokenSeries>]| list.iter().find(|s| s.model.as_ref() == model).cloned();
        if let Some(found) = known(&self.tokens.load()) {
            return found;
        }
        let made = Arc::new(TokenSeries::new(&self.labels, model.cloned()));
        self.tokens.rcu(|list| match known(list) {
            Some(_) => list.clone(),
            None => Arc::new(list.iter().cloned().chain([made.clone()]).collect()),
        });
        known(&self.tokens.load()).unwrap_or(made)
    }

    /// Tells whether it is there, or left not long ago.
    fn is_kept(&self, is_there: bool, now: Moment) -> bool {
        let left = match self.left.load(Ordering::Relaxed) {
            _ if is_there => 0,
            0 => now.as_nanos(),
            left => left,
        };
        self.left.store(left, Ordering::Relaxed);
        left == 0 || now.since(Moment::from_nanos(left)) < REMEMBERED
    }
}

impl TokenSeries {
    fn new(labels: &str, model: Option<ModelName>) -> Self {
        let name = escaped(model.as_ref().map(ModelName::as_str).unwrap_or_default());
        Self {
            labels: format!("{labels},model=\"{name}\""),
            model,
            prompt: AtomicU64::new(0),
            cached: AtomicU64::new(0),
            completion: AtomicU64::new(0),
            ttft: Histogram::new(&TTFT),
            itl: Histogram::new(&ITL),
            tpot: Histogram::new(&TPOT),
            speed: Histogram::new(&STREAM_SPEED),
            error: Histogram::new(&ESTIMATE_ERROR),
        }
    }

    fn count(&self, report: &Report<'_>, usage: Usage) {
        for (count, tokens) in [
            (&self.prompt, usage.prompt),
            (&self.cached, usage.cached.unwrap_or_default()),
            (&self.completion, usage.completion),
        ] {
            count.fetch_add(tokens.0, Ordering::Relaxed);
        }
        let Some((first, last)) = report.first_token.zip(report.last_token) else { return };
        self.ttft.record(first.since(report.chosen).as_secs_f64());
        self.itl.record_gaps(report.gaps);
        let (seconds, tokens) = (last.since(first).as_secs_f64(), report.usage.unwrap_or(report.estimated).completion);
        if tokens.0 > 1 && seconds > 0.0 {
            let per_token = seconds / (tokens.0 - 1) as f64;
            self.tpot.record(per_token);
            self.speed.record(1.0 / per_token);
        }
        if let Some(usage) = report.usage.filter(|usage| usage.prompt.0 > 0) {
            let ratio = report.estimated.prompt.0 as f64 / usage.prompt.0 as f64;
            self.error.record((ratio - 1.0).abs());
        }
    }
}

/// The tokens a request came to: as reported, or where a stream ended before it was, as estimated. `None` if as far as
/// one can tell nothing was computed.
fn counted(report: &Report<'_>) -> Option<Usage> {
    report.usage.or_else(|| report.first_token.map(|_| report.estimated))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_that_has_left_is_told_of_for_a_quarter_of_an_hour() {
        let series = Series::new("p".into(), "r".into());
        let at = |minutes: u64| Moment::ZERO + Duration::from_secs(60 * minutes);
        assert!(series.is_kept(true, at(1)) && series.is_kept(false, at(2)) && series.is_kept(false, at(16)));
        assert!(series.is_kept(true, at(16)) && series.is_kept(false, at(20)) && series.is_kept(false, at(34)));
        assert!(!series.is_kept(false, at(35)));
    }
}
