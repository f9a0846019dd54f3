//! Compressing JSON answers for clients that take gzip. Streams of events are never touched.

use std::io::Write as _;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};

use crate::http::{content_length, is_json};

const GZIP: HeaderValue = HeaderValue::from_static("gzip");

/// A body on its way through the encoder. Errors cannot happen: it writes to memory.
pub(in crate::server) struct GzipEncoder {
    /// `None` once the end has been taken.
    encoder: Option<GzEncoder<Vec<u8>>>,
}

impl GzipEncoder {
    pub(in crate::server) fn new() -> Self {
        // nginx's own level: JSON shrinks about as well as with higher ones, for less time.
        Self { encoder: Some(GzEncoder::new(Vec::new(), Compression::fast())) }
    }

    /// Takes a piece of the body; returns what has come out of the encoder, if anything.
    pub(in crate::server) fn encode(&mut self, piece: &[u8]) -> Option<Bytes> {
        let encoder = self.encoder.as_mut()?;
        encoder.write_all(piece).ok()?;
        Some(std::mem::take(encoder.get_mut())).filter(|out| !out.is_empty()).map(Bytes::from)
    }

    /// Returns the rest at the body's end; `None` the second time.
    pub(in crate::server) fn finish(&mut self) -> Option<Bytes> {
        self.encoder.take()?.finish().ok().map(Bytes::from)
    }

    pub(in crate::server) const fn is_finished(&self) -> bool {
        self.encoder.is_none()
    }
}

/// Tells whether a request's client takes gzip. Source: RFC 9110, section 12.5.3.
pub(in crate::server) fn accepts_gzip(asked: &HeaderMap) -> bool {
    let lines = asked.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    let mut any = false;
    for coding in lines.flat_map(|line| line.split(',')) {
        let (name, weight) = coding.split_once(';').unwrap_or((coding, ""));
        let refused = weight.trim().strip_prefix("q=").is_some_and(|q| q.trim().parse() == Ok(0.0));
        match name.trim() {
            name if name.eq_ignore_ascii_case("gzip") || name.eq_ignore_ascii_case("x-gzip") => return !refused,
            "*" => any = !refused,
            _ => {}
        }
    }
    any
}

/// Makes an answer's head that of a compressed one, if it is worth it and the client takes it. `length` is the body's,
/// where it is known.
pub(in crate::server) fn negotiate<B>(
    answer: &mut Response<B>,
    length: Option<u64>,
    min_bytes: usize,
    accepted: bool,
) -> bool {
    let headers = answer.headers();
    let is_small = length.or_else(|| content_length(headers)).is_some_and(|length| length < min_bytes as u64);
    let barred = headers.contains_key(header::CONTENT_ENCODING)
        || headers.contains_key(header::CONTENT_RANGE)
        || headers
            .get_all(header::CACHE_CONTROL)
            .iter()
            .any(|v| v.as_bytes().windows(12).any(|w| w == b"no-transform"));
    if !is_json(headers) || is_small || barred || answer.status() != StatusCode::OK {
        return false;
    }
    let headers = answer.headers_mut();
    add_vary(headers, header::ACCEPT_ENCODING);
    if !accepted {
        return false;
    }
    headers.insert(header::CONTENT_ENCODING, GZIP);
    headers.remove(header::CONTENT_LENGTH);
    headers.remove(header::ACCEPT_RANGES);
    // The bytes are not those that a strong tag stands for.
    let weak = headers
        .get(header::ETAG)
        .filter(|tag| !tag.as_bytes().starts_with(b"W/"))
        .map(|tag| [b"W/", tag.as_bytes()].concat());
    if let Some(weak) = weak.and_then(|tag| HeaderValue::from_bytes(&tag).ok()) {
        headers.insert(header::ETAG, weak);
    }
    true
}

fn add_vary(headers: &mut HeaderMap, on: HeaderName) {
    let lines = headers.get_all(header::VARY).iter().filter_map(|value| value.to_str().ok());
    let known = |name: &str| name.trim() == "*" || name.trim().eq_ignore_ascii_case(on.as_str());
    if !lines.flat_map(|line| line.split(',')).any(known) {
        headers.append(header::VARY, on.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_say_whether_they_take_it() {
        for (line, wanted) in [
            ("gzip", true),
            ("br, GZIP;q=0.5", true),
            ("*", true),
            ("*;q=0, gzip", true),
            ("gzip;q=0", false),
            ("gzip; q=0.000, *", false),
            ("identity", false),
            ("", false),
        ] {
            let headers = HeaderMap::from_iter([(header::ACCEPT_ENCODING, line.parse().unwrap())]);
            assert_eq!(accepts_gzip(&headers), wanted, "{line}");
        }
        assert!(!accepts_gzip(&HeaderMap::new()));
    }
}
