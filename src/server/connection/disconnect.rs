//! Detects that a client disconnects after it has pipelined its next request.
//!
//! While hyper sends a response it reads ahead, and so detects a disconnect. It stops at the first bytes of a next
//! request. From there on this stream reads, buffers the bytes for hyper, and detects the end of the connection.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::state::ConnectionState;

/// Bytes buffered at most. The disconnect of a client that sends more than this ahead is not detected.
const MAX_READ_AHEAD_BYTES: usize = 16 << 10;
const READ_CHUNK_BYTES: usize = 1024;

/// A client connection that reads ahead when hyper does not.
pub(super) struct DisconnectDetector<S> {
    stream: S,
    connection: Rc<ConnectionState>,
    /// Whether clients may end their sending side and stay (`half_close`). Disconnects are not detected then.
    half_close: bool,
    /// Whether hyper has read since its last flush, and so detects a disconnect itself.
    hyper_is_reading: bool,
    /// Bytes that arrived before hyper read.
    buffered: BytesMut,
}

impl<S> DisconnectDetector<S> {
    pub(super) fn new(stream: S, connection: Rc<ConnectionState>, half_close: bool) -> Self {
        Self { stream, connection, half_close, hyper_is_reading: false, buffered: BytesMut::new() }
    }
}

impl<S: AsyncRead + Unpin> DisconnectDetector<S> {
    /// Reads the available bytes into the buffer.
    ///
    /// *Errors*: the connection has ended.
    fn poll_read_ahead(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let mut chunk = [0; READ_CHUNK_BYTES];
        while self.buffered.len() < MAX_READ_AHEAD_BYTES {
            let mut chunk = ReadBuf::new(&mut chunk);
            let Poll::Ready(read) = Pin::new(&mut self.stream).poll_read(cx, &mut chunk) else { return Ok(()) };
            read?;
            if chunk.filled().is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.buffered.extend_from_slice(chunk.filled());
            // hyper's last read was pending. The socket wakes it no more for bytes that were read here.
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

    /// hyper flushes at the end of each poll, after its own reads.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        let hyper_is_reading = std::mem::take(&mut self.hyper_is_reading);
        if !self.half_close && !hyper_is_reading && self.connection.has_unanswered_request() {
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
