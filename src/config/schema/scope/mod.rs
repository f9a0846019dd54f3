//! The settings of hosts and routes, which may also stand at the top of the file.

mod access_log;
mod client_address;
pub(in crate::config) mod draft;
pub(in crate::config) mod rows;
