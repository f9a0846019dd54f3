//! Layer 1: routes: which requests go where, and with which settings. Plain data and the rules that nginx has for it.
//!
//! A host (nginx's `server`) is found by the address of the connection and by its name, a route (nginx's `location`) by
//! the path. A route leads to pools or answers itself, and carries the settings that hold for its requests.

mod answer;
mod host_name;
mod ip_network;
mod listen;
mod path_match;
mod pool_route;
mod replace_path;
mod route;
mod scope;
mod table;

pub use answer::{Answer, AnswerError};
pub use host_name::{HostName, HostNameError};
pub use ip_network::IpNetwork;
pub use listen::{ListenAddr, ListenError};
pub use path_match::{PathMatch, PathMatchError, PathRegex};
pub use pool_route::{BlockedPath, PoolRoute};
pub use replace_path::{escape_path, replace_path};
pub use route::{Route, RouteAction};
pub use scope::{
    AccessLogSpec, AddressRule, AddressRuleError, AddressSet, ClientAddressSettings, HeaderRule, HeaderRuleSet,
    HeaderRules, HeaderTemplate, KeyAccess, RouteScope, Timeouts,
};
pub(crate) use table::wildcard_covers;
pub use table::{
    AddressIndex, ArrivalAddr, HostListen, HostSpec, RouteLine, RouteLookup, RouteTable, ServerCertificates,
    add_pool_routes,
};
