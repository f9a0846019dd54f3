//! The configuration as plain data.

mod limits;
mod log;
mod network;

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::Arc;

pub use limits::Limits;
pub use log::{LogSettings, RecordSettings};
pub use network::DnsSettings;

use crate::fleet::{PathPolicy, PoolSpec};
use crate::routes::{HeaderRules, ListenAddr, RouteLine, RouteScope, RouteTable, ServerCertificates};
use crate::tenants::{KeyDigest, TenantTable};

/// Everything that can be configured. `Settings::default()` has every default and no pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The addresses that accept clients; never empty.
    pub listen: Vec<ListenAddr>,
    /// The address of the admin listener; `None` if it is off.
    pub admin: Option<SocketAddr>,
    /// Access to the admin listener.
    pub admin_access: AdminAccess,
    /// The clients' API keys; if empty, no key is needed.
    pub tenants: TenantTable,
    /// Worker threads; `None` for one per core.
    pub workers: Option<NonZeroUsize>,
    /// Whether responses name their replica in `X-Upstream`.
    pub x_upstream: bool,
    /// Whether a client that has closed its sending side is still served; otherwise it counts as disconnected.
    pub half_close: bool,
    /// Whether the names of headers keep their spelling over HTTP/1.1; otherwise they are sent in lower case.
    pub preserve_header_case: bool,
    /// Decisions kept for `explain`; 0 for none.
    pub explain: usize,
    /// Whether responses describe their decision in `X-Decision`.
    pub explain_header: bool,
    /// Limits on clients.
    pub limits: Limits,
    /// The access log and the error log.
    pub log: LogSettings,
    /// The traffic recorder.
    pub record: RecordSettings,
    /// DNS for replicas with `resolve`.
    pub dns: DnsSettings,
    /// Certificates for clients that connect by TLS to hosts without their own.
    pub tls: ServerCertificates,
    /// Web pages that may call; `None` for none.
    pub cors: Option<CorsSettings>,
    /// The settings of routes that have none of their own: those at the top.
    pub scope: Arc<RouteScope>,
    /// The headers of pools that have their own.
    pub headers: HeaderRules,
    /// The hosts and routes; built from the pools and `[[host]]`s once loaded.
    pub routes: Arc<RouteTable>,
    /// The pools, in configuration order; not empty once loaded.
    pub pools: Vec<PoolSpec>,
}

/// Access to the admin listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminAccess {
    /// The hash of the token that requests must carry; `None` if none is needed.
    pub token: Option<KeyDigest>,
    /// Whether `/metrics` needs the token too.
    pub metrics_need_token: bool,
    /// Names by which browsers reach the listener, besides addresses and `localhost`.
    pub hosts: Vec<String>,
}

/// Web pages that may call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CorsSettings {
    /// The allowed `Origin`s, `scheme://host[:port]` each, or `*` for all; never empty.
    pub origins: Vec<String>,
}

impl Settings {
    /// Returns a line for each route at each address: what is open, for whom, and with which limits.
    pub fn route_lines(&self) -> Vec<RouteLine> {
        let describe_pool = |name: &str| {
            let policy = self.pools.iter().find(|pool| &*pool.name == name).map(|pool| &pool.path_policy);
            match policy {
                Some(PathPolicy::Any) => format!("{name}, every path"),
                Some(PathPolicy::Listed(more)) if more.is_empty() => format!("{name}, API paths"),
                Some(PathPolicy::Listed(more)) => format!("{name}, API paths and {}", more.join(" ")),
                None => name.to_owned(),
            }
        };
        self.routes.list(&self.listen, &describe_pool, !self.tenants.is_empty())
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: vec![ListenAddr::Tcp((Ipv4Addr::LOCALHOST, 8080).into())],
            admin: Some((Ipv4Addr::LOCALHOST, 9464).into()),
            admin_access: AdminAccess::default(),
            tenants: TenantTable::default(),
            workers: None,
            x_upstream: true,
            half_close: false,
            preserve_header_case: false,
            explain: 1_000,
            explain_header: false,
            limits: Limits::default(),
            log: LogSettings::default(),
            record: RecordSettings::default(),
            dns: DnsSettings::default(),
            tls: ServerCertificates::default(),
            cors: None,
            scope: Arc::default(),
            headers: HeaderRules::default(),
            routes: Arc::default(),
            pools: Vec::new(),
        }
    }
}

impl Default for AdminAccess {
    fn default() -> Self {
        Self { token: None, metrics_need_token: true, hosts: Vec::new() }
    }
}
