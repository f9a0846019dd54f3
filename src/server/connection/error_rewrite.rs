//! Replaces hyper's own error responses, for heads that it cannot parse or that exceed its limits, with ours.
//!
//! hyper writes a bare status and closes. A write to an HTTP/1 connection without a request under way and without an
//! unwritten response is such a response: our service writes nothing then. What is read passes a scanner for requests
//! with two lengths, of which hyper shows one.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::state::ConnectionState;
use crate::dialect::Dialect;
use crate::http::FramingScanner;
use crate::server::{AppState, RequestError};
use crate::telemetry::LogLevel;

/// The first bytes of an HTTP/2 connection. Source: RFC 9113, section 3.4.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Time for which bytes from the client are discarded after the last response. Closed with unread bytes, the connection
/// would be reset and the client could lose the response.
const LINGERING_TIME: Duration = Duration::from_secs(2);
const DISCARD_BUFFER_BYTES: usize = 4096;

/// A client connection that rewrites hyper's own error responses, and finds requests with two lengths.
pub(super) struct ErrorRewriteStream<S> {
    stream: S,
    app: Arc<AppState>,
    connection: Rc<ConnectionState>,
    /// Bytes of the HTTP/2 preface received so far; `None` once the connection is HTTP/1.
    preface_bytes: Option<usize>,
    framing: FramingScanner,
    /// The unwritten rest of the response that replaces hyper's; `None` if there is none.
    replacement: Option<Bytes>,
    /// The end of the lingering close; `None` before the shutdown.
    linger_timer: Option<Pin<Box<Sleep>>>,
}

impl<S> ErrorRewriteStream<S> {
    pub(super) fn new(stream: S, app: Arc<AppState>, connection: Rc<ConnectionState>) -> Self {
        let framing = FramingScanner::default();
        Self { stream, app, connection, preface_bytes: Some(0), framing, replacement: None, linger_timer: None }
    }

    /// Compares received bytes with the HTTP/2 preface.
    fn detect_preface(&mut self, received: &[u8]) {
        if let Some(matched) = self.preface_bytes {
            let expected = HTTP2_PREFACE.get(matched..).unwrap_or_default();
            let same = expected.iter().zip(received).all(|(a, b)| a == b);
            self.preface_bytes = same.then(|| (matched + received.len()).min(HTTP2_PREFACE.len()));
        }
    }

    /// Looks for requests whose lengths hyper does not show.
    fn scan_framing(&mut self, received: &[u8]) {
        if self.preface_bytes == Some(HTTP2_PREFACE.len()) || self.connection.is_tunnel() {
            self.framing.stop();
        }
        self.framing.scan(received);
        if let Some(number) = self.framing.ambiguous_request() {
            self.connection.set_ambiguous_request(number);
        }
    }

    /// Returns whether `bytes` start an error response of hyper's own.
    fn is_hyper_error(&self, bytes: &[u8]) -> bool {
        self.preface_bytes != Some(HTTP2_PREFACE.len()) && self.connection.is_idle() && bytes.starts_with(b"HTTP/1.1 4")
    }

    /// Returns the response that replaces hyper's, and records it in error log and metrics.
    fn rewrite_error(&self, original: &[u8]) -> Bytes {
        let status = original.get(9..12).and_then(|text| std::str::from_utf8(text).ok()?.parse().ok());
        let settings = self.app.settings();
        let error = match status {
            Some(431) => RequestError::head_too_large(&settings.limits),
            Some(414) => RequestError::UriTooLong { limit_bytes: settings.limits.uri_bytes },
            _ => RequestError::Malformed,
        };
        let response = error.to_response(Dialect::Other);
        let status = response.status();
        self.app.metrics.record_response(status.as_u16(), None);
        let client = self.connection.peer.addr_text();
        let message = format_args!("request from {client} refused with {status}: {error}");
        self.app.logs.error.write(LogLevel::Info, message);
        let mut head = format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-type: application/json\r\n");
        if let Some(date) = date_line(original) {
            head += date;
            head += "\r\n";
        }
        let body = response.into_body();
        format!("{head}content-length: {}\r\n\r\n{body}", body.len()).into()
    }
}

/// Returns the `date` line of a response head.
fn date_line(head: &[u8]) -> Option<&str> {
    std::str::from_utf8(head).ok()?.split("\r\n").find(|line| line.starts_with("date: "))
}

impl<S: AsyncWrite + Unpin> ErrorRewriteStream<S> {
    fn poll_write_error(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self.replacement.as_mut().filter(|rest| !rest.is_empty()) {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, rest))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            rest.advance(written);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ErrorRewriteStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let received = buf.filled().get(before..).unwrap_or_default();
        if self.preface_bytes.is_some_and(|matched| matched < HTTP2_PREFACE.len()) {
            self.detect_preface(received);
        }
        self.scan_framing(received);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for ErrorRewriteStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.replacement.is_none() {
            if !self.is_hyper_error(buf) {
                let written = ready!(Pin::new(&mut self.stream).poll_write(cx, buf))?;
                self.connection.sub_pending_write(written);
                return Poll::Ready(Ok(written));
            }
            self.replacement = Some(self.rewrite_error(buf));
        }
        ready!(self.poll_write_error(cx))?;
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.connection.on_flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.linger_timer.is_none() {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
            if self.replacement.is_none() && !self.connection.has_unread_body() {
                return Poll::Ready(Ok(()));
            }
        }
        let this = &mut *self;
        let end = this.linger_timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(LINGERING_TIME)));
        let mut discarded = [0; DISCARD_BUFFER_BYTES];
        while end.as_mut().poll(cx).is_pending() {
            let mut discarded = ReadBuf::new(&mut discarded);
            let read = ready!(Pin::new(&mut this.stream).poll_read(cx, &mut discarded));
            if read.is_err() || discarded.filled().is_empty() {
                break;
            }
        }
        Poll::Ready(Ok(()))
    }

    fn is_write_vectored(&self) -> bool {
        // `is_hyper_error` needs each response head in one slice.
        false
    }
}
