//! Why members of a pool cannot be chosen.

use std::time::Duration;

use thiserror::Error;

use crate::eject::EjectCause;
use crate::units::{Moment, Slot};

/// Why no replica could be chosen.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum NoReplica {
    /// None has answered `/v1/models` yet.
    #[error("no replica is ready: none has answered /v1/models yet")]
    NotReady,
    /// All are resting after failures.
    #[error("every replica has failed and is left alone for a while")]
    AllEjected {
        /// When the first may be asked again.
        retry_after: Duration,
    },
    /// All have reached `max_conns`.
    #[error("every replica has as many requests as `max_conns` allows")]
    AllFull,
    /// All have failed this request.
    #[error("every replica has failed this request")]
    AllTried,
    /// All are marked `down` or `drain`, or the pool is empty.
    #[error("every replica is marked `down` or `drain`, or there is none")]
    AllDown,
    /// The one replica that would do is gone or cannot be chosen.
    #[error("the replica that holds this conversation is not available")]
    PinnedUnavailable,
}

/// Whether a member can be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberState {
    /// It can.
    Admitted,
    /// It can, for the first time after failures.
    Probing,
    /// It is left alone for this.
    Ejected(EjectCause),
    /// It is passed over for having answered 429 or 503, unless all are.
    Busy,
    /// It has not answered `/v1/models` yet.
    NotReady,
    /// It has as many requests as `max_conns` allows.
    Full,
    /// Marked `drain` in the configuration: only requests that belong to it come here.
    Draining,
    /// Requests are kept away by hand.
    Drained,
    /// Marked so in the configuration.
    Down,
}

/// One look at the members at one moment; notes why some were passed over, to say so when all were.
#[derive(Clone)]
pub(in crate::fleet) struct EligibilityScan {
    pub(in crate::fleet) now: Moment,
    pub(in crate::fleet) any_not_ready: bool,
    pub(in crate::fleet) earliest_readmission: Option<Moment>,
    pub(in crate::fleet) any_full: bool,
    pub(in crate::fleet) any_tried: bool,
    /// So many have failed that nobody is left alone for that.
    pub(in crate::fleet) panic: bool,
    /// The time between checks, where there are any.
    pub(in crate::fleet) check_interval: Option<Duration>,
    /// Of those that are busy, who is free first.
    pub(in crate::fleet) first_free: Option<(Moment, Slot)>,
}

impl MemberState {
    /// The state's name in answers of the admin listener.
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

    /// What it is left alone for.
    pub const fn ejection_cause(self) -> Option<EjectCause> {
        match self {
            Self::Ejected(cause) => Some(cause),
            _ => None,
        }
    }
}

impl EligibilityScan {
    pub(in crate::fleet) const fn new(now: Moment) -> Self {
        Self {
            now,
            any_not_ready: false,
            earliest_readmission: None,
            any_full: false,
            any_tried: false,
            panic: false,
            check_interval: None,
            first_free: None,
        }
    }

    /// Takes note of when a member may be asked again.
    pub(in crate::fleet) fn record_ejected(&mut self, until: Moment) {
        self.earliest_readmission = Some(self.earliest_readmission.map_or(until, |first| first.min(until)));
    }

    /// Takes note of a busy member; of two, the first to be free is kept.
    pub(in crate::fleet) fn record_busy(&mut self, until: Moment, at: Slot) {
        if self.first_free.is_none_or(|(first, _)| until < first) {
            self.first_free = Some((until, at));
        }
    }

    pub(in crate::fleet) fn no_replica(&self) -> NoReplica {
        match self {
            Self { any_tried: true, .. } => NoReplica::AllTried,
            Self { any_full: true, .. } => NoReplica::AllFull,
            Self { earliest_readmission: Some(until), .. } => {
                NoReplica::AllEjected { retry_after: until.since(self.now) }
            }
            Self { any_not_ready: true, .. } => NoReplica::NotReady,
            _ => NoReplica::AllDown,
        }
    }
}
