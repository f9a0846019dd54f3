//! The response of a replica, while it is received.

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::response::Parts;
use http_body::{Body, Frame};
use hyper::body::Incoming;

use super::answer_deadline::AnswerDeadline;
use super::connection::UpstreamConnection;
use super::idle_connections::IdleConnections;
use super::transport::UpgradedConnection;
use crate::clock::Clock;
use crate::fleet::Outcome;
use crate::sse::{BodyFormat, BodyObserver};
use crate::units::{Moment, ReplicaId};

/// How a response with a status of success shows that it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseFault {
    /// The first event of a stream, or the JSON document, is an error.
    Error,
    /// The first event of a stream, or the JSON document, is an error about the load on the replica.
    Busy,
    /// The replica aborted it: `finish_reason` "abort".
    Aborted,
    /// The stream ended before its first event.
    Empty,
}

impl fmt::Display for ResponseFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "the replica returned an error with a status of success",
            Self::Busy => "the replica returned an overload error with a status of success",
            Self::Aborted => "the replica aborted the response",
            Self::Empty => "the replica's stream ended before its first event",
        })
    }
}

/// Whether a live replica sends data all the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ResponseKind {
    /// A stream of events that can be read.
    EventStream,
    /// Any other response: it may be silent until it is complete.
    Plain,
}

/// The status and headers of a response, and the body that follows.
pub struct UpstreamResponse {
    /// Status and headers as the replica sent them.
    pub head: Parts,
    /// When they were received.
    pub received_at: Moment,
    /// The outcome if the response is completed; callers may change it.
    pub outcome: Outcome,
    /// How it shows that it failed whatever its status; `outcome` is a failure or busy then. `None` if it does not.
    pub fault: Option<ResponseFault>,
    /// Whether the replica says that it does not have the requested model.
    pub unknown_model: bool,
    /// Whether the stream's usage event is removed: the router asked for it and not the client, or the client refused it.
    pub removes_usage: bool,
    /// The body.
    pub body: UpstreamBody,
    /// The connection, if the response is a 101; `None` for any other.
    pub upgraded: Option<UpgradedConnection>,
    /// The format of the body.
    pub(super) format: BodyFormat,
    /// Whether it is a stream whose events can be read while they pass.
    pub(super) is_readable_stream: bool,
    /// Observer of the held frames of a JSON document; `None` for any other response.
    pub(super) observer: Option<BodyObserver>,
    /// Deadline of its first byte.
    pub(super) answer_deadline: AnswerDeadline,
    /// Deadline of its end; `None` for no limit.
    pub(super) total_deadline: Option<Moment>,
}

impl UpstreamResponse {
    /// Returns why the response is not relayed: its fault, else its status.
    pub fn fault_text(&self) -> String {
        self.fault.map_or_else(|| self.head.status.to_string(), |fault| fault.to_string())
    }
}

/// The body of a response and its connection, which is closed if the body is dropped before its end.
pub struct UpstreamBody {
    incoming: Incoming,
    /// Returned to `idle_connections` at the end; `None` after it.
    connection: Option<UpstreamConnection>,
    idle_connections: Rc<IdleConnections>,
    replica_id: ReplicaId,
    clock: Clock,
    /// Frames that were read before the head was relayed.
    buffered: VecDeque<Frame<Bytes>>,
    buffered_bytes: u64,
}

impl UpstreamBody {
    pub(super) const fn new(
        incoming: Incoming,
        connection: Option<UpstreamConnection>,
        idle_connections: Rc<IdleConnections>,
        replica_id: ReplicaId,
        clock: Clock,
    ) -> Self {
        Self { incoming, connection, idle_connections, replica_id, clock, buffered: VecDeque::new(), buffered_bytes: 0 }
    }

    /// Waits for the next frame and keeps it for the reader; returns `false` at the end.
    ///
    /// *Errors*: the response was interrupted.
    pub(super) async fn buffer_frame(&mut self) -> hyper::Result<bool> {
        let Some(frame) = poll_fn(|cx| self.poll_connection(cx)).await.transpose()? else { return Ok(false) };
        self.buffered_bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
        self.buffered.push_back(frame);
        Ok(true)
    }

    /// Returns the bytes of the frames kept for the reader.
    pub(super) const fn buffered_bytes(&self) -> u64 {
        self.buffered_bytes
    }

    /// Returns the number of frames kept for the reader.
    pub(super) fn buffered_frames(&self) -> usize {
        self.buffered.len()
    }

    /// Returns the data of each frame kept for the reader.
    pub(super) fn buffered_chunks(&self) -> impl Iterator<Item = &[u8]> {
        self.buffered.iter().filter_map(Frame::data_ref).map(|data| &**data)
    }

    /// Returns the data of the last frame kept; empty if there is none.
    pub(super) fn last_buffered(&self) -> &[u8] {
        self.buffered.back().and_then(Frame::data_ref).map_or(&[], |data| data)
    }

    /// Returns a copy of the data of all frames kept.
    pub(super) fn buffered_data(&self) -> Vec<u8> {
        self.buffered.iter().filter_map(Frame::data_ref).flatten().copied().collect()
    }

    /// Returns whether everything has been read from the socket.
    pub(super) const fn has_ended(&self) -> bool {
        self.connection.is_none()
    }

    /// Closes the connection and drops the rest of the response.
    pub(super) fn close(&mut self) {
        self.connection = None;
        self.buffered.clear();
    }

    /// Reads the next frame from the socket; at the end the connection becomes idle.
    fn poll_connection(&mut self, cx: &mut Context<'_>) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        let Some(connection) = &mut self.connection else { return Poll::Ready(None) };
        let frame = ready!(connection.poll_frame(&mut self.incoming, cx));
        match &frame {
            Some(Err(_)) => self.connection = None,
            Some(Ok(_)) if !self.incoming.is_end_stream() => {}
            Some(Ok(_)) | None => self.return_connection(cx),
        }
        Poll::Ready(frame)
    }

    fn return_connection(&mut self, cx: &mut Context<'_>) {
        if let Some(mut connection) = self.connection.take()
            && connection.is_reusable(cx)
        {
            self.idle_connections.insert(self.replica_id, connection, self.clock.now());
        }
    }
}

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        match this.buffered.pop_front() {
            Some(frame) => Poll::Ready(Some(Ok(frame))),
            None => this.poll_connection(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.buffered.is_empty() && self.connection.is_none()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        // hyper asks only if the response has no Content-Length, and then the length is unknown.
        http_body::SizeHint::default()
    }
}
