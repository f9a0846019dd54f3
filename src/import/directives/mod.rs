//! nginx's directives: the table of their rules, and the handlers.

pub(super) mod access_rules;
mod global;
pub(super) mod gzip;
mod headers;
pub(super) mod logs;
mod proxy;
mod server;
mod sticky;
pub(super) mod table;
pub(super) mod tls;
pub(super) mod upstream;
