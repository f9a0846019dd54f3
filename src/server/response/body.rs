//! What a worker's connections send: an answer of our own or a replica's, with its story.

use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Response, Version};
use http_body::{Body, Frame, SizeHint};

use super::framing::BodyFraming;
use super::gzip::GzipEncoder;
use crate::fleet::{Outcome, Phase};
use crate::server::connection::state::ConnectionState;
use crate::server::proxy::response_table::ResponseOwner;
use crate::server::request::context::RequestContext;
use crate::telemetry::LogLevel;
use crate::upstream::RelayBody;

type BoxError = Box<dyn Error + Send + Sync>;

/// The most that frames a chunk: its size in hexadecimal digits, and two line ends.
const MAX_CHUNK_FRAMING_BYTES: usize = 16 + 4;
/// `0`, and two line ends.
const LAST_CHUNK_BYTES: u64 = 5;

/// Where an answer's bytes come from.
pub(in crate::server) enum BodySource {
    /// From us.
    Local(axum::body::Body),
    /// From a replica.
    Upstream(Box<RelayBody>, Option<ResponseOwner>),
}

/// A body on its way to the client. Dropping it ends the request's story.
pub(in crate::server) struct ResponseBody {
    source: BodySource,
    context: RequestContext,
    /// Whether it goes in chunks, whose framing counts as sent.
    chunked: bool,
    /// Only where the answer is compressed.
    gzip: Option<Box<GzipEncoder>>,
    /// The client has to take something first.
    write_backlogged: bool,
}

impl BodySource {
    /// Tells whether a replica's answer may be another one when it comes to the client.
    pub(in crate::server) fn rewrites_body(&self) -> bool {
        matches!(self, Self::Upstream(relayed, _) if relayed.rewrites_body())
    }

    pub(in crate::server) fn size_hint(&self) -> SizeHint {
        match self {
            Self::Local(body) => body.size_hint(),
            Self::Upstream(relayed, _) => relayed.size_hint(),
        }
    }
}

impl ResponseBody {
    /// Gives an answer its story.
    pub(in crate::server) fn wrap(
        mut answer: Response<BodySource>,
        mut story: RequestContext,
        gzip: Option<Box<GzipEncoder>>,
    ) -> Response<Self> {
        let length = answer.body().size_hint().exact().filter(|_| gzip.is_none());
        let framing = story.set_response(&answer, length);
        if framing == BodyFraming::UntilClose {
            // An answer of 1.1 would be sent as `connection: keep-alive`, and a client such as `ab` would not see its end.
            *answer.version_mut() = Version::HTTP_10;
        }
        let chunked = framing == BodyFraming::Chunked;
        answer.map(|source| Self { source, context: story, chunked, gzip, write_backlogged: false })
    }

    /// Counts what is handed to the connection; frames are chunks there.
    fn count_sent_bytes(&mut self, bytes: usize) {
        let framing = match bytes {
            0 => 0,
            // The size in hexadecimal digits, and two line ends.
            n => u64::from(n.ilog2() / 4 + 1) + 4,
        };
        let last = if self.is_end_stream() { LAST_CHUNK_BYTES } else { 0 };
        self.context.response_info.body_bytes += bytes as u64 + if self.chunked { framing + last } else { 0 };
    }
}

impl ResponseBody {
    /// The next frame as it comes from its source.
    fn poll_source(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.source {
            BodySource::Local(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            BodySource::Upstream(relayed, owner) => {
                let frame = Pin::new(&mut **relayed).poll_frame(cx);
                // The id is known from the first event on; the client may come back with it before the stream ends.
                if owner.is_some()
                    && let Some(id) = relayed.id()
                    && let Some(owner) = owner.take()
                {
                    self.context.insert_response_owner(id, owner);
                }
                frame
            }
        }
    }

    /// The next frame, compressed if that is wanted.
    fn poll_encoded(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        loop {
            let frame = self.poll_source(cx);
            let Some(gzip) = &mut self.gzip else { return frame };
            let out = match ready!(frame) {
                Some(Ok(frame)) => gzip.encode(frame.data_ref().map_or(&[][..], |data| data)),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(gzip.finish().map(|rest| Ok(Frame::data(rest)))),
            };
            if let Some(out) = out {
                return Poll::Ready(Some(Ok(Frame::data(out))));
            }
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        let is_behind = this.context.http1_connection().is_some_and(ConnectionState::is_write_backlogged);
        let waited = std::mem::replace(&mut this.write_backlogged, is_behind);
        if is_behind {
            // hyper writes when it gets nothing more. It need not ask again then, so it is told to, once: where nothing
            // can be written, the connection wakes it.
            if !waited {
                cx.waker().wake_by_ref();
            }
            return Poll::Pending;
        }
        let frame = this.poll_encoded(cx);
        match &frame {
            Poll::Ready(Some(Ok(frame))) => {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                this.count_sent_bytes(bytes);
                if let Some(visit) = this.context.http1_connection() {
                    visit.add_pending_write(bytes + MAX_CHUNK_FRAMING_BYTES);
                }
            }
            Poll::Ready(None) => this.count_sent_bytes(0),
            Poll::Ready(Some(Err(_))) | Poll::Pending => {}
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        if let Some(gzip) = &self.gzip {
            return gzip.is_finished();
        }
        match &self.source {
            BodySource::Local(body) => body.is_end_stream(),
            BodySource::Upstream(relayed, _) => relayed.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        if self.gzip.is_some() { SizeHint::default() } else { self.source.size_hint() }
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        if let BodySource::Upstream(relayed, _) = &self.source {
            let ending = relayed.result();
            if let (Some(Outcome::Failed { phase: Phase::Stream }), Some(cause)) = (ending.outcome, &ending.cause) {
                self.context.log_upstream_error(LogLevel::Error, Phase::Stream, cause);
            }
            self.context.relay_result = Some(ending.clone());
        }
    }
}
