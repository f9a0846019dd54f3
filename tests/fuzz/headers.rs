//! Untrusted request heads: forwarded headers, client address, paths, log lines and forms.

#![no_main]

use std::sync::Arc;
use std::time::Duration;

use ::http::header::{self, HeaderName, HeaderValue};
use ::http::request::Parts;
use ::http::{Method, Request, Uri, Version};
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use tokenweir::log_format::{
    AttemptRecords, BUILT_IN_FORMATS, CapturedFields, ConnectionInfo, LogEscape, LogFormat, RequestLine, RequestRecord,
    RequestTimes, ResponseInfo, TokenInfo, ValueAvailability,
};
use tokenweir::prompt::{endpoint, multipart, splice};
use tokenweir::routes::{
    Answer, ArrivalAddr, HostSpec, ListenAddr, Route, RouteAction, RouteLookup, RouteTable, ServerCertificates,
    replace_path,
};
// The included modules of `server` name these by `crate::`.
use tokenweir::{balance, http, log_format, routes};

/// The router's private modules that read request heads, at their own paths, and the checks that call them.
#[path = "../../src/server"]
#[allow(dead_code, reason = "the router uses all of it")]
mod server {
    pub(crate) mod connection {
        pub(in crate::server) mod peer_addr;

        /// Returns the peer as the worker does that accepts a connection.
        pub(super) const fn accept_peer(address: std::net::IpAddr) -> peer_addr::PeerAddr {
            peer_addr::PeerAddr::of_connection(address)
        }
    }

    pub(crate) mod request {
        pub(in crate::server) mod client;
        pub(in crate::server) mod forward_headers;

        /// The items of the real module that `forward_headers` uses.
        mod auth {
            pub(super) const API_KEY: http::HeaderName = http::HeaderName::from_static("api-key");
            pub(super) const X_API_KEY: http::HeaderName = http::HeaderName::from_static("x-api-key");
        }
    }

    use std::net::IpAddr;

    use connection::accept_peer;
    use http::header::{HeaderMap, HeaderName, HeaderValue};
    use http::request::Parts;
    use request::client::{ClientInfo, request_host, request_id, resolve_client};
    use request::forward_headers::{AcceptEncoding, forward_headers, strip_hop_by_hop};

    use crate::balance::SeededRng;
    use crate::routes::{ClientAddressSettings, IpNetwork};

    const ADDED: [&str; 5] = ["x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip", "x-request-id"];
    const REMOVED: [&str; 4] = ["host", "expect", "content-length", "accept-encoding"];

    /// Checks that end-to-end headers are forwarded unchanged, and that only trusted proxies set the client's address.
    pub(super) fn check_forwarding(head: &Parts) {
        let mut end_to_end = head.headers.clone();
        strip_hop_by_hop(&mut end_to_end);
        let id = request_id(&head.headers, &mut SeededRng::from_seed(1));
        assert!((1..=128).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"'));
        assert!(!request_host(head).contains(|c: char| c.is_ascii_uppercase()));
        for (peer, trusted) in [("10.0.0.9", "10.0.0.0/8"), ("10.0.0.9", "10.0.0.0/30"), ("::ffff:10.0.0.9", "::/0")] {
            let peer: IpAddr = peer.parse().expect("an address");
            let trusted: IpNetwork = trusted.parse().expect("a network");
            let settings = ClientAddressSettings { trusted_proxies: vec![trusted], ..ClientAddressSettings::default() };
            let info = resolve_client(accept_peer(peer), &head.headers, &settings);
            assert!(info.client == info.peer || trusted.contains(peer));
            check_forwarded(head, &end_to_end, info, &id);
        }
    }

    fn check_forwarded(head: &Parts, end_to_end: &HeaderMap, info: ClientInfo, id: &str) {
        let sent = forward_headers(head, info, id, AcceptEncoding::Remove);
        for name in sent.keys().filter(|name| !ADDED.contains(&name.as_str())) {
            assert!(!REMOVED.contains(&name.as_str()));
            assert!(values(&sent, name).eq(values(end_to_end, name)), "{name} changed");
        }
        for name in end_to_end.keys().filter(|name| !REMOVED.contains(&name.as_str())) {
            assert!(sent.contains_key(name), "{name} is missing");
        }
        let chain = sent["x-forwarded-for"].to_str().expect("visible ASCII");
        assert_eq!(chain.rsplit(", ").next(), Some("10.0.0.9"));
        assert!(sent["x-real-ip"] == *info.client.addr_text() && sent["x-request-id"] == *id);
    }

    fn values<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a HeaderValue> {
        headers.get_all(name).iter()
    }
}

// The input: a target, header lines, an empty line, a body. The header `x-format` is a log format.
fuzz_target!(|data: &[u8]| {
    let (head, body) = split(data, b"\n\n").unwrap_or((data, b""));
    let mut lines = head.split(|byte| *byte == b'\n');
    let Ok(uri) = Uri::try_from(lines.next().unwrap_or_default()) else { return };
    let (mut head, ()) = Request::new(()).into_parts();
    head.uri = uri;
    for (name, value) in lines.filter_map(|line| split(line, b":")) {
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value.trim_ascii())) {
            head.headers.append(name, value);
        }
    }
    server::check_forwarding(&head);
    check_path(head.uri.path());
    check_routes(head.uri.path());
    check_log_lines(&head);
    let content_type = head.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    check_form(content_type.unwrap_or_default(), body);
});

fn split<'a>(data: &'a [u8], by: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let at = data.windows(by.len()).position(|window| window == by)?;
    Some((&data[..at], &data[at + by.len()..]))
}

/// Checks that a path that reaches a replica is in normal form, so that the replica cannot read it as another one.
fn check_path(path: &str) {
    let normal = http::normalize_path(path);
    for method in [Method::GET, Method::POST] {
        if endpoint::match_endpoint(&method, path).is_ok() {
            assert_eq!(&*normal, path.as_bytes());
        }
    }
    if path.starts_with('/') {
        assert!(normal.starts_with(b"/") && split(&normal, b"//").is_none() && split(&normal, b"/./").is_none());
        assert!(split(&normal, b"/../").is_none() && !normal.ends_with(b"/.") && !normal.ends_with(b"/.."));
    }
}

/// Checks that no spelling of a path leads past a route that refuses it, and that a replaced path fits a request line.
fn check_routes(path: &str) {
    let route = |path: &str, action| Route::new(path.parse().expect("a path"), action, Arc::default());
    let refusal = RouteAction::Answer(Answer::parse("403").expect("an answer"));
    let pool = RouteAction::Pools(vec!["a".into()]);
    let host = HostSpec {
        names: Vec::new(),
        listens: Vec::new(),
        scope: Arc::default(),
        routes: vec![route("/", pool.clone()), route("/v1", refusal.clone()), route("~ ^/x.*y$", refusal)],
        is_closed: true,
        certificates: ServerCertificates::default(),
    };
    let arrival = ArrivalAddr { listen: ListenAddr::Unix("/s".into()), local: None };
    let table = RouteTable::new(vec![host], &[]);
    let is_open = matches!(table.find(&arrival, "", path), RouteLookup::Found(found) if found.action == pool);
    assert_eq!(
        is_open,
        path.starts_with('/') && !http::normalize_path(path).starts_with(b"/v1") && !is_refused_by_regex(path)
    );
    let replaced = replace_path(&"/v1".parse().expect("a path"), "/api", path);
    assert!(replaced.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'?' && byte != b'#'), "{replaced:?}");
}

fn is_refused_by_regex(path: &str) -> bool {
    let normal = http::normalize_path(path);
    let line = normal.strip_suffix(b"\n").unwrap_or(&normal);
    [&*normal, line]
        .iter()
        .any(|path| path.starts_with(b"/x") && path.len() > 2 && path.ends_with(b"y") && !path.contains(&b'\n'))
}

/// Checks that a client cannot forge a line or a field of a log.
fn check_log_lines(head: &Parts) {
    let captured = CapturedFields { request_headers: head.headers.clone(), ..CapturedFields::default() };
    let (line, attempts) = (request_line(head.uri.clone()), AttemptRecords::default());
    let record = request_record(&line, &attempts, &captured);
    let (plain_line, no_fields) = (request_line(Uri::from_static("/")), CapturedFields::default());
    let plain_record = request_record(&plain_line, &attempts, &no_fields);
    for name in BUILT_IN_FORMATS {
        let format = LogFormat::built_in(name).expect("a built-in format");
        let (line, other) = (render_line(&format, &record), render_line(&format, &plain_record));
        assert!(!line.chars().any(char::is_control), "{line:?}");
        match name {
            "json" => assert!(serde_json::from_str::<Value>(&line).is_ok_and(|line| line["path"] == head.uri.path())),
            "text" => assert_eq!(line.matches([' ', '"']).count(), other.matches([' ', '"']).count(), "{line:?}"),
            _ => assert_eq!(line.matches('"').count(), other.matches('"').count(), "{line:?}"),
        }
    }
    let Some(text) = head.headers.get("x-format").and_then(|value| std::str::from_utf8(value.as_bytes()).ok()) else {
        return;
    };
    for escape in [LogEscape::Default, LogEscape::Json, LogEscape::None, LogEscape::Word, LogEscape::JsonValue] {
        if let Ok(format) = LogFormat::new(text, escape) {
            let line = render_line(&format, &record);
            assert!(
                escape == LogEscape::None || text.contains(char::is_control) || !line.contains(char::is_control),
                "{line:?}"
            );
            assert!(!format.is_constant() || line == text);
        }
    }
    let header = LogFormat::for_header(text, ValueAvailability::AtRequest);
    assert!(header.is_err() || LogFormat::new(text, LogEscape::None).is_ok());
}

fn request_line(uri: Uri) -> RequestLine {
    let connection = ConnectionInfo::default();
    RequestLine { method: Method::POST, uri, version: Version::HTTP_11, request_number: 1, connection }
}

fn request_record<'a>(
    request_line: &'a RequestLine,
    attempts: &'a AttemptRecords,
    captured: &'a CapturedFields,
) -> RequestRecord<'a> {
    RequestRecord {
        id: "r1",
        client_addr: "10.0.0.9",
        client_port: None,
        peer_addr: None,
        request_line,
        server_name: None,
        response: ResponseInfo { status: 200, body_bytes: 5 },
        attempts,
        tokens: TokenInfo::default(),
        times: RequestTimes { time_of_day: Duration::from_secs(1_795_355_508), ..RequestTimes::default() },
        utc_offset: |_| 0,
        tenant: None,
        outcome: "completed",
        captured: Some(captured),
    }
}

fn render_line(format: &LogFormat, record: &RequestRecord<'_>) -> String {
    let mut line = Vec::new();
    format.write_line(record, &mut line);
    assert_eq!(line.pop(), Some(b'\n'));
    String::from_utf8_lossy(&line).into_owned()
}

/// Checks that a form field is at the range that it reports, and that its replacement is found there too.
fn check_form(content_type: &str, body: &[u8]) {
    let find = |body: &[u8]| {
        let found = multipart::find_field(content_type, body, "model").ok()??;
        assert_eq!(&body[found.range.clone()], found.value.as_bytes());
        Some((found.value.to_owned(), found.replacement("other\r\n--x")))
    };
    let Some((_, edit)) = find(body) else { return };
    let new = splice(&Bytes::copy_from_slice(body), vec![edit]).expect("the edit is within the body");
    let new: Vec<u8> = new.into_iter().flatten().collect();
    assert_eq!(find(&new).map(|(value, _)| value).as_deref(), Some("other"));
}
