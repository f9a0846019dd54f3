//! A pool of the resulting router.toml.

/// A `[[pool]]`.
#[derive(Clone)]
pub(in crate::import) struct ImportedPool {
    pub(in crate::import) name: String,
    pub(super) upstream: UpstreamId,
    /// As strings of `replicas`.
    pub(in crate::import) replicas: Vec<String>,
    pub(in crate::import) policy: String,
    /// As TOML.
    pub(in crate::import) sticky: Option<String>,
    /// The key that replicas are sent in `Authorization`.
    pub(in crate::import) api_key: Option<String>,
    pub(in crate::import) tls: PoolTlsKeys,
    /// The directive that the pool is from, for a comment.
    pub(in crate::import) source_comment: String,
}

/// What a `proxy_pass` names: one is one pool, if its locations agree on keys and certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct UpstreamId {
    pub(super) scheme: &'static str,
    /// Host and port, `unix:` and a path, or the name of an upstream.
    pub(super) authority: String,
}

/// The TLS keys of a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::import) struct PoolTlsKeys {
    pub(in crate::import) ca: Option<String>,
    pub(in crate::import) name: Option<String>,
    /// Whether certificate verification is off.
    pub(in crate::import) is_insecure: bool,
}
