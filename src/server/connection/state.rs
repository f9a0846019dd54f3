//! One client's connection, as its requests share it.

use std::cell::Cell;
use std::rc::Rc;

use http::Version;

use crate::server::request::client::PeerAddr;
use crate::telemetry::ConnectionInfo;

/// An HTTP/1 answer that the client does not take is not read on once so much of it waits to be written: with the frame
/// that came last it fits into 64 KiB.
const MAX_PENDING_WRITE_BYTES: usize = 16 << 10;

/// A client's connection, shared by its requests.
pub(in crate::server) struct ConnectionState {
    pub(in crate::server) peer: PeerAddr,
    pub(in crate::server) info: ConnectionInfo,
    /// Requests so far.
    pub(in crate::server) request_count: Cell<u64>,
    /// Requests under way.
    active_requests: Cell<usize>,
    /// They share the connection: HTTP/2.
    is_http2: Cell<bool>,
    /// Something of the last answer may not have been written yet.
    response_unflushed: Cell<bool>,
    /// The body of the last request has not been read to its end.
    body_unread: Cell<bool>,
    /// What was handed over and has not been written.
    pending_write_bytes: Cell<usize>,
}

/// One request of a visit, until dropped.
pub(in crate::server) struct ActiveRequest(Rc<ConnectionState>);

impl ActiveRequest {
    /// The connection that the request came by.
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
    /// A connection that no request has come by.
    pub(in crate::server) fn new(peer: PeerAddr, wire: ConnectionInfo) -> Rc<Self> {
        let (requests, present, waiting_bytes) = (Cell::new(0), Cell::new(0), Cell::new(0));
        let [shared, unsaid, unread] = [const { Cell::new(false) }; 3];
        Rc::new(Self {
            peer,
            info: wire,
            request_count: requests,
            active_requests: present,
            is_http2: shared,
            response_unflushed: unsaid,
            body_unread: unread,
            pending_write_bytes: waiting_bytes,
        })
    }

    /// Notes that a request has come.
    pub(in crate::server) fn start_request(self: &Rc<Self>, version: Version) -> ActiveRequest {
        self.is_http2.set(version >= Version::HTTP_2);
        self.request_count.set(self.request_count.get() + 1);
        self.active_requests.set(self.active_requests.get() + 1);
        self.response_unflushed.set(true);
        self.body_unread.set(false);
        ActiveRequest(self.clone())
    }

    /// Tells whether the connection is one request's at a time: HTTP/1.
    pub(in crate::server) const fn is_http1(&self) -> bool {
        !self.is_http2.get()
    }

    /// Tells whether a request that has come whole, the only one, has not been answered whole.
    pub(in crate::server) const fn has_unanswered_request(&self) -> bool {
        self.is_http1() && self.active_requests.get() > 0 && !self.body_unread.get()
    }

    /// Notes that so much of an answer was handed over to be written.
    pub(in crate::server) fn add_pending_write(&self, bytes: usize) {
        self.pending_write_bytes.set(self.pending_write_bytes.get().saturating_add(bytes));
    }

    /// Notes that so much was written.
    pub(in crate::server) fn sub_pending_write(&self, bytes: usize) {
        self.pending_write_bytes.set(self.pending_write_bytes.get().saturating_sub(bytes));
    }

    /// Tells whether the client should take something before more is handed over.
    pub(in crate::server) const fn is_write_backlogged(&self) -> bool {
        self.pending_write_bytes.get() >= MAX_PENDING_WRITE_BYTES
    }

    /// Notes that all that was handed over has been written.
    pub(in crate::server) fn on_flushed(&self) {
        self.pending_write_bytes.set(0);
        if self.active_requests.get() == 0 {
            self.response_unflushed.set(false);
        }
    }

    /// Tells whether no request is under way and no answer left to be written.
    pub(in crate::server) const fn is_idle(&self) -> bool {
        self.active_requests.get() == 0 && !self.response_unflushed.get()
    }

    /// Notes whether there is a body of the present request that has not been read to its end.
    pub(in crate::server) fn set_body_unread(&self, a_body: bool) {
        self.body_unread.set(a_body);
    }

    /// Tells whether the client may still be sending what nobody reads.
    pub(in crate::server) const fn has_unread_body(&self) -> bool {
        self.body_unread.get()
    }
}
