//! The socket of one connection, with the tricks that a well-behaved HTTP server cannot play.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

const CLOSE: u8 = 1;
const GARBLE: u8 = 2;
const DEAD: u8 = 3;

/// What a request's handler may do to its connection.
#[derive(Debug, Default)]
pub(super) struct Trick {
    /// One of the constants above; 0 while no trick is played.
    state: AtomicU8,
    reader: AtomicWaker,
}

impl Trick {
    /// Ends the connection as if the client had: what is written still goes out, nothing more is read.
    pub(super) fn close(&self) {
        self.state.store(CLOSE, Ordering::Relaxed);
        self.reader.wake();
    }

    /// Spoils the first byte of the next write (the size line of a chunk, if all before was flushed); every later write
    /// fails.
    pub(super) fn garble(&self) {
        self.state.store(GARBLE, Ordering::Relaxed);
    }
}

/// A TCP stream as hyper wants it.
#[derive(Debug)]
pub(super) struct Wire {
    stream: TokioIo<TcpStream>,
    trick: Arc<Trick>,
}

impl Wire {
    pub(super) fn new(stream: TcpStream, trick: Arc<Trick>) -> Self {
        Self { stream: TokioIo::new(stream), trick }
    }
}

impl Read for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        self.trick.reader.register(cx.waker());
        if self.trick.state.load(Ordering::Relaxed) == CLOSE {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl Write for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.trick.state.load(Ordering::Relaxed) {
            GARBLE => {
                let spoilt = [&b"?"[..], bytes.get(1..).unwrap_or_default()].concat();
                let written = Pin::new(&mut self.stream).poll_write(cx, &spoilt);
                if written.is_ready() {
                    self.trick.state.store(DEAD, Ordering::Relaxed);
                }
                written
            }
            DEAD => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
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
