//! Clients that stop reading, and what that costs.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::runtime::{Builder, Runtime};

use super::process::Process;
use super::setup::{CHAT, chunk, pause};
use crate::harness::captures::HEAD;
use crate::harness::client::{Client, request};
use crate::harness::scripted::Scripted;
use crate::harness::tls::Authority;
use crate::harness::{PATIENCE, chat, wait_until, within};

/// So many that what the allocator keeps in hand is little to each of them.
const READERS: usize = 64;
/// What each may cost.
const MOST_KIB: u64 = 256;
/// What the kernel holds is no part of the promise, and takes time to fill.
const KERNEL_BYTES: usize = 64 << 10;

/// A stream without an end.
pub fn endless(count: &'static AtomicU64) -> Scripted {
    let piece = chunk(&format!("data: {{\"x\":\"{}\"}}\n\n", "x".repeat(16_000)));
    Scripted::start(&["m"], move |_, to| {
        socket2::SockRef::from(&*to).set_send_buffer_size(KERNEL_BYTES).unwrap();
        to.write_all(HEAD.as_bytes()).unwrap();
        while to.write_all(piece.as_bytes()).is_ok() {
            count.fetch_add(piece.len() as u64, Ordering::Relaxed);
        }
        false
    })
}

fn asking() -> Vec<u8> {
    request("POST", CHAT, "", chat("m", 1, true))
}

/// Connects and has little room for what comes.
fn narrow(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).unwrap();
    socket2::SockRef::from(&stream).set_recv_buffer_size(KERNEL_BYTES).unwrap();
    stream
}

/// What the process's memory grows with each reader that stops, in KiB; fails if replicas can go on writing. `open` gives
/// connections of `each` readers.
fn cost<R>(name: &str, more: &str, each: usize, open: impl Fn(&Process) -> R) -> u64 {
    let written: &AtomicU64 = Box::leak(Box::default());
    let replica = endless(written);
    let process = Process::start(name, &format!("replicas = [{:?}]\n{more}", replica.url()), 1024);
    let mut readers = Vec::new();
    let mut stopped = |count: usize| {
        while readers.len() * each < count {
            readers.push(open(&process));
        }
        wait_until("each has a stream", || process.metric("tokenweir_in_flight", "") == count as f64);
        let mut before = 0;
        within(2 * PATIENCE, "nothing more is read from the replicas", || {
            pause(300);
            let written = written.load(Ordering::Relaxed);
            std::mem::replace(&mut before, written) == written
        });
        process.status("VmRSS")
    };
    // Whatever is there once comes with these.
    let before = stopped(READERS / 2);
    let each = stopped(READERS / 2 + READERS).saturating_sub(before) / READERS as u64;
    println!("{name}: {each} KiB for a reader that has stopped");
    each
}

/// "A reader that stops costs at most 256 KiB of buffer: reading from the replica stops (back-pressure)."
#[test]
fn a_reader_that_stops_stops_the_replica_and_costs_little_memory() {
    let each = cost("readers", "", 1, |process| {
        let mut client = Client::over(narrow(process.data));
        client.send(asking());
        client
    });
    assert!(each <= MOST_KIB, "{each} KiB each");
}

/// "A reader that stops costs at most 256 KiB of buffer": by TLS, which has a buffer of its own, too.
#[test]
fn a_reader_that_stops_costs_little_memory_by_tls() {
    let authority = Authority::new("readers");
    let pair = authority.issue("router", &["localhost"]);
    let tls = format!("listen = \"127.0.0.1:0 ssl\"\n[tls]\ncertificate = {:?}\nkey = {:?}", pair.chain, pair.key);
    let each = cost("readers-tls", &tls, 1, |process| {
        let mut stream = authority.connect(process.data, "localhost", &["http/1.1"]);
        socket2::SockRef::from(&stream.sock).set_recv_buffer_size(KERNEL_BYTES).unwrap();
        stream.write_all(&asking()).unwrap();
        stream
    });
    assert!(each <= MOST_KIB, "{each} KiB each");
}

/// A connection of so many streams. Each may be sent `window` bytes that nobody reads.
fn streams(runtime: &Runtime, addr: SocketAddr, count: usize, window: u32) -> impl Sized {
    runtime.block_on(async {
        let stream = narrow(addr);
        stream.set_nonblocking(true).unwrap();
        let stream = tokio::net::TcpStream::from_std(stream).unwrap();
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.initial_stream_window_size(window).initial_connection_window_size(1 << 30);
        let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let mut readers = Vec::new();
        for _ in 0..count {
            let request = http::Request::post(format!("http://x{CHAT}")).header("content-type", "application/json");
            let reply = sender.send_request(request.body(Full::<Bytes>::from(chat("m", 1, true))).unwrap());
            readers.push(reply.await.unwrap());
        }
        (sender, readers)
    })
}

/// "A reader that stops costs at most 256 KiB of buffer": in HTTP/2, where a stream's window stops it,
#[test]
fn a_stream_that_is_not_read_in_http2_costs_little_memory() {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let each = cost("readers-h2", "", 16, |process| streams(&runtime, process.h2, 16, 65_535));
    assert!(each <= MOST_KIB, "{each} KiB each");
}

/// or where nobody reads the whole connection.
#[test]
fn a_connection_that_is_not_read_in_http2_costs_little_memory() {
    // It is driven only while the streams begin.
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let each = cost("readers-h2-all", "", 16, |process| streams(&runtime, process.h2, 16, 1 << 30));
    assert!(each <= MOST_KIB, "{each} KiB each");
}
