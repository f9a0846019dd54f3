//! Decisions of shadow policies.

use std::sync::Arc;

use metrics::Counter;

use super::labelled_series::LabelledSeries;
use super::names::{SHADOW_CACHED_TOKENS, SHADOW_DECISIONS};
use super::recorder::CounterRecorder;
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
}

impl ShadowMetrics {
    /// Records a decision.
    pub(super) fn record(&self, recorder: &CounterRecorder, pool: &Arc<str>, result: ShadowResult) {
        let policy = result.policy;
        let series = self.0.get_or_create(
            |known| known.pool == *pool && known.policy == policy,
            || (ShadowLabels { pool: pool.clone(), policy }, ShadowSeries::new(recorder, pool, policy)),
        );
        if result.same_choice { &series.same_choices } else { &series.other_choices }.increment(1);
        series.cached_tokens.increment(result.cached.unwrap_or_default().0);
    }
}

impl ShadowSeries {
    fn new(recorder: &CounterRecorder, pool: &str, policy: &str) -> Self {
        Self {
            same_choices: recorder.counter(&SHADOW_DECISIONS, &[pool, policy, "true"]),
            other_choices: recorder.counter(&SHADOW_DECISIONS, &[pool, policy, "false"]),
            cached_tokens: recorder.counter(&SHADOW_CACHED_TOKENS, &[pool, policy]),
        }
    }
}
