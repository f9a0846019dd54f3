//! Compression of JSON responses for clients that accept gzip. Event streams are never compressed.

use std::io::Write as _;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};

use crate::http::{content_length, is_json};

const GZIP: HeaderValue = HeaderValue::from_static("gzip");

/// Compresses one body. It writes to memory, so it cannot fail.
pub(in crate::server) struct GzipEncoder {
    /// `None` once the body has ended.
    encoder: Option<GzEncoder<Vec<u8>>>,
}

impl GzipEncoder {
    pub(in crate::server) fn new() -> Self {
        // nginx's default level: JSON shrinks about as well as with higher ones, in less time.
        Self { encoder: Some(GzEncoder::new(Vec::new(), Compression::fast())) }
    }

    /// Compresses a piece of the body. Returns the output so far; `None` while the encoder has none.
    ///
    /// White space alone is what keeps a response alive, so the encoder does not hold it back.
    pub(super) fn encode(&mut self, piece: &[u8]) -> Option<Bytes> {
        let encoder = self.encoder.as_mut()?;
        encoder.write_all(piece).ok()?;
        if !piece.is_empty() && piece.trim_ascii().is_empty() {
            encoder.flush().ok()?;
        }
        Some(std::mem::take(encoder.get_mut())).filter(|output| !output.is_empty()).map(Bytes::from)
    }

    /// Ends the body and returns the rest of the output; `None` the second time.
    pub(super) fn finish(&mut self) -> Option<Bytes> {
        self.encoder.take()?.finish().ok().map(Bytes::from)
    }

    pub(super) const fn is_finished(&self) -> bool {
        self.encoder.is_none()
    }
}

/// Returns whether a client accepts gzip. Source: RFC 9110, section 12.5.3.
pub(in crate::server) fn accepts_gzip(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
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

/// Sets the head of a compressed response if the response is worth it and the client accepts gzip; returns whether it
/// is.
///
/// `length` is that of the body; `None` if it is unknown.
pub(in crate::server) fn negotiate<B>(
    response: &mut Response<B>,
    length: Option<u64>,
    min_bytes: usize,
    client_accepts: bool,
) -> bool {
    let headers = response.headers();
    let is_small = length.or_else(|| content_length(headers)).is_some_and(|length| length < min_bytes as u64);
    let is_excluded = headers.contains_key(header::CONTENT_ENCODING)
        || headers.contains_key(header::CONTENT_RANGE)
        || headers
            .get_all(header::CACHE_CONTROL)
            .iter()
            .any(|v| v.as_bytes().windows(12).any(|w| w == b"no-transform"));
    if !is_json(headers) || is_small || is_excluded || response.status() != StatusCode::OK {
        return false;
    }
    let headers = response.headers_mut();
    add_vary(headers, header::ACCEPT_ENCODING);
    if !client_accepts {
        return false;
    }
    headers.insert(header::CONTENT_ENCODING, GZIP);
    headers.remove(header::CONTENT_LENGTH);
    headers.remove(header::ACCEPT_RANGES);
    // A strong tag stands for the uncompressed bytes.
    let weak = headers
        .get(header::ETAG)
        .filter(|tag| !tag.as_bytes().starts_with(b"W/"))
        .map(|tag| [b"W/", tag.as_bytes()].concat());
    if let Some(weak) = weak.and_then(|tag| HeaderValue::from_bytes(&tag).ok()) {
        headers.insert(header::ETAG, weak);
    }
    true
}

/// Adds `name` to `Vary` unless it is there already.
fn add_vary(headers: &mut HeaderMap, name: HeaderName) {
    let lines = headers.get_all(header::VARY).iter().filter_map(|value| value.to_str().ok());
    let covers = |item: &str| item.trim() == "*" || item.trim().eq_ignore_ascii_case(name.as_str());
    if !lines.flat_map(|line| line.split(',')).any(covers) {
        headers.append(header::VARY, name.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accept_encoding_decides_about_gzip() {
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
