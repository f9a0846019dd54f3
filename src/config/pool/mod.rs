//! The configuration of pools: their keys, and the pools built from them.

pub(super) mod build;
mod checks;
pub(super) mod draft;
mod failure_policy;
pub(super) mod health_check;
mod policy;
pub(super) mod replica;
pub(super) mod replica_options;
pub(super) mod route;
pub(super) mod schema;
pub(super) mod sticky;
mod token_accounting;
mod upstream_auth;
pub(super) mod warnings;
