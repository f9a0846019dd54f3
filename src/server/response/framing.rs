//! How the ends of messages are told on the wire, and how large heads are there.

use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, Version, header};

use crate::log_format::RequestLine;

/// What hyper adds to a head that has none: `date`, `connection: close`, each with its line end.
const DATE_HEADER_BYTES: u64 = 37;
const CLOSE_HEADER_BYTES: u64 = 19;

/// How the end of an answer's body is told to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::server) enum BodyFraming {
    /// By its length, or by HTTP/2.
    Length,
    Chunked,
    /// By the end of the connection: HTTP/1.0 has no chunks.
    UntilClose,
}

impl BodyFraming {
    /// How the end of an answer is told whose body has this length, if that is known.
    pub(in crate::server) fn for_response<B>(asked: &RequestLine, answer: &Response<B>, length: Option<u64>) -> Self {
        if is_bodiless(asked, answer) || length.is_some() || answer.headers().contains_key(header::CONTENT_LENGTH) {
            return Self::Length;
        }
        match asked.version {
            Version::HTTP_11 => Self::Chunked,
            Version::HTTP_09 | Version::HTTP_10 => Self::UntilClose,
            _ => Self::Length,
        }
    }

    /// The header that hyper adds so that the end is told.
    pub(in crate::server) fn header<B>(
        self,
        asked: &RequestLine,
        answer: &Response<B>,
        length: Option<u64>,
    ) -> Option<(HeaderName, HeaderValue)> {
        if self == Self::Chunked {
            return Some((header::TRANSFER_ENCODING, HeaderValue::from_static("chunked")));
        }
        let missing = !is_bodiless(asked, answer) && !answer.headers().contains_key(header::CONTENT_LENGTH);
        Some((header::CONTENT_LENGTH, HeaderValue::from(length.filter(|_| missing)?)))
    }
}

/// Whether an answer has no body whatever its headers say.
fn is_bodiless<B>(asked: &RequestLine, answer: &Response<B>) -> bool {
    asked.method == Method::HEAD || matches!(answer.status().as_u16(), 100..=199 | 204 | 304)
}

/// The size of a request's head as most clients write it.
pub(in crate::server) fn request_head_bytes(head: &Parts) -> u64 {
    let target = head.uri.to_string();
    let line = head.method.as_str().len() + target.len() + "  HTTP/1.1\r\n".len();
    line as u64 + header_lines_bytes(&head.headers) + 2
}

/// The size of an answer's head as hyper writes it, but for the line that tells that the connection ends.
pub(in crate::server) fn response_head_bytes<B>(
    answer: &Response<B>,
    added: Option<&(HeaderName, HeaderValue)>,
) -> u64 {
    let (status, headers) = (answer.status(), answer.headers());
    let line = "HTTP/1.1 200 \r\n".len() + status.canonical_reason().unwrap_or("<none>").len();
    let date = if headers.contains_key(header::DATE) { 0 } else { DATE_HEADER_BYTES };
    let added = added.map_or(0, |(name, value)| header_line_bytes(name, value));
    line as u64 + header_lines_bytes(headers) + date + added + 2
}

/// What the end of its connection, if it comes with this request, adds to the answer's head.
pub(in crate::server) fn connection_close_bytes(head: &Parts) -> u64 {
    let says = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"close");
    let closes = head.version == Version::HTTP_11 && head.headers.get_all(header::CONNECTION).iter().any(says);
    if closes { CLOSE_HEADER_BYTES } else { 0 }
}

fn header_lines_bytes(headers: &HeaderMap) -> u64 {
    headers.iter().map(|(name, value)| header_line_bytes(name, value)).sum()
}

fn header_line_bytes(name: &HeaderName, value: &HeaderValue) -> u64 {
    (name.as_str().len() + value.len() + ": \r\n".len()) as u64
}
