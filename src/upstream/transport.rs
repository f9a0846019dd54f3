//! The byte stream of a connection to a replica: TCP with or without TLS, or a Unix socket.

use std::cell::Cell;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use super::tcp_keepalive::set_tcp_keepalive;
use crate::fleet::Origin;
use crate::tls::{self, ReplicaStream, TlsStore};

/// Time after which a connection to a Unix socket with a full queue is tried again.
const FULL_QUEUE_WAIT: Duration = Duration::from_millis(10);

/// The byte stream of a connection.
pub(super) struct Transport {
    stream: ReplicaSocket,
    /// Set when data is received; TLS messages without data do not count.
    received: ReceivedFlag,
}

/// Whether a connection has received data since the flag was last cleared.
#[derive(Clone, Default)]
pub(super) struct ReceivedFlag(Rc<Cell<bool>>);

/// An enum and no trait object, so that plain connections pay nothing for TLS.
enum ReplicaSocket {
    Plain(TcpStream),
    Unix(UnixStream),
    Tls(Box<ReplicaStream>),
}

impl ReceivedFlag {
    pub(super) fn clear(&self) {
        self.0.set(false);
    }

    pub(super) fn is_set(&self) -> bool {
        self.0.get()
    }
}

/// A replica's side of a connection that both ends have upgraded.
pub struct UpgradedConnection {
    pub(super) stream: Transport,
    /// Bytes that arrived with the head of the response.
    pub(super) early: Bytes,
}

impl Transport {
    /// Opens a connection and performs the TLS handshake if the origin uses TLS. The kernel probes the replica after
    /// `tcp_keepalive` without data.
    ///
    /// *Errors*: the port or the socket cannot be reached, the handshake failed, or the certificate is not trusted.
    pub(super) async fn connect(origin: &Origin, tls_store: &TlsStore, tcp_keepalive: Duration) -> io::Result<Self> {
        let stream = match (origin.socket(), origin.tls()) {
            (Some(socket), _) => ReplicaSocket::Unix(connect_unix(socket).await?),
            (None, None) => ReplicaSocket::Plain(connect_tcp(origin, tcp_keepalive).await?),
            (None, Some(tls)) => {
                let stream = connect_tcp(origin, tcp_keepalive).await?;
                ReplicaSocket::Tls(Box::new(tls::connect(tls_store, origin, tls, stream).await?))
            }
        };
        Ok(Self { stream, received: ReceivedFlag::default() })
    }

    /// Returns the flag that data sets.
    pub(super) fn received_flag(&self) -> ReceivedFlag {
        self.received.clone()
    }
}

async fn connect_tcp(origin: &Origin, tcp_keepalive: Duration) -> io::Result<TcpStream> {
    let stream = match origin.address() {
        Some(address) => TcpStream::connect((address, origin.port())).await?,
        None => TcpStream::connect((origin.host(), origin.port())).await?,
    };
    stream.set_nodelay(true)?;
    set_tcp_keepalive(&(&stream).into(), tcp_keepalive)?;
    Ok(stream)
}

/// Connects to a Unix socket. Where a TCP connection waits for room in the server's queue, the kernel refuses this one.
async fn connect_unix(socket: &Path) -> io::Result<UnixStream> {
    loop {
        match UnixStream::connect(socket).await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => tokio::time::sleep(FULL_QUEUE_WAIT).await,
            result => return result,
        }
    }
}

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let filled_before = buf.filled().len();
        let read = match &mut this.stream {
            ReplicaSocket::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            ReplicaSocket::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            ReplicaSocket::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        };
        if buf.filled().len() > filled_before {
            this.received.0.set(true);
        }
        read
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().stream {
            ReplicaSocket::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            ReplicaSocket::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
            ReplicaSocket::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            ReplicaSocket::Plain(stream) => Pin::new(stream).poll_flush(cx),
            ReplicaSocket::Unix(stream) => Pin::new(stream).poll_flush(cx),
            ReplicaSocket::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            ReplicaSocket::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            ReplicaSocket::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            ReplicaSocket::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            ReplicaSocket::Plain(stream) => stream.is_write_vectored(),
            ReplicaSocket::Unix(stream) => stream.is_write_vectored(),
            ReplicaSocket::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().stream {
            ReplicaSocket::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, pieces),
            ReplicaSocket::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, pieces),
            ReplicaSocket::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, pieces),
        }
    }
}
