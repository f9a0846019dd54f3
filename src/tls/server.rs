//! Our side of clients' connections.

use std::io;
use std::sync::Arc;

use rustls::client::verify_server_name;
use rustls::crypto::ring::Ticketer;
use rustls::pki_types::ServerName;
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert, ServerConfig, ServerConnection};
use rustls::sign::CertifiedKey;
use rustls::{CipherSuite, InconsistentKeys, ProtocolVersion};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::pem::{self, file_error};
use super::{FileRole, PROTOCOLS_SUPPORTED, TlsFileError, TlsStore, crypto_provider, not_loaded_error};
use crate::config::ServerCertificates;
use crate::log_format::TlsSession;

/// The most that waits encrypted for a client to take it: a record.
const MAX_UNSENT_BYTES: usize = 16 << 10;

/// A client's connection behind its handshake.
pub type ClientStream = tokio_rustls::server::TlsStream<TcpStream>;

/// Chooses the certificate by the name that the client asks for.
#[derive(Debug)]
struct SniResolver {
    /// In configuration order, at least one.
    certified_keys: Vec<Arc<CertifiedKey>>,
}

impl ResolvesServerCert for SniResolver {
    /// The first whose names match, else the first. Looks through all of them, microseconds each: names are not taken
    /// out of certificates, so that wildcards mean here what they mean to clients.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // A client may understand only one of two certificates for a name, one of RSA and one of ECDSA.
        let fits = |key: &&Arc<CertifiedKey>| key.key.choose_scheme(hello.signature_schemes()).is_some();
        let asked = hello.server_name().filter(|_| self.certified_keys.len() > 1);
        let name = asked.and_then(|name| ServerName::try_from(name).ok());
        let found = name.and_then(|name| self.certified_keys.iter().filter(fits).find(|key| is_valid_for(key, &name)));
        found.or_else(|| self.certified_keys.iter().find(fits)).cloned()
    }
}

fn is_valid_for(key: &CertifiedKey, name: &ServerName<'_>) -> bool {
    let parsed = key.end_entity_cert().and_then(ParsedCertificate::try_from);
    parsed.is_ok_and(|certificate| verify_server_name(&certificate, name).is_ok())
}

/// Reads certificates and keys; `None` if there are none.
pub(super) fn build_server_config(
    certificates: &ServerCertificates,
) -> Result<Option<Arc<ServerConfig>>, TlsFileError> {
    if certificates.chains.is_empty() {
        return Ok(None);
    }
    let provider = crypto_provider();
    let mut all = Vec::new();
    for (chain, key) in certificates.chains.iter().zip(&certificates.keys) {
        let certificate = pem::read_certificates(chain, FileRole::Certificate)?;
        if let Some(Err(error)) = certificate.first().map(ParsedCertificate::try_from) {
            return Err(file_error(
                chain,
                FileRole::Certificate,
                &error.to_string(),
                "only X.509 version 3 is understood",
            ));
        }
        let private = pem::read_private_key(key)?;
        all.push(Arc::new(CertifiedKey::from_der(certificate, private, &provider).map_err(|error| match error {
            rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                let why = format!("it is not the key of {}", chain.display());
                let help = "openssl x509 -pubkey -noout -in CERTIFICATE and openssl pkey -pubout -in KEY say the same \
                            for a pair; the certificate itself comes first in its file";
                file_error(key, FileRole::Key, &why, help)
            }
            error => file_error(
                key,
                FileRole::Key,
                &error.to_string(),
                "RSA from 2048 bits, ECDSA P-256, P-384 and Ed25519 will do",
            ),
        })?));
    }
    let config =
        ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect(PROTOCOLS_SUPPORTED);
    let mut config = config.with_no_client_auth().with_cert_resolver(Arc::new(SniResolver { certified_keys: all }));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // Sessions are resumed at any worker and nothing is kept for them; without randomness they are not resumed.
    if let Ok(ticketer) = Ticketer::new() {
        config.ticketer = ticketer;
    }
    Ok(Some(Arc::new(config)))
}

/// Shakes hands with a client, however long it takes.
///
/// *Errors*: the client does not speak TLS, or nothing that we speak too.
pub async fn accept(keyring: &TlsStore, stream: TcpStream) -> io::Result<(ClientStream, TlsSession)> {
    let config = keyring.server_config.clone().ok_or_else(not_loaded_error)?;
    let mut stream = TlsAcceptor::from(config).accept(stream).await?;
    stream.get_mut().1.set_buffer_limit(Some(MAX_UNSENT_BYTES));
    let session = tls_session(stream.get_ref().1);
    Ok((stream, session))
}

fn tls_session(connection: &ServerConnection) -> TlsSession {
    let protocol = match connection.protocol_version() {
        Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
        _ => "TLSv1.2",
    };
    let cipher = match connection.negotiated_cipher_suite().map(|suite| suite.suite()) {
        Some(CipherSuite::TLS13_AES_256_GCM_SHA384) => "TLS_AES_256_GCM_SHA384",
        Some(CipherSuite::TLS13_AES_128_GCM_SHA256) => "TLS_AES_128_GCM_SHA256",
        Some(CipherSuite::TLS13_CHACHA20_POLY1305_SHA256) => "TLS_CHACHA20_POLY1305_SHA256",
        Some(CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384) => "ECDHE-ECDSA-AES256-GCM-SHA384",
        Some(CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256) => "ECDHE-ECDSA-AES128-GCM-SHA256",
        Some(CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256) => "ECDHE-ECDSA-CHACHA20-POLY1305",
        Some(CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384) => "ECDHE-RSA-AES256-GCM-SHA384",
        Some(CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256) => "ECDHE-RSA-AES128-GCM-SHA256",
        Some(CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256) => "ECDHE-RSA-CHACHA20-POLY1305",
        _ => "-",
    };
    TlsSession { protocol, cipher }
}
