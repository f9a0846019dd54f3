//! Client disconnects: the replica's connection is closed at once, the lease is released, and no replica is ejected.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use crate::harness::client::{TestClient, build_request};
use crate::harness::scripted::ScriptedReplica;
use crate::harness::{TEST_TIMEOUT, TestRouter, chat_body, start_replica, wait_until};
use tokenweir::balance::SeededRng;
use tokenweir::clock::{self, Clock};
use tokenweir::units::Moment;

/// The time limit for a replica to be released after its client has left.
const MAX_RELEASE_TIME: Duration = Duration::from_millis(100);
/// Number of rounds; the fastest must keep the limit, because the machine may be busy.
const ROUND_COUNT: usize = 4;

const STREAM_HEAD: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
const EVENT_CHUNK: &[u8] = b"20\r\ndata: {\"choices\":[{\"inde\":0}]}\n\n\r\n";
const HALF_JSON: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{\"half\":";
const HALF_LARGE_JSON: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1048577\r\n\r\n{\"half\":";

/// The replica's behaviour after it has received the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ReplicaScript {
    Silent,
    HeadThenSilent,
    EventThenSilent,
    EndlessEvents,
    /// Buffered until it is complete.
    HalfJson,
    /// Too large to be buffered.
    HalfLargeJson,
}

#[derive(Clone, Copy, Debug)]
enum LeaveMethod {
    /// FIN: the client shuts down its write half.
    Fin,
    /// The client resets the connection.
    Rst,
}

/// A signal from the replica to the test.
#[derive(Debug, PartialEq, Eq)]
enum ReplicaSignal {
    Started,
    /// The time at which its connection was closed.
    Closed(Moment),
}

/// Starts a scripted replica and a second one that would be chosen if the first were ejected.
fn start_stage(script: ReplicaScript, clock: Clock) -> (TestRouter, ScriptedReplica, Receiver<ReplicaSignal>) {
    let (signal, signals) = channel();
    let signal = Mutex::new(signal);
    let replica = ScriptedReplica::start(&["m"], move |_, to| {
        let signal = signal.lock().unwrap().clone();
        match script {
            ReplicaScript::Silent => {}
            ReplicaScript::HeadThenSilent => to.write_all(STREAM_HEAD).unwrap(),
            ReplicaScript::EventThenSilent | ReplicaScript::EndlessEvents => {
                to.write_all(&[STREAM_HEAD, EVENT_CHUNK].concat()).unwrap();
            }
            ReplicaScript::HalfJson => to.write_all(HALF_JSON).unwrap(),
            ReplicaScript::HalfLargeJson => to.write_all(HALF_LARGE_JSON).unwrap(),
        }
        signal.send(ReplicaSignal::Started).unwrap();
        match script {
            ReplicaScript::EndlessEvents => while to.write_all(EVENT_CHUNK).is_ok() {},
            _ => read_until_closed(to),
        }
        // The test may have ended already.
        drop(signal.send(ReplicaSignal::Closed(clock.now())));
        false
    });
    (TestRouter::start_with_replicas([&*replica.url()]), replica, signals)
}

fn read_until_closed(to: &mut TcpStream) {
    while to.read(&mut [0; 64]).is_ok_and(|read| read > 0) {}
}

/// Disconnects clients in the midst of a script, by FIN and by RST.
fn check_leaving_clients(script: ReplicaScript, stream: bool, until: impl Fn(&mut TestClient<TcpStream>)) {
    let clock = Clock::start();
    let (router, replica, signals) = start_stage(script, clock);
    let mut count = 0.0;
    for how in [LeaveMethod::Fin, LeaveMethod::Rst] {
        let mut fastest = Duration::MAX;
        for _ in 0..ROUND_COUNT {
            let mut client = router.connect();
            client.send(build_request("POST", "/v1/chat/completions", "", chat_body("m", 9, stream)));
            assert_eq!(signals.recv_timeout(TEST_TIMEOUT).unwrap(), ReplicaSignal::Started);
            until(&mut client);
            assert_eq!(router.in_flight(), 1);
            let left = clock.now();
            let kept = match how {
                LeaveMethod::Rst => {
                    client.reset_connection();
                    None
                }
                LeaveMethod::Fin => {
                    client.shutdown_write();
                    Some(client)
                }
            };
            let ReplicaSignal::Closed(closed) = signals.recv_timeout(TEST_TIMEOUT).unwrap() else {
                panic!("a second request before the first was closed")
            };
            fastest = fastest.min(closed.since(left));
            drop(kept);
            count += 1.0;
            wait_until("no lease is left", || router.in_flight() == 0);
        }
        assert!(fastest < MAX_RELEASE_TIME, "{script:?} {how:?}: the replica was released after {fastest:?}");
    }
    wait_until("each disconnect is counted", || {
        router.sum_metric("tokenweir_attempts_total", &["outcome=\"client_gone\""]) == count
    });
    assert_eq!(router.sum_metric("tokenweir_attempts_total", &["outcome=\"failed\""]), 0.0);
    assert_eq!(router.sum_metric("tokenweir_attempts_total", &[]), count);
    assert_eq!(router.get("/readyz").status, 200, "no replica is ejected");
    assert_eq!(replica.received_requests().len() as f64, count, "no request was retried");
}

#[test]
fn disconnect_before_the_head_stops_the_replica() {
    check_leaving_clients(ReplicaScript::Silent, true, |_| ());
    check_leaving_clients(ReplicaScript::Silent, false, |_| ());
    // vLLM sends its head long before the first token.
    check_leaving_clients(ReplicaScript::HeadThenSilent, true, |_| ());
}

#[test]
fn disconnect_from_a_silent_stream_stops_the_replica() {
    check_leaving_clients(ReplicaScript::EventThenSilent, true, |client| {
        assert_eq!(client.read_head().status, 200);
        client.read_piece().unwrap();
    });
}

#[test]
fn disconnect_from_a_running_stream_stops_the_replica() {
    check_leaving_clients(ReplicaScript::EndlessEvents, true, |client| {
        assert_eq!(client.read_head().status, 200);
        client.read_piece().unwrap();
    });
}

#[test]
fn disconnect_mid_json_stops_the_replica() {
    check_leaving_clients(ReplicaScript::HalfJson, false, |_| ());
    check_leaving_clients(ReplicaScript::HalfLargeJson, false, |client| {
        assert_eq!(client.read_head().status, 200);
        client.read_piece().unwrap();
    });
}

#[test]
fn disconnect_while_sending_the_body_reaches_no_replica() {
    let (router, replica, _told) = start_stage(ReplicaScript::Silent, Clock::start());
    let whole = build_request("POST", "/v1/chat/completions", "", chat_body("m", 9, true));
    let chunked = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{\"mod".to_vec();
    let mut count = 0.0;
    for sent in [&whole[..whole.len() - 1], &whole[..whole.len() - 40], &chunked] {
        for how in [LeaveMethod::Fin, LeaveMethod::Rst] {
            let mut client = router.connect();
            client.send(sent);
            match how {
                LeaveMethod::Rst => client.reset_connection(),
                LeaveMethod::Fin => {
                    client.shutdown_write();
                    while !client.wait_for_close() {
                        client.read_remaining_body();
                        client.try_read_head();
                    }
                }
            }
            count += 1.0;
            wait_until("the request is counted", || router.sum_metric("tokenweir_requests_total", &[]) == count);
        }
    }
    // As in nginx: the request is invalid, and 499 is for a client that left before the response.
    assert_eq!(router.sum_metric("tokenweir_requests_total", &["4xx"]), count);
    assert_eq!(router.sum_metric("tokenweir_attempts_total", &[]), 0.0);
    assert!(replica.received_requests().is_empty());
    assert_eq!(router.get("/readyz").status, 200);
}

#[test]
fn stopping_router_cuts_endless_streams() {
    for script in
        [ReplicaScript::Silent, ReplicaScript::HeadThenSilent, ReplicaScript::EventThenSilent, ReplicaScript::HalfJson]
    {
        let (mut router, _replica, signals) = start_stage(script, Clock::start());
        let mut client = router.connect();
        client.send(build_request("POST", "/v1/chat/completions", "", chat_body("m", 9, true)));
        assert_eq!(signals.recv_timeout(TEST_TIMEOUT).unwrap(), ReplicaSignal::Started);
        let mut idle = [router.connect(), router.connect()];
        for client in &mut idle {
            client.send(build_request("GET", "/livez", "", ""));
            assert_eq!(client.read_response().status, 200);
        }
        router.server.drain();
        assert!(idle.iter_mut().all(TestClient::wait_for_close), "every worker drains");
        assert!(TcpStream::connect(router.addr).is_err() && !router.server.is_drained());
        router.server.stop();
        assert!(matches!(signals.recv_timeout(TEST_TIMEOUT).unwrap(), ReplicaSignal::Closed(_)));
        client.try_read_head();
        client.read_remaining_body();
        assert!(client.wait_for_close());
    }
}

#[test]
fn disconnect_with_pipelined_requests_stops_the_replica() {
    for extra in [&b"\r\n"[..], b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"] {
        for script in [ReplicaScript::Silent, ReplicaScript::EventThenSilent] {
            let (router, _replica, signals) = start_stage(script, Clock::start());
            let mut client = router.connect();
            let sent = build_request("POST", "/v1/chat/completions", "", chat_body("m", 9, true));
            client.send([&sent[..], extra].concat());
            assert_eq!(signals.recv_timeout(TEST_TIMEOUT).unwrap(), ReplicaSignal::Started);
            drop(client);
            let closed = signals.recv_timeout(Duration::from_secs(3));
            assert!(matches!(closed, Ok(ReplicaSignal::Closed(_))), "{script:?}, {extra:?}: {closed:?}");
            wait_until("no lease is left", || router.in_flight() == 0);
        }
    }
}

const FAULT_NAMES: [&str; 14] = [
    "none",
    "none",
    "none",
    "500",
    "503",
    "429",
    "close-before-head",
    "close-after-head",
    "die-midstream=2",
    "cut-midstream=2",
    "error-event=2",
    "abort-event=2",
    "bad-chunk=2",
    "close-keepalive",
];

/// Sends one request with a fault; the client may disconnect.
fn send_faulty_request(router: &TestRouter, dice: &mut SeededRng) {
    let fault = FAULT_NAMES[(dice.next_u64() % FAULT_NAMES.len() as u64) as usize];
    let mut client = router.connect();
    let headers = format!("x-emulate-fault: {fault}\r\n");
    client.send(build_request(
        "POST",
        "/v1/chat/completions",
        &headers,
        chat_body("m", 6, dice.next_u64().is_multiple_of(2)),
    ));
    match dice.next_u64() % 4 {
        0 => client.reset_connection(),
        1 => client.shutdown_write(),
        _ => {
            if client.try_read_head().is_some() {
                client.read_remaining_body();
            }
        }
    }
}

#[test]
fn no_reservation_is_left_after_faults_and_disconnects() {
    const THREADS: u64 = 8;
    let seed = clock::random_seed() >> 1;
    println!("seed {seed}");
    let replicas = [(); 3].map(|()| start_replica(&["m"]));
    let urls = replicas.each_ref().map(|r| format!("\"{} max_fails=0\"", r.url())).join(",");
    let router = TestRouter::start(&format!("policy = \"least_conn\"\nreplicas = [{urls}]")).wait_until_ready();
    std::thread::scope(|scope| {
        for at in 0..THREADS {
            let (router, mut dice) = (&router, SeededRng::from_seed(seed + at));
            scope.spawn(move || (0..60).for_each(|_| send_faulty_request(router, &mut dice)));
        }
    });
    wait_until("no lease is left", || router.in_flight() == 0);
    wait_until("no replica has a request", || replicas.iter().all(|r| r.counters().open_requests() == 0));
    // A request reset at once may never have reached the router.
    wait_until("each choice is settled once", || {
        let chosen: u64 = router.server.fleet().replicas().iter().map(|r| r.times_chosen()).sum();
        chosen > 200 && router.sum_metric("tokenweir_attempts_total", &[]) == chosen as f64
    });
    assert_eq!(router.post("/v1/chat/completions", chat_body("m", 2, false)).status, 200);
}
