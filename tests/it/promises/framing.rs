//! HTTP/2 by the frame: what a library would not send, and what it makes of leaving.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::setup::{CHAT, EVENT, Router, Watch, attempts, chunk, good, over, until_closed};
use crate::harness::captures::HEAD;
use crate::harness::scripted::Scripted;
use crate::harness::{PATIENCE, chat, wait_until};

const BODY: &str = "{\"model\":\"m\"}";
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
// Kinds of frames, and flags.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
/// An answer whose first header is `:status: 200`, which HPACK's table has.
const OK: (u8, u8) = (HEADERS, 0x88);
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags, 0, 0, 0, stream], payload].concat()
}

/// A header that is in no table: RFC 7541, section 6.2.2.
fn literal((name, value): (&str, &str)) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    [vec![0], text(name), text(value)].concat()
}

/// The kind of the frame by which the router answers a request of these headers, and the first byte of what is in it.
fn answered(router: &Router, headers: &[(&str, &str)]) -> (u8, u8) {
    let mut stream = TcpStream::connect(router.h2).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let block: Vec<u8> = headers.iter().copied().flat_map(literal).collect();
    let asked = [frame(HEADERS, END_HEADERS, 1, &block), frame(DATA, END_STREAM, 1, BODY.as_bytes())].concat();
    stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[]), &asked].concat()).unwrap();
    loop {
        let mut head = [0; 9];
        if stream.read_exact(&mut head).is_err() {
            return (GOAWAY, 0);
        }
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        stream.read_exact(&mut payload).unwrap();
        if [HEADERS, RST_STREAM, GOAWAY].contains(&head[3]) {
            return (head[3], payload[0]);
        }
    }
}

/// "Smuggling, NUL/CR/LF in header values: refused": by HTTP/2, whose values may be anything, too.
#[test]
fn what_http2_could_carry_into_http1_is_refused() {
    let replica = good();
    let router = over([&replica], "");
    let usual = [(":method", "POST"), (":scheme", "http"), (":authority", "x"), (":path", CHAT)];
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
        let told = answered(&router, &[&usual[..], &[bad]].concat());
        assert_ne!(told, OK, "{bad:?}");
        assert!(replica.heard().is_empty(), "{bad:?}: {:?}", replica.heard());
    }
    for (at, bad) in
        [(3, "/v1/chat/completions HTTP/1.1\r\nx-evil: 1\r\n\r\n"), (3, "sleep"), (2, "x\r\nx-evil: 1"), (0, "PO ST")]
    {
        let mut headers = usual;
        headers[at].1 = bad;
        assert_ne!(answered(&router, &headers), OK, "{bad:?}");
        assert!(replica.heard().is_empty(), "{bad:?}: {:?}", replica.heard());
    }
    assert_eq!(answered(&router, &usual), OK, "what is right passes");
    assert_eq!(replica.last().body, BODY.as_bytes());
}

/// "A client that leaves (before the first token, mid-stream while the replica is silent, non-streaming) releases the
/// replica's connection within 100 ms": one that resets its HTTP/2 stream and stays connected, too.
#[test]
fn a_reset_stream_releases_the_replica_within_100_ms() {
    let begun = format!("{HEAD}{}", chunk(EVENT)).leak();
    for (says, stream) in [("", true), (begun, true), ("", false)] {
        let (tell, told) = channel();
        let tell = Mutex::new(tell);
        let replica = Scripted::start(&["m"], move |_, to| {
            let tell = tell.lock().unwrap().clone();
            to.write_all(says.as_bytes()).unwrap();
            tell.send(()).unwrap();
            until_closed(to);
            tell.send(()).is_ok_and(|()| false)
        });
        let router = over([&replica], "");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let mut sender = runtime.block_on(async {
            let socket = tokio::net::TcpStream::connect(router.h2).await.unwrap();
            let handshake = http2::handshake::<_, _, Full<Bytes>>(TokioExecutor::new(), TokioIo::new(socket));
            let (sender, connection) = handshake.await.unwrap();
            tokio::spawn(connection);
            sender
        });
        let mut best = Duration::MAX;
        for _ in 0..4 {
            let request = http::Request::post(format!("http://x{CHAT}")).header("content-type", "application/json");
            let request = request.body(Full::from(chat("m", 9, stream))).unwrap();
            let asked = runtime.spawn(sender.send_request(request));
            told.recv_timeout(PATIENCE).unwrap();
            if !says.is_empty() {
                wait_until("its head has come", || asked.is_finished());
            }
            let watch = Watch::start();
            asked.abort();
            drop(runtime.block_on(asked));
            told.recv_timeout(PATIENCE).unwrap();
            best = best.min(watch.elapsed());
        }
        assert!(best < Duration::from_millis(100), "{says:?}: {best:?}");
        wait_until("each is counted", || attempts(&router, "client_gone") == 4.0);
        assert_eq!((attempts(&router, "failed"), sender.is_closed()), (0.0, false));
    }
}
