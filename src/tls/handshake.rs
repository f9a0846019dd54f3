//! TLS handshakes with clients and replicas.

use std::io;

use rustls::pki_types::ServerName;
use rustls::server::ServerConnection;
use rustls::{CipherSuite, ProtocolVersion};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::explain::explain_handshake_error;
use super::store::TlsStore;
use crate::fleet::{Origin, UpstreamTls};
use crate::log_format::TlsSession;
use crate::routes::ArrivalAddr;

/// Most encrypted bytes that wait for a client to read them: one record.
const MAX_UNSENT_BYTES: usize = 16 << 10;

/// A client's connection after the handshake.
pub type ClientStream = tokio_rustls::server::TlsStream<TcpStream>;

/// A connection to a replica after the handshake.
pub type ReplicaStream = tokio_rustls::client::TlsStream<TcpStream>;

/// Performs the handshake with a client, without a timeout.
///
/// *Errors*: the client does not use TLS, or supports no common version or cipher suite.
pub async fn accept(
    tls_store: &TlsStore,
    arrival: &ArrivalAddr,
    stream: TcpStream,
) -> io::Result<(ClientStream, TlsSession)> {
    let config = tls_store.server_config(arrival).cloned().ok_or_else(not_loaded_error)?;
    let mut stream = TlsAcceptor::from(config).accept(stream).await?;
    stream.get_mut().1.set_buffer_limit(Some(MAX_UNSENT_BYTES));
    let session = tls_session(stream.get_ref().1);
    Ok((stream, session))
}

/// Performs the handshake with the replica at the other end of `stream` and verifies its certificate.
///
/// *Errors*: the certificate is not valid for the replica, or it does not use TLS. The text says how to fix it.
pub async fn connect(
    tls_store: &TlsStore,
    origin: &Origin,
    tls: &UpstreamTls,
    stream: TcpStream,
) -> io::Result<ReplicaStream> {
    let config = tls_store.client_config(&tls.trust_roots).ok_or_else(not_loaded_error)?.clone();
    let name = tls.server_name.as_deref().unwrap_or(origin.host()).trim_matches(['[', ']']).to_owned();
    let name = ServerName::try_from(name).map_err(|error| io::Error::other(format!("{error}: set `tls_name`")))?;
    TlsConnector::from(config).connect(name, stream).await.map_err(|error| match explain_handshake_error(&error) {
        Some(explanation) => io::Error::other(explanation),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            io::Error::other("the replica closed the connection during the TLS handshake")
        }
        None => error,
    })
}

fn not_loaded_error() -> io::Error {
    io::Error::other("TLS configuration is not loaded: reload the configuration")
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
