//! Promises about invalid input.

use std::io::Write;

use super::setup::{
    CHAT_PATH, JSON_CONTENT_TYPE, StageRouter, Stopwatch, start_fixed_replica, start_good_replica, start_router,
};
use crate::harness::chat_body;
use crate::harness::client::build_request;
use crate::harness::scripted::{ScriptedReplica, build_response};

const BODY: &str = "{\"model\":\"m\"}";
const SMUGGLED_REQUEST: &str = "POST /sleep HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n";

/// Sends this after a request line, with another request as its tail; asserts that only unambiguous requests are
/// served.
fn assert_refused_or_closed(router: &StageRouter, headers: &str, body: &str) {
    let mut client = router.connect();
    client.send(format!("POST {CHAT_PATH} HTTP/1.1\r\nhost: x\r\n{headers}\r\n\r\n{body}{SMUGGLED_REQUEST}"));
    let reply = client.try_read_head();
    assert!(reply.as_ref().is_none_or(|r| matches!(r.status, 400 | 413 | 501)), "{headers:?} {body:?}: {reply:?}");
    client.read_remaining_body();
    assert!(client.wait_for_close(), "{headers:?} {body:?}");
}

/// "Smuggling (conflicting CL, obfuscated TE), NUL/CR/LF in header values: refused; the tail never reaches a replica."
#[test]
fn ambiguous_framing_is_refused() {
    let replica = start_good_replica();
    let router = start_router([&replica], "");
    let chunked = format!("d\r\n{BODY}\r\n0\r\n\r\n");
    for headers in [
        "transfer-encoding:\u{b}chunked",
        "transfer-encoding : chunked",
        "transfer-encoding: xchunked",
        "transfer-encoding: chunked\r\ntransfer-encoding: identity",
        "transfer-encoding: gzip, chunked, chunked",
        "transfer-encoding: \"chunked\"",
    ] {
        assert_refused_or_closed(&router, headers, &chunked);
    }
    for headers in [
        "content-length: 13\r\ncontent-length: 14",
        "content-length: 13, 14",
        "content-length: +13",
        "content-length: 0xd",
        "content-length : 13",
        "content-length: 13\r\nx-a: b\u{0}c",
        "content-length: 13\r\nx-a: b\rc",
        "content-length: 13\r\nx-a: b\r\n c",
        "content-length: 13\r\nx-\u{0}a: b",
    ] {
        assert_refused_or_closed(&router, headers, BODY);
    }
    assert!(replica.received_requests().is_empty(), "{:?}", replica.received_requests());
}

/// "Smuggling (CL+TE) ... refused, or handled by TE alone and closed; the tail never reaches a replica."
#[test]
fn request_with_both_lengths_is_read_by_chunks_and_closed() {
    let replica = start_good_replica();
    let router = start_router([&replica], "");
    let mut client = router.connect();
    let head =
        format!("POST {CHAT_PATH} HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n");
    client.send(format!("{head}d\r\n{BODY}\r\n0\r\n\r\n{SMUGGLED_REQUEST}"));
    let status = client.try_read_head().map(|reply| reply.status);
    client.read_remaining_body();
    assert!(client.wait_for_close() && matches!(status, None | Some(200 | 400)), "{status:?}");
    let received = replica.received_requests();
    assert!(
        received.len() <= 1 && received.iter().all(|h| h.target() == CHAT_PATH && h.body == BODY.as_bytes()),
        "{received:?}"
    );
}

/// "Every message is re-framed": two equal lengths have one meaning and are sent once.
#[test]
fn duplicate_content_length_is_refused_or_merged() {
    let replica = start_good_replica();
    let router = start_router([&replica], "");
    for headers in ["content-length: 13\r\ncontent-length: 13", "content-length: 13, 13"] {
        let mut client = router.connect();
        client.send(format!("POST {CHAT_PATH} HTTP/1.1\r\nhost: x\r\n{headers}\r\n\r\n{BODY}"));
        let status = client.read_head().status;
        assert!([200, 400].contains(&status), "{headers}: {status}");
        if status == 200 {
            assert_eq!(replica.last_request().header_values("content-length"), ["13"], "{headers}");
            assert_eq!(replica.last_request().body, BODY.as_bytes());
        }
    }
}

/// "Bad chunking: refused."
#[test]
fn invalid_chunks_reach_no_replica() {
    let replica = start_good_replica();
    let router = start_router([&replica], "");
    for size in ["zz", "-d", "0xd", "c", "e", "fffffffffffffffff", ""] {
        assert_refused_or_closed(&router, "transfer-encoding: chunked", &format!("{size}\r\n{BODY}\r\n0\r\n\r\n"));
    }
    assert_refused_or_closed(&router, "transfer-encoding: chunked", &format!("d\n{BODY}\n0\n\n"));
    assert!(replica.received_requests().is_empty(), "{:?}", replica.received_requests());
}

/// "Every message is re-framed."
#[test]
fn messages_are_reframed() {
    let answer = "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ntransfer-encoding: chunked\r\n\r\n\
                  2;name=value\r\nab\r\n3\r\ncde\r\n0\r\nx-trailer: 1\r\n\r\n";
    let replica = ScriptedReplica::start(&["m"], move |_, to| to.write_all(answer.as_bytes()).is_ok());
    let router = start_router([&replica], "");
    let mut client = router.connect();
    let head = format!("POST {CHAT_PATH} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n");
    client.send(format!("{head}6;a=b\r\n{}\r\n7\r\n{}\r\n0\r\nx-evil: 1\r\n\r\n", &BODY[..6], &BODY[6..]));
    let reply = client.read_response();
    assert_eq!((reply.status, reply.complete, &*reply.text()), (200, true, "abcde"));
    let received = replica.last_request();
    assert_eq!((received.header("content-length"), received.header("transfer-encoding")), (Some("13"), None));
    assert_eq!((received.body.as_slice(), received.header("x-evil")), (BODY.as_bytes(), None));
}

/// "Head > 64 KiB, > 100 headers, URI > 8 KiB: refused with 431/414 at once."
#[test]
fn head_over_the_limits_is_refused_at_once() {
    let replica = start_good_replica();
    let router = start_router([&replica], "");
    let head = format!("POST {CHAT_PATH} HTTP/1.1\r\nhost: x\r\n");
    for (bytes, statuses) in [
        // The first two requests stay incomplete; the router answers without waiting.
        (format!("{head}x-long: {}", "h".repeat(66_000)), [431, 431]),
        (format!("POST /{}", "u".repeat(66_000)), [414, 431]),
        (format!("{head}{}\r\n", "x-many: 1\r\n".repeat(101)), [431, 431]),
        (format!("GET /v1/models?{} HTTP/1.1\r\nhost: x\r\n\r\n", "q".repeat(8_200)), [414, 414]),
    ] {
        let watch = Stopwatch::start();
        let mut client = router.connect();
        client.send(&bytes);
        let reply = client.read_response();
        assert!(statuses.contains(&reply.status), "{}: {}", &bytes[..60], reply.status);
        assert_eq!(reply.openai_error()["type"], "invalid_request_error");
        assert!(watch.elapsed().as_secs() < 5, "at once");
    }
    assert!(replica.received_requests().is_empty());
    let headers = format!("x-long: {}\r\n{}", "h".repeat(60_000), "x-many: 1\r\n".repeat(90));
    assert_eq!(
        router.send_request("POST", CHAT_PATH, &headers, BODY).status,
        200,
        "a request within the limits passes"
    );
}

/// "Body > limit (32 MiB): 413, counted on the stream; no replica ever gets the whole of it."
#[test]
fn body_over_the_limit_is_413_in_any_framing() {
    let replica = start_good_replica();
    let router = start_router([&replica], "");
    let mut client = router.connect();
    client.send(format!("POST {CHAT_PATH} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", (32 << 20) + 1));
    assert_eq!(client.read_response().status, 413, "refused by its length");
    let mut client = router.connect();
    client.send(format!("POST {CHAT_PATH} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"));
    let mebibyte = format!("100000\r\n{}\r\n", "z".repeat(1 << 20));
    // The response may come before the last chunk.
    let sent = (0..33).take_while(|_| client.try_send(&mebibyte).is_ok()).count();
    let reply = client.read_response();
    assert_eq!(
        (reply.status, &reply.openai_error()["type"]),
        (413, &"invalid_request_error".into()),
        "after {sent} MiB"
    );
    assert!(replica.received_requests().is_empty());
}

/// "A 25 MB multimodal body passes intact."
#[test]
fn body_of_25_mb_passes_intact() {
    let replica = start_good_replica();
    let router = start_router([&replica], "");
    let picture = "iVBORw0KGgo+/AAB".repeat(25_000_000 / 16);
    let body = format!(
        r#"{{"model":"m","messages":[{{"role":"user","content":[{{"type":"image_url","image_url":{{"url":"data:image/png;base64,{picture}"}}}}]}}]}}"#
    );
    assert_eq!(router.post(CHAT_PATH, &body).status, 200);
    assert!(
        replica.last_request().body == body.as_bytes(),
        "{} bytes of {}",
        replica.last_request().body.len(),
        body.len()
    );
}

/// "Invalid JSON, depth bombs, wrong types: 4xx with an OpenAI error object, never 5xx."
#[test]
fn invalid_body_is_4xx_with_an_openai_error() {
    let replica = start_good_replica();
    let router = start_router([&replica], "");
    let bombs = ["[", "{\"a\":"].map(|one| format!(r#"{{"model":"m","messages":{}"#, one.repeat(200_000)));
    let bodies = ["", "{", "[]", "7", "null", "{\"model\":7}", "{\"model\":\"m\",}", "{'model':1}"];
    for body in bodies.into_iter().chain(bombs.iter().map(String::as_str)) {
        let (reply, shown) = (router.post(CHAT_PATH, body), &body[..body.len().min(30)]);
        assert!((400..500).contains(&reply.status), "{shown}: {}", reply.status);
        assert_eq!(reply.openai_error()["type"], "invalid_request_error", "{shown}");
    }
    assert!(replica.received_requests().is_empty());
}

/// "Wrong types: 4xx with an OpenAI error object": from the router or from the engine.
#[test]
fn wrong_type_is_400_from_router_or_replica() {
    let error = r#"{"error":{"message":"bad","type":"BadRequestError","param":"messages","code":400}}"#;
    let replica = start_fixed_replica(400, error);
    let router = start_router([&replica], "");
    for more in [
        r#""messages":7"#,
        r#""messages":[[]]"#,
        r#""messages":[{"content":{"a":1}}],"stream":"yes""#,
        r#""messages":[],"max_tokens":"x""#,
        r#""messages":[],"max_tokens":-99999999999999999999999"#,
        r#""messages":[],"stream":true,"stream_options":7"#,
        r#""messages":[],"user":[],"prompt_cache_key":{}"#,
    ] {
        let reply = router.post(CHAT_PATH, format!(r#"{{"model":"m",{more}}}"#));
        assert_eq!((reply.status, reply.json()["error"]["message"].is_string()), (400, true), "{more}");
    }
    assert_eq!(router.sum_metric("tokenweir_ejections_total", &[]), 0.0);
}

/// "Unknown fields, big integers, unicode escapes and number spelling reach the replica unchanged."
#[test]
fn unknown_members_reach_the_replica_unchanged() {
    let replica = start_good_replica();
    let router = start_router([&replica], "");
    let inside = "\"model\" :\t\"\\u006d\",\"x_new\":{\"a\":[1e2,1.0,-0,0.10,1E+2]},\"seed\":123456789012345678901234567890,\
                  \"messages\":[{\"role\":\"user\",\"content\":\"\\ud83d\\ude00 \\u00e9 \\/ é\"}],\"x_new\":2 ,\"f\":1.7976931348623157e309";
    let body = format!("{{ {inside} \n}}");
    assert_eq!(router.post(CHAT_PATH, &body).status, 200);
    assert_eq!(String::from_utf8(replica.last_request().body).unwrap(), body);
    // The usage option is inserted, and the rest stays unchanged.
    assert_eq!(router.post(CHAT_PATH, format!("{{\"stream\":true, {inside} \n}}")).status, 200);
    assert!(
        String::from_utf8(replica.last_request().body).unwrap().ends_with(&format!("\"stream\":true, {inside} \n}}"))
    );
}

/// "`Expect: 100-continue` works."
#[test]
fn expect_100_continue_is_answered() {
    let replica = start_good_replica();
    let router = start_router([&replica], "");
    let bytes = build_request("POST", CHAT_PATH, "expect: 100-continue\r\n", chat_body("m", 1, false));
    let body = bytes.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
    let mut client = router.connect();
    client.send(&bytes[..body]);
    assert_eq!(client.read_head().status, 100);
    client.send(&bytes[body..]);
    assert_eq!(client.read_response().status, 200);
}

/// "`Expect: 100-continue` works": a body that is too large is refused before it is sent.
#[test]
fn expect_100_continue_with_a_large_body_is_refused_at_once() {
    let replica = start_good_replica();
    let router = start_router([&replica], "");
    let mut client = router.connect();
    let length = (32 << 20) + 1;
    client.send(format!(
        "POST {CHAT_PATH} HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: {length}\r\n\r\n"
    ));
    assert_eq!(client.read_head().status, 413);
    assert!(replica.received_requests().is_empty());
}

/// "CONNECT, TRACE, Upgrade, absolute URIs, dot segments, encoded slashes: never an open proxy, never a path outside
/// the allowed list."
#[test]
fn no_spelling_reaches_an_unlisted_path() {
    let (replica, elsewhere) = (start_good_replica(), start_good_replica());
    let router = start_router([&replica], "");
    for (method, target) in [("CONNECT", elsewhere.addr.to_string()), ("TRACE", CHAT_PATH.to_owned())] {
        let status = router.send_request(method, &target, "", "").status;
        assert!((400..500).contains(&status), "{method}: {status}");
    }
    let outside = format!("http://{}/sleep", elsewhere.addr);
    for path in [
        "/sleep",
        "/v1/../sleep",
        "/v1/chat/completions/../../../sleep",
        "/v1/%2e%2e/sleep",
        "/v1/responses/..%2f..%2fsleep",
        "/v1/responses/..\\..\\sleep",
        "/v1/chat%2fcompletions",
        "//v1/chat/completions/../../../sleep",
        &outside,
        "http://u:p@127.0.0.1:1/v1/chat/completions/../../../sleep",
    ] {
        for method in ["POST", "GET", "PUT"] {
            let status = router.send_request(method, path, "", "{}").status;
            assert!((400..500).contains(&status), "{method} {path}: {status}");
        }
    }
    let upgrade = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: x\r\n";
    assert_ne!(router.send_request("GET", "/v1/realtime", upgrade, "").status, 101);
    assert!(replica.received_requests().is_empty(), "{:?}", replica.received_requests());
    // An absolute target names the router's host, never the destination.
    assert_eq!(router.send_request("POST", &format!("http://{}{CHAT_PATH}", elsewhere.addr), "", BODY).status, 200);
    assert_eq!(
        (replica.last_request().target().to_owned(), elsewhere.received_requests().len()),
        (CHAT_PATH.to_owned(), 0)
    );
}

/// "Never 5xx": even where an engine answers bad JSON with a 500.
#[test]
fn replica_4xx_is_relayed_unchanged() {
    let replica = ScriptedReplica::start(&["m"], |_, to| {
        to.write_all(&build_response(422, JSON_CONTENT_TYPE, r#"{"detail":"no"}"#)).is_ok()
    });
    let reply = start_router([&replica], "").post(CHAT_PATH, BODY);
    assert_eq!((reply.status, &*reply.text()), (422, r#"{"detail":"no"}"#));
}
