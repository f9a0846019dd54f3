//! What watches decisions: the log of decisions and the shadow policy.

pub(super) mod decision_log;
pub(super) mod shadow;
