//! Certificates with their keys, and the choice of one for a client.

use std::sync::Arc;

use rustls::InconsistentKeys;
use rustls::client::verify_server_name;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::ServerName;
use rustls::server::{ClientHello, ParsedCertificate};
use rustls::sign::CertifiedKey;

use super::file_error::{FileRole, TlsFileError};
use super::pem;
use crate::routes::ServerCertificates;

/// Certificates with their keys, in configuration order.
#[derive(Clone, Debug, Default)]
pub(super) struct CertifiedKeys(Vec<Arc<CertifiedKey>>);

impl CertifiedKeys {
    /// Reads the files of `certificates`.
    ///
    /// *Errors*: a file cannot be read or has other contents, or a key does not match its certificate.
    pub(super) fn read(certificates: &ServerCertificates, provider: &CryptoProvider) -> Result<Self, TlsFileError> {
        let mut keys = Vec::new();
        for (chain, key) in certificates.chains.iter().zip(&certificates.keys) {
            let certificate = pem::read_certificates(chain, FileRole::Certificate)?;
            if let Some(Err(error)) = certificate.first().map(ParsedCertificate::try_from) {
                let help = "only X.509 version 3 is supported";
                return Err(TlsFileError::new(chain, FileRole::Certificate, &error.to_string(), help));
            }
            let private = pem::read_private_key(key)?;
            let certified = CertifiedKey::from_der(certificate, private, provider);
            keys.push(Arc::new(certified.map_err(|error| match error {
                rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                    let reason = format!("it is not the key of {}", chain.display());
                    let help = "openssl x509 -pubkey -noout -in CERTIFICATE and openssl pkey -pubout -in KEY print the \
                                same for a pair; the server's own certificate must be the first in its file";
                    TlsFileError::new(key, FileRole::Key, &reason, help)
                }
                error => {
                    let help = "supported keys: RSA of 2048 bits or more, ECDSA P-256 and P-384, Ed25519";
                    TlsFileError::new(key, FileRole::Key, &error.to_string(), help)
                }
            })?));
        }
        Ok(Self(keys))
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the first certificate that is valid for the client's name, else the first; `None` if the client supports
    /// none.
    ///
    /// Verifies the name against each certificate, microseconds each, so that wildcards mean what they mean to clients.
    pub(super) fn choose(&self, hello: &ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // A client may support only one of two certificates for a name, one of RSA and one of ECDSA.
        let is_supported = |key: &&Arc<CertifiedKey>| key.key.choose_scheme(hello.signature_schemes()).is_some();
        let requested = hello.server_name().filter(|_| self.0.len() > 1);
        let name = requested.and_then(|name| ServerName::try_from(name).ok());
        let found = name.and_then(|name| self.0.iter().filter(is_supported).find(|key| is_valid_for(key, &name)));
        found.or_else(|| self.0.iter().find(is_supported)).cloned()
    }
}

fn is_valid_for(key: &CertifiedKey, name: &ServerName<'_>) -> bool {
    let parsed = key.end_entity_cert().and_then(ParsedCertificate::try_from);
    parsed.is_ok_and(|certificate| verify_server_name(&certificate, name).is_ok())
}
