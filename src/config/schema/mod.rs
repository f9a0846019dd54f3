//! The tables of keys: what may be written in `router.toml`, a file per table of the format.

pub(super) mod client_key;
pub(super) mod headers;
pub(super) mod health_check;
pub(super) mod log;
pub(super) mod pool;
pub(crate) mod replica;
pub(super) mod route;
pub(super) mod sticky;
pub(super) mod token_accounting;
pub(super) mod top;
