//! One connection to a replica, driven by the request that borrows it.
//!
//! It has no task of its own. Polling the response drives the connection, and dropping the response closes the socket
//! at once, so that the engine stops for a client that has left. It also saves two task switches per event.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::{Builder, Connection, SendRequest};
use hyper_util::rt::TokioIo;

use super::request_body::RequestBody;
use super::transport::{ReceivedFlag, Transport, UpgradedConnection};
use crate::fleet::Origin;
use crate::tls::TlsStore;
use crate::units::Moment;

type ConnectionDriver = Connection<TokioIo<Transport>, RequestBody>;

/// A connection with at most one request on it.
pub(super) struct UpstreamConnection {
    sender: SendRequest<RequestBody>,
    /// `None` once the connection has ended.
    driver: Option<Pin<Box<ConnectionDriver>>>,
    /// The driver that ended while a head was awaited: it holds the socket if the protocol has changed.
    ended_driver: Option<Pin<Box<ConnectionDriver>>>,
    /// Whether it has carried a request before the current one.
    pub(super) reused: bool,
    /// Whether data has been received for the current request.
    received: ReceivedFlag,
    /// When its last response ended; zero for a new connection.
    pub(super) idle_since: Moment,
}

impl UpstreamConnection {
    /// Opens a connection and performs the TLS handshake if the origin uses TLS. The kernel probes the replica after
    /// `tcp_keepalive` without data.
    ///
    /// *Errors*: the port or the socket cannot be reached, or the handshake failed.
    pub(super) async fn open(
        origin: &Origin,
        tls_store: &TlsStore,
        tcp_keepalive: Duration,
        preserve_header_case: bool,
    ) -> io::Result<Self> {
        let stream = Transport::connect(origin, tls_store, tcp_keepalive).await?;
        let received = stream.received_flag();
        let mut builder = Builder::new();
        builder.max_buf_size(32 * 1024);
        // A control character in a header's value is no reason to lose the answer. No header can hold it here, so that
        // its line is left out. A space behind a name must not make that of `Transfer-Encoding` one of these lines.
        builder.ignore_invalid_headers_in_responses(true).allow_spaces_after_header_name_in_responses(true);
        builder.preserve_header_case(preserve_header_case).title_case_headers(preserve_header_case);
        let (sender, driver) = builder.handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        Ok(Self {
            sender,
            driver: Some(Box::pin(driver)),
            ended_driver: None,
            reused: false,
            received,
            idle_since: Moment::ZERO,
        })
    }

    /// Drives the transfer between the socket and the current request or response.
    pub(super) fn poll_driver(&mut self, cx: &mut Context<'_>) {
        if let Some(driver) = &mut self.driver
            && driver.as_mut().poll(cx).is_ready()
        {
            self.driver = None;
        }
    }

    /// Returns whether another request can be sent, after polling the socket once.
    pub(super) fn is_reusable(&mut self, cx: &mut Context<'_>) -> bool {
        self.poll_driver(cx);
        self.driver.is_some() && self.sender.is_ready()
    }

    /// Returns whether the replica had closed or reset the connection before the current request, which has failed.
    ///
    /// No byte of a response has come, so the request can be sent again. Whether the failure is an end, a reset, a
    /// broken pipe or a TLS connection without `close_notify` depends on the time of the close only.
    pub(super) fn was_stale(&self) -> bool {
        self.reused && !self.received.is_set()
    }

    /// Sends a request and waits for the head of the response.
    pub(super) async fn send_request(&mut self, request: Request<RequestBody>) -> hyper::Result<Response<Incoming>> {
        self.received.clear();
        let mut response = std::pin::pin!(self.sender.send_request(request));
        let (driver, ended_driver) = (&mut self.driver, &mut self.ended_driver);
        std::future::poll_fn(|cx| {
            if let Some(running) = driver
                && running.as_mut().poll(cx).is_ready()
            {
                *ended_driver = driver.take();
            }
            response.as_mut().poll(cx)
        })
        .await
    }

    /// Returns the socket of a connection whose protocol has changed; `None` if it has not.
    pub(super) fn into_upgraded(self) -> Option<UpgradedConnection> {
        let driver = Pin::into_inner(self.ended_driver?);
        let parts = driver.into_parts();
        Some(UpgradedConnection { stream: parts.io.into_inner(), early: parts.read_buf })
    }

    /// Reads the next frame of the response body.
    pub(super) fn poll_frame(
        &mut self,
        body: &mut Incoming,
        cx: &mut Context<'_>,
    ) -> Poll<Option<hyper::Result<hyper::body::Frame<Bytes>>>> {
        self.poll_driver(cx);
        hyper::body::Body::poll_frame(Pin::new(body), cx)
    }
}
