//! The client of a request: its address, the host it asks for, and the request's id.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::header::{self, HeaderMap, HeaderName};
use http::request::Parts;

use crate::balance::SeededRng;
use crate::config::IpNetwork;
use crate::server::connection::peer_addr::PeerAddr;

pub(super) const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// The header that carries a request's id to the client and the replica.
pub(in crate::server) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The longest request id that is accepted from a client; a longer one is replaced.
const MAX_REQUEST_ID_BYTES: usize = 128;

/// The sender of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::server) struct ClientInfo {
    /// The remote end of the connection.
    pub(in crate::server) peer: PeerAddr,
    /// The client's own address: that of the peer, unless the peer is a trusted proxy.
    pub(in crate::server) client: PeerAddr,
    /// Whether the connection uses TLS.
    pub(in crate::server) is_tls: bool,
    /// Whether the request shows a key of the router's, which no replica may see.
    pub(in crate::server) authenticated: bool,
}

/// Returns the client behind trusted proxies: the last address in `X-Forwarded-For` that is not a trusted proxy.
///
/// Works like nginx's `real_ip_recursive on`. The peer itself is the client if it is not trusted, or if the header is
/// missing or malformed.
pub(in crate::server) fn resolve_client(peer: PeerAddr, headers: &HeaderMap, trusted: &[IpNetwork]) -> ClientInfo {
    let is_trusted = |peer: PeerAddr| match peer {
        PeerAddr::Tcp(address) => trusted.iter().any(|network| network.contains(address)),
        PeerAddr::Unix => !trusted.is_empty(),
    };
    let mut client = peer;
    let chain = headers.get_all(&X_FORWARDED_FOR).iter().rev().filter_map(|value| value.to_str().ok());
    for text in chain.flat_map(|value| value.rsplit(',')) {
        let Some(address) = is_trusted(client).then(|| parse_address(text.trim())).flatten() else { break };
        client = PeerAddr::Tcp(address);
    }
    ClientInfo { peer, client, is_tls: false, authenticated: false }
}

/// Parses an address as proxies write it, with or without port and brackets.
fn parse_address(text: &str) -> Option<IpAddr> {
    text.parse().ok().or_else(|| text.parse().ok().map(|socket: SocketAddr| socket.ip()))
}

/// Returns the host that a request asks for: lower case, without port; empty if it names none.
pub(in crate::server) fn request_host(head: &Parts) -> String {
    let host = crate::http::request_host(&head.uri, head.headers.get(header::HOST));
    host.filter(|host| host.is_ascii()).and_then(|host| String::from_utf8(host).ok()).unwrap_or_default()
}

/// Returns the client's own request id if it is short and plain, else a new one.
pub(in crate::server) fn request_id(headers: &HeaderMap, rng: &mut SeededRng) -> Arc<str> {
    let is_plain = |id: &&str| {
        (1..=MAX_REQUEST_ID_BYTES).contains(&id.len())
            && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:/+=~".contains(&b))
    };
    match headers.get(X_REQUEST_ID).and_then(|id| id.to_str().ok()).filter(is_plain) {
        Some(id) => id.into(),
        None => format!("{:016x}{:016x}", rng.next_u64(), rng.next_u64()).into(),
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, Request};

    use super::*;

    fn head(lines: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().uri("/v1/models");
        for (name, value) in lines {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn forwarded_for_is_used_only_from_trusted_proxies() {
        let trusted: Vec<IpNetwork> = ["10.0.0.0/8", "fd00::/8"].iter().map(|n| n.parse().unwrap()).collect();
        let client = |peer: &str, chain: &[&'static str]| {
            let mut headers = HeaderMap::new();
            chain.iter().for_each(|c| {
                headers.append(X_FORWARDED_FOR, HeaderValue::from_static(c));
            });
            resolve_client(PeerAddr::Tcp(peer.parse().unwrap()), &headers, &trusted).client.addr_text()
        };
        assert_eq!(client("8.8.8.8", &["1.1.1.1"]), "8.8.8.8");
        assert_eq!(client("10.0.0.1", &["1.1.1.1"]), "1.1.1.1");
        assert_eq!(client("10.0.0.1", &["6.6.6.6, 1.1.1.1, 10.0.0.2"]), "1.1.1.1");
        assert_eq!(client("10.0.0.1", &["6.6.6.6", "1.1.1.1:80, fd00::2"]), "1.1.1.1");
        assert_eq!(client("10.0.0.1", &["10.0.0.3, 10.0.0.2"]), "10.0.0.3");
        assert_eq!(client("10.0.0.1", &["nonsense"]), "10.0.0.1");
        assert_eq!(client("10.0.0.1", &[]), "10.0.0.1");
    }

    #[test]
    fn plain_request_id_is_kept_and_any_other_is_replaced() {
        let mut rng = SeededRng::from_seed(1);
        assert_eq!(&*request_id(&head(&[("x-request-id", "abc-1")]).headers, &mut rng), "abc-1");
        for odd in ["", "a b", "a\"b", &"x".repeat(129)] {
            assert_eq!(request_id(&head(&[("x-request-id", odd)]).headers, &mut rng).len(), 32, "{odd}");
        }
    }

    #[test]
    fn request_host_has_no_port_and_is_lower_case() {
        for (line, wanted) in [("GPU.Local:8080", "gpu.local"), ("[::1]:80", "[::1]"), ("[::1]", "[::1]"), ("a", "a")] {
            assert_eq!(request_host(&head(&[("host", line)])), wanted);
        }
    }
}
