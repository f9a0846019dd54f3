//! Promises about overload.

use std::io::Write;
use std::net::TcpStream;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::process::ServerProcess;
use super::setup::{
    CHAT_PATH, CONTENT_EVENT, DONE_EVENT, JSON_CONTENT_TYPE, StageRouter, Stopwatch, encode_chunk, post_chat,
    read_until_closed, start_router,
};
use crate::harness::captures::STREAM_HEAD;
use crate::harness::client::{HttpResponse, TestClient, build_request};
use crate::harness::scripted::{ScriptedReplica, build_response, respond_ok};
use crate::harness::{TEST_TIMEOUT, chat_body, send_request, start_replica, wait_at_most, wait_until};

/// Starts a replica that holds each response until the test sends on the channel.
fn start_holding_replica() -> (ScriptedReplica, Sender<()>) {
    let (go, going) = channel::<()>();
    let going = Arc::new(Mutex::new(going));
    let replica = ScriptedReplica::start(&["m"], move |_, to| {
        to.write_all(format!("{STREAM_HEAD}{}", encode_chunk(CONTENT_EVENT)).as_bytes()).unwrap();
        going.lock().unwrap().recv_timeout(2 * TEST_TIMEOUT).is_ok()
            && to.write_all(format!("{}0\r\n\r\n", encode_chunk(DONE_EVENT)).as_bytes()).is_ok()
    });
    (replica, go)
}

fn assert_shed(reply: &HttpResponse) {
    assert!([429, 503].contains(&reply.status), "{}", reply.status);
    let seconds: u32 = reply.header("retry-after").expect("a Retry-After header").parse().unwrap();
    assert!((1..=30).contains(&seconds), "{seconds}");
    assert!(reply.openai_error()["message"].is_string());
}

/// "Limits shed at once with 429/503, `Retry-After` (1-30 s, from the ledger when known) and a JSON error; accepted
/// work finishes."
#[test]
fn excess_requests_are_shed_at_once_and_accepted_work_finishes() {
    for limit in ["max_in_flight = 2", "[limits]\nin_flight_requests = 2"] {
        let (replica, go) = start_holding_replica();
        let router = start_router([&replica], limit);
        let mut accepted: Vec<_> = (0..2).map(|_| router.connect()).collect();
        for client in &mut accepted {
            client.send(build_request("POST", CHAT_PATH, "", chat_body("m", 2, true)));
            assert_eq!(client.read_head().status, 200);
        }
        let watch = Stopwatch::start();
        (0..20).for_each(|_| assert_shed(&post_chat(&router)));
        assert!(watch.elapsed() < Duration::from_secs(5), "at once");
        assert_eq!(replica.received_requests().len(), 2);
        (0..2).for_each(|_| go.send(()).unwrap());
        for client in &mut accepted {
            let text = String::from_utf8(client.read_remaining_body()).unwrap();
            assert!(!client.is_broken() && text == format!("{CONTENT_EVENT}{DONE_EVENT}"), "{limit}: {text}");
        }
    }
}

/// "`Retry-After` (1-30 s, from the ledger when known)": longer while more tokens are in flight.
#[test]
fn retry_after_comes_from_tokens_in_flight() {
    let replica = start_replica(&["m"]);
    let router = StageRouter::start(&format!("max_in_flight = 1\nreplicas = [{:?}]", replica.url())).wait_until_ready();
    assert_eq!(router.post(CHAT_PATH, chat_body("m", 30, false)).status, 200);
    wait_until("the lease has settled", || router.sum_metric("tokenweir_in_flight", &[]) == 0.0);
    let mut held = router.connect();
    let long = chat_body("m", 5, true).replace("hello", &"a long prompt ".repeat(4_000));
    held.send(build_request("POST", CHAT_PATH, "x-emulate-lockstep: 1\r\nx-request-id: long\r\n", long));
    assert_eq!(held.read_head().status, 200);
    let reply = post_chat(&router);
    assert_shed(&reply);
    assert_eq!(reply.header("retry-after"), Some("30"), "thousands of tokens in flight, few completed");
}

/// "Limits shed": bodies in flight, connections.
#[test]
fn excess_bodies_and_connections_are_shed() {
    let replica = ScriptedReplica::start(&["m"], respond_ok);
    let router = start_router([&replica], "[limits]\nbody_bytes = 1000\nin_flight_bytes = 1500\nconnections = 20");
    let body = format!(r#"{{"model":"m","x":"{}"}}"#, "y".repeat(800));
    let bytes = build_request("POST", CHAT_PATH, "expect: 100-continue\r\n", &body);
    let mut held = router.connect();
    held.send(&bytes[..bytes.len() - 1]);
    assert_eq!(held.read_head().status, 100);
    assert_shed(&router.post(CHAT_PATH, &body));
    held.send(&bytes[bytes.len() - 1..]);
    assert_eq!(held.read_response().status, 200);
    let mut open: Vec<_> = (0..60).map(|_| router.connect()).collect();
    let served = |client: &mut TestClient<TcpStream>| {
        client.try_send(build_request("GET", "/livez", "", "")).is_ok()
            && client.try_read_head().is_some_and(|r| r.status == 200)
    };
    let served = open.iter_mut().filter_map(|client| served(client).then_some(())).count();
    // Of the 20, `held` has one, and the connection of the shed request may not be closed yet.
    assert!((18..=20).contains(&served), "{served}");
    drop(open);
    wait_until("other clients are served after they leave", || {
        TcpStream::connect(router.addr).is_ok_and(|stream| {
            let mut client = TestClient::from_stream(stream);
            client.try_send(build_request("POST", CHAT_PATH, "", &body)).is_ok()
                && client.try_read_head().is_some_and(|r| r.status == 200)
        })
    });
}

/// Returns the growth of a process's peak memory with four more bodies, in bytes per body byte. Two bodies before them
/// absorb the fixed cost.
fn measure_body_cost(name: &str, body: &str, framed: impl Fn(&str) -> Vec<u8>) -> f64 {
    let replica = ScriptedReplica::start(&["m"], |_, to| read_until_closed(to));
    let process = ServerProcess::start(name, &format!("replicas = [{:?}]", replica.url()), 1024);
    let (bytes, mut clients) = (framed(body), Vec::new());
    let mut peak = |count: usize| {
        while clients.len() < count {
            let mut client = TestClient::connect(process.data_addr);
            client.send(&bytes);
            clients.push(client);
        }
        wait_at_most(2 * TEST_TIMEOUT, "the replica has all bodies", || replica.received_requests().len() == count);
        process.read_proc_status("VmHWM")
    };
    let (two, six) = (peak(2), peak(6));
    let each = (six - two) as f64 * 1024.0 / (4 * body.len()) as f64;
    println!("{name}: {each:.2} bytes per body byte");
    each
}

/// Returns a body with an image of about 12 MB.
fn image_body() -> String {
    let data = "IVBORw0KGgo+/AAB".repeat(12_000_000 / 16);
    let part = format!(r#"{{"type":"image_url","image_url":{{"url":"data:image/png;base64,{data}"}}}}"#);
    format!(r#"{{"model":"m","messages":[{{"role":"user","content":[{part}]}}]}}"#)
}

/// "Memory in flight <= 1.5 bytes per body byte."
#[test]
fn bodies_in_flight_cost_at_most_1_5_bytes_per_byte() {
    let prose = chat_body("m", 2, false).replace("hello", &"The quick brown fox jumps.\\n ".repeat(4_000_000 / 29));
    for (name, body) in [("picture", image_body()), ("prose", prose)] {
        let cost = measure_body_cost(name, &body, |body| build_request("POST", CHAT_PATH, "", body));
        assert!(cost <= 1.5, "{name}: {cost:.2} bytes per body byte");
    }
}

/// "Memory in flight <= 1.5 bytes per body byte": also for a body of unknown length.
#[test]
fn chunked_bodies_cost_at_most_1_5_bytes_per_byte() {
    let head = format!("POST {CHAT_PATH} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n");
    let chunked = |body: &str| {
        let pieces = body.as_bytes().chunks(64 << 10).map(|piece| encode_chunk(std::str::from_utf8(piece).unwrap()));
        format!("{head}{}0\r\n\r\n", pieces.collect::<String>()).into_bytes()
    };
    let cost = measure_body_cost("chunks", &image_body(), chunked);
    assert!(cost <= 1.5, "{cost:.2} bytes per body byte");
}

/// "Tokenizer bombs stop nobody else."
#[test]
fn tokenizer_bomb_delays_no_other_request() {
    let replica = ScriptedReplica::start(&["m"], respond_ok);
    let text = format!("tokens = \"o200k\"\nreplicas = [{:?}]", replica.url());
    let mut process = ServerProcess::start("bombs", &text, 1024);
    assert_eq!(send_request(process.data_addr, "POST", CHAT_PATH, "", chat_body("m", 1, false)).status, 200);
    let bombs = [" ".repeat(1 << 20), "a".repeat(1 << 20), "\u{1f600}".repeat(1 << 18), "\\n".repeat(1 << 19)];
    let clients: Vec<_> = bombs
        .iter()
        .map(|bomb| {
            let mut client = TestClient::connect(process.data_addr);
            client.send(build_request("POST", CHAT_PATH, "", chat_body("m", 1, false).replace("hello", bomb)));
            client
        })
        .collect();
    // The machine may be busy; a request that had to wait for the bombs would take longer.
    for _ in 0..10 {
        let watch = Stopwatch::start();
        assert_eq!(send_request(process.data_addr, "POST", CHAT_PATH, "", chat_body("m", 1, false)).status, 200);
        assert!(watch.elapsed() < Duration::from_secs(5), "{:?}", watch.elapsed());
    }
    assert!(!process.has_exited());
    drop(clients);
}

/// "Out of file descriptors: no crash, no spin, serves again."
#[test]
fn exhausted_descriptors_neither_crash_nor_spin() {
    let replica =
        ScriptedReplica::start(&["m"], |_, to| to.write_all(&build_response(200, JSON_CONTENT_TYPE, "{}")).is_err());
    let mut process = ServerProcess::start("files", &format!("replicas = [{:?}]", replica.url()), 64);
    let waiting: Vec<TcpStream> = (0..150).map(|_| TcpStream::connect(process.data_addr).unwrap()).collect();
    wait_until("no descriptor is left", || process.read_log("error.log").contains("no connection can be accepted"));
    let (ticks, watch) = (process.cpu_ticks(), Stopwatch::start());
    wait_until("a second has passed", || watch.elapsed() >= Duration::from_secs(1));
    let spent = process.cpu_ticks() - ticks;
    assert!(spent < 30, "{spent} ticks of 10 ms in a second");
    drop(waiting);
    wait_until("the router serves again", || {
        TcpStream::connect(process.data_addr).is_ok_and(|stream| {
            let mut client = TestClient::from_stream(stream);
            client.try_send(build_request("POST", CHAT_PATH, "connection: close\r\n", chat_body("m", 2, false))).is_ok()
                && client.try_read_head().is_some_and(|reply| reply.status == 200)
        })
    });
    assert!(!process.has_exited());
}

/// "300 aborted requests leave nothing behind."
#[test]
fn three_hundred_aborted_requests_leave_no_state() {
    let replica = start_replica(&["m"]);
    let process =
        ServerProcess::start("aborted", &format!("engine_metrics = \"off\"\nreplicas = [{:?}]", replica.url()), 1024);
    let files = process.open_file_count();
    for at in 0..300 {
        let mut client = TestClient::connect(process.data_addr);
        let headers = "x-emulate-lockstep: 1\r\n";
        let bytes = build_request("POST", CHAT_PATH, headers, chat_body("m", 100, at % 2 == 0));
        // The client leaves during its body, before the response, or during it.
        client.send(&bytes[..if at % 3 == 0 { bytes.len() - 5 } else { bytes.len() }]);
        if at % 3 == 1 && at % 2 == 0 {
            client.read_head();
        }
        client.reset_connection();
    }
    wait_until("no lease is left", || process.sum_metric("tokenweir_in_flight", "") == 0.0);
    // Each worker may keep one idle connection to the replica, and the metrics request is itself one.
    wait_until("every descriptor is closed", || process.open_file_count() <= files + 2);
    assert_eq!(send_request(process.data_addr, "POST", CHAT_PATH, "", chat_body("m", 2, false)).status, 200);
    assert_eq!(process.sum_metric("tokenweir_attempts_total", "outcome=\"failed\""), 0.0);
    wait_until("the replica has no open request", || replica.counters().open_requests() <= 1);
}
