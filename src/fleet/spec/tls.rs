//! Verification of replicas' certificates.

use std::path::PathBuf;

/// How the certificate of an `https://` replica is verified.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct UpstreamTls {
    /// The issuers that are trusted.
    pub trust_roots: TrustRoots,
    /// The name that the certificate must be for, also sent as SNI; `None` for the host of the replica's URL.
    pub server_name: Option<String>,
}

/// Trusted issuers of certificates.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum TrustRoots {
    /// The system's trusted issuers.
    #[default]
    System,
    /// The issuers in a PEM file, and no other.
    File(PathBuf),
    /// Any certificate is accepted: the connection is encrypted, but an attacker who can redirect it can read it.
    Insecure,
}
