//! WebSockets, as the realtime API uses them: a tunnel where the pool allows it, a clear refusal elsewhere.

use std::io::{Read, Write};
use std::net::TcpStream;

use tungstenite::client::IntoClientRequest;
use tungstenite::handshake::derive_accept_key;
use tungstenite::protocol::Role;
use tungstenite::{Error, Message, WebSocket};

use crate::harness::client::build_request;
use crate::harness::scripted::{KeepConnection, ReceivedRequest, ScriptedReplica, build_response, respond_ok};
use crate::harness::{TEST_TIMEOUT, TestRouter, chat_body, unused_addr, wait_until};

const PATH: &str = "/v1/realtime?model=m&x=1";
const UPGRADE: &str = "connection: keep-alive, Upgrade\r\nupgrade: WebSocket\r\nsec-websocket-version: 13\r\n\
                       sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

const KEY: &str = "sk-0123456789abcdef";

fn sha256_hex(text: &str) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Opens a WebSocket for a request and echoes its messages until the client closes it.
fn play_echo(received: &ReceivedRequest, to: &mut TcpStream) -> KeepConnection {
    let Some(key) = received.header("sec-websocket-key") else { return respond_ok(received, to) };
    let accept = derive_accept_key(key.as_bytes());
    let head = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n";
    to.write_all(format!("{head}sec-websocket-accept: {accept}\r\n\r\n").as_bytes()).unwrap();
    let mut socket = WebSocket::from_raw_socket(to.try_clone().unwrap(), Role::Server, None);
    while let Ok(message) = socket.read() {
        if (message.is_text() || message.is_binary()) && socket.send(message).is_err() {
            break;
        }
    }
    false
}

fn start(urls: &[String], options: &str) -> TestRouter {
    let config = format!(
        "policy = \"round_robin\"\npaths = [\"/v1/realtime\"]\nwebsocket = true\nreplicas = {urls:?}\n{options}"
    );
    let router = TestRouter::start(&config);
    wait_until("a replica has listed its models", || {
        router.post("/v1/chat/completions", chat_body("m", 1, false)).status == 200
    });
    router
}

fn start_echo(options: &str) -> (ScriptedReplica, TestRouter) {
    let replica = ScriptedReplica::start(&["m"], play_echo);
    let router = start(&[replica.url()], options);
    (replica, router)
}

fn open(
    router: &TestRouter,
    path: &str,
) -> Result<WebSocket<TcpStream>, Box<tungstenite::HandshakeError<tungstenite::ClientHandshake<TcpStream>>>> {
    let stream = TcpStream::connect(router.addr).unwrap();
    stream.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
    let request = format!("ws://{}{path}", router.addr).into_client_request().unwrap();
    tungstenite::client(request, stream).map(|(socket, _)| socket).map_err(Box::new)
}

fn open_echo(router: &TestRouter) -> WebSocket<TcpStream> {
    let mut socket = open(router, PATH).unwrap_or_else(|error| panic!("{error}"));
    exchange(&mut socket, "hello");
    socket
}

fn exchange(socket: &mut WebSocket<TcpStream>, text: &str) {
    socket.send(Message::text(text)).unwrap();
    assert_eq!(socket.read().unwrap().into_text().unwrap().as_str(), text);
}

#[test]
fn websocket_is_a_tunnel_that_counts_until_it_ends() {
    let log = std::env::temp_dir().join(format!("tokenweir-websocket-{}.log", std::process::id()));
    let (replica, router) = start_echo(&format!(
        "[log]\naccess = {log:?}\nformat = '$request_uri $status $body_bytes_sent $request_length'\n"
    ));
    let mut socket = open_echo(&router);
    assert_eq!(router.in_flight(), 1);
    let received = replica.last_request();
    assert_eq!((received.method(), received.target()), ("GET", PATH));
    assert_eq!(received.header("upgrade"), Some("websocket"));
    assert_eq!(received.header("connection").map(str::to_ascii_lowercase).as_deref(), Some("upgrade"));
    assert!(received.header("x-forwarded-for").is_some());
    exchange(&mut socket, &"x".repeat(1_000_000));
    for number in 0..100 {
        exchange(&mut socket, &format!("message {number}"));
    }
    socket.close(None).unwrap();
    loop {
        match socket.read() {
            Ok(_) => {}
            Err(Error::ConnectionClosed) => break,
            Err(error) => panic!("{error}"),
        }
    }
    wait_until("the tunnel has ended", || router.in_flight() == 0);
    assert_eq!(
        router.sum_metric("tokenweir_requests_total", &["1xx"])
            + router.sum_metric("tokenweir_attempts_total", &["completed"]),
        3.0
    );
    wait_until("the log has its line", || {
        std::fs::read_to_string(&log).is_ok_and(|text| text.contains("/v1/realtime"))
    });
    let text = std::fs::read_to_string(&log).unwrap();
    let line = text.lines().find(|line| line.contains("/v1/realtime")).unwrap();
    let fields: Vec<u64> = line.split(' ').filter_map(|field| field.parse().ok()).collect();
    assert!(fields[0] == 101 && fields[1] > 1_000_000 && fields[2] > 1_000_000, "status, bytes to and from it: {line}");
    std::fs::remove_file(&log).unwrap();
}

#[test]
fn websocket_that_the_pool_does_not_allow_is_refused() {
    let replica = ScriptedReplica::start(&["m"], play_echo);
    for options in ["paths = [\"/v1/realtime\"]", "paths = \"any\""] {
        let router = TestRouter::start(&format!("replicas = [{:?}]\nmodel = \"m\"\n{options}\n", replica.url()));
        let reply = router.send_request("GET", PATH, UPGRADE, "");
        assert_eq!(reply.status, 400, "{}", reply.text());
        let error = reply.openai_error();
        assert_eq!(error["code"], "websocket_not_supported");
        assert!(error["message"].as_str().unwrap().contains("websocket = true"), "{error}");
        // Other upgrades may be ignored: RFC 9110, section 7.8.
        let h2c = router.send_request("GET", "/v1/realtime", "connection: upgrade\r\nupgrade: h2c\r\n", "");
        assert_eq!(h2c.status, 200);
        assert_eq!(replica.last_request().header("upgrade"), None);
    }
    assert_eq!(replica.received_requests().len(), 2);
    let router = TestRouter::start(&format!("replicas = [{:?}]\nmodel = \"m\"\nwebsocket = true\n", replica.url()));
    assert_eq!(router.send_request("GET", PATH, UPGRADE, "").status, 404, "a path that is not in `paths`");
}

#[test]
fn unasked_switch_of_the_protocol_is_502() {
    let replica = ScriptedReplica::start(&["m"], |_, to| {
        let _ = to.write_all(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\ndata");
        false
    });
    let router = TestRouter::start_with_replicas([&*replica.url()]);
    let reply = router.post("/v1/chat/completions", chat_body("m", 1, true));
    assert_eq!(reply.status, 502, "{}", reply.text());
    assert!(reply.openai_error()["message"].is_string());
    assert_eq!(router.sum_metric("tokenweir_attempts_total", &["failed"]), 1.0);
}

#[test]
fn refusal_by_the_replica_is_relayed_and_a_dead_replica_is_skipped() {
    let refusing = ScriptedReplica::start(&["m"], |received, to| match received.header("upgrade") {
        Some(_) => to.write_all(&build_response(403, "application/json", "{\"no\":1}")).is_ok(),
        None => respond_ok(received, to),
    });
    let router = start(&[refusing.url()], "");
    let reply = router.send_request("GET", PATH, UPGRADE, "");
    assert_eq!((reply.status, reply.text().as_str()), (403, "{\"no\":1}"));
    let echo = ScriptedReplica::start(&["m"], play_echo);
    let router = start(&[format!("http://{}", unused_addr()), echo.url()], "model = \"m\"\n");
    for _ in 0..2 {
        open_echo(&router);
    }
}

#[test]
fn tunnel_ends_with_its_client_its_replica_or_after_the_idle_timeout() {
    let (_replica, router) = start_echo("[timeouts]\nidle = \"400ms\"\n");
    drop(open_echo(&router));
    wait_until("the client's end releases the replica", || router.in_flight() == 0);
    let mut silent = open_echo(&router);
    assert!(silent.read().is_err(), "closed after the idle timeout");
    wait_until("the idle timeout releases the replica", || router.in_flight() == 0);
    let dying = ScriptedReplica::start(&["m"], |received, to| {
        if received.header("upgrade").is_none() {
            return respond_ok(received, to);
        }
        // The first bytes come with the head.
        to.write_all(b"HTTP/1.1 101 X\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nearly bytes").unwrap();
        false
    });
    let router = start(&[dying.url()], "");
    let mut client = TcpStream::connect(router.addr).unwrap();
    client.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
    client.write_all(&build_request("GET", PATH, UPGRADE, "")).unwrap();
    let mut text = String::new();
    client.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 101 ") && text.ends_with("\r\n\r\nearly bytes"), "{text}");
    wait_until("the replica's end releases it", || router.in_flight() == 0);
}

#[test]
fn limits_and_keys_hold_for_websockets() {
    let (_replica, router) = start_echo("max_in_flight = 1\n");
    let first = open_echo(&router);
    assert_eq!(router.send_request("GET", PATH, UPGRADE, "").status, 429);
    drop(first);
    wait_until("the limit is given back", || open(&router, PATH).is_ok());

    let (replica, router) = start_echo("");
    let keyed = TestRouter::start(&format!(
        "paths = [\"/v1/realtime\"]\nwebsocket = true\nmodel = [\"m\", \"alias\"]\nreplicas = [{:?}]\n\
         [[key]]\nname = \"a\"\nhash = \"sha256:{}\"\n",
        replica.url(),
        sha256_hex(KEY)
    ))
    .wait_until_ready();
    assert_eq!(keyed.send_request("GET", PATH, UPGRADE, "").status, 401);
    let mut client = keyed.connect();
    let key = format!("{UPGRADE}authorization: Bearer {KEY}\r\n");
    client.send(build_request("GET", "/v1/realtime?a=1&model=alias", &key, ""));
    assert_eq!(client.read_head().status, 101);
    let received = replica.last_request();
    assert_eq!(received.target(), "/v1/realtime?a=1&model=m", "the replica's own name for the model");
    assert_eq!(received.header("authorization"), None);
    let unknown = router.send_request("GET", "/v1/realtime?model=unknown", UPGRADE, "");
    assert_eq!((unknown.status, unknown.openai_error()["code"].as_str()), (404, Some("model_not_found")));
}

#[test]
fn drain_waits_for_tunnels_and_the_end_of_the_process_cuts_them() {
    let (_replica, mut router) = start_echo("");
    let (mut first, mut second) = (open_echo(&router), open_echo(&router));
    router.server.drain();
    exchange(&mut first, "still here");
    assert!(!router.server.is_drained());
    first.close(None).unwrap();
    while first.read().is_ok() {}
    exchange(&mut second, "still here");
    router.server.stop();
    assert!(second.read().is_err(), "cut at the end");
}

#[test]
fn websocket_reaches_no_pool_that_does_not_allow_it() {
    let echo = ScriptedReplica::start(&["m"], play_echo);
    let closed = unused_addr();
    let router = TestRouter::start(&format!(
        "[[pool]]\nname = \"open\"\nmodel = \"m\"\npaths = [\"/v1/realtime\"]\nwebsocket = true\nfallback = \"plain\"\n\
         replicas = [\"http://{closed}\"]\n\
         [[pool]]\nname = \"plain\"\nmodel = \"n\"\npaths = [\"/v1/realtime\"]\nreplicas = [{:?}]\n",
        echo.url()
    ));
    wait_until("the fallback serves", || router.post("/v1/chat/completions", chat_body("m", 1, false)).status == 200);
    let before = echo.received_requests().len();
    for path in [PATH, "/v1/responses/resp_1"] {
        let mut client = router.connect();
        client.send(build_request("GET", path, UPGRADE, ""));
        let reply = client.read_response();
        assert!(reply.status == 400 && reply.text().contains("websocket = true"), "{path}: {}", reply.text());
    }
    assert_eq!(echo.received_requests().len(), before);
}
