//! How long a client may take for a request's head, and how long a connection may wait for its next request.
//!
//! hyper has one timer for both. Ours knows whether a byte of the head has come.

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

/// The bytes that HTTP/2 begins with.
const PREFACE_BYTES: u64 = 24;

/// A connection that counts the bytes that come.
pub(super) struct Counted<S> {
    stream: S,
    received: Arc<AtomicU64>,
}

/// hyper's clock for one connection's request heads.
pub(super) struct HeadTimer {
    received: Arc<AtomicU64>,
    head: Duration,
    idle: Duration,
}

/// The time left for one head.
struct HeadSleep {
    received: Arc<AtomicU64>,
    /// What had been received when the wait began.
    before: u64,
    head: Duration,
    has_begun: bool,
    alarm: Pin<Box<tokio::time::Sleep>>,
}

impl<S> Counted<S> {
    /// Counts what comes by `stream`; the timer goes to the connection's hyper.
    pub(super) fn new(stream: S, head: Duration, idle: Duration) -> (Self, HeadTimer) {
        let received = Arc::new(AtomicU64::new(0));
        (Self { stream, received: received.clone() }, HeadTimer { received, head, idle })
    }
}

impl HeadTimer {
    /// Ends if the connection has not even shown within a head's time which HTTP it speaks: hyper-util waits for that
    /// without a timer. To be told of the first request, which may be shorter than what HTTP/2 begins with.
    pub(super) fn undecided(&self) -> (impl Future<Output = ()> + use<>, Rc<Cell<bool>>) {
        let decided = Rc::new(Cell::new(false));
        let (received, head, asked) = (self.received.clone(), self.head, decided.clone());
        let wait = async move {
            tokio::time::sleep(head).await;
            if asked.get() || received.load(Ordering::Relaxed) >= PREFACE_BYTES {
                std::future::pending::<()>().await;
            }
        };
        (wait, decided)
    }
}

impl Timer for HeadTimer {
    fn sleep(&self, _: Duration) -> Pin<Box<dyn Sleep>> {
        let before = self.received.load(Ordering::Relaxed);
        // A connection that has brought nothing yet owes its first head at once.
        let first = if before == 0 { self.head } else { self.idle };
        Box::pin(HeadSleep {
            received: self.received.clone(),
            before,
            head: self.head,
            has_begun: before == 0,
            alarm: Box::pin(tokio::time::sleep(first)),
        })
    }

    fn sleep_until(&self, _: Instant) -> Pin<Box<dyn Sleep>> {
        self.sleep(Duration::ZERO)
    }
}

impl Future for HeadSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if !self.has_begun && self.received.load(Ordering::Relaxed) > self.before {
            self.has_begun = true;
            let left = tokio::time::sleep(self.head);
            self.alarm.set(left);
        }
        self.alarm.as_mut().poll(cx)
    }
}

impl Sleep for HeadSleep {}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let received = buf.filled().len() - before;
        self.received.fetch_add(received as u64, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }
}
