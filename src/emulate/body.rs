//! The bodies of answers, and the count of what is open.

use std::collections::BTreeMap;
use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::wire::Trick;

/// Paths that are counted under their own name; what comes later counts under `other`.
const PATHS: usize = 256;

/// What an emulated replica has seen, for tests to ask.
#[derive(Debug, Default)]
pub struct Counters {
    pub(super) accepted: AtomicU64,
    pub(super) open: AtomicU64,
    pub(super) aborted: AtomicU64,
    /// Guards the requests seen per path.
    pub(super) paths: Mutex<BTreeMap<String, u64>>,
}

impl Counters {
    /// Connections accepted so far.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Requests whose answer is not complete.
    pub fn open(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }

    /// Requests that ended before their answer was complete, by the client's doing or by a fault.
    pub fn aborted(&self) -> u64 {
        self.aborted.load(Ordering::Relaxed)
    }

    /// Requests seen for `path`, whatever their method and answer.
    pub fn seen(&self, path: &str) -> u64 {
        self.paths.lock().unwrap_or_else(PoisonError::into_inner).get(path).copied().unwrap_or_default()
    }

    pub(super) fn count(&self, path: &str) {
        let mut paths = self.paths.lock().unwrap_or_else(PoisonError::into_inner);
        let known = paths.len() < PATHS || paths.contains_key(path);
        *paths.entry(if known { path } else { "other" }.to_owned()).or_default() += 1;
    }
}

/// A request that is being answered.
#[derive(Debug)]
pub(super) struct Open {
    counters: Arc<Counters>,
    complete: bool,
}

impl Open {
    pub(super) fn new(counters: Arc<Counters>) -> Self {
        counters.open.fetch_add(1, Ordering::Relaxed);
        Self { counters, complete: false }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.counters.open.fetch_sub(1, Ordering::Relaxed);
        if !self.complete {
            self.counters.aborted.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A connection that ends here, by a fault.
#[derive(Debug)]
pub(super) struct Broken;

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an emulated fault")
    }
}

impl std::error::Error for Broken {}

/// What a streaming task says: bytes, or that the connection is to break.
pub(super) type Said = Result<Bytes, Broken>;

/// An answer's body. Dropped, it ends the task that writes it.
#[derive(Debug)]
pub(super) struct Body {
    content: Content,
    open: Option<Open>,
    /// Closes the connection when the body has gone out.
    close: Option<Arc<Trick>>,
}

#[derive(Debug)]
enum Content {
    Whole(Bytes),
    Stream { said: mpsc::Receiver<Said>, writer: AbortHandle, size: Option<u64> },
}

impl Body {
    pub(super) fn whole(bytes: impl Into<Bytes>) -> Self {
        Self { content: Content::Whole(bytes.into()), open: None, close: None }
    }

    /// What `writer` says. `size` is the length that the head promises; none: chunked.
    pub(super) fn stream(said: mpsc::Receiver<Said>, writer: AbortHandle, size: Option<u64>) -> Self {
        Self { content: Content::Stream { said, writer, size }, open: None, close: None }
    }

    /// Counts the request as open until the body has gone out.
    pub(super) fn attach(&mut self, mut open: Open, close: Option<Arc<Trick>>) {
        // hyper may write a body of known bytes without asking for its end.
        open.complete = matches!(self.content, Content::Whole(_));
        self.open = Some(open);
        self.close = close;
    }

    pub(super) fn is_whole(&self) -> bool {
        matches!(self.content, Content::Whole(_))
    }

    /// The bytes of a whole body.
    pub(super) fn bytes(&self) -> Bytes {
        match &self.content {
            Content::Whole(bytes) => bytes.clone(),
            Content::Stream { .. } => Bytes::new(),
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let said = match &mut self.content {
            Content::Whole(bytes) if bytes.is_empty() => None,
            Content::Whole(bytes) => Some(Ok(std::mem::take(bytes))),
            Content::Stream { said, .. } => std::task::ready!(said.poll_recv(cx)),
        };
        if said.is_none()
            && let Some(open) = &mut self.open
        {
            open.complete = true;
        }
        Poll::Ready(said.map(|said| said.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        matches!(&self.content, Content::Whole(bytes) if bytes.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Content::Stream { size: Some(size), .. } => SizeHint::with_exact(*size),
            Content::Stream { size: None, .. } => SizeHint::default(),
        }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if let Content::Stream { writer, .. } = &self.content {
            writer.abort();
        }
        if let Some(trick) = &self.close {
            trick.close();
        }
    }
}
