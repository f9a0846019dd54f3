//! Whose certificates are taken for a replica's.

use std::path::PathBuf;

/// How a replica that is reached by `https://` proves who it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct UpstreamTls {
    /// Who must have issued its certificate.
    pub trust_roots: TrustRoots,
    /// The name that it must be for, and that is sent as SNI; `None` for the host of the replica's URL.
    pub server_name: Option<String>,
}

/// Who is believed about a certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum TrustRoots {
    /// The issuers that the system trusts.
    #[default]
    System,
    /// The issuers in a PEM file, and no other.
    File(PathBuf),
    /// Anybody: the connection is encrypted, and whoever can redirect it can read it.
    Insecure,
}
