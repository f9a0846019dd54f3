//! The socket of one connection, with faults that an HTTP server cannot produce.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Time in which hyper flushes what was written before.
pub(super) const FLUSH_DELAY: Duration = Duration::from_millis(5);

const STATE_CLOSING: u8 = 1;
const STATE_GARBLING: u8 = 2;
const STATE_BROKEN: u8 = 3;

/// The faults that a request's handler can cause on its connection.
#[derive(Debug, Default)]
pub(super) struct SocketFault {
    /// One of the constants above; 0 without a fault.
    state: AtomicU8,
    read_waker: AtomicWaker,
}

impl SocketFault {
    /// Closes the connection as if the client had: pending writes are sent, nothing more is read.
    pub(super) fn close_connection(&self) {
        self.state.store(STATE_CLOSING, Ordering::Relaxed);
        self.read_waker.wake();
    }

    /// Garbles the first byte of the next write (the size line of a chunk, if all before was flushed). Every later
    /// write fails.
    pub(super) fn garble_next_write(&self) {
        self.state.store(STATE_GARBLING, Ordering::Relaxed);
    }
}

/// A TCP stream for hyper.
#[derive(Debug)]
pub(super) struct FaultySocket {
    stream: TokioIo<TcpStream>,
    fault: Arc<SocketFault>,
}

impl FaultySocket {
    pub(super) fn new(stream: TcpStream, fault: Arc<SocketFault>) -> Self {
        Self { stream: TokioIo::new(stream), fault }
    }
}

impl Read for FaultySocket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        self.fault.read_waker.register(cx.waker());
        if self.fault.state.load(Ordering::Relaxed) == STATE_CLOSING {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl Write for FaultySocket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.fault.state.load(Ordering::Relaxed) {
            STATE_GARBLING => {
                let garbled = [&b"?"[..], bytes.get(1..).unwrap_or_default()].concat();
                let written = Pin::new(&mut self.stream).poll_write(cx, &garbled);
                if written.is_ready() {
                    self.fault.state.store(STATE_BROKEN, Ordering::Relaxed);
                }
                written
            }
            STATE_BROKEN => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            _ => Pin::new(&mut self.stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
