//! Promises about clients that stop reading, and their memory cost.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::runtime::{Builder, Runtime};

use super::process::ServerProcess;
use super::setup::{CHAT_PATH, encode_chunk, sleep_millis};
use crate::harness::captures::STREAM_HEAD;
use crate::harness::client::{TestClient, build_request};
use crate::harness::scripted::ScriptedReplica;
use crate::harness::tls::CertificateAuthority;
use crate::harness::{TEST_TIMEOUT, chat_body, wait_at_most, wait_until};

/// Number of readers; large enough to make the allocator's spare memory negligible.
const READER_COUNT: usize = 64;
/// Maximum cost of a reader, in KiB.
const MAX_KIB_PER_READER: u64 = 256;
/// Size of the kernel's buffers. They are no part of the promise and take time to fill.
const KERNEL_BUFFER_BYTES: usize = 64 << 10;

/// Starts a replica with an endless stream.
pub fn start_endless_replica(count: &'static AtomicU64) -> ScriptedReplica {
    let piece = encode_chunk(&format!("data: {{\"x\":\"{}\"}}\n\n", "x".repeat(16_000)));
    ScriptedReplica::start(&["m"], move |_, to| {
        socket2::SockRef::from(&*to).set_send_buffer_size(KERNEL_BUFFER_BYTES).unwrap();
        to.write_all(STREAM_HEAD.as_bytes()).unwrap();
        while to.write_all(piece.as_bytes()).is_ok() {
            count.fetch_add(piece.len() as u64, Ordering::Relaxed);
        }
        false
    })
}

fn stream_request() -> Vec<u8> {
    build_request("POST", CHAT_PATH, "", chat_body("m", 1, true))
}

/// Connects with a small receive buffer.
fn connect_with_small_buffer(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).unwrap();
    socket2::SockRef::from(&stream).set_recv_buffer_size(KERNEL_BUFFER_BYTES).unwrap();
    stream
}

/// Returns the growth of the process's memory per stopped reader, in KiB; fails if replicas can keep writing. `open`
/// opens connections of `each` readers.
fn measure_reader_cost<R>(name: &str, more: &str, each: usize, open: impl Fn(&ServerProcess) -> R) -> u64 {
    let written: &AtomicU64 = Box::leak(Box::default());
    let replica = start_endless_replica(written);
    let process = ServerProcess::start(name, &format!("replicas = [{:?}]\n{more}", replica.url()), 1024);
    let mut readers = Vec::new();
    let mut stopped = |count: usize| {
        while readers.len() * each < count {
            readers.push(open(&process));
        }
        wait_until("each has a stream", || process.sum_metric("tokenweir_in_flight", "") == count as f64);
        let mut before = 0;
        wait_at_most(2 * TEST_TIMEOUT, "reading from the replicas stops", || {
            sleep_millis(300);
            let written = written.load(Ordering::Relaxed);
            std::mem::replace(&mut before, written) == written
        });
        process.read_proc_status("VmRSS")
    };
    // These absorb the fixed cost.
    let before = stopped(READER_COUNT / 2);
    let each = stopped(READER_COUNT / 2 + READER_COUNT).saturating_sub(before) / READER_COUNT as u64;
    println!("{name}: {each} KiB for a reader that has stopped");
    each
}

/// "A reader that stops costs at most 256 KiB of buffer: reading from the replica stops (back-pressure)."
#[test]
fn stopped_reader_stops_the_replica_and_costs_little_memory() {
    let each = measure_reader_cost("readers", "", 1, |process| {
        let mut client = TestClient::from_stream(connect_with_small_buffer(process.data_addr));
        client.send(stream_request());
        client
    });
    assert!(each <= MAX_KIB_PER_READER, "{each} KiB each");
}

/// "A reader that stops costs at most 256 KiB of buffer": also by TLS, which has its own buffer.
#[test]
fn stopped_tls_reader_costs_little_memory() {
    let authority = CertificateAuthority::new("readers");
    let pair = authority.issue_certificate("router", &["localhost"]);
    let tls =
        format!("listen = \"127.0.0.1:0 ssl\"\n[tls]\ncertificate = {:?}\nkey = {:?}", pair.chain_path, pair.key_path);
    let each = measure_reader_cost("readers-tls", &tls, 1, |process| {
        let mut stream = authority.connect(process.data_addr, "localhost", &["http/1.1"]);
        socket2::SockRef::from(&stream.sock).set_recv_buffer_size(KERNEL_BUFFER_BYTES).unwrap();
        stream.write_all(&stream_request()).unwrap();
        stream
    });
    assert!(each <= MAX_KIB_PER_READER, "{each} KiB each");
}

/// Opens a connection of `count` streams, each with a window of `window` bytes, and reads none.
fn open_h2_streams(runtime: &Runtime, addr: SocketAddr, count: usize, window: u32) -> impl Sized {
    runtime.block_on(async {
        let stream = connect_with_small_buffer(addr);
        stream.set_nonblocking(true).unwrap();
        let stream = tokio::net::TcpStream::from_std(stream).unwrap();
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.initial_stream_window_size(window).initial_connection_window_size(1 << 30);
        let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let mut readers = Vec::new();
        for _ in 0..count {
            let request =
                http::Request::post(format!("http://x{CHAT_PATH}")).header("content-type", "application/json");
            let reply = sender.send_request(request.body(Full::<Bytes>::from(chat_body("m", 1, true))).unwrap());
            readers.push(reply.await.unwrap());
        }
        (sender, readers)
    })
}

/// "A reader that stops costs at most 256 KiB of buffer": by HTTP/2, where the stream's window is exhausted.
#[test]
fn unread_http2_stream_costs_little_memory() {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let each =
        measure_reader_cost("readers-h2", "", 16, |process| open_h2_streams(&runtime, process.h2_addr, 16, 65_535));
    assert!(each <= MAX_KIB_PER_READER, "{each} KiB each");
}

/// "A reader that stops costs at most 256 KiB of buffer": by HTTP/2, where the connection is not read at all.
#[test]
fn unread_http2_connection_costs_little_memory() {
    // The connection is driven only while the streams begin.
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let each = measure_reader_cost("readers-h2-all", "", 16, |process| {
        open_h2_streams(&runtime, process.h2_addr, 16, 1 << 30)
    });
    assert!(each <= MAX_KIB_PER_READER, "{each} KiB each");
}
