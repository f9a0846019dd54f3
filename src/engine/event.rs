//! Events of requests in a simulated replica.

use crate::units::{Moment, Tokens};

/// An event of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineEvent {
    /// The end of the step in which it happened.
    pub moment: Moment,
    /// The request's [id](super::EngineRequest::id).
    pub request_id: u64,
    /// The kind of event.
    pub kind: EngineEventKind,
}

/// The kind of an event. A request has `FirstToken`, then `Token` (output - 1 times), then `Finished`; with an output
/// of 0 only `Finished`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineEventKind {
    /// The prompt is computed and the first token generated.
    FirstToken {
        /// Prompt tokens found in the prefix cache at admission.
        cached: Tokens,
    },
    /// A further token was generated.
    Token,
    /// All tokens were generated; at the same moment as the last of them.
    Finished,
}
