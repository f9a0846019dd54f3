//! The decision log: the most recent choices, kept for `explain`.

mod entry;
mod log;
mod record;

pub(in crate::fleet) use entry::{CandidateSnapshot, DecisionEntry};
pub use log::DecisionLog;
pub use record::{CandidateTerms, ChoiceReason, ChosenReplica, DecisionRecord, DecisionResult};

#[cfg(test)]
mod tests;
