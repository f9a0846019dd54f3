//! The routers of a replay: real fleets whose replicas stand for simulated engines.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use crate::balance::{HashKey, KeyPart, PolicyRequest, PolicySpec, SeededRng};
use crate::config;
use crate::fleet::{
    AcquireRequest, ChoiceObservers, EngineStats, Fleet, Lease, LeaseObserver, LeaseReport, NoReplica, PathPolicy,
    Pool, ReplicaModels,
};
use crate::prompt::{PromptFingerprint, TextStats};
use crate::units::{Moment, Tokens};

use super::scenario::{ReplayError, Scenario};
use super::trace::TraceRequest;

/// Routers that share nothing, each with a pool of all replicas.
pub(super) struct ReplayRouters {
    pools: Vec<Arc<Pool>>,
    policy: PolicySpec,
    replica_count: usize,
    kv_capacity: Tokens,
    rng: SeededRng,
}

/// Ignores settled leases; the replay records its requests itself.
struct NoopObserver;

impl LeaseObserver for NoopObserver {
    fn on_settled(&self, _: &LeaseReport<'_>) {}
}

impl ReplayRouters {
    pub(super) fn new(policy: &PolicySpec, scenario: &Scenario, rng: SeededRng) -> Result<Self, ReplayError> {
        let pools = Vec::with_capacity(scenario.routers);
        let mut routers = Self {
            pools,
            policy: policy.clone(),
            replica_count: scenario.replicas,
            kv_capacity: scenario.engine_model.kv_capacity,
            rng,
        };
        for _ in 0..scenario.routers.max(1) {
            let pool = routers.build_pool()?;
            routers.pools.push(pool);
        }
        Ok(routers)
    }

    /// Replaces all routers by new ones. Leases of the old ones stay valid.
    ///
    /// *Errors*: a pool cannot be built.
    pub(super) fn restart(&mut self) -> Result<(), ReplayError> {
        for index in 0..self.pools.len() {
            self.pools[index] = self.build_pool()?;
        }
        Ok(())
    }

    /// Acquires a replica for a request from a random router. Returns the lease and the engine's index.
    ///
    /// *Errors*: as [`Pool::acquire`].
    pub(super) fn acquire(&mut self, request: &TraceRequest, now: Moment) -> Result<(Lease, usize), NoReplica> {
        let count = self.pools.len() as u64;
        let router = if count > 1 { self.rng.next_below(count) as usize } else { 0 };
        let pool = self.pools.get(router).ok_or(NoReplica::AllDown)?;
        let prefix = pool.needs_prefix().then(|| request.prompt_fingerprint());
        let key = build_hash_key(pool, request, prefix.as_deref());
        // The length of the answer is estimated as in live traffic; that of the prompt is known.
        let text_stats = TextStats { counted_tokens: u32::try_from(request.prompt.0).ok(), ..TextStats::default() };
        let mut estimate = pool.length_estimator(None).estimate(&text_stats, &key, None);
        estimate.prompt = request.prompt;
        let policy_request = PolicyRequest {
            prompt: request.prompt,
            output: Tokens(0),
            key: &key,
            client_addr: client_addr(request),
            tried_slots: &[],
        };
        let acquire_request = AcquireRequest {
            policy_request,
            model: None,
            estimate: Some(estimate),
            prefix,
            pin: None,
            tried: Vec::new(),
            observers: ChoiceObservers::default(),
        };
        let lease = pool.acquire(&acquire_request, now)?;
        let id = lease.replica().id();
        let engine = pool.replicas().position(|replica| replica.id() == id).unwrap_or_default();
        Ok((lease, engine))
    }

    fn build_pool(&mut self) -> Result<Arc<Pool>, ReplayError> {
        let url = |index: usize| format!("http://10.{}.{}.{}:8000", index >> 16 & 255, index >> 8 & 255, index & 255);
        let urls: Vec<String> = (1..=self.replica_count.max(1)).map(url).collect();
        let loaded = config::from_urls(&urls, []).map_err(|report| ReplayError::Fleet(report.to_string()))?;
        let mut specs = loaded.settings.pools;
        for spec in &mut specs {
            spec.policy = self.policy.clone();
            spec.path_policy = PathPolicy::Any;
        }
        let observer: Arc<dyn LeaseObserver> = Arc::new(NoopObserver);
        let fleet = Fleet::new(specs, &observer, self.rng.next_u64())?;
        for replica in fleet.replicas() {
            replica.set_models(ReplicaModels::Unlisted);
            // The only metric of the engine that routers know.
            let engine_stats = EngineStats { kv_capacity: Some(self.kv_capacity), ..EngineStats::default() };
            replica.set_engine_stats(engine_stats, 0, Moment::ZERO, Duration::ZERO);
        }
        fleet.pools().pop().ok_or_else(|| ReplayError::Fleet("the fleet has no pool".to_owned()))
    }
}

/// Returns the hash key of a request. Sessions count as named by their clients; without one, `$cache_key` is the
/// prompt's prefix.
fn build_hash_key(pool: &Pool, request: &TraceRequest, prefix: Option<&PromptFingerprint>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in pool.hash_key().map_or(&[][..], HashKey::parts) {
        match part {
            KeyPart::Text(text) => bytes.extend_from_slice(text.as_bytes()),
            KeyPart::RemoteAddr => bytes.extend_from_slice(client_addr(request).to_string().as_bytes()),
            KeyPart::CacheKey if request.session.is_some() => {
                bytes.extend_from_slice(request.session.unwrap_or_default().to_string().as_bytes());
            }
            KeyPart::Session | KeyPart::User => {
                if let Some(session) = request.session {
                    bytes.extend_from_slice(session.to_string().as_bytes());
                }
            }
            KeyPart::Prefix | KeyPart::CacheKey => {
                let hash = prefix.map_or(0, |prefix| {
                    hash_prompt_beginning(pool.spec().token_accounting.prefix_length, request, prefix)
                });
                bytes.extend_from_slice(format!("{hash:016x}").as_bytes());
            }
            KeyPart::RequestUri => bytes.extend_from_slice(b"/v1/chat/completions"),
            KeyPart::Header(_) | KeyPart::Model | KeyPart::Variable(_) => {}
        }
    }
    bytes
}

/// Returns a hash of the prompt's first `tokens`. Text of a shorter prompt after its blocks is unlike any other's.
fn hash_prompt_beginning(tokens: Tokens, request: &TraceRequest, prefix: &PromptFingerprint) -> u64 {
    let covered = request.block_tokens();
    if covered > 0 && (request.prompt > tokens || covered == request.prompt.0) {
        return prefix.prefix_hash(tokens.0);
    }
    let sent_at = u64::try_from(request.sent_at.as_nanos()).unwrap_or_default();
    SeededRng::from_seed(
        prefix.prefix_hash(u64::MAX) ^ SeededRng::from_seed(sent_at ^ request.prompt.0 << 48).next_u64(),
    )
    .next_u64()
}

/// Returns the address of the request's session; without a session, one that depends on its time.
fn client_addr(request: &TraceRequest) -> IpAddr {
    let client = request.session.unwrap_or_else(|| u64::try_from(request.sent_at.as_nanos()).unwrap_or_default());
    let bits = SeededRng::from_seed(client).next_u64();
    IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(bits >> 32).unwrap_or_default()))
}
