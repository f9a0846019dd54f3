//! nginx's directives: the table of their rules, and the handlers.

pub(super) mod access_rules;
mod answers;
mod global;
pub(super) mod gzip;
mod headers;
pub(super) mod logs;
mod proxy;
mod real_ip;
pub(super) mod rewrites;
mod server;
mod server_name;
mod sticky;
pub(super) mod table;
pub(super) mod tls;
pub(super) mod upstream;
