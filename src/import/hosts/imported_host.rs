//! A host of the resulting router.toml, and its routes.

use crate::import::scoped_keys::ScopedKeys;

/// A `[[host]]`.
#[derive(Clone)]
pub(in crate::import) struct ImportedHost {
    /// As strings of `name`; empty: the requests that no other host takes.
    pub(in crate::import) names: Vec<String>,
    /// As strings of `listen`; empty: the addresses at the top.
    pub(in crate::import) listens: Vec<String>,
    pub(in crate::import) certificates: CertificateFiles,
    /// The keys that differ from those at the top.
    pub(in crate::import) keys: ScopedKeys,
    pub(in crate::import) routes: Vec<ImportedRoute>,
    /// The directive that it is from, for a comment.
    pub(in crate::import) source_comment: String,
}

/// Certificates and their keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::import) struct CertificateFiles {
    pub(in crate::import) chains: Vec<String>,
    pub(in crate::import) keys: Vec<String>,
}

/// A `[[host.route]]`.
#[derive(Clone)]
pub(in crate::import) struct ImportedRoute {
    /// As nginx writes it: `/v1/`, `= /ping`, `^~ /x`, `~ ^/v[12]/`.
    pub(in crate::import) path: String,
    pub(in crate::import) target: RouteTarget,
    /// The path that takes the place of the matched one.
    pub(in crate::import) replace_path: Option<String>,
    /// The keys that differ from those of the host.
    pub(in crate::import) keys: ScopedKeys,
    /// The directive that it is from, for a comment.
    pub(in crate::import) source_comment: String,
}

/// What a route does with its requests.
#[derive(Clone)]
pub(in crate::import) enum RouteTarget {
    /// The name of a pool.
    Pool(String),
    /// `answer` as TOML.
    Answer(String),
}
