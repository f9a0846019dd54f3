//! Floor 3: TLS: the certificates that clients are shown, and whose certificates are taken for a replica's.
//!
//! Everything is read from files into a [`Keyring`], which is replaced whole; connections keep what they began with.

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
pub use explain::explain;
pub use server::{ClientStream, accept};

use crate::config::Certificates;
use crate::fleet::{PoolSpec, Trust};

/// What connections are secured with.
#[derive(Clone, Default)]
pub struct Keyring {
    server: Option<Arc<ServerConfig>>,
    clients: BTreeMap<Trust, Arc<ClientConfig>>,
    /// Those of the keyring before, for replicas that have just left the configuration.
    before: BTreeMap<Trust, Arc<ClientConfig>>,
}

/// A file that cannot be used.
#[derive(Debug, Error)]
#[error("cannot use {} as {}: {why}", path.display(), role.what())]
pub struct BadFile {
    /// The file; empty for what the system trusts.
    pub path: PathBuf,
    /// What may help.
    pub help: String,
    role: Role,
    why: String,
}

/// What a file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Certificate,
    Key,
    Issuers,
    System,
}

impl Role {
    const fn what(self) -> &'static str {
        match self {
            Self::Certificate => "a certificate",
            Self::Key => "a certificate's key",
            Self::Issuers => "trusted issuers",
            Self::System => "the system's trusted issuers",
        }
    }
}

impl Keyring {
    /// Reads the files of `certificates` and of the `pools`' trusted issuers.
    ///
    /// *Errors*: a file cannot be read or holds something else, or a key is not its certificate's.
    pub fn read(certificates: &Certificates, pools: &[PoolSpec]) -> Result<Self, BadFile> {
        let mut keyring = Self { server: server::config(certificates)?, ..Self::default() };
        for tls in pools.iter().flat_map(|pool| &pool.members).filter_map(|member| member.origin.tls()) {
            keyring.learn(&tls.trust)?;
        }
        Ok(keyring)
    }

    /// Gets ready for replicas that are trusted so.
    ///
    /// *Errors*: as [`Keyring::read`].
    pub fn learn(&mut self, trust: &Trust) -> Result<(), BadFile> {
        if !self.clients.contains_key(trust) {
            self.clients.insert(trust.clone(), client::config(trust)?.into());
        }
        Ok(())
    }

    /// Takes from the keyring before what may still be asked for: addresses stay bound over a reload, and a request on
    /// its way to a replica that leaves may have to connect once more.
    #[must_use]
    pub fn after(mut self, old: &Self) -> Self {
        self.server = self.server.or_else(|| old.server.clone());
        self.before = old.clients.clone();
        self
    }

    /// How replicas that are trusted so are connected to; `None` if nothing was read for them.
    pub fn client(&self, trust: &Trust) -> Option<&Arc<ClientConfig>> {
        self.clients.get(trust).or_else(|| self.before.get(trust))
    }
}

/// What a client is configured with that speaks to nobody by TLS: it trusts no one.
pub fn trusting_nobody() -> ClientConfig {
    client::trusting(rustls::RootCertStore::empty())
}

/// The one set of algorithms.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// The session's versions and suites are among the provider's, so this cannot happen.
const SUPPORTED: &str = "ring has suites for TLS 1.2 and 1.3";

fn unready() -> io::Error {
    io::Error::other("nothing was read for TLS here: reload the configuration")
}
