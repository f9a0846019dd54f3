//! Who asks, under which name, and what of their headers goes on.

use std::net::{IpAddr, SocketAddr};

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;

use super::auth::X_API_KEY;
use crate::balance::SeededRng;
use crate::config::IpNetwork;
use crate::server::connection::peer_addr::PeerAddr;

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
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
/// The header that names a request to the client, the replica and the logs.
pub(in crate::server) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Request ids longer than this are replaced by our own.
const MAX_REQUEST_ID_BYTES: usize = 128;

/// Who sends a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::server) struct ClientInfo {
    /// The other end of the connection.
    pub(in crate::server) peer: PeerAddr,
    /// The client, which is somebody else behind trusted proxies.
    pub(in crate::server) client: PeerAddr,
    /// Whether the connection is one of TLS.
    pub(in crate::server) is_tls: bool,
    /// Whether they have shown a key of ours, which no replica gets.
    pub(in crate::server) authenticated: bool,
}

/// The client behind trusted proxies: the last address in `X-Forwarded-For` that is no trusted proxy's own, as nginx
/// finds it with `real_ip_recursive on`; the peer itself if it is not trusted, or says nothing that can be read.
pub(in crate::server) fn resolve_client(peer: PeerAddr, headers: &HeaderMap, trusted: &[IpNetwork]) -> ClientInfo {
    let believed = |peer: PeerAddr| match peer {
        PeerAddr::Tcp(address) => trusted.iter().any(|network| network.contains(address)),
        PeerAddr::Unix => !trusted.is_empty(),
    };
    let mut client = peer;
    let chain = headers.get_all(&X_FORWARDED_FOR).iter().rev().filter_map(|value| value.to_str().ok());
    for text in chain.flat_map(|value| value.rsplit(',')) {
        let Some(address) = believed(client).then(|| parse_address(text.trim())).flatten() else { break };
        client = PeerAddr::Tcp(address);
    }
    ClientInfo { peer, client, is_tls: false, authenticated: false }
}

/// An address as proxies write it, with or without port and brackets.
fn parse_address(text: &str) -> Option<IpAddr> {
    text.parse().ok().or_else(|| text.parse().ok().map(|socket: SocketAddr| socket.ip()))
}

/// The host a request is for: lower case, without port, empty if it names none.
pub(in crate::server) fn request_host(head: &Parts) -> String {
    let host = crate::http::request_host(&head.uri, head.headers.get(header::HOST));
    host.filter(|host| host.is_ascii()).and_then(|host| String::from_utf8(host).ok()).unwrap_or_default()
}

/// The client's own request id if it is sane, else a new one.
pub(in crate::server) fn request_id(headers: &HeaderMap, dice: &mut SeededRng) -> String {
    let sane = |id: &&str| {
        (1..=MAX_REQUEST_ID_BYTES).contains(&id.len())
            && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:/+=~".contains(&b))
    };
    match headers.get(X_REQUEST_ID).and_then(|id| id.to_str().ok()).filter(sane) {
        Some(id) => id.to_owned(),
        None => format!("{:016x}{:016x}", dice.next_u64(), dice.next_u64()),
    }
}

/// Takes out what concerns one connection only, the headers that `Connection` names included.
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

/// The client's headers as a replica gets them: end-to-end ones as they came, ours added.
///
/// `plain` asks for an answer that is not compressed, so that its token counts can be read.
pub(in crate::server) fn forward_headers(head: &Parts, caller: ClientInfo, id: &str, plain: bool) -> HeaderMap {
    let mut headers = head.headers.clone();
    strip_hop_by_hop(&mut headers);
    // We have answered it, and set the length ourselves.
    headers.remove(header::EXPECT);
    headers.remove(header::CONTENT_LENGTH);
    if caller.authenticated {
        headers.remove(header::AUTHORIZATION);
        headers.remove(X_API_KEY);
    }
    if plain {
        headers.remove(header::ACCEPT_ENCODING);
    }
    let host = headers.remove(header::HOST).or_else(|| head.uri.authority()?.as_str().try_into().ok());
    // What the client was told to reach is known best by the first trusted proxy.
    let told = |name: &HeaderName| caller.client != caller.peer && headers.contains_key(name);
    let (keep_host, keep_proto) = (told(&X_FORWARDED_HOST), told(&X_FORWARDED_PROTO));
    if let Some(host) = host.filter(|_| !keep_host) {
        headers.insert(X_FORWARDED_HOST, host);
    }
    if !keep_proto {
        headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(if caller.is_tls { "https" } else { "http" }));
    }
    let (peer, client) = (caller.peer.addr_text(), caller.client.addr_text());
    let chain: Vec<&str> = headers.get_all(&X_FORWARDED_FOR).iter().filter_map(|v| v.to_str().ok()).collect();
    let chain = if chain.is_empty() { peer } else { format!("{}, {peer}", chain.join(", ")) };
    for (name, value) in [(X_FORWARDED_FOR, chain.as_str()), (X_REAL_IP, &client), (X_REQUEST_ID, id)] {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(name, value);
        }
    }
    headers
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn head(lines: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().uri("/v1/models");
        for (name, value) in lines {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    const PEER: PeerAddr = PeerAddr::Tcp(IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 9)));
    const CLIENT: ClientInfo = ClientInfo { peer: PEER, client: PEER, is_tls: false, authenticated: false };

    #[test]
    fn hop_by_hop_headers_and_those_connection_names_stay_on_their_hop() {
        let head = head(&[("connection", "close, X-Secret"), ("x-secret", "1"), ("te", "trailers"), ("x-kept", "2")]);
        let headers = forward_headers(&head, CLIENT, "id", true);
        assert_eq!(headers.get("x-kept").unwrap(), "2");
        for gone in ["connection", "x-secret", "te"] {
            assert!(!headers.contains_key(gone), "{gone}");
        }
    }

    #[test]
    fn no_table_can_set_what_stays_on_its_hop() {
        for name in &HOP_BY_HOP {
            assert!(crate::config::forbidden_reason(name.as_str()).is_some(), "{name}");
        }
    }

    #[test]
    fn the_peer_is_appended_to_the_chain_and_is_the_real_ip() {
        let head = head(&[("x-forwarded-for", "1.1.1.1"), ("host", "llm.example:80"), ("x-real-ip", "6.6.6.6")]);
        let headers = forward_headers(&head, CLIENT, "id", true);
        assert_eq!(headers["x-forwarded-for"], "1.1.1.1, 10.0.0.9");
        assert_eq!(headers["x-real-ip"], "10.0.0.9");
        assert_eq!(headers["x-forwarded-host"], "llm.example:80");
        assert!(!headers.contains_key("host"));
    }

    #[test]
    fn a_key_of_ours_goes_to_no_replica_and_any_other_does() {
        let head = head(&[("authorization", "Bearer k"), ("x-api-key", "k"), ("x-kept", "1")]);
        let ours = forward_headers(&head, ClientInfo { authenticated: true, ..CLIENT }, "id", true);
        assert!(!ours.contains_key("authorization") && !ours.contains_key("x-api-key") && ours.contains_key("x-kept"));
        let theirs = forward_headers(&head, CLIENT, "id", true);
        assert!(theirs.contains_key("authorization") && theirs.contains_key("x-api-key"));
    }

    #[test]
    fn only_trusted_proxies_are_believed_about_the_client() {
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
    fn what_a_trusted_proxy_was_asked_for_is_kept() {
        let head = head(&[("x-forwarded-proto", "https"), ("x-forwarded-host", "llm.example"), ("host", "router")]);
        let client = PeerAddr::Tcp("1.1.1.1".parse().unwrap());
        let behind = forward_headers(&head, ClientInfo { client, ..CLIENT }, "id", true);
        assert_eq!(
            (&behind["x-forwarded-proto"], &behind["x-forwarded-host"]),
            (&"https".parse().unwrap(), &"llm.example".parse().unwrap())
        );
        assert_eq!(
            (behind["x-real-ip"].to_str().unwrap(), behind["x-forwarded-for"].to_str().unwrap()),
            ("1.1.1.1", "10.0.0.9")
        );
        let secure = forward_headers(&head, ClientInfo { is_tls: true, ..CLIENT }, "id", true);
        assert_eq!(secure["x-forwarded-proto"].to_str().unwrap(), "https");
        let direct = forward_headers(&head, CLIENT, "id", true);
        assert_eq!(
            (direct["x-forwarded-proto"].to_str().unwrap(), direct["x-forwarded-host"].to_str().unwrap()),
            ("http", "router")
        );
    }

    #[test]
    fn request_ids_are_kept_if_sane() {
        let mut dice = SeededRng::from_seed(1);
        assert_eq!(request_id(&head(&[("x-request-id", "abc-1")]).headers, &mut dice), "abc-1");
        for odd in ["", "a b", "a\"b", &"x".repeat(129)] {
            assert_eq!(request_id(&head(&[("x-request-id", odd)]).headers, &mut dice).len(), 32, "{odd}");
        }
    }

    #[test]
    fn hosts_lose_their_port_and_case() {
        for (line, wanted) in [("GPU.Local:8080", "gpu.local"), ("[::1]:80", "[::1]"), ("[::1]", "[::1]"), ("a", "a")] {
            assert_eq!(request_host(&head(&[("host", line)])), wanted);
        }
    }
}
