//! Observers of decisions: the decision log and the shadow policy.

pub(super) mod decision_log;
pub(super) mod request_observers;
pub(super) mod shadow;
