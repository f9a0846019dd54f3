//! What is known of a request when it is over.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Method, Uri, Version};

use crate::fleet::{Pool, Replica};
use crate::units::{Moment, Timing, Usage};

/// Everything a line of the access log can be made of.
#[derive(Clone, Copy, Debug)]
pub struct RequestRecord<'a> {
    /// The request's id, sent to the replica and to the client as `X-Request-Id`.
    pub id: &'a str,
    /// The client's address.
    pub client_addr: &'a str,
    /// Method, target and version.
    pub request_line: &'a RequestLine,
    /// What the client got.
    pub response: ResponseInfo,
    /// The replicas that were tried, in order.
    pub attempts: &'a AttemptRecords,
    /// What was generated.
    pub tokens: TokenInfo<'a>,
    /// The times.
    pub times: RequestTimes,
    /// The name of the key that the client has shown, if it has shown one.
    pub tenant: Option<&'a str>,
    /// How it ended.
    pub outcome: &'a str,
    /// What was kept only because the format needs it; `None` if it needs nothing of it.
    pub captured: Option<&'a CapturedFields>,
}

/// One client's connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct ConnectionInfo {
    /// Counts connections from the start of the process.
    pub number: u64,
    /// Both ends; `None` for a Unix socket, or where no format needs them.
    pub socket_addrs: Option<(SocketAddr, SocketAddr)>,
    /// What its handshake agreed on; `None` without TLS.
    pub tls: Option<TlsSession>,
}

/// What a TLS handshake has agreed on, in OpenSSL's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TlsSession {
    /// `TLSv1.3` or `TLSv1.2`.
    pub protocol: &'static str,
    /// Such as `TLS_AES_256_GCM_SHA384`.
    pub cipher: &'static str,
}

/// A request line.
#[derive(Clone, Debug)]
pub struct RequestLine {
    /// The method.
    pub method: Method,
    /// The target as it came.
    pub uri: Uri,
    /// The version.
    pub version: Version,
    /// Counts the requests of its connection, from 1.
    pub request_number: u64,
    /// The connection it came by.
    pub connection: ConnectionInfo,
}

/// What a client got.
#[derive(Clone, Copy, Debug, Default)]
pub struct ResponseInfo {
    /// The status; nginx's 499 if it left before there was one.
    pub status: u16,
    /// The bytes of the body, chunk framing included.
    pub body_bytes: u64,
}

/// What a replica generated.
#[derive(Clone, Copy, Debug, Default)]
pub struct TokenInfo<'a> {
    /// The model asked for.
    pub model: Option<&'a str>,
    /// The token counts the replica reported.
    pub usage: Option<Usage>,
    /// When the first generated content came.
    pub first_token: Option<Moment>,
}

/// The times of a request.
#[derive(Clone, Copy, Debug, Default)]
pub struct RequestTimes {
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
pub struct AttemptRecord {
    /// The replica.
    pub replica: Arc<Replica>,
    /// What it answered, or nginx's 502 or 504 for what happened instead; `None` if the client left first.
    pub status: Option<u16>,
    /// How long it took.
    pub timing: Timing,
}

/// The tries of one request. One try needs no memory of its own.
#[derive(Clone, Debug, Default)]
pub struct AttemptRecords {
    earlier: Vec<AttemptRecord>,
    last: Option<AttemptRecord>,
}

/// What is kept of a request only because the format needs it.
#[derive(Clone, Debug, Default)]
pub struct CapturedFields {
    /// The client's headers that the format names.
    pub request_headers: HeaderMap,
    /// Ours to the client.
    pub response_headers: HeaderMap,
    /// The replica's.
    pub upstream_headers: HeaderMap,
    /// The pool that was asked last.
    pub pool: Option<Arc<Pool>>,
    /// The size of the request, head and body.
    pub request_bytes: u64,
    /// The size of the answer's head.
    pub response_head_bytes: u64,
}

impl AttemptRecords {
    /// Begins another try.
    pub fn start(&mut self, replica: &Arc<Replica>, begun: Moment) {
        let next = AttemptRecord {
            replica: replica.clone(),
            status: None,
            timing: Timing { started_at: begun, ..Timing::default() },
        };
        self.earlier.extend(self.last.replace(next));
    }

    /// The try under way, or the last one.
    pub const fn last(&self) -> Option<&AttemptRecord> {
        self.last.as_ref()
    }

    /// As [`AttemptRecords::last`], to be changed.
    pub const fn last_mut(&mut self) -> Option<&mut AttemptRecord> {
        self.last.as_mut()
    }

    /// All tries, the first one first.
    pub fn iter(&self) -> impl Iterator<Item = &AttemptRecord> {
        self.earlier.iter().chain(&self.last)
    }
}
