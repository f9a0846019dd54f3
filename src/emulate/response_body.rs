//! Bodies of responses, and counters of requests.

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

/// Paths with a counter of their own; further ones count as `other`.
const MAX_COUNTED_PATHS: usize = 256;

/// Counters of an emulated replica, for tests.
#[derive(Debug, Default)]
pub struct EmulatorCounters {
    pub(super) accepted_connections: AtomicU64,
    pub(super) open_requests: AtomicU64,
    pub(super) aborted_requests: AtomicU64,
    /// Guards the number of requests by path.
    pub(super) requests_by_path: Mutex<BTreeMap<String, u64>>,
}

impl EmulatorCounters {
    /// Returns the number of connections accepted so far.
    pub fn accepted_connections(&self) -> u64 {
        self.accepted_connections.load(Ordering::Relaxed)
    }

    /// Returns the number of requests whose response is not complete.
    pub fn open_requests(&self) -> u64 {
        self.open_requests.load(Ordering::Relaxed)
    }

    /// Returns the number of requests whose response was cut by the client or by a fault.
    pub fn aborted_requests(&self) -> u64 {
        self.aborted_requests.load(Ordering::Relaxed)
    }

    /// Returns the number of requests for `path`, of any method and status.
    pub fn request_count(&self, path: &str) -> u64 {
        self.requests_by_path.lock().unwrap_or_else(PoisonError::into_inner).get(path).copied().unwrap_or_default()
    }

    pub(super) fn count_request(&self, path: &str) {
        let mut paths = self.requests_by_path.lock().unwrap_or_else(PoisonError::into_inner);
        let known = paths.len() < MAX_COUNTED_PATHS || paths.contains_key(path);
        *paths.entry(if known { path } else { "other" }.to_owned()).or_default() += 1;
    }
}

/// A request in progress; on drop it is counted as ended.
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

/// A connection is broken by a fault.
#[derive(Debug)]
pub(super) struct BodyAborted;

impl fmt::Display for BodyAborted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("emulated fault")
    }
}

impl std::error::Error for BodyAborted {}

/// A part of a streamed body, or the order to break the connection.
pub(super) type BodyChunk = Result<Bytes, BodyAborted>;

/// A response body. On drop it aborts the task that writes it.
#[derive(Debug)]
pub(super) struct EmulatedBody {
    content: BodyContent,
    open_request: Option<OpenRequest>,
    /// Set if the connection is closed after the body.
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

    /// Returns a body that `writer_task` sends. `content_length` is the length in the head; `None` for a chunked body.
    pub(super) fn from_channel(
        chunks: mpsc::Receiver<BodyChunk>,
        writer_task: AbortHandle,
        content_length: Option<u64>,
    ) -> Self {
        Self {
            content: BodyContent::Stream { chunks, writer_task, content_length },
            open_request: None,
            close_when_sent: None,
        }
    }

    /// Counts the request as open until the body has been sent; then closes the connection if `close` is set.
    pub(super) fn attach_request(&mut self, mut open: OpenRequest, close: Option<Arc<SocketFault>>) {
        // hyper may write a body of known bytes without asking for its end.
        open.complete = matches!(self.content, BodyContent::Full(_));
        self.open_request = Some(open);
        self.close_when_sent = close;
    }

    pub(super) fn is_full(&self) -> bool {
        matches!(self.content, BodyContent::Full(_))
    }

    /// Returns the bytes of a whole body; empty for a streamed one.
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
        let chunk = match &mut self.content {
            BodyContent::Full(bytes) if bytes.is_empty() => None,
            BodyContent::Full(bytes) => Some(Ok(std::mem::take(bytes))),
            BodyContent::Stream { chunks, .. } => std::task::ready!(chunks.poll_recv(cx)),
        };
        if chunk.is_none()
            && let Some(open) = &mut self.open_request
        {
            open.complete = true;
        }
        Poll::Ready(chunk.map(|chunk| chunk.map(Frame::data)))
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
        if let BodyContent::Stream { writer_task, .. } = &self.content {
            writer_task.abort();
        }
        if let Some(socket_fault) = &self.close_when_sent {
            socket_fault.close_connection();
        }
    }
}
