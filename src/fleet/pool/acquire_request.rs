//! The input of a choice: what [`Pool::acquire`](super::Pool::acquire) may know of a request.

use std::sync::Arc;

use crate::balance::PolicyRequest;
use crate::fleet::{DecisionLog, LengthEstimate, LoggedRequest};
use crate::prompt::PromptFingerprint;
use crate::units::ReplicaId;

/// One attempt to acquire a replica for a request.
#[derive(Clone, Debug)]
pub struct AcquireRequest<'a> {
    /// The request as the policy sees it; the pool fills in `tried_slots`.
    pub policy_request: PolicyRequest<'a>,
    /// The requested model. Where the pool learns its models, only replicas that list it are eligible.
    pub model: Option<&'a str>,
    /// Estimated lengths, which take precedence over those of `policy_request`; learned from when the request ends.
    pub estimate: Option<LengthEstimate>,
    /// The prompt's fingerprint, for prefix-cache estimates.
    pub prefix: Option<Arc<PromptFingerprint>>,
    /// The replica that the request is pinned to.
    pub pin: Option<ReplicaPin>,
    /// Replicas that have failed this request.
    pub tried: Vec<ReplicaId>,
    /// Observers of the decision. Without any they cost nothing.
    pub observers: ChoiceObservers<'a>,
}

/// Observers of a decision; they do not influence it.
#[derive(Clone, Debug, Default)]
pub struct ChoiceObservers<'a> {
    /// The log that records the decision, and what it keeps of the request.
    pub decision_log: Option<(Arc<DecisionLog>, LoggedRequest)>,
    /// The request's key for the pool's shadow policy; empty if that has no key.
    pub shadow_key: &'a [u8],
}

/// Binds a request to a replica, which is chosen without asking the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaPin {
    /// No other replica can serve the request.
    Required(ReplicaId),
    /// Another replica is chosen if this one may not be.
    Preferred(ReplicaId),
}

impl ReplicaPin {
    /// Returns the replica.
    pub const fn replica_id(self) -> ReplicaId {
        match self {
            Self::Required(id) | Self::Preferred(id) => id,
        }
    }
}

impl<'a> AcquireRequest<'a> {
    /// Returns the policy's view of the request, with the estimated lengths.
    pub(in crate::fleet) fn estimated_policy_request(&self) -> PolicyRequest<'a> {
        match &self.estimate {
            Some(estimate) => PolicyRequest { prompt: estimate.prompt, output: estimate.output, ..self.policy_request },
            None => self.policy_request,
        }
    }

    /// Returns whether only the pinned replica can serve the request.
    pub const fn is_pin_required(&self) -> bool {
        matches!(self.pin, Some(ReplicaPin::Required(_)))
    }
}
