//! The state of a response so far, filled from events or from a JSON document.

use crate::dialect::{ErrorBlame, UsageCounts};

/// A longer response id is ignored.
const MAX_ID_BYTES: usize = 256;

/// The state of a response so far.
#[derive(Debug, Default)]
pub(super) struct AnswerState {
    pub(super) has_content: bool,
    pub(super) usage_counts: UsageCounts,
    pub(super) id: Option<Box<str>>,
    /// An error that the replica is to blame for.
    pub(super) has_error: bool,
    /// An error about the load on the replica.
    pub(super) has_busy_error: bool,
    /// An error about the request.
    pub(super) has_client_error: bool,
    pub(super) aborted: bool,
    /// The last `stop_reason` of a message was null.
    pub(super) lacks_stop_reason: bool,
    pub(super) done: bool,
    /// An event with a `system_fingerprint` has passed.
    pub(super) has_fingerprint: bool,
}

impl AnswerState {
    /// Records an error.
    pub(super) fn record_error(&mut self, blame: ErrorBlame) {
        match blame {
            ErrorBlame::Request => self.has_client_error = true,
            ErrorBlame::Load => self.has_busy_error = true,
            ErrorBlame::Replica => self.has_error = true,
        }
    }

    /// Sets the id, unless it is set or longer than `MAX_ID_BYTES`.
    pub(super) fn set_id(&mut self, id: Option<&str>) {
        if self.id.is_none() {
            self.id = id.filter(|id| id.len() <= MAX_ID_BYTES).map(Into::into);
        }
    }
}
