//! The headers that a replica gets: the client's without the hop-by-hop headers, and the router's `X-Forwarded-*`.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;

use super::auth::{API_KEY, X_API_KEY};
use super::client::{ClientInfo, X_FORWARDED_FOR, X_REQUEST_ID};

/// Headers that concern one connection only. Source: RFC 9110, section 7.6.1, and what older software sends.
const HOP_BY_HOP: [HeaderName; 9] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// The fate of the client's `Accept-Encoding`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::server) enum AcceptEncoding {
    Forward,
    /// The replica must not compress its response, so that its token counts can be read.
    Remove,
}

/// Removes the headers that concern one connection only, including those that `Connection` names.
pub(in crate::server) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(header::CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(header::CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|name| name.trim().parse().ok())
            .collect();
        for name in named {
            headers.remove(name);
        }
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
}

/// Returns the headers for a replica: the client's end-to-end headers unchanged, and the router's own.
pub(in crate::server) fn forward_headers(
    head: &Parts,
    client_info: ClientInfo,
    request_id: &str,
    accept_encoding: AcceptEncoding,
) -> HeaderMap {
    let mut headers = head.headers.clone();
    strip_hop_by_hop(&mut headers);
    // The router has answered `Expect` and sets the length itself.
    headers.remove(header::EXPECT);
    headers.remove(header::CONTENT_LENGTH);
    if client_info.authenticated {
        headers.remove(header::AUTHORIZATION);
        headers.remove(X_API_KEY);
        headers.remove(API_KEY);
    }
    if accept_encoding == AcceptEncoding::Remove {
        headers.remove(header::ACCEPT_ENCODING);
    }
    // The host of an absolute target wins over `Host`.
    let target_host = head.uri.authority().and_then(|authority| HeaderValue::try_from(authority.as_str()).ok());
    let host_line = headers.remove(header::HOST);
    let host = target_host.or(host_line);
    // The first trusted proxy knows best which host and scheme the client used.
    let is_trusted = |name: &HeaderName| client_info.client != client_info.peer && headers.contains_key(name);
    let (keep_host, keep_proto) = (is_trusted(&X_FORWARDED_HOST), is_trusted(&X_FORWARDED_PROTO));
    if let Some(host) = host.filter(|_| !keep_host) {
        headers.insert(X_FORWARDED_HOST, host);
    }
    if !keep_proto {
        let scheme = if client_info.is_tls { "https" } else { "http" };
        headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(scheme));
    }
    let (peer, client) = (client_info.peer.addr_text(), client_info.client.addr_text());
    let chain: Vec<&str> = headers.get_all(&X_FORWARDED_FOR).iter().filter_map(|v| v.to_str().ok()).collect();
    let chain = if chain.is_empty() { peer } else { format!("{}, {peer}", chain.join(", ")) };
    for (name, value) in [(X_FORWARDED_FOR, chain.as_str()), (X_REAL_IP, &client), (X_REQUEST_ID, request_id)] {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(name, value);
        }
    }
    headers
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use http::Request;

    use super::*;
    use crate::server::connection::peer_addr::PeerAddr;
    use crate::server::request::client::ClientPort;

    fn head(lines: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().uri("/v1/models");
        for (name, value) in lines {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn forwarded(head: &Parts, client_info: ClientInfo) -> HeaderMap {
        forward_headers(head, client_info, "id", AcceptEncoding::Remove)
    }

    const PEER: PeerAddr = PeerAddr::Tcp(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 9)));
    const CLIENT: ClientInfo =
        ClientInfo { peer: PEER, client: PEER, port: ClientPort::OfConnection, is_tls: false, authenticated: false };

    #[test]
    fn hop_by_hop_headers_and_those_connection_names_are_removed() {
        let head = head(&[("connection", "close, X-Secret"), ("x-secret", "1"), ("te", "trailers"), ("x-kept", "2")]);
        let headers = forwarded(&head, CLIENT);
        assert_eq!(headers.get("x-kept").unwrap(), "2");
        for gone in ["connection", "x-secret", "te"] {
            assert!(!headers.contains_key(gone), "{gone}");
        }
    }

    #[test]
    fn hop_by_hop_headers_are_forbidden_in_header_tables() {
        for name in &HOP_BY_HOP {
            assert!(crate::config::forbidden_reason(name.as_str()).is_some(), "{name}");
        }
    }

    #[test]
    fn peer_is_appended_to_the_chain_and_is_the_real_ip() {
        let head = head(&[("x-forwarded-for", "1.1.1.1"), ("host", "llm.example:80"), ("x-real-ip", "6.6.6.6")]);
        let headers = forwarded(&head, CLIENT);
        assert_eq!(headers["x-forwarded-for"], "1.1.1.1, 10.0.0.9");
        assert_eq!(headers["x-real-ip"], "10.0.0.9");
        assert_eq!(headers["x-forwarded-host"], "llm.example:80");
        assert!(!headers.contains_key("host"));
    }

    #[test]
    fn router_key_reaches_no_replica_and_any_other_key_does() {
        let head = head(&[("authorization", "Bearer k"), ("x-api-key", "k"), ("api-key", "k"), ("x-kept", "1")]);
        let ours = forwarded(&head, ClientInfo { authenticated: true, ..CLIENT });
        assert!(
            !ours.contains_key("authorization")
                && !ours.contains_key("x-api-key")
                && !ours.contains_key("api-key")
                && ours.contains_key("x-kept")
        );
        let theirs = forwarded(&head, CLIENT);
        assert!(theirs.contains_key("authorization") && theirs.contains_key("x-api-key"));
    }

    #[test]
    fn forwarded_host_and_proto_of_a_trusted_proxy_are_kept() {
        let head = head(&[("x-forwarded-proto", "https"), ("x-forwarded-host", "llm.example"), ("host", "router")]);
        let client = PeerAddr::Tcp("1.1.1.1".parse().unwrap());
        let behind = forwarded(&head, ClientInfo { client, ..CLIENT });
        assert_eq!(
            (&behind["x-forwarded-proto"], &behind["x-forwarded-host"]),
            (&"https".parse().unwrap(), &"llm.example".parse().unwrap())
        );
        assert_eq!(
            (behind["x-real-ip"].to_str().unwrap(), behind["x-forwarded-for"].to_str().unwrap()),
            ("1.1.1.1", "10.0.0.9")
        );
        let secure = forwarded(&head, ClientInfo { is_tls: true, ..CLIENT });
        assert_eq!(secure["x-forwarded-proto"].to_str().unwrap(), "https");
        let direct = forwarded(&head, CLIENT);
        assert_eq!(
            (direct["x-forwarded-proto"].to_str().unwrap(), direct["x-forwarded-host"].to_str().unwrap()),
            ("http", "router")
        );
    }
}
