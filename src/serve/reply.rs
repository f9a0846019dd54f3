//! What a worker's connections send: an answer of our own or a replica's, with its story.

use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Response, Version};
use http_body::{Body, Frame, SizeHint};

use super::framing::Framing;
use super::gzip::Gzip;
use super::owners::Owner;
use super::story::Story;
use super::visit::Visit;
use crate::fleet::{Outcome, Phase};
use crate::telemetry::Level;
use crate::upstream::Relayed;

type BoxError = Box<dyn Error + Send + Sync>;

/// The most that frames a chunk: its size in hexadecimal digits, and two line ends.
const CHUNK_BYTES: usize = 16 + 4;
/// `0`, and two line ends.
const LAST_CHUNK_BYTES: u64 = 5;

/// Where an answer's bytes come from.
pub(super) enum Source {
    /// From us.
    Own(axum::body::Body),
    /// From a replica.
    Replica(Box<Relayed>, Option<Owner>),
}

/// A body on its way to the client. Dropping it ends the request's story.
pub(super) struct Reply {
    source: Source,
    story: Story,
    /// Whether it goes in chunks, whose framing counts as sent.
    chunked: bool,
    /// Only where the answer is compressed.
    gzip: Option<Box<Gzip>>,
    /// The client has to take something first.
    waits: bool,
}

impl Source {
    /// Tells whether a replica's answer may be another one when it comes to the client.
    pub(super) fn edits(&self) -> bool {
        matches!(self, Self::Replica(relayed, _) if relayed.edits())
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(body) => body.size_hint(),
            Self::Replica(relayed, _) => relayed.size_hint(),
        }
    }
}

impl Reply {
    /// Gives an answer its story.
    pub(super) fn of(mut answer: Response<Source>, mut story: Story, gzip: Option<Box<Gzip>>) -> Response<Self> {
        let length = answer.body().size_hint().exact().filter(|_| gzip.is_none());
        let framing = story.begins(&answer, length);
        if framing == Framing::Close {
            // An answer of 1.1 would be sent as `connection: keep-alive`, and a client such as `ab` would not see its end.
            *answer.version_mut() = Version::HTTP_10;
        }
        let chunked = framing == Framing::Chunks;
        answer.map(|source| Self { source, story, chunked, gzip, waits: false })
    }

    /// Counts what is handed to the connection; frames are chunks there.
    fn count(&mut self, bytes: usize) {
        let framing = match bytes {
            0 => 0,
            // The size in hexadecimal digits, and two line ends.
            n => u64::from(n.ilog2() / 4 + 1) + 4,
        };
        let last = if self.is_end_stream() { LAST_CHUNK_BYTES } else { 0 };
        self.story.sent.body_bytes += bytes as u64 + if self.chunked { framing + last } else { 0 };
    }
}

impl Reply {
    /// The next frame as it comes from its source.
    fn poll_source(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.source {
            Source::Own(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            Source::Replica(relayed, owner) => {
                let frame = Pin::new(&mut **relayed).poll_frame(cx);
                // The id is known from the first event on; the client may come back with it before the stream ends.
                if owner.is_some()
                    && let Some(id) = relayed.id()
                    && let Some(owner) = owner.take()
                {
                    self.story.remember(id, owner);
                }
                frame
            }
        }
    }

    /// The next frame, compressed if that is wanted.
    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        loop {
            let frame = self.poll_source(cx);
            let Some(gzip) = &mut self.gzip else { return frame };
            let out = match ready!(frame) {
                Some(Ok(frame)) => gzip.put(frame.data_ref().map_or(&[][..], |data| data)),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(gzip.end().map(|rest| Ok(Frame::data(rest)))),
            };
            if let Some(out) = out {
                return Poll::Ready(Some(Ok(Frame::data(out))));
            }
        }
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        let is_behind = this.story.lane().is_some_and(Visit::is_behind);
        let waited = std::mem::replace(&mut this.waits, is_behind);
        if is_behind {
            // hyper writes when it gets nothing more. It need not ask again then, so it is told to, once: where nothing
            // can be written, the connection wakes it.
            if !waited {
                cx.waker().wake_by_ref();
            }
            return Poll::Pending;
        }
        let frame = this.poll_sent(cx);
        match &frame {
            Poll::Ready(Some(Ok(frame))) => {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                this.count(bytes);
                if let Some(visit) = this.story.lane() {
                    visit.handed(bytes + CHUNK_BYTES);
                }
            }
            Poll::Ready(None) => this.count(0),
            Poll::Ready(Some(Err(_))) | Poll::Pending => {}
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        if let Some(gzip) = &self.gzip {
            return gzip.has_ended();
        }
        match &self.source {
            Source::Own(body) => body.is_end_stream(),
            Source::Replica(relayed, _) => relayed.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        if self.gzip.is_some() { SizeHint::default() } else { self.source.size_hint() }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if let Source::Replica(relayed, _) = &self.source {
            let ending = relayed.ending();
            if let (Some(Outcome::Failed { phase: Phase::Stream }), Some(cause)) = (ending.outcome, &ending.cause) {
                self.story.complain(Level::Error, Phase::Stream, cause);
            }
            self.story.ending = Some(ending.clone());
        }
    }
}
