//! The table of routes: from a connection's address, a host and a path to a route, with nginx's rules.

use std::net::SocketAddr;
use std::sync::Arc;

use super::host::Host;
use super::host_spec::{AddressIndex, ArrivalAddr, HostListen, HostSpec, RouteLookup, ServerCertificates};
use crate::http::normalize_path;
use crate::log_format::RequiredFields;
use crate::routes::RouteAction;
use crate::routes::{ListenAddr, PoolRoute, Route, RouteScope};

/// All routes. Never changed, only replaced.
#[derive(Debug, Default)]
pub struct RouteTable {
    /// All routes, each at the place that is its `index`.
    routes: Vec<Arc<Route>>,
    hosts: Vec<Host>,
    /// The hosts of each address; empty if every host takes part at every address.
    addresses: Vec<AddressHosts>,
    /// The host of every request if there is only one, without names and addresses.
    single_host: bool,
    has_closed_hosts: bool,
}

/// The hosts of one address.
#[derive(Debug)]
struct AddressHosts {
    address: ListenAddr,
    /// Indices of hosts.
    hosts: Vec<usize>,
    /// The index of the host that takes what no other one does.
    default: Option<usize>,
}

impl RouteTable {
    /// Builds the table; `top_addresses` are those of hosts without an address of their own.
    pub fn new(specs: Vec<HostSpec>, top_addresses: &[ListenAddr]) -> Self {
        let mut table = Self { has_closed_hosts: specs.iter().any(|spec| spec.is_closed), ..Self::default() };
        table.addresses = collect_addresses(&specs, top_addresses);
        for spec in specs {
            let host = Host::new(spec, &mut table.routes);
            table.hosts.push(host);
        }
        table.single_host =
            table.addresses.is_empty() && table.hosts.len() == 1 && table.hosts.iter().all(Host::is_nameless);
        table
    }

    /// Builds the table of pools that have no hosts above them, at every address.
    pub fn from_pools<'a>(pools: impl IntoIterator<Item = (&'a Arc<str>, &'a PoolRoute)>) -> Self {
        let scope = Arc::new(RouteScope::default());
        let mut hosts = Vec::new();
        super::pool_hosts::add_pool_routes(&mut hosts, pools, &scope);
        Self::new(hosts, &[])
    }

    /// Returns all routes; each is at the place that is its `index`.
    pub fn routes(&self) -> &[Arc<Route>] {
        &self.routes
    }

    /// Returns the fields of a request that the answers' variables need.
    pub fn required_fields(&self) -> RequiredFields {
        let mut fields = RequiredFields::default();
        for route in &self.routes {
            if let RouteAction::Answer(answer) = &route.action {
                answer.format().into_iter().for_each(|format| fields.merge(format.required_fields()));
            }
            fields.socket_addrs |= route.may_redirect();
        }
        fields
    }

    /// Returns whether some host is closed, so that the router's own paths are served only where pools are.
    pub const fn has_closed_hosts(&self) -> bool {
        self.has_closed_hosts
    }

    /// Returns the route of a request: by the address of its connection, by `host` (lower case, without port) and by
    /// the path as received.
    pub fn find(&self, arrival: &ArrivalAddr, host: &str, path: &str) -> RouteLookup<'_> {
        let host = if self.single_host { self.hosts.first() } else { self.find_host(arrival, Some(host)) };
        host.map_or(RouteLookup::Unknown, |host| host.find(&normalize_path(path)))
    }

    /// Returns the certificates of each host, by its index.
    pub fn certificates(&self) -> impl Iterator<Item = &ServerCertificates> {
        self.hosts.iter().map(Host::certificates)
    }

    /// Returns the addresses of clients by TLS, each with the indices of its hosts.
    pub fn tls_addresses(&self) -> Vec<(AddressIndex, Vec<usize>)> {
        if self.addresses.is_empty() {
            return vec![(AddressIndex::Any, (0..self.hosts.len()).collect())];
        }
        let all = self.addresses.iter().enumerate();
        let tls = all.filter(|(_, hosts)| matches!(hosts.address, ListenAddr::Tls(_)));
        tls.map(|(index, hosts)| (AddressIndex::Of(index), hosts.hosts.clone())).collect()
    }

    /// Returns the addresses of hosts; `listens` if every host takes part at each of them.
    pub(super) fn addresses<'a>(&'a self, listens: &'a [ListenAddr]) -> Vec<&'a ListenAddr> {
        match self.addresses.as_slice() {
            [] => listens.iter().collect(),
            addresses => addresses.iter().map(|hosts| &hosts.address).collect(),
        }
    }

    /// Returns the hosts of an address, each with whether it takes what no other host does.
    pub(super) fn hosts_at<'a>(&'a self, address: &ListenAddr) -> Vec<(&'a Host, bool)> {
        let Some(at_address) = self.addresses.iter().find(|hosts| hosts.address == *address) else {
            return self.hosts.iter().map(|host| (host, host.is_nameless())).collect();
        };
        let hosts = at_address.hosts.iter().filter_map(|index| Some((*index, self.hosts.get(*index)?)));
        hosts.map(|(index, host)| (host, at_address.default == Some(index))).collect()
    }

    /// Returns the route with the settings of requests that name no host: that of paths without a route, in the host that
    /// takes what no other host of the address does. `None` if there is no such host.
    pub fn find_default(&self, arrival: &ArrivalAddr) -> Option<&Arc<Route>> {
        self.find_host(arrival, None)?.not_found()
    }

    fn find_host(&self, arrival: &ArrivalAddr, name: Option<&str>) -> Option<&Host> {
        let address = self.find_address(arrival)?;
        self.hosts.get(self.find_host_index(address, name)?)
    }

    /// Returns the place of the address that a connection has arrived at; `None` if the table has no such address.
    pub fn find_address(&self, arrival: &ArrivalAddr) -> Option<AddressIndex> {
        if self.addresses.is_empty() {
            return Some(AddressIndex::Any);
        }
        let position =
            |is_wanted: &dyn Fn(&ListenAddr) -> bool| self.addresses.iter().position(|a| is_wanted(&a.address));
        let local = arrival.local.and_then(|local| position(&|address| address.socket_addr() == Some(local)));
        let found = local.or_else(|| position(&|address| address.has_same_address(&arrival.listen)));
        found.map(AddressIndex::Of)
    }

    /// Returns the index of the host that a name leads to at an address, or of the one that takes what no other host does;
    /// `None` if there is none.
    pub fn find_host_index(&self, address: AddressIndex, name: Option<&str>) -> Option<usize> {
        let all = self.hosts.iter().enumerate();
        match address {
            AddressIndex::Any => {
                let named = name.and_then(|name| best_host(all.clone(), name));
                named.or_else(|| self.hosts.iter().position(Host::is_nameless))
            }
            AddressIndex::Of(index) => {
                let AddressHosts { hosts, default, .. } = self.addresses.get(index)?;
                let hosts = hosts.iter().filter_map(|index| Some((*index, self.hosts.get(*index)?)));
                name.and_then(|name| best_host(hosts, name)).or(*default)
            }
        }
    }
}

impl PartialEq for RouteTable {
    fn eq(&self, other: &Self) -> bool {
        self.routes == other.routes && self.hosts == other.hosts && self.addresses == other.addresses
    }
}

impl Eq for RouteTable {}

impl PartialEq for AddressHosts {
    fn eq(&self, other: &Self) -> bool {
        (&self.address, &self.hosts, self.default) == (&other.address, &other.hosts, other.default)
    }
}

/// Returns whether a listener at `wildcard` accepts the connections to `address`, another address.
pub(crate) fn covers(wildcard: SocketAddr, address: SocketAddr) -> bool {
    wildcard.ip().is_unspecified()
        && wildcard.is_ipv4() == address.is_ipv4()
        && wildcard.port() == address.port()
        && wildcard != address
}

/// Returns the index of the host whose names fit best; the first of equals.
fn best_host<'a>(hosts: impl Iterator<Item = (usize, &'a Host)>, name: &str) -> Option<usize> {
    let mut best = None;
    for (index, host) in hosts {
        let Some(fit) = host.fit(name) else { continue };
        if best.is_none_or(|(known, _)| fit > known) {
            best = Some((fit, index));
        }
    }
    best.map(|(_, index)| index)
}

/// Returns the hosts of each address; empty if no host has addresses of its own.
fn collect_addresses(specs: &[HostSpec], top_addresses: &[ListenAddr]) -> Vec<AddressHosts> {
    let mut addresses: Vec<AddressHosts> = Vec::new();
    if specs.iter().all(|spec| spec.listens.is_empty()) {
        return addresses;
    }
    let top = |address: &ListenAddr| HostListen { address: address.clone(), is_default: false };
    for (index, spec) in specs.iter().enumerate() {
        let own = spec.listens.iter().cloned();
        let inherited = top_addresses.iter().filter(|_| spec.listens.is_empty()).map(top);
        for HostListen { address, is_default } in own.chain(inherited) {
            let place = addresses.iter().position(|known| known.address.has_same_address(&address));
            let place = place.unwrap_or_else(|| {
                addresses.push(AddressHosts { address, hosts: Vec::new(), default: None });
                addresses.len() - 1
            });
            let Some(known) = addresses.get_mut(place) else { continue };
            known.hosts.push(index);
            if is_default {
                known.default = Some(index);
            }
        }
    }
    for address in &mut addresses {
        let nameless = |index: &&usize| specs.get(**index).is_some_and(|spec| spec.names.is_empty());
        address.default = address.default.or_else(|| address.hosts.iter().find(nameless).copied());
    }
    addresses
}
