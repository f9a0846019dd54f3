//! A stream that stays on its worker's thread, for an interface that asks for one that could leave it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use send_wrapper::SendWrapper;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream that hyper may hand over after an upgrade, for which it must be `Send`. Workers keep their connections, so
/// it is used on its own thread only; on another one it would panic.
pub(super) struct ThreadBound<S>(SendWrapper<S>);

impl<S> ThreadBound<S> {
    pub(super) fn new(stream: S) -> Self {
        Self(SendWrapper::new(stream))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ThreadBound<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ThreadBound<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }
}
