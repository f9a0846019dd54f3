//! The client of a request: its address, the host it asks for, and the request's id.

use std::sync::Arc;

use http::Version;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;

use crate::balance::SeededRng;
use crate::http::{forwarded_addrs, parse_forwarded_addr};
use crate::log_format::ConnectionInfo;
use crate::routes::ClientAddressSettings;
use crate::server::connection::peer_addr::PeerAddr;

pub(super) const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// The header that carries a request's id to the client and the replica.
pub(in crate::server) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The longest request id that is accepted from a client; a longer one is replaced.
const MAX_REQUEST_ID_BYTES: usize = 128;

/// The client's port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::server) enum ClientPort {
    /// The port of the connection.
    OfConnection,
    /// The port that a trusted proxy wrote; `None` if it wrote none.
    Forwarded(Option<u16>),
}

/// The sender of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::server) struct ClientInfo {
    /// The remote end of the connection.
    pub(in crate::server) peer: PeerAddr,
    /// The client's own address: that of the peer, unless the peer is a trusted proxy.
    pub(in crate::server) client: PeerAddr,
    /// The client's own port.
    pub(in crate::server) port: ClientPort,
    /// Whether the connection uses TLS.
    pub(in crate::server) is_tls: bool,
    /// Whether the request shows a key of the router's, which no replica may see.
    pub(in crate::server) authenticated: bool,
}

impl ClientInfo {
    /// Returns the client's port; `None` if a proxy hides it, or if that of `connection` is unknown.
    pub(in crate::server) fn client_port(&self, connection: ConnectionInfo) -> Option<u16> {
        match self.port {
            ClientPort::OfConnection => connection.socket_addrs.map(|(peer, _)| peer.port()),
            ClientPort::Forwarded(port) => port,
        }
    }
}

/// Returns the client behind trusted proxies: the last address in the header that is no trusted proxy's or, unless
/// recursive, the last address.
///
/// The peer itself is the client if it is not trusted, or if the header is missing or malformed. `X-Forwarded-For` may
/// have several lines; of any other header the first counts. Source: nginx 1.22, `ngx_http_realip_module`.
pub(in crate::server) fn resolve_client(
    peer: PeerAddr,
    headers: &HeaderMap,
    settings: &ClientAddressSettings,
) -> ClientInfo {
    let is_trusted = |peer: PeerAddr| match peer {
        PeerAddr::Tcp(address) => settings.trusted_proxies.iter().any(|network| network.contains(address)),
        PeerAddr::Unix => settings.trusts_unix_sockets,
    };
    let mut info =
        ClientInfo { peer, client: peer, port: ClientPort::OfConnection, is_tls: false, authenticated: false };
    if !is_trusted(peer) {
        return info;
    }
    let max_lines = if settings.header == X_FORWARDED_FOR { usize::MAX } else { 1 };
    let lines: Vec<&HeaderValue> = headers.get_all(&settings.header).iter().take(max_lines).collect();
    for text in lines.iter().rev().flat_map(|line| forwarded_addrs(line.as_bytes())) {
        let Some((address, port)) = parse_forwarded_addr(text) else { break };
        (info.client, info.port) = (PeerAddr::Tcp(address), ClientPort::Forwarded(port));
        if !(settings.recursive && is_trusted(info.client)) {
            break;
        }
    }
    info
}

/// Returns the host that a request asks for: lower case, without port and final dot; empty if it names none.
pub(in crate::server) fn request_host(head: &Parts) -> String {
    let host = crate::http::request_host(&head.uri, head.version, head.headers.get(header::HOST));
    // `validate_head` has refused a malformed one.
    String::from_utf8_lossy(&host.ok().flatten().unwrap_or_default()).into_owned()
}

/// Returns the `Host` line for which `:authority` stands over HTTP/2; `None` if the request has a line, or neither.
pub(in crate::server) fn authority_line(head: &Parts) -> Option<HeaderValue> {
    if head.version != Version::HTTP_2 || head.headers.contains_key(header::HOST) {
        return None;
    }
    HeaderValue::try_from(head.uri.authority()?.as_str()).ok()
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
    use http::Request;

    use super::*;

    fn head(lines: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().uri("/v1/models");
        for (name, value) in lines {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn settings(header: &'static str, recursive: bool) -> ClientAddressSettings {
        ClientAddressSettings {
            trusted_proxies: ["10.0.0.0/8", "fd00::/8"].iter().map(|network| network.parse().unwrap()).collect(),
            header: HeaderName::from_static(header),
            recursive,
            ..ClientAddressSettings::default()
        }
    }

    fn resolved(peer: PeerAddr, lines: &[(&str, &str)], settings: &ClientAddressSettings) -> ClientInfo {
        resolve_client(peer, &head(lines).headers, settings)
    }

    fn resolved_text(header: &'static str, lines: &[&str], recursive: bool) -> String {
        let lines: Vec<_> = lines.iter().map(|line| (header, *line)).collect();
        let peer = PeerAddr::Tcp("10.0.0.1".parse().unwrap());
        resolved(peer, &lines, &settings(header, recursive)).client.addr_text()
    }

    #[test]
    fn forwarded_for_is_used_only_from_trusted_proxies() {
        let settings = settings("x-forwarded-for", true);
        let stranger = PeerAddr::Tcp("8.8.8.8".parse().unwrap());
        assert_eq!(resolved(stranger, &[("x-forwarded-for", "1.1.1.1")], &settings).client, stranger);
        assert_eq!(resolved(PeerAddr::Unix, &[("x-forwarded-for", "1.1.1.1")], &settings).client, PeerAddr::Unix);
        let settings = ClientAddressSettings { trusts_unix_sockets: true, ..settings };
        let client = resolved(PeerAddr::Unix, &[("x-forwarded-for", "1.1.1.1")], &settings).client;
        assert_eq!(client.addr_text(), "1.1.1.1");
    }

    /// The addresses are those of nginx 1.22's `$remote_addr`.
    #[test]
    fn client_is_the_last_address_or_the_last_untrusted_one() {
        for (lines, recursive, last) in [
            (&["1.1.1.1"][..], "1.1.1.1", "1.1.1.1"),
            (&["6.6.6.6, 1.1.1.1, 10.0.0.2"], "1.1.1.1", "10.0.0.2"),
            (&["6.6.6.6", "1.1.1.1:80, fd00::2"], "1.1.1.1", "fd00::2"),
            (&["10.0.0.3, 10.0.0.2"], "10.0.0.3", "10.0.0.2"),
            (&["2.2.2.2, 10.0.0.9", "10.0.0.2"], "2.2.2.2", "10.0.0.2"),
            (&["9.9.9.9, ::ffff:10.0.0.1"], "9.9.9.9", "::ffff:10.0.0.1"),
            (&["2.2.2.2", "nonsense", "10.0.0.2"], "10.0.0.2", "10.0.0.2"),
            (&["1.1.1.1, nonsense"], "10.0.0.1", "10.0.0.1"),
            (&["2.2.2.2", "10.0.0.9, nonsense"], "10.0.0.1", "10.0.0.1"),
            (&["1.1.1.1", ""], "10.0.0.1", "10.0.0.1"),
            (&[], "10.0.0.1", "10.0.0.1"),
        ] {
            assert_eq!(resolved_text("x-forwarded-for", lines, true), recursive, "{lines:?}");
            assert_eq!(resolved_text("x-forwarded-for", lines, false), last, "{lines:?}");
        }
    }

    #[test]
    fn first_line_of_another_header_counts() {
        for header in ["x-real-ip", "x-client"] {
            assert_eq!(resolved_text(header, &["2.2.2.2", "1.1.1.1"], true), "2.2.2.2");
            assert_eq!(resolved_text(header, &["2.2.2.2, 10.0.0.9", "1.1.1.1"], true), "2.2.2.2");
            assert_eq!(resolved_text(header, &["2.2.2.2, 10.0.0.9", "1.1.1.1"], false), "10.0.0.9");
            assert_eq!(resolved_text(header, &["", "1.1.1.1"], true), "10.0.0.1");
        }
        let peer = PeerAddr::Tcp("10.0.0.1".parse().unwrap());
        assert_eq!(resolved(peer, &[("x-forwarded-for", "1.1.1.1")], &settings("x-real-ip", true)).client, peer);
    }

    #[test]
    fn port_of_the_header_replaces_that_of_the_connection() {
        let peer = PeerAddr::Tcp("10.0.0.1".parse().unwrap());
        for (line, port) in [
            ("1.1.1.1:80", ClientPort::Forwarded(Some(80))),
            ("10.0.0.1", ClientPort::Forwarded(None)),
            ("nonsense", ClientPort::OfConnection),
        ] {
            assert_eq!(resolved(peer, &[("x-real-ip", line)], &settings("x-real-ip", true)).port, port, "{line}");
        }
    }

    #[test]
    fn plain_request_id_is_kept_and_any_other_is_replaced() {
        let mut rng = SeededRng::from_seed(1);
        assert_eq!(&*request_id(&head(&[("x-request-id", "abc-1")]).headers, &mut rng), "abc-1");
        for odd in ["", "a b", "a\"b", &"x".repeat(129)] {
            assert_eq!(request_id(&head(&[("x-request-id", odd)]).headers, &mut rng).len(), 32, "{odd}");
        }
    }
}
