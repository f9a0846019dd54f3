//! The state of a replica's engine as the router knows it: its last report, and the estimate of its prefix cache.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;

use crate::balance::TokenLoad;
use crate::fleet::load::engine_stats::{EngineReport, EngineStats, OwnLoad};
use crate::fleet::load::prefix_cache::CacheSlot;
use crate::units::Moment;

/// What is known of one engine.
#[derive(Debug)]
pub(super) struct EngineState {
    /// The last report; it may have expired.
    report: ArcSwapOption<EngineReport>,
    /// Whether `report` has external load. Mostly it has none, and choices need not load `report`.
    has_external_load: AtomicBool,
    pub(super) cache_slot: CacheSlot,
}

impl EngineState {
    pub(super) fn new(cache_slot: CacheSlot) -> Self {
        Self { report: ArcSwapOption::empty(), has_external_load: AtomicBool::new(false), cache_slot }
    }

    /// Returns the last report, unless it has expired.
    pub(super) fn report(&self, now: Moment) -> Option<Arc<EngineReport>> {
        self.report.load_full().filter(|report| now < report.expires_at)
    }

    /// Returns the external load; zero if the report has expired.
    pub(super) fn external_load(&self, now: Moment) -> TokenLoad {
        if !self.has_external_load.load(Ordering::Acquire) {
            return TokenLoad::default();
        }
        match &*self.report.load() {
            Some(report) if now < report.expires_at => report.external.load,
            _ => TokenLoad::default(),
        }
    }

    /// Stores a scrape made at `now`, valid for `validity`. Returns whether the engine has generated tokens since the
    /// last one.
    pub(super) fn update(&self, stats: EngineStats, own: OwnLoad, now: Moment, validity: Duration) -> bool {
        let previous = self.report(now);
        let generated = previous.as_ref().and_then(|previous| previous.stats.generated_tokens);
        let has_generated = generated.zip(stats.generated_tokens).is_some_and(|(before, after)| after > before);
        let totals = previous.as_ref().and_then(|previous| previous.stats.prompt_tokens).zip(stats.prompt_tokens);
        if totals.is_some_and(|(before, after)| after < before) {
            // The engine has restarted: its totals began at zero, and its cache is empty.
            self.cache_slot.clear();
        }
        if let Some(capacity) = stats.kv_capacity {
            self.cache_slot.resize(capacity);
        }
        let report = EngineReport::new(stats, own, previous.as_deref(), now, validity);
        let has_external_load = report.external.load != TokenLoad::default();
        self.report.store(Some(Arc::new(report)));
        self.has_external_load.store(has_external_load, Ordering::Release);
        has_generated
    }
}
