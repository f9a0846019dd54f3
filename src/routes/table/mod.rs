//! The table of routes: its parts, the lookup, and its listing for people.

mod host;
mod host_spec;
mod listing;
mod lookup;
mod pool_hosts;
#[cfg(test)]
mod tests;

pub use host_spec::{AddressIndex, ArrivalAddr, HostListen, HostSpec, RouteLookup, ServerCertificates};
pub use listing::RouteLine;
pub use lookup::RouteTable;
pub(crate) use lookup::covers as wildcard_covers;
pub use pool_hosts::add_pool_routes;
