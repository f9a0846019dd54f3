//! HTTP/1.0 on both sides: single-threaded replicas such as Python's `http.server`, and clients such as `ab`.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::harness::client::build_request;
use crate::harness::scripted::{ScriptedReplica, build_response, respond_ok};
use crate::harness::{TestRouter, chat_body, send_request};
use tokenweir::clock::Clock;
use tokenweir::units::Moment;

const CLOSE_DELIMITED_RESPONSE: &[u8] = b"HTTP/1.0 200 OK\r\ncontent-type: text/plain\r\n\r\nfrom here";
const SIZED_RESPONSE: &[u8] = b"HTTP/1.0 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 9\r\n\r\nfrom here";
const CHUNKED_RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n9\r\nfrom here\r\n0\r\n\r\n";

/// A single-threaded server; an idle connection blocks all others.
struct SingleThreadServer {
    addr: SocketAddr,
    /// The heads of the requests of each connection.
    received_heads: Arc<Mutex<Vec<Vec<String>>>>,
    stopped: Arc<AtomicBool>,
}

impl SingleThreadServer {
    /// Starts a server that sends these bytes for every request. If `keeps`, the client closes the connection, else the
    /// server does.
    fn start(answer: impl Into<Vec<u8>>, keeps: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let (received, stopped) = (Arc::<Mutex<Vec<Vec<String>>>>::default(), Arc::<AtomicBool>::default());
        let (recording, stopping, answer) = (received.clone(), stopped.clone(), answer.into());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stopping.load(Ordering::Relaxed) {
                    return;
                }
                recording.lock().unwrap().push(Vec::new());
                let mut input = BufReader::new(stream);
                while let Some(head) = read_request_head(&mut input) {
                    recording.lock().unwrap().last_mut().unwrap().push(head);
                    if input.get_mut().write_all(&answer).is_err() || !keeps {
                        break;
                    }
                }
            }
        });
        Self { addr, received_heads: received, stopped }
    }

    fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    fn received_heads(&self) -> Vec<Vec<String>> {
        self.received_heads.lock().unwrap().clone()
    }
}

impl Drop for SingleThreadServer {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        drop(TcpStream::connect(self.addr));
    }
}

/// Reads a request as an old server does, by `Content-Length` only; returns its head.
fn read_request_head(input: &mut BufReader<TcpStream>) -> Option<String> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if input.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let length = header_value(&head, "content-length").map_or(0, |n| n.parse().unwrap());
    let mut body = vec![0; length];
    input.read_exact(&mut body).ok()?;
    Some(head)
}

fn header_value<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let lines = head.lines().filter_map(|line| line.split_once(':'));
    lines.filter(|(this, _)| this.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).next()
}

/// Starts a router that passes every path on, like an imported nginx.conf.
fn start_open_router(urls: &[String]) -> TestRouter {
    TestRouter::start(&format!("paths = \"any\"\npolicy = \"round_robin\"\nreplicas = {urls:?}"))
}

/// Starts a replica that sends these bytes for every request and then closes.
fn start_closing_replica(answer: &'static [u8]) -> ScriptedReplica {
    ScriptedReplica::start(&[], move |_, to| {
        // The client's side checks whether they arrive.
        drop(to.write_all(answer));
        false
    })
}

/// Returns a request as `ab` and other old clients send it.
fn http10_request(method: &str, path: &str, headers: &str, body: &str) -> Vec<u8> {
    String::from_utf8(build_request(method, path, headers, body)).unwrap().replace("HTTP/1.1", "HTTP/1.0").into_bytes()
}

#[test]
fn upstream_connection_carries_a_request_at_once() {
    let replicas = [
        SingleThreadServer::start(CLOSE_DELIMITED_RESPONSE, false),
        SingleThreadServer::start(CLOSE_DELIMITED_RESPONSE, false),
    ];
    let router = start_open_router(&replicas.each_ref().map(SingleThreadServer::url));
    assert_eq!(send_request(router.admin_addr, "GET", "/pools", "", "").status, 200, "the router is up");
    thread::scope(|scope| {
        for _ in 0..10 {
            scope.spawn(|| {
                let mut client = router.connect();
                for _ in 0..10 {
                    client.send(build_request("GET", "/", "", ""));
                    assert_eq!(client.read_response().text(), "from here");
                }
            });
        }
    });
    for replica in &replicas {
        let requests: Vec<usize> = replica.received_heads().iter().map(Vec::len).collect();
        assert_eq!(requests, [1; 50], "one request on each connection");
    }
}

#[test]
fn pool_with_any_path_is_not_asked_for_models() {
    let replica = SingleThreadServer::start(CLOSE_DELIMITED_RESPONSE, true);
    let router = start_open_router(&[replica.url()]);
    // The server does not close by itself: a connection kept after the models request would block this one.
    let mut client = router.connect();
    client.send(build_request("GET", "/v1/models", "", ""));
    assert_eq!(client.read_head().status, 200);
    let heads: Vec<String> = replica.received_heads().concat();
    assert_eq!(heads.len(), 1);
    assert!(header_value(&heads[0], "x-forwarded-for").is_some(), "the client's own: {}", heads[0]);
}

#[test]
fn model_discovery_leaves_no_connection_open() {
    let list = build_response(200, "application/json", r#"{"object":"list","data":[{"id":"m"}]}"#);
    let replica = SingleThreadServer::start(list, true);
    // Ready once the models response has been read; the server continues when this connection is closed.
    let router =
        TestRouter::start(&format!("engine_metrics = \"off\"\nreplicas = [{:?}]", replica.url())).wait_until_ready();
    let clock = Clock::start();
    assert_eq!(router.post("/v1/chat/completions", chat_body("m", 1, false)).status, 200);
    assert!(
        clock.now().since(Moment::ZERO) < Duration::from_secs(1),
        "the server was not blocked by an idle connection"
    );
    let requests: Vec<usize> = replica.received_heads().iter().map(Vec::len).collect();
    assert_eq!(requests, [1, 1]);
}

#[test]
fn chunked_body_is_sent_with_its_length() {
    let replica = start_closing_replica(CLOSE_DELIMITED_RESPONSE);
    let router = start_open_router(&[replica.url()]);
    for body in ["hello", ""] {
        let chunks = if body.is_empty() { "0\r\n\r\n".to_owned() } else { format!("5\r\n{body}\r\n0\r\n\r\n") };
        let mut client = router.connect();
        client.send(format!("POST /echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n{chunks}"));
        assert_eq!(client.read_response().status, 200);
        let received = replica.last_request();
        assert_eq!(received.header_values("content-length"), [body.len().to_string()], "{}", received.head);
        assert_eq!((received.header_values("transfer-encoding").len(), &*received.body), (0, body.as_bytes()));
    }
}

#[test]
fn empty_body_of_a_post_has_content_length_0() {
    let replica = ScriptedReplica::start(&[], respond_ok);
    let router = start_open_router(&[replica.url()]);
    for (method, length) in
        [("POST", Some("0")), ("PUT", Some("0")), ("PATCH", Some("0")), ("GET", None), ("DELETE", None)]
    {
        let mut client = router.connect();
        client.send(format!("{method} / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"));
        assert_eq!(client.read_response().status, 200);
        let received = replica.last_request();
        assert_eq!((received.method(), received.header("content-length")), (method, length), "{}", received.head);
    }
}

#[test]
fn http10_client_keeps_its_connection_with_known_length() {
    let replica = start_closing_replica(SIZED_RESPONSE);
    let router = start_open_router(&[replica.url()]);
    let mut client = router.connect();
    for method in ["GET", "POST"] {
        client.send(http10_request(method, "/", "Connection: Keep-Alive\r\n", ""));
        let reply = client.read_response();
        assert_eq!((&*reply.text(), reply.header("connection")), ("from here", Some("keep-alive")), "{}", reply.head);
        assert_eq!((reply.header("content-length"), reply.header("transfer-encoding")), (Some("9"), None));
    }
    client.send("GET / HTTP/1.0\r\n\r\n");
    assert_eq!(client.read_response().text(), "from here", "no Host header is needed");
    assert!(client.wait_for_close(), "without keep-alive the connection is closed");
}

#[test]
fn http10_client_gets_no_chunks_with_unknown_length() {
    for answer in [CLOSE_DELIMITED_RESPONSE, CHUNKED_RESPONSE] {
        let replica = start_closing_replica(answer);
        let router = start_open_router(&[replica.url()]);
        for headers in ["", "Connection: Keep-Alive\r\n", "Connection: close\r\n"] {
            let mut client = router.connect();
            client.send(http10_request("POST", "/", headers, "x"));
            let reply = client.read_response();
            assert_eq!((reply.status, &*reply.text(), reply.complete), (200, "from here", true));
            assert_eq!((reply.header("transfer-encoding"), reply.header("content-length")), (None, None));
            assert!(reply.header("connection").is_none_or(|says| says == "close"), "{}", reply.head);
            assert!(client.wait_for_close());
        }
    }
}

#[test]
fn http10_client_keeps_its_connection_without_a_body() {
    let replica = start_closing_replica(b"HTTP/1.0 200 OK\r\ncontent-type: text/plain\r\n\r\n");
    let router = start_open_router(&[replica.url()]);
    let mut client = router.connect();
    for _ in 0..2 {
        client.send(http10_request("HEAD", "/", "Connection: keep-alive\r\n", ""));
        let reply = client.read_response_to_head();
        assert_eq!((reply.status, reply.header("connection")), (200, Some("keep-alive")), "{}", reply.head);
    }
}

#[test]
fn own_responses_keep_an_http10_connection() {
    let replica = ScriptedReplica::start(&["m"], respond_ok);
    let router = TestRouter::start_with_replicas([&*replica.url()]);
    let mut client = router.connect();
    for (path, status) in [("/livez", 200), ("/v1/models", 200), ("/nothing", 404)] {
        client.send(http10_request("GET", path, "Connection: keep-alive\r\n", ""));
        let reply = client.read_response();
        assert_eq!((reply.status, reply.header("connection")), (status, Some("keep-alive")), "{}", reply.head);
        assert!(reply.header("content-length").is_some() && reply.complete);
    }
}
