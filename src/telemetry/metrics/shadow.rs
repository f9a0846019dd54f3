//! Decisions of shadow policies.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use metrics::Counter;

use super::labelled_series::LabelledSeries;
use super::names::{SHADOW_CACHED_TOKENS, SHADOW_DECISIONS};
use super::recorder::CounterRecorder;
use super::totals::ShadowTotals;
use crate::fleet::ShadowResult;

/// The series of all shadow policies.
#[derive(Default)]
pub(super) struct ShadowMetrics(LabelledSeries<ShadowLabels, ShadowSeries>);

#[derive(Clone)]
struct ShadowLabels {
    pool: Arc<str>,
    policy: &'static str,
}

/// The series of one shadow policy in one pool.
struct ShadowSeries {
    same_choices: Counter,
    other_choices: Counter,
    cached_tokens: Counter,
    /// The same counts for readers in the process, which cannot read a counter of the recorder.
    readable: [AtomicU64; 3],
}

impl ShadowMetrics {
    /// Returns the totals of every shadow policy.
    pub(super) fn totals(&self) -> Vec<ShadowTotals> {
        self.0.load().iter().map(|(labels, series)| series.totals(labels)).collect()
    }

    /// Records a decision.
    pub(super) fn record(&self, recorder: &CounterRecorder, pool: &Arc<str>, result: ShadowResult) {
        let policy = result.policy;
        let series = self.0.get_or_create(
            |known| known.pool == *pool && known.policy == policy,
            || (ShadowLabels { pool: pool.clone(), policy }, ShadowSeries::new(recorder, pool, policy)),
        );
        let cached = result.cached.unwrap_or_default().0;
        if result.same_choice { &series.same_choices } else { &series.other_choices }.increment(1);
        series.cached_tokens.increment(cached);
        let added = [u64::from(result.same_choice), u64::from(!result.same_choice), cached];
        for (count, added) in series.readable.iter().zip(added) {
            count.fetch_add(added, Ordering::Relaxed);
        }
    }
}

impl ShadowSeries {
    fn totals(&self, labels: &ShadowLabels) -> ShadowTotals {
        let [same_choices, other_choices, cached_tokens] =
            self.readable.each_ref().map(|count| count.load(Ordering::Relaxed));
        ShadowTotals { pool: labels.pool.clone(), policy: labels.policy, same_choices, other_choices, cached_tokens }
    }

    fn new(recorder: &CounterRecorder, pool: &str, policy: &str) -> Self {
        Self {
            same_choices: recorder.counter(&SHADOW_DECISIONS, &[pool, policy, "true"]),
            other_choices: recorder.counter(&SHADOW_DECISIONS, &[pool, policy, "false"]),
            cached_tokens: recorder.counter(&SHADOW_CACHED_TOKENS, &[pool, policy]),
            readable: Default::default(),
        }
    }
}
