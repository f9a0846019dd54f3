//! What a worker's connections send: an answer of our own or a replica's, with its story.

use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Response, Version};
use http_body::{Body, Frame, SizeHint};

use super::owners::Owner;
use super::story::{Framing, Story};
use crate::fleet::{Outcome, Phase};
use crate::telemetry::Level;
use crate::upstream::Relayed;

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
}

impl Source {
    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(body) => body.size_hint(),
            Self::Replica(relayed, _) => relayed.size_hint(),
        }
    }
}

impl Reply {
    /// Gives an answer its story.
    pub(super) fn of(mut answer: Response<Source>, mut story: Story) -> Response<Self> {
        let length = answer.body().size_hint().exact();
        let framing = story.begins(&answer, length);
        if framing == Framing::Close {
            // An answer of 1.1 would be sent as `connection: keep-alive`, and a client such as `ab` would not see its end.
            *answer.version_mut() = Version::HTTP_10;
        }
        let chunked = framing == Framing::Chunks;
        answer.map(|source| Self { source, story, chunked })
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

impl Body for Reply {
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        let frame = match &mut this.source {
            Source::Own(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            Source::Replica(relayed, owner) => {
                let frame = Pin::new(&mut **relayed).poll_frame(cx);
                // The id is known from the first event on; the client may come back with it before the stream ends.
                if owner.is_some()
                    && let Some(id) = relayed.id()
                    && let Some(owner) = owner.take()
                {
                    this.story.remember(id, owner);
                }
                frame
            }
        };
        match &frame {
            Poll::Ready(Some(Ok(frame))) => this.count(frame.data_ref().map_or(0, Bytes::len)),
            Poll::Ready(None) => this.count(0),
            Poll::Ready(Some(Err(_))) | Poll::Pending => {}
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Own(body) => body.is_end_stream(),
            Source::Replica(relayed, _) => relayed.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.source.size_hint()
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
