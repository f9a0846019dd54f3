//! The hosts and paths of a pool.

/// The requests that a pool is considered for: first by host, then by the longest path, then by model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Route {
    /// The `Host` without port, lower case; `None` for every host that no other pool names.
    pub host: Option<String>,
    /// The path prefix, whole segments, with a leading and no trailing slash; `None` for every path.
    pub path: Option<String>,
    /// Paths below it that are blocked.
    pub blocked_paths: Vec<BlockedPath>,
    /// Whether clients may use the paths and the key header of Azure OpenAI.
    pub accepts_azure: bool,
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

/// The paths of a pool's replicas that clients can reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathPolicy {
    /// The API's paths, and these.
    Listed(Vec<String>),
    /// Every path, control endpoints included, whatever the model: the plain nginx case.
    Any,
}

impl Route {
    /// Returns whether `other` has the same host and path, whatever it blocks.
    pub(in crate::fleet) fn is_same_route(&self, other: &Self) -> bool {
        self.host == other.host && self.path == other.path
    }
}

impl BlockedPath {
    /// Returns whether it blocks `path`, which is free of escapes, dots and double slashes.
    pub fn matches(&self, path: &[u8]) -> bool {
        if self.exact { path == self.path.as_bytes() } else { path.starts_with(self.path.as_bytes()) }
    }
}
