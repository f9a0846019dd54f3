//! The HTTP client of a replica's probes.

use std::collections::BTreeMap;
use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use http::header::HOST;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{RequestBuilder, Response};

use crate::clock::Clock;
use crate::fleet::{ApiKey, Fleet, Origin, Replica};
use crate::telemetry::{ErrorLog, LogLevel};
use crate::tls::{self, ReplicaTlsConfig, TlsStore};
use crate::units::ReplicaId;

/// The errors of a port, or of a Unix socket, at which nothing listens.
const REFUSALS: [io::ErrorKind; 2] = [io::ErrorKind::ConnectionRefused, io::ErrorKind::NotFound];
/// Longest duration of one probe.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// The HTTP client of one replica's probes. It verifies the replica's certificate as requests do.
#[derive(Clone)]
pub(super) struct ProbeClient {
    client: reqwest::Client,
    replica: Arc<Replica>,
    /// `None` for `http://`.
    tls_config: Option<ReplicaTlsConfig>,
}

/// The clients of all replicas, kept while other replicas come and go.
#[derive(Default)]
pub struct ProbeClients {
    by_replica: BTreeMap<ReplicaId, ProbeClient>,
}

/// Resolves every name to the addresses of one host, for replicas whose certificate has another name.
struct FixedResolver(String);

impl Resolve for FixedResolver {
    fn resolve(&self, _: Name) -> Resolving {
        let host = self.0.clone();
        Box::pin(async move {
            // reqwest replaces port 0 by the URL's.
            let found = tokio::net::lookup_host((host, 0)).await?.collect::<Vec<_>>();
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

impl ProbeClient {
    /// *Errors*: the TLS configuration cannot be used.
    pub(super) fn new(replica: Arc<Replica>, tls_store: &TlsStore) -> reqwest::Result<Self> {
        let tls_config = find_tls_config(replica.origin(), tls_store).cloned();
        let client = build_client(replica.origin(), tls_config.as_ref())?;
        Ok(Self { client, replica, tls_config })
    }

    /// Returns whether the client is the one that would be built now: a reload replaces the TLS configuration.
    fn is_current(&self, tls_store: &TlsStore) -> bool {
        match (&self.tls_config, find_tls_config(self.replica.origin(), tls_store)) {
            (Some(this), Some(now)) => Arc::ptr_eq(this, now),
            (this, now) => this.is_none() && now.is_none(),
        }
    }

    pub(super) const fn replica(&self) -> &Arc<Replica> {
        &self.replica
    }

    /// Returns a GET request for `path`.
    pub(super) fn get(&self, path: &str, key: Option<&ApiKey>) -> RequestBuilder {
        self.request(Method::GET, path, key)
    }

    /// Returns a request for `path`. Its URL has the name in the replica's certificate, its `Host` the replica's host.
    pub(super) fn request(&self, method: Method, path: &str, key: Option<&ApiKey>) -> RequestBuilder {
        let origin = self.replica.origin();
        let url = match origin.tls().and_then(|tls| tls.server_name.as_ref()) {
            Some(name) => format!("https://{name}:{}{}{path}", origin.port(), origin.path_prefix()),
            None => format!("{}://{}{}{path}", origin.scheme(), origin.authority(), origin.path_prefix()),
        };
        let request = self.client.request(method, url).header(HOST, origin.authority());
        match key {
            Some(key) => request.bearer_auth(key.reveal()),
            None => request,
        }
    }

    /// Records whether the replica's port accepted the connection of a probe.
    pub(super) fn record_port_state(&self, result: &reqwest::Result<Response>, clock: Clock) {
        match result {
            Ok(_) => self.replica.port_state().record_connected(),
            Err(error) if is_connection_refused(error) => self.replica.port_state().record_refused(clock.now()),
            Err(_) => {}
        }
    }
}

impl ProbeClients {
    /// Builds the clients of new replicas, and those whose TLS configuration has changed; drops those of removed replicas.
    /// Returns how many were built. The log names the replicas that cannot have one.
    pub(super) fn update(&mut self, fleet: &Fleet, tls_store: &TlsStore, log: &ErrorLog) -> usize {
        let mut previous = std::mem::take(&mut self.by_replica);
        let mut built_count = 0;
        for replica in fleet.replicas() {
            let kept = previous.remove(&replica.id()).filter(|client| client.is_current(tls_store));
            built_count += usize::from(kept.is_none());
            match kept.map_or_else(|| ProbeClient::new(replica.clone(), tls_store), Ok) {
                Ok(client) => drop(self.by_replica.insert(replica.id(), client)),
                Err(error) => {
                    log.write(LogLevel::Error, format_args!("replica {} cannot be probed: {error}", replica.name()));
                }
            }
        }
        built_count
    }

    /// Returns the client of a replica; `None` if it cannot have one.
    pub(super) fn get(&self, replica: &Replica) -> Option<ProbeClient> {
        self.by_replica.get(&replica.id()).cloned()
    }
}

fn find_tls_config<'a>(origin: &Origin, tls_store: &'a TlsStore) -> Option<&'a ReplicaTlsConfig> {
    origin.tls().and_then(|tls| tls_store.client_config(&tls.trust_roots))
}

fn build_client(origin: &Origin, tls_config: Option<&ReplicaTlsConfig>) -> reqwest::Result<reqwest::Client> {
    let config = tls_config.map_or_else(tls::empty_client_config, |config| (**config).clone());
    let mut builder = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
    let has_other_name = origin.tls().is_some_and(|tls| tls.server_name.is_some());
    if has_other_name || origin.address().is_some() {
        let host = origin.address().map_or_else(|| origin.host().to_owned(), |address| address.to_string());
        builder = builder.dns_resolver(Arc::new(FixedResolver(host)));
    }
    if let Some(socket) = origin.socket() {
        builder = builder.unix_socket(socket);
    }
    let builder = builder.tls_backend_preconfigured(config);
    // Keeps no connection: it would be idle for a minute, and a server with one thread could serve no other.
    builder.timeout(PROBE_TIMEOUT).pool_max_idle_per_host(0).build()
}

fn is_connection_refused(error: &reqwest::Error) -> bool {
    let mut source = error.source();
    while let Some(error) = source {
        if error.downcast_ref::<io::Error>().is_some_and(|e| REFUSALS.contains(&e.kind())) {
            return true;
        }
        source = error.source();
    }
    false
}

/// Returns the specific part of a chain of errors: "connection refused", not "error sending request".
pub(super) fn root_cause(error: &(dyn Error + 'static)) -> String {
    if let Some(explanation) = tls::explain_handshake_error(error) {
        return explanation;
    }
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::fleet::{LeaseObserver, LeaseReport, PoolSpec};
    use crate::routes::ServerCertificates;

    struct IgnoringObserver;

    impl LeaseObserver for IgnoringObserver {
        fn on_settled(&self, _: &LeaseReport<'_>) {}
    }

    fn pools(urls: &[&str]) -> Vec<PoolSpec> {
        let urls: Vec<String> = urls.iter().map(|url| (*url).to_owned()).collect();
        config::from_urls(&urls, []).unwrap().settings.pools
    }

    #[test]
    fn clients_are_kept_while_other_replicas_come_and_go() {
        let observer: Arc<dyn LeaseObserver> = Arc::new(IgnoringObserver);
        let log = ErrorLog::new(None, LogLevel::Info, Clock::start());
        let read_tls =
            |pools: &[PoolSpec]| TlsStore::read(&ServerCertificates::default(), &Arc::default(), pools).unwrap();
        let first = pools(&["http://a", "https://b", "unix:/c"]);
        let (fleet, tls_store) = (Fleet::new(first.clone(), &observer, 1).unwrap(), read_tls(&first));
        let mut clients = ProbeClients::default();
        assert_eq!(clients.update(&fleet, &tls_store, &log), 3);
        assert_eq!(clients.update(&fleet, &tls_store, &log), 0);
        fleet.reload(pools(&["http://a", "https://b", "http://d"])).unwrap();
        assert_eq!((clients.update(&fleet, &tls_store, &log), clients.by_replica.len()), (1, 3));
        let new_tls = read_tls(&first).inherit_from(&tls_store);
        assert_eq!(clients.update(&fleet, &new_tls, &log), 1, "the certificates were read again");
    }
}
