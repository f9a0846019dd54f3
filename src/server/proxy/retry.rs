//! The tries of one request: which replica is next, and when there is none.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, StatusCode};

use super::hash_key::KeyInputs;
use super::sticky;
use crate::balance::PolicyRequest;
use crate::fleet::{AcquireRequest, ChoiceObservers, Lease, NoReplica, Outcome, Phase, Pool};
use crate::server::{AppState, RequestError};
use crate::telemetry::LogLevel;
use crate::upstream::{SendError, UpstreamResponse};

/// Pools that take over for each other are followed at most this far; the configuration refuses circles.
const MAX_FALLBACKS: usize = 8;
/// How often a request that reached a replica in vain is sent to another one.
const MAX_RETRIES: u32 = 1;

/// With this header a client says that its request must not be carried out twice.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// What has been tried for one request, and what may be.
pub(in crate::server) struct Attempts<'a> {
    app: &'a AppState,
    pool: Arc<Pool>,
    acquire_request: AcquireRequest<'a>,
    key_inputs: KeyInputs<'a>,
    /// What the present pool's policy knows the request by.
    key: Vec<u8>,
    /// The same for its shadow policy.
    shadow_key: Vec<u8>,
    last_error: Option<SendError>,
    retries: u32,
    /// The client wants no second replica to see what a first one has seen.
    not_retryable: bool,
    /// A fault that may be the request's: the next replica's answer tells.
    suspect: Option<(Lease, StatusCode)>,
}

/// What to do with an answer of which nothing has been passed on.
pub(in crate::server) enum RetryDecision {
    /// It is the client's.
    Relay(Lease),
    /// Another replica is asked instead; this is its lease.
    Retry(Lease),
}

impl<'a> Attempts<'a> {
    pub(in crate::server) fn new(
        app: &'a AppState,
        pool: Arc<Pool>,
        attempt: AcquireRequest<'a>,
        facts: KeyInputs<'a>,
    ) -> Self {
        let once = facts.head.headers.contains_key(IDEMPOTENCY_KEY);
        let (key, shadow_key, lost, doubted) = (Vec::new(), Vec::new(), None, None);
        let mut tries = Self {
            app,
            pool,
            acquire_request: attempt,
            key_inputs: facts,
            key,
            shadow_key,
            last_error: lost,
            retries: 0,
            not_retryable: once,
            suspect: doubted,
        };
        tries.prepare_for_pool();
        tries
    }

    /// Looks at the request with the present pool's eyes.
    fn prepare_for_pool(&mut self) {
        let asked = self.key_inputs.parsed;
        self.key = self.key_inputs.evaluate(self.pool.hash_key(), &self.pool);
        self.shadow_key = self.key_inputs.evaluate(self.pool.shadow_key(), &self.pool);
        let meter = || self.pool.length_estimator(asked.model.as_deref());
        let measure = |census| meter().estimate(census, &self.key, asked.max_output);
        self.acquire_request.estimate = asked.text_stats.as_ref().map(measure);
        self.apply_sticky();
    }

    /// Looks up whom the pool ties the client to, unless the request is bound to a replica anyway.
    fn apply_sticky(&mut self) {
        if !self.acquire_request.is_pin_required() {
            self.acquire_request.pin = sticky::lookup_pin(self.app, &self.pool, self.key_inputs.head);
        }
    }

    /// Ties the client to the replica that answers, where its pool does so. Returns the cookie to set, if there is one.
    pub(in crate::server) fn bind_sticky(&self, answer: &UpstreamResponse, lease: &Lease) -> Option<HeaderValue> {
        if matches!(answer.outcome, Outcome::Failed { .. } | Outcome::Busy { .. }) {
            return None;
        }
        sticky::store_pin(self.app, lease, self.key_inputs.head, &answer.head.headers)
    }

    /// Chooses and charges a replica, of the pool's fallback if the pool has none.
    pub(in crate::server) fn acquire_replica(&mut self) -> Result<Lease, RequestError> {
        let mut none = NoReplica::AllDown;
        for _ in 0..=MAX_FALLBACKS {
            none = match self.acquire_from_pool() {
                Ok(lease) => return Ok(lease),
                Err(none) => none,
            };
            let next = self.pool.fallback().filter(|_| !self.acquire_request.is_pin_required());
            let Some(next) = next.and_then(|name| self.app.fleet.pool(name)) else { break };
            self.pool = next;
            // The pool that helps out has its own name for the model.
            self.acquire_request.model = None;
            self.prepare_for_pool();
        }
        // The client is better served by what happened to its request than by "all tried".
        Err(self.last_error.as_ref().map_or(RequestError::NoReplica(none), RequestError::from_send_error))
    }

    /// Settles a try that brought no answer. After a failed connection every replica may be tried once, after a closed
    /// one a single other one if the pool's budget has a replay left.
    pub(in crate::server) fn on_send_error(&mut self, failure: SendError, lease: Lease) -> Result<(), RequestError> {
        let now = self.app.clock.now();
        if let Some((doubted, _)) = self.suspect.take() {
            doubted.settle(Outcome::Failed { phase: Phase::FirstByte }, now);
        }
        self.acquire_request.tried.push(lease.replica().id());
        lease.settle(failure.outcome(), now);
        let sent = failure.phase != Phase::Connect;
        if self.acquire_request.is_pin_required() || sent && (failure.timed_out || !self.try_take_retry()) {
            return Err(RequestError::from_send_error(&failure));
        }
        self.retries += u32::from(sent);
        self.last_error = Some(failure);
        Ok(())
    }

    /// Decides whether an answer goes to the client. A busy replica is passed over as long as there is another; a
    /// fault is tried once more elsewhere, and if it comes again the request is to blame. Where another try is not
    /// possible the replica's own answer is the client's.
    pub(in crate::server) fn on_response(&mut self, answer: &mut UpstreamResponse, lease: Lease) -> RetryDecision {
        let now = self.app.clock.now();
        let status = answer.head.status;
        if let Outcome::Busy { retry_after } = answer.outcome {
            return self.on_busy(retry_after, lease);
        }
        if let Some((doubted, before)) = self.suspect.take() {
            let excused = before == status;
            doubted
                .settle(if excused { Outcome::SharedFault } else { Outcome::Failed { phase: Phase::FirstByte } }, now);
            if excused {
                answer.outcome = Outcome::SharedFault;
            }
            return RetryDecision::Relay(lease);
        }
        let is_fault = matches!(answer.outcome, Outcome::Failed { .. });
        if self.acquire_request.is_pin_required() || !is_fault || !self.try_take_retry() {
            return RetryDecision::Relay(lease);
        }
        self.acquire_request.tried.push(lease.replica().id());
        let Ok(next) = self.acquire_from_pool() else {
            self.pool.return_retry(now);
            return RetryDecision::Relay(lease);
        };
        self.retries += 1;
        // A status may be the request's doing; an answer that fails behind a 200 is the replica's.
        if answer.fault.is_none() {
            self.suspect = Some((lease, status));
        } else {
            lease.settle(answer.outcome, now);
        }
        RetryDecision::Retry(next)
    }

    /// Passes a busy replica over, if there is another one. It tells nothing of a fault before it.
    fn on_busy(&mut self, retry_after: Option<Duration>, lease: Lease) -> RetryDecision {
        let now = self.app.clock.now();
        lease.mark_busy(retry_after, now);
        if !self.acquire_request.is_pin_required() && !self.not_retryable {
            self.acquire_request.tried.push(lease.replica().id());
            if let Ok(next) = self.acquire_from_pool() {
                lease.settle(Outcome::Busy { retry_after }, now);
                return RetryDecision::Retry(next);
            }
        }
        if let Some((doubted, _)) = self.suspect.take() {
            doubted.settle(Outcome::Failed { phase: Phase::FirstByte }, now);
        }
        RetryDecision::Relay(lease)
    }

    /// Tells whether what a replica has seen may be sent to another one; if so, that is counted.
    fn try_take_retry(&self) -> bool {
        !self.not_retryable && self.retries < MAX_RETRIES && self.pool.try_take_retry(self.app.clock.now())
    }

    fn acquire_from_pool(&self) -> Result<Lease, NoReplica> {
        let now = self.app.clock.now();
        let lease = if self.key.is_empty() && self.shadow_key.is_empty() {
            self.pool.acquire(&self.acquire_request, now)
        } else {
            let job = PolicyRequest { key: &self.key, ..self.acquire_request.policy_request };
            let beside = ChoiceObservers { shadow_key: &self.shadow_key, ..self.acquire_request.observers.clone() };
            self.pool.acquire(
                &AcquireRequest { policy_request: job, observers: beside, ..self.acquire_request.clone() },
                now,
            )
        };
        self.warn_hot_key();
        lease
    }

    fn warn_hot_key(&self) {
        if self.pool.take_hot_key_warning() {
            let (pool, policy) = (self.pool.name(), self.pool.policy_name());
            let message = "more than 80 % of 1,000 requests had one key, so that hardly any load is spread by";
            let instead = "`hash $session consistent` spreads conversations, `least_conn` load";
            self.app.logs.error.write(LogLevel::Warn, format_args!("pool {pool}: {message} `{policy}`; {instead}"));
        }
    }
}
