//! Connection state: what one client connection and its requests share, among it the write backlog.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use http::Version;

use super::peer_addr::PeerAddr;
use super::timeouts::ConnectionTimeouts;
use crate::log_format::ConnectionInfo;
use crate::routes::{ArrivalAddr, Timeouts};

/// Bytes of an HTTP/1 response that may wait to be written before the response body is polled again. With the frame
/// that came last they fit into 64 KiB.
const MAX_PENDING_WRITE_BYTES: usize = 16 << 10;

/// A client connection, shared by its requests.
pub(in crate::server) struct ConnectionState {
    pub(in crate::server) peer: PeerAddr,
    pub(in crate::server) arrival: ArrivalAddr,
    pub(in crate::server) info: ConnectionInfo,
    timeouts: Arc<ConnectionTimeouts>,
    /// Requests since the connection was opened.
    pub(in crate::server) request_count: Cell<u64>,
    /// Requests under way.
    active_requests: Cell<usize>,
    is_http2: Cell<bool>,
    /// Whether bytes of the last response may not have been written yet.
    response_unflushed: Cell<bool>,
    /// Whether the body of the last request has not been read to its end.
    body_unread: Cell<bool>,
    /// The number of the request that gives its length twice; 0 for none.
    ambiguous_request: Cell<u64>,
    /// Bytes of responses that hyper has and has not written yet.
    pending_write_bytes: Cell<usize>,
    /// What the connection carries after its upgrade; `None` for others, and once it has been taken.
    tunnel: RefCell<Option<LocalFuture>>,
    /// Whether the connection has been upgraded.
    is_tunnel: Cell<bool>,
}

/// A future of one worker's thread.
pub(super) type LocalFuture = Pin<Box<dyn Future<Output = ()>>>;

/// One request of a connection, until dropped.
pub(in crate::server) struct ActiveRequest(Rc<ConnectionState>);

impl ActiveRequest {
    /// Returns the connection of the request.
    pub(in crate::server) fn connection(&self) -> &ConnectionState {
        &self.0
    }
}

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        self.0.active_requests.set(self.0.active_requests.get().saturating_sub(1));
    }
}

impl ConnectionState {
    /// Returns the state of a new connection.
    pub(super) fn new(
        peer: PeerAddr,
        arrival: ArrivalAddr,
        info: ConnectionInfo,
        timeouts: Arc<ConnectionTimeouts>,
    ) -> Rc<Self> {
        Rc::new(Self {
            peer,
            arrival,
            info,
            timeouts,
            request_count: Cell::new(0),
            active_requests: Cell::new(0),
            is_http2: Cell::new(false),
            response_unflushed: Cell::new(false),
            body_unread: Cell::new(false),
            ambiguous_request: Cell::new(0),
            pending_write_bytes: Cell::new(0),
            tunnel: RefCell::new(None),
            is_tunnel: Cell::new(false),
        })
    }

    /// Records that a request has arrived.
    pub(super) fn start_request(self: &Rc<Self>, version: Version) -> ActiveRequest {
        self.is_http2.set(version >= Version::HTTP_2);
        self.request_count.set(self.request_count.get() + 1);
        self.active_requests.set(self.active_requests.get() + 1);
        self.response_unflushed.set(true);
        self.body_unread.set(false);
        ActiveRequest(self.clone())
    }

    /// Returns the timeouts that the connection has from its last request.
    pub(super) fn timeouts(&self) -> Arc<ConnectionTimeouts> {
        self.timeouts.clone()
    }

    /// Sets the timeouts of the connection to those of the route of the request that has arrived last. Requests that share
    /// the connection wait for the longest write timeout of all so far.
    pub(super) fn set_timeouts(&self, timeouts: &Timeouts) {
        if self.is_http1() || self.request_count.get() == 1 {
            self.timeouts.set_route(timeouts);
        } else {
            self.timeouts.raise_to_route(timeouts);
        }
    }

    /// Returns whether the connection carries one request at a time.
    pub(in crate::server) const fn is_http1(&self) -> bool {
        !self.is_http2.get()
    }

    /// Returns whether the one request under way has been read to its end and its response has not ended: HTTP/1 only.
    pub(super) const fn has_unanswered_request(&self) -> bool {
        self.is_http1() && self.active_requests.get() > 0 && !self.body_unread.get() && !self.is_tunnel()
    }

    /// Records that the request with this number, from 1, gives its length twice.
    pub(super) fn set_ambiguous_request(&self, number: u64) {
        self.ambiguous_request.set(number);
    }

    /// Returns whether the present request gives its length twice.
    pub(in crate::server) const fn has_two_lengths(&self) -> bool {
        self.ambiguous_request.get() == self.request_count.get()
    }

    /// Returns whether the connection has been upgraded.
    pub(super) const fn is_tunnel(&self) -> bool {
        self.is_tunnel.get()
    }

    /// Sets what the connection carries after its upgrade.
    pub(super) fn set_tunnel(&self, tunnel: LocalFuture) {
        self.is_tunnel.set(true);
        *self.tunnel.borrow_mut() = Some(tunnel);
    }

    /// Takes what the connection carries after its upgrade; `None` if it was not upgraded.
    pub(super) fn take_tunnel(&self) -> Option<LocalFuture> {
        self.tunnel.borrow_mut().take()
    }

    /// Records `bytes` of a response that hyper has taken to write.
    pub(in crate::server) fn add_pending_write(&self, bytes: usize) {
        self.pending_write_bytes.set(self.pending_write_bytes.get().saturating_add(bytes));
    }

    /// Records `bytes` that were written.
    pub(super) fn sub_pending_write(&self, bytes: usize) {
        self.pending_write_bytes.set(self.pending_write_bytes.get().saturating_sub(bytes));
    }

    /// Returns whether the response body must wait until the client reads.
    pub(in crate::server) const fn is_write_backlogged(&self) -> bool {
        self.pending_write_bytes.get() >= MAX_PENDING_WRITE_BYTES
    }

    /// Records that all pending bytes were written.
    pub(super) fn on_flushed(&self) {
        self.pending_write_bytes.set(0);
        if self.active_requests.get() == 0 {
            self.response_unflushed.set(false);
        }
    }

    /// Returns whether no request is under way and every response has been written.
    pub(super) const fn is_idle(&self) -> bool {
        self.active_requests.get() == 0 && !self.response_unflushed.get()
    }

    /// Sets whether the present request has a body that has not been read to its end.
    pub(in crate::server) fn set_body_unread(&self, unread: bool) {
        self.body_unread.set(unread);
    }

    /// Returns whether the client may still be sending a body that will not be read.
    pub(super) const fn has_unread_body(&self) -> bool {
        self.body_unread.get()
    }
}
