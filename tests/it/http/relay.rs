//! Relay of unusual responses and to slow clients, and the memory it takes.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::time::Duration;

use crate::harness::client::build_request;
use crate::harness::scripted::{ScriptedReplica, respond_ok};
use crate::harness::{TEST_TIMEOUT, TestRouter, chat_body};

const CHAT_PATH: &str = "/v1/chat/completions";

/// Starts a router over a replica that sends these bytes for every request; it closes unless `keep`.
fn start_answering(bytes: impl Into<Vec<u8>>, keep: bool) -> (TestRouter, ScriptedReplica) {
    let bytes = bytes.into();
    let replica = ScriptedReplica::start(&["m"], move |_, to| to.write_all(&bytes).is_ok() && keep);
    (TestRouter::start_with_replicas([&*replica.url()]), replica)
}

#[test]
fn answer_ended_by_close_is_complete() {
    for (bytes, kind) in [
        (&b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{\"a\":1}"[..], "application/json"),
        (b"HTTP/1.0 200 OK\r\ncontent-type: text/plain\r\n\r\n{\"a\":1}", "text/plain"),
        (b"HTTP/1.1 200 OK\r\ncontent-type: a/b\r\nconnection: close\r\ncontent-length: 7\r\n\r\n{\"a\":1}", "a/b"),
    ] {
        let (router, _replica) = start_answering(bytes, false);
        for _ in 0..3 {
            let reply = router.post(CHAT_PATH, chat_body("m", 1, false));
            assert_eq!((reply.status, &*reply.text(), reply.header("content-type")), (200, "{\"a\":1}", Some(kind)));
            assert!(reply.complete);
        }
        assert_eq!(router.sum_metric("tokenweir_attempts_total", &["completed"]), 3.0);
    }
}

#[test]
fn redirect_of_a_replica_to_itself_leads_through_the_router() {
    let replica = ScriptedReplica::start(&["m"], |request, to| {
        let host = request.header("host").unwrap_or_default();
        let head = format!("HTTP/1.1 307 Temporary Redirect\r\nlocation: http://{host}{}/\r\n", request.target());
        let refresh = format!("refresh: 5; url=http://{host}{}/\r\n", request.target());
        to.write_all(format!("{head}{refresh}content-length: 0\r\n\r\n").as_bytes()).is_ok()
    });
    let text = format!(
        "[[pool]]\nname = 'a'\npaths = 'any'\nreplicas = [{:?}]\n[[host]]\n\
         [[host.route]]\npath = '/'\npools = 'a'\n[[host.route]]\npath = '/api/'\npools = 'a'\nreplace_path = '/v1/'\n",
        replica.url()
    );
    let router = TestRouter::start(&text);
    for (path, location) in [("/docs", "/docs/"), ("/api/docs", "/api/docs/")] {
        let reply = router.get(path);
        assert_eq!((reply.status, reply.header("location")), (307, Some(location)), "{path}");
        assert_eq!(reply.header("refresh"), Some(&*format!("5; url={location}")), "{path}");
    }
    assert_eq!(replica.last_request().target(), "/v1/docs");
}

#[test]
fn control_character_in_a_header_loses_its_line_only() {
    for line in ["x-c: a\x02b", "x-c: a\x7fb", "x\x02c: a", "x-c"] {
        let head = format!("HTTP/1.1 200 OK\r\nx-a: 1\r\n{line}\r\nx-b: 2\r\ncontent-type: application/json\r\n");
        let (router, replica) = start_answering(format!("{head}content-length: 2\r\n\r\n{{}}"), true);
        for _ in 0..2 {
            let reply = router.post(CHAT_PATH, chat_body("m", 1, false));
            assert_eq!((reply.status, &*reply.text()), (200, "{}"), "{line:?}");
            assert_eq!((reply.header("x-a"), reply.header("x-b"), reply.header("x-c")), (Some("1"), Some("2"), None));
        }
        assert_eq!(replica.received_requests().len(), 2);
    }
    let chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding : chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n";
    let (router, _replica) = start_answering(&chunked[..], true);
    assert_eq!(router.post(CHAT_PATH, chat_body("m", 1, false)).text(), "{}");
}

#[test]
fn bodyless_answers_keep_connections_usable() {
    for bytes in [
        &b"HTTP/1.1 204 No Content\r\nx-a: 1\r\n\r\n"[..],
        b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
    ] {
        let (router, replica) = start_answering(bytes, true);
        let mut client = router.connect();
        for _ in 0..5 {
            client.send(build_request("POST", CHAT_PATH, "", chat_body("m", 1, false)));
            let reply = client.read_response();
            assert!(matches!(reply.status, 200 | 204) && reply.complete && reply.body.is_empty(), "{}", reply.head);
        }
        assert_eq!((replica.received_requests().len(), router.in_flight()), (5, 0));
    }
}

#[test]
fn trailing_bytes_never_become_the_next_answer() {
    let bytes = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil";
    let (router, _replica) = start_answering(bytes, true);
    let mut client = router.connect();
    for _ in 0..10 {
        client.send(build_request("POST", CHAT_PATH, "", chat_body("m", 1, false)));
        assert_eq!(client.read_response().text(), "ok");
    }
}

#[test]
fn invalid_http_head_counts_against_the_replica() {
    for bytes in
        [&b"SSH-2.0-OpenSSH\r\n"[..], b"HTTP/1.1 20x OK\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n"]
    {
        let (router, _replica) = start_answering(bytes, false);
        let reply = router.post(CHAT_PATH, chat_body("m", 1, false));
        assert_eq!((reply.status, &reply.openai_error()["type"]), (502, &"api_error".into()), "{}", reply.text());
    }
}

#[test]
fn early_refusal_of_a_large_body_is_relayed() {
    // The server reads the head only, answers, and closes once the router has stopped sending.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut head = [0; 1024];
            let read = stream.read(&mut head).unwrap();
            if head[..read].starts_with(b"GET") {
                let list =
                    "HTTP/1.1 200 OK\r\ncontent-length: 21\r\nconnection: close\r\n\r\n{\"data\":[{\"id\":\"m\"}]}";
                stream.write_all(list.as_bytes()).unwrap();
                continue;
            }
            stream.write_all(b"HTTP/1.1 413 Large\r\ncontent-length: 5\r\nconnection: close\r\n\r\nlarge").unwrap();
            while stream.read(&mut head).is_ok_and(|read| read > 0) {}
        }
    });
    let router = TestRouter::start_with_replicas([&*url]);
    let body = format!(r#"{{"x":"{}"}}"#, "y".repeat(8 << 20));
    let reply = router.post(CHAT_PATH, body);
    assert_eq!((reply.status, &*reply.text()), (413, "large"));
}

#[test]
fn client_that_sends_a_large_body_whole_reads_the_error() {
    let replica = ScriptedReplica::start(&["m"], respond_ok);
    let router =
        TestRouter::start(&format!("replicas = [{:?}]\n[limits]\nbody_bytes = 1000", replica.url())).wait_until_ready();
    let body = vec![b'x'; 8 << 20];
    for headers in [format!("content-length: {}\r\n", body.len()), "transfer-encoding: chunked\r\n".to_owned()] {
        let mut client = router.connect();
        client.send(format!("POST {CHAT_PATH} HTTP/1.1\r\nhost: x\r\n{headers}\r\n"));
        let framed = if headers.contains("chunked") { format!("{:x}\r\n", body.len()) } else { String::new() };
        let sent = client.try_send(framed).and_then(|()| client.try_send(&body));
        let reply = client.try_read_head();
        assert_eq!(reply.map(|r| r.status), Some(413), "{headers}: sending gave {sent:?}");
    }
}

#[test]
fn slow_client_applies_back_pressure_to_its_replica() {
    let (signal, signals) = channel();
    let signal = Mutex::new(signal);
    let replica = ScriptedReplica::start(&["m"], move |_, to: &mut TcpStream| {
        to.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n").unwrap();
        to.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
        let (line, mut written) = ([b':'; 64 * 1024], 0);
        while let Ok(more) = to.write(&line) {
            written += more;
            if written > 256 << 20 {
                break;
            }
        }
        signal.lock().unwrap().send(written).unwrap();
        false
    });
    let router = TestRouter::start_with_replicas([&*replica.url()]);
    let mut client = router.connect();
    client.send(build_request("POST", CHAT_PATH, "", chat_body("m", 9, true)));
    let written = signals.recv_timeout(TEST_TIMEOUT).unwrap();
    // The kernel's buffers of two connections, and a little of the router's.
    assert!(written < 32 << 20, "{} MiB were read from the replica", written >> 20);
    assert_eq!(client.read_head().status, 200);
    assert_eq!(client.read_remaining_body().len(), written, "no byte is lost");
}

#[test]
fn model_with_a_slash_is_found_in_any_spelling() {
    let replica = ScriptedReplica::start(&["meta-llama/Llama 3"], respond_ok);
    let router = TestRouter::start_with_replicas([&*replica.url()]);
    for id in ["meta-llama/Llama%203", "meta-llama%2FLlama%203", "meta-llama%2fLlama+3"] {
        let reply = router.get(&format!("/v1/models/{id}"));
        let wanted = if id.contains('+') { 404 } else { 200 };
        assert_eq!(reply.status, wanted, "{id}: {}", reply.text());
    }
    let head = router.send_request("HEAD", "/v1/models", "", "");
    assert_eq!((head.status, head.body.len()), (200, 0));
}

#[test]
fn head_without_body_is_held_for_a_limited_time() {
    let replica = ScriptedReplica::start(&["m"], |_, to| {
        to.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n").unwrap();
        // Until the router closes.
        while to.read(&mut [0; 8]).is_ok_and(|read| read > 0) {}
        false
    });
    for hold in ["100ms", "0s"] {
        let config = format!("replicas = [{:?}]\n[timeouts]\nfirst_event_hold = {hold:?}", replica.url());
        let router = TestRouter::start(&config).wait_until_ready();
        let mut client = router.connect();
        client.send(build_request("POST", CHAT_PATH, "", chat_body("m", 9, true)));
        let head = client.read_head();
        assert_eq!((head.status, head.header("x-accel-buffering")), (200, Some("no")), "{hold}");
    }
}

#[test]
fn head_answers_have_no_body() {
    let replica = ScriptedReplica::start(&["m"], respond_ok);
    let router = TestRouter::start_with_replicas([&*replica.url()]);
    let mut client = router.connect();
    for (path, status) in
        [(CHAT_PATH, 405), ("/nowhere", 404), ("/v1/models", 200), ("/v1/models/x", 404), ("/v1/responses/r", 405)]
    {
        client.send(build_request("HEAD", path, "", ""));
        assert_eq!(client.read_response_to_head().status, status, "{path}");
        client.send(build_request("GET", "/livez", "", ""));
        assert_eq!(client.read_response().text(), "ok\n", "after HEAD {path}");
    }
}

#[test]
fn compressed_answer_and_unknown_headers_are_unchanged() {
    let bytes = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-encoding: gzip\r\nretry-after: 7\r\n\
        x-request-id: theirs\r\netag: \"1\"\r\ncache-control: private\r\ncontent-length: 4\r\n\r\n\x1f\x8b\x08\x00";
    let (router, _replica) = start_answering(bytes, true);
    let reply = router.send_request(
        "POST",
        CHAT_PATH,
        "x-request-id: ours\r\naccept-encoding: gzip\r\n",
        chat_body("m", 1, false),
    );
    assert_eq!(reply.body, b"\x1f\x8b\x08\x00");
    for (name, wanted) in [
        ("content-encoding", "gzip"),
        ("retry-after", "7"),
        ("etag", "\"1\""),
        ("cache-control", "private"),
        ("x-request-id", "ours"),
    ] {
        assert_eq!(reply.header(name), Some(wanted), "{}", reply.head);
    }
    assert_eq!(reply.head.matches("x-request-id: ").count(), 1);
    assert_eq!(reply.head.matches("date: ").count(), 1);
}
