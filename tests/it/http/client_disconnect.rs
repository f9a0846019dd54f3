//! A client leaves: its replica is told at once, nothing stays charged, and nobody is ejected.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use crate::harness::client::{Client, request};
use crate::harness::scripted::Scripted;
use crate::harness::{PATIENCE, Router, chat, replica, wait_until};
use tokenweir::balance::Dice;
use tokenweir::clock::{self, Clock};
use tokenweir::units::Moment;

/// The longest a replica may work for nobody.
const PROMPT: Duration = Duration::from_millis(100);
/// The machine may be busy: the fastest of so many must keep to it.
const ROUNDS: usize = 4;

const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
const EVENT: &[u8] = b"20\r\ndata: {\"choices\":[{\"inde\":0}]}\n\n\r\n";
const HALF_JSON: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{\"half\":";
const HALF_LARGE_JSON: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1048577\r\n\r\n{\"half\":";

/// What the replica does once it has the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Script {
    Silent,
    HeadThenSilent,
    EventThenSilent,
    EventsForEver,
    /// Held until it is complete.
    HalfJson,
    /// Too large to be held.
    HalfLargeJson,
}

#[derive(Clone, Copy, Debug)]
enum Leave {
    /// FIN: the client's side is shut down.
    Finish,
    /// RST.
    Reset,
}

/// What the replica tells the test.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    Begun,
    /// Its connection was closed then.
    Closed(Moment),
}

/// A replica that plays a script, and a second one that is there to be chosen should the first be ejected.
fn stage(script: Script, clock: Clock) -> (Router, Scripted, Receiver<Told>) {
    let (tell, told) = channel();
    let tell = Mutex::new(tell);
    let replica = Scripted::start(&["m"], move |_, to| {
        let tell = tell.lock().unwrap().clone();
        match script {
            Script::Silent => {}
            Script::HeadThenSilent => to.write_all(HEAD).unwrap(),
            Script::EventThenSilent | Script::EventsForEver => to.write_all(&[HEAD, EVENT].concat()).unwrap(),
            Script::HalfJson => to.write_all(HALF_JSON).unwrap(),
            Script::HalfLargeJson => to.write_all(HALF_LARGE_JSON).unwrap(),
        }
        tell.send(Told::Begun).unwrap();
        match script {
            Script::EventsForEver => while to.write_all(EVENT).is_ok() {},
            _ => until_closed(to),
        }
        // The test may be over.
        drop(tell.send(Told::Closed(clock.now())));
        false
    });
    (Router::over([&*replica.url()]), replica, told)
}

fn until_closed(to: &mut TcpStream) {
    while to.read(&mut [0; 64]).is_ok_and(|read| read > 0) {}
}

/// Lets clients leave in the midst of a script, by FIN and by RST.
fn leaves(script: Script, stream: bool, until: impl Fn(&mut Client<TcpStream>)) {
    let clock = Clock::start();
    let (router, replica, told) = stage(script, clock);
    let mut count = 0.0;
    for how in [Leave::Finish, Leave::Reset] {
        let mut fastest = Duration::MAX;
        for _ in 0..ROUNDS {
            let mut client = router.client();
            client.send(request("POST", "/v1/chat/completions", "", chat("m", 9, stream)));
            assert_eq!(told.recv_timeout(PATIENCE).unwrap(), Told::Begun);
            until(&mut client);
            assert_eq!(router.in_flight(), 1);
            let left = clock.now();
            let kept = match how {
                Leave::Reset => {
                    client.reset();
                    None
                }
                Leave::Finish => {
                    client.finish();
                    Some(client)
                }
            };
            let Told::Closed(closed) = told.recv_timeout(PATIENCE).unwrap() else { panic!("one request at a time") };
            fastest = fastest.min(closed.since(left));
            drop(kept);
            count += 1.0;
            wait_until("nothing is charged any more", || router.in_flight() == 0);
        }
        assert!(fastest < PROMPT, "{script:?} {how:?}: the replica worked on for {fastest:?}");
    }
    wait_until("each is counted as gone", || {
        router.metric("tokenweir_attempts_total", &["outcome=\"client_gone\""]) == count
    });
    assert_eq!(router.metric("tokenweir_attempts_total", &["outcome=\"failed\""]), 0.0);
    assert_eq!(router.metric("tokenweir_attempts_total", &[]), count);
    assert_eq!(router.get("/readyz").status, 200, "no ejection");
    assert_eq!(replica.heard().len() as f64, count, "nothing was replayed");
}

#[test]
fn a_client_that_leaves_before_the_head_ends_the_replicas_work() {
    leaves(Script::Silent, true, |_| ());
    leaves(Script::Silent, false, |_| ());
    // vLLM sends its head long before the first token.
    leaves(Script::HeadThenSilent, true, |_| ());
}

#[test]
fn a_client_that_leaves_a_silent_stream_ends_the_replicas_work() {
    leaves(Script::EventThenSilent, true, |client| {
        assert_eq!(client.head().status, 200);
        client.piece().unwrap();
    });
}

#[test]
fn a_client_that_leaves_a_running_stream_ends_the_replicas_work() {
    leaves(Script::EventsForEver, true, |client| {
        assert_eq!(client.head().status, 200);
        client.piece().unwrap();
    });
}

#[test]
fn a_client_that_leaves_half_a_json_answer_ends_the_replicas_work() {
    leaves(Script::HalfJson, false, |_| ());
    leaves(Script::HalfLargeJson, false, |client| {
        assert_eq!(client.head().status, 200);
        client.piece().unwrap();
    });
}

#[test]
fn a_client_that_leaves_while_it_sends_its_body_reaches_no_replica() {
    let (router, replica, _told) = stage(Script::Silent, Clock::start());
    let whole = request("POST", "/v1/chat/completions", "", chat("m", 9, true));
    let chunked = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{\"mod".to_vec();
    let mut count = 0.0;
    for sent in [&whole[..whole.len() - 1], &whole[..whole.len() - 40], &chunked] {
        for how in [Leave::Finish, Leave::Reset] {
            let mut client = router.client();
            client.send(sent);
            match how {
                Leave::Reset => client.reset(),
                Leave::Finish => {
                    client.finish();
                    while !client.closes() {
                        client.rest();
                        client.try_head();
                    }
                }
            }
            count += 1.0;
            wait_until("the request is counted", || router.metric("tokenweir_requests_total", &[]) == count);
        }
    }
    // As nginx has it: the request is a bad one, and 499 is for answers that nobody waits for.
    assert_eq!(router.metric("tokenweir_requests_total", &["4xx"]), count);
    assert_eq!(router.metric("tokenweir_attempts_total", &[]), 0.0);
    assert!(replica.heard().is_empty());
    assert_eq!(router.get("/readyz").status, 200);
}

#[test]
fn a_router_that_stops_cuts_the_streams_that_do_not_end() {
    for script in [Script::Silent, Script::HeadThenSilent, Script::EventThenSilent, Script::HalfJson] {
        let (mut router, _replica, told) = stage(script, Clock::start());
        let mut client = router.client();
        client.send(request("POST", "/v1/chat/completions", "", chat("m", 9, true)));
        assert_eq!(told.recv_timeout(PATIENCE).unwrap(), Told::Begun);
        let mut idle = [router.client(), router.client()];
        for client in &mut idle {
            client.send(request("GET", "/livez", "", ""));
            assert_eq!(client.reply().status, 200);
        }
        router.server.drain();
        assert!(idle.iter_mut().all(Client::closes), "draining has come to every worker");
        assert!(TcpStream::connect(router.addr).is_err() && !router.server.is_drained());
        router.server.stop();
        assert!(matches!(told.recv_timeout(PATIENCE).unwrap(), Told::Closed(_)));
        client.try_head();
        client.rest();
        assert!(client.closes());
    }
}

#[test]
fn a_client_that_leaves_with_more_requests_waiting_ends_the_replicas_work() {
    for extra in [&b"\r\n"[..], b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"] {
        for script in [Script::Silent, Script::EventThenSilent] {
            let (router, _replica, told) = stage(script, Clock::start());
            let mut client = router.client();
            let sent = request("POST", "/v1/chat/completions", "", chat("m", 9, true));
            client.send([&sent[..], extra].concat());
            assert_eq!(told.recv_timeout(PATIENCE).unwrap(), Told::Begun);
            drop(client);
            let closed = told.recv_timeout(Duration::from_secs(3));
            assert!(matches!(closed, Ok(Told::Closed(_))), "{script:?}, {extra:?}: {closed:?}");
            wait_until("nothing is charged any more", || router.in_flight() == 0);
        }
    }
}

const FAULTS: [&str; 14] = [
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

/// One request with a fault, from which the client leaves or not.
fn venture(router: &Router, dice: &mut Dice) {
    let fault = FAULTS[(dice.bits() % FAULTS.len() as u64) as usize];
    let mut client = router.client();
    let headers = format!("x-emulate-fault: {fault}\r\n");
    client.send(request("POST", "/v1/chat/completions", &headers, chat("m", 6, dice.bits().is_multiple_of(2))));
    match dice.bits() % 4 {
        0 => client.reset(),
        1 => client.finish(),
        _ => {
            if client.try_head().is_some() {
                client.rest();
            }
        }
    }
}

#[test]
fn nothing_is_charged_after_a_storm_of_faults_and_leaving_clients() {
    const THREADS: u64 = 8;
    let seed = clock::seed() >> 1;
    println!("seed {seed}");
    let replicas = [(); 3].map(|()| replica(&["m"]));
    let urls = replicas.each_ref().map(|r| format!("\"{} max_fails=0\"", r.url())).join(",");
    let router = Router::start(&format!("policy = \"least_conn\"\nreplicas = [{urls}]")).ready();
    std::thread::scope(|scope| {
        for at in 0..THREADS {
            let (router, mut dice) = (&router, Dice::seeded(seed + at));
            scope.spawn(move || (0..60).for_each(|_| venture(router, &mut dice)));
        }
    });
    wait_until("nothing is charged", || router.in_flight() == 0);
    wait_until("no replica works", || replicas.iter().all(|r| r.counters().open() == 0));
    // Clients that reset at once may never have been heard.
    wait_until("each choice is settled once", || {
        let chosen: u64 = router.server.fleet().replicas().iter().map(|r| r.chosen()).sum();
        chosen > 200 && router.metric("tokenweir_attempts_total", &[]) == chosen as f64
    });
    assert_eq!(router.post("/v1/chat/completions", chat("m", 2, false)).status, 200);
}
