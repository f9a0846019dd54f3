//! Which replica a request goes to.

mod dns;
mod explain;
mod hash_keys;
mod hash_ring;
mod models_and_paths;
mod sticky;
