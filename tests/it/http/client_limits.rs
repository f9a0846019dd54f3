//! Client limits: heads, concurrent requests, time, connections and descriptors. Refusals are OpenAI error objects, and
//! accepted requests finish.

use std::fs;
use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::harness::client::{HttpResponse, TestClient, build_request};
use crate::harness::scripted::{ScriptedReplica, build_response, respond_ok};
use crate::harness::{TestRouter, chat_body, send_request, start_replica, wait_at_most, wait_until};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokenweir::clock::Clock;
use tokenweir::units::Moment;

const CHAT_PATH: &str = "/v1/chat/completions";

/// A router with its own error log.
struct LoggedRouter {
    router: TestRouter,
    log_path: PathBuf,
}

impl LoggedRouter {
    fn start(name: &str, url: &str, more: &str) -> Self {
        let log = std::env::temp_dir().join(format!("tokenweir-bounds-{}-{name}.log", std::process::id()));
        drop(fs::remove_file(&log));
        let text = format!("replicas = [{url:?}]\n{more}\n[log]\naccess = \"off\"\nerror = {log:?}");
        Self { router: TestRouter::start(&text).wait_until_ready(), log_path: log }
    }

    fn wait_for_log(&self, what: &str) {
        wait_until(what, || fs::read_to_string(&self.log_path).is_ok_and(|text| text.contains(what)));
    }
}

impl Drop for LoggedRouter {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.log_path));
    }
}

/// Reads the router's own error response; checks that the connection is closed after it.
fn read_refusal(client: &mut TestClient<TcpStream>) -> (u16, String) {
    let reply = client.read_response();
    assert_eq!(reply.header("connection"), Some("close"), "{}", reply.head);
    let error = reply.openai_error();
    assert_eq!(error["type"], "invalid_request_error");
    assert!(reply.header("date").is_some(), "{}", reply.head);
    assert!(client.wait_for_close());
    (reply.status, error["message"].as_str().unwrap().to_owned())
}

#[test]
fn large_head_is_refused_with_an_openai_error_and_logged() {
    let replica = ScriptedReplica::start(&["m"], respond_ok);
    let logged = LoggedRouter::start(
        "heads",
        &replica.url(),
        "[limits]\nheader_bytes = \"8KiB\"\nheaders = 20\nuri_bytes = 100",
    );
    let head = format!("POST {CHAT_PATH} HTTP/1.1\r\nhost: x\r\n");
    let long = "h".repeat(9000);
    for (bytes, status) in [
        (format!("{head}x-long: {long}\r\ncontent-length: 0\r\n\r\n"), 431),
        // The router answers before the head is complete.
        (format!("{head}x-long: {long}"), 431),
        (format!("POST /{long}"), 431),
        (format!("{head}{}\r\n", "x-many: 1\r\n".repeat(20)), 431),
        (format!("GET /v1/models?{} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", "q".repeat(100)), 414),
        ("\0\0\0\0 nonsense that is no HTTP\r\n\r\n".to_owned(), 400),
        (format!("{head}x\u{0}: a\r\n\r\n"), 400),
    ] {
        let mut client = logged.router.connect();
        client.send(&bytes);
        let (got, message) = read_refusal(&mut client);
        let shown = bytes.get(..60).unwrap_or(&bytes);
        assert_eq!(got, status, "{shown}: {message}");
        assert!(status != 431 || message.contains("8192") && message.contains("limits.headers"), "{message}");
        if status != 414 {
            logged.wait_for_log(&format!("info request from 127.0.0.1 refused with {status} "));
        }
    }
    wait_until("all refusals are counted", || logged.router.sum_metric("tokenweir_requests_total", &["4xx"]) == 7.0);
    assert!(replica.received_requests().is_empty());
}

#[test]
fn pipelined_bad_request_is_answered_after_the_good_ones() {
    let replica = ScriptedReplica::start(&["m"], respond_ok);
    let logged = LoggedRouter::start("behind", &replica.url(), "");
    for stream in [false, true] {
        let mut client = logged.router.connect();
        let good = build_request("POST", CHAT_PATH, "", chat_body("m", 1, stream));
        client.send([&*good, b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n", &good, b"\x01\r\n\r\n"].concat());
        assert_eq!(client.read_response().text(), "{}");
        assert_eq!(client.read_response().text(), "ok\n");
        assert_eq!(client.read_response().text(), "{}");
        assert_eq!(read_refusal(&mut client).0, 400);
    }
    // A replica's response that looks like one of hyper's own is passed on.
    let bare = "HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    let fake = ScriptedReplica::start(&["m"], move |_, to| {
        to.write_all(&build_response(200, "application/json", bare)).is_ok()
    });
    let router = TestRouter::start_with_replicas([&*fake.url()]);
    let mut client = router.connect();
    for _ in 0..3 {
        client.send(build_request("POST", CHAT_PATH, "", chat_body("m", 1, false)));
        assert_eq!(client.read_response().text(), bare);
    }
}

#[test]
fn refused_client_that_keeps_sending_reads_the_error() {
    let replica = ScriptedReplica::start(&["m"], respond_ok);
    let logged = LoggedRouter::start("sending", &replica.url(), "[limits]\nbody_bytes = 1000");
    let cases = [
        (format!("POST {CHAT_PATH} HTTP/1.1\r\nhost: x\r\nx-long: "), 431),
        (format!("POST {CHAT_PATH} HTTP/1.1\r\nhost: x\r\ncontent-length: 9000000\r\n\r\n"), 413),
        ("POST /nowhere HTTP/1.1\r\nhost: x\r\ncontent-length: 9000000\r\n\r\n".to_owned(), 404),
    ];
    for (head, status) in cases {
        let mut client = logged.router.connect();
        client.send(&head);
        // The body exceeds all buffers on the way, so a stalled or reset reader is noticed.
        client.send(vec![b'x'; 8_000_000]);
        assert_eq!(client.read_response().status, status, "{head}");
    }
    assert!(replica.received_requests().is_empty());
}

#[test]
fn request_without_one_host_is_refused() {
    let replica = ScriptedReplica::start(&["m"], respond_ok);
    let router = TestRouter::start(&format!("replicas = [{:?}]\n[cors]\norigins = [\"*\"]", replica.url()));
    for (head, status) in [
        ("GET /v1/models HTTP/1.1\r\n\r\n", 400),
        ("GET /v1/models HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", 400),
        ("GET /v1/models HTTP/1.1\r\nhost: a\r\nhost: a\r\n\r\n", 400),
        ("GET /v1/models HTTP/1.0\r\n\r\n", 200),
        ("GET /v1/models HTTP/1.1\r\nhost:\r\n\r\n", 400),
        ("GET /v1/models HTTP/1.1\r\nhost: a b\r\n\r\n", 400),
        ("GET /v1/models HTTP/1.1\r\nhost: a/b\r\n\r\n", 400),
        ("GET /v1/models HTTP/1.1\r\nhost: a..b\r\n\r\n", 400),
        ("GET /v1/models HTTP/1.1\r\nhost: a.:80\r\n\r\n", 200),
        ("GET http://a./v1/models HTTP/1.1\r\nhost: b\r\n\r\n", 200),
        ("GET http://a/v1/models HTTP/1.1\r\n\r\n", 400),
        ("GET http://a/v1/models HTTP/1.1\r\nhost: b/c\r\n\r\n", 400),
        ("GET http://a:1.2/v1/models HTTP/1.1\r\nhost: b\r\n\r\n", 400),
        ("GET http://user@a/v1/models HTTP/1.1\r\nhost: b\r\n\r\n", 400),
        ("GET a HTTP/1.1\r\nhost: b\r\n\r\n", 400),
        ("OPTIONS * HTTP/1.1\r\nhost: b\r\n\r\n", 400),
        (
            "OPTIONS /v1/models HTTP/1.1\r\nhost: a/b\r\norigin: http://a\r\naccess-control-request-method: GET\r\n\r\n",
            400,
        ),
    ] {
        let mut client = router.connect();
        client.send(head);
        assert_eq!(client.read_response().status, status, "{head}");
    }
}

#[test]
fn absolute_target_connect_and_upgrade_are_not_proxied() {
    let replica = ScriptedReplica::start(&["m"], respond_ok);
    let open = ScriptedReplica::start(&["o"], respond_ok);
    let text = format!(
        "[[pool]]\nname = 'api'\nreplicas = [{:?}]\n\
         [[pool]]\nname = 'open'\nhost = 'open.test'\npaths = 'any'\nblock_paths = {{ '/admin' = 403 }}\nreplicas = [{:?}]",
        replica.url(),
        open.url()
    );
    let router = TestRouter::start(&text);
    wait_until("the models are known", || router.post(CHAT_PATH, chat_body("m", 1, false)).status == 200);
    let before = replica.received_requests().len();
    let status = |method: &str, target: &str, headers: &str| router.send_request(method, target, headers, "").status;
    let host = "host: open.test\r\n";
    for headers in ["", host] {
        assert_eq!(status("TRACE", CHAT_PATH, headers), 405);
        assert_eq!(status("TRACE", "/x", headers), 405);
        assert_eq!(status("CONNECT", "example.com:443", headers), 405);
    }
    for path in [
        "/sleep",
        "/v1/../sleep",
        "/v1/chat/completions/../../../sleep",
        "/v1/%2e%2e/sleep",
        "/%2e%2e/sleep",
        "/v1/responses/..%2f..%2fsleep",
        "/v1/responses/%2e%2e/%2e%2e/sleep",
        "/v1//chat/completions",
        "/v1/chat%2fcompletions",
        "/v1/chat\\completions",
        "/v1/responses/..\\..\\sleep",
        "http://127.0.0.1:1/sleep",
        "http://user:pass@127.0.0.1:1/v1/chat/completions/../../../sleep",
    ] {
        let got = status("POST", path, "");
        assert!(got == 404 || got == 400, "{path}: {got}");
    }
    assert_eq!(replica.received_requests().len(), before, "{:?}", replica.received_requests());
    for (target, host) in
        [("/admin", "host: Open.Test.:80\r\n"), ("http://OPEN.test.:80/admin", "host: elsewhere.test\r\n")]
    {
        assert_eq!(status("GET", target, host), 403, "{target} {host}");
    }
    for path in
        ["/admin", "/x/../admin", "/x/%2e%2e/admin", "//admin", "/%61dmin/x", "/./admin", "http://open.test/admin"]
    {
        assert_eq!(status("GET", path, host), 403, "{path}");
    }
    assert!(open.received_requests().is_empty(), "{:?}", open.received_requests());
    // An absolute target selects a pool by its host, never the destination.
    let reply = router.send_request("POST", "http://open.test/generate?x=1", "host: elsewhere.test\r\n", "{}");
    assert_eq!((reply.status, open.last_request().target()), (200, "/generate?x=1"));
    let upgrade = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: x\r\nsec-websocket-version: 13\r\n";
    let mut client = router.connect();
    client.send(build_request("GET", "/socket", &format!("{host}{upgrade}"), ""));
    assert_eq!(client.read_response().status, 400, "no pool here has `websocket = true`");
    assert_eq!(open.last_request().target(), "/generate?x=1");
    let h2c = "connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n";
    client.send(build_request("GET", "/v1/models", h2c, ""));
    assert_eq!(client.read_response().status, 200, "no 101");
}

#[test]
fn invalid_chunks_and_header_values_reach_no_replica() {
    let replica = ScriptedReplica::start(&["m"], respond_ok);
    let router = TestRouter::start_with_replicas([&*replica.url()]);
    let smuggled = "POST /sleep HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n";
    let body = "{\"model\":\"m\"}";
    for (headers, body) in [
        ("transfer-encoding: chunked", format!("zz\r\n{body}\r\n0\r\n\r\n")),
        ("transfer-encoding: chunked", format!("-d\r\n{body}\r\n0\r\n\r\n")),
        ("transfer-encoding: chunked", format!("0xd\r\n{body}\r\n0\r\n\r\n")),
        ("transfer-encoding: chunked", format!("d{body}\r\n0\r\n\r\n")),
        ("transfer-encoding: chunked", format!("c\r\n{body}\r\n0\r\n\r\n")),
        ("transfer-encoding: chunked", format!("fffffffffffffffff\r\n{body}\r\n0\r\n\r\n")),
        ("transfer-encoding: chunked", format!("d\n{body}\n0\n\n")),
        ("transfer-encoding:\u{b}chunked", format!("d\r\n{body}\r\n0\r\n\r\n")),
        ("transfer-encoding : chunked", format!("d\r\n{body}\r\n0\r\n\r\n")),
        ("transfer-encoding: chunked\r\ntransfer-encoding: x", format!("d\r\n{body}\r\n0\r\n\r\n")),
        ("transfer-encoding: gzip, chunked, chunked", format!("d\r\n{body}\r\n0\r\n\r\n")),
        ("transfer-encoding: \"chunked\"", format!("d\r\n{body}\r\n0\r\n\r\n")),
        ("content-length: 13\r\ncontent-length: 14", body.to_owned()),
        ("content-length: 13, 13", body.to_owned()),
        ("content-length: 1 3", body.to_owned()),
        ("content-length: 013x", body.to_owned()),
        ("content-length: 99999999999999999999999", body.to_owned()),
        ("content-length: 13\r\nx-a: b\u{0}c", body.to_owned()),
        ("content-length: 13\r\nx-a: b\rc", body.to_owned()),
        ("content-length: 13\r\nx-a: b\r\n c", body.to_owned()),
        ("content-length: 13\r\nx-a\r", body.to_owned()),
        ("content-length: 13\r\n: b", body.to_owned()),
    ] {
        let mut client = router.connect();
        client.send(format!("POST {CHAT_PATH} HTTP/1.1\r\nhost: x\r\n{headers}\r\n\r\n{body}{smuggled}"));
        let reply = client.try_read_head();
        assert!(reply.as_ref().is_none_or(|r| matches!(r.status, 400 | 413 | 501)), "{headers:?} {body:?}: {reply:?}");
        client.read_remaining_body();
        assert!(client.wait_for_close(), "{headers:?} {body:?}");
    }
    assert!(replica.received_requests().is_empty(), "{:?}", replica.received_requests());
    // A bare LF ends a line.
    let forward = |headers: &str| {
        let mut client = router.connect();
        client.send(format!("POST {CHAT_PATH} HTTP/1.1\r\nhost: x\r\n{headers}\r\n\r\n{body}"));
        let reply = client.try_read_head();
        (reply.map(|r| r.status), replica.received_requests().len())
    };
    assert_eq!(forward("content-length: 13\r\ncontent-length: 13"), (Some(400), 0));
    forward("content-length: 13\r\nx-a: b\nx-smuggled: 1");
    assert!(
        replica
            .received_requests()
            .iter()
            .all(|h| h.header_values("content-length").len() == 1 && h.body == body.as_bytes())
    );
}

/// Checks the response to a shed request; returns its `Retry-After`.
fn check_shed(reply: &HttpResponse, status: u16, code: &str) -> u64 {
    let error = reply.openai_error();
    assert_eq!((reply.status, error["code"].as_str()), (status, Some(code)), "{}", reply.text());
    assert_eq!(reply.header("x-should-retry"), Some("true"));
    let seconds = reply.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=30).contains(&seconds), "{seconds}");
    seconds
}

/// Starts a stream in lock-step and reads its head.
fn start_lockstep_stream(router: &TestRouter, id: &str) -> TestClient<TcpStream> {
    let mut client = router.connect();
    let headers = format!("x-emulate-lockstep: 1\r\nx-request-id: {id}\r\n");
    client.send(build_request("POST", CHAT_PATH, &headers, chat_body("m", 5, true)));
    assert_eq!(client.read_head().status, 200);
    client
}

/// Finishes a stream in lock-step.
fn finish_lockstep_stream(client: &mut TestClient<TcpStream>, replica: SocketAddr, id: &str) {
    while send_request(replica, "POST", &format!("/emulate/next/{id}"), "", "").status == 200 {}
    let text = String::from_utf8(client.read_remaining_body()).unwrap();
    assert!(!client.is_broken() && text.ends_with("data: [DONE]\n\n"), "{text}");
}

#[test]
fn request_limit_refuses_at_once_and_accepted_ones_finish() {
    let replica = start_replica(&["m"]);
    let limits = "max_in_flight = 2\nREPLICAS\n[limits]\nin_flight_requests = 3";
    let more = format!("[[pool]]\nname = 'm'\nmodel = 'm'\n{limits}\n");
    let other = format!("[[pool]]\nname = 'n'\nmodel = 'n'\nreplicas = [{:?}]\n", replica.url());
    let (pool, limits) = more.split_once("[limits]").unwrap();
    let pool = pool.replace("REPLICAS", &format!("replicas = [{:?}]", replica.url()));
    let router = TestRouter::start(&format!("{pool}{other}[limits]{limits}")).wait_until_ready();
    let mut streams: Vec<_> = ["a", "b"].map(|id| (id, start_lockstep_stream(&router, id))).into();
    check_shed(&router.post(CHAT_PATH, chat_body("m", 1, false)), 429, "rate_limit_exceeded");
    assert_eq!(router.in_flight(), 2, "the shed request holds no lease");
    // Another pool still has capacity, until the limit of all pools is reached.
    let mut third = router.connect();
    third.send(build_request(
        "POST",
        CHAT_PATH,
        "x-emulate-lockstep: 1\r\nx-request-id: c\r\n",
        chat_body("n", 5, true),
    ));
    assert_eq!(third.read_head().status, 200);
    check_shed(&router.post(CHAT_PATH, chat_body("n", 1, false)), 503, "overloaded");
    check_shed(&router.post(CHAT_PATH, chat_body("m", 1, false)), 503, "overloaded");
    assert_eq!((router.get("/livez").status, router.get("/v1/models").status), (200, 200));
    streams.push(("c", third));
    for (id, client) in &mut streams {
        finish_lockstep_stream(client, replica.addr(), id);
    }
    wait_until("a request is accepted again", || router.post(CHAT_PATH, chat_body("m", 1, false)).status == 200);
    drop(start_lockstep_stream(&router, "left"));
    wait_until("a disconnect frees capacity", || {
        let all: Vec<_> = (0..2).map(|_| router.post(CHAT_PATH, chat_body("m", 1, false)).status).collect();
        router.in_flight() == 0 && all == [200, 200]
    });
    let ejected = router.sum_metric("tokenweir_attempts_total", &["failed"]);
    assert_eq!(ejected, 0.0, "no replica is ejected");
}

#[test]
fn retry_after_is_tokens_in_flight_over_throughput() {
    let replica = start_replica(&["m"]);
    let text = format!("max_in_flight = 1\nreplicas = [{:?}]", replica.url());
    let router = TestRouter::start(&text).wait_until_ready();
    assert_eq!(router.post(CHAT_PATH, chat_body("m", 30, false)).status, 200);
    wait_until("the lease has settled", || router.in_flight() == 0);
    let long = chat_body("m", 5, true).replace("hello", &"a long prompt ".repeat(4000));
    let mut client = router.connect();
    client.send(build_request("POST", CHAT_PATH, "x-emulate-lockstep: 1\r\nx-request-id: long\r\n", long));
    assert_eq!(client.read_head().status, 200);
    // Few tokens have finished in the last seconds, and thousands are in flight.
    assert_eq!(check_shed(&router.post(CHAT_PATH, chat_body("m", 1, false)), 429, "rate_limit_exceeded"), 30);
    finish_lockstep_stream(&mut client, replica.addr(), "long");
}

#[test]
fn client_that_reads_nothing_is_closed() {
    let endless = ScriptedReplica::start(&["m"], |_, to| {
        let head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
        let chunk = [b"10000\r\n", &[b'x'; 0x10000][..], b"\r\n"].concat();
        to.write_all(head).unwrap();
        while to.write_all(&chunk).is_ok() {}
        false
    });
    let router = TestRouter::start(&format!("replicas = [{:?}]\n[timeouts]\nclient_send = \"300ms\"", endless.url()))
        .wait_until_ready();
    let mut client = router.connect();
    client.send(build_request("POST", CHAT_PATH, "", chat_body("m", 1, true)));
    assert_eq!(client.read_head().status, 200);
    assert_eq!(router.in_flight(), 1);
    wait_until("the replica is released", || router.in_flight() == 0);
    wait_until("the outcome is counted", || router.sum_metric("tokenweir_attempts_total", &["client_gone"]) == 1.0);
    client.read_remaining_body();
    assert!(client.is_broken());
    // A slow reader that keeps reading is not closed.
    let mut client = router.connect();
    client.send(build_request("POST", CHAT_PATH, "", chat_body("m", 1, true)));
    assert_eq!(client.read_head().status, 200);
    let clock = Clock::start();
    while clock.now().since(Moment::ZERO).as_millis() < 900 {
        client.read_piece().expect("the stream continues");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    assert_eq!(router.in_flight(), 1);
}

async fn connect_h2(router: &TestRouter) -> http2::SendRequest<Full<Bytes>> {
    let stream = tokio::net::TcpStream::connect(router.addr).await.unwrap();
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

#[test]
fn rapidly_reset_requests_leave_no_load() {
    let replica = start_replica(&["m"]);
    let router = TestRouter::start_with_replicas([&*replica.url()]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let ended = runtime.block_on(async {
        let mut sender = connect_h2(&router).await;
        for at in 0..20_000 {
            let request =
                http::Request::post(format!("http://x{CHAT_PATH}")).header("content-type", "application/json");
            let request = request.body(Full::from(chat_body("m", 100, true))).unwrap();
            if sender.ready().await.is_err() {
                return Some(at);
            }
            // Sent and dropped at once: HEADERS and RST_STREAM.
            drop(sender.send_request(request));
            if at % 16 == 0 {
                tokio::task::yield_now().await;
            }
        }
        None
    });
    wait_until("no request is left", || router.in_flight() == 0 && replica.counters().open_requests() == 0);
    assert_eq!(router.post(CHAT_PATH, chat_body("m", 2, false)).status, 200, "{ended:?}");
    assert_eq!(router.sum_metric("tokenweir_attempts_total", &["failed"]), 0.0);
}

#[test]
fn http2_header_lines_are_limited() {
    let replica = ScriptedReplica::start(&["m"], respond_ok);
    let router = TestRouter::start_with_replicas([&*replica.url()]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut sender = connect_h2(&router).await;
        let mut ask = async |lines: usize, bytes: usize| {
            let mut request = http::Request::get("http://x/v1/models").body(Full::default()).unwrap();
            for _ in 0..lines {
                request.headers_mut().append("x-many", "v".repeat(bytes).parse().unwrap());
            }
            let reply = sender.send_request(request).await.unwrap();
            let status = reply.status().as_u16();
            (status, reply.into_body().collect().await.unwrap().to_bytes())
        };
        assert_eq!(ask(90, 1).await.0, 200);
        let (status, text) = ask(120, 1).await;
        assert_eq!(status, 431);
        assert!(String::from_utf8_lossy(&text).contains("limits.headers"), "{text:?}");
        assert_eq!(ask(40, 1_800).await.0, 431);
        assert_eq!(ask(1, 1).await.0, 200, "the connection stays open");
    });
}

#[test]
fn connection_limit_closes_excess_and_frees_slots() {
    let replica = ScriptedReplica::start(&["m"], respond_ok);
    let logged = LoggedRouter::start("connections", &replica.url(), "[limits]\nconnections = 2");
    let served = |client: &mut TestClient<TcpStream>| {
        client.try_send(build_request("GET", "/livez", "", "")).is_ok()
            && client.try_read_head().is_some_and(|r| r.status == 200)
    };
    let mut first = logged.router.connect();
    let mut second = logged.router.connect();
    assert!(served(&mut first) && served(&mut second));
    let mut third = logged.router.connect();
    assert!(third.wait_for_close());
    logged.wait_for_log("connection closed: 2 are open (`limits.connections`)");
    first.read_remaining_body();
    assert!(served(&mut first), "open connections stay open");
    drop(second);
    wait_until("a connection is accepted again", || served(&mut logged.router.connect()));
}

/// A router process with a limit on open files; killed on drop.
struct FileLimitedRouter {
    child: Child,
    addrs: Vec<SocketAddr>,
}

impl FileLimitedRouter {
    fn start(files: u32, url: &str, log: &str) -> Self {
        let serve = format!("ulimit -n {files}; exec {:?} serve {url}", env!("CARGO_BIN_EXE_tokenweir"));
        let mut command = Command::new("sh");
        command.args(["-c", &serve]).env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        for (key, value) in [
            ("LISTEN", "127.0.0.1:0"),
            ("ADMIN", "127.0.0.1:0"),
            ("WORKERS", "2"),
            ("LOG__ACCESS", "off"),
            ("LOG__ERROR", log),
        ] {
            command.env(format!("TOKENWEIR__{key}"), value);
        }
        let mut child = command.spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        while !line.contains(" at ") {
            line.clear();
            assert!(stderr.read_line(&mut line).unwrap() > 0, "the process ended at once");
        }
        std::thread::spawn(move || drop(stderr.read_to_end(&mut Vec::new())));
        let addrs = line.split([' ', ',', '/', '\n']).filter_map(|word| word.parse().ok()).collect();
        Self { child, addrs }
    }

    /// Returns the CPU time so far in clock ticks of 10 ms.
    fn cpu_ticks(&self) -> u64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }
}

impl Drop for FileLimitedRouter {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn exhausted_file_descriptors_neither_end_nor_spin() {
    let replica = start_replica(&["m"]);
    let log = std::env::temp_dir().join(format!("tokenweir-poor-{}.log", std::process::id()));
    let mut poor = FileLimitedRouter::start(64, &replica.url(), log.to_str().unwrap());
    let addr = poor.addrs[0];
    wait_until("the router is ready", || send_request(addr, "GET", "/readyz", "", "").status == 200);
    // The replica's idle connection is closed, so the next request needs a descriptor.
    wait_until("no connection is left", || replica.counters().open_requests() == 0);
    let waiting: Vec<TcpStream> = (0..150).map(|_| TcpStream::connect(addr).unwrap()).collect();
    wait_until("no descriptor is left", || {
        fs::read_to_string(&log).is_ok_and(|text| text.contains("no connection can be accepted"))
    });
    let (before, clock) = (poor.cpu_ticks(), Clock::start());
    while clock.now().since(Moment::ZERO).as_millis() < 1_000 {
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let spent = poor.cpu_ticks() - before;
    assert!(spent < 30, "{spent} ticks of 10 ms in a second");
    // Accepted clients send requests, and no descriptor is left for the replica.
    let mut client = TestClient::from_stream(waiting[0].try_clone().unwrap());
    client.send(build_request("POST", CHAT_PATH, "", chat_body("m", 2, false)));
    let reply = client.read_response();
    check_shed(&reply, 503, "no_replica");
    drop((waiting, client));
    wait_at_most(crate::harness::TEST_TIMEOUT, "the router serves again", || {
        TcpStream::connect(addr).is_ok_and(|stream| {
            let mut client = TestClient::from_stream(stream);
            client.try_send(build_request("POST", CHAT_PATH, "connection: close\r\n", chat_body("m", 2, false))).is_ok()
                && client.try_read_head().is_some_and(|reply| reply.status == 200)
        })
    });
    assert!(poor.child.try_wait().unwrap().is_none());
    let page = send_request(poor.addrs[1], "GET", "/metrics", "", "").text();
    let failed = page.lines().find(|line| line.contains("attempts_total") && line.contains("\"failed\"")).unwrap();
    assert!(failed.ends_with(" 0"), "the replica has no failures: {failed}");
    drop(fs::remove_file(log));
}
