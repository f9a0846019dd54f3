//! What formats need to be kept of a request.

use http::{HeaderMap, HeaderName, header};

use super::FormatPart;
use super::variables::RequiredField;

/// What must be kept while a request runs, besides what costs nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequiredFields {
    /// Headers of the client's.
    pub request_headers: Vec<HeaderName>,
    /// Headers to the client.
    pub response_headers: Vec<HeaderName>,
    /// Headers of the replica's.
    pub upstream_headers: Vec<HeaderName>,
    /// The pool.
    pub pool: bool,
    /// How many bytes the heads have.
    pub sizes: bool,
    /// The addresses and ports of both ends of the connection.
    pub socket_addrs: bool,
}

impl RequiredFields {
    /// Tells whether anything at all must be kept of a request.
    pub fn needs_capture(&self) -> bool {
        !(self.request_headers.is_empty() && self.response_headers.is_empty() && self.upstream_headers.is_empty())
            || self.pool
            || self.sizes
    }

    /// Needs all that another needs as well.
    pub fn merge(&mut self, other: &Self) {
        for (names, more) in [
            (&mut self.request_headers, &other.request_headers),
            (&mut self.response_headers, &other.response_headers),
            (&mut self.upstream_headers, &other.upstream_headers),
        ] {
            names.extend(more.iter().cloned());
            names.sort_by(|a, b| a.as_str().cmp(b.as_str()));
            names.dedup();
        }
        self.pool |= other.pool;
        self.sizes |= other.sizes;
        self.socket_addrs |= other.socket_addrs;
    }

    pub(crate) fn from_parts(parts: &[FormatPart]) -> Self {
        let mut needs = Self::default();
        for part in parts {
            match part {
                FormatPart::Text(_) | FormatPart::Argument(_) => {}
                FormatPart::RequestHeader(name) => needs.request_headers.push(name.clone()),
                FormatPart::ResponseHeader(name) => needs.response_headers.push(name.clone()),
                FormatPart::UpstreamHeader(name) => needs.upstream_headers.push(name.clone()),
                FormatPart::Cookie(_) => needs.request_headers.push(header::COOKIE),
                FormatPart::Variable(row) => match row.requires {
                    RequiredField::None => {}
                    RequiredField::RequestHeader(name) => needs.request_headers.push(HeaderName::from_static(name)),
                    RequiredField::Pool => needs.pool = true,
                    RequiredField::Sizes => needs.sizes = true,
                    RequiredField::SocketAddrs => needs.socket_addrs = true,
                },
            }
        }
        for names in [&mut needs.request_headers, &mut needs.response_headers, &mut needs.upstream_headers] {
            names.sort_by(|a, b| a.as_str().cmp(b.as_str()));
            names.dedup();
        }
        needs
    }

    /// The `names` among `headers`.
    pub fn select_headers(names: &[HeaderName], headers: &HeaderMap) -> HeaderMap {
        let mut kept = HeaderMap::new();
        for name in names {
            for value in headers.get_all(name) {
                kept.append(name, value.clone());
            }
        }
        kept
    }
}
