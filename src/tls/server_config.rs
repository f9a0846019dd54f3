//! The TLS configurations of client connections, one for each address.

use std::collections::BTreeMap;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::Ticketer;
use rustls::server::{ClientHello, ResolvesServerCert, ServerConfig};
use rustls::sign::CertifiedKey;

use super::certificates::CertifiedKeys;
use super::crypto::{PROTOCOLS_SUPPORTED, crypto_provider};
use super::file_error::TlsFileError;
use crate::routes::{AddressIndex, ArrivalAddr, RouteTable, ServerCertificates};

/// The configurations of the addresses that have a certificate.
///
/// Each has its own keys for session tickets, and rustls resumes no session for another server name: a ticket never
/// stands for the certificate of another host.
#[derive(Clone, Default)]
pub(super) struct ServerConfigs {
    routes: Arc<RouteTable>,
    /// `None` for addresses that no host has.
    by_address: BTreeMap<Option<AddressIndex>, Arc<ServerConfig>>,
}

/// The certificates of all hosts, read once.
#[derive(Debug)]
struct HostCertificates {
    /// By the host's index; `None` for a host without its own.
    hosts: Vec<Option<CertifiedKeys>>,
    /// Those at the top; `None` without any.
    top: Option<CertifiedKeys>,
}

/// Chooses the certificate of the host that the client's server name (SNI) leads to at one address.
#[derive(Debug)]
struct HostResolver {
    routes: Arc<RouteTable>,
    address: Option<AddressIndex>,
    certificates: Arc<HostCertificates>,
    /// Those of a client whose host has none.
    fallback: CertifiedKeys,
}

impl ServerConfigs {
    /// Reads the certificates of the hosts and those at the top, `certificates`.
    ///
    /// *Errors*: a file cannot be read or has other contents, or a key does not match its certificate.
    pub(super) fn read(certificates: &ServerCertificates, routes: &Arc<RouteTable>) -> Result<Self, TlsFileError> {
        let provider = crypto_provider();
        let read =
            |certificates| Ok(Some(CertifiedKeys::read(certificates, &provider)?).filter(|keys| !keys.is_empty()));
        let top = read(certificates)?;
        let hosts = routes.certificates().map(read).collect::<Result<Vec<_>, _>>()?;
        let certificates = Arc::new(HostCertificates { hosts, top });
        let hosts_at = routes.tls_addresses().into_iter().map(|(address, hosts)| (Some(address), hosts));
        let mut by_address = BTreeMap::new();
        for (address, hosts) in hosts_at.chain([(None, Vec::new())]) {
            let Some(fallback) = certificates.fallback(routes, address, &hosts).cloned() else { continue };
            let (routes, certificates) = (routes.clone(), certificates.clone());
            let resolver = Arc::new(HostResolver { routes, address, certificates, fallback });
            by_address.insert(address, Arc::new(build_server_config(&provider, resolver)));
        }
        Ok(Self { routes: routes.clone(), by_address })
    }

    /// Returns the configuration of a connection; `None` if its address has no certificate.
    pub(super) fn find(&self, arrival: &ArrivalAddr) -> Option<&Arc<ServerConfig>> {
        self.by_address.get(&self.routes.find_address(arrival))
    }
}

impl HostCertificates {
    fn host(&self, index: Option<usize>) -> Option<&CertifiedKeys> {
        self.hosts.get(index?)?.as_ref()
    }

    /// Returns the certificates for clients whose host at `address` has none: those at the top, else those of the default
    /// host, else those of the first of `hosts` that has any.
    fn fallback(&self, routes: &RouteTable, address: Option<AddressIndex>, hosts: &[usize]) -> Option<&CertifiedKeys> {
        let default = || self.host(routes.find_host_index(address?, None));
        let first = || hosts.iter().find_map(|index| self.host(Some(*index)));
        self.top.as_ref().or_else(default).or_else(first)
    }
}

impl ResolvesServerCert for HostResolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // rustls has written the name in lower case.
        let name = hello.server_name().map(|name| name.strip_suffix('.').unwrap_or(name));
        let host = self.address.and_then(|address| self.routes.find_host_index(address, name));
        self.certificates.host(host).unwrap_or(&self.fallback).choose(&hello)
    }
}

fn build_server_config(provider: &Arc<CryptoProvider>, resolver: Arc<HostResolver>) -> ServerConfig {
    let config = ServerConfig::builder_with_provider(provider.clone());
    let config = config.with_safe_default_protocol_versions().expect(PROTOCOLS_SUPPORTED);
    let mut config = config.with_no_client_auth().with_cert_resolver(resolver);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // Tickets let every worker resume a session without shared state. Without randomness sessions are not resumed.
    if let Ok(ticketer) = Ticketer::new() {
        config.ticketer = ticketer;
    }
    config
}
