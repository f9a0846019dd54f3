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

use super::faulty_socket::SocketFault;

/// Paths that are counted under their own name; what comes later counts under `other`.
const MAX_COUNTED_PATHS: usize = 256;

/// What an emulated replica has seen, for tests to ask.
#[derive(Debug, Default)]
pub struct EmulatorCounters {
    pub(super) accepted_connections: AtomicU64,
    pub(super) open_requests: AtomicU64,
    pub(super) aborted_requests: AtomicU64,
    /// Guards the requests seen per path.
    pub(super) requests_by_path: Mutex<BTreeMap<String, u64>>,
}

impl EmulatorCounters {
    /// Connections accepted so far.
    pub fn accepted_connections(&self) -> u64 {
        self.accepted_connections.load(Ordering::Relaxed)
    }

    /// Requests whose answer is not complete.
    pub fn open_requests(&self) -> u64 {
        self.open_requests.load(Ordering::Relaxed)
    }

    /// Requests that ended before their answer was complete, by the client's doing or by a fault.
    pub fn aborted_requests(&self) -> u64 {
        self.aborted_requests.load(Ordering::Relaxed)
    }

    /// Requests seen for `path`, whatever their method and answer.
    pub fn request_count(&self, path: &str) -> u64 {
        self.requests_by_path.lock().unwrap_or_else(PoisonError::into_inner).get(path).copied().unwrap_or_default()
    }

    pub(super) fn count_request(&self, path: &str) {
        let mut paths = self.requests_by_path.lock().unwrap_or_else(PoisonError::into_inner);
        let known = paths.len() < MAX_COUNTED_PATHS || paths.contains_key(path);
        *paths.entry(if known { path } else { "other" }.to_owned()).or_default() += 1;
    }
}

/// A request that is being answered.
#[derive(Debug)]
pub(super) struct OpenRequest {
    counters: Arc<EmulatorCounters>,
    complete: bool,
}

impl OpenRequest {
    pub(super) fn new(counters: Arc<EmulatorCounters>) -> Self {
        counters.open_requests.fetch_add(1, Ordering::Relaxed);
        Self { counters, complete: false }
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        self.counters.open_requests.fetch_sub(1, Ordering::Relaxed);
        if !self.complete {
            self.counters.aborted_requests.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A connection that ends here, by a fault.
#[derive(Debug)]
pub(super) struct BodyAborted;

impl fmt::Display for BodyAborted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an emulated fault")
    }
}

impl std::error::Error for BodyAborted {}

/// What a streaming task says: bytes, or that the connection is to break.
pub(super) type BodyChunk = Result<Bytes, BodyAborted>;

/// An answer's body. Dropped, it ends the task that writes it.
#[derive(Debug)]
pub(super) struct EmulatedBody {
    content: BodyContent,
    open_request: Option<OpenRequest>,
    /// Closes the connection when the body has gone out.
    close_when_sent: Option<Arc<SocketFault>>,
}

#[derive(Debug)]
enum BodyContent {
    Full(Bytes),
    Stream { chunks: mpsc::Receiver<BodyChunk>, writer_task: AbortHandle, content_length: Option<u64> },
}

impl EmulatedBody {
    pub(super) fn from_bytes(bytes: impl Into<Bytes>) -> Self {
        Self { content: BodyContent::Full(bytes.into()), open_request: None, close_when_sent: None }
    }

    /// What `writer` says. `size` is the length that the head promises; none: chunked.
    pub(super) fn from_channel(said: mpsc::Receiver<BodyChunk>, writer: AbortHandle, size: Option<u64>) -> Self {
        Self {
            content: BodyContent::Stream { chunks: said, writer_task: writer, content_length: size },
            open_request: None,
            close_when_sent: None,
        }
    }

    /// Counts the request as open until the body has gone out.
    pub(super) fn attach_request(&mut self, mut open: OpenRequest, close: Option<Arc<SocketFault>>) {
        // hyper may write a body of known bytes without asking for its end.
        open.complete = matches!(self.content, BodyContent::Full(_));
        self.open_request = Some(open);
        self.close_when_sent = close;
    }

    pub(super) fn is_full(&self) -> bool {
        matches!(self.content, BodyContent::Full(_))
    }

    /// The bytes of a whole body.
    pub(super) fn bytes(&self) -> Bytes {
        match &self.content {
            BodyContent::Full(bytes) => bytes.clone(),
            BodyContent::Stream { .. } => Bytes::new(),
        }
    }
}

impl http_body::Body for EmulatedBody {
    type Data = Bytes;
    type Error = BodyAborted;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyAborted>>> {
        let said = match &mut self.content {
            BodyContent::Full(bytes) if bytes.is_empty() => None,
            BodyContent::Full(bytes) => Some(Ok(std::mem::take(bytes))),
            BodyContent::Stream { chunks: said, .. } => std::task::ready!(said.poll_recv(cx)),
        };
        if said.is_none()
            && let Some(open) = &mut self.open_request
        {
            open.complete = true;
        }
        Poll::Ready(said.map(|said| said.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        matches!(&self.content, BodyContent::Full(bytes) if bytes.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            BodyContent::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            BodyContent::Stream { content_length: Some(size), .. } => SizeHint::with_exact(*size),
            BodyContent::Stream { content_length: None, .. } => SizeHint::default(),
        }
    }
}

impl Drop for EmulatedBody {
    fn drop(&mut self) {
        if let BodyContent::Stream { writer_task: writer, .. } = &self.content {
            writer.abort();
        }
        if let Some(trick) = &self.close_when_sent {
            trick.close_connection();
        }
    }
}
