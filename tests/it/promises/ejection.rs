//! Failing replicas: who is left alone, for how long, and who never is.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use super::setup::{
    CHAT, EVENT, JSON, Router, Watch, chunk, ejected, good, moody, over, pause, post, saying, until_closed,
};
use crate::harness::captures::HEAD;
use crate::harness::client::request;
use crate::harness::scripted::{Scripted, friendly, whole};
use crate::harness::{PATIENCE, chat, nowhere, wait_until};

/// A router over one with words behind its URL and one without.
fn two(first: &Scripted, words: &str, second: &Scripted, more: &str) -> Router {
    let replicas = [format!("{} {words}", first.url()), second.url()];
    Router::start(&format!("policy = \"round_robin\"\nreplay_spare = 1000\nreplicas = {replicas:?}\n{more}")).ready()
}

/// When a replica is asked, with requests for the pool every 20 ms, each of which must succeed.
fn times(router: &Router, replica: &Scripted, count: usize, limit: Duration) -> Vec<f64> {
    let (watch, mut times) = (Watch::start(), Vec::new());
    while times.len() < count && watch.elapsed() < limit {
        assert_eq!(post(router).status, 200);
        let heard = replica.heard().len();
        times.resize(heard.max(times.len()), watch.elapsed().as_secs_f64());
        pause(20);
    }
    times
}

/// "`max_fails` failures within `fail_timeout` (nginx's meaning; ...) eject for `fail_timeout`"; "unless configured by
/// nginx words alone": then each time is as long.
#[test]
fn max_fails_failures_eject_for_fail_timeout() {
    let (bad, alive) = (saying(500, "{}"), good());
    let router = two(&bad, "max_fails=3 fail_timeout=1s", &alive, "");
    let times = times(&router, &bad, 6, PATIENCE);
    assert!(times[2] < 0.9, "three failures at first: {times:?}");
    let gaps: Vec<f64> = times.windows(2).skip(2).map(|two| two[1] - two[0]).collect();
    // nginx counts whole seconds, and so takes up to one more. If they grew, the third would take three.
    assert!(gaps[0] > 0.9, "{times:?}");
    assert!(gaps.iter().all(|gap| *gap < 2.2), "none is longer than it says: {times:?}");
}

/// "Unless configured ... by `import`": then each time is as long as nginx's.
#[test]
fn what_is_imported_ejects_as_nginx_does() {
    let (bad, alive) = (saying(500, "{}"), good());
    let folder = super::process::folder("imported");
    let conf = folder.join("nginx.conf");
    let (a, b) = (bad.addr, alive.addr);
    let upstream = format!("upstream u {{ server {a} fail_timeout=1s; server {b}; }}");
    let server = "server { listen 127.0.0.1:8080; location / { proxy_pass http://u; } }";
    std::fs::write(&conf, format!("events {{}}\nhttp {{ {upstream}\n{server} }}\n")).unwrap();
    let output = super::process::program(&["import", conf.to_str().unwrap()]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = text.replace("127.0.0.1:8080", "127.0.0.1:0");
    let text = text.lines().filter(|line| !line.starts_with("access =") && !line.starts_with("error ="));
    let router = Router::start(&text.map(|line| format!("{line}\n")).collect::<String>());
    let times = times(&router, &bad, 5, PATIENCE);
    let gaps: Vec<f64> = times.windows(2).map(|two| two[1] - two[0]).collect();
    assert!(gaps.len() == 4 && gaps.iter().all(|gap| (0.9..1.9).contains(gap)), "{times:?}");
    std::fs::remove_dir_all(folder).unwrap();
}

/// "(... defaults 1 and 10 s)"
#[test]
fn one_failure_ejects_for_ten_seconds_unless_said_otherwise() {
    let (bad, alive) = (saying(500, "{}"), good());
    let router = over([&bad, &alive], "");
    let times = times(&router, &bad, 2, PATIENCE);
    assert_eq!(times.len(), 2);
    assert!((9.8..11.5).contains(&(times[1] - times[0])), "{times:?}");
}

/// "The next ejections grow x n ... and n falls back after a served probe."
#[test]
fn ejections_grow_until_a_probe_is_served() {
    let ((replica, sick), alive) = (moody(), good());
    let router = two(&replica, "fail_timeout=1s", &alive, "eject_growth = true");
    let first = times(&router, &replica, 3, PATIENCE);
    let gaps: Vec<f64> = first.windows(2).map(|two| two[1] - two[0]).collect();
    assert!((0.9..1.8).contains(&gaps[0]) && (1.9..2.9).contains(&gaps[1]), "{first:?}");
    // A served probe, and the next time is as long as the first.
    sick.store(false, Ordering::SeqCst);
    let probed = replica.heard().len();
    wait_until("a probe is served", || post(&router).status == 200 && replica.heard().len() > probed);
    sick.store(true, Ordering::SeqCst);
    let before = replica.heard().len();
    let again = times(&router, &replica, before + 2, PATIENCE);
    let gap = again[before + 1] - again[before];
    assert!((0.9..1.8).contains(&gap), "{again:?}");
}

/// "Passive ejection stops at max(1, 50 %) of a pool (panic mode beyond)."
#[test]
fn half_of_a_pool_stays_whatever_its_requests_met() {
    for (size, most) in [(1, 1.0), (2, 1.0), (4, 2.0), (5, 2.0)] {
        // Alternately, so that no two failures look alike and blame the request.
        let replicas: Vec<_> = (0..size).map(|at| saying([500, 502][at % 2], "{}")).collect();
        let router = over(&replicas, "replay_spare = 1000");
        for _ in 0..12 {
            assert!([500, 502].contains(&post(&router).status), "asked all the same");
        }
        assert!(ejected(&router) <= most, "{} of {size}", ejected(&router));
        let before: usize = replicas.iter().map(|replica| replica.heard().len()).sum();
        post(&router);
        assert!(replicas.iter().map(|replica| replica.heard().len()).sum::<usize>() > before);
    }
}

/// "Active checks and refused connections may take all."
#[test]
fn checks_and_refused_connections_may_take_all() {
    let gone = [nowhere(), nowhere(), nowhere()].map(|addr| format!("http://{addr}"));
    let router = Router::start(&format!("paths = \"any\"\nmodel = \"m\"\nreplicas = {gone:?}"));
    assert_eq!((post(&router).status, ejected(&router)), (503, 3.0));
    let well = Arc::new(AtomicBool::new(true));
    let replicas = [(); 2].map(|()| {
        let well = well.clone();
        Scripted::start(&["m"], move |heard, to| {
            let well = heard.target() != "/health" || well.load(Ordering::SeqCst);
            to.write_all(&whole(if well { 200 } else { 503 }, JSON, "{}")).is_ok()
        })
    });
    let router = over(&replicas, "check = { interval = \"100ms\", rise = 1, fall = 2 }");
    assert_eq!(post(&router).status, 200);
    well.store(false, Ordering::SeqCst);
    wait_until("all are out", || ejected(&router) == 2.0);
    assert_eq!(post(&router).status, 503);
    well.store(true, Ordering::SeqCst);
    wait_until("all are back", || ejected(&router) == 0.0);
    assert_eq!(post(&router).status, 200);
}

/// "No progress while others progress (wedged engine) ejects too."
#[test]
fn an_engine_without_progress_is_ejected() {
    let wedged = Scripted::start(&["m"], |_, to| to.write_all(HEAD.as_bytes()).is_ok() && until_closed(to));
    let alive = good();
    let router = over([&wedged, &alive], "stalled = \"500ms\"");
    let mut held = router.client();
    held.send(request("POST", CHAT, "", chat("m", 2, true)));
    wait_until("the wedged one has it", || wedged.heard().len() == 1);
    let mut more = Vec::new();
    wait_until("it is found out", || {
        // Every second one goes to the wedged one, until it is known; nobody waits for those.
        let mut client = router.client();
        client.send(request("POST", CHAT, "", chat("m", 2, false)));
        more.push(client);
        pause(50);
        router.metric("tokenweir_ejections_total", &["reason=\"stalled\""]) == 1.0
    });
    let before = wedged.heard().len();
    assert!((0..6).all(|_| post(&router).status == 200));
    assert_eq!(wedged.heard().len(), before, "it gets no more");
}

/// "One request probes": of many that come at once when the time is over, one.
#[test]
fn one_request_probes() {
    let probes = Arc::new(AtomicU32::new(0));
    let count = probes.clone();
    let bad = Scripted::start(&["m"], move |_, to| {
        if count.fetch_add(1, Ordering::SeqCst) > 0 {
            pause(800);
        }
        to.write_all(&whole(500, JSON, "{}")).is_ok()
    });
    let alive = good();
    let router = two(&bad, "fail_timeout=1s", &alive, "");
    wait_until("it is ejected", || post(&router).status == 200 && ejected(&router) == 1.0);
    pause(1_100);
    std::thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(|| assert_eq!(post(&router).status, 200));
        }
    });
    assert_eq!(probes.load(Ordering::SeqCst), 2, "the first failure and one probe");
}

/// "`slow_start` ramps the weight as in nginx."
#[test]
fn slow_start_lets_a_replica_come_back_by_and_by() {
    let ((replica, sick), alive) = (moody(), good());
    let router = two(&replica, "fail_timeout=1s slow_start=4s", &alive, "");
    wait_until("it is ejected", || post(&router).status == 200 && ejected(&router) == 1.0);
    sick.store(false, Ordering::SeqCst);
    wait_until("it is back", || post(&router).status == 200 && ejected(&router) == 0.0);
    let share = || {
        let before = replica.heard().len();
        assert!((0..40).all(|_| post(&router).status == 200));
        (replica.heard().len() - before) as f64 / 40.0
    };
    let (early, watch) = (share(), Watch::start());
    while watch.elapsed() < Duration::from_millis(4_500) {
        pause(50);
    }
    let late = share();
    assert!(early < 0.35 && (0.45..=0.55).contains(&late), "{early} at first, {late} in the end");
}

/// "4xx from clients, client hang-ups, 429/503 back-pressure and our own slowness never eject."
#[test]
fn what_is_not_the_replicas_fault_never_ejects() {
    for status in [400, 401, 404, 408, 409, 413, 422, 429, 503] {
        let replicas = [saying(status, "{}"), saying(status, "{}")];
        let router = over(&replicas, "");
        assert!((0..6).all(|_| post(&router).status == status));
        assert_eq!((router.metric("tokenweir_ejections_total", &[]), ejected(&router)), (0.0, 0.0), "{status}");
    }
    let begun = format!("{HEAD}{}", chunk(EVENT));
    let open = move |_: &_, to: &mut std::net::TcpStream| to.write_all(begun.as_bytes()).is_ok() && until_closed(to);
    let replicas = [Scripted::start(&["m"], open.clone()), Scripted::start(&["m"], open)];
    let router = over(&replicas, "");
    for _ in 0..6 {
        let mut client = router.client();
        client.send(request("POST", CHAT, "", chat("m", 2, true)));
        assert_eq!(client.head().status, 200);
        client.reset();
    }
    wait_until("all have left", || router.metric("tokenweir_in_flight", &[]) == 0.0);
    assert_eq!(router.metric("tokenweir_ejections_total", &[]), 0.0);
}

/// "Our own slowness never ejects": a client that does not take what comes keeps us from reading, for longer than the time
/// between events, and the replica is not blamed for it.
#[test]
fn a_slow_clients_stream_is_not_held_against_its_replica() {
    let piece = chunk(&format!("data: {{\"x\":\"{}\"}}\n\n", "x".repeat(60_000)));
    let replica = Scripted::start(&["m"], move |heard, to| {
        if !heard.body.windows(13).any(|bytes| bytes == b"include_usage") {
            return friendly(heard, to);
        }
        let begun = to.write_all(HEAD.as_bytes()).is_ok();
        let sent = (0..400).all(|_| to.write_all(piece.as_bytes()).is_ok());
        begun && sent && to.write_all(b"0\r\n\r\n").is_ok()
    });
    let router = over([&replica], "stalled = \"500ms\"\n[timeouts]\nidle = \"2s\"");
    let mut client = router.client();
    client.send(request("POST", CHAT, "", chat("m", 2, true)));
    assert_eq!(client.head().status, 200);
    pause(3_000);
    let read = client.rest();
    let end = String::from_utf8_lossy(&read[read.len().saturating_sub(300)..]);
    assert!(!client.is_broken() && read.len() > 400 * 60_000, "{} bytes, then {end}", read.len());
    assert_eq!(router.metric("tokenweir_ejections_total", &[]), 0.0);
}
