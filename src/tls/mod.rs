//! Floor 3: TLS: the certificates that clients are shown, and whose certificates are taken for a replica's.
//!
//! Everything is read from files into a [`TlsStore`], which is replaced whole; connections keep what they began with.

mod client;
mod explain;
mod pem;
mod server;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};
use rustls::{ClientConfig, ServerConfig};
use thiserror::Error;

pub use client::{ReplicaStream, connect};
pub use explain::explain_handshake_error;
pub use server::{ClientStream, accept};

use crate::config::ServerCertificates;
use crate::fleet::{PoolSpec, TrustRoots};

/// What connections are secured with.
#[derive(Clone, Default)]
pub struct TlsStore {
    server_config: Option<Arc<ServerConfig>>,
    client_configs: BTreeMap<TrustRoots, Arc<ClientConfig>>,
    /// Those of the keyring before, for replicas that have just left the configuration.
    previous_client_configs: BTreeMap<TrustRoots, Arc<ClientConfig>>,
}

/// A file that cannot be used.
#[derive(Debug, Error)]
#[error("cannot use {} as {}: {reason}", path.display(), role.description())]
pub struct TlsFileError {
    /// The file; empty for what the system trusts.
    pub path: PathBuf,
    /// What may help.
    pub help: String,
    role: FileRole,
    reason: String,
}

/// What a file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FileRole {
    Certificate,
    Key,
    Issuers,
    System,
}

impl FileRole {
    const fn description(self) -> &'static str {
        match self {
            Self::Certificate => "a certificate",
            Self::Key => "a certificate's key",
            Self::Issuers => "trusted issuers",
            Self::System => "the system's trusted issuers",
        }
    }
}

impl TlsStore {
    /// Reads the files of `certificates` and of the `pools`' trusted issuers.
    ///
    /// *Errors*: a file cannot be read or holds something else, or a key is not its certificate's.
    pub fn read(certificates: &ServerCertificates, pools: &[PoolSpec]) -> Result<Self, TlsFileError> {
        let mut keyring = Self { server_config: server::build_server_config(certificates)?, ..Self::default() };
        for tls in pools.iter().flat_map(|pool| &pool.members).filter_map(|member| member.origin.tls()) {
            keyring.add_trust(&tls.trust_roots)?;
        }
        Ok(keyring)
    }

    /// Gets ready for replicas that are trusted so.
    ///
    /// *Errors*: as [`TlsStore::read`].
    pub fn add_trust(&mut self, trust: &TrustRoots) -> Result<(), TlsFileError> {
        if !self.client_configs.contains_key(trust) {
            self.client_configs.insert(trust.clone(), client::build_client_config(trust)?.into());
        }
        Ok(())
    }

    /// Takes from the keyring before what may still be asked for: addresses stay bound over a reload, and a request on
    /// its way to a replica that leaves may have to connect once more.
    #[must_use]
    pub fn inherit_from(mut self, old: &Self) -> Self {
        self.server_config = self.server_config.or_else(|| old.server_config.clone());
        self.previous_client_configs = old.client_configs.clone();
        self
    }

    /// How replicas that are trusted so are connected to; `None` if nothing was read for them.
    pub fn client_config(&self, trust: &TrustRoots) -> Option<&Arc<ClientConfig>> {
        self.client_configs.get(trust).or_else(|| self.previous_client_configs.get(trust))
    }
}

/// What a client is configured with that speaks to nobody by TLS: it trusts no one.
pub fn empty_client_config() -> ClientConfig {
    client::config_with_roots(rustls::RootCertStore::empty())
}

/// The one set of algorithms.
fn crypto_provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// The session's versions and suites are among the provider's, so this cannot happen.
const PROTOCOLS_SUPPORTED: &str = "ring has suites for TLS 1.2 and 1.3";

fn not_loaded_error() -> io::Error {
    io::Error::other("nothing was read for TLS here: reload the configuration")
}
