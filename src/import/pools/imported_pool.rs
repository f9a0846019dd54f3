//! A pool of the resulting router.toml.

use crate::import::blocks::TomlHeader;

/// A `[[pool]]`.
pub(in crate::import) struct ImportedPool {
    pub(in crate::import) name: String,
    pub(in crate::import) host: Option<String>,
    pub(in crate::import) path: Option<String>,
    pub(in crate::import) upstream: PoolUpstream,
    /// The key that replicas are sent in `Authorization`.
    pub(in crate::import) api_key: Option<String>,
    /// Refused paths and their statuses.
    pub(in crate::import) blocked_paths: Vec<(String, u16)>,
    pub(in crate::import) request_headers: Vec<TomlHeader>,
    pub(in crate::import) response_headers: Vec<TomlHeader>,
    /// The location that the pool is from, for a comment.
    pub(in crate::import) source_comment: String,
}

/// The replicas of a pool: what its `proxy_pass` leads to.
#[derive(Clone)]
pub(in crate::import) struct PoolUpstream {
    /// The name of the upstream, or the address in `proxy_pass`.
    pub(super) name: String,
    /// As strings of `replicas`.
    pub(in crate::import) replicas: Vec<String>,
    pub(in crate::import) policy: String,
    /// As TOML.
    pub(in crate::import) sticky: Option<String>,
    /// Whether every path reaches the replicas.
    pub(in crate::import) any_path: bool,
    pub(in crate::import) tls: PoolTlsKeys,
}

/// The TLS keys of a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::import) struct PoolTlsKeys {
    pub(in crate::import) ca: Option<String>,
    pub(in crate::import) name: Option<String>,
    /// Whether certificate verification is off.
    pub(in crate::import) is_insecure: bool,
}
