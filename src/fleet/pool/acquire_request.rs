//! One try at finding a replica for a request.

use std::sync::Arc;

use crate::balance::PolicyRequest;
use crate::fleet::{DecisionLog, LengthEstimate};
use crate::prompt::PromptFingerprint;
use crate::units::ReplicaId;

/// One try at finding a replica for a request.
#[derive(Clone, Debug)]
pub struct AcquireRequest<'a> {
    /// What the policy may know; `tried` is filled in here.
    pub policy_request: PolicyRequest<'a>,
    /// The model asked for; only replicas that list it are eligible where the pool learns its models.
    pub model: Option<&'a str>,
    /// How the request was measured, to learn from its end; its lengths go before the job's.
    pub estimate: Option<LengthEstimate>,
    /// What the prompt begins with, to know where that is cached.
    pub prefix: Option<Arc<PromptFingerprint>>,
    /// The replica that the request belongs to.
    pub pin: Option<ReplicaPin>,
    /// Replicas that have failed this request.
    pub tried: Vec<ReplicaId>,
    /// Who looks on.
    pub observers: ChoiceObservers<'a>,
}

/// What goes along with a choice and takes no part in it.
#[derive(Clone, Debug, Default)]
pub struct ChoiceObservers<'a> {
    /// Where the decision is kept, and by which name of the request.
    pub decision_log: Option<(Arc<DecisionLog>, Arc<str>)>,
    /// What the pool's shadow policy knows the request by; empty if that has no key.
    pub shadow_key: &'a [u8],
}

/// How much a request belongs to a replica. It goes there without asking the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaPin {
    /// No other will do: what the request is about is there.
    Required(ReplicaId),
    /// Another will do if this one cannot be chosen.
    Preferred(ReplicaId),
}

impl ReplicaPin {
    /// The replica.
    pub const fn replica_id(self) -> ReplicaId {
        match self {
            Self::Required(id) | Self::Preferred(id) => id,
        }
    }
}

impl<'a> AcquireRequest<'a> {
    /// The job with its lengths as measured.
    pub(in crate::fleet) fn estimated_policy_request(&self) -> PolicyRequest<'a> {
        match &self.estimate {
            Some(measured) => PolicyRequest { prompt: measured.prompt, output: measured.output, ..self.policy_request },
            None => self.policy_request,
        }
    }

    /// Tells whether no replica but the pinned one will do.
    pub const fn is_pin_required(&self) -> bool {
        matches!(self.pin, Some(ReplicaPin::Required(_)))
    }
}
