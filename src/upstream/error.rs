//! Errors of sending a request.

use std::error::Error;
use std::io;
use std::time::Duration;

use thiserror::Error;

use crate::fleet::{Outcome, Phase};

/// `ENFILE` and `EMFILE`, the same on every Unix: the system or the process is out of file descriptors.
const FD_EXHAUSTED_ERRNOS: [i32; 2] = [23, 24];

/// The cause given for a replica that has hung.
pub(super) const HUNG_CAUSE: &str = "the replica has hung: its port refuses connections and it sends no data";

/// Why a replica gave no usable response. The client has received nothing of it.
#[derive(Debug, Error)]
#[error("{summary}: {cause}")]
pub struct SendError {
    /// The phase that the request had reached.
    pub phase: Phase,
    /// Whether the replica may have received the request.
    pub was_sent: bool,
    /// Whether a timeout ended the wait.
    pub timed_out: bool,
    /// Whether the replica is not to blame: `timeouts.total` is over, the router is out of file descriptors, or the
    /// replica is slow and sends data on other requests.
    router_fault: bool,
    summary: &'static str,
    cause: String,
}

impl SendError {
    pub(super) fn new(phase: Phase, summary: &'static str, error: &dyn Error) -> Self {
        Self::with_cause(phase, summary, describe_error(error))
    }

    pub(super) fn from_connect_error(error: &io::Error) -> Self {
        let router_fault = error.raw_os_error().is_some_and(|code| FD_EXHAUSTED_ERRNOS.contains(&code));
        Self { router_fault, ..Self::new(Phase::Connect, "connection failed", error) }
    }

    pub(super) const fn with_cause(phase: Phase, summary: &'static str, cause: String) -> Self {
        Self {
            phase,
            was_sent: !matches!(phase, Phase::Connect),
            timed_out: false,
            router_fault: false,
            summary,
            cause,
        }
    }

    pub(super) fn timeout(phase: Phase, summary: &'static str, waited: Duration) -> Self {
        Self { timed_out: true, ..Self::with_cause(phase, summary, format!("timed out after {waited:?}")) }
    }

    pub(super) fn total_timeout() -> Self {
        let cause = "the request took longer than `timeouts.total`".to_owned();
        Self { timed_out: true, router_fault: true, ..Self::with_cause(Phase::FirstByte, "no response", cause) }
    }

    /// Returns the error as one after the request was sent on another connection, which broke without a response.
    pub(super) fn after_sending(self) -> Self {
        Self { was_sent: true, ..self }
    }

    /// Returns the error as one of a replica that is slow, and sends data on other requests.
    pub(super) fn without_blame(self) -> Self {
        let cause = format!("{}, while the replica sends data on other requests", self.cause);
        Self { router_fault: true, cause, ..self }
    }

    pub(super) fn unasked_upgrade() -> Self {
        let cause = "the replica switched to another protocol without being asked".to_owned();
        Self::with_cause(Phase::FirstByte, "no response", cause)
    }

    pub(super) fn hung() -> Self {
        Self::with_cause(Phase::FirstByte, "no response", HUNG_CAUSE.to_owned())
    }

    /// Returns the outcome that the failure has for the replica.
    pub const fn outcome(&self) -> Outcome {
        if self.router_fault { Outcome::RouterError } else { Outcome::Failed { phase: self.phase } }
    }
}

/// Returns the error's text and that of its source, where hyper and io keep the cause.
pub(super) fn describe_error(error: &dyn Error) -> String {
    error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}
