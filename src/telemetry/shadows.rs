//! What is counted of policies that are asked beside a pool's own.

use std::sync::Arc;

use arc_swap::ArcSwap;
use metrics::{Counter, Label};
use metrics_exporter_prometheus::PrometheusRecorder;

use super::metrics::counter;
use crate::fleet::Shadowed;

const DECISIONS: &str = "tokenweir_shadow_decisions_total";
const CACHED: &str = "tokenweir_shadow_cached_tokens_total";

/// What both say.
pub(super) const HELP: [(&str, &str); 2] = [
    (DECISIONS, "Choices that ended, by whether the pool's shadow policy would have made the same."),
    (CACHED, "Prompt tokens that would have been cached where the shadow policy would have sent them, as believed."),
];

/// One shadow policy in one pool.
pub(super) struct Series {
    pool: Arc<str>,
    policy: &'static str,
    same: Counter,
    other: Counter,
    cached: Counter,
}

/// All of them; looked up once and kept.
#[derive(Default)]
pub(super) struct Shadows(ArcSwap<Vec<Arc<Series>>>);

impl Shadows {
    /// Counts a decision.
    pub(super) fn count(&self, recorder: &PrometheusRecorder, pool: &Arc<str>, shadowed: Shadowed) {
        let find = |list: &[Arc<Series>]| {
            list.iter().find(|series| series.pool == *pool && series.policy == shadowed.policy).cloned()
        };
        let found = find(&self.0.load());
        let series = found.unwrap_or_else(|| {
            let labels = || vec![Label::new("pool", pool.to_string()), Label::new("policy", shadowed.policy)];
            let decisions =
                |same| counter(recorder, DECISIONS, labels().into_iter().chain([Label::new("same", same)]).collect());
            let (same, other, cached) = (decisions("true"), decisions("false"), counter(recorder, CACHED, labels()));
            let made = Arc::new(Series { pool: pool.clone(), policy: shadowed.policy, same, other, cached });
            self.0.rcu(|list| match find(list) {
                Some(_) => list.clone(),
                None => Arc::new(list.iter().cloned().chain([made.clone()]).collect()),
            });
            made
        });
        if shadowed.same { &series.same } else { &series.other }.increment(1);
        series.cached.increment(shadowed.cached.unwrap_or_default().0);
    }
}
