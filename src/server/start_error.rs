//! The reasons for which the router cannot start.

use std::io;

use thiserror::Error;

use crate::balance::PolicyError;
use crate::tls::TlsFileError;

/// Why the router cannot start.
#[derive(Debug, Error)]
pub enum StartError {
    /// An address cannot be listened at.
    #[error("cannot listen at {address} ({key}): {error}{hint}")]
    Listen {
        /// The address.
        address: String,
        /// The configuration key it comes from.
        key: &'static str,
        /// What the system said.
        error: io::Error,
        /// What may help.
        hint: &'static str,
    },
    /// A log cannot be opened.
    #[error("cannot open the log {0}: {1}")]
    Log(String, io::Error),
    /// The file that traffic is written to cannot be opened.
    #[error("cannot record to {0}: {1}")]
    Record(String, io::Error),
    /// A file of certificates or keys cannot be used.
    #[error("{0}; {help}", help = .0.help)]
    Tls(#[from] TlsFileError),
    /// A pool's policy cannot be made.
    #[error("{0}")]
    Policy(#[from] PolicyError),
    /// The system gives no threads or no event queue.
    #[error("cannot start a thread: {0}")]
    Thread(#[from] io::Error),
}
