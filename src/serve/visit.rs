//! One client's connection, as its requests share it.

use std::cell::Cell;
use std::rc::Rc;

use http::Version;

use super::identify::Peer;
use crate::telemetry::Wire;

/// An HTTP/1 answer that the client does not take is not read on once so much of it waits to be written: with the frame
/// that came last it fits into 64 KiB.
const WAITING_BYTES: usize = 16 << 10;

/// A client's connection, shared by its requests.
pub(super) struct Visit {
    pub(super) peer: Peer,
    pub(super) wire: Wire,
    /// Requests so far.
    pub(super) requests: Cell<u64>,
    /// Requests under way.
    present: Cell<usize>,
    /// They share the connection: HTTP/2.
    shared: Cell<bool>,
    /// Something of the last answer may not have been written yet.
    unsaid: Cell<bool>,
    /// The body of the last request has not been read to its end.
    unread: Cell<bool>,
    /// What was handed over and has not been written.
    waiting_bytes: Cell<usize>,
}

/// One request of a visit, until dropped.
pub(super) struct Present(Rc<Visit>);

impl Present {
    /// The connection that the request came by.
    pub(super) fn visit(&self) -> &Visit {
        &self.0
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        self.0.present.set(self.0.present.get().saturating_sub(1));
    }
}

impl Visit {
    /// A connection that no request has come by.
    pub(super) fn new(peer: Peer, wire: Wire) -> Rc<Self> {
        let (requests, present, waiting_bytes) = (Cell::new(0), Cell::new(0), Cell::new(0));
        let [shared, unsaid, unread] = [const { Cell::new(false) }; 3];
        Rc::new(Self { peer, wire, requests, present, shared, unsaid, unread, waiting_bytes })
    }

    /// Notes that a request has come.
    pub(super) fn begins(self: &Rc<Self>, version: Version) -> Present {
        self.shared.set(version >= Version::HTTP_2);
        self.requests.set(self.requests.get() + 1);
        self.present.set(self.present.get() + 1);
        self.unsaid.set(true);
        self.unread.set(false);
        Present(self.clone())
    }

    /// Tells whether the connection is one request's at a time: HTTP/1.
    pub(super) const fn is_lane(&self) -> bool {
        !self.shared.get()
    }

    /// Tells whether a request that has come whole, the only one, has not been answered whole.
    pub(super) const fn is_answering(&self) -> bool {
        self.is_lane() && self.present.get() > 0 && !self.unread.get()
    }

    /// Notes that so much of an answer was handed over to be written.
    pub(super) fn handed(&self, bytes: usize) {
        self.waiting_bytes.set(self.waiting_bytes.get().saturating_add(bytes));
    }

    /// Notes that so much was written.
    pub(super) fn wrote(&self, bytes: usize) {
        self.waiting_bytes.set(self.waiting_bytes.get().saturating_sub(bytes));
    }

    /// Tells whether the client should take something before more is handed over.
    pub(super) const fn is_behind(&self) -> bool {
        self.waiting_bytes.get() >= WAITING_BYTES
    }

    /// Notes that all that was handed over has been written.
    pub(super) fn flushed(&self) {
        self.waiting_bytes.set(0);
        if self.present.get() == 0 {
            self.unsaid.set(false);
        }
    }

    /// Tells whether no request is under way and no answer left to be written.
    pub(super) const fn is_quiet(&self) -> bool {
        self.present.get() == 0 && !self.unsaid.get()
    }

    /// Notes whether there is a body of the present request that has not been read to its end.
    pub(super) fn owes(&self, a_body: bool) {
        self.unread.set(a_body);
    }

    /// Tells whether the client may still be sending what nobody reads.
    pub(super) const fn is_unread(&self) -> bool {
        self.unread.get()
    }
}
