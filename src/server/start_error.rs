//! The errors of a start.

use std::io;

use thiserror::Error;

use crate::balance::PolicyError;
use crate::tls::TlsFileError;

/// The router cannot start. A reload reports the same errors for listeners and logs.
#[derive(Debug, Error)]
pub enum StartError {
    /// An address cannot be bound.
    #[error("cannot listen at {address} ({key}): {error}{hint}")]
    Listen {
        /// The address.
        address: String,
        /// The configuration key that names it.
        key: &'static str,
        /// The cause.
        error: io::Error,
        /// Help, with a leading `; `; empty if there is none.
        hint: &'static str,
    },
    /// The file of a log cannot be opened.
    #[error("cannot open log file {0}: {1} (`log`)")]
    Log(String, io::Error),
    /// The file of the traffic recording cannot be opened.
    #[error("cannot open trace file {0}: {1} (`record`)")]
    Record(String, io::Error),
    /// A file of certificates or keys is missing or invalid.
    #[error("{0}; {help}", help = .0.help)]
    Tls(#[from] TlsFileError),
    /// The policy of a pool cannot be built.
    #[error("{0}")]
    Policy(#[from] PolicyError),
    /// The system provides no thread or no event queue.
    #[error("cannot start a thread or an event queue: {0}")]
    Thread(#[from] io::Error),
}
