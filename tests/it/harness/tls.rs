//! A certificate authority, TLS clients that trust it, and a TLS terminator for replicas.

use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, ProtocolVersion};
use rustls::{RootCertStore, ServerConfig, SignatureScheme, StreamOwned};
use tokio::io::{copy, split};
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;

use super::TEST_TIMEOUT;
use super::client::TestClient;

/// A client's TLS connection.
pub type TlsClientStream = StreamOwned<ClientConnection, TcpStream>;

/// A certificate authority with its own folder.
pub struct CertificateAuthority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: PathBuf,
}

/// Files of a certificate chain and its key.
#[derive(Clone, Debug)]
pub struct CertificateFiles {
    pub chain_path: PathBuf,
    pub key_path: PathBuf,
}

/// A TLS terminator in front of a plain server. Like many servers, it closes without a `close_notify` alert.
pub struct TlsTerminator {
    pub addr: SocketAddr,
    /// The number of completed handshakes.
    pub handshakes: Arc<AtomicU32>,
    _stop: oneshot::Sender<()>,
}

impl CertificateAuthority {
    /// Creates an authority whose folder is called `name`; each test uses a different name.
    pub fn new(name: &str) -> Self {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        fs::write(folder.join("ca.pem"), issuer.pem()).unwrap();
        Self { issuer, folder }
    }

    /// Returns the path of a file in the folder. The folder is removed on drop.
    pub fn file_path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Returns the path of the authority's certificate.
    pub fn ca_path(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// Writes a certificate for `names` to files called `file`; replaces existing files.
    pub fn issue_certificate(&self, file: &str, names: &[&str]) -> CertificateFiles {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &self.issuer).unwrap();
        let pair = CertificateFiles {
            chain_path: self.folder.join(format!("{file}.pem")),
            key_path: self.folder.join(format!("{file}.key")),
        };
        fs::write(&pair.chain_path, certificate.pem()).unwrap();
        fs::write(&pair.key_path, key.serialize_pem()).unwrap();
        pair
    }

    /// Writes a self-signed certificate to files called `file`; an authority's certificate if `is_ca`.
    pub fn issue_self_signed(&self, file: &str, name: &str, is_ca: bool) -> CertificateFiles {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        if is_ca {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        let pair = CertificateFiles {
            chain_path: self.folder.join(format!("{file}.pem")),
            key_path: self.folder.join(format!("{file}.key")),
        };
        fs::write(&pair.chain_path, params.self_signed(&key).unwrap().pem()).unwrap();
        fs::write(&pair.key_path, key.serialize_pem()).unwrap();
        pair
    }

    /// Returns a client configuration that trusts this authority and speaks `versions`.
    pub fn client_config(&self, versions: &[&'static rustls::SupportedProtocolVersion], alpn: &[&str]) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let config = config.with_protocol_versions(versions).unwrap();
        let mut config = config.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        config
    }

    /// Connects and completes the handshake.
    pub fn connect(&self, addr: SocketAddr, name: &str, alpn: &[&str]) -> TlsClientStream {
        tls_handshake(self.client_config(rustls::ALL_VERSIONS, alpn), addr, name).unwrap()
    }

    /// Returns whether a handshake succeeds.
    pub fn can_handshake(&self, addr: SocketAddr) -> bool {
        tls_handshake(self.client_config(rustls::ALL_VERSIONS, &[]), addr, "localhost").is_ok()
    }

    /// Connects like [`TestClient::connect`], over TLS.
    pub fn connect_client(&self, addr: SocketAddr) -> TestClient<TlsClientStream> {
        TestClient::from_stream(self.connect(addr, "localhost", &["http/1.1"]))
    }
}

impl Drop for CertificateAuthority {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.folder));
    }
}

/// Connects and completes the handshake. Errors: those of the handshake.
pub fn tls_handshake(config: ClientConfig, addr: SocketAddr, name: &str) -> std::io::Result<TlsClientStream> {
    let socket = TcpStream::connect(addr).unwrap();
    socket.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
    socket.set_nodelay(true).unwrap();
    tls_handshake_on(config, socket, name)
}

/// Completes the handshake on a connection. Errors: those of the handshake.
pub fn tls_handshake_on(config: ClientConfig, socket: TcpStream, name: &str) -> std::io::Result<TlsClientStream> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut stream = StreamOwned::new(ClientConnection::new(Arc::new(config), name).unwrap(), socket);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    stream.flush()?;
    Ok(stream)
}

/// Returns a verifier that accepts every certificate, for tests that look at the certificate themselves.
pub fn accept_any_certificate() -> Arc<dyn ServerCertVerifier> {
    Arc::new(AnyCertificate(ring::default_provider().signature_verification_algorithms))
}

#[derive(Debug)]
struct AnyCertificate(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for AnyCertificate {
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
        verify_tls12_signature(message, certificate, signed, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

/// Returns the peer's first certificate.
pub fn peer_certificate(stream: &TlsClientStream) -> Vec<u8> {
    stream.conn.peer_certificates().unwrap()[0].to_vec()
}

/// Returns the first certificate in a file.
pub fn certificate_der(pair: &CertificateFiles) -> Vec<u8> {
    CertificateDer::from_pem_file(&pair.chain_path).unwrap().to_vec()
}

/// Returns the negotiated protocol version.
pub fn protocol_version(stream: &TlsClientStream) -> ProtocolVersion {
    stream.conn.protocol_version().unwrap()
}

impl TlsTerminator {
    /// Starts a terminator that forwards to `to` with this certificate.
    pub fn start(pair: &CertificateFiles, to: SocketAddr) -> Self {
        let chain = CertificateDer::pem_file_iter(&pair.chain_path).unwrap().map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_file(&pair.key_path).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let acceptor = TlsAcceptor::from(Arc::new(config.with_single_cert(chain, key).unwrap()));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let addr = listener.local_addr().unwrap();
        let shaken = Arc::<AtomicU32>::default();
        let (quit, quitting) = oneshot::channel();
        let count = shaken.clone();
        let serve = async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, count) = (acceptor.clone(), count.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    count.fetch_add(1, Ordering::Relaxed);
                    let behind = tokio::net::TcpStream::connect(to).await.unwrap();
                    let ((mut client_read, mut client_write), (mut server_read, mut server_write)) =
                        (split(stream), split(behind));
                    tokio::select! {
                        _ = copy(&mut client_read, &mut server_write) => {}
                        _ = copy(&mut server_read, &mut client_write) => {}
                    }
                });
            }
        };
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                tokio::select! {
                    () = serve => {}
                    _ = quitting => {}
                }
            });
        });
        Self { addr, handshakes: shaken, _stop: quit }
    }

    pub fn url(&self, host: &str) -> String {
        format!("https://{host}:{}", self.addr.port())
    }
}
