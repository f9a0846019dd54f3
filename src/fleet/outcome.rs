//! How requests on replicas end.

use std::time::Duration;

use crate::units::Usage;

/// The phase in which a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// No connection to the replica.
    Connect,
    /// The request was sent, and no byte of a response came.
    FirstByte,
    /// The response broke off.
    Stream,
}

impl Phase {
    /// Returns the phase's name in logs and metric labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::FirstByte => "first_byte",
            Self::Stream => "stream",
        }
    }
}

/// How a request on a replica ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The response was complete.
    Completed,
    /// The client disconnected first.
    ClientGone,
    /// The replica responded with 4xx: the client's fault.
    Refused,
    /// Two replicas failed in the same way: the request's fault.
    SharedFault,
    /// The replica responded with 429, 503 or 529: it is overloaded.
    Busy {
        /// Its `Retry-After`.
        retry_after: Option<Duration>,
    },
    /// The replica's fault; the only outcome that ejects.
    Failed {
        /// The phase of the failure.
        phase: Phase,
    },
    /// The router's own fault or limit.
    RouterError,
}

impl Outcome {
    /// One outcome of each name, in the order of [`Outcome::index`].
    pub const ALL: [Self; 6] = [
        Self::Completed,
        Self::ClientGone,
        Self::Refused,
        Self::Busy { retry_after: None },
        Self::Failed { phase: Phase::Connect },
        Self::RouterError,
    ];

    /// Returns the position in [`Outcome::ALL`] of the outcome with the same name.
    pub const fn index(self) -> usize {
        match self {
            Self::Completed => 0,
            Self::ClientGone => 1,
            Self::Refused | Self::SharedFault => 2,
            Self::Busy { .. } => 3,
            Self::Failed { .. } => 4,
            Self::RouterError => 5,
        }
    }

    /// Returns the outcome's name in logs and metric labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::ClientGone => "client_gone",
            Self::Refused | Self::SharedFault => "refused",
            Self::Busy { .. } => "busy",
            Self::Failed { .. } => "failed",
            Self::RouterError => "router_error",
        }
    }
}

/// The content of a part of a response.
#[derive(Clone, Copy, Debug, Default)]
pub struct ResponseProgress {
    /// Number of events with generated content.
    pub content_events: u32,
    /// The token counts, if the replica has reported them by now.
    pub usage: Option<Usage>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_of_one_name_share_an_index() {
        for (index, outcome) in Outcome::ALL.iter().enumerate() {
            assert_eq!(outcome.index(), index, "{outcome:?}");
        }
        assert_eq!(Outcome::ALL[Outcome::SharedFault.index()].as_str(), Outcome::SharedFault.as_str());
    }
}
