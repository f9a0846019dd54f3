//! The fields of a request that formats need.

use http::{HeaderMap, HeaderName, header};

use super::part::FormatPart;
use super::variables::RequiredField;

/// Fields that are captured while a request runs only if a format needs them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequiredFields {
    /// Headers of the client, sorted.
    pub request_headers: Vec<HeaderName>,
    /// Headers to the client, sorted.
    pub response_headers: Vec<HeaderName>,
    /// Headers of the replica, sorted.
    pub upstream_headers: Vec<HeaderName>,
    /// The pool.
    pub pool: bool,
    /// Bytes of the request and of the response head.
    pub sizes: bool,
    /// Addresses and ports of both ends of the connection.
    pub socket_addrs: bool,
    /// The replica's `host:port`.
    pub upstream_addr: bool,
}

impl RequiredFields {
    pub(super) fn of_parts(parts: &[FormatPart]) -> Self {
        let mut required = Self::default();
        for part in parts {
            match part {
                FormatPart::Text(_) | FormatPart::Argument(_) => {}
                FormatPart::RequestHeader(name) => required.request_headers.push(name.clone()),
                FormatPart::ResponseHeader(name) => required.response_headers.push(name.clone()),
                FormatPart::UpstreamHeader(name) => required.upstream_headers.push(name.clone()),
                FormatPart::Cookie(_) => required.request_headers.push(header::COOKIE),
                FormatPart::Variable(row) => match row.requires {
                    RequiredField::None => {}
                    RequiredField::RequestHeader(name) => required.request_headers.push(HeaderName::from_static(name)),
                    RequiredField::Pool => required.pool = true,
                    RequiredField::Sizes => required.sizes = true,
                    RequiredField::SocketAddrs => required.socket_addrs = true,
                    RequiredField::UpstreamAddr => required.upstream_addr = true,
                },
            }
        }
        required.sort_headers();
        required
    }

    /// Returns whether a request needs [`super::CapturedFields`].
    pub fn needs_capture(&self) -> bool {
        !(self.request_headers.is_empty() && self.response_headers.is_empty() && self.upstream_headers.is_empty())
            || self.pool
            || self.sizes
    }

    /// Adds the fields of `other`.
    pub fn merge(&mut self, other: &Self) {
        self.request_headers.extend_from_slice(&other.request_headers);
        self.response_headers.extend_from_slice(&other.response_headers);
        self.upstream_headers.extend_from_slice(&other.upstream_headers);
        self.sort_headers();
        self.pool |= other.pool;
        self.sizes |= other.sizes;
        self.socket_addrs |= other.socket_addrs;
        self.upstream_addr |= other.upstream_addr;
    }

    /// Returns the headers with these names.
    pub fn select_headers(names: &[HeaderName], headers: &HeaderMap) -> HeaderMap {
        let mut selected = HeaderMap::new();
        for name in names {
            for value in headers.get_all(name) {
                selected.append(name, value.clone());
            }
        }
        selected
    }

    fn sort_headers(&mut self) {
        for names in [&mut self.request_headers, &mut self.response_headers, &mut self.upstream_headers] {
            names.sort_by(|a, b| a.as_str().cmp(b.as_str()));
            names.dedup();
        }
    }
}
