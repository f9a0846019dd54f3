//! Why members of a pool cannot be chosen.

use std::time::Duration;

use thiserror::Error;

use crate::eject::Cause;
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
    PinnedGone,
}

/// Whether a member can be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It can.
    Admitted,
    /// It can, for the first time after failures.
    Probing,
    /// It is left alone for this.
    Ejected(Cause),
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
pub(super) struct Screening {
    pub(super) now: Moment,
    pub(super) not_ready: bool,
    pub(super) ejected_until: Option<Moment>,
    pub(super) full: bool,
    pub(super) tried: bool,
    /// So many have failed that nobody is left alone for that.
    pub(super) panic: bool,
    /// The time between checks, where there are any.
    pub(super) checked_every: Option<Duration>,
    /// Of those that are busy, who is free first.
    pub(super) first_free: Option<(Moment, Slot)>,
}

impl State {
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
    pub const fn cause(self) -> Option<Cause> {
        match self {
            Self::Ejected(cause) => Some(cause),
            _ => None,
        }
    }
}

impl Screening {
    pub(super) const fn at(now: Moment) -> Self {
        Self {
            now,
            not_ready: false,
            ejected_until: None,
            full: false,
            tried: false,
            panic: false,
            checked_every: None,
            first_free: None,
        }
    }

    /// Takes note of when a member may be asked again.
    pub(super) fn ejected(&mut self, until: Moment) {
        self.ejected_until = Some(self.ejected_until.map_or(until, |first| first.min(until)));
    }

    /// Takes note of a busy member; of two, the first to be free is kept.
    pub(super) fn busy(&mut self, until: Moment, at: Slot) {
        if self.first_free.is_none_or(|(first, _)| until < first) {
            self.first_free = Some((until, at));
        }
    }

    pub(super) fn reason(&self) -> NoReplica {
        match self {
            Self { tried: true, .. } => NoReplica::AllTried,
            Self { full: true, .. } => NoReplica::AllFull,
            Self { ejected_until: Some(until), .. } => NoReplica::AllEjected { retry_after: until.since(self.now) },
            Self { not_ready: true, .. } => NoReplica::NotReady,
            _ => NoReplica::AllDown,
        }
    }
}
