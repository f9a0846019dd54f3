//! Errors of certificate and key files.

use std::path::{Path, PathBuf};

use thiserror::Error;

/// A file that cannot be used.
#[derive(Debug, Error)]
#[error("cannot use {} as {}: {reason}", path.display(), role.description())]
pub struct TlsFileError {
    /// The file; empty for the system's trusted issuers.
    pub path: PathBuf,
    /// How it may be fixed.
    pub help: String,
    role: FileRole,
    reason: String,
}

/// The purpose of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileRole {
    Certificate,
    Key,
    Issuers,
    SystemIssuers,
}

impl TlsFileError {
    pub(super) fn new(path: &Path, role: FileRole, reason: &str, help: &str) -> Self {
        Self { path: path.to_owned(), role, reason: reason.to_owned(), help: help.to_owned() }
    }
}

impl FileRole {
    const fn description(self) -> &'static str {
        match self {
            Self::Certificate => "a certificate",
            Self::Key => "a certificate's key",
            Self::Issuers => "trusted issuers",
            Self::SystemIssuers => "the system's trusted issuers",
        }
    }
}
