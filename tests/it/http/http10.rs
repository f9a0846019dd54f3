//! HTTP/1.0 on either side: replicas such as Python's `http.server`, one request at a time and a connection for each,
//! and clients such as `ab`.

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

/// A server with a single thread: whoever holds a connection without a request on it keeps all others waiting.
struct SingleThreadServer {
    addr: SocketAddr,
    /// For each connection the heads of its requests.
    received_heads: Arc<Mutex<Vec<Vec<String>>>>,
    stopped: Arc<AtomicBool>,
}

impl SingleThreadServer {
    /// Answers every request with these bytes; `keeps` a connection until the other side closes it, else closes it.
    fn start(answer: impl Into<Vec<u8>>, keeps: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let (heard, stopped) = (Arc::<Mutex<Vec<Vec<String>>>>::default(), Arc::<AtomicBool>::default());
        let (hearing, ending, answer) = (heard.clone(), stopped.clone(), answer.into());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if ending.load(Ordering::Relaxed) {
                    return;
                }
                hearing.lock().unwrap().push(Vec::new());
                let mut input = BufReader::new(stream);
                while let Some(head) = read_request_head(&mut input) {
                    hearing.lock().unwrap().last_mut().unwrap().push(head);
                    if input.get_mut().write_all(&answer).is_err() || !keeps {
                        break;
                    }
                }
            }
        });
        Self { addr, received_heads: heard, stopped }
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

/// Reads a request as an old server does, which knows of `BodyContent-Length` only; returns its head.
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

/// A router that passes every path on, as an imported nginx.conf has it.
fn start_open_router(urls: &[String]) -> TestRouter {
    TestRouter::start(&format!("paths = \"any\"\npolicy = \"round_robin\"\nreplicas = {urls:?}"))
}

/// A replica that gives every request these bytes on a connection of its own.
fn start_closing_replica(answer: &'static [u8]) -> ScriptedReplica {
    ScriptedReplica::start(&[], move |_, to| {
        // Whether they arrive is seen on the other side.
        drop(to.write_all(answer));
        false
    })
}

/// A request as `ab` and other old clients send it.
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
    assert_eq!(send_request(router.admin_addr, "GET", "/pools", "", "").status, 200, "it is up");
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
        assert_eq!(requests, [1; 50], "none without a request, none with a second one");
    }
}

#[test]
fn pool_with_any_path_is_not_asked_for_models() {
    let replica = SingleThreadServer::start(CLOSE_DELIMITED_RESPONSE, true);
    let router = start_open_router(&[replica.url()]);
    // The server does not close by itself: a connection that asked for models would keep this one out.
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
    // Ready once the answer has been read; the server goes on to the next connection when this one is closed.
    let router =
        TestRouter::start(&format!("engine_metrics = \"off\"\nreplicas = [{:?}]", replica.url())).wait_until_ready();
    let clock = Clock::start();
    assert_eq!(router.post("/v1/chat/completions", chat_body("m", 1, false)).status, 200);
    assert!(clock.now().since(Moment::ZERO) < Duration::from_secs(1), "it did not wait for a connection to grow old");
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
        let heard = replica.last_request();
        assert_eq!(heard.header_values("content-length"), [body.len().to_string()], "{}", heard.head);
        assert_eq!((heard.header_values("transfer-encoding").len(), &*heard.body), (0, body.as_bytes()));
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
        let heard = replica.last_request();
        assert_eq!((heard.method(), heard.header("content-length")), (method, length), "{}", heard.head);
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
    assert_eq!(client.read_response().text(), "from here", "and needs no host");
    assert!(client.wait_for_close(), "unless it does not ask for it");
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
