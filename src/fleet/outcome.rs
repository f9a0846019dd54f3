//! How requests on replicas end, and who is told of it.

use std::sync::Arc;
use std::time::Duration;

use super::{Pool, Replica, ShadowResult, TokenIntervals};
use crate::prompt::PromptFingerprint;
use crate::units::{ModelName, Moment, Usage};

/// How far a request had come when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// No connection to the replica.
    Connect,
    /// Sent, and no byte of an answer.
    FirstByte,
    /// The answer broke off.
    Stream,
}

impl Phase {
    /// The phase's name in logs and metric labels.
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
    /// Answered whole.
    Completed,
    /// The client left first.
    ClientGone,
    /// The replica answered 4xx: the client's fault.
    Refused,
    /// The replica and another one failed in the same way: the request is to blame.
    SharedFault,
    /// The replica answered 429 or 503: it has too much to do.
    Busy {
        /// What it said in `Retry-After`.
        retry_after: Option<Duration>,
    },
    /// The replica's fault; the only outcome that ejects.
    Failed {
        /// How far it had come.
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

    /// The outcome's name in logs and metric labels.
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

/// What a part of the answer has shown.
#[derive(Clone, Copy, Debug, Default)]
pub struct ResponseProgress {
    /// Events in it with generated content.
    pub content_events: u32,
    /// The token counts, if they have been told by now.
    pub usage: Option<Usage>,
}

/// What one lease came to, told to the [`LeaseObserver`] when it settles.
#[derive(Debug)]
pub struct LeaseReport<'a> {
    /// The pool that chose.
    pub pool: &'a Pool,
    /// The replica that was chosen.
    pub replica: &'a Replica,
    /// How it ended.
    pub outcome: Outcome,
    /// When the replica was chosen.
    pub chosen_at: Moment,
    /// When the first generated content came.
    pub first_token: Option<Moment>,
    /// When the last generated content came.
    pub last_token: Option<Moment>,
    /// The times between.
    pub token_intervals: &'a TokenIntervals,
    /// When it ended.
    pub ended_at: Moment,
    /// The model that was asked for, if the pool has it.
    pub model: Option<&'a ModelName>,
    /// The prompt's length as it was charged, and the answer's by its events, scaled as in earlier streams.
    pub estimated_usage: Usage,
    /// The token counts the replica reported.
    pub usage: Option<Usage>,
    /// What the prompt begins with, if anybody wanted to know.
    pub prefix: Option<&'a Arc<PromptFingerprint>>,
    /// What the pool's shadow policy would have done, if it has one and it was asked.
    pub shadow_result: Option<ShadowResult>,
}

/// Is told of every settled lease, after the pool's lock is released.
pub trait LeaseObserver: Send + Sync {
    /// Takes note of one settled lease. Called on the data path: it must not block.
    fn on_settled(&self, report: &LeaseReport<'_>);
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
