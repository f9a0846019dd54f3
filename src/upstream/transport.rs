//! The byte stream of a connection to a replica, with or without TLS.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::fleet::Origin;
use crate::tls::{self, ReplicaStream, TlsStore};

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

impl Transport {
    /// Performs the TLS handshake if the origin uses TLS.
    ///
    /// *Errors*: the handshake failed, or the certificate is not trusted.
    pub(super) async fn handshake(stream: TcpStream, origin: &Origin, tls_store: &TlsStore) -> io::Result<Self> {
        let stream = match origin.tls() {
            None => ReplicaSocket::Plain(stream),
            Some(tls) => ReplicaSocket::Tls(Box::new(tls::connect(tls_store, origin, tls, stream).await?)),
        };
        Ok(Self { stream, received: ReceivedFlag::default() })
    }

    /// Returns the flag that data sets.
    pub(super) fn received_flag(&self) -> ReceivedFlag {
        self.received.clone()
    }
}

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let filled_before = buf.filled().len();
        let read = match &mut this.stream {
            ReplicaSocket::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
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
            ReplicaSocket::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            ReplicaSocket::Plain(stream) => Pin::new(stream).poll_flush(cx),
            ReplicaSocket::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            ReplicaSocket::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            ReplicaSocket::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            ReplicaSocket::Plain(stream) => stream.is_write_vectored(),
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
            ReplicaSocket::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, pieces),
        }
    }
}
