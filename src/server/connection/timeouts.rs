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

/// The timeouts of one connection; the route of its last request sets two of them.
pub(super) struct ConnectionTimeouts {
    received_bytes: AtomicU64,
    header: Duration,
    /// The time for which an idle connection is kept, in nanoseconds.
    keepalive_nanos: AtomicU64,
    /// The time for which the client may read nothing, in nanoseconds.
    write_nanos: AtomicU64,
}

/// A connection that counts received bytes and fails after the write timeout.
pub(super) struct TimeoutStream<S> {
    stream: S,
    timeouts: Arc<ConnectionTimeouts>,
    /// The running write timeout; `Some` while a write is pending.
    write_timer: Option<Pin<Box<tokio::time::Sleep>>>,
}

/// The timer that hyper uses for the request heads of one connection.
pub(super) struct HeaderReadTimer(Arc<ConnectionTimeouts>);

/// The wait for one request head.
struct HeaderReadSleep {
    timeouts: Arc<ConnectionTimeouts>,
    /// The bytes received at the start of the wait.
    received_at_start: u64,
    head_started: bool,
    timer: Pin<Box<tokio::time::Sleep>>,
}

impl ConnectionTimeouts {
    /// Returns the timeouts of a connection without a request.
    pub(super) fn new(timeouts: &Timeouts) -> Arc<Self> {
        let new = Self {
            received_bytes: AtomicU64::new(0),
            header: timeouts.client_header,
            keepalive_nanos: AtomicU64::new(0),
            write_nanos: AtomicU64::new(0),
        };
        new.set_route(timeouts);
        Arc::new(new)
    }

    /// Sets those that the route of the connection's last request has.
    pub(super) fn set_route(&self, timeouts: &Timeouts) {
        self.keepalive_nanos.store(to_nanos(timeouts.keepalive), Ordering::Relaxed);
        self.write_nanos.store(to_nanos(timeouts.client_send), Ordering::Relaxed);
    }

    /// Raises the write timeout to that of another route, whose requests share the connection.
    pub(super) fn raise_to_route(&self, timeouts: &Timeouts) {
        self.write_nanos.fetch_max(to_nanos(timeouts.client_send), Ordering::Relaxed);
    }

    fn keepalive(&self) -> Duration {
        Duration::from_nanos(self.keepalive_nanos.load(Ordering::Relaxed))
    }

    fn write(&self) -> Duration {
        Duration::from_nanos(self.write_nanos.load(Ordering::Relaxed))
    }

    fn received_bytes(&self) -> u64 {
        self.received_bytes.load(Ordering::Relaxed)
    }
}

/// Returns the nanoseconds of a configured time, which is 365 days at most.
fn to_nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl<S> TimeoutStream<S> {
    /// Wraps `stream`.
    pub(super) const fn new(stream: S, timeouts: Arc<ConnectionTimeouts>) -> Self {
        Self { stream, timeouts, write_timer: None }
    }

    /// Returns the result of a write, or `TimedOut` once writes have been pending for the write timeout.
    fn with_write_timeout<T>(&mut self, written: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.write_timer = None;
            return written;
        }
        let limit = self.timeouts.write();
        let timer = self.write_timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        timer.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl HeaderReadTimer {
    pub(super) const fn new(timeouts: Arc<ConnectionTimeouts>) -> Self {
        Self(timeouts)
    }

    /// Returns a future that ends if the HTTP version is still unknown after the header timeout: hyper-util waits for
    /// that without a timer. Set the cell at the first request, which may be shorter than the HTTP/2 preface.
    pub(super) fn protocol_detection_timeout(&self) -> (impl Future<Output = ()> + use<>, Rc<Cell<bool>>) {
        let is_detected = Rc::new(Cell::new(false));
        let (timeouts, detected) = (self.0.clone(), is_detected.clone());
        let expired = async move {
            tokio::time::sleep(timeouts.header).await;
            // After a pause of the whole process the first bytes may be waiting in the socket.
            tokio::task::yield_now().await;
            if detected.get() || timeouts.received_bytes() >= HTTP2_PREFACE_BYTES {
                std::future::pending::<()>().await;
            }
        };
        (expired, is_detected)
    }
}

impl Timer for HeaderReadTimer {
    fn sleep(&self, _: Duration) -> Pin<Box<dyn Sleep>> {
        let received_at_start = self.0.received_bytes();
        // The header timeout of the first request starts with the connection.
        let is_first = received_at_start == 0;
        let limit = if is_first { self.0.header } else { self.0.keepalive() };
        Box::pin(HeaderReadSleep {
            timeouts: self.0.clone(),
            received_at_start,
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
        if !self.head_started && self.timeouts.received_bytes() > self.received_at_start {
            self.head_started = true;
            let limit = tokio::time::sleep(self.timeouts.header);
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
        self.timeouts.received_bytes.fetch_add(received as u64, Ordering::Relaxed);
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
