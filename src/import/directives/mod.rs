//! nginx's directives: the table of what becomes of each, and the handlers of those that need one.

pub(super) mod access_rules;
pub(super) mod gzip;
pub(super) mod headers;
pub(super) mod logs;
pub(super) mod server;
pub(super) mod sticky;
pub(super) mod table;
pub(super) mod tls;
pub(super) mod upstream;
