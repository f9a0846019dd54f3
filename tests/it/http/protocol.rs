//! Requests over HTTP/1.0, 1.1 and 2, and refusals before a replica is reached.

use crate::harness::client::build_request;
use crate::harness::scripted::{ScriptedReplica, respond_ok};
use crate::harness::{TestRouter, chat_body, send_request, start_replica, wait_until};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};

const CHAT_PATH: &str = "/v1/chat/completions";

fn start_limited() -> (TestRouter, ScriptedReplica) {
    let replica = ScriptedReplica::start(&["m"], respond_ok);
    let limits =
        "[limits]\nbody_bytes = 1000\nin_flight_bytes = 1500\nuri_bytes = 100\nheader_bytes = \"8KiB\"\nheaders = 20\n";
    (TestRouter::start(&format!("replicas = [{:?}]\n{limits}", replica.url())).wait_until_ready(), replica)
}

#[test]
fn oversized_requests_have_their_own_status() {
    let (router, replica) = start_limited();
    let long = format!(r#"{{"model":"m","x":"{}"}}"#, "y".repeat(1000));
    let reply = router.post(CHAT_PATH, &long);
    assert_eq!((reply.status, reply.openai_error()["message"].as_str().unwrap().contains("1000 bytes")), (413, true));
    // Refused by its length, before the body is sent.
    let mut client = router.connect();
    client.send(format!("POST {CHAT_PATH} HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999\r\n\r\n"));
    assert_eq!(client.read_response().status, 413);
    let mut client = router.connect();
    client.send(format!("POST {CHAT_PATH} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"));
    for _ in 0..11 {
        // The router may refuse before the last chunk.
        drop(client.try_send(format!("64\r\n{}\r\n", "z".repeat(100))));
    }
    assert_eq!(client.read_response().status, 413);
    let reply = router.post(&format!("{CHAT_PATH}?{}", "q".repeat(100)), "{}");
    assert_eq!((reply.status, reply.openai_error()["type"].as_str()), (414, Some("invalid_request_error")));
    for headers in [format!("x-long: {}\r\n", "h".repeat(9000)), "x-many: 1\r\n".repeat(30)] {
        assert_eq!(
            router.send_request("POST", CHAT_PATH, &headers, chat_body("m", 1, false)).status,
            431,
            "{}",
            &headers[..20]
        );
    }
    assert!(replica.received_requests().is_empty());
    assert_eq!(router.post(CHAT_PATH, chat_body("m", 1, false)).status, 200);
}

#[test]
fn in_flight_bodies_share_a_budget() {
    let (router, _replica) = start_limited();
    let mut holding = router.connect();
    let body = format!(r#"{{"model":"m","x":"{}"}}"#, "y".repeat(800));
    // The router sends 100 Continue once the body is counted.
    let bytes = build_request("POST", CHAT_PATH, "expect: 100-continue\r\n", &body);
    holding.send(&bytes[..bytes.len() - 1]);
    assert_eq!(holding.read_head().status, 100);
    let refused = router.post(CHAT_PATH, &body);
    assert_eq!(refused.status, 503, "the second body exceeds the budget");
    assert_eq!((refused.header("retry-after"), &refused.openai_error()["type"]), (Some("1"), &"api_error".into()));
    holding.send(&bytes[bytes.len() - 1..]);
    assert_eq!(holding.read_response().status, 200);
    assert_eq!(router.post(CHAT_PATH, &body).status, 200, "the budget is released");
}

#[test]
fn wrong_body_for_the_endpoint_is_400() {
    let replica = ScriptedReplica::start(&["m"], respond_ok);
    let router = TestRouter::start_with_replicas([&*replica.url()]);
    let deep = format!(r#"{{"model":"m","messages":{}"#, "[".repeat(200_000));
    for body in
        ["", "{", "[]", "\"m\"", "null", "{\"model\":\"m\"}x", "{\"model\":7}", "{\"model\":\"m\",}", "\u{0}", &deep]
    {
        let reply = router.post(CHAT_PATH, body);
        let shown = &body[..body.len().min(30)];
        assert_eq!(
            (reply.status, reply.openai_error()["type"].as_str()),
            (400, Some("invalid_request_error")),
            "{shown}"
        );
    }
    let invalid = router.post(CHAT_PATH, b"{\"model\":\"\xff\"}");
    assert_eq!((invalid.status, invalid.openai_error()["type"].as_str()), (400, Some("invalid_request_error")));
    for kind in ["multipart/form-data", "application/json", "multipart/form-data; boundary=zz"] {
        let headers = format!("content-type: {kind}\r\n");
        let reply = router.send_request("POST", "/v1/audio/transcriptions", &headers, "--yy\r\n\r\nx\r\n--yy--");
        assert!(reply.status == 400 || reply.status == 200, "{kind}: {} {}", reply.status, reply.text());
    }
    let nested = format!(r#"{{"model":"m","messages":[],"x":{}1{}}}"#, "[".repeat(100), "]".repeat(100));
    assert_eq!(router.post(CHAT_PATH, nested).status, 200, "moderate nesting passes");
}

#[test]
fn stalled_body_is_closed() {
    let replica = ScriptedReplica::start(&["m"], respond_ok);
    let router = TestRouter::start(&format!("replicas = [{:?}]\n[timeouts]\nclient_body = \"100ms\"", replica.url()))
        .wait_until_ready();
    let bytes = build_request("POST", CHAT_PATH, "", chat_body("m", 1, false));
    let mut client = router.connect();
    client.send(&bytes[..bytes.len() - 1]);
    let reply = client.read_response();
    assert_eq!(
        (reply.status, &reply.openai_error()["type"]),
        (408, &"invalid_request_error".into()),
        "{}",
        reply.text()
    );
    assert!(client.wait_for_close() && replica.received_requests().is_empty());
}

#[test]
fn expect_continue_is_answered_before_the_body() {
    let replica = ScriptedReplica::start(&["m"], respond_ok);
    let router = TestRouter::start_with_replicas([&*replica.url()]);
    let bytes = build_request("POST", CHAT_PATH, "expect: 100-continue\r\n", chat_body("m", 1, false));
    let body = bytes.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
    let mut client = router.connect();
    client.send(&bytes[..body]);
    assert_eq!(client.read_head().status, 100);
    client.send(&bytes[body..]);
    assert_eq!(client.read_response().status, 200);
    assert_eq!(replica.last_request().header("expect"), None);
}

#[test]
fn http10_answer_ends_with_its_connection() {
    let replica = start_replica(&["m"]);
    let router = TestRouter::start_with_replicas([&*replica.url()]);
    let new = build_request("POST", CHAT_PATH, "x-request-id: r\r\n", chat_body("m", 5, true));
    let old = String::from_utf8(new).unwrap().replace("HTTP/1.1", "HTTP/1.0");
    let mut client = router.connect();
    client.send(old);
    let reply = client.read_response();
    assert_eq!((reply.status, reply.header("transfer-encoding")), (200, None), "{}", reply.head);
    assert!(reply.text().starts_with("data: {") && reply.text().ends_with("data: [DONE]\n\n"));
    assert!(client.wait_for_close());
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let replica = start_replica(&["m"]);
    let router = TestRouter::start_with_replicas([&*replica.url()]);
    let mut client = router.connect();
    let one = |index: usize| match index % 4 {
        3 => build_request("GET", "/livez", "", ""),
        kind => build_request("POST", CHAT_PATH, &format!("x-request-id: p{index}\r\n"), chat_body("m", 3, kind == 1)),
    };
    client.send((0..20).flat_map(one).collect::<Vec<u8>>());
    for at in 0..20 {
        let reply = client.read_response();
        assert!(reply.status == 200 && reply.complete, "{at}");
        match at % 4 {
            3 => assert_eq!(reply.text(), "ok\n"),
            _ => assert!(reply.text().contains(&format!("\"chatcmpl-p{at}\"")), "{at}: {}", reply.text()),
        }
    }
}

#[test]
fn ambiguous_requests_are_refused_or_closed() {
    let replica = ScriptedReplica::start(&["m"], respond_ok);
    let router = TestRouter::start(&format!("model = \"m\"\nreplicas = [{:?}]", replica.url()));
    let smuggled = "POST /sleep HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n";
    for headers in [
        "content-length: 5\r\ncontent-length: 6\r\n",
        "content-length: 5, 6\r\n",
        "content-length: +5\r\n",
        "content-length: 0x5\r\n",
        "content-length: -1\r\n",
        "content-length : 5\r\n",
        "transfer-encoding: chunked, identity\r\n",
        "transfer-encoding: xchunked\r\n",
        "transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n",
        "x: a\r\n b\r\ncontent-length: 5\r\n",
        "content-length: 5\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: chunked\r\ncontent-length: 5\r\n",
        "transfer-encoding: chunked\ncontent-length: 5\r\n",
        "content-length: 5\r\ncontent-length: 5\r\n",
        "x\u{0}: a\r\n",
    ] {
        let mut client = router.connect();
        client.send(format!("POST {CHAT_PATH} HTTP/1.1\r\nhost: x\r\n{headers}\r\n0\r\n\r\n{smuggled}"));
        let reply = client.try_read_head();
        assert!(reply.as_ref().is_none_or(|r| r.status == 400 || r.status == 501), "{headers:?}: {reply:?}");
        client.read_remaining_body();
        assert!(client.wait_for_close(), "{headers:?}");
    }
    assert!(replica.received_requests().is_empty(), "{:?}", replica.received_requests());
    // The same behind requests that are served.
    let body = chat_body("m", 1, false);
    let (length, chunk) = (body.len(), format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len()));
    let head = format!("POST {CHAT_PATH} HTTP/1.1\r\nhost: x\r\n");
    let mut client = router.connect();
    client.send(format!(
        "{head}content-length: {length}\r\n\r\n{body}{head}transfer-encoding: chunked\r\n\r\n{chunk}\
         {head}content-length: {length}\r\ntransfer-encoding: chunked\r\n\r\n{chunk}{smuggled}"
    ));
    assert_eq!([200, 200, 400].map(|_| client.read_response().status), [200, 200, 400]);
    assert!(client.wait_for_close());
    assert_eq!(replica.received_requests().len(), 2);
    let mut client = router.connect();
    client.send("POST /v1/chat/completions HTTP/1.1\r\n\r\n");
    assert_eq!(client.read_response().status, 400, "HTTP/1.1 without a host");
    for name in ["authorization", "expect", "if-match", "if-none-match", "if-range"] {
        let lines = format!("{name}: a\r\n{name}: a\r\n");
        assert_eq!(router.send_request("POST", CHAT_PATH, &lines, &body).status, 400, "{name}");
    }
    assert_eq!(router.send_request("POST", CHAT_PATH, "x-a: a\r\nx-a: b\r\n", &body).status, 200);
}

/// Connects by HTTP/2 with prior knowledge.
async fn connect_h2(router: &TestRouter) -> http2::SendRequest<Full<Bytes>> {
    let stream = tokio::net::TcpStream::connect(router.addr).await.unwrap();
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

fn build_h2_request(path: &str, body: String) -> http::Request<Full<Bytes>> {
    let uri = format!("http://router.test{path}");
    let request = http::Request::post(uri).header("content-type", "application/json").header("x-request-id", "h2");
    request.body(Full::from(body)).unwrap()
}

#[test]
fn http2_prior_knowledge_serves_answers_and_streams() {
    let replica = start_replica(&["m"]);
    let router = TestRouter::start_with_replicas([&*replica.url()]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let sender = connect_h2(&router).await;
        let calls = (0..50).map(|at| {
            let mut sender = sender.clone();
            async move {
                let stream = at % 2 == 0;
                let reply = sender.send_request(build_h2_request(CHAT_PATH, chat_body("m", 5, stream))).await.unwrap();
                assert_eq!((reply.status().as_u16(), &reply.headers()["x-request-id"]), (200, &"h2".parse().unwrap()));
                assert!(!reply.headers().contains_key("transfer-encoding"));
                let text = reply.into_body().collect().await.unwrap().to_bytes();
                assert!(text.ends_with(if stream { b"data: [DONE]\n\n".as_slice() } else { b"}" }), "{text:?}");
            }
        });
        futures_util::future::join_all(calls).await;
        let refused = sender.clone().send_request(build_h2_request("/sleep", String::new())).await.unwrap();
        assert_eq!(refused.status(), 404);
    });
}

#[test]
fn http2_reset_ends_its_own_request_only() {
    let replica = start_replica(&["m"]);
    let router = TestRouter::start_with_replicas([&*replica.url()]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut sender = connect_h2(&router).await;
        let endless = |id: &str| {
            let mut request = build_h2_request(CHAT_PATH, chat_body("m", 50, true));
            request.headers_mut().insert("x-emulate-lockstep", "1".parse().unwrap());
            request.headers_mut().insert("x-request-id", id.parse().unwrap());
            request
        };
        let mut left = sender.send_request(endless("left")).await.unwrap().into_body();
        let mut kept = sender.send_request(endless("kept")).await.unwrap().into_body();
        left.frame().await.unwrap().unwrap();
        kept.frame().await.unwrap().unwrap();
        assert_eq!((replica.counters().open_requests(), router.in_flight()), (2, 2));
        drop(left);
        while replica.counters().open_requests() != 1 || router.in_flight() != 1 {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        let next = |id: &str| send_request(replica.addr(), "POST", &format!("/emulate/next/{id}"), "", "").status;
        assert_eq!((next("left"), next("kept")), (404, 200));
        kept.frame().await.unwrap().unwrap();
    });
    drop(runtime);
    wait_until("the other streams end with the connection", || {
        router.in_flight() == 0 && replica.counters().open_requests() == 0
    });
    assert_eq!(router.sum_metric("tokenweir_attempts_total", &["outcome=\"client_gone\""]), 2.0);
    assert_eq!(router.sum_metric("tokenweir_attempts_total", &["outcome=\"failed\""]), 0.0);
}

#[test]
fn authority_of_http2_is_the_host() {
    let replica = ScriptedReplica::start(&["m"], respond_ok);
    let router = TestRouter::start(&format!(
        "replicas = [{:?}]\nrequest_headers = {{ X-Seen = \"$host $http_host\" }}",
        replica.url()
    ));
    wait_until("the models are known", || router.post(CHAT_PATH, chat_body("m", 1, false)).status == 200);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut sender = connect_h2(&router).await;
        for (authority, host_line, seen) in [
            ("LLM.Example.:81", None, Some("llm.example LLM.Example.:81")),
            ("llm.example", Some("LLM.Example:81"), Some("llm.example LLM.Example:81")),
            ("llm.example", Some("other.example"), None),
            ("llm..example", None, None),
        ] {
            let body = Full::from(chat_body("m", 1, false));
            let mut request = http::Request::post(format!("http://{authority}{CHAT_PATH}"))
                .header("content-type", "application/json")
                .body(body)
                .unwrap();
            if let Some(line) = host_line {
                request.headers_mut().insert("host", line.parse().unwrap());
            }
            let status = sender.send_request(request).await.unwrap().status();
            assert_eq!(status, if seen.is_some() { 200 } else { 400 }, "{authority} {host_line:?}");
            if seen.is_some() {
                assert_eq!(replica.last_request().header("x-seen"), seen);
            }
        }
    });
}
