//! Connections that a replica closes or resets while the next request is on its way.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::harness::scripted::{KeepConnection, ReceivedRequest, ScriptedReplica, build_response, respond_ok};
use crate::harness::{TestRouter, chat_body, wait_until};

const CHAT_PATH: &str = "/v1/chat/completions";
const NO_RETRIES: &str = "retry_budget_percent = 0\nretry_budget_min = 0";
const HAPROXY_408: &[u8] = b"HTTP/1.0 408 Request Time-out\r\nCache-Control: no-cache\r\nConnection: close\r\n\
    Content-Type: text/html\r\n\r\n<html><body><h1>408 Request Time-out</h1></body></html>\n";

/// Starts a replica that answers the first chat request of each connection, and plays `end` at the second.
fn start_replica(end: impl Fn(&mut TcpStream) -> KeepConnection + Send + Sync + 'static) -> ScriptedReplica {
    let seen = Mutex::new(HashSet::<SocketAddr>::new());
    ScriptedReplica::start(&["m"], move |received: &ReceivedRequest, to: &mut TcpStream| {
        let is_first = seen.lock().unwrap().insert(to.peer_addr().unwrap());
        if is_first { respond_ok(received, to) } else { end(to) }
    })
}

/// Starts a replica that answers the first request of each connection, and closes at the first byte of the second. The
/// kernel resets the connection then, because the rest of the request is unread. Returns its address and the number of
/// resets.
fn start_resetting_replica() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let resets = Arc::new(AtomicUsize::new(0));
    let counter = resets.clone();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let counter = counter.clone();
            thread::spawn(move || {
                if answer_once(&stream).is_some() {
                    counter.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    (addr, resets)
}

fn answer_once(stream: &TcpStream) -> Option<()> {
    let mut input = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        input.read_line(&mut head).ok().filter(|read| *read > 0)?;
    }
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "))?;
    input.read_exact(&mut vec![0; length.parse().unwrap()]).ok()?;
    let mut output = stream;
    output.write_all(&build_response(200, "application/json", "{}")).ok()?;
    // Without the buffer of `input`, which would read all that is there.
    output.read_exact(&mut [0]).ok()
}

fn start_router(replica: &str, keys: &str) -> TestRouter {
    TestRouter::start(&format!("workers = 1\n{keys}\nreplicas = [{replica:?}]"))
}

fn attempt_count(router: &TestRouter, outcome: &str) -> f64 {
    router.sum_metric("tokenweir_attempts_total", &[outcome])
}

/// A long body does not fit into the buffers of a socket, so that the connection breaks while it is written.
fn short_and_long_bodies() -> [String; 2] {
    let short = chat_body("m", 2, false);
    [short.replace("hello", &"word ".repeat(800_000)), short]
}

/// Sends ten requests of each length and checks that none fails and that each is one attempt.
fn check_no_request_fails(router: &TestRouter, name: &str) {
    for body in short_and_long_bodies() {
        let failed = (0..10).filter(|_| router.post(CHAT_PATH, &body).status != 200).count();
        assert_eq!(failed, 0, "{name}");
    }
    wait_until("all attempts are counted", || attempt_count(router, "outcome=\"completed\"") == 20.0);
    assert_eq!(attempt_count(router, "outcome"), 20.0, "{name}");
}

#[test]
fn connection_closed_before_any_byte_is_no_attempt() {
    type ConnectionEnd = fn(&mut TcpStream) -> KeepConnection;
    let ends: [(&str, ConnectionEnd); 2] =
        [("end", |_| false), ("408 of an idle connection", |to| to.write_all(HAPROXY_408).is_err())];
    for (name, end) in ends {
        let replica = start_replica(end);
        let router = start_router(&replica.url(), NO_RETRIES).wait_until_ready();
        check_no_request_fails(&router, name);
        assert!(replica.received_requests().len() > 20, "{name}: connections were reused");
    }
}

#[test]
fn connection_reset_before_any_byte_is_no_attempt() {
    let (addr, resets) = start_resetting_replica();
    let keys = format!("model = \"m\"\npaths = \"any\"\n{NO_RETRIES}");
    check_no_request_fails(&start_router(&format!("http://{addr}"), &keys), "reset");
    assert!(resets.load(Ordering::Relaxed) >= 15, "connections were reused");
}

#[test]
fn connection_lost_within_the_head_is_a_failure() {
    let replica = start_replica(|to| to.write_all(b"HTTP/1.1 200 O").is_err());
    let router = start_router(&replica.url(), "").wait_until_ready();
    let statuses = [(); 2].map(|()| router.post(CHAT_PATH, chat_body("m", 2, false)).status);
    assert_eq!((statuses, replica.received_requests().len()), ([200, 502], 2));
    wait_until("the failure is counted", || attempt_count(&router, "outcome=\"failed\"") == 1.0);
}

#[test]
fn answer_408_on_a_new_connection_is_relayed() {
    let replica = ScriptedReplica::start(&["m"], |_, to| to.write_all(HAPROXY_408).is_err());
    let router = start_router(&replica.url(), "").wait_until_ready();
    assert_eq!(router.post(CHAT_PATH, chat_body("m", 2, false)).status, 408);
    assert_eq!(replica.received_requests().len(), 1);
}
