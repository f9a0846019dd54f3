//! The timeouts of a client connection: header timeout, idle timeout (keep-alive) and write timeout.
//!
//! hyper has one timer for the request head and for the idle time before it. This one knows whether a byte of the head
//! has arrived. For a client that does not read its response hyper has no timer at all.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use hyper::rt::{Sleep, Timer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::routes::Timeouts;

/// The length of the HTTP/2 preface.
const HTTP2_PREFACE_BYTES: u64 = 24;

/// A connection that counts received bytes and fails after the write timeout.
pub(super) struct TimeoutStream<S> {
    stream: S,
    received_bytes: Arc<AtomicU64>,
    /// Time for which the client may read nothing.
    write_timeout: Duration,
    /// The running write timeout; `Some` while a write is pending.
    write_timer: Option<Pin<Box<tokio::time::Sleep>>>,
}

/// The timer that hyper uses for the request heads of one connection.
pub(super) struct HeaderReadTimer {
    received_bytes: Arc<AtomicU64>,
    header_timeout: Duration,
    keepalive_timeout: Duration,
}

/// The wait for one request head.
struct HeaderReadSleep {
    received_bytes: Arc<AtomicU64>,
    /// `received_bytes` at the start of the wait.
    received_at_start: u64,
    header_timeout: Duration,
    head_started: bool,
    timer: Pin<Box<tokio::time::Sleep>>,
}

impl<S> TimeoutStream<S> {
    /// Wraps `stream`. Returns the timer for the HTTP/1 settings of the same connection as well.
    pub(super) fn new(stream: S, timeouts: &Timeouts) -> (Self, HeaderReadTimer) {
        let received_bytes = Arc::new(AtomicU64::new(0));
        let timer = HeaderReadTimer {
            received_bytes: received_bytes.clone(),
            header_timeout: timeouts.client_header,
            keepalive_timeout: timeouts.keepalive,
        };
        (Self { stream, received_bytes, write_timeout: timeouts.client_send, write_timer: None }, timer)
    }

    /// Returns the result of a write, or `TimedOut` once writes have been pending for the write timeout.
    fn with_write_timeout<T>(&mut self, written: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.write_timer = None;
            return written;
        }
        let limit = self.write_timeout;
        let timer = self.write_timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        timer.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl HeaderReadTimer {
    /// Returns a future that ends if the HTTP version is still unknown after the header timeout: hyper-util waits for
    /// that without a timer. Set the cell at the first request, which may be shorter than the HTTP/2 preface.
    pub(super) fn protocol_detection_timeout(&self) -> (impl Future<Output = ()> + use<>, Rc<Cell<bool>>) {
        let is_detected = Rc::new(Cell::new(false));
        let (received_bytes, limit, detected) = (self.received_bytes.clone(), self.header_timeout, is_detected.clone());
        let expired = async move {
            tokio::time::sleep(limit).await;
            // After a pause of the whole process the first bytes may be waiting in the socket.
            tokio::task::yield_now().await;
            if detected.get() || received_bytes.load(Ordering::Relaxed) >= HTTP2_PREFACE_BYTES {
                std::future::pending::<()>().await;
            }
        };
        (expired, is_detected)
    }
}

impl Timer for HeaderReadTimer {
    fn sleep(&self, _: Duration) -> Pin<Box<dyn Sleep>> {
        let received_at_start = self.received_bytes.load(Ordering::Relaxed);
        // The header timeout of the first request starts with the connection.
        let is_first = received_at_start == 0;
        let limit = if is_first { self.header_timeout } else { self.keepalive_timeout };
        Box::pin(HeaderReadSleep {
            received_bytes: self.received_bytes.clone(),
            received_at_start,
            header_timeout: self.header_timeout,
            head_started: is_first,
            timer: Box::pin(tokio::time::sleep(limit)),
        })
    }

    fn sleep_until(&self, _: Instant) -> Pin<Box<dyn Sleep>> {
        self.sleep(Duration::ZERO)
    }
}

impl Future for HeaderReadSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if !self.head_started && self.received_bytes.load(Ordering::Relaxed) > self.received_at_start {
            self.head_started = true;
            let limit = tokio::time::sleep(self.header_timeout);
            self.timer.set(limit);
        }
        self.timer.as_mut().poll(cx)
    }
}

impl Sleep for HeaderReadSleep {}

impl<S: AsyncRead + Unpin> AsyncRead for TimeoutStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let received = buf.filled().len() - before;
        self.received_bytes.fetch_add(received as u64, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for TimeoutStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.with_write_timeout(written, cx)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.with_write_timeout(flushed, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.with_write_timeout(shut, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.with_write_timeout(written, cx)
    }
}
