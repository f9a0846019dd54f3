//! Promises about HTTP/2 frames that a client library would not send, and stream resets.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::setup::{
    CHAT_PATH, CONTENT_EVENT, StageRouter, Stopwatch, attempt_count, encode_chunk, read_until_closed,
    start_good_replica, start_router,
};
use crate::harness::captures::STREAM_HEAD;
use crate::harness::scripted::ScriptedReplica;
use crate::harness::{TEST_TIMEOUT, chat_body, wait_until};

const BODY: &str = "{\"model\":\"m\"}";
const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
// Frame types and flags.
const FRAME_DATA: u8 = 0;
const FRAME_HEADERS: u8 = 1;
const FRAME_RST_STREAM: u8 = 3;
const FRAME_SETTINGS: u8 = 4;
const FRAME_GOAWAY: u8 = 7;
/// A response whose first header is `:status: 200`, from HPACK's static table.
const STATUS_200_FRAME: (u8, u8) = (FRAME_HEADERS, 0x88);
const FLAG_END_STREAM: u8 = 1;
const FLAG_END_HEADERS: u8 = 4;

fn encode_frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags, 0, 0, 0, stream], payload].concat()
}

/// Returns a literal header that is in no table: RFC 7541, section 6.2.2.
fn encode_literal_header((name, value): (&str, &str)) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    [vec![0], text(name), text(value)].concat()
}

/// Sends a request with these headers; returns the type of the router's frame and the first byte of its payload.
fn read_answer_frame(router: &StageRouter, headers: &[(&str, &str)]) -> (u8, u8) {
    let mut stream = TcpStream::connect(router.h2_addr).unwrap();
    stream.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
    let block: Vec<u8> = headers.iter().copied().flat_map(encode_literal_header).collect();
    let request = [
        encode_frame(FRAME_HEADERS, FLAG_END_HEADERS, 1, &block),
        encode_frame(FRAME_DATA, FLAG_END_STREAM, 1, BODY.as_bytes()),
    ]
    .concat();
    stream.write_all(&[H2_PREFACE, &encode_frame(FRAME_SETTINGS, 0, 0, &[]), &request].concat()).unwrap();
    loop {
        let mut head = [0; 9];
        if stream.read_exact(&mut head).is_err() {
            return (FRAME_GOAWAY, 0);
        }
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        stream.read_exact(&mut payload).unwrap();
        if [FRAME_HEADERS, FRAME_RST_STREAM, FRAME_GOAWAY].contains(&head[3]) {
            return (head[3], payload[0]);
        }
    }
}

/// "Smuggling, NUL/CR/LF in header values: refused": also by HTTP/2, whose values may hold any byte.
#[test]
fn http2_header_injection_is_refused() {
    let replica = start_good_replica();
    let router = start_router([&replica], "");
    let usual = [(":method", "POST"), (":scheme", "http"), (":authority", "x"), (":path", CHAT_PATH)];
    let evil = "b\r\nx-evil: 1\r\n\r\nPOST /sleep HTTP/1.1\r\nhost: x\r\n\r\n";
    for bad in [
        ("x-a", evil),
        ("x-a", "b\nx-evil: 1"),
        ("x-a", "b\rc"),
        ("x-a", "b\u{0}c"),
        ("x-evil: 1\r\nx-a", "b"),
        ("x a", "b"),
        ("X-A", "b"),
        ("transfer-encoding", "chunked"),
        ("connection", "x-a"),
        ("content-length", "5"),
        ("content-length", "14"),
        ("content-length", "+13"),
        (":path", "/sleep"),
        (":other", "x"),
    ] {
        let answer = read_answer_frame(&router, &[&usual[..], &[bad]].concat());
        assert_ne!(answer, STATUS_200_FRAME, "{bad:?}");
        assert!(replica.received_requests().is_empty(), "{bad:?}: {:?}", replica.received_requests());
    }
    for (at, bad) in
        [(3, "/v1/chat/completions HTTP/1.1\r\nx-evil: 1\r\n\r\n"), (3, "sleep"), (2, "x\r\nx-evil: 1"), (0, "PO ST")]
    {
        let mut headers = usual;
        headers[at].1 = bad;
        assert_ne!(read_answer_frame(&router, &headers), STATUS_200_FRAME, "{bad:?}");
        assert!(replica.received_requests().is_empty(), "{bad:?}: {:?}", replica.received_requests());
    }
    assert_eq!(read_answer_frame(&router, &usual), STATUS_200_FRAME, "a valid request passes");
    assert_eq!(replica.last_request().body, BODY.as_bytes());
}

/// "A client that leaves (before the first token, mid-stream while the replica is silent, non-streaming) releases the
/// replica's connection within 100 ms": also a client that resets its HTTP/2 stream and stays connected.
#[test]
fn http2_reset_releases_the_replica_within_100_ms() {
    let begun = format!("{STREAM_HEAD}{}", encode_chunk(CONTENT_EVENT)).leak();
    for (says, stream) in [("", true), (begun, true), ("", false)] {
        let (signal, signals) = channel();
        let signal = Mutex::new(signal);
        let replica = ScriptedReplica::start(&["m"], move |_, to| {
            let signal = signal.lock().unwrap().clone();
            to.write_all(says.as_bytes()).unwrap();
            signal.send(()).unwrap();
            read_until_closed(to);
            signal.send(()).is_ok_and(|()| false)
        });
        let router = start_router([&replica], "");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let mut sender = runtime.block_on(async {
            let socket = tokio::net::TcpStream::connect(router.h2_addr).await.unwrap();
            let handshake = http2::handshake::<_, _, Full<Bytes>>(TokioExecutor::new(), TokioIo::new(socket));
            let (sender, connection) = handshake.await.unwrap();
            tokio::spawn(connection);
            sender
        });
        let mut best = Duration::MAX;
        for _ in 0..4 {
            let request =
                http::Request::post(format!("http://x{CHAT_PATH}")).header("content-type", "application/json");
            let request = request.body(Full::from(chat_body("m", 9, stream))).unwrap();
            let response = runtime.spawn(sender.send_request(request));
            signals.recv_timeout(TEST_TIMEOUT).unwrap();
            if !says.is_empty() {
                wait_until("the head has arrived", || response.is_finished());
            }
            let watch = Stopwatch::start();
            response.abort();
            drop(runtime.block_on(response));
            signals.recv_timeout(TEST_TIMEOUT).unwrap();
            best = best.min(watch.elapsed());
        }
        assert!(best < Duration::from_millis(100), "{says:?}: {best:?}");
        wait_until("each disconnect is counted", || attempt_count(&router, "client_gone") == 4.0);
        assert_eq!((attempt_count(&router, "failed"), sender.is_closed()), (0.0, false));
    }
}
