//! A replica's answer as it comes.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::response::Parts;
use http_body::{Body, Frame};
use hyper::body::Incoming;

use super::connection::UpstreamConnection;
use super::idle_connections::IdleConnections;
use super::peek::ResponseFault;
use crate::clock::Clock;
use crate::fleet::Outcome;
use crate::sse::BodyObserver;
use crate::units::{Moment, ReplicaId};

/// Status, headers and the body that follows.
pub struct UpstreamResponse {
    /// Status and headers as the replica sent them.
    pub head: Parts,
    /// When they came.
    pub received_at: Moment,
    /// What the answer means for the replica if it comes whole; may be changed by who knows better.
    pub outcome: Outcome,
    /// How it shows that it is no success, whatever its status; then its meaning is a failure.
    pub fault: Option<ResponseFault>,
    /// The stream's usage event was asked for by us, not by the client.
    pub router_requested_usage: bool,
    /// The body.
    pub body: UpstreamBody,
    /// What has been seen of a JSON document that was held.
    pub(super) observer: Option<BodyObserver>,
    /// A stream without an event yet.
    pub(super) no_event_yet: bool,
    /// When its first byte must have come.
    pub(super) first_byte_deadline: Moment,
    /// When all of it must have come.
    pub(super) total_deadline: Option<Moment>,
}

impl UpstreamResponse {
    /// What is wrong with an answer that is not passed on.
    pub fn fault_text(&self) -> String {
        self.fault.map_or_else(|| self.head.status.to_string(), |fault| fault.to_string())
    }
}

/// The body of an answer together with the connection it comes on. Dropped before its end, it closes the connection.
pub struct UpstreamBody {
    incoming: Incoming,
    /// Given back to `idle` at the end.
    connection: Option<UpstreamConnection>,
    idle_connections: Rc<IdleConnections>,
    replica_id: ReplicaId,
    clock: Clock,
    /// Frames that were read before the head was passed on.
    buffered: VecDeque<Frame<Bytes>>,
    buffered_bytes: u64,
}

impl UpstreamBody {
    pub(super) const fn new(
        incoming: Incoming,
        link: UpstreamConnection,
        idle: Rc<IdleConnections>,
        replica: ReplicaId,
        clock: Clock,
    ) -> Self {
        Self {
            incoming,
            connection: Some(link),
            idle_connections: idle,
            replica_id: replica,
            clock,
            buffered: VecDeque::new(),
            buffered_bytes: 0,
        }
    }

    /// Waits for the next frame and keeps it for the reader; `false` if there is none any more.
    pub(super) async fn buffer_frame(&mut self) -> hyper::Result<bool> {
        let Some(frame) = poll_fn(|cx| self.poll_connection(cx)).await.transpose()? else { return Ok(false) };
        self.buffered_bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
        self.buffered.push_back(frame);
        Ok(true)
    }

    /// The bytes kept for the reader.
    pub(super) const fn buffered_bytes(&self) -> u64 {
        self.buffered_bytes
    }

    /// The frames kept for the reader.
    pub(super) fn buffered_frames(&self) -> usize {
        self.buffered.len()
    }

    /// The data of the frame that was kept last.
    pub(super) fn last_buffered(&self) -> &[u8] {
        self.buffered.back().and_then(Frame::data_ref).map_or(&[], |data| data)
    }

    /// Tells whether all has come from the socket.
    pub(super) const fn has_ended(&self) -> bool {
        self.connection.is_none()
    }

    /// Closes the connection; what is left of the answer is of no use.
    pub(super) fn close(&mut self) {
        self.connection = None;
        self.buffered.clear();
    }

    /// The next frame from the socket; at the end the connection goes back to the idle ones.
    fn poll_connection(&mut self, cx: &mut Context<'_>) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        let Some(link) = &mut self.connection else { return Poll::Ready(None) };
        let frame = ready!(link.poll_frame(&mut self.incoming, cx));
        match &frame {
            Some(Err(_)) => self.connection = None,
            Some(Ok(_)) if !self.incoming.is_end_stream() => {}
            Some(Ok(_)) | None => self.return_connection(cx),
        }
        Poll::Ready(frame)
    }

    fn return_connection(&mut self, cx: &mut Context<'_>) {
        if let Some(mut link) = self.connection.take()
            && link.is_reusable(cx)
        {
            self.idle_connections.insert(self.replica_id, link, self.clock.now());
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
        // hyper asks only where the answer has no Content-Length, and then no length is known.
        http_body::SizeHint::default()
    }
}
