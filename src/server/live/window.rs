//! Counters over a window of the last minute, from which rates and quantiles are computed.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::fleet::{Fleet, Outcome};
use crate::telemetry::{Metrics, ttft_bounds};
use crate::units::Moment;

/// The longest window.
const MAX_WINDOW: Duration = Duration::from_secs(60);
/// Readings come about a second apart. One that is younger than its window by less than this begins the window;
/// otherwise a reading that comes a little early would count the second before it again.
const TOLERANCE: Duration = Duration::from_millis(500);

/// The pool and the replica of a series.
pub(super) type SeriesKey = (Arc<str>, Arc<str>);

/// Counters of one replica in one pool, or sums and differences of them.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts {
    /// By [`Outcome::index`].
    pub(super) outcomes: [u64; Outcome::ALL.len()],
    pub(super) prompt_tokens: u64,
    pub(super) cached_tokens: u64,
    pub(super) estimated_cached_tokens: u64,
    /// By bucket of the time to first token.
    pub(super) ttft: Vec<u64>,
}

/// Prompt tokens prefilled and tokens generated.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct TokenCounts {
    pub(super) prefilled: u64,
    pub(super) generated: u64,
}

/// All counters at one moment.
pub(super) struct CounterReading {
    taken_at: Moment,
    series: BTreeMap<SeriesKey, Counts>,
    /// By replica.
    tokens: BTreeMap<Arc<str>, TokenCounts>,
}

/// The readings of the last minute, one per second, oldest first.
///
/// *Shape*: at most 62 readings of some 300 bytes per replica and pool: 5 MB at 256 replicas.
#[derive(Default)]
pub(super) struct CounterWindow(VecDeque<CounterReading>);

impl Counts {
    pub(super) fn add(&mut self, other: &Self) {
        self.combine(other, u64::wrapping_add);
    }

    fn subtract(&mut self, other: &Self) {
        // A series that was removed and came back has begun again.
        self.combine(other, u64::saturating_sub);
    }

    fn combine(&mut self, other: &Self, apply: impl Fn(u64, u64) -> u64) {
        self.ttft.resize(self.ttft.len().max(other.ttft.len()), 0);
        let own = self.outcomes.iter_mut().chain(&mut self.ttft);
        for (own, other) in own.zip(other.outcomes.iter().chain(&other.ttft)) {
            *own = apply(*own, *other);
        }
        self.prompt_tokens = apply(self.prompt_tokens, other.prompt_tokens);
        self.cached_tokens = apply(self.cached_tokens, other.cached_tokens);
        self.estimated_cached_tokens = apply(self.estimated_cached_tokens, other.estimated_cached_tokens);
    }

    /// Returns the number of requests that ended.
    pub(super) fn requests(&self) -> u64 {
        self.outcomes.iter().sum()
    }

    /// Returns the number of requests that ended by a fault of a replica or the router.
    pub(super) fn errors(&self) -> u64 {
        let is_error = |outcome: &Outcome| matches!(outcome.as_str(), "failed" | "router_error" | "busy");
        let counted = Outcome::ALL.iter().zip(self.outcomes).filter(|(outcome, _)| is_error(outcome));
        counted.map(|(_, count)| count).sum()
    }

    /// Returns the share of prompt tokens that were cached, as reported; `None` without prompts.
    pub(super) fn cached_share(&self) -> Option<f64> {
        share(self.cached_tokens, self.prompt_tokens)
    }

    /// Returns the share of prompt tokens that were expected to be cached; `None` without prompts.
    pub(super) fn estimated_cached_share(&self) -> Option<f64> {
        share(self.estimated_cached_tokens, self.prompt_tokens)
    }

    /// Returns a quantile of the time to first token in seconds; `None` without streams.
    ///
    /// Times are spread evenly in their bucket, so the error is at most the bucket's width.
    pub(super) fn ttft_quantile(&self, quantile: f64) -> Option<f64> {
        let total: u64 = self.ttft.iter().sum();
        let wanted = quantile * total as f64;
        let mut below = 0.0;
        for (index, count) in self.ttft.iter().enumerate().filter(|(_, count)| **count > 0) {
            let count = *count as f64;
            if below + count >= wanted {
                let bound = |index: usize| ttft_bounds().get(index).copied();
                let lower = index.checked_sub(1).and_then(bound).unwrap_or_default();
                let upper = bound(index).unwrap_or(lower);
                return Some(lower + (upper - lower) * ((wanted - below) / count).clamp(0.0, 1.0));
            }
            below += count;
        }
        None
    }
}

/// Returns `part` of `whole` as a share from 0 to 1.
pub(super) fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| (part as f64 / whole as f64).min(1.0))
}

impl CounterReading {
    pub(super) fn take(metrics: &Metrics, fleet: &Fleet, now: Moment) -> Self {
        let series = metrics.replica_totals().into_iter().map(|totals| {
            let counts = Counts {
                outcomes: totals.outcomes,
                prompt_tokens: totals.prompt_tokens,
                cached_tokens: totals.cached_tokens,
                estimated_cached_tokens: totals.estimated_cached_tokens,
                ttft: totals.ttft,
            };
            ((totals.pool, totals.replica), counts)
        });
        let tokens = fleet
            .replicas()
            .iter()
            .map(|replica| {
                let (prefilled, generated) = replica.token_totals();
                (replica.name().clone(), TokenCounts { prefilled: prefilled.0, generated: generated.0 })
            })
            .collect();
        Self { taken_at: now, series: series.collect(), tokens }
    }
}

impl CounterWindow {
    /// Adds the reading of this second.
    pub(super) fn push(&mut self, reading: CounterReading) {
        let oldest_needed = |known: &CounterReading| reading.taken_at.since(known.taken_at) <= MAX_WINDOW;
        while self.0.get(1).is_some_and(|second| !oldest_needed(second)) {
            self.0.pop_front();
        }
        self.0.push_back(reading);
    }

    /// Returns the latest reading that is `window` old, give or take [`TOLERANCE`], or older; else the oldest.
    fn reading_before(&self, window: Duration) -> Option<&CounterReading> {
        let latest = self.0.back()?;
        let is_old = |reading: &&CounterReading| latest.taken_at.since(reading.taken_at) + TOLERANCE >= window;
        self.0.iter().rev().find(is_old).or_else(|| self.0.front())
    }

    /// Returns what was counted in the window, by series.
    pub(super) fn counts(&self, window: Duration) -> BTreeMap<SeriesKey, Counts> {
        let Some((latest, before)) = self.0.back().zip(self.reading_before(window)) else { return BTreeMap::new() };
        let mut counts = latest.series.clone();
        for (key, counts) in &mut counts {
            if let Some(before) = before.series.get(key) {
                counts.subtract(before);
            }
        }
        counts
    }

    /// Returns a replica's prompt tokens and generated tokens per second in the window.
    pub(super) fn token_rates(&self, replica: &str, window: Duration) -> (f64, f64) {
        let Some((latest, before)) = self.0.back().zip(self.reading_before(window)) else { return (0.0, 0.0) };
        let counts = |reading: &CounterReading| reading.tokens.get(replica).copied();
        let (Some(now), Some(then)) = (counts(latest), counts(before)) else { return (0.0, 0.0) };
        let seconds = latest.taken_at.since(before.taken_at).as_secs_f64().max(0.1);
        let rate = |now: u64, then: u64| now.saturating_sub(then) as f64 / seconds;
        (rate(now.prefilled, then.prefilled), rate(now.generated, then.generated))
    }

    /// Returns the seconds that a window has, fewer at the start.
    pub(super) fn seconds(&self, window: Duration) -> f64 {
        let readings = self.0.back().zip(self.reading_before(window));
        readings.map_or(1.0, |(latest, before)| latest.taken_at.since(before.taken_at).as_secs_f64().max(1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantile_lies_in_its_bucket() {
        let mut ttft = vec![0; ttft_bounds().len() + 1];
        assert_eq!(Counts { ttft: ttft.clone(), ..Counts::default() }.ttft_quantile(0.5), None);
        // 90 streams from 25 to 50 ms, 10 from 1 to 1.5 s.
        (ttft[3], ttft[10]) = (90, 10);
        let counts = Counts { ttft, ..Counts::default() };
        let quantile = |q| counts.ttft_quantile(q).unwrap();
        assert!((0.025..=0.05).contains(&quantile(0.5)) && (1.0..=1.5).contains(&quantile(0.95)));
        assert_eq!(quantile(0.9), 0.05);
    }

    fn reading(millis: u64, completed: u64, generated: u64) -> CounterReading {
        let mut counts = Counts::default();
        counts.outcomes[0] = completed;
        CounterReading {
            taken_at: Moment::ZERO + Duration::from_millis(millis),
            series: [(("p".into(), "r".into()), counts)].into(),
            tokens: [("r".into(), TokenCounts { prefilled: 0, generated })].into(),
        }
    }

    #[test]
    fn early_and_late_readings_count_each_request_once() {
        let mut window = CounterWindow::default();
        let mut counted = 0;
        for second in 0..=100 {
            let jitter = second * 7 % 13;
            window.push(reading(1_000 * second + jitter, second, 0));
            counted += window.counts(Duration::from_secs(1)).values().map(Counts::requests).sum::<u64>();
        }
        assert_eq!(counted, 100);
    }

    #[test]
    fn window_subtracts_the_reading_that_is_old_enough() {
        let mut window = CounterWindow::default();
        (0..=200).for_each(|second| window.push(reading(1_000 * second, second, 10 * second)));
        let in_window = |seconds| window.counts(Duration::from_secs(seconds)).values().next().unwrap().requests();
        assert_eq!((in_window(1), in_window(10), in_window(60)), (1, 10, 60));
        assert_eq!(window.token_rates("r", Duration::from_secs(10)), (0.0, 10.0));
        assert!(window.0.len() <= 62);
    }
}
