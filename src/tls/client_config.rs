//! The TLS configuration of connections to replicas.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::crypto::{PROTOCOLS_SUPPORTED, crypto_provider};
use super::file_error::{FileRole, TlsFileError};
use super::pem;
use crate::fleet::TrustRoots;

/// Accepts any certificate; verifies only that the replica has its key.
#[derive(Debug)]
struct NoVerifier(Arc<CryptoProvider>);

impl ServerCertVerifier for NoVerifier {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Builds the configuration for replicas whose issuers are `trust`.
///
/// *Errors*: a file cannot be read, or has no issuers.
pub(super) fn build_client_config(trust: &TrustRoots) -> Result<ClientConfig, TlsFileError> {
    Ok(match trust {
        TrustRoots::System => config_with_roots(load_system_roots()?),
        TrustRoots::File(path) => config_with_roots(load_roots_file(path)?),
        TrustRoots::Insecure => {
            let mut config = config_with_roots(RootCertStore::empty());
            config.dangerous().set_certificate_verifier(Arc::new(NoVerifier(crypto_provider())));
            config
        }
    })
}

/// Returns the configuration for clients that trust the system's issuers.
///
/// *Errors*: the system has none.
pub fn system_client_config() -> Result<ClientConfig, TlsFileError> {
    build_client_config(&TrustRoots::System)
}

/// Returns the configuration for clients that use no TLS: it trusts no issuer.
pub fn empty_client_config() -> ClientConfig {
    config_with_roots(RootCertStore::empty())
}

fn config_with_roots(roots: RootCertStore) -> ClientConfig {
    let config = ClientConfig::builder_with_provider(crypto_provider()).with_safe_default_protocol_versions();
    let mut config = config.expect(PROTOCOLS_SUPPORTED).with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}

fn load_system_roots() -> Result<RootCertStore, TlsFileError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // Stores have a few certificates that can no longer be parsed.
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let reason = found.errors.first().map_or_else(|| "there are none".to_owned(), ToString::to_string);
        let help = "install the package ca-certificates, or set `tls_ca` to the issuer of the replicas' certificates";
        return Err(TlsFileError::new(Path::new(""), FileRole::SystemIssuers, &reason, help));
    }
    Ok(roots)
}

fn load_roots_file(path: &Path) -> Result<RootCertStore, TlsFileError> {
    let mut roots = RootCertStore::empty();
    for certificate in pem::read_certificates(path, FileRole::Issuers)? {
        roots.add(certificate).map_err(|error| {
            TlsFileError::new(path, FileRole::Issuers, &error.to_string(), "only X.509 version 3 is supported")
        })?;
    }
    Ok(roots)
}
