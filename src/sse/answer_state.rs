//! What an answer said so far: the one state that events and JSON documents both fill.

use super::usage::UsageCounts;

/// A response id longer than this is taken for none.
const MAX_ID_BYTES: usize = 256;

/// What an answer said so far.
#[derive(Debug, Default)]
pub(super) struct AnswerState {
    pub(super) has_content: bool,
    pub(super) usage_counts: UsageCounts,
    pub(super) id: Option<Box<str>>,
    pub(super) has_error: bool,
    pub(super) has_client_error: bool,
    pub(super) aborted: bool,
    /// A message said that it ends, and not why.
    pub(super) lacks_stop_reason: bool,
    pub(super) done: bool,
}

impl AnswerState {
    /// Takes the first id of a sane length; the later ones repeat it.
    pub(super) fn set_id(&mut self, id: Option<&str>) {
        if self.id.is_none() {
            self.id = id.filter(|id| id.len() <= MAX_ID_BYTES).map(Into::into);
        }
    }
}
