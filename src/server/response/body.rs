//! The response body that hyper sends: a local or a relayed one, with the request's log record.

use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Response, Version};
use http_body::{Body, Frame, SizeHint};

use super::error::RequestError;
use super::framing::BodyFraming;
use super::gzip::GzipEncoder;
use crate::dialect::Dialect;
use crate::fleet::{Outcome, Phase};
use crate::server::connection::state::ConnectionState;
use crate::server::proxy::response_table::OwnerRegistration;
use crate::server::proxy::tunnel::PendingTunnel;
use crate::server::request::concurrency::RequestPermit;
use crate::server::request_log::RequestLog;
use crate::telemetry::LogLevel;
use crate::upstream::RelayBody;

type BoxError = Box<dyn Error + Send + Sync>;

/// The longest framing of a chunk: its size in hexadecimal digits, and two line ends.
const MAX_CHUNK_FRAMING_BYTES: usize = 16 + 4;
/// `0`, and two line ends.
const LAST_CHUNK_BYTES: u64 = 5;

/// The source of a response's bytes.
pub(in crate::server) enum BodySource {
    /// The router itself.
    Local(axum::body::Body),
    /// A replica.
    Upstream(Box<RelayedBody>),
    /// A replica that has changed the protocol. There is no body; the tunnel begins after the head.
    Tunnel(Box<PendingTunnel>),
}

/// A replica's response body, and what ends with it.
pub(in crate::server) struct RelayedBody {
    pub(in crate::server) relay: RelayBody,
    /// `None` for responses without an id, and once the id is known.
    pub(in crate::server) owner: Option<OwnerRegistration>,
    /// `None` until the proxy hands it over.
    pub(in crate::server) permit: Option<RequestPermit>,
}

/// A response body with its request's log record. The record ends when the body is dropped.
pub(in crate::server) struct ResponseBody {
    source: BodySource,
    log: RequestLog,
    /// Whether the body is sent in chunks, whose framing counts as sent.
    chunked: bool,
    /// `None` unless the response is compressed.
    gzip: Option<Box<GzipEncoder>>,
    /// The last poll waited for the client to read.
    write_backlogged: bool,
}

impl BodySource {
    /// Returns the response to an error.
    pub(in crate::server) fn from_error(error: &RequestError, dialect: Dialect) -> Response<Self> {
        error.to_response(dialect).map(|text| Self::Local(text.into()))
    }

    pub(in crate::server) fn size_hint(&self) -> SizeHint {
        match self {
            Self::Local(body) => body.size_hint(),
            Self::Upstream(relayed) => relayed.relay.size_hint(),
            Self::Tunnel(_) => SizeHint::with_exact(0),
        }
    }
}

impl ResponseBody {
    /// Adds the log record to a response, and the encoder if the response is compressed.
    pub(in crate::server) fn wrap(
        mut response: Response<BodySource>,
        mut log: RequestLog,
        gzip: Option<Box<GzipEncoder>>,
    ) -> Response<Self> {
        let length = response.body().size_hint().exact().filter(|_| gzip.is_none());
        let framing = BodyFraming::for_response(&log.context().request_line, &response, length);
        log.set_response(&response, framing, length);
        if framing == BodyFraming::UntilClose {
            // hyper would send a 1.1 response as `connection: keep-alive`, and a client such as `ab` would not see its
            // end.
            *response.version_mut() = Version::HTTP_10;
        }
        let chunked = framing == BodyFraming::Chunked;
        response.map(|source| Self { source, log, chunked, gzip, write_backlogged: false })
    }

    /// Counts bytes that were handed to the connection, where each frame becomes a chunk.
    fn count_sent_bytes(&mut self, bytes: usize) {
        let framing = match bytes {
            0 => 0,
            // The size in hexadecimal digits, and two line ends.
            n => u64::from(n.ilog2() / 4 + 1) + 4,
        };
        let last = if self.is_end_stream() { LAST_CHUNK_BYTES } else { 0 };
        self.log.add_body_bytes(bytes as u64 + if self.chunked { framing + last } else { 0 });
    }

    /// Polls the source for its next frame.
    fn poll_source(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.source {
            BodySource::Local(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            BodySource::Tunnel(_) => Poll::Ready(None),
            BodySource::Upstream(relayed) => {
                let RelayedBody { relay, owner, .. } = &mut **relayed;
                let frame = Pin::new(&mut *relay).poll_frame(cx);
                // The id is known from the first event on; the client may use it before the stream ends.
                if owner.is_some()
                    && let Some(id) = relay.id()
                    && let Some(owner) = owner.take()
                {
                    owner.record(id, self.log.now());
                }
                frame
            }
        }
    }

    /// Polls for the next frame, compressed if the response is.
    fn poll_encoded(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        loop {
            let frame = self.poll_source(cx);
            let Some(gzip) = &mut self.gzip else { return frame };
            let encoded = match ready!(frame) {
                Some(Ok(frame)) => gzip.encode(frame.data_ref().map_or(&[][..], |data| data)),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(gzip.finish().map(|rest| Ok(Frame::data(rest)))),
            };
            if let Some(encoded) = encoded {
                return Poll::Ready(Some(Ok(Frame::data(encoded))));
            }
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        let is_backlogged = this.log.context().http1_connection().is_some_and(ConnectionState::is_write_backlogged);
        let was_backlogged = std::mem::replace(&mut this.write_backlogged, is_backlogged);
        if is_backlogged {
            // hyper flushes when the body is pending. It need not poll again after that, so it is woken once. While
            // nothing can be written, the connection wakes it.
            if !was_backlogged {
                cx.waker().wake_by_ref();
            }
            return Poll::Pending;
        }
        let frame = this.poll_encoded(cx);
        match &frame {
            Poll::Ready(Some(Ok(frame))) => {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                this.count_sent_bytes(bytes);
                if let Some(connection) = this.log.context().http1_connection() {
                    connection.add_pending_write(bytes + MAX_CHUNK_FRAMING_BYTES);
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
            BodySource::Upstream(relayed) => relayed.relay.is_end_stream(),
            BodySource::Tunnel(_) => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        if self.gzip.is_some() { SizeHint::default() } else { self.source.size_hint() }
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        if let BodySource::Upstream(relayed) = &self.source {
            let result = relayed.relay.result();
            if let (Some(Outcome::Failed { phase: Phase::Stream }), Some(cause)) = (result.outcome, &result.cause) {
                self.log.log_upstream_error(LogLevel::Error, Phase::Stream, cause);
            }
            if let (Some(permit), Some(usage)) = (&relayed.permit, result.usage) {
                permit.record_tokens(usage.prompt + usage.completion, self.log.now());
            }
            self.log.set_relay_result(result.clone());
        }
    }
}
