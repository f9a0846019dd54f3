//! One connection to a replica, driven by the request that borrows it.
//!
//! No task of its own: polling the answer drives the connection, and dropping the answer closes the socket at once,
//! which is how an engine learns that its client has left. It also spares two task switches an event.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::{Builder, Connection, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::RequestBody;
use super::transport::Transport;
use crate::fleet::Origin;
use crate::tls::TlsStore;
use crate::units::Moment;

type ConnectionDriver = Connection<TokioIo<Transport>, RequestBody>;

/// A connection with at most one request on it.
pub(super) struct UpstreamConnection {
    sender: SendRequest<RequestBody>,
    /// `None` once the connection has ended.
    driver: Option<Pin<Box<ConnectionDriver>>>,
    /// Whether it has carried a request before the present one.
    pub(super) reused: bool,
    /// When its last answer ended.
    pub(super) idle_since: Moment,
}

impl UpstreamConnection {
    /// Connects, and shakes hands where there is TLS; no byte of a request is sent yet.
    pub(super) async fn open(origin: &Origin, keyring: &TlsStore) -> io::Result<Self> {
        let stream = match origin.address() {
            Some(address) => TcpStream::connect((address, origin.port())).await?,
            None => TcpStream::connect((origin.host(), origin.port())).await?,
        };
        stream.set_nodelay(true)?;
        let stream = Transport::handshake(stream, origin, keyring).await?;
        let mut builder = Builder::new();
        builder.max_buf_size(32 * 1024);
        let (sender, wire) = builder.handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        Ok(Self { sender, driver: Some(Box::pin(wire)), reused: false, idle_since: Moment::ZERO })
    }

    /// Moves bytes between the socket and the request or answer under way.
    pub(super) fn poll_driver(&mut self, cx: &mut Context<'_>) {
        if let Some(wire) = &mut self.driver
            && wire.as_mut().poll(cx).is_ready()
        {
            self.driver = None;
        }
    }

    /// Tells whether another request can be sent, after one look at the socket.
    pub(super) fn is_reusable(&mut self, cx: &mut Context<'_>) -> bool {
        self.poll_driver(cx);
        self.driver.is_some() && self.sender.is_ready()
    }

    /// Sends a request and waits for the answer's head.
    pub(super) async fn send_request(&mut self, request: Request<RequestBody>) -> hyper::Result<Response<Incoming>> {
        let mut answer = std::pin::pin!(self.sender.send_request(request));
        let wire = &mut self.driver;
        std::future::poll_fn(|cx| {
            if let Some(running) = wire
                && running.as_mut().poll(cx).is_ready()
            {
                *wire = None;
            }
            answer.as_mut().poll(cx)
        })
        .await
    }

    /// Takes the next frame of the answer's body.
    pub(super) fn poll_frame(
        &mut self,
        body: &mut Incoming,
        cx: &mut Context<'_>,
    ) -> Poll<Option<hyper::Result<hyper::body::Frame<Bytes>>>> {
        self.poll_driver(cx);
        hyper::body::Body::poll_frame(Pin::new(body), cx)
    }
}
