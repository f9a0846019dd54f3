//! The TLS configuration of client connections.

use std::sync::Arc;

use rustls::InconsistentKeys;
use rustls::client::verify_server_name;
use rustls::crypto::ring::Ticketer;
use rustls::pki_types::ServerName;
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert, ServerConfig};
use rustls::sign::CertifiedKey;

use super::crypto::{PROTOCOLS_SUPPORTED, crypto_provider};
use super::file_error::{FileRole, TlsFileError};
use super::pem;
use crate::config::ServerCertificates;

/// Chooses the certificate by the server name that the client sends (SNI).
#[derive(Debug)]
struct SniResolver {
    /// In configuration order, at least one.
    certified_keys: Vec<Arc<CertifiedKey>>,
}

impl ResolvesServerCert for SniResolver {
    /// Returns the first certificate that is valid for the name, else the first.
    ///
    /// Verifies the name against each certificate, microseconds each, so that wildcards mean what they mean to clients.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // A client may support only one of two certificates for a name, one of RSA and one of ECDSA.
        let is_supported = |key: &&Arc<CertifiedKey>| key.key.choose_scheme(hello.signature_schemes()).is_some();
        let requested = hello.server_name().filter(|_| self.certified_keys.len() > 1);
        let name = requested.and_then(|name| ServerName::try_from(name).ok());
        let found =
            name.and_then(|name| self.certified_keys.iter().filter(is_supported).find(|key| is_valid_for(key, &name)));
        found.or_else(|| self.certified_keys.iter().find(is_supported)).cloned()
    }
}

fn is_valid_for(key: &CertifiedKey, name: &ServerName<'_>) -> bool {
    let parsed = key.end_entity_cert().and_then(ParsedCertificate::try_from);
    parsed.is_ok_and(|certificate| verify_server_name(&certificate, name).is_ok())
}

/// Builds the configuration of client connections; `None` without certificates.
///
/// *Errors*: a file cannot be read or has other contents, or a key does not match its certificate.
pub(super) fn build_server_config(
    certificates: &ServerCertificates,
) -> Result<Option<Arc<ServerConfig>>, TlsFileError> {
    if certificates.chains.is_empty() {
        return Ok(None);
    }
    let provider = crypto_provider();
    let mut certified_keys = Vec::new();
    for (chain, key) in certificates.chains.iter().zip(&certificates.keys) {
        let certificate = pem::read_certificates(chain, FileRole::Certificate)?;
        if let Some(Err(error)) = certificate.first().map(ParsedCertificate::try_from) {
            return Err(TlsFileError::new(
                chain,
                FileRole::Certificate,
                &error.to_string(),
                "only X.509 version 3 is supported",
            ));
        }
        let private = pem::read_private_key(key)?;
        certified_keys.push(Arc::new(CertifiedKey::from_der(certificate, private, &provider).map_err(|error| {
            match error {
                rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                    let reason = format!("it is not the key of {}", chain.display());
                    let help = "openssl x509 -pubkey -noout -in CERTIFICATE and openssl pkey -pubout -in KEY print the \
                            same for a pair; the server's own certificate must be the first in its file";
                    TlsFileError::new(key, FileRole::Key, &reason, help)
                }
                error => TlsFileError::new(
                    key,
                    FileRole::Key,
                    &error.to_string(),
                    "supported keys: RSA of 2048 bits or more, ECDSA P-256 and P-384, Ed25519",
                ),
            }
        })?));
    }
    let config =
        ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect(PROTOCOLS_SUPPORTED);
    let mut config = config.with_no_client_auth().with_cert_resolver(Arc::new(SniResolver { certified_keys }));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // Tickets let every worker resume a session without shared state. Without randomness sessions are not resumed.
    if let Ok(ticketer) = Ticketer::new() {
        config.ticketer = ticketer;
    }
    Ok(Some(Arc::new(config)))
}
