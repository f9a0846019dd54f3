//! One request as one pool sees it: its hash keys, its estimated lengths and its pin.

use std::sync::Arc;

use super::hash_key::KeyInputs;
use super::send::ProxyRequest;
use super::sticky;
use crate::balance::PolicyRequest;
use crate::fleet::{AcquireRequest, ChoiceObservers, Lease, LoggedRequest, NoReplica, Pool, ReplicaPin};
use crate::server::AppState;
use crate::telemetry::LogLevel;
use crate::units::{ReplicaId, Tokens};

/// The values of a pool's hash keys for one request; empty where the pool has no key.
#[derive(Default)]
pub(super) struct PolicyKeys {
    policy: Vec<u8>,
    shadow: Vec<u8>,
}

/// What one pool's request takes over from the pool before it.
pub(super) struct PoolOptions<'a> {
    /// `None` if the pool has its own name for the model.
    pub(super) model: Option<&'a str>,
    pub(super) pin: PinSource,
    pub(super) tried: Vec<ReplicaId>,
}

/// The source of a request's pin.
#[derive(Clone, Copy, Debug)]
pub(super) enum PinSource {
    /// The stored response that the request is about: no other replica will do.
    Owner(ReplicaId),
    /// The pool's `sticky`.
    Sticky,
    /// No pin.
    None,
}

/// One request for a replica of one pool.
pub(super) struct PoolRequest<'a> {
    app: &'a AppState,
    pool: &'a Arc<Pool>,
    acquire_request: AcquireRequest<'a>,
    wants_stream: bool,
}

impl PolicyKeys {
    pub(super) fn new(inputs: KeyInputs<'_>, pool: &Pool) -> Self {
        Self { policy: inputs.evaluate(pool.hash_key(), pool), shadow: inputs.evaluate(pool.shadow_key(), pool) }
    }
}

impl<'a> PoolRequest<'a> {
    pub(super) fn new(
        request: &ProxyRequest<'a>,
        pool: &'a Arc<Pool>,
        keys: &'a PolicyKeys,
        options: PoolOptions<'a>,
    ) -> Self {
        let (app, parsed) = (&*request.worker.app, request.parsed);
        let estimate = parsed.text_stats.as_ref().map(|stats| {
            let estimator = pool.length_estimator(parsed.model.as_deref());
            estimator.estimate(stats, &keys.policy, parsed.max_output)
        });
        let decisions = &app.logs.decisions;
        let acquire_request = AcquireRequest {
            policy_request: PolicyRequest {
                prompt: estimate.as_ref().map_or(Tokens(0), |estimate| estimate.prompt),
                output: estimate.as_ref().map_or(Tokens(0), |estimate| estimate.output),
                key: &keys.policy,
                client_addr: request.context.client_info.client.address(),
                tried_slots: &[],
            },
            model: options.model,
            estimate,
            prefix: parsed.fingerprint.clone(),
            pin: match options.pin {
                PinSource::Owner(replica) => Some(ReplicaPin::Required(replica)),
                PinSource::Sticky => sticky::lookup_pin(app, pool, &request.key_inputs()),
                PinSource::None => None,
            },
            tried: options.tried,
            observers: ChoiceObservers {
                decision_log: (decisions.capacity() > 0).then(|| (decisions.clone(), logged_request(request))),
                shadow_key: &keys.shadow,
            },
        };
        Self { app, pool, acquire_request, wants_stream: parsed.wants_stream }
    }

    pub(super) const fn pool(&self) -> &Arc<Pool> {
        self.pool
    }

    /// Returns whether only one replica will do, so that no other may be tried.
    pub(super) const fn is_pin_required(&self) -> bool {
        self.acquire_request.is_pin_required()
    }

    /// Records that the lease's replica was tried, so that it is not chosen again.
    pub(super) fn mark_tried(&mut self, lease: &Lease) {
        self.acquire_request.tried.push(lease.replica().id());
    }

    /// Asks the lease's replica for its models at once, since they may have changed. Does not wait.
    pub(super) fn request_models(&self, lease: &Lease) {
        self.app.control.model_refresh.request_replica(lease.replica().id(), self.app.clock.now());
    }

    /// Returns the replicas that were tried.
    pub(super) fn into_tried(self) -> Vec<ReplicaId> {
        self.acquire_request.tried
    }

    /// Chooses a replica of the pool and reserves the request's tokens on it.
    ///
    /// *Errors*: no replica of the pool can be chosen.
    pub(super) fn acquire(&self) -> Result<Lease, NoReplica> {
        let lease = self.pool.acquire(&self.acquire_request, self.app.clock.now());
        if self.pool.take_hot_key_warning() {
            self.warn_hot_key();
        }
        let mut lease = lease?;
        if !self.wants_stream {
            lease.expect_plain_answer();
        }
        Ok(lease)
    }

    fn warn_hot_key(&self) {
        let (pool, policy) = (self.pool.name(), self.pool.policy_name());
        self.app.logs.error.write(
            LogLevel::Warn,
            format_args!(
                "pool {pool}: `{policy}` hardly spreads the load: more than 80 % of 1,000 requests had one hash key; \
                 `hash $session consistent` spreads conversations, `least_conn` spreads requests"
            ),
        );
    }
}

/// Returns what the decision log keeps of a request.
fn logged_request(request: &ProxyRequest<'_>) -> LoggedRequest {
    LoggedRequest {
        id: request.context.id.clone(),
        model: request.parsed.model.clone(),
        key: request.context.tenant_name().cloned(),
    }
}
