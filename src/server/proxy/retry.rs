//! The decision after a failed, faulty or busy response: relay it, or try another replica of the pool.

use std::time::Duration;

use http::{HeaderMap, StatusCode};

use super::pool_request::PoolRequest;
use crate::clock::Clock;
use crate::fleet::{Lease, NoReplica, Outcome, Phase};
use crate::server::RequestError;
use crate::upstream::{SendError, UpstreamResponse};

/// The most retries of a request that has reached a replica.
const MAX_RETRIES: u32 = 1;

/// A client that sends this header does not want its request to be carried out twice.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// The attempts of one request so far, in all pools.
pub(super) struct Attempts {
    clock: Clock,
    last_error: Option<SendError>,
    retries: u32,
    /// The client forbids that a second replica sees the request.
    not_retryable: bool,
    /// A replica whose fault may be the request's; the next response decides. `None` without such a fault.
    suspect: Option<SuspectReplica>,
    /// Whether all replicas have been asked for their models because one no longer had this request's.
    has_refreshed_models: bool,
}

/// A replica that responded with a fault, before a second one has responded to the same request.
struct SuspectReplica {
    lease: Lease,
    status: StatusCode,
}

/// The fate of a response of which nothing has been relayed.
pub(super) enum RetryDecision {
    /// The response goes to the client.
    Relay(Lease),
    /// The request goes to another replica, under this lease.
    Retry(Lease),
}

impl Attempts {
    pub(super) fn new(clock: Clock, headers: &HeaderMap) -> Self {
        Self {
            clock,
            last_error: None,
            retries: 0,
            not_retryable: headers.contains_key(IDEMPOTENCY_KEY),
            suspect: None,
            has_refreshed_models: false,
        }
    }

    /// Returns the error for a request that no pool can serve: the last attempt's if there was one.
    pub(super) fn into_error(self, no_replica: NoReplica) -> RequestError {
        self.last_error.as_ref().map_or(RequestError::NoReplica(no_replica), RequestError::from_send_error)
    }

    /// Settles an attempt without a response.
    ///
    /// After a failed connection every other replica may be tried. After a closed one a single other replica may be
    /// tried, if the pool's retry budget allows it.
    ///
    /// *Errors*: no other replica may be tried.
    pub(super) fn on_send_error(
        &mut self,
        request: &mut PoolRequest<'_>,
        error: SendError,
        lease: Lease,
    ) -> Result<(), RequestError> {
        let now = self.clock.now();
        if let Some(suspect) = self.suspect.take() {
            suspect.lease.settle(Outcome::Failed { phase: Phase::FirstByte }, now);
        }
        request.mark_tried(&lease);
        if error.phase == Phase::Connect {
            // It may come back with other models.
            request.request_models(&lease);
        }
        lease.settle(error.outcome(), now);
        let is_waited_out = error.timed_out && error.phase != Phase::Connect;
        if request.is_pin_required() || error.was_sent && (is_waited_out || !self.try_take_retry(request)) {
            return Err(RequestError::from_send_error(&error));
        }
        self.retries += u32::from(error.was_sent);
        self.last_error = Some(error);
        Ok(())
    }

    /// Decides whether a response is relayed.
    ///
    /// A busy replica is skipped while there is another. A fault is retried once on another replica; the same fault
    /// there is the request's own. Where no retry is possible the response is relayed.
    pub(super) fn on_response(
        &mut self,
        request: &mut PoolRequest<'_>,
        response: &mut UpstreamResponse,
        lease: Lease,
    ) -> RetryDecision {
        let now = self.clock.now();
        let status = response.head.status;
        if let Outcome::Busy { retry_after } = response.outcome {
            return self.on_busy(request, retry_after, lease);
        }
        if response.unknown_model {
            request.request_models(&lease);
            // Nothing was carried out, so it is no retry.
            return self.skip_replica(request, Outcome::Refused, lease);
        }
        if let Some(suspect) = self.suspect.take() {
            let is_shared = suspect.status == status;
            suspect.lease.settle(
                if is_shared { Outcome::SharedFault } else { Outcome::Failed { phase: Phase::FirstByte } },
                now,
            );
            if is_shared {
                response.outcome = Outcome::SharedFault;
            }
            return RetryDecision::Relay(lease);
        }
        let is_fault = matches!(response.outcome, Outcome::Failed { .. });
        if request.is_pin_required() || !is_fault || !self.try_take_retry(request) {
            return RetryDecision::Relay(lease);
        }
        request.mark_tried(&lease);
        let Ok(next) = request.acquire() else {
            request.pool().return_retry(now);
            return RetryDecision::Relay(lease);
        };
        self.retries += 1;
        // A fault status may be the request's doing. An error behind a 200 is the replica's.
        if response.fault.is_none() {
            self.suspect = Some(SuspectReplica { lease, status });
        } else {
            lease.settle(response.outcome, now);
        }
        RetryDecision::Retry(next)
    }

    /// Skips a busy replica if there is another. A busy response says nothing about a fault before it.
    fn on_busy(&mut self, request: &mut PoolRequest<'_>, retry_after: Option<Duration>, lease: Lease) -> RetryDecision {
        lease.mark_busy(retry_after, self.clock.now());
        self.skip_replica(request, Outcome::Busy { retry_after }, lease)
    }

    /// Sends the request to another replica if there is one.
    fn skip_replica(&mut self, request: &mut PoolRequest<'_>, outcome: Outcome, lease: Lease) -> RetryDecision {
        let now = self.clock.now();
        if self.may_skip(request) {
            request.mark_tried(&lease);
            if let Ok(next) = request.acquire() {
                lease.settle(outcome, now);
                return RetryDecision::Retry(next);
            }
        }
        if let Some(suspect) = self.suspect.take() {
            suspect.lease.settle(Outcome::Failed { phase: Phase::FirstByte }, now);
        }
        RetryDecision::Relay(lease)
    }

    /// Returns whether a request that a replica has not carried out may go to another one.
    fn may_skip(&self, request: &PoolRequest<'_>) -> bool {
        !request.is_pin_required() && !self.not_retryable
    }

    /// Returns whether all replicas should be asked for their models, once per request, after every one that listed the
    /// model has said that it does not have it.
    pub(super) fn should_refresh_models(&mut self, request: &PoolRequest<'_>, response: &UpstreamResponse) -> bool {
        let should = response.unknown_model && self.may_skip(request) && !self.has_refreshed_models;
        self.has_refreshed_models |= should;
        should
    }

    /// Returns whether a request that has reached a replica may be sent to another one, and if so takes a retry from
    /// the pool's budget.
    fn try_take_retry(&self, request: &PoolRequest<'_>) -> bool {
        !self.not_retryable && self.retries < MAX_RETRIES && request.pool().try_take_retry(self.clock.now())
    }
}
