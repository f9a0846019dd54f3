//! One engine server, shared by every pool that has it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};

use super::health::activity::ReplicaActivity;
use super::health::port_state::PortState;
use super::load::engine_stats::{EngineReport, EngineStats, OwnLoad};
use super::load::latency::LatencyAverages;
use super::load::ledger::{LoadLedger, LoadReservation};
use super::load::prefix_cache::CacheSlot;
use super::spec::sticky;
use super::{MemberSpec, Origin};
use crate::balance::TokenLoad;
use crate::units::{ModelName, Moment, ReplicaId, Tokens};

/// The most model names taken from one replica, so that a replica cannot grow our tables or labels without bound.
pub const MAX_MODELS_PER_REPLICA: usize = 256;

/// What a replica has said about its models.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplicaModels {
    /// It has not answered yet: it may be loading, or down.
    Unknown,
    /// It serves, and has no list of models.
    Unlisted,
    /// It serves these, its base model first.
    Listed(Vec<ModelName>),
}

impl ReplicaModels {
    /// Tells whether `model` is in the list.
    pub fn contains(&self, model: &str) -> bool {
        matches!(self, Self::Listed(names) if names.iter().any(|n| n.as_str() == model))
    }
}

/// What is known of asking a replica for the usage of a stream.
#[derive(Debug, Default)]
struct UsageSupport {
    confirmed: AtomicBool,
    unsupported: AtomicBool,
}

/// An engine server and the load on it.
#[derive(Debug)]
pub struct Replica {
    id: ReplicaId,
    name: Arc<str>,
    origin: Origin,
    models: ArcSwap<ReplicaModels>,
    /// It has said what it serves. Beside `models`, which every choice would have to open for this.
    models_known: AtomicBool,
    ledger: LoadLedger,
    times_chosen: AtomicU64,
    latency_averages: LatencyAverages,
    /// Set by hand, and kept until undone by hand.
    drained: AtomicBool,
    usage_support: UsageSupport,
    port_state: PortState,
    /// How often it was drained.
    drain_count: AtomicU32,
    cookie_token: String,
    /// What its engine last said of itself.
    engine_report: ArcSwapOption<EngineReport>,
    /// `truth` tells of load that is not ours. Mostly there is none, and choices need not open `truth`.
    has_external_load: AtomicBool,
    activity: ReplicaActivity,
    cache_slot: CacheSlot,
}

impl Replica {
    pub(super) fn new(id: ReplicaId, spec: &MemberSpec, seat: CacheSlot) -> Self {
        Self {
            id,
            name: spec.name.clone(),
            origin: spec.origin.clone(),
            models: ArcSwap::from_pointee(ReplicaModels::Unknown),
            models_known: AtomicBool::new(false),
            ledger: LoadLedger::default(),
            times_chosen: AtomicU64::new(0),
            latency_averages: LatencyAverages::default(),
            drained: AtomicBool::new(false),
            usage_support: UsageSupport::default(),
            port_state: PortState::default(),
            drain_count: AtomicU32::new(0),
            cookie_token: sticky::cookie_token(&spec.name),
            engine_report: ArcSwapOption::empty(),
            has_external_load: AtomicBool::new(false),
            activity: ReplicaActivity::default(),
            cache_slot: seat,
        }
    }

    /// Tells whether `spec` describes this replica: the same place under the same name.
    pub(super) fn matches_spec(&self, spec: &MemberSpec) -> bool {
        self.origin == spec.origin && self.name == spec.name
    }

    /// Keeps new requests away; those on it go on.
    pub fn set_drained(&self, drained: bool) {
        if drained && !self.drained.swap(drained, Ordering::Relaxed) {
            self.drain_count.fetch_add(1, Ordering::Relaxed);
        }
        self.drained.store(drained, Ordering::Relaxed);
    }

    /// Tells whether new requests are kept away.
    pub fn is_drained(&self) -> bool {
        self.drained.load(Ordering::Relaxed)
    }

    /// Tells whether it can be asked for the usage of a stream in place of a client that did not.
    pub fn can_request_usage(&self) -> bool {
        !self.usage_support.unsupported.load(Ordering::Relaxed)
    }

    /// Tells whether it has once answered a request with that question, so that a refusal is not about the question.
    pub fn supports_usage(&self) -> bool {
        self.usage_support.confirmed.load(Ordering::Relaxed)
    }

    /// Takes note of whether it takes the question and answers it apart from the rest; once it did not, it is not asked
    /// again.
    pub fn set_usage_support(&self, gives: bool) {
        if gives { &self.usage_support.confirmed } else { &self.usage_support.unsupported }
            .store(true, Ordering::Relaxed);
    }

    /// Whether its port takes connections, as far as anybody has tried.
    pub const fn port_state(&self) -> &PortState {
        &self.port_state
    }

    pub(super) fn drain_count(&self) -> u32 {
        self.drain_count.load(Ordering::Relaxed)
    }

    /// What stands for it in cookies: made from its name, the same in every process, and not telling where it is.
    pub fn cookie_token(&self) -> &str {
        &self.cookie_token
    }

    /// Its identity, never reused.
    pub const fn id(&self) -> ReplicaId {
        self.id
    }

    /// Its name in logs, metrics and `X-Upstream`.
    pub const fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Where it is reached.
    pub const fn origin(&self) -> &Origin {
        &self.origin
    }

    /// What it last said about its models.
    pub fn models(&self) -> Arc<ReplicaModels> {
        self.models.load_full()
    }

    /// Takes note of what it serves, the first [`MAX_MODELS_PER_REPLICA`] names. Returns whether anything changed.
    pub fn set_models(&self, mut models: ReplicaModels) -> bool {
        if let ReplicaModels::Listed(names) = &mut models {
            names.truncate(MAX_MODELS_PER_REPLICA);
        }
        let changed = **self.models.load() != models;
        if changed {
            // First: who sees its models must find that it has answered.
            self.models_known.store(models != ReplicaModels::Unknown, Ordering::Release);
            self.models.store(Arc::new(models));
        }
        changed
    }

    /// Requests on it that are chosen and not settled.
    pub fn in_flight(&self) -> u32 {
        self.ledger.in_flight()
    }

    /// The tokens of those requests.
    pub fn load(&self) -> TokenLoad {
        self.ledger.load()
    }

    /// The tokens on it, those of requests that did not come through this router included, as far as is known at `now`.
    pub(super) fn total_load(&self, now: Moment) -> TokenLoad {
        self.ledger.load() + self.external_load(now)
    }

    /// The tokens of requests on it that did not come through this router, as far as is known at `now`.
    pub(super) fn external_load(&self, now: Moment) -> TokenLoad {
        if !self.has_external_load.load(Ordering::Acquire) {
            return TokenLoad::default();
        }
        match &*self.engine_report.load() {
            Some(truth) if now < truth.expires_at => truth.external.load,
            _ => TokenLoad::default(),
        }
    }

    /// Tokens that its cache is taken to have room for, if its engine says.
    pub(super) fn kv_capacity(&self, now: Moment) -> Option<Tokens> {
        self.engine_report(now)?.stats.kv_capacity
    }

    /// Takes note of what its engine said at `now`, to be believed for `good_for`. `in_flight`: the most requests of ours
    /// that were on it while it was asked.
    pub fn set_engine_stats(&self, vitals: EngineStats, in_flight: u32, now: Moment, good_for: Duration) {
        let ours = OwnLoad { in_flight, load: self.ledger.load() };
        let before = self.engine_report(now);
        let totals = before.as_ref().and_then(|before| before.stats.prompt_tokens).zip(vitals.prompt_tokens);
        if totals.is_some_and(|(before, now)| now < before) {
            // Its totals began anew, and so did its cache.
            self.cache_slot.clear();
        }
        if let Some(capacity) = vitals.kv_capacity {
            self.cache_slot.resize(capacity);
        }
        let truth = EngineReport::new(vitals, ours, before.as_deref(), now, good_for);
        let shared = truth.external.load != TokenLoad::default();
        self.engine_report.store(Some(Arc::new(truth)));
        self.has_external_load.store(shared, Ordering::Release);
    }

    /// What its engine said of itself; `None` if it has not, or not lately.
    pub fn engine_report(&self, now: Moment) -> Option<Arc<EngineReport>> {
        self.engine_report.load_full().filter(|truth| now < truth.expires_at)
    }

    /// How often it was chosen since the start.
    pub fn times_chosen(&self) -> u64 {
        self.times_chosen.load(Ordering::Relaxed)
    }

    pub(super) const fn latency_averages(&self) -> &LatencyAverages {
        &self.latency_averages
    }

    pub(super) fn has_model(&self, model: &str) -> bool {
        self.models.load().contains(model)
    }

    pub(super) fn has_known_models(&self) -> bool {
        self.models_known.load(Ordering::Acquire)
    }

    /// Tells whether something has come from it within `time`.
    pub fn is_active_within(&self, time: Duration, now: Moment) -> bool {
        self.activity.is_active_within(time, now)
    }

    pub(super) const fn activity(&self) -> &ReplicaActivity {
        &self.activity
    }

    pub(super) const fn ledger(&self) -> &LoadLedger {
        &self.ledger
    }

    pub(super) const fn cache_slot(&self) -> &CacheSlot {
        &self.cache_slot
    }

    /// Puts a request on it, of which `uncached` tokens are to be prefilled.
    pub(super) fn reserve(&self, prompt: Tokens, uncached: Tokens, now: Moment) -> LoadReservation {
        self.times_chosen.fetch_add(1, Ordering::Relaxed);
        self.activity.record_request_sent(now);
        self.ledger.reserve(prompt, uncached, now)
    }
}
