//! A logged decision as it is shown.

use std::sync::Arc;
use std::time::Duration;

use crate::fleet::{NoReplica, Outcome};
use crate::units::{Moment, Tokens, Usage};

/// How a request on the chosen replica ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecisionResult {
    /// Its outcome.
    pub outcome: Outcome,
    /// Time from the choice to the end.
    pub duration: Duration,
    /// Time from the choice to the first generated content.
    pub time_to_first_token: Option<Duration>,
    /// The token counts that the replica reported.
    pub usage: Option<Usage>,
}

/// The reason for a choice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChoiceReason {
    /// The policy compared several candidates.
    #[default]
    Policy,
    /// There was no other candidate.
    OnlyCandidate,
    /// The request was pinned to the replica.
    Pinned,
    /// All eligible replicas were busy; this one is free first.
    FirstFree,
}

impl ChoiceReason {
    /// Returns the reason's name in `GET /explain/ID` and in `X-Decision`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Policy => "policy",
            Self::OnlyCandidate => "only_candidate",
            Self::Pinned => "pinned",
            Self::FirstFree => "first_free",
        }
    }
}

/// What the log keeps of a request.
#[derive(Clone, Debug, Default)]
pub struct LoggedRequest {
    /// Its id.
    pub id: Arc<str>,
    /// The requested model; `None` if it names none.
    pub model: Option<Arc<str>>,
    /// The name of its API key; `None` without one.
    pub key: Option<Arc<str>>,
}

/// A decision as it is shown.
#[derive(Clone, Debug)]
pub struct DecisionRecord {
    /// The request.
    pub request: LoggedRequest,
    /// The pool's name.
    pub pool: Arc<str>,
    /// Its policy, as configured.
    pub policy: String,
    /// Time of the choice.
    pub chosen_at: Moment,
    /// The prompt tokens reserved.
    pub prompt: Tokens,
    /// The candidates, in configuration order.
    pub candidates: Vec<CandidateTerms>,
    /// The other members, with the reasons.
    pub skipped: Vec<(Arc<str>, &'static str)>,
    /// Number of members in neither list, if the pool has too many.
    pub omitted_replicas: usize,
    /// The chosen replica, or why there was none.
    pub chosen: Result<ChosenReplica, NoReplica>,
    /// Prompt tokens estimated to be cached there; `None` if the policy does not use prefix caches.
    pub cached: Option<Tokens>,
    /// How the request ended; `None` while it runs.
    pub result: Option<DecisionResult>,
}

/// The replica that was chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChosenReplica {
    /// Its name.
    pub name: Arc<str>,
    /// The reason for the choice.
    pub reason: ChoiceReason,
}

/// A candidate as it is shown.
#[derive(Clone, Debug)]
pub struct CandidateTerms {
    /// Its name.
    pub name: Arc<str>,
    /// The policy's terms with their values, and the weight at that moment.
    pub terms: Vec<(&'static str, f64)>,
}
