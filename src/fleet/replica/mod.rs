//! One engine server, shared by every pool that has it.

mod context_lengths;
mod engine_state;
mod flags;
mod model_list_fault;
mod models;

use std::sync::Arc;
use std::time::Duration;

use engine_state::EngineState;
use flags::{DrainSwitch, UsageSupport};
pub use model_list_fault::ModelListFault;
use models::ModelCatalog;
pub use models::{MAX_MODELS_PER_REPLICA, ReplicaModels};

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

/// An engine server and the load on it.
#[derive(Debug)]
pub struct Replica {
    id: ReplicaId,
    name: Arc<str>,
    origin: Origin,
    cookie_token: String,
    models: ModelCatalog,
    drain: DrainSwitch,
    usage_support: UsageSupport,
    engine: EngineState,
    port_state: PortState,
    activity: ReplicaActivity,
    ledger: LoadLedger,
    latency_averages: LatencyAverages,
}

impl Replica {
    pub(super) fn new(id: ReplicaId, spec: &MemberSpec, cache_slot: CacheSlot) -> Self {
        Self {
            id,
            name: spec.name.clone(),
            origin: spec.origin.clone(),
            cookie_token: sticky::cookie_token(&spec.name),
            models: ModelCatalog::default(),
            drain: DrainSwitch::default(),
            usage_support: UsageSupport::default(),
            engine: EngineState::new(cache_slot),
            port_state: PortState::default(),
            activity: ReplicaActivity::default(),
            ledger: LoadLedger::default(),
            latency_averages: LatencyAverages::default(),
        }
    }

    /// Returns whether `spec` describes this replica: same origin, same name.
    pub(super) fn matches_spec(&self, spec: &MemberSpec) -> bool {
        self.origin == spec.origin && self.name == spec.name
    }

    /// Returns its identity, never reused.
    pub const fn id(&self) -> ReplicaId {
        self.id
    }

    /// Returns its name in logs, metrics and `X-Upstream`.
    pub const fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Returns its address.
    pub const fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Returns its token in cookies: derived from its name, the same in every process, revealing no address.
    pub fn cookie_token(&self) -> &str {
        &self.cookie_token
    }

    /// Returns its last answer to `/v1/models`.
    pub fn models(&self) -> Arc<ReplicaModels> {
        self.models.load()
    }

    /// Sets its models, the first [`MAX_MODELS_PER_REPLICA`] names. Returns whether anything changed.
    pub fn set_models(&self, models: ReplicaModels) -> bool {
        self.models.store(models)
    }

    /// Sets the longest prompt and answer together of its models, those that it lists.
    pub fn set_context_lengths(&self, lengths: Vec<(ModelName, Tokens)>) {
        self.models.store_context_lengths(lengths);
    }

    /// Returns the longest prompt and answer together of a model, or of its most limited one if `model` has no length
    /// of its own; `None` if it lists none.
    pub(super) fn context_length(&self, model: &str) -> Option<Tokens> {
        self.models.context_length(model)
    }

    pub(super) fn has_model(&self, model: &str) -> bool {
        self.models.contains(model)
    }

    /// Records that its last answer to `/v1/models` had this fault. Returns whether that is new.
    ///
    /// A list that it gave before stays valid unless the fault revokes it.
    pub fn set_model_list_fault(&self, fault: ModelListFault) -> bool {
        self.models.store_fault(fault)
    }

    /// Returns the fault of its last answer to `/v1/models`; `None` if it had none, or has not been asked.
    pub fn model_list_fault(&self) -> Option<ModelListFault> {
        self.models.fault()
    }

    pub(super) fn has_known_models(&self) -> bool {
        self.models.is_known()
    }

    pub(super) fn lists_models(&self) -> bool {
        self.models.is_listed()
    }

    /// Sets whether it is drained: a drained replica gets no new requests, running ones complete.
    pub fn set_drained(&self, drained: bool) {
        self.drain.set(drained);
    }

    /// Returns whether it is drained.
    pub fn is_drained(&self) -> bool {
        self.drain.is_drained()
    }

    pub(super) fn drain_count(&self) -> u32 {
        self.drain.count()
    }

    /// Returns whether the router may request the usage of a stream whose client did not.
    pub fn can_request_usage(&self) -> bool {
        !self.usage_support.is_unsupported()
    }

    /// Returns whether it has accepted such a request before, so that a 4xx is not about the usage.
    pub fn supports_usage(&self) -> bool {
        self.usage_support.is_confirmed()
    }

    /// Records whether it accepts requests for usage; after a rejection none is made.
    pub fn set_usage_support(&self, supported: bool) {
        self.usage_support.set(supported);
    }

    /// Returns the state of its port.
    pub const fn port_state(&self) -> &PortState {
        &self.port_state
    }

    /// Returns the requests on it that are chosen and not settled.
    pub fn in_flight(&self) -> u32 {
        self.ledger.in_flight()
    }

    /// Returns the tokens of those requests.
    pub fn load(&self) -> TokenLoad {
        self.ledger.load()
    }

    /// Returns the prompt tokens that it has prefilled for this router and the tokens that it has generated, since the
    /// start. Streams under way count as they grow.
    pub fn token_totals(&self) -> (Tokens, Tokens) {
        self.ledger.token_totals()
    }

    /// Returns the tokens on it, external load included.
    pub(super) fn total_load(&self, now: Moment) -> TokenLoad {
        self.ledger.load() + self.external_load(now)
    }

    /// Returns the tokens of requests on it that did not come through this router, by its engine's last report.
    pub(super) fn external_load(&self, now: Moment) -> TokenLoad {
        self.engine.external_load(now)
    }

    /// Returns the capacity of its KV memory, if its engine reports it.
    pub(super) fn kv_capacity(&self, now: Moment) -> Option<Tokens> {
        self.engine_report(now)?.stats.kv_capacity
    }

    /// Records its engine's stats as of `now`, valid for `validity`. `in_flight` is the maximum of our own requests on
    /// it during the scrape. An engine that has generated tokens since the last scrape is active.
    pub fn set_engine_stats(&self, stats: EngineStats, in_flight: u32, now: Moment, validity: Duration) {
        if self.engine.update(stats, OwnLoad { in_flight, load: self.ledger.load() }, now, validity) {
            self.activity.record_activity(now);
        }
    }

    /// Returns its engine's last report; `None` without one, or once it has expired.
    pub fn engine_report(&self, now: Moment) -> Option<Arc<EngineReport>> {
        self.engine.report(now)
    }

    /// Returns how often it was chosen since the start.
    pub fn times_chosen(&self) -> u64 {
        self.activity.requests_sent()
    }

    /// Returns whether it has sent something within `time`.
    pub fn is_active_within(&self, time: Duration, now: Moment) -> bool {
        self.activity.is_active_within(time, now)
    }

    pub(super) const fn latency_averages(&self) -> &LatencyAverages {
        &self.latency_averages
    }

    pub(super) const fn activity(&self) -> &ReplicaActivity {
        &self.activity
    }

    pub(super) const fn ledger(&self) -> &LoadLedger {
        &self.ledger
    }

    pub(super) const fn cache_slot(&self) -> &CacheSlot {
        &self.engine.cache_slot
    }

    /// Adds a request to it, of which `uncached` tokens are to be prefilled.
    pub(super) fn reserve(&self, prompt: Tokens, uncached: Tokens, now: Moment) -> LoadReservation {
        self.activity.record_request_sent(now);
        self.ledger.reserve(prompt, uncached, now)
    }
}
