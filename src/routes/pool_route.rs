//! The hosts and paths of a pool.

/// The requests that a pool is considered for: first by host, then by the longest path, then by model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolRoute {
    /// The `Host` without port, lower case; `None` for every host that no other pool names.
    pub host: Option<String>,
    /// The path prefix, whole segments, with a leading and no trailing slash; `None` for every path.
    pub path: Option<String>,
    /// Paths below it that are blocked.
    pub blocked_paths: Vec<BlockedPath>,
}

/// A path that never reaches a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockedPath {
    /// The path or path prefix, as nginx's `location` compares it: without escapes, dots and double slashes.
    pub path: String,
    /// Whether only this exact path is blocked.
    pub exact: bool,
    /// The response status, 400 to 599.
    pub status: u16,
}
