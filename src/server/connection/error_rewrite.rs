//! What hyper answers of itself, in our words: heads that it cannot read or that are beyond its limits.
//!
//! hyper writes a bare status and closes. Nobody but hyper writes to an HTTP/1 connection that has no request under way
//! and nothing left to be written, so that is how such an answer is known.

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
use crate::server::{AppState, RequestError};
use crate::telemetry::LogLevel;
use crate::units::Dialect;

/// What HTTP/2 begins with.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How long what a client goes on sending is read and thrown away after the last answer. Closed at once, the connection
/// would be reset, and the answer with it.
const LINGERING_TIME: Duration = Duration::from_secs(2);
const DISCARD_BUFFER_BYTES: usize = 4096;

/// A client's connection.
pub(in crate::server) struct ErrorRewriteStream<S> {
    stream: S,
    app: Arc<AppState>,
    connection: Rc<ConnectionState>,
    /// The bytes of HTTP/2's preface that have come; `None` once it is HTTP/1.
    preface_bytes: Option<usize>,
    /// What is said in the place of hyper's words.
    replacement: Option<Bytes>,
    linger_timer: Option<Pin<Box<Sleep>>>,
}

impl<S> ErrorRewriteStream<S> {
    pub(in crate::server) const fn new(stream: S, app: Arc<AppState>, visit: Rc<ConnectionState>) -> Self {
        Self { stream, app, connection: visit, preface_bytes: Some(0), replacement: None, linger_timer: None }
    }

    /// Compares what came with HTTP/2's preface.
    fn detect_preface(&mut self, came: &[u8]) {
        if let Some(seen) = self.preface_bytes {
            let wanted = HTTP2_PREFACE.get(seen..).unwrap_or_default();
            let same = wanted.iter().zip(came).all(|(a, b)| a == b);
            self.preface_bytes = same.then(|| (seen + came.len()).min(HTTP2_PREFACE.len()));
        }
    }

    /// Tells whether hyper says something that we have not said.
    fn is_hyper_error(&self, bytes: &[u8]) -> bool {
        self.preface_bytes != Some(HTTP2_PREFACE.len()) && self.connection.is_idle() && bytes.starts_with(b"HTTP/1.1 4")
    }

    /// Our words for hyper's, told to the log and the metrics as well.
    fn rewrite_error(&self, hypers: &[u8]) -> Bytes {
        let status = hypers.get(9..12).and_then(|text| std::str::from_utf8(text).ok()?.parse().ok());
        let settings = self.app.settings();
        let refusal = match status {
            Some(431) => RequestError::head_too_large(&settings.limits),
            Some(414) => RequestError::UriTooLong { limit_bytes: settings.limits.uri_bytes },
            _ => RequestError::Malformed,
        };
        let answer = refusal.to_response(Dialect::Other);
        let status = answer.status();
        self.app.metrics.record_response(status.as_u16(), None);
        let client = self.connection.peer.addr_text();
        self.app
            .logs
            .error
            .write(LogLevel::Info, format_args!("a request of {client} was refused with {status}: {refusal}"));
        let mut head = format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-type: application/json\r\n");
        if let Some(date) = date_line(hypers) {
            head += date;
            head += "\r\n";
        }
        let body = answer.into_body();
        format!("{head}content-length: {}\r\n\r\n{body}", body.len()).into()
    }
}

/// The `date` line of a head.
fn date_line(head: &[u8]) -> Option<&str> {
    std::str::from_utf8(head).ok()?.split("\r\n").find(|line| line.starts_with("date: "))
}

impl<S: AsyncWrite + Unpin> ErrorRewriteStream<S> {
    fn poll_write_error(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(last) = self.replacement.as_mut().filter(|last| !last.is_empty()) {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, last))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            last.advance(written);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ErrorRewriteStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        if self.preface_bytes.is_some_and(|seen| seen < HTTP2_PREFACE.len()) {
            self.detect_preface(buf.filled().get(before..).unwrap_or_default());
        }
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
        let mut scrap = [0; DISCARD_BUFFER_BYTES];
        while end.as_mut().poll(cx).is_pending() {
            let mut scrap = ReadBuf::new(&mut scrap);
            if ready!(Pin::new(&mut this.stream).poll_read(cx, &mut scrap)).is_err() || scrap.filled().is_empty() {
                break;
            }
        }
        Poll::Ready(Ok(()))
    }

    fn is_write_vectored(&self) -> bool {
        // hyper is told to write in one piece, which is what is looked at here.
        false
    }
}
