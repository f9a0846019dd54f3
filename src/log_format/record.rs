//! The record of one request, from which log lines and header values are rendered.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Method, Uri, Version};

use crate::units::{Moment, Timing, Usage};

/// A request as known at its end, or so far.
#[derive(Clone, Copy, Debug)]
pub struct RequestRecord<'a> {
    /// The request's id, sent to the replica and to the client as `X-Request-Id`.
    pub id: &'a str,
    /// The client's address.
    pub client_addr: &'a str,
    /// The client's port; `None` if a proxy hides it, for a Unix socket, or if no format needs it.
    pub client_port: Option<u16>,
    /// The address of the connection's other end, which may be a proxy; `None` for a Unix socket.
    pub peer_addr: Option<IpAddr>,
    /// Method, target and version.
    pub request_line: &'a RequestLine,
    /// The first name of the host that takes the request; `None` for one without names, and before routing.
    pub server_name: Option<&'a str>,
    /// The response to the client.
    pub response: ResponseInfo,
    /// The attempts at replicas, in order.
    pub attempts: &'a AttemptRecords,
    /// Model and tokens.
    pub tokens: TokenInfo<'a>,
    /// The times.
    pub times: RequestTimes,
    /// Returns the seconds by which local time is ahead of UTC at a time since the Unix epoch. Called only for
    /// variables that print local time.
    pub utc_offset: fn(Duration) -> i32,
    /// The name of the client's API key; `None` without one.
    pub tenant: Option<&'a str>,
    /// The request's outcome.
    pub outcome: &'a str,
    /// Fields that are captured only for formats that need them; `None` if none does.
    pub captured: Option<&'a CapturedFields>,
}

/// A client's connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct ConnectionInfo {
    /// Number of the connection since the start of the process, from 1.
    pub number: u64,
    /// The client's and our address; `None` for a Unix socket, or if no format needs them.
    pub socket_addrs: Option<(SocketAddr, SocketAddr)>,
    /// The result of the TLS handshake; `None` without TLS.
    pub tls: Option<TlsSession>,
}

/// The result of a TLS handshake, in OpenSSL's names.
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
    /// The target as received.
    pub uri: Uri,
    /// The version.
    pub version: Version,
    /// Number of the request on its connection, from 1.
    pub request_number: u64,
    /// The client's connection.
    pub connection: ConnectionInfo,
}

/// A response to a client.
#[derive(Clone, Copy, Debug, Default)]
pub struct ResponseInfo {
    /// The status; nginx's 499 if the client left before there was one.
    pub status: u16,
    /// Bytes of the body, chunked framing included.
    pub body_bytes: u64,
}

/// Model and tokens of a request.
#[derive(Clone, Copy, Debug, Default)]
pub struct TokenInfo<'a> {
    /// The requested model.
    pub model: Option<&'a str>,
    /// The token counts that the replica reported.
    pub usage: Option<Usage>,
    /// The time at which the first generated content arrived.
    pub first_token: Option<Moment>,
}

/// The times of a request.
#[derive(Clone, Copy, Debug, Default)]
pub struct RequestTimes {
    /// The time at which the request head was complete.
    pub arrived: Moment,
    /// The time at which the request ended.
    pub ended: Moment,
    /// The router's own time, from the last byte of the request to its first byte to a replica.
    pub overhead: Option<Duration>,
    /// The time of day at the end, since the Unix epoch.
    pub time_of_day: Duration,
}

/// One attempt to get a response from a replica.
#[derive(Clone, Debug)]
pub struct AttemptRecord {
    /// The replica's name.
    pub replica: Arc<str>,
    /// The replica's `host:port`; `None` if no format needs it.
    pub upstream_addr: Option<String>,
    /// The status of the response, or nginx's 502 or 504 for a failure; `None` if the client left first.
    pub status: Option<u16>,
    /// The steps of the attempt.
    pub timing: Timing,
}

/// The attempts of one request. The first one needs no allocation.
#[derive(Clone, Debug, Default)]
pub struct AttemptRecords {
    earlier: Vec<AttemptRecord>,
    last: Option<AttemptRecord>,
    /// The pool that had no replica to choose; `None` if there was one.
    exhausted_pool: Option<Arc<str>>,
}

/// Fields that are captured only for formats that need them.
#[derive(Clone, Debug, Default)]
pub struct CapturedFields {
    /// The client's headers that formats name.
    pub request_headers: HeaderMap,
    /// The headers to the client that formats name.
    pub response_headers: HeaderMap,
    /// The replica's headers that formats name.
    pub upstream_headers: HeaderMap,
    /// The pool of the last attempt.
    pub pool: Option<PoolInfo>,
    /// Bytes of the request, head and body.
    pub request_bytes: u64,
    /// Bytes of the response head.
    pub response_head_bytes: u64,
}

/// The pool of a request.
#[derive(Clone, Debug)]
pub struct PoolInfo {
    /// The pool's name.
    pub name: Arc<str>,
    /// The name of its policy.
    pub policy: &'static str,
}

impl AttemptRecords {
    /// Starts an attempt at the replica with this name and, if a format needs it, this `host:port`.
    pub fn start(&mut self, replica: &Arc<str>, upstream_addr: Option<String>, started_at: Moment) {
        let timing = Timing { started_at, ..Timing::default() };
        let next = AttemptRecord { replica: replica.clone(), upstream_addr, status: None, timing };
        self.earlier.extend(self.last.replace(next));
    }

    /// Records that `pool` had no replica to choose; the first of several pools counts.
    pub fn set_exhausted(&mut self, pool: &Arc<str>) {
        self.exhausted_pool.get_or_insert_with(|| pool.clone());
    }

    /// Returns the pool that had no replica to choose; `None` if there was an attempt.
    pub fn exhausted_pool(&self) -> Option<&str> {
        self.exhausted_pool.as_deref().filter(|_| self.last.is_none())
    }

    /// Returns the last attempt, which may be in progress.
    pub const fn last(&self) -> Option<&AttemptRecord> {
        self.last.as_ref()
    }

    /// Returns the last attempt for changes.
    pub const fn last_mut(&mut self) -> Option<&mut AttemptRecord> {
        self.last.as_mut()
    }

    /// Returns all attempts, the first one first.
    pub fn iter(&self) -> impl Iterator<Item = &AttemptRecord> {
        self.earlier.iter().chain(&self.last)
    }
}
