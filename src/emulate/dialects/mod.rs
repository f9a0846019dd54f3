//! TODO-DOC

pub(super) mod answer;
pub(super) mod messages;
pub(super) mod openai;
pub(super) mod responses;
