//! The paths of replicas that clients can reach.

/// The paths of a pool's replicas that clients can reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathPolicy {
    /// The API's paths, and these.
    Listed(Vec<String>),
    /// Every path, control endpoints included, whatever the model: the plain nginx case.
    Any,
}
