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

use super::hold::Fault;
use super::idle::IdleLinks;
use super::link::Link;
use crate::clock::Clock;
use crate::fleet::Outcome;
use crate::sse::Observer;
use crate::units::{Moment, ReplicaId};

/// Status, headers and the body that follows.
pub struct Answer {
    /// Status and headers as the replica sent them.
    pub head: Parts,
    /// When they came.
    pub came: Moment,
    /// What the answer means for the replica if it comes whole; may be changed by who knows better.
    pub meaning: Outcome,
    /// How it shows that it is no success, whatever its status; then its meaning is a failure.
    pub fault: Option<Fault>,
    /// The stream's usage event was asked for by us, not by the client.
    pub usage_is_ours: bool,
    /// The body.
    pub body: AnswerBody,
    /// What has been seen of a JSON document that was held.
    pub(super) observer: Option<Observer>,
    /// A stream without an event yet.
    pub(super) waits: bool,
    /// When its first byte must have come.
    pub(super) first_by: Moment,
    /// When all of it must have come.
    pub(super) until: Option<Moment>,
}

impl Answer {
    /// What is wrong with an answer that is not passed on.
    pub fn trouble(&self) -> String {
        self.fault.map_or_else(|| self.head.status.to_string(), |fault| fault.to_string())
    }
}

/// The body of an answer together with the connection it comes on. Dropped before its end, it closes the connection.
pub struct AnswerBody {
    incoming: Incoming,
    /// Given back to `idle` at the end.
    link: Option<Link>,
    idle: Rc<IdleLinks>,
    replica: ReplicaId,
    clock: Clock,
    /// Frames that were read before the head was passed on.
    early: VecDeque<Frame<Bytes>>,
    early_bytes: u64,
}

impl AnswerBody {
    pub(super) const fn new(
        incoming: Incoming,
        link: Link,
        idle: Rc<IdleLinks>,
        replica: ReplicaId,
        clock: Clock,
    ) -> Self {
        Self { incoming, link: Some(link), idle, replica, clock, early: VecDeque::new(), early_bytes: 0 }
    }

    /// Waits for the next frame and keeps it for the reader; `false` if there is none any more.
    pub(super) async fn prefetch(&mut self) -> hyper::Result<bool> {
        let Some(frame) = poll_fn(|cx| self.poll_wire(cx)).await.transpose()? else { return Ok(false) };
        self.early_bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
        self.early.push_back(frame);
        Ok(true)
    }

    /// The bytes kept for the reader.
    pub(super) const fn early_bytes(&self) -> u64 {
        self.early_bytes
    }

    /// The frames kept for the reader.
    pub(super) fn early_frames(&self) -> usize {
        self.early.len()
    }

    /// The data of the frame that was kept last.
    pub(super) fn latest(&self) -> &[u8] {
        self.early.back().and_then(Frame::data_ref).map_or(&[], |data| data)
    }

    /// Tells whether all has come from the socket.
    pub(super) const fn has_ended(&self) -> bool {
        self.link.is_none()
    }

    /// Closes the connection; what is left of the answer is of no use.
    pub(super) fn close(&mut self) {
        self.link = None;
        self.early.clear();
    }

    /// The next frame from the socket; at the end the connection goes back to the idle ones.
    fn poll_wire(&mut self, cx: &mut Context<'_>) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        let Some(link) = &mut self.link else { return Poll::Ready(None) };
        let frame = ready!(link.poll_frame(&mut self.incoming, cx));
        match &frame {
            Some(Err(_)) => self.link = None,
            Some(Ok(_)) if !self.incoming.is_end_stream() => {}
            Some(Ok(_)) | None => self.give_back(cx),
        }
        Poll::Ready(frame)
    }

    fn give_back(&mut self, cx: &mut Context<'_>) {
        if let Some(mut link) = self.link.take()
            && link.is_free(cx)
        {
            self.idle.put(self.replica, link, self.clock.now());
        }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        match this.early.pop_front() {
            Some(frame) => Poll::Ready(Some(Ok(frame))),
            None => this.poll_wire(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.early.is_empty() && self.link.is_none()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        // hyper asks only where the answer has no Content-Length, and then no length is known.
        http_body::SizeHint::default()
    }
}
