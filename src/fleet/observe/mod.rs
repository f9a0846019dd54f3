//! TODO-DOC

pub(super) mod decision_log;
pub(super) mod shadow;
