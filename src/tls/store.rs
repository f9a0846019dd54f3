//! The TLS configurations in use.

use std::collections::BTreeMap;
use std::sync::Arc;

use rustls::{ClientConfig, ServerConfig};

use super::client_config::build_client_config;
use super::file_error::TlsFileError;
use super::server_config::ServerConfigs;
use crate::fleet::{PoolSpec, TrustRoots};
use crate::routes::{ArrivalAddr, RouteTable, ServerCertificates};

/// The configuration of connections to replicas that trust the same issuers.
pub type ReplicaTlsConfig = Arc<ClientConfig>;

/// The TLS configurations of listeners and of replicas.
#[derive(Clone, Default)]
pub struct TlsStore {
    server_configs: ServerConfigs,
    /// Those of the previous store, for addresses that have just lost TLS.
    previous_server_configs: ServerConfigs,
    client_configs: BTreeMap<TrustRoots, ReplicaTlsConfig>,
    /// Those of the previous store, for replicas that have just left the configuration.
    previous_client_configs: BTreeMap<TrustRoots, ReplicaTlsConfig>,
}

impl TlsStore {
    /// Reads the files of `certificates`, of the hosts' own certificates and of the `pools`' trusted issuers.
    ///
    /// *Errors*: a file cannot be read or has other contents, or a key does not match its certificate.
    pub fn read(
        certificates: &ServerCertificates,
        routes: &Arc<RouteTable>,
        pools: &[PoolSpec],
    ) -> Result<Self, TlsFileError> {
        let mut store = Self { server_configs: ServerConfigs::read(certificates, routes)?, ..Self::default() };
        for tls in pools.iter().flat_map(|pool| &pool.members).filter_map(|member| member.origin.tls()) {
            store.add_trust(&tls.trust_roots)?;
        }
        Ok(store)
    }

    /// Reads the trusted issuers `trust`, unless they are known already.
    ///
    /// *Errors*: as [`TlsStore::read`].
    pub fn add_trust(&mut self, trust: &TrustRoots) -> Result<(), TlsFileError> {
        if !self.client_configs.contains_key(trust) {
            self.client_configs.insert(trust.clone(), build_client_config(trust)?.into());
        }
        Ok(())
    }

    /// Keeps the configurations of the previous store that may still be needed.
    ///
    /// Addresses stay bound over a reload, and a request to a replica that leaves may have to connect once more.
    #[must_use]
    pub fn inherit_from(mut self, previous: &Self) -> Self {
        self.previous_server_configs = previous.server_configs.clone();
        self.previous_client_configs = previous.client_configs.clone();
        self
    }

    /// Returns the configuration of a client's connection; `None` if its address has no certificate.
    pub(super) fn server_config(&self, arrival: &ArrivalAddr) -> Option<&Arc<ServerConfig>> {
        self.server_configs.find(arrival).or_else(|| self.previous_server_configs.find(arrival))
    }

    /// Returns the configuration for replicas whose issuers are `trust`; `None` if they were not read.
    pub fn client_config(&self, trust: &TrustRoots) -> Option<&ReplicaTlsConfig> {
        self.client_configs.get(trust).or_else(|| self.previous_client_configs.get(trust))
    }
}
