//! Why a replica gave no answer.

use std::error::Error;
use std::io;
use std::time::Duration;

use thiserror::Error;

use crate::fleet::{Outcome, Phase};

/// `ENFILE` and `EMFILE`, the same on every Unix: no descriptor is left, in the system or in the process.
const FD_EXHAUSTED_ERRNOS: [i32; 2] = [23, 24];

/// Why a replica gave no answer, or none that is worth passing on. Nothing of one has reached the client.
#[derive(Debug, Error)]
#[error("{summary}: {cause}")]
pub struct SendError {
    /// How far the request had come.
    pub phase: Phase,
    /// The replica was given all the time there is.
    pub timed_out: bool,
    /// It is the router that does not wait any longer (`timeouts.total`), or that has no file descriptor left.
    router_fault: bool,
    summary: &'static str,
    cause: String,
}

impl SendError {
    pub(super) fn new(phase: Phase, what: &'static str, error: &dyn Error) -> Self {
        Self::with_cause(phase, what, describe_error(error))
    }

    pub(super) fn from_connect_error(error: &io::Error) -> Self {
        let ours = error.raw_os_error().is_some_and(|code| FD_EXHAUSTED_ERRNOS.contains(&code));
        Self { router_fault: ours, ..Self::new(Phase::Connect, "no connection", error) }
    }

    pub(super) const fn with_cause(phase: Phase, what: &'static str, cause: String) -> Self {
        Self { phase, timed_out: false, router_fault: false, summary: what, cause }
    }

    pub(super) fn timeout(phase: Phase, what: &'static str, waited: Duration) -> Self {
        Self { timed_out: true, ..Self::with_cause(phase, what, format!("nothing within {waited:?}")) }
    }

    pub(super) fn total_timeout() -> Self {
        let cause = "the request took longer than `timeouts.total`".to_owned();
        Self { timed_out: true, router_fault: true, ..Self::with_cause(Phase::FirstByte, "no answer", cause) }
    }

    /// What the failure means for the replica.
    pub const fn outcome(&self) -> Outcome {
        if self.router_fault { Outcome::RouterError } else { Outcome::Failed { phase: self.phase } }
    }
}

/// An error in words; hyper and io keep the telling part in the source.
pub(super) fn describe_error(error: &dyn Error) -> String {
    error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}
