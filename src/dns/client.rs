//! The DNS client.

use std::net::IpAddr;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{RData, RecordType};
use tokio::time::timeout;

use super::answer::{DnsAnswer, DnsPeer};
use crate::config;

/// Longest duration of one query to one server.
const QUERY_TIMEOUT: Duration = Duration::from_secs(2);
/// Most addresses of one name that are used.
const MAX_PEERS: usize = 256;

/// A client of the configured name servers.
pub(super) struct DnsClient {
    resolver: TokioResolver,
    timeout: Duration,
}

/// The records of one type, possibly none, and the shortest time to live that is left.
struct DnsRecords {
    data: Vec<RData>,
    ttl_seconds: u32,
}

impl DnsClient {
    /// Returns a client of the configured servers, else of the system's with its hosts file.
    ///
    /// *Errors*: the system's configuration cannot be read.
    pub(super) fn new(settings: &config::DnsSettings) -> Result<Self, String> {
        let provider = TokioRuntimeProvider::default();
        let mut builder = if settings.servers.is_empty() {
            TokioResolver::builder(provider).map_err(|error| error.to_string())?
        } else {
            let servers = settings.servers.iter().map(|server| {
                let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
                    connection.port = server.port();
                    connection
                });
                NameServerConfig::new(server.ip(), false, connections.into())
            });
            TokioResolver::builder_with_config(ResolverConfig::from_name_servers(servers.collect()), provider)
        };
        let options = builder.options_mut();
        options.timeout = QUERY_TIMEOUT.min(settings.timeout);
        // Callers ask again when the time to live is over.
        options.cache_size = 0;
        let resolver = builder.build().map_err(|error| error.to_string())?;
        Ok(Self { resolver, timeout: settings.timeout })
    }

    /// Resolves the addresses of a name, or of a service at it.
    ///
    /// *Errors*: no server answered in time, or there are no addresses.
    pub(super) async fn resolve(&self, host: &str, service: Option<&str>) -> Result<DnsAnswer, String> {
        let lookup = async {
            match service {
                None => self.resolve_addresses(host).await,
                Some(service) => self.resolve_service(&srv_name(service, host)).await,
            }
        };
        let answer =
            timeout(self.timeout, lookup).await.map_err(|_| format!("timed out after {:?}", self.timeout))??;
        if answer.peers.is_empty() { Err("no addresses found".to_owned()) } else { Ok(answer) }
    }

    async fn resolve_addresses(&self, host: &str) -> Result<DnsAnswer, String> {
        let (v4, v6) =
            tokio::join!(self.fetch_records(host, RecordType::A), self.fetch_records(host, RecordType::AAAA));
        // With one of the two alone, replicas that are there would be removed.
        let (v4, v6) = (v4?, v6?);
        let ttl = v4.ttl_seconds.min(v6.ttl_seconds);
        let address = |data: &RData| match data {
            RData::A(address) => Some(IpAddr::V4(address.0)),
            RData::AAAA(address) => Some(IpAddr::V6(address.0)),
            _ => None,
        };
        let addresses = v4.data.iter().chain(&v6.data).filter_map(address);
        let mut peers: Vec<DnsPeer> = addresses.map(DnsPeer::from_address).take(MAX_PEERS).collect();
        // Servers rotate their answers, and members must keep their order.
        peers.sort();
        peers.dedup();
        Ok(DnsAnswer { peers, ttl: Duration::from_secs(ttl.into()) })
    }

    /// Resolves an SRV record. Services of the best priority are primary, all others backups.
    ///
    /// *Errors*: a lookup fails, or finds no record.
    async fn resolve_service(&self, name: &str) -> Result<DnsAnswer, String> {
        let records = self.fetch_records(name, RecordType::SRV).await?;
        let mut services: Vec<_> =
            records.data.iter().filter_map(|data| if let RData::SRV(srv) = data { Some(srv) } else { None }).collect();
        services.sort_by_key(|srv| srv.priority);
        services.truncate(MAX_PEERS);
        let best = services.first().map(|srv| srv.priority);
        let mut all = DnsAnswer { peers: Vec::new(), ttl: Duration::from_secs(records.ttl_seconds.into()) };
        for srv in services {
            let answer = self.resolve_addresses(&srv.target.to_string()).await?;
            all.ttl = all.ttl.min(answer.ttl);
            all.peers.extend(answer.peers.into_iter().map(|peer| DnsPeer {
                port: Some(srv.port),
                weight: Some(u32::from(srv.weight).max(1)),
                backup: Some(srv.priority) != best,
                ..peer
            }));
        }
        all.peers.sort();
        all.peers.dedup_by_key(|peer| (peer.address, peer.port));
        all.peers.truncate(MAX_PEERS);
        Ok(all)
    }

    async fn fetch_records(&self, name: &str, kind: RecordType) -> Result<DnsRecords, String> {
        match self.resolver.lookup(name, kind).await {
            Ok(lookup) => Ok(DnsRecords::from_lookup(&lookup)),
            Err(error) if error.is_no_records_found() => Ok(DnsRecords { data: Vec::new(), ttl_seconds: u32::MAX }),
            Err(error) => Err(error.to_string()),
        }
    }
}

impl DnsRecords {
    fn from_lookup(lookup: &Lookup) -> Self {
        let ttl = lookup.answers().iter().map(|record| record.ttl).min().unwrap_or(u32::MAX);
        Self { data: lookup.answers().iter().map(|record| record.data.clone()).collect(), ttl_seconds: ttl }
    }
}

/// Returns the name of a service's SRV record, as nginx reads `service=`.
///
/// Without a dot it is a service of RFC 2782 over TCP; with one it is used as it is.
fn srv_name(service: &str, host: &str) -> String {
    if service.contains('.') { format!("{service}.{host}") } else { format!("_{service}._tcp.{host}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn srv_name_follows_nginx() {
        assert_eq!(srv_name("http", "gpu.test"), "_http._tcp.gpu.test");
        assert_eq!(srv_name("_http._tcp", "gpu.test"), "_http._tcp.gpu.test");
        assert_eq!(srv_name("server1.dc", "gpu.test"), "server1.dc.gpu.test");
    }
}
