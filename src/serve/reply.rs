//! What a worker's connections send: an answer of our own or a replica's, with its story.

use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Response;
use http_body::{Body, Frame, SizeHint};

use super::owners::Owner;
use super::story::Story;
use crate::fleet::{Outcome, Phase};
use crate::telemetry::Level;
use crate::upstream::Relayed;

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
}

impl Reply {
    /// Gives an answer its story.
    pub(super) fn of(answer: Response<Source>, mut story: Story) -> Response<Self> {
        story.status = answer.status().as_u16();
        answer.map(|source| Self { source, story })
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        match &mut this.source {
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
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Own(body) => body.is_end_stream(),
            Source::Replica(relayed, _) => relayed.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Own(body) => body.size_hint(),
            Source::Replica(relayed, _) => relayed.size_hint(),
        }
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
