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

use super::visit::Visit;

/// The most that is kept; of a client that sends more ahead we do not see that it leaves.
const KEPT_BYTES: usize = 16 << 10;
const PIECE_BYTES: usize = 1024;

/// A client's connection.
pub(super) struct Ahead<S> {
    stream: S,
    visit: Rc<Visit>,
    /// Whether a client that ends its sending side has left.
    looks: bool,
    /// hyper has asked for bytes since it flushed, and so looks itself.
    asked: bool,
    /// What came before hyper asked for it.
    kept: BytesMut,
}

impl<S> Ahead<S> {
    /// `looks` unless clients may end their sending side and stay.
    pub(super) fn new(stream: S, visit: Rc<Visit>, looks: bool) -> Self {
        Self { stream, visit, looks, asked: false, kept: BytesMut::new() }
    }
}

impl<S: AsyncRead + Unpin> Ahead<S> {
    /// Reads what hyper does not.
    ///
    /// *Errors*: the connection has ended.
    fn look(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let mut piece = [0; PIECE_BYTES];
        while self.kept.len() < KEPT_BYTES {
            let mut piece = ReadBuf::new(&mut piece);
            let Poll::Ready(read) = Pin::new(&mut self.stream).poll_read(cx, &mut piece) else { return Ok(()) };
            read?;
            if piece.filled().is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.kept.extend_from_slice(piece.filled());
            // hyper, which was told that there was nothing, would not ask again for what the socket has given away.
            cx.waker().wake_by_ref();
        }
        Ok(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Ahead<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.kept.is_empty() {
            self.asked = true;
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let length = self.kept.len().min(buf.remaining());
        self.kept.copy_to_slice(buf.initialize_unfilled_to(length));
        buf.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Ahead<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    /// hyper flushes whenever it has had its turn, after it has looked for what there is to read.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        let asked = std::mem::take(&mut self.asked);
        if self.looks && !asked && self.visit.is_answering() {
            self.look(cx)?;
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
