//! The host that a request is for.

use http::uri::Authority;
use http::{HeaderValue, Uri, Version};

/// A host that is empty or has characters that no host has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MalformedHost;

/// Returns the host that a request names: in lower case, without port and final dot; `None` if it names none.
///
/// The host of an absolute target wins over `Host`. `Host` may have any character but white space, control characters
/// and `/`, and a target only letters, digits, `.` and `-`, or brackets with an address.
///
/// *Errors*: one of both is malformed, or `:authority` of HTTP/2 and `Host` name different hosts.
/// *Source*: nginx 1.22, `ngx_http_validate_host`; RFC 9112, section 3.2.2; RFC 9113, section 8.3.1.
pub fn request_host(
    uri: &Uri,
    version: Version,
    host_header: Option<&HeaderValue>,
) -> Result<Option<Vec<u8>>, MalformedHost> {
    let host = host_header.map(|header| header_host(header.as_bytes())).transpose()?;
    let Some(authority) = uri.authority() else { return Ok(host) };
    if version < Version::HTTP_2 {
        // A target such as `a:80` is for CONNECT.
        uri.scheme().ok_or(MalformedHost)?;
        return target_host(authority).map(Some);
    }
    let target = header_host(authority.as_str().as_bytes())?;
    match host {
        Some(host) if host != target => Err(MalformedHost),
        _ => Ok(Some(target)),
    }
}

/// Returns the host in the value of a `Host` header.
fn header_host(value: &[u8]) -> Result<Vec<u8>, MalformedHost> {
    let is_forbidden = |byte: &u8| matches!(byte, 0..=b' ' | b'/' | 0x7f);
    if value.iter().any(is_forbidden) || value.windows(2).any(|pair| pair == b"..") {
        return Err(MalformedHost);
    }
    let (mut host, _) = split_port(value);
    // Not if the port has a dot, as in nginx.
    if value.iter().rposition(|byte| *byte == b'.') == host.len().checked_sub(1) {
        host = host.strip_suffix(b".").unwrap_or(host);
    }
    if host.is_empty() { Err(MalformedHost) } else { Ok(host.to_ascii_lowercase()) }
}

/// Returns the host of an absolute target.
fn target_host(authority: &Authority) -> Result<Vec<u8>, MalformedHost> {
    let text = authority.as_str().as_bytes();
    let (host, rest) = split_port(text);
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
    let is_host = host.starts_with(b"[") || host.iter().all(is_plain);
    let is_port = matches!(rest, [] | [b':', ..]) && rest.iter().skip(1).all(u8::is_ascii_digit);
    if is_host && is_port { header_host(text) } else { Err(MalformedHost) }
}

/// Splits a host from what follows it: at the first colon or, if it starts with a bracket, behind the closing one.
fn split_port(text: &[u8]) -> (&[u8], &[u8]) {
    let end = if text.starts_with(b"[") {
        text.iter().position(|byte| *byte == b']').map(|at| at + 1)
    } else {
        text.iter().position(|byte| *byte == b':')
    };
    text.split_at_checked(end.unwrap_or(text.len())).unwrap_or((text, b""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host_of(target: &str, version: Version, header: Option<&str>) -> Result<Option<Vec<u8>>, MalformedHost> {
        let header = header.map(|text| HeaderValue::from_bytes(text.as_bytes()).unwrap());
        request_host(&target.parse().unwrap(), version, header.as_ref())
    }

    fn header_host_of(header: &str) -> Result<Option<Vec<u8>>, MalformedHost> {
        host_of("/v1/models", Version::HTTP_11, Some(header))
    }

    /// The hosts are those of nginx 1.22's `$host`.
    #[test]
    fn host_is_lower_case_without_port_and_final_dot() {
        for (header, host) in [
            ("GPU.Local:8080", "gpu.local"),
            ("a.", "a"),
            ("a.:80", "a"),
            ("a:80:90", "a"),
            ("a:80.", "a"),
            ("a.:1.2", "a."),
            ("[::1]:80", "[::1]"),
            ("[::1].", "[::1]"),
            ("[::1]x", "[::1]"),
            ("[::1", "[::1"),
            ("extra[::1]", "extra["),
            ("user@a", "user@a"),
            ("a_b,*", "a_b,*"),
        ] {
            assert_eq!(header_host_of(header), Ok(Some(host.into())), "{header}");
        }
        assert_eq!(host_of("/", Version::HTTP_10, None), Ok(None));
    }

    #[test]
    fn malformed_host_is_refused() {
        for header in ["", ":", ":80", ".", "..", "a..", "a..b", "a b", "a\tb", "a/b", "[::1]..", "a:80/"] {
            assert_eq!(header_host_of(header), Err(MalformedHost), "{header:?}");
            assert_eq!(host_of("http://a/", Version::HTTP_11, Some(header)), Err(MalformedHost), "{header:?}");
        }
    }

    #[test]
    fn host_of_the_target_wins() {
        for (target, host) in
            [("http://A:80/", "a"), ("http://a./", "a"), ("https://a.:/", "a"), ("http://[::1]:80/", "[::1]")]
        {
            assert_eq!(host_of(target, Version::HTTP_11, Some("b")), Ok(Some(host.into())), "{target}");
        }
        for target in ["http://user@a/", "http://a:1.2/", "http://a_b/", "http://a../", "http://:80/", "a:443", "a"] {
            assert_eq!(host_of(target, Version::HTTP_11, Some("b")), Err(MalformedHost), "{target}");
        }
    }

    #[test]
    fn authority_of_http2_is_a_host_line() {
        for (authority, host) in [("A.", "a"), ("a:x", "a"), ("u@a", "u@a"), ("[::1]:80", "[::1]")] {
            let target = format!("http://{authority}/");
            assert_eq!(host_of(&target, Version::HTTP_2, None), Ok(Some(host.into())), "{target}");
        }
        assert_eq!(host_of("http://a/", Version::HTTP_2, Some("A.:80")), Ok(Some("a".into())));
        assert_eq!(host_of("http://a/", Version::HTTP_2, Some("b")), Err(MalformedHost));
        assert_eq!(host_of("http://a..b/", Version::HTTP_2, None), Err(MalformedHost));
        assert_eq!(host_of("/", Version::HTTP_2, Some("a")), Ok(Some("a".into())));
    }
}
