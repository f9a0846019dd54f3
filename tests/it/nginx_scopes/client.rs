//! Sends one raw request on a connection of its own.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use socket2::{Domain, Socket, Type};

use super::case::{CaseListener, ServerAddress};
use super::requests::CaseRequest;
use crate::harness::TEST_TIMEOUT;
use crate::harness::client::{HttpResponse, TestClient};
use crate::harness::tls::{CertificateAuthority, peer_certificate, tls_handshake_on};

/// A connection over TCP, TLS or a Unix socket.
trait ByteStream: Read + Write {}
impl<T: Read + Write> ByteStream for T {}

/// A response and the certificate that the server presented.
#[derive(Default)]
pub(crate) struct ClientResult {
    /// `None` if the connection ended without a response.
    pub(crate) response: Option<HttpResponse>,
    pub(crate) certificate: Option<CertificateDer<'static>>,
}

/// Sends a request and reads its response to the end. A refused connection is one that ends without a response.
pub(crate) fn send_case_request(
    listener: &CaseListener,
    request: &CaseRequest,
    number: usize,
    authority: Option<&CertificateAuthority>,
) -> ClientResult {
    let mut certificate = None;
    let stream: Box<dyn ByteStream> = match &listener.address {
        ServerAddress::Unix(path) => {
            let Ok(stream) = UnixStream::connect(path) else { return ClientResult::default() };
            stream.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
            Box::new(stream)
        }
        ServerAddress::Tcp(addr) => {
            let Ok(stream) = connect_from(*addr, request) else { return ClientResult::default() };
            match authority.filter(|_| listener.is_tls && !request.is_plain) {
                None => Box::new(stream),
                Some(authority) => {
                    let mut config = authority.client_config(rustls::ALL_VERSIONS, &["http/1.1"]);
                    config.enable_sni = request.sni.is_some();
                    // The peer's certificate is compared, not checked.
                    config.dangerous().set_certificate_verifier(crate::harness::tls::accept_any_certificate());
                    let name = request.sni.as_deref().unwrap_or("unnamed.example");
                    let Ok(stream) = tls_handshake_on(config, stream, name) else { return ClientResult::default() };
                    certificate = Some(CertificateDer::from(peer_certificate(&stream)));
                    Box::new(stream)
                }
            }
        }
    };
    let mut client = TestClient::from_stream(stream);
    // An early response may close the connection before all is sent.
    let _ = client.try_send(request.numbered_bytes(number));
    let mut response = client.try_read_head();
    if let Some(response) = response.as_mut().filter(|_| !request.is_head) {
        response.body = client.read_remaining_body();
        response.complete = !client.is_broken();
    }
    ClientResult { response, certificate }
}

fn connect_from(addr: SocketAddr, request: &CaseRequest) -> io::Result<TcpStream> {
    let stream = match request.from {
        None => TcpStream::connect(addr)?,
        Some(from) => {
            let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None)?;
            socket.bind(&SocketAddr::new(from, 0).into())?;
            socket.connect_timeout(&addr.into(), Duration::from_secs(5))?;
            socket.into()
        }
    };
    stream.set_read_timeout(Some(TEST_TIMEOUT))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}
