//! Request heads: headers passed on, paths, log lines, and forms.

#![no_main]

#[path = "../../src/serve/identify.rs"]
#[allow(dead_code, reason = "the program uses all of it")]
mod identify;

use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Uri, Version};
use identify::{Peer, caller, forward, host, request_id, strip_hop_by_hop};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use tokenweir::balance::{self, Dice};
use tokenweir::config::{self, Network};
use tokenweir::http::normalize_path;
use tokenweir::log_format::{
    AttemptRecords, BUILT_IN_FORMATS, CapturedFields, ConnectionInfo, LogEscape, LogFormat, RequestLine, RequestRecord,
    RequestTimes, ResponseInfo, TokenInfo, ValueAvailability,
};
use tokenweir::prompt::{endpoint, multipart, splice};

/// The constant that identify.rs imports.
mod admission {
    pub(super) const X_API_KEY: http::HeaderName = http::HeaderName::from_static("x-api-key");
}

// A target, lines of headers, an empty line, a body. The header `x-format` is the format of a log.
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
    passed_on(&head);
    targeted(head.uri.path());
    logged(&head);
    let content_type = head.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    found_in_a_form(content_type.unwrap_or_default(), body);
});

fn split<'a>(data: &'a [u8], by: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let at = data.windows(by.len()).position(|window| window == by)?;
    Some((&data[..at], &data[at + by.len()..]))
}

/// Checks that only end-to-end headers are passed on, unchanged, and that only proxies set the client's address.
fn passed_on(head: &Parts) {
    let mut end_to_end = head.headers.clone();
    strip_hop_by_hop(&mut end_to_end);
    let id = request_id(&head.headers, &mut Dice::seeded(1));
    assert!((1..=128).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"'));
    assert!(!host(head).contains(|c: char| c.is_ascii_uppercase()));
    let ours = ["x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip", "x-request-id"];
    let answered = ["host", "expect", "content-length", "accept-encoding"];
    for (peer, trusted) in [("10.0.0.9", "10.0.0.0/8"), ("10.0.0.9", "10.0.0.0/30"), ("::ffff:10.0.0.9", "::/0")] {
        let peer: IpAddr = peer.parse().expect("an address");
        let trusted: Network = trusted.parse().expect("a network");
        let caller = caller(Peer::Tcp(peer), &head.headers, &[trusted]);
        assert!(caller.client == caller.peer || trusted.has(peer));
        let sent = forward(head, caller, &id, true);
        for name in sent.keys().filter(|name| !ours.contains(&name.as_str())) {
            assert!(!answered.contains(&name.as_str()));
            assert!(values(&sent, name).eq(values(&end_to_end, name)), "{name} has changed");
        }
        for name in end_to_end.keys().filter(|name| !answered.contains(&name.as_str())) {
            assert!(sent.contains_key(name), "{name} is missing");
        }
        let chain = sent["x-forwarded-for"].to_str().expect("visible");
        assert_eq!(chain.rsplit(", ").next(), Some("10.0.0.9"));
        assert!(sent["x-real-ip"] == *caller.client.text() && sent["x-request-id"] == *id);
    }
}

fn values<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a HeaderValue> {
    headers.get_all(name).iter()
}

/// Checks that an accepted path has one reading.
fn targeted(path: &str) {
    let normal = normalize_path(path);
    for method in [Method::GET, Method::POST] {
        if endpoint::find(&method, path).is_ok() {
            assert_eq!(&*normal, path.as_bytes());
        }
    }
    if path.starts_with('/') {
        assert!(normal.starts_with(b"/") && split(&normal, b"//").is_none() && split(&normal, b"/./").is_none());
        assert!(split(&normal, b"/../").is_none() && !normal.ends_with(b"/.") && !normal.ends_with(b"/.."));
    }
}

/// Checks that no client forges a log line or a field.
fn logged(head: &Parts) {
    let captured = CapturedFields { request_headers: head.headers.clone(), ..CapturedFields::default() };
    let (request_line, attempts) = (request_line(head.uri.clone()), AttemptRecords::default());
    let record = record(&request_line, &attempts, &captured);
    let (plain_line, nothing) = (self::request_line(Uri::from_static("/")), CapturedFields::default());
    let plain_record = self::record(&plain_line, &attempts, &nothing);
    for name in BUILT_IN_FORMATS {
        let format = LogFormat::built_in(name).expect("the format is built in");
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

fn record<'a>(
    request_line: &'a RequestLine,
    attempts: &'a AttemptRecords,
    captured: &'a CapturedFields,
) -> RequestRecord<'a> {
    RequestRecord {
        id: "r1",
        client_addr: "10.0.0.9",
        request_line,
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

/// Checks that a form field is at the returned position, and that a replacement is found there.
fn found_in_a_form(content_type: &str, body: &[u8]) {
    let find = |body: &[u8]| {
        let found = multipart::field(content_type, body, "model").ok()??;
        assert_eq!(&body[found.range.clone()], found.value.as_bytes());
        Some((found.value.to_owned(), found.replace("other\r\n--x")))
    };
    let Some((_, edit)) = find(body) else { return };
    let new = splice(&Bytes::copy_from_slice(body), vec![edit]).expect("the edit is within the body");
    let new: Vec<u8> = new.into_iter().flatten().collect();
    assert_eq!(find(&new).map(|(value, _)| value).as_deref(), Some("other"));
}
