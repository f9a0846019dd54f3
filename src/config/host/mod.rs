//! The configuration of hosts and routes: `[[host]]` and `[[host.route]]`.

mod addresses;
mod build;
mod certificates;
mod checks;
mod draft;
mod reader;
pub(super) mod schema;

pub(super) use build::{build_routes, named_pools};
pub(super) use certificates::check_certificates;
pub(super) use draft::HostDraft;
pub(super) use reader::read_host;
pub(super) use schema::{HOST_TABLES, ROUTE_TABLES};
