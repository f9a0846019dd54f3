//! A look at clients that hyper does not look at: those whose next request has come while the present one is answered.
//!
//! hyper reads on while it answers, which is how it sees a client leave, but no further than to the first bytes of a next
//! request. From there on we read, keep what comes for hyper, and so see the end of the connection.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::state::ConnectionState;

/// The most that is kept; of a client that sends more ahead we do not see that it leaves.
const MAX_READ_AHEAD_BYTES: usize = 16 << 10;
const READ_CHUNK_BYTES: usize = 1024;

/// A client's connection.
pub(in crate::server) struct DisconnectDetector<S> {
    stream: S,
    connection: Rc<ConnectionState>,
    /// Whether a client that ends its sending side has left.
    enabled: bool,
    /// hyper has asked for bytes since it flushed, and so looks itself.
    hyper_is_reading: bool,
    /// What came before hyper asked for it.
    buffered: BytesMut,
}

impl<S> DisconnectDetector<S> {
    /// `looks` unless clients may end their sending side and stay.
    pub(in crate::server) fn new(stream: S, visit: Rc<ConnectionState>, looks: bool) -> Self {
        Self { stream, connection: visit, enabled: looks, hyper_is_reading: false, buffered: BytesMut::new() }
    }
}

impl<S: AsyncRead + Unpin> DisconnectDetector<S> {
    /// Reads what hyper does not.
    ///
    /// *Errors*: the connection has ended.
    fn poll_read_ahead(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let mut piece = [0; READ_CHUNK_BYTES];
        while self.buffered.len() < MAX_READ_AHEAD_BYTES {
            let mut piece = ReadBuf::new(&mut piece);
            let Poll::Ready(read) = Pin::new(&mut self.stream).poll_read(cx, &mut piece) else { return Ok(()) };
            read?;
            if piece.filled().is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.buffered.extend_from_slice(piece.filled());
            // hyper, which was told that there was nothing, would not ask again for what the socket has given away.
            cx.waker().wake_by_ref();
        }
        Ok(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for DisconnectDetector<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.buffered.is_empty() {
            self.hyper_is_reading = true;
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let length = self.buffered.len().min(buf.remaining());
        self.buffered.copy_to_slice(buf.initialize_unfilled_to(length));
        buf.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for DisconnectDetector<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    /// hyper flushes whenever it has had its turn, after it has looked for what there is to read.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        let asked = std::mem::take(&mut self.hyper_is_reading);
        if self.enabled && !asked && self.connection.has_unanswered_request() {
            self.poll_read_ahead(cx)?;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
