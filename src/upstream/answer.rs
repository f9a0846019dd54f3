//! A replica's answer as it comes.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::response::Parts;
use http_body::{Body, Frame};
use hyper::body::Incoming;

use super::idle::IdleLinks;
use super::link::Link;
use crate::clock::Clock;
use crate::fleet::Outcome;
use crate::units::{Moment, ReplicaId};

/// Status, headers and the body that follows.
pub struct Answer {
    /// Status and headers as the replica sent them.
    pub head: Parts,
    /// When they came.
    pub came: Moment,
    /// What the answer means for the replica if it comes whole; may be changed by who knows better.
    pub meaning: Outcome,
    /// The stream's usage event was asked for by us, not by the client.
    pub usage_is_ours: bool,
    /// The body.
    pub body: AnswerBody,
}

/// The body of an answer together with the connection it comes on. Dropped before its end, it closes the connection.
pub struct AnswerBody {
    incoming: Incoming,
    /// Given back to `idle` at the end.
    link: Option<Link>,
    idle: Rc<IdleLinks>,
    replica: ReplicaId,
    clock: Clock,
    /// A frame that was read before the head was passed on.
    first: Option<Frame<Bytes>>,
}

impl AnswerBody {
    pub(super) const fn new(
        incoming: Incoming,
        link: Link,
        idle: Rc<IdleLinks>,
        replica: ReplicaId,
        clock: Clock,
    ) -> Self {
        Self { incoming, link: Some(link), idle, replica, clock, first: None }
    }

    /// Waits for the first frame, or for the end of a body that has none, and keeps it for the reader.
    pub(super) async fn prefetch(&mut self) -> hyper::Result<()> {
        self.first = poll_fn(|cx| self.poll_wire(cx)).await.transpose()?;
        Ok(())
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
        match this.first.take() {
            Some(frame) => Poll::Ready(Some(Ok(frame))),
            None => this.poll_wire(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.link.is_none()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        // hyper asks only where the answer has no Content-Length, and then no length is known.
        http_body::SizeHint::default()
    }
}
