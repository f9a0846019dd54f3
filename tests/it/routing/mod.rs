//! The choice of a replica for a request.

mod access_logs;
mod dns;
mod explain;
mod hash_keys;
mod hash_ring;
mod models_and_paths;
mod scopes;
mod sticky;
