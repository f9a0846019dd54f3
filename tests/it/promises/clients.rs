//! Promises about hostile and faulty clients.

use std::io::Write;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::channel;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::process::ServerProcess;
use super::setup::{
    CHAT_PATH, CONTENT_EVENT, StageRouter, Stopwatch, attempt_count, encode_chunk, post_chat, read_until_closed,
    sleep_millis, start_good_replica, start_router,
};
use crate::harness::captures::STREAM_HEAD;
use crate::harness::client::build_request;
use crate::harness::scripted::{ScriptedReplica, respond_ok};
use crate::harness::{TEST_TIMEOUT, chat_body, send_request, start_replica, wait_at_most, wait_until};

/// "Header not finished in 10 s, body stalled 10 s: connection closed." At the defaults.
#[test]
fn stalled_head_or_body_is_closed_after_ten_seconds() {
    let replica = start_good_replica();
    let router = start_router([&replica], "");
    let watch = Stopwatch::start();
    let whole = build_request("POST", CHAT_PATH, "", chat_body("m", 1, false));
    let mut stalled = [router.connect(), router.connect()];
    stalled[0].send(&whole[..20]);
    stalled[1].send(&whole[..whole.len() - 1]);
    // A client that sends a byte now and then has the same deadline.
    let mut drip = router.connect();
    let dripping = std::thread::spawn(move || {
        let sent =
            (0..28).take_while(|at| drip.try_send(&whole[*at..=*at]).map(|()| sleep_millis(500)).is_ok()).count();
        (sent, drip.wait_for_close() || drip.try_read_head().is_some_and(|reply| reply.status == 408))
    });
    for client in &mut stalled {
        if let Some(reply) = client.try_read_head() {
            assert_eq!(reply.status, 408);
            client.read_remaining_body();
        }
        assert!(client.wait_for_close());
        let after = watch.elapsed().as_secs_f64();
        assert!((9.0..14.0).contains(&after), "{after} s");
    }
    let (sent, closed) = dripping.join().unwrap();
    assert!(sent < 28 && closed, "{sent} bytes, half a second apart");
    assert!(replica.received_requests().is_empty());
}

/// "Reader stalled 60 s: connection closed" (here after 1 s: `send`), and the replica is released.
#[test]
fn stalled_reader_is_closed() {
    static WRITTEN: AtomicU64 = AtomicU64::new(0);
    let replica = super::slow_readers::start_endless_replica(&WRITTEN);
    let router = start_router([&replica], "[timeouts]\nclient_send = \"1s\"");
    let mut client = router.connect();
    client.send(build_request("POST", CHAT_PATH, "", chat_body("m", 1, true)));
    assert_eq!(client.read_head().status, 200);
    let watch = Stopwatch::start();
    wait_until("the replica is released", || router.sum_metric("tokenweir_in_flight", &[]) == 0.0);
    assert!(watch.elapsed() >= Duration::from_millis(900));
    assert_eq!((attempt_count(&router, "client_gone"), attempt_count(&router, "failed")), (1.0, 0.0));
    client.read_remaining_body();
    assert!(client.is_broken());
}

/// "Reader stalled 60 s: connection closed." At the default.
#[test]
fn stalled_reader_is_closed_after_sixty_seconds() {
    static WRITTEN: AtomicU64 = AtomicU64::new(0);
    let replica = super::slow_readers::start_endless_replica(&WRITTEN);
    let router = start_router([&replica], "");
    let mut client = router.connect();
    client.send(build_request("POST", CHAT_PATH, "", chat_body("m", 1, true)));
    assert_eq!(client.read_head().status, 200);
    let watch = Stopwatch::start();
    wait_at_most(5 * TEST_TIMEOUT, "the replica is released", || {
        sleep_millis(100);
        router.sum_metric("tokenweir_in_flight", &[]) == 0.0
    });
    let after = watch.elapsed().as_secs_f64();
    assert!((59.0..70.0).contains(&after), "{after} s");
}

/// Returns the best time in which a replica is released after its client has left.
fn measure_release_time(says: &'static str, stream: bool, reset: bool) -> Duration {
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
    let mut best = Duration::MAX;
    for _ in 0..4 {
        let mut client = router.connect();
        client.send(build_request("POST", CHAT_PATH, "", chat_body("m", 9, stream)));
        signals.recv_timeout(TEST_TIMEOUT).unwrap();
        let watch = Stopwatch::start();
        if reset {
            client.reset_connection();
        } else {
            client.shutdown_write();
        }
        signals.recv_timeout(TEST_TIMEOUT).unwrap();
        best = best.min(watch.elapsed());
    }
    wait_until("no request is left", || router.sum_metric("tokenweir_in_flight", &[]) == 0.0);
    assert_eq!((attempt_count(&router, "client_gone"), attempt_count(&router, "failed")), (4.0, 0.0));
    assert_eq!((replica.received_requests().len(), router.get("/readyz").status), (4, 200));
    best
}

/// "A client that leaves (before the first token, mid-stream while the replica is silent, non-streaming) releases the
/// replica's connection within 100 ms. A client's FIN counts as leaving." The machine may be busy, so the best of four
/// rounds counts.
#[test]
fn disconnect_releases_the_replica_within_100_ms() {
    let begun = format!("{STREAM_HEAD}{}", encode_chunk(CONTENT_EVENT)).leak();
    let half = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{\"half\":";
    for (says, stream) in [("", true), (STREAM_HEAD, true), (begun, true), ("", false), (half, false)] {
        for reset in [false, true] {
            let best = measure_release_time(says, stream, reset);
            assert!(best < Duration::from_millis(100), "{says:?} reset: {reset}: {best:?}");
        }
    }
}

/// "`half_close = true` trades the 100 ms for serving half-closed clients."
#[test]
fn half_closed_client_is_served_if_configured() {
    let replica = ScriptedReplica::start(&["m"], |received, to| {
        sleep_millis(300);
        respond_ok(received, to)
    });
    let router = StageRouter::start(&format!("half_close = true\nreplicas = [{:?}]", replica.url())).wait_until_ready();
    let mut client = router.connect();
    client.send(build_request("POST", CHAT_PATH, "", chat_body("m", 1, false)));
    client.shutdown_write();
    assert_eq!(client.read_response().status, 200);
}

/// "Pipelined answers keep order."
#[test]
fn pipelined_responses_keep_their_order() {
    let replica = ScriptedReplica::start(&["m"], |received, to| {
        // Earlier requests take longer.
        let at: u64 = received.header("x-at").unwrap().parse().unwrap();
        sleep_millis(20 * (5 - at));
        let answer = format!("HTTP/1.1 200 OK\r\nx-at: {at}\r\ncontent-length: 2\r\n\r\n{{}}");
        to.write_all(answer.as_bytes()).is_ok()
    });
    let router = start_router([&replica], "");
    let mut client = router.connect();
    // Small responses, and responses that exceed all buffers.
    for filling in ["", &"x".repeat(30_000)] {
        let body = chat_body("m", 1, false).replace("hello", &format!("hello{filling}"));
        let one = |at: u64| build_request("POST", CHAT_PATH, &format!("x-at: {at}\r\n"), &body);
        client.send((0..5).flat_map(one).collect::<Vec<u8>>());
        for at in 0..5 {
            assert_eq!(client.read_response().header("x-at"), Some(&*at.to_string()));
            assert!(replica.last_request().body == body.as_bytes());
        }
    }
}

/// "`X-Forwarded-For`: the peer is appended."
#[test]
fn peer_is_appended_to_x_forwarded_for() {
    let replica = start_good_replica();
    let router = start_router([&replica], "");
    assert_eq!(post_chat(&router).status, 200);
    assert_eq!(replica.last_request().header_values("x-forwarded-for"), ["127.0.0.1"]);
    router.send_request(
        "POST",
        CHAT_PATH,
        "x-forwarded-for: 1.1.1.1\r\nx-forwarded-for: 2.2.2.2\r\n",
        chat_body("m", 1, false),
    );
    assert_eq!(replica.last_request().header_values("x-forwarded-for").join(", "), "1.1.1.1, 2.2.2.2, 127.0.0.1");
}

/// "Only `trusted_proxies` are believed, for logs and for ip_hash."
#[test]
fn forwarded_address_of_untrusted_peer_is_ignored() {
    let replicas = [start_good_replica(), start_good_replica(), start_good_replica(), start_good_replica()];
    let urls = replicas.each_ref().map(ScriptedReplica::url);
    for (at, (proxies, believed)) in [("", false), ("10.9.9.9", false), ("127.0.0.0/8", true)].into_iter().enumerate() {
        let proxies = if proxies.is_empty() { String::new() } else { format!("trusted_proxies = [{proxies:?}]\n") };
        let process = ServerProcess::start(
            &format!("proxies-{at}"),
            &format!("{proxies}policy = \"ip_hash\"\nreplicas = {urls:?}"),
            1024,
        );
        let mut chosen: Vec<String> = Vec::new();
        for client in 0..24 {
            // Addresses before the proxy's own entry may be forged.
            let headers = format!("x-forwarded-for: 6.6.6.6, 100.{client}.7.1\r\n");
            let reply = send_request(process.data_addr, "POST", CHAT_PATH, &headers, chat_body("m", 1, false));
            chosen.push(reply.header("x-upstream").unwrap().to_owned());
        }
        chosen.sort();
        chosen.dedup();
        assert_eq!(chosen.len() > 1, believed, "ip_hash: {proxies} {chosen:?}");
        wait_until("the request is logged", || process.read_log("access.log").lines().count() == 24);
        let log = process.read_log("access.log");
        assert_eq!(log.contains("100.3.7.1"), believed, "{log}");
        assert!(!log.contains("6.6.6.6"), "{log}");
    }
}

/// The client's address is read from the header that the configuration names, and from no other.
#[test]
fn client_address_comes_from_the_configured_header() {
    let replica = start_good_replica();
    for (keys, seen) in [
        ("", "3.3.3.3 127.0.0.1"),
        ("client_address_recursive = false", "10.0.0.1 127.0.0.1"),
        ("client_address_header = \"X-Client\"", "2.2.2.2 127.0.0.1"),
        ("client_address_header = \"X-Other\"", "127.0.0.1 127.0.0.1"),
    ] {
        let router = start_router(
            [&replica],
            &format!(
                "trusted_proxies = [\"127.0.0.1\", \"10.0.0.0/8\"]\n{keys}\n\
                 request_headers = {{ X-Seen = \"$remote_addr $realip_remote_addr\" }}"
            ),
        );
        let headers = "x-client: 2.2.2.2\r\nx-forwarded-for: 3.3.3.3, 10.0.0.1\r\n";
        assert_eq!(router.send_request("POST", CHAT_PATH, headers, chat_body("m", 1, false)).status, 200);
        assert_eq!(replica.last_request().header("x-seen"), Some(seen), "{keys}");
    }
}

/// "Hop-by-hop headers stay on their hop."
#[test]
fn hop_by_hop_headers_stay_on_their_hop() {
    let replica = ScriptedReplica::start(&["m"], |_, to| {
        let head = "HTTP/1.1 200 OK\r\nconnection: x-theirs, keep-alive\r\nkeep-alive: timeout=5\r\nx-theirs: 1\r\n\
                    proxy-authenticate: Basic\r\nupgrade: h2c\r\nx-kept: 1\r\ncontent-length: 2\r\n\r\n{}";
        to.write_all(head.as_bytes()).is_ok()
    });
    let router = start_router([&replica], "");
    let headers = "connection: x-mine, te, keep-alive\r\nkeep-alive: timeout=9\r\nte: trailers\r\nx-mine: 1\r\n\
                   proxy-authorization: Basic eDp5\r\nproxy-connection: keep-alive\r\nupgrade: h2c\r\ntrailer: x\r\nx-end: 1\r\n";
    let mut client = router.connect();
    client.send(build_request("POST", CHAT_PATH, headers, chat_body("m", 1, false)));
    let (reply, received) = (client.read_response(), replica.last_request());
    assert_eq!((received.header("x-end"), reply.header("x-kept")), (Some("1"), Some("1")));
    for name in ["x-mine", "te", "keep-alive", "proxy-authorization", "proxy-connection", "upgrade", "trailer"] {
        assert_eq!(received.header(name), None, "{name}");
    }
    assert!(received.header("connection").is_none_or(|value| !value.contains("x-mine")), "{}", received.head);
    for name in ["x-theirs", "keep-alive", "upgrade", "proxy-authenticate"] {
        assert_eq!(reply.header(name), None, "{name}");
    }
}

/// "HTTP/2 rapid reset stays bounded."
#[test]
fn rapid_resets_leave_no_state() {
    let replica = start_replica(&["m"]);
    let router = StageRouter::start(&format!("replicas = [{:?}]", replica.url())).wait_until_ready();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(router.h2_addr).await.unwrap();
        let (mut sender, connection) =
            http2::handshake::<_, _, Full<Bytes>>(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        for at in 0..5_000 {
            let request =
                http::Request::post(format!("http://x{CHAT_PATH}")).header("content-type", "application/json");
            if sender.ready().await.is_err() {
                return;
            }
            // Sent and dropped at once: HEADERS and RST_STREAM.
            drop(sender.send_request(request.body(Full::from(chat_body("m", 100, true))).unwrap()));
            if at % 16 == 0 {
                tokio::task::yield_now().await;
            }
        }
    });
    wait_until("no request is left", || {
        router.sum_metric("tokenweir_in_flight", &[]) == 0.0 && replica.counters().open_requests() == 0
    });
    assert_eq!((post_chat(&router).status, attempt_count(&router, "failed")), (200, 0.0));
}
