//! Why a member of a pool may not be chosen. Member states, errors and explanations derive from [`Ineligible`].

use std::time::Duration;

use thiserror::Error;

use crate::eject::EjectCause;
use crate::fleet::ModelListFault;
use crate::units::Moment;

/// Why a member may not be chosen for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::fleet) enum Ineligible {
    /// It has failed this request.
    Tried,
    /// Drained through the admin listener.
    Drained,
    /// Marked `down`.
    Down,
    /// It has not listed its models, for this reason if it has been asked.
    NotReady(Option<ModelListFault>),
    /// It has `max_conns` requests.
    Full,
    /// It is ejected.
    Ejected {
        /// The cause of the ejection.
        cause: EjectCause,
        /// The earliest time of its return.
        until: Moment,
    },
    /// It does not list the requested model.
    ModelNotListed,
    /// Marked `drain`; only requests pinned to it are sent there.
    Draining,
    /// The request is pinned to another replica.
    NotPinned,
    /// It has responded with 429, 503 or 529, and other members have not.
    Busy,
    /// It is a backup, and other members are available.
    Backup,
}

/// How a member that may be chosen stands with the ejector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Eligible {
    /// Not ejected, or its ejection is ignored.
    Admitted,
    /// Its ejection time is over; the next request is a probe.
    Probing,
}

/// The state of a member, requests aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberState {
    /// It gets requests.
    Admitted,
    /// Its ejection time is over; the next request is a probe.
    Probing,
    /// It gets no requests, for this cause.
    Ejected(EjectCause),
    /// It has responded with 429, 503 or 529; it gets requests if no admitted member is left.
    Busy,
    /// It has not listed its models.
    NotReady,
    /// It has `max_conns` requests.
    Full,
    /// Marked `drain`; it gets requests pinned to it only.
    Draining,
    /// Drained through the admin listener.
    Drained,
    /// Marked `down`.
    Down,
}

/// Why no replica could be chosen.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum NoReplica {
    /// None has answered `/v1/models` yet.
    #[error("no replica is ready: none has answered /v1/models yet")]
    NotReady,
    /// None has listed its models.
    #[error("no replica is ready: {0}")]
    NoModelList(ModelListFault),
    /// All are ejected.
    #[error("no replica available: all are ejected after failures")]
    AllEjected {
        /// Time until the first may return.
        retry_after: Duration,
    },
    /// All have `max_conns` requests.
    #[error("no replica available: all are full (`max_conns`)")]
    AllFull,
    /// All have failed this request.
    #[error("no replica available: all have failed this request")]
    AllTried,
    /// All are down, drained or draining, or the pool is empty.
    #[error("no replica available: all are down, drained or draining, or there is none")]
    AllDown,
    /// The required replica is gone or may not be chosen.
    #[error("the replica that holds this conversation is not available")]
    PinnedUnavailable,
}

/// Rules that hold for all members of a pool.
#[derive(Clone, Copy)]
pub(super) struct PoolRules {
    /// Members must have answered `/v1/models`.
    pub(super) needs_model_list: bool,
    /// Members must list the requested model.
    pub(super) learns_models: bool,
    /// False for a pool of one: like nginx, its only member is always tried.
    pub(super) ejection_enabled: bool,
}

/// Conditions of an eligibility test, the same for all members.
#[derive(Clone, Copy)]
pub(super) struct EligibilityScan {
    pub(super) now: Moment,
    pub(super) rules: PoolRules,
    /// Panic mode: ejections concluded from requests are ignored.
    pub(super) panic: bool,
    /// Interval of health checks; `None` without checks.
    pub(super) check_interval: Option<Duration>,
}

/// The reasons of all rejected members, from which the error derives.
#[derive(Default)]
pub(super) struct RejectionSummary {
    any_tried: bool,
    any_full: bool,
    any_not_ready: bool,
    /// The first specific fault.
    model_list_fault: Option<ModelListFault>,
    earliest_readmission: Option<Moment>,
}

impl Ineligible {
    /// Returns the reason as shown by `explain`.
    pub(in crate::fleet) const fn as_str(self) -> &'static str {
        match self {
            Self::Tried => "has failed this request",
            Self::Ejected { cause: EjectCause::Refused, .. } => "ejected: refused",
            Self::Ejected { cause: EjectCause::Failed, .. } => "ejected: failed",
            Self::Ejected { cause: EjectCause::Stalled, .. } => "ejected: stalled",
            Self::Ejected { cause: EjectCause::HealthCheck, .. } => "ejected: check",
            Self::ModelNotListed => "does not list the model",
            Self::NotPinned => "request is pinned to another replica",
            Self::Backup => "backup",
            Self::Drained | Self::Down | Self::NotReady(_) | Self::Full | Self::Draining | Self::Busy => {
                self.member_state().as_str()
            }
        }
    }

    /// Returns the state of the member; a reason that concerns one request leaves it admitted.
    pub(super) const fn member_state(self) -> MemberState {
        match self {
            Self::Drained => MemberState::Drained,
            Self::Down => MemberState::Down,
            Self::NotReady(_) => MemberState::NotReady,
            Self::Full => MemberState::Full,
            Self::Ejected { cause, .. } => MemberState::Ejected(cause),
            Self::Draining => MemberState::Draining,
            Self::Busy => MemberState::Busy,
            Self::Tried | Self::ModelNotListed | Self::NotPinned | Self::Backup => MemberState::Admitted,
        }
    }
}

impl MemberState {
    /// Returns the state's name on the admin listener.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Admitted => "admitted",
            Self::Probing => "probing",
            Self::Ejected(_) => "ejected",
            Self::Busy => "busy",
            Self::NotReady => "not_ready",
            Self::Full => "full",
            Self::Draining => "draining",
            Self::Drained => "drained",
            Self::Down => "down",
        }
    }

    /// Returns the cause, if it is ejected.
    pub const fn ejection_cause(self) -> Option<EjectCause> {
        match self {
            Self::Ejected(cause) => Some(cause),
            _ => None,
        }
    }
}

impl RejectionSummary {
    pub(super) fn record(&mut self, reason: Ineligible) {
        match reason {
            Ineligible::Tried => self.any_tried = true,
            Ineligible::Full => self.any_full = true,
            Ineligible::NotReady(fault) => {
                self.any_not_ready = true;
                self.model_list_fault = self.model_list_fault.or(fault.filter(|fault| fault.is_specific()));
            }
            Ineligible::Ejected { until, .. } => {
                self.earliest_readmission = Some(self.earliest_readmission.map_or(until, |first| first.min(until)));
            }
            Ineligible::Drained
            | Ineligible::Down
            | Ineligible::ModelNotListed
            | Ineligible::Draining
            | Ineligible::NotPinned
            | Ineligible::Busy
            | Ineligible::Backup => {}
        }
    }

    /// Returns the error if no member was left.
    pub(super) fn no_replica(&self, now: Moment) -> NoReplica {
        match self {
            Self { any_tried: true, .. } => NoReplica::AllTried,
            Self { any_full: true, .. } => NoReplica::AllFull,
            Self { earliest_readmission: Some(until), .. } => NoReplica::AllEjected { retry_after: until.since(now) },
            Self { model_list_fault: Some(fault), .. } => NoReplica::NoModelList(*fault),
            Self { any_not_ready: true, .. } => NoReplica::NotReady,
            _ => NoReplica::AllDown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EJECTED: Ineligible =
        Ineligible::Ejected { cause: EjectCause::Failed, until: Moment::from_nanos(9_000_000_000) };

    fn no_replica(reasons: &[Ineligible]) -> NoReplica {
        let mut summary = RejectionSummary::default();
        reasons.iter().for_each(|reason| summary.record(*reason));
        summary.no_replica(Moment::from_nanos(2_000_000_000))
    }

    #[test]
    fn error_names_the_first_reason_by_precedence() {
        use Ineligible::{Down, Drained, Full, ModelNotListed, Tried};
        const NOT_READY: Ineligible = Ineligible::NotReady(None);
        const NO_KEY: Ineligible = Ineligible::NotReady(Some(ModelListFault::Unauthorized));
        const DEAD: Ineligible = Ineligible::NotReady(Some(ModelListFault::Unreachable));
        let ejected = NoReplica::AllEjected { retry_after: Duration::from_secs(7) };
        assert_eq!(no_replica(&[NOT_READY, EJECTED, Full, Tried]), NoReplica::AllTried);
        assert_eq!(no_replica(&[NOT_READY, EJECTED, Full]), NoReplica::AllFull);
        let later = Ineligible::Ejected { cause: EjectCause::Refused, until: Moment::from_nanos(20_000_000_000) };
        assert_eq!(no_replica(&[later, NOT_READY, EJECTED]), ejected, "the earliest return counts");
        assert_eq!(no_replica(&[NOT_READY, Down]), NoReplica::NotReady);
        assert_eq!(no_replica(&[DEAD]), NoReplica::NotReady);
        assert_eq!(no_replica(&[DEAD, NO_KEY]), NoReplica::NoModelList(ModelListFault::Unauthorized));
        assert_eq!(no_replica(&[Down, Drained, ModelNotListed]), NoReplica::AllDown);
    }

    #[test]
    fn explanations_begin_with_the_name_of_the_state() {
        use Ineligible::{Backup, Busy, Down, Drained, Draining, Full, NotReady, Tried};
        for reason in [Drained, Down, NotReady(None), Full, EJECTED, Draining, Busy] {
            assert!(reason.as_str().starts_with(reason.member_state().as_str()), "{reason:?}");
        }
        assert_eq!([Tried, Backup].map(Ineligible::member_state), [MemberState::Admitted; 2]);
    }
}
