//! Connections to replicas.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::pem::{self, file_error};
use super::{
    FileRole, PROTOCOLS_SUPPORTED, TlsFileError, TlsStore, crypto_provider, explain_handshake_error, not_loaded_error,
};
use crate::fleet::{Origin, TrustRoots, UpstreamTls};

/// A connection to a replica behind its handshake.
pub type ReplicaStream = tokio_rustls::client::TlsStream<TcpStream>;

/// Takes any certificate; only that its key is the other side's is verified.
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

/// Reads what is needed to trust so.
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

pub(super) fn config_with_roots(roots: RootCertStore) -> ClientConfig {
    let config = ClientConfig::builder_with_provider(crypto_provider()).with_safe_default_protocol_versions();
    let mut config = config.expect(PROTOCOLS_SUPPORTED).with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}

fn load_system_roots() -> Result<RootCertStore, TlsFileError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // Stores hold a few certificates that nobody understands any more.
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let why = found.errors.first().map_or_else(|| "there are none".to_owned(), ToString::to_string);
        let help = "install the package ca-certificates, or name the issuer of the replicas' certificates in `tls_ca`";
        return Err(file_error(Path::new(""), FileRole::System, &why, help));
    }
    Ok(roots)
}

fn load_roots_file(path: &Path) -> Result<RootCertStore, TlsFileError> {
    let mut roots = RootCertStore::empty();
    for certificate in pem::read_certificates(path, FileRole::Issuers)? {
        roots.add(certificate).map_err(|error| {
            file_error(path, FileRole::Issuers, &error.to_string(), "only X.509 version 3 is understood")
        })?;
    }
    Ok(roots)
}

/// Shakes hands with the replica at the other end of `stream` and verifies who it is.
///
/// *Errors*: it is somebody else, or does not speak TLS; the text says what to do.
pub async fn connect(
    keyring: &TlsStore,
    origin: &Origin,
    tls: &UpstreamTls,
    stream: TcpStream,
) -> io::Result<ReplicaStream> {
    let config = keyring.client_config(&tls.trust_roots).ok_or_else(not_loaded_error)?.clone();
    let name = tls.server_name.as_deref().unwrap_or(origin.host()).trim_matches(['[', ']']).to_owned();
    let name = ServerName::try_from(name).map_err(|error| io::Error::other(format!("{error}: set `tls_name`")))?;
    TlsConnector::from(config).connect(name, stream).await.map_err(|error| match explain_handshake_error(&error) {
        Some(why) => io::Error::other(why),
        None if error.kind() == io::ErrorKind::UnexpectedEof => io::Error::other("it closed instead of shaking hands"),
        None => error,
    })
}
