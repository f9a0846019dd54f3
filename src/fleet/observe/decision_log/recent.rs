//! The decisions of the most recent requests, in short.

use std::sync::Arc;

use super::entry::DecisionEntry;
use super::record::{ChoiceReason, DecisionResult, LoggedRequest};
use crate::units::{Moment, Tokens};

/// A decision in short.
#[derive(Clone, Debug)]
pub struct RecentDecision {
    /// The request.
    pub request: LoggedRequest,
    /// Time of the choice.
    pub chosen_at: Moment,
    /// The pool's name.
    pub pool: Arc<str>,
    /// The replica's name; `None` if none could be chosen.
    pub replica: Option<Arc<str>>,
    /// Why it was chosen, in a word.
    pub why: &'static str,
    /// The prompt tokens reserved.
    pub prompt: Tokens,
    /// The prompt tokens estimated to be cached there; `None` if the policy does not use prefix caches.
    pub cached: Option<Tokens>,
    /// How the request ended; `None` while it runs.
    pub result: Option<DecisionResult>,
}

impl RecentDecision {
    pub(super) fn new(entry: &DecisionEntry) -> Self {
        let chosen = entry.chosen_replica();
        Self {
            request: entry.request.clone(),
            chosen_at: entry.snapshot.taken_at,
            pool: entry.pool.name.clone(),
            why: match &chosen {
                Err(_) => "none",
                Ok(chosen) => match chosen.reason {
                    ChoiceReason::Pinned => "sticky",
                    ChoiceReason::OnlyCandidate => "only",
                    ChoiceReason::FirstFree => "first_free",
                    ChoiceReason::Policy => why_policy_chose(entry),
                },
            },
            replica: chosen.ok().map(|chosen| chosen.name),
            prompt: entry.prompt,
            cached: entry.cached(),
            result: entry.result,
        }
    }
}

/// Returns what spoke for the replica: its cache, its load although another has more cached, or its load alone.
fn why_policy_chose(entry: &DecisionEntry) -> &'static str {
    let Some(cached) = entry.cached() else { return "policy" };
    let most = entry.snapshot.candidates.iter().map(|candidate| candidate.cached).max().unwrap_or_default();
    match (most, cached) {
        (Tokens(0), _) => "load",
        (most, cached) if cached < most => "passed_over",
        _ => "affinity",
    }
}
