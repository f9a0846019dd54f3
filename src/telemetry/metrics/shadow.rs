//! What is counted of policies that are asked beside a pool's own.

use std::sync::Arc;

use arc_swap::ArcSwap;
use metrics::{Counter, Label};
use metrics_exporter_prometheus::PrometheusRecorder;

use super::register_counter;
use crate::fleet::ShadowResult;

const SHADOW_DECISIONS: &str = "tokenweir_shadow_decisions_total";
const SHADOW_CACHED_TOKENS: &str = "tokenweir_shadow_cached_tokens_total";

/// What both say.
pub(in crate::telemetry) const SHADOW_COUNTERS: [(&str, &str); 2] = [
    (SHADOW_DECISIONS, "Choices that ended, by whether the pool's shadow policy would have made the same."),
    (
        SHADOW_CACHED_TOKENS,
        "Prompt tokens that would have been cached where the shadow policy would have sent them, as believed.",
    ),
];

/// One shadow policy in one pool.
pub(in crate::telemetry) struct ShadowSeries {
    pool: Arc<str>,
    policy: &'static str,
    same_choices: Counter,
    other_choices: Counter,
    cached_tokens: Counter,
}

/// All of them; looked up once and kept.
#[derive(Default)]
pub(in crate::telemetry) struct ShadowMetrics(ArcSwap<Vec<Arc<ShadowSeries>>>);

impl ShadowMetrics {
    /// Counts a decision.
    pub(in crate::telemetry) fn record(&self, recorder: &PrometheusRecorder, pool: &Arc<str>, shadowed: ShadowResult) {
        let find = |list: &[Arc<ShadowSeries>]| {
            list.iter().find(|series| series.pool == *pool && series.policy == shadowed.policy).cloned()
        };
        let found = find(&self.0.load());
        let series = found.unwrap_or_else(|| {
            let labels = || vec![Label::new("pool", pool.to_string()), Label::new("policy", shadowed.policy)];
            let decisions = |same| {
                register_counter(
                    recorder,
                    SHADOW_DECISIONS,
                    labels().into_iter().chain([Label::new("same", same)]).collect(),
                )
            };
            let (same, other, cached) =
                (decisions("true"), decisions("false"), register_counter(recorder, SHADOW_CACHED_TOKENS, labels()));
            let made = Arc::new(ShadowSeries {
                pool: pool.clone(),
                policy: shadowed.policy,
                same_choices: same,
                other_choices: other,
                cached_tokens: cached,
            });
            self.0.rcu(|list| match find(list) {
                Some(_) => list.clone(),
                None => Arc::new(list.iter().cloned().chain([made.clone()]).collect()),
            });
            made
        });
        if shadowed.same_choice { &series.same_choices } else { &series.other_choices }.increment(1);
        series.cached_tokens.increment(shadowed.cached.unwrap_or_default().0);
    }
}
