//! What is counted of policies that are asked beside a pool's own.

use std::sync::Arc;

use arc_swap::ArcSwap;
use metrics::{Counter, Label};

use crate::fleet::Shadowed;

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
    /// Counts a decision. `counter` makes one of the decisions' counters or, without labels of its own, the tokens'.
    pub(super) fn count(&self, pool: &Arc<str>, shadowed: Shadowed, counter: impl Fn(Vec<Label>, bool) -> Counter) {
        let find = |list: &[Arc<Series>]| {
            list.iter().find(|series| series.pool == *pool && series.policy == shadowed.policy).cloned()
        };
        let found = find(&self.0.load());
        let series = found.unwrap_or_else(|| {
            let labels = || vec![Label::new("pool", pool.to_string()), Label::new("policy", shadowed.policy)];
            let decisions = |same| counter(labels().into_iter().chain([Label::new("same", same)]).collect(), true);
            let (same, other, cached) = (decisions("true"), decisions("false"), counter(labels(), false));
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
