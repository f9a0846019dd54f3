//! What is known of a request when it is over.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Method, Uri, Version};

use crate::fleet::{Pool, Replica};
use crate::units::{Moment, Timing, Usage};

/// Everything a line of the access log can be made of.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The request's id, sent to the replica and to the client as `X-Request-Id`.
    pub id: &'a str,
    /// The client's address.
    pub client: &'a str,
    /// Method, target and version.
    pub request: &'a Asked,
    /// What the client got.
    pub sent: Sent,
    /// The replicas that were tried, in order.
    pub tries: &'a Tries,
    /// What was generated.
    pub generated: Generated<'a>,
    /// The times.
    pub spent: Spent,
    /// The name of the key that the client has shown, if it has shown one.
    pub tenant: Option<&'a str>,
    /// How it ended.
    pub outcome: &'a str,
    /// What was kept only because the format needs it; `None` if it needs nothing of it.
    pub kept: Option<&'a Kept>,
}

/// One client's connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wire {
    /// Counts connections from the start of the process.
    pub number: u64,
    /// Both ends; `None` for a Unix socket, or where no format needs them.
    pub ends: Option<(SocketAddr, SocketAddr)>,
    /// What its handshake agreed on; `None` without TLS.
    pub tls: Option<Session>,
}

/// What a TLS handshake has agreed on, in OpenSSL's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// `TLSv1.3` or `TLSv1.2`.
    pub protocol: &'static str,
    /// Such as `TLS_AES_256_GCM_SHA384`.
    pub cipher: &'static str,
}

/// A request line.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The method.
    pub method: Method,
    /// The target as it came.
    pub uri: Uri,
    /// The version.
    pub version: Version,
    /// Counts the requests of its connection, from 1.
    pub nth: u64,
    /// The connection it came by.
    pub wire: Wire,
}

/// What a client got.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sent {
    /// The status; nginx's 499 if it left before there was one.
    pub status: u16,
    /// The bytes of the body, chunk framing included.
    pub body_bytes: u64,
}

/// What a replica generated.
#[derive(Clone, Copy, Debug, Default)]
pub struct Generated<'a> {
    /// The model asked for.
    pub model: Option<&'a str>,
    /// The token counts the replica reported.
    pub usage: Option<Usage>,
    /// When the first generated content came.
    pub first: Option<Moment>,
}

/// The times of a request.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spent {
    /// When its head had come.
    pub arrived: Moment,
    /// When it was over.
    pub ended: Moment,
    /// The router's own part, from the last byte of the request to its first byte to a replica.
    pub overhead: Option<Duration>,
    /// The time of day at its end, since the Unix epoch.
    pub time_of_day: Duration,
}

/// One try to get an answer from a replica.
#[derive(Clone, Debug)]
pub struct Try {
    /// The replica.
    pub replica: Arc<Replica>,
    /// What it answered, or nginx's 502 or 504 for what happened instead; `None` if the client left first.
    pub status: Option<u16>,
    /// How long it took.
    pub timing: Timing,
}

/// The tries of one request. One try needs no memory of its own.
#[derive(Clone, Debug, Default)]
pub struct Tries {
    before: Vec<Try>,
    last: Option<Try>,
}

/// What is kept of a request only because the format needs it.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    /// The client's headers that the format names.
    pub asked: HeaderMap,
    /// Ours to the client.
    pub sent: HeaderMap,
    /// The replica's.
    pub upstream: HeaderMap,
    /// The pool that was asked last.
    pub pool: Option<Arc<Pool>>,
    /// The size of the request, head and body.
    pub request_bytes: u64,
    /// The size of the answer's head.
    pub head_bytes: u64,
}

impl Tries {
    /// Begins another try.
    pub fn begin(&mut self, replica: &Arc<Replica>, begun: Moment) {
        let next = Try { replica: replica.clone(), status: None, timing: Timing { begun, ..Timing::default() } };
        self.before.extend(self.last.replace(next));
    }

    /// The try under way, or the last one.
    pub const fn last(&self) -> Option<&Try> {
        self.last.as_ref()
    }

    /// As [`Tries::last`], to be changed.
    pub const fn last_mut(&mut self) -> Option<&mut Try> {
        self.last.as_mut()
    }

    /// All tries, the first one first.
    pub fn iter(&self) -> impl Iterator<Item = &Try> {
        self.before.iter().chain(&self.last)
    }
}
