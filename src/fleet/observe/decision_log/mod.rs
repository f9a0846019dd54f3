//! The decision log: the most recent choices, kept for `explain`.

mod entry;
mod log;
mod recent;
mod record;

pub(in crate::fleet) use entry::{CandidateSnapshot, DecisionEntry};
pub use log::DecisionLog;
pub use recent::RecentDecision;
pub use record::{CandidateTerms, ChoiceReason, ChosenReplica, DecisionRecord, DecisionResult, LoggedRequest};

#[cfg(test)]
mod tests;
