//! The host that a request is for.

use http::{HeaderValue, Uri};

/// Returns the host that a request names, in lower case and without port; `None` if it names none.
///
/// The host of an absolute target wins over `Host`. Source: RFC 9112, section 3.2.2.
pub fn request_host(uri: &Uri, host_header: Option<&HeaderValue>) -> Option<Vec<u8>> {
    let host = match uri.host() {
        Some(host) => host.as_bytes(),
        None => without_port(host_header?.as_bytes()),
    };
    Some(host.to_ascii_lowercase())
}

/// The colons of an IPv6 address stand in brackets.
fn without_port(host: &[u8]) -> &[u8] {
    match host.iter().rposition(|byte| *byte == b':') {
        Some(colon) if !host[colon..].contains(&b']') => &host[..colon],
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_is_lower_case_without_port() {
        let origin_form = Uri::from_static("/v1/models");
        for (header, host) in
            [("GPU.Local:8080", "gpu.local"), ("[::1]:80", "[::1]"), ("[::1]", "[::1]"), ("a", "a"), (":", "")]
        {
            let header = HeaderValue::from_static(header);
            assert_eq!(request_host(&origin_form, Some(&header)).unwrap(), host.as_bytes());
        }
        assert_eq!(request_host(&origin_form, None), None);
    }

    #[test]
    fn host_of_the_target_wins() {
        let header = HeaderValue::from_static("other");
        for (target, host) in
            [("http://A:80/", "a"), ("http://[::1]:80/", "[::1]"), ("http://user@a/", "a"), ("a:443", "a")]
        {
            assert_eq!(request_host(&Uri::from_static(target), Some(&header)).unwrap(), host.as_bytes(), "{target}");
        }
    }
}
