//! The framing of response bodies, and the size of heads on the wire.

use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, Version, header};

use crate::log_format::RequestLine;

/// The size of the headers that hyper adds where they are missing: `date` and `connection: close`, with line ends.
const DATE_HEADER_BYTES: u64 = 37;
const CLOSE_HEADER_BYTES: u64 = 19;

/// The way in which the client finds the end of a response body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::server) enum BodyFraming {
    /// By `Content-Length`, or by HTTP/2.
    Length,
    Chunked,
    /// By the end of the connection, as HTTP/1.0 has no chunks.
    UntilClose,
}

impl BodyFraming {
    /// Returns the framing of a response whose body has this length; `None` if it is unknown.
    pub(super) fn for_response<B>(request: &RequestLine, response: &Response<B>, length: Option<u64>) -> Self {
        if is_bodiless(request, response) || length.is_some() || response.headers().contains_key(header::CONTENT_LENGTH)
        {
            return Self::Length;
        }
        match request.version {
            Version::HTTP_11 => Self::Chunked,
            Version::HTTP_09 | Version::HTTP_10 => Self::UntilClose,
            _ => Self::Length,
        }
    }

    /// Returns the header that hyper adds for this framing; `None` if it adds none.
    pub(in crate::server) fn header<B>(
        self,
        request: &RequestLine,
        response: &Response<B>,
        length: Option<u64>,
    ) -> Option<(HeaderName, HeaderValue)> {
        if self == Self::Chunked {
            return Some((header::TRANSFER_ENCODING, HeaderValue::from_static("chunked")));
        }
        let missing = !is_bodiless(request, response) && !response.headers().contains_key(header::CONTENT_LENGTH);
        Some((header::CONTENT_LENGTH, HeaderValue::from(length.filter(|_| missing)?)))
    }
}

/// Returns whether a response has no body, whatever its headers say.
fn is_bodiless<B>(request: &RequestLine, response: &Response<B>) -> bool {
    request.method == Method::HEAD || matches!(response.status().as_u16(), 100..=199 | 204 | 304)
}

/// Returns the size of a request's head as most clients write it.
pub(in crate::server) fn request_head_bytes(head: &Parts) -> u64 {
    let target = head.uri.to_string();
    let line = head.method.as_str().len() + target.len() + "  HTTP/1.1\r\n".len();
    line as u64 + header_lines_bytes(&head.headers) + 2
}

/// Returns the size of a response's head as hyper writes it, without `connection: close`.
pub(in crate::server) fn response_head_bytes<B>(
    response: &Response<B>,
    added: Option<&(HeaderName, HeaderValue)>,
) -> u64 {
    let (status, headers) = (response.status(), response.headers());
    let line = "HTTP/1.1 200 \r\n".len() + status.canonical_reason().unwrap_or("<none>").len();
    let date = if headers.contains_key(header::DATE) { 0 } else { DATE_HEADER_BYTES };
    let added = added.map_or(0, |(name, value)| header_line_bytes(name, value));
    line as u64 + header_lines_bytes(headers) + date + added + 2
}

/// Returns the size of `connection: close` in the response's head if the request asks for it, else 0.
pub(in crate::server) fn connection_close_bytes(head: &Parts) -> u64 {
    let is_close = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"close");
    let closes = head.version == Version::HTTP_11 && head.headers.get_all(header::CONNECTION).iter().any(is_close);
    if closes { CLOSE_HEADER_BYTES } else { 0 }
}

fn header_lines_bytes(headers: &HeaderMap) -> u64 {
    headers.iter().map(|(name, value)| header_line_bytes(name, value)).sum()
}

fn header_line_bytes(name: &HeaderName, value: &HeaderValue) -> u64 {
    (name.as_str().len() + value.len() + ": \r\n".len()) as u64
}
