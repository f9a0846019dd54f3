//! Why the router ends a response before the replica has ended it.

use std::time::Duration;

use thiserror::Error;

use crate::fleet::{Outcome, Phase};
use crate::upstream::error::HUNG_CAUSE;
use crate::upstream::response::ResponseFault;

/// Why the router ends a response before the replica has ended it. Displays the cause for the log.
#[derive(Debug, Error)]
pub(super) enum RelayError {
    #[error("{}", ResponseFault::Aborted)]
    Aborted,
    /// The connection failed, with the error.
    #[error("{0}")]
    Interrupted(String),
    #[error("no data for {0:?} (`timeouts.idle`)")]
    IdleTimeout(Duration),
    #[error("no data before the first-byte deadline (`timeouts.first_byte`)")]
    FirstByteTimeout,
    #[error("no data in time, while the replica sends data on other requests")]
    Slow,
    #[error("the request took longer than `timeouts.total`")]
    TotalTimeout,
    #[error("{HUNG_CAUSE}")]
    Hung,
}

impl RelayError {
    /// Returns the outcome of the lease.
    pub(super) const fn outcome(&self) -> Outcome {
        match self {
            Self::TotalTimeout | Self::Slow => Outcome::RouterError,
            _ => Outcome::Failed { phase: Phase::Stream },
        }
    }

    /// Returns the message of the error event that the client gets.
    pub(super) const fn client_message(&self) -> &'static str {
        match self {
            Self::Aborted => "the replica stopped before the response was complete",
            Self::Interrupted(_) => "the replica closed the connection before the end of the response",
            Self::IdleTimeout(_) | Self::Hung => "the replica stopped sending data",
            Self::FirstByteTimeout | Self::Slow => "the replica sent no data in time",
            Self::TotalTimeout => "the replica took longer than the request may take",
        }
    }
}
