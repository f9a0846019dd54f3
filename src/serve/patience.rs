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
const PREFACE_BYTES: u64 = 24;

/// A connection that counts the bytes that come, and fails when nothing can be written for too long.
pub(super) struct Counted<S> {
    stream: S,
    received: Arc<AtomicU64>,
    /// How long the client may take nothing of what is sent.
    send: Duration,
    /// Rings when it has taken nothing for so long; only while it takes nothing.
    stalled: Option<Pin<Box<tokio::time::Sleep>>>,
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
    pub(super) fn new(stream: S, timeouts: &Timeouts) -> (Self, HeadTimer) {
        let Timeouts { header: head, keepalive: idle, send, .. } = *timeouts;
        let received = Arc::new(AtomicU64::new(0));
        (Self { stream, received: received.clone(), send, stalled: None }, HeadTimer { received, head, idle })
    }

    /// Passes on what came of writing; where the client has taken nothing for too long that is an error.
    fn patient<T>(&mut self, written: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let send = self.send;
        let alarm = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(send)));
        alarm.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
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
            // Where the whole process did not run for so long, the first bytes may wait to be read.
            tokio::task::yield_now().await;
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
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.patient(written, cx)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.patient(flushed, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.patient(shut, cx)
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
        self.patient(written, cx)
    }
}
