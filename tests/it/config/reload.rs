//! Configuration reloads and replica changes under load.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use crate::harness::client::{TestClient, build_request};
use crate::harness::{
    TestRouter, chat_body, send_request, start_reloadable_router, start_replica, unused_addr, wait_until,
};
use tokenweir::clock::Clock;
use tokenweir::units::Moment;

const CHAT_PATH: &str = "/v1/chat/completions";
const JSON_HEADER: &str = "content-type: application/json\r\n";

fn list_pools(router: &TestRouter) -> serde_json::Value {
    send_request(router.admin_addr, "GET", "/pools", "", "").json()
}

#[test]
fn reload_reports_changes_and_bad_file_changes_nothing() {
    let replicas = [start_replica(&["m"]), start_replica(&["m"])];
    let (router, file) = start_reloadable_router(&format!("replicas = [{:?}]", replicas[0].url()));
    let reload = || send_request(router.admin_addr, "POST", "/reload", "", "");

    *file.lock().unwrap() = format!("replicas = [{:?}, {:?}]", replicas[0].url(), replicas[1].url());
    let reply = reload();
    let added = format!("pools changed: default; replicas added: {}", replicas[1].addr());
    let report = reply.json();
    assert_eq!((reply.status, &report["changed"]), (200, &serde_json::json!(added)));
    assert_eq!(report["replicas_added"], serde_json::json!([replicas[1].addr().to_string()]));
    assert_eq!(report["keys_moved"], serde_json::json!({}), "least_conn has no keys");
    wait_until("the new replica is admitted", || list_pools(&router)[0]["replicas"][1]["state"] == "admitted");

    *file.lock().unwrap() = "replicas = [1]\npolcy = 2".to_owned();
    let reply = reload();
    assert_eq!(reply.status, 400);
    assert!(reply.text().contains("router.toml:2:1") && reply.text().contains("policy"), "{}", reply.text());
    assert_eq!(list_pools(&router)[0]["replicas"].as_array().unwrap().len(), 2);
    assert_eq!(router.post(CHAT_PATH, chat_body("m", 2, false)).status, 200);
}

#[test]
fn reload_reports_routes_and_closes_a_host() {
    let replica = start_replica(&["m"]);
    let open = format!("replicas = [{:?}]", replica.url());
    let (router, file) = start_reloadable_router(&open);
    assert_eq!(router.post(CHAT_PATH, chat_body("m", 2, false)).status, 200);
    *file.lock().unwrap() = format!("{open}\n[[host]]\naccess = ['deny all']\n");
    let report = send_request(router.admin_addr, "POST", "/reload", "", "").json();
    let changed = report["changed"].as_str().unwrap();
    assert!(changed.contains("- 127.0.0.1:0 * / -> default") && changed.contains("deny all"), "{changed}");
    assert_eq!(report["routes_changed"].as_array().map(Vec::len), Some(2), "{report}");
    let refused = router.post(CHAT_PATH, chat_body("m", 2, false));
    assert!(refused.status == 403 && refused.text().contains("`access`"), "{}", refused.text());
    assert_eq!(router.get("/livez").status, 403, "{report}");
}

#[test]
fn reload_opens_and_closes_ports_without_cutting_connections() {
    let replica = start_replica(&["m"]);
    let [first, second] = [unused_addr(), unused_addr()];
    let text = |listen: &[SocketAddr]| {
        let listen: Vec<String> = listen.iter().map(|address| format!("\"{address}\"")).collect();
        format!("listen = [{}]\nreplicas = [{:?}]", listen.join(", "), replica.url())
    };
    let (router, file) = start_reloadable_router(&text(&[first]));
    let reload = |listen: &[SocketAddr]| {
        *file.lock().unwrap() = text(listen);
        send_request(router.admin_addr, "POST", "/reload", "", "")
    };
    let answers = |address| send_request(address, "GET", "/livez", "", "").status == 200;
    let is_closed = |address| TcpStream::connect(address).is_err();
    assert!(answers(first) && is_closed(second));
    assert_eq!(reload(&[first, second]).status, 200);
    wait_until("the new port is open", || !is_closed(second));
    assert!(answers(first) && answers(second));

    let mut client = TestClient::connect(first);
    client.send(build_request("GET", "/livez", "", ""));
    assert_eq!(client.read_response().status, 200);
    assert_eq!(reload(&[second]).status, 200);
    wait_until("the old port is closed", || is_closed(first));
    client.send(build_request("GET", "/livez", "", ""));
    assert_eq!(client.read_response().status, 200, "its connections stay open");

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let refused = reload(&[second, taken.local_addr().unwrap()]);
    assert!(refused.status == 400 && refused.text().contains("another process has the port"), "{}", refused.text());
    assert!(answers(second));
}

#[test]
fn reload_moves_logs() {
    let replica = start_replica(&["m"]);
    let folder = std::env::temp_dir().join(format!("tokenweir-reload-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let text = |access: &str, format: &str, level: &str| {
        let [access, error] = [access, "errors.log"].map(|name| folder.join(name).display().to_string());
        let log =
            format!("[log]\naccess = {access:?}\nerror = {error:?}\nformat = \"{format}\"\nlevel = \"{level}\"\n");
        let formats = "[log.formats]\na = 'a $request_uri'\nb = 'b $request_uri'\n";
        format!("replicas = [{:?}]\n{log}{formats}", replica.url())
    };
    let (router, file) = start_reloadable_router(&text("one.log", "a", "error"));
    let reload = |text: String| {
        *file.lock().unwrap() = text;
        send_request(router.admin_addr, "POST", "/reload", "", "")
    };
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap_or_default();
    router.get("/livez?1");
    let reply = reload(text("two.log", "b", "info"));
    assert_eq!(reply.status, 200, "{}", reply.text());
    router.get("/livez?2");
    wait_until("both log files are written", || read("one.log").contains("?1") && read("two.log").contains("?2"));
    assert_eq!((read("one.log").as_str(), read("two.log").as_str()), ("a /livez?1\n", "b /livez?2\n"));
    wait_until("the new level applies", || read("errors.log").contains("reloaded"));

    let refused = reload(text("no/such/folder.log", "a", "info"));
    assert_eq!(refused.status, 400, "{}", refused.text());
    router.get("/livez?3");
    wait_until("the previous log stays in use", || read("two.log").contains("?3"));
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn admin_api_adds_weighs_drains_and_removes_replicas() {
    let replicas = [start_replica(&["m"]), start_replica(&["m"])];
    let (router, _file) =
        start_reloadable_router(&format!("replicas = [{:?}]\npolicy = \"round_robin\"", replicas[0].url()));
    let admin =
        |method: &str, path: &str, body: String| send_request(router.admin_addr, method, path, JSON_HEADER, body);
    let name = replicas[1].addr().to_string();

    let words = format!("{{\"replica\":\"{} weight=2\"}}", replicas[1].url());
    let added = admin("POST", "/pools/default/replicas", words.clone());
    assert_eq!(added.json()["replicas"][1]["weight"], 2, "{}", added.text());
    assert_eq!(admin("POST", "/pools/default/replicas", words).status, 400, "a replica cannot be added twice");
    wait_until("the added replica is admitted", || list_pools(&router)[0]["replicas"][1]["state"] == "admitted");
    let picks = |n| {
        let to = |_| router.post(CHAT_PATH, chat_body("m", 1, false)).header("x-upstream").unwrap().to_owned();
        (0..n).map(to).filter(|upstream| *upstream == name).count()
    };
    assert_eq!(picks(6), 4);
    assert_eq!(admin("PUT", &format!("/pools/default/replicas/{name}"), "{\"weight\":1}".into()).status, 200);
    assert_eq!(picks(6), 3);
    let drained = admin("POST", &format!("/replicas/{name}/drain"), String::new());
    assert_eq!(drained.json()[0]["replicas"][1]["state"], "drained");
    assert_eq!(picks(4), 0);
    admin("DELETE", &format!("/replicas/{name}/drain"), String::new());
    assert_eq!(picks(4), 2);
    assert_eq!(admin("DELETE", &format!("/pools/default/replicas/{name}"), String::new()).status, 200);
    assert_eq!(picks(4), 0);
    let last = format!("/pools/default/replicas/{}", replicas[0].addr());
    assert_eq!(admin("DELETE", &last, String::new()).status, 400, "a pool keeps its last replica");
    for path in ["/pools/x/replicas/y", "/pools/default/replicas/y"] {
        assert_eq!(admin("DELETE", path, String::new()).status, 404);
    }
    assert_eq!(admin("POST", "/pools/default/replicas", "{\"replica\":\"nonsense\"}".into()).status, 400);
}

#[test]
fn data_port_has_no_admin_api() {
    let replica = start_replica(&["m"]);
    let (router, _file) = start_reloadable_router(&format!("replicas = [{:?}]", replica.url()));
    for (method, path) in
        [("POST", "/reload"), ("GET", "/pools"), ("POST", "/pools/default/replicas"), ("GET", "/metrics")]
    {
        assert_eq!(router.send_request(method, path, JSON_HEADER, "{}").status, 404, "{path}");
    }
}

#[test]
fn reloads_lose_no_request_and_no_stream() {
    const STREAMS: usize = 50;
    let replicas = [start_replica(&["m"]), start_replica(&["m"]), start_replica(&["m"])];
    let [a, b, c] = replicas.each_ref().map(|r| r.url());
    let texts = [
        format!("replicas = [{a:?}, {b:?}]"),
        format!("replicas = [{b:?}, {c:?}]\npolicy = \"round_robin\""),
        format!("[[pool]]\nmodel = \"m\"\nreplicas = [{a:?}, \"{c} weight=3\"]"),
    ];
    let (router, file) = start_reloadable_router(&texts[0]);
    wait_until("all replicas are known", || router.get("/readyz").status == 200);
    let mut streams: Vec<_> = (0..STREAMS).map(|_| router.connect()).collect();
    for (i, stream) in streams.iter_mut().enumerate() {
        let headers = format!("x-request-id: s{i}\r\nx-emulate-lockstep: 1\r\n");
        stream.send(build_request("POST", CHAT_PATH, &headers, chat_body("m", 4, true)));
        assert_eq!(stream.read_head().status, 200);
    }
    let (failed, done) = (AtomicU32::new(0), AtomicBool::new(false));
    let answered = AtomicU32::new(0);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let status = router.post(CHAT_PATH, chat_body("m", 2, false)).status;
                    answered.fetch_add(1, Ordering::Relaxed);
                    failed.fetch_add(u32::from(status != 200), Ordering::Relaxed);
                }
            });
        }
        for round in 1..=20 {
            let before = answered.load(Ordering::Relaxed);
            *file.lock().unwrap() = texts[round % 3].clone();
            let reply = send_request(router.admin_addr, "POST", "/reload", "", "");
            assert_eq!(reply.status, 200, "{}", reply.text());
            wait_until("requests continue", || answered.load(Ordering::Relaxed) >= before + 10);
        }
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!(failed.load(Ordering::Relaxed), 0, "of {}", answered.load(Ordering::Relaxed));
    for (i, stream) in streams.iter_mut().enumerate() {
        // The stream continues on its replica; the other replicas have no such stream.
        let mut body = Vec::new();
        while !String::from_utf8_lossy(&body).contains("[DONE]") {
            replicas.iter().for_each(|r| drop(send_request(r.addr(), "POST", &format!("/emulate/next/s{i}"), "", "")));
            body.extend(stream.read_piece().expect("the stream continues"));
        }
    }
    drop(streams);
    wait_until("no lease is left", || router.in_flight() == 0);
}

/// Sends requests at a steady rate; returns how many did not get a 200.
fn send_steadily(router: &TestRouter, clock: Clock, interval: Duration, count: u32) -> u32 {
    let mut failed = 0;
    for at in 0..count {
        thread::sleep((Moment::ZERO + interval * at).since(clock.now()));
        let reply = router.post(CHAT_PATH, chat_body("m", 2, false));
        failed += u32::from(reply.status != 200 || !reply.complete);
    }
    failed
}

#[test]
fn ten_seconds_of_reloads_and_drains_under_load_lose_nothing() {
    const STREAMS: usize = 50;
    const ROUNDS: usize = 20;
    let replicas = [(); 4].map(|()| start_replica(&["m"]));
    let [a, b, c, d] = replicas.each_ref().map(|r| r.url());
    let texts = [
        format!("replicas = [{a:?}, {b:?}, \"{c} slow_start=1s\"]"),
        format!("replicas = [{b:?}, {c:?}]\npolicy = \"round_robin\""),
        format!("replicas = [{a:?}, {c:?}, {b:?}]\npolicy = \"hash $session consistent\""),
    ];
    let (router, file) = start_reloadable_router(&texts[0]);
    let mut streams: Vec<_> = (0..STREAMS).map(|_| router.connect()).collect();
    for (i, stream) in streams.iter_mut().enumerate() {
        let headers = format!("x-request-id: s{i}\r\nx-emulate-lockstep: 1\r\n");
        stream.send(build_request("POST", CHAT_PATH, &headers, chat_body("m", 4, true)));
        assert_eq!(stream.read_head().status, 200);
    }
    let admin = |method: &str, path: &str, body: &str| {
        let reply = send_request(router.admin_addr, method, path, JSON_HEADER, body);
        assert_eq!(reply.status, 200, "{method} {path}: {}", reply.text());
    };
    let clock = Clock::start();
    let failed: u32 = thread::scope(|scope| {
        // 4 x 50 requests per second for 10 s.
        let load: Vec<_> =
            (0..4).map(|_| scope.spawn(|| send_steadily(&router, clock, Duration::from_millis(20), 500))).collect();
        let added = replicas[3].addr().to_string();
        for round in 1..=ROUNDS {
            *file.lock().unwrap() = texts[round % 3].clone();
            admin("POST", "/reload", "");
            admin("POST", "/pools/default/replicas", &format!("{{\"replica\":{d:?}}}"));
            wait_until("the router serves", || {
                list_pools(&router)[0]["replicas"].to_string().matches("admitted").count() > 2
            });
            admin("POST", &format!("/replicas/{added}/drain"), "");
            admin("DELETE", &format!("/pools/default/replicas/{added}"), "");
            let b = replicas[1].addr();
            admin("POST", &format!("/replicas/{b}/drain"), "");
            admin("DELETE", &format!("/replicas/{b}/drain"), "");
            let next = Moment::ZERO + Duration::from_millis(500) * u32::try_from(round).unwrap();
            thread::sleep(next.since(clock.now()));
        }
        load.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(failed, 0, "of 2,000 requests");
    for (i, stream) in streams.iter_mut().enumerate() {
        let mut body = Vec::new();
        while !String::from_utf8_lossy(&body).contains("[DONE]") {
            replicas.iter().for_each(|r| drop(send_request(r.addr(), "POST", &format!("/emulate/next/s{i}"), "", "")));
            body.extend(stream.read_piece().expect("the stream continues"));
        }
    }
    drop(streams);
    wait_until("no lease is left", || router.in_flight() == 0);
    wait_until("no replica has a request", || replicas.iter().all(|r| r.counters().open_requests() == 0));
    assert_eq!(router.sum_metric("tokenweir_in_flight", &[]), 0.0);
    assert_eq!(router.sum_metric("tokenweir_attempts_total", &["outcome=\"failed\""]), 0.0);
    assert_eq!(router.sum_metric("tokenweir_attempts_total", &["outcome=\"completed\""]), 2_050.0);
}
