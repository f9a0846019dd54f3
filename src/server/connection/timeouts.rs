//! How long a client may take for a request's head, and how long a connection may wait for its next request.
//!
//! hyper has one timer for both. Ours knows whether a byte of the head has come. For a client that takes nothing of what
//! it is sent hyper has none.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use crate::config::Timeouts;
use hyper::rt::{Sleep, Timer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The bytes that HTTP/2 begins with.
const HTTP2_PREFACE_BYTES: u64 = 24;

/// A connection that counts the bytes that come, and fails when nothing can be written for too long.
pub(in crate::server) struct TimeoutStream<S> {
    stream: S,
    received_bytes: Arc<AtomicU64>,
    /// How long the client may take nothing of what is sent.
    write_timeout: Duration,
    /// Rings when it has taken nothing for so long; only while it takes nothing.
    write_timer: Option<Pin<Box<tokio::time::Sleep>>>,
}

/// hyper's clock for one connection's request heads.
pub(in crate::server) struct HeaderReadTimer {
    received_bytes: Arc<AtomicU64>,
    header_timeout: Duration,
    keepalive_timeout: Duration,
}

/// The time left for one head.
struct HeaderReadSleep {
    received_bytes: Arc<AtomicU64>,
    /// What had been received when the wait began.
    received_at_start: u64,
    header_timeout: Duration,
    head_started: bool,
    timer: Pin<Box<tokio::time::Sleep>>,
}

impl<S> TimeoutStream<S> {
    /// Counts what comes by `stream`; the timer goes to the connection's hyper.
    pub(in crate::server) fn new(stream: S, timeouts: &Timeouts) -> (Self, HeaderReadTimer) {
        let Timeouts { client_header: head, keepalive: idle, client_send: send, .. } = *timeouts;
        let received = Arc::new(AtomicU64::new(0));
        (
            Self { stream, received_bytes: received.clone(), write_timeout: send, write_timer: None },
            HeaderReadTimer { received_bytes: received, header_timeout: head, keepalive_timeout: idle },
        )
    }

    /// Passes on what came of writing; where the client has taken nothing for too long that is an error.
    fn with_write_timeout<T>(&mut self, written: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.write_timer = None;
            return written;
        }
        let send = self.write_timeout;
        let alarm = self.write_timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(send)));
        alarm.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl HeaderReadTimer {
    /// Ends if the connection has not even shown within a head's time which HTTP it speaks: hyper-util waits for that
    /// without a timer. To be told of the first request, which may be shorter than what HTTP/2 begins with.
    pub(in crate::server) fn protocol_detection_timeout(&self) -> (impl Future<Output = ()> + use<>, Rc<Cell<bool>>) {
        let decided = Rc::new(Cell::new(false));
        let (received, head, asked) = (self.received_bytes.clone(), self.header_timeout, decided.clone());
        let wait = async move {
            tokio::time::sleep(head).await;
            // Where the whole process did not run for so long, the first bytes may wait to be read.
            tokio::task::yield_now().await;
            if asked.get() || received.load(Ordering::Relaxed) >= HTTP2_PREFACE_BYTES {
                std::future::pending::<()>().await;
            }
        };
        (wait, decided)
    }
}

impl Timer for HeaderReadTimer {
    fn sleep(&self, _: Duration) -> Pin<Box<dyn Sleep>> {
        let before = self.received_bytes.load(Ordering::Relaxed);
        // A connection that has brought nothing yet owes its first head at once.
        let first = if before == 0 { self.header_timeout } else { self.keepalive_timeout };
        Box::pin(HeaderReadSleep {
            received_bytes: self.received_bytes.clone(),
            received_at_start: before,
            header_timeout: self.header_timeout,
            head_started: before == 0,
            timer: Box::pin(tokio::time::sleep(first)),
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
            let left = tokio::time::sleep(self.header_timeout);
            self.timer.set(left);
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
