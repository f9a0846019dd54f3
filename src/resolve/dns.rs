//! Asking DNS servers.

use std::net::IpAddr;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::lookup::Lookup as Found;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{RData, RecordType};
use tokio::time::timeout;

use super::{Answer, Peer};
use crate::config;

/// No single question to one server takes longer.
const QUESTION: Duration = Duration::from_secs(2);
/// The most addresses that one name stands for.
const PEERS: usize = 256;

/// The servers that are asked.
pub(super) struct Dns {
    resolver: TokioResolver,
    patience: Duration,
}

/// A kind of record, none of which may be there, with what is left of the least of their times to live.
struct Records {
    data: Vec<RData>,
    ttl: u32,
}

impl Dns {
    /// The configured servers, else the system's with its hosts file.
    ///
    /// *Errors*: the system's configuration cannot be read.
    pub(super) fn new(dns: &config::Dns) -> Result<Self, String> {
        let provider = TokioRuntimeProvider::default();
        let mut builder = if dns.servers.is_empty() {
            TokioResolver::builder(provider).map_err(|error| error.to_string())?
        } else {
            let servers = dns.servers.iter().map(|server| {
                let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
                    connection.port = server.port();
                    connection
                });
                NameServerConfig::new(server.ip(), false, connections.into())
            });
            TokioResolver::builder_with_config(ResolverConfig::from_name_servers(servers.collect()), provider)
        };
        let options = builder.options_mut();
        options.timeout = QUESTION.min(dns.timeout);
        // Whoever asks does so when the time to live is over.
        options.cache_size = 0;
        let resolver = builder.build().map_err(|error| error.to_string())?;
        Ok(Self { resolver, patience: dns.timeout })
    }

    /// Asks for a name's addresses, or for those of a service at it.
    ///
    /// *Errors*: no server has answered in time, or there are none.
    pub(super) async fn ask(&self, host: &str, service: Option<&str>) -> Result<Answer, String> {
        let asking = async {
            match service {
                None => self.addresses(host).await,
                Some(service) => self.service(&full_name(service, host)).await,
            }
        };
        let answer =
            timeout(self.patience, asking).await.map_err(|_| format!("no answer in {:?}", self.patience))??;
        if answer.peers.is_empty() { Err("there are no addresses".to_owned()) } else { Ok(answer) }
    }

    async fn addresses(&self, host: &str) -> Result<Answer, String> {
        let (four, six) = tokio::join!(self.records(host, RecordType::A), self.records(host, RecordType::AAAA));
        // Half an answer would take replicas away that are there.
        let (four, six) = (four?, six?);
        let ttl = four.ttl.min(six.ttl);
        let address = |data: &RData| match data {
            RData::A(address) => Some(IpAddr::V4(address.0)),
            RData::AAAA(address) => Some(IpAddr::V6(address.0)),
            _ => None,
        };
        let addresses = four.data.iter().chain(&six.data).filter_map(address);
        let mut peers: Vec<Peer> = addresses.map(Peer::at).take(PEERS).collect();
        // Servers rotate their answers; members keep their places.
        peers.sort();
        peers.dedup();
        Ok(Answer { peers, ttl: Duration::from_secs(ttl.into()) })
    }

    /// Services of the best priority first; the others are for when none of these can be chosen.
    async fn service(&self, name: &str) -> Result<Answer, String> {
        let records = self.records(name, RecordType::SRV).await?;
        let mut services: Vec<_> =
            records.data.iter().filter_map(|data| if let RData::SRV(srv) = data { Some(srv) } else { None }).collect();
        services.sort_by_key(|srv| srv.priority);
        services.truncate(PEERS);
        let best = services.first().map(|srv| srv.priority);
        let mut all = Answer { peers: Vec::new(), ttl: Duration::from_secs(records.ttl.into()) };
        for srv in services {
            let answer = self.addresses(&srv.target.to_string()).await?;
            all.ttl = all.ttl.min(answer.ttl);
            all.peers.extend(answer.peers.into_iter().map(|peer| Peer {
                port: Some(srv.port),
                weight: Some(u32::from(srv.weight).max(1)),
                spare: Some(srv.priority) != best,
                ..peer
            }));
        }
        all.peers.sort();
        all.peers.dedup_by_key(|peer| (peer.address, peer.port));
        all.peers.truncate(PEERS);
        Ok(all)
    }

    async fn records(&self, name: &str, kind: RecordType) -> Result<Records, String> {
        match self.resolver.lookup(name, kind).await {
            Ok(found) => Ok(Records::of(&found)),
            Err(error) if error.is_no_records_found() => Ok(Records { data: Vec::new(), ttl: u32::MAX }),
            Err(error) => Err(error.to_string()),
        }
    }
}

impl Records {
    fn of(found: &Found) -> Self {
        let ttl = found.answers().iter().map(|record| record.ttl).min().unwrap_or(u32::MAX);
        Self { data: found.answers().iter().map(|record| record.data.clone()).collect(), ttl }
    }
}

/// nginx's reading of `service=`: without a dot it is a name of RFC 2782 over TCP, with one it stands as it is.
fn full_name(service: &str, host: &str) -> String {
    if service.contains('.') { format!("{service}.{host}") } else { format!("_{service}._tcp.{host}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_named_as_nginx_names_it() {
        assert_eq!(full_name("http", "gpu.test"), "_http._tcp.gpu.test");
        assert_eq!(full_name("_http._tcp", "gpu.test"), "_http._tcp.gpu.test");
        assert_eq!(full_name("server1.dc", "gpu.test"), "server1.dc.gpu.test");
    }
}
