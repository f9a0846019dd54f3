//! Responses of emulated replicas, a file per dialect of the API.

pub(super) mod answer;
pub(super) mod messages;
pub(super) mod openai;
pub(super) mod responses;
