//! The lease of a relayed response and its result.

use crate::clock::Clock;
use crate::fleet::{Lease, Outcome, ResponseProgress};
use crate::units::{Moment, Usage};
use crate::upstream::response::ResponseFault;

/// The result of relaying a response, for the log.
#[derive(Clone, Debug, Default)]
pub struct RelayResult {
    /// How it ended; `None` while it runs, and for good if the client left.
    pub outcome: Option<Outcome>,
    /// When the first generated content was received; `None` before.
    pub first_token: Option<Moment>,
    /// When it ended; `None` before.
    pub ended: Option<Moment>,
    /// The token counts that the replica reported; `None` if it reported none.
    pub usage: Option<Usage>,
    /// Why it failed; `None` if it did not.
    pub cause: Option<String>,
}

/// The lease of a response until it is settled, and the result so far.
pub(super) struct Settlement {
    /// `None` once settled.
    lease: Option<Lease>,
    outcome_if_complete: Outcome,
    result: RelayResult,
}

impl Settlement {
    pub(super) fn new(lease: Lease, outcome_if_complete: Outcome, fault: Option<ResponseFault>) -> Self {
        let result = RelayResult { cause: fault.map(|fault| fault.to_string()), ..RelayResult::default() };
        Self { lease: Some(lease), outcome_if_complete, result }
    }

    /// Returns the lease; `None` once settled.
    pub(super) const fn lease(&self) -> Option<&Lease> {
        self.lease.as_ref()
    }

    pub(super) const fn is_settled(&self) -> bool {
        self.lease.is_none()
    }

    pub(super) const fn outcome_if_complete(&self) -> Outcome {
        self.outcome_if_complete
    }

    pub(super) const fn result(&self) -> &RelayResult {
        &self.result
    }

    pub(super) fn set_cause(&mut self, cause: String) {
        self.result.cause = Some(cause);
    }

    /// Records the progress of a response whose replica has sent data at `now`.
    pub(super) fn record_progress(&mut self, progress: ResponseProgress, now: Moment) {
        if let Some(lease) = &mut self.lease {
            lease.record_progress(progress, now);
            lease.replica().port_state().record_activity(now);
            self.result.first_token = lease.first_token();
        }
    }

    /// Stops asking the replica for usage on the client's behalf.
    pub(super) fn disable_usage_requests(&self) {
        if let Some(lease) = &self.lease {
            lease.replica().set_usage_support(false);
        }
    }

    /// Settles the lease; does nothing the second time.
    pub(super) fn settle(&mut self, outcome: Outcome, usage: Option<Usage>, clock: Clock) {
        let Some(mut lease) = self.lease.take() else { return };
        let now = clock.now();
        lease.set_usage(usage, now);
        self.result.usage = lease.usage();
        self.result.outcome = Some(outcome);
        self.result.ended = Some(now);
        lease.settle(outcome, now);
    }
}
