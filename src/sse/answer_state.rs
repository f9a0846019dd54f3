//! The state of a response so far, filled from events or from a JSON document.

use crate::dialect::UsageCounts;

/// A longer response id is ignored.
const MAX_ID_BYTES: usize = 256;

/// The state of a response so far.
#[derive(Debug, Default)]
pub(super) struct AnswerState {
    pub(super) has_content: bool,
    pub(super) usage_counts: UsageCounts,
    pub(super) id: Option<Box<str>>,
    pub(super) has_error: bool,
    pub(super) has_client_error: bool,
    pub(super) aborted: bool,
    /// The last `stop_reason` of a message was null.
    pub(super) lacks_stop_reason: bool,
    pub(super) done: bool,
}

impl AnswerState {
    /// Sets the id, unless it is set or longer than `MAX_ID_BYTES`.
    pub(super) fn set_id(&mut self, id: Option<&str>) {
        if self.id.is_none() {
            self.id = id.filter(|id| id.len() <= MAX_ID_BYTES).map(Into::into);
        }
    }
}
