//! Overload.

use std::io::Write;
use std::net::TcpStream;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::process::Process;
use super::setup::{CHAT, DONE, EVENT, JSON, Router, Watch, chunk, over, post, until_closed};
use crate::harness::captures::HEAD;
use crate::harness::client::{Client, Reply, request};
use crate::harness::scripted::{Scripted, friendly, whole};
use crate::harness::{PATIENCE, ask, chat, replica, wait_until, within};

/// A replica that holds each answer until the test lets it go, and what lets it go.
fn holding() -> (Scripted, Sender<()>) {
    let (go, going) = channel::<()>();
    let going = Arc::new(Mutex::new(going));
    let replica = Scripted::start(&["m"], move |_, to| {
        to.write_all(format!("{HEAD}{}", chunk(EVENT)).as_bytes()).unwrap();
        going.lock().unwrap().recv_timeout(2 * PATIENCE).is_ok()
            && to.write_all(format!("{}0\r\n\r\n", chunk(DONE)).as_bytes()).is_ok()
    });
    (replica, go)
}

fn is_shed(reply: &Reply) {
    assert!([429, 503].contains(&reply.status), "{}", reply.status);
    let seconds: u32 = reply.header("retry-after").expect("when to come again").parse().unwrap();
    assert!((1..=30).contains(&seconds), "{seconds}");
    assert!(reply.error()["message"].is_string());
}

/// "Limits shed at once with 429/503, `Retry-After` (1-30 s, from the ledger when known) and a JSON error; accepted work
/// finishes."
#[test]
fn what_is_too_much_is_shed_at_once_and_accepted_work_finishes() {
    for limit in ["max_in_flight = 2", "[limits]\nin_flight_requests = 2"] {
        let (replica, go) = holding();
        let router = over([&replica], limit);
        let mut accepted: Vec<_> = (0..2).map(|_| router.client()).collect();
        for client in &mut accepted {
            client.send(request("POST", CHAT, "", chat("m", 2, true)));
            assert_eq!(client.head().status, 200);
        }
        let watch = Watch::start();
        (0..20).for_each(|_| is_shed(&post(&router)));
        assert!(watch.elapsed() < Duration::from_secs(5), "at once");
        assert_eq!(replica.heard().len(), 2);
        (0..2).for_each(|_| go.send(()).unwrap());
        for client in &mut accepted {
            let text = String::from_utf8(client.rest()).unwrap();
            assert!(!client.is_broken() && text == format!("{EVENT}{DONE}"), "{limit}: {text}");
        }
    }
}

/// "`Retry-After` (1-30 s, from the ledger when known)": longer where more tokens are to be generated.
#[test]
fn when_to_come_again_is_known_from_the_tokens_in_flight() {
    let replica = replica(&["m"]);
    let router = Router::start(&format!("max_in_flight = 1\nreplicas = [{:?}]", replica.url())).ready();
    assert_eq!(router.post(CHAT, chat("m", 30, false)).status, 200);
    wait_until("it has settled", || router.metric("tokenweir_in_flight", &[]) == 0.0);
    let mut held = router.client();
    let long = chat("m", 5, true).replace("hello", &"a long prompt ".repeat(4_000));
    held.send(request("POST", CHAT, "x-emulate-lockstep: 1\r\nx-request-id: long\r\n", long));
    assert_eq!(held.head().status, 200);
    let reply = post(&router);
    is_shed(&reply);
    assert_eq!(reply.header("retry-after"), Some("30"), "thousands of tokens are there, and tens have ended lately");
}

/// "Limits shed": bodies in flight, connections.
#[test]
fn bodies_and_connections_beyond_their_limits_are_shed_too() {
    let replica = Scripted::start(&["m"], friendly);
    let router = over([&replica], "[limits]\nbody_bytes = 1000\nin_flight_bytes = 1500\nconnections = 20");
    let body = format!(r#"{{"model":"m","x":"{}"}}"#, "y".repeat(800));
    let bytes = request("POST", CHAT, "expect: 100-continue\r\n", &body);
    let mut held = router.client();
    held.send(&bytes[..bytes.len() - 1]);
    assert_eq!(held.head().status, 100);
    is_shed(&router.post(CHAT, &body));
    held.send(&bytes[bytes.len() - 1..]);
    assert_eq!(held.reply().status, 200);
    let mut open: Vec<_> = (0..60).map(|_| router.client()).collect();
    let served = |client: &mut Client<TcpStream>| {
        client.try_send(request("GET", "/livez", "", "")).is_ok() && client.try_head().is_some_and(|r| r.status == 200)
    };
    let served = open.iter_mut().filter_map(|client| served(client).then_some(())).count();
    assert!((19..=20).contains(&served), "{served}");
    drop(open);
    wait_until("others are served when they have gone", || {
        TcpStream::connect(router.addr).is_ok_and(|stream| {
            let mut client = Client::over(stream);
            client.try_send(request("POST", CHAT, "", &body)).is_ok()
                && client.try_head().is_some_and(|r| r.status == 200)
        })
    });
}

/// By what the peak of a process's memory grows with four more bodies at a replica, in bytes per body byte. What there is
/// once, however many bodies there are, has come with two before them.
fn cost_of_bodies(name: &str, body: &str, framed: impl Fn(&str) -> Vec<u8>) -> f64 {
    let replica = Scripted::start(&["m"], |_, to| until_closed(to));
    let process = Process::start(name, &format!("replicas = [{:?}]", replica.url()), 1024);
    let (bytes, mut clients) = (framed(body), Vec::new());
    let mut peak = |count: usize| {
        while clients.len() < count {
            let mut client = Client::connect(process.data);
            client.send(&bytes);
            clients.push(client);
        }
        within(2 * PATIENCE, "the replica has all of them", || replica.heard().len() == count);
        process.status("VmHWM")
    };
    let (two, six) = (peak(2), peak(6));
    let each = (six - two) as f64 * 1024.0 / (4 * body.len()) as f64;
    println!("{name}: {each:.2} bytes per body byte");
    each
}

/// A picture of some 12 MB.
fn picture() -> String {
    let data = "IVBORw0KGgo+/AAB".repeat(12_000_000 / 16);
    let part = format!(r#"{{"type":"image_url","image_url":{{"url":"data:image/png;base64,{data}"}}}}"#);
    format!(r#"{{"model":"m","messages":[{{"role":"user","content":[{part}]}}]}}"#)
}

/// "Memory in flight <= 1.5 bytes per body byte."
#[test]
fn bodies_in_flight_cost_at_most_half_as_much_again() {
    let prose = chat("m", 2, false).replace("hello", &"The quick brown fox jumps.\\n ".repeat(4_000_000 / 29));
    for (name, body) in [("picture", picture()), ("prose", prose)] {
        let cost = cost_of_bodies(name, &body, |body| request("POST", CHAT, "", body));
        assert!(cost <= 1.5, "{name}: {cost:.2} bytes per body byte");
    }
}

/// "Memory in flight <= 1.5 bytes per body byte": of a body whose length is not known before its end too.
#[test]
fn bodies_in_chunks_cost_at_most_half_as_much_again() {
    let head = format!("POST {CHAT} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n");
    let chunked = |body: &str| {
        let pieces = body.as_bytes().chunks(64 << 10).map(|piece| chunk(std::str::from_utf8(piece).unwrap()));
        format!("{head}{}0\r\n\r\n", pieces.collect::<String>()).into_bytes()
    };
    let cost = cost_of_bodies("chunks", &picture(), chunked);
    assert!(cost <= 1.5, "{cost:.2} bytes per body byte");
}

/// "Tokenizer bombs stop nobody else."
#[test]
fn tokenizer_bombs_stop_nobody_else() {
    let replica = Scripted::start(&["m"], friendly);
    let text = format!("tokens = \"o200k\"\nreplicas = [{:?}]", replica.url());
    let mut process = Process::start("bombs", &text, 1024);
    assert_eq!(ask(process.data, "POST", CHAT, "", chat("m", 1, false)).status, 200);
    let bombs = [" ".repeat(1 << 20), "a".repeat(1 << 20), "\u{1f600}".repeat(1 << 18), "\\n".repeat(1 << 19)];
    let clients: Vec<_> = bombs
        .iter()
        .map(|bomb| {
            let mut client = Client::connect(process.data);
            client.send(request("POST", CHAT, "", chat("m", 1, false).replace("hello", bomb)));
            client
        })
        .collect();
    // The machine may be busy; whoever had to wait for the bombs would wait for longer.
    for _ in 0..10 {
        let watch = Watch::start();
        assert_eq!(ask(process.data, "POST", CHAT, "", chat("m", 1, false)).status, 200);
        assert!(watch.elapsed() < Duration::from_secs(5), "{:?}", watch.elapsed());
    }
    assert!(!process.ended());
    drop(clients);
}

/// "Out of file descriptors: no crash, no spin, serves again."
#[test]
fn without_descriptors_it_neither_crashes_nor_spins_and_serves_again() {
    let replica = Scripted::start(&["m"], |_, to| to.write_all(&whole(200, JSON, "{}")).is_err());
    let mut process = Process::start("files", &format!("replicas = [{:?}]", replica.url()), 64);
    let waiting: Vec<TcpStream> = (0..150).map(|_| TcpStream::connect(process.data).unwrap()).collect();
    wait_until("it has none left", || process.log("error.log").contains("no connection can be accepted"));
    let (ticks, watch) = (process.ticks(), Watch::start());
    wait_until("a second is over", || watch.elapsed() >= Duration::from_secs(1));
    let spent = process.ticks() - ticks;
    assert!(spent < 30, "{spent} ticks of 10 ms in a second");
    drop(waiting);
    wait_until("it serves again", || {
        TcpStream::connect(process.data).is_ok_and(|stream| {
            let mut client = Client::over(stream);
            client.try_send(request("POST", CHAT, "connection: close\r\n", chat("m", 2, false))).is_ok()
                && client.try_head().is_some_and(|reply| reply.status == 200)
        })
    });
    assert!(!process.ended());
}

/// "300 aborted requests leave nothing behind."
#[test]
fn three_hundred_aborted_requests_leave_nothing_behind() {
    let replica = replica(&["m"]);
    let process =
        Process::start("aborted", &format!("engine_metrics = \"off\"\nreplicas = [{:?}]", replica.url()), 1024);
    let files = process.files();
    for at in 0..300 {
        let mut client = Client::connect(process.data);
        let headers = "x-emulate-lockstep: 1\r\n";
        let bytes = request("POST", CHAT, headers, chat("m", 100, at % 2 == 0));
        // In the body, before the answer, in the midst of it.
        client.send(&bytes[..if at % 3 == 0 { bytes.len() - 5 } else { bytes.len() }]);
        if at % 3 == 1 && at % 2 == 0 {
            client.head();
        }
        client.reset();
    }
    wait_until("nothing is charged", || process.metric("tokenweir_in_flight", "") == 0.0);
    // One idle connection to the replica for each worker may be kept, and the question for metrics is one itself.
    wait_until("every descriptor is given back", || process.files() <= files + 2);
    assert_eq!(ask(process.data, "POST", CHAT, "", chat("m", 2, false)).status, 200);
    assert_eq!(process.metric("tokenweir_attempts_total", "outcome=\"failed\""), 0.0);
    wait_until("the replica has nothing open", || replica.counters().open() <= 1);
}
