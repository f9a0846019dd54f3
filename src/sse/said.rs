//! What an answer said so far: the one state that events and JSON documents both fill.

use super::usage::Counts;

/// A response id longer than this is taken for none.
const ID_BYTES: usize = 256;

/// What an answer said so far.
#[derive(Debug, Default)]
pub(super) struct Said {
    pub(super) content: bool,
    pub(super) counts: Counts,
    pub(super) id: Option<Box<str>>,
    pub(super) error: bool,
    pub(super) refused: bool,
    pub(super) aborted: bool,
    /// A message said that it ends, and not why.
    pub(super) reasonless: bool,
    pub(super) done: bool,
}

impl Said {
    /// Takes the first id of a sane length; the later ones repeat it.
    pub(super) fn identify(&mut self, id: Option<&str>) {
        if self.id.is_none() {
            self.id = id.filter(|id| id.len() <= ID_BYTES).map(Into::into);
        }
    }
}
