//! `GET /live`: order and shape of the events, and their figures.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;

use serde_json::{Value, json};

use crate::harness::scripted::ScriptedReplica;
use crate::harness::{TEST_TIMEOUT, TestRouter, chat_body, send_request, start_replica, unused_addr};

const CHAT_PATH: &str = "/v1/chat/completions";

/// A viewer of the feed.
struct Viewer(BufReader<TcpStream>);

impl Viewer {
    fn connect(router: &TestRouter) -> Self {
        let mut stream = TcpStream::connect(router.admin_addr).unwrap();
        stream.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
        write!(stream, "GET /live HTTP/1.1\r\nhost: {}\r\n\r\n", router.admin_addr).unwrap();
        Self(BufReader::new(stream))
    }

    /// Returns the next event: its name and its JSON.
    fn next_event(&mut self) -> (String, Value) {
        let mut name = String::new();
        let mut line = String::new();
        loop {
            line.clear();
            assert!(self.0.read_line(&mut line).unwrap() > 0, "the feed has ended");
            if let Some(text) = line.strip_prefix("event: ") {
                name = text.trim().to_owned();
            } else if let Some(data) = line.strip_prefix("data: ") {
                return (name, serde_json::from_str(data).unwrap());
            }
        }
    }

    /// Returns the first `second` for which `is_wanted` holds.
    fn wait_for_second(&mut self, is_wanted: impl Fn(&Value) -> bool) -> Value {
        for _ in 0..20 {
            let (name, json) = self.next_event();
            if name == "second" && is_wanted(&json) {
                return json;
            }
        }
        panic!("no such second");
    }
}

/// Returns the place of a member in a row.
fn place(meta: &Value, fields: &str, name: &str) -> usize {
    meta[fields].as_array().unwrap().iter().position(|field| field == name).unwrap()
}

#[test]
fn feed_begins_with_meta_and_history_and_its_figures_are_those_of_pools() {
    let replicas = [start_replica(&["m"]), start_replica(&["m"])];
    let router =
        TestRouter::start_with_replicas(replicas.iter().map(|r| r.url()).collect::<Vec<_>>().iter().map(|url| &**url));
    for _ in 0..4 {
        assert_eq!(router.post(CHAT_PATH, chat_body("m", 5, true)).status, 200);
    }
    let mut viewer = Viewer::connect(&router);
    let (first, meta) = viewer.next_event();
    let (then, history) = viewer.next_event();
    assert_eq!((first.as_str(), then.as_str()), ("meta", "history"));
    assert_eq!(meta["pools"][0]["replicas"].as_array().unwrap().len(), 2);
    assert_eq!(history["requests"].as_array().unwrap().len(), 4);
    let second = viewer.wait_for_second(|_| true);
    let pools = send_request(router.admin_addr, "GET", "/pools", "", "").json();
    let cell =
        |row: usize, name: &str| second["pools"][0]["replicas"][row][place(&meta, "replica_fields", name)].clone();
    for row in 0..2 {
        let view = &pools[0]["replicas"][row];
        assert_eq!(cell(row, "state"), view["state"]);
        assert_eq!(cell(row, "in_flight"), view["in_flight"]);
        assert_eq!(cell(row, "resident_tokens"), view["load"]["resident_tokens"]);
        assert_eq!(cell(row, "failures"), view["failures"]);
    }
    let request = &history["requests"][3];
    assert_eq!(request[place(&meta, "request_fields", "outcome")], "completed");
    assert_eq!(request[place(&meta, "request_fields", "model")], "m");
    assert_eq!(request[place(&meta, "request_fields", "completion_tokens")], 5);
    // Another viewer sees what has passed.
    let mut other = Viewer::connect(&router);
    other.next_event();
    let (_, history) = other.next_event();
    let ended: u64 = history["outcomes"]["completed"].as_array().unwrap().iter().filter_map(Value::as_u64).sum();
    assert_eq!(ended, 4, "{history}");
}

#[test]
fn retried_request_is_one_row_and_a_dead_replica_is_named() {
    let (alive, dead) = (start_replica(&["m"]), unused_addr());
    let router = TestRouter::start(&format!(
        "paths = \"any\"\npolicy = \"round_robin\"\nreplicas = [\"http://{dead} name=dead\", \"{} name=alive\"]\n",
        alive.url()
    ));
    let mut viewer = Viewer::connect(&router);
    let (_, meta) = viewer.next_event();
    for _ in 0..2 {
        assert_eq!(router.post(CHAT_PATH, chat_body("m", 2, false)).status, 200);
    }
    let second = viewer.wait_for_second(|second| second["pools"][0]["state"] == "degraded");
    assert!(second["pools"][0]["reason"].as_str().unwrap().contains("dead"), "{second}");
    let decisions = Viewer::connect(&router).wait_for_history();
    let why = place(&meta, "request_fields", "why");
    let retried: Vec<&Value> =
        decisions["requests"].as_array().unwrap().iter().filter(|row| row[why] == "retried").collect();
    assert_eq!(retried.len(), 1, "{decisions}");
    assert_eq!(retried[0][place(&meta, "request_fields", "replica")], "alive");
    assert_eq!(retried[0][place(&meta, "request_fields", "attempts")], 2);
}

impl Viewer {
    fn wait_for_history(&mut self) -> Value {
        loop {
            let (name, json) = self.next_event();
            if name == "history" {
                return json;
            }
        }
    }
}

#[test]
fn tokens_are_counted_while_a_stream_runs() {
    let slow = ScriptedReplica::start(&["m"], |_, to| {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
        to.write_all(head.as_bytes()).unwrap();
        let event = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}}]}\n\n";
        while write!(to, "{:x}\r\n{event}\r\n", event.len()).is_ok() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        false
    });
    let router = TestRouter::start(&format!("replicas = [{:?}]", slow.url())).wait_until_ready();
    let mut client = router.connect();
    client.send(crate::harness::client::build_request("POST", CHAT_PATH, "", chat_body("m", 1, true)));
    assert_eq!(client.read_head().status, 200);
    let mut viewer = Viewer::connect(&router);
    let (_, meta) = viewer.next_event();
    let rate = place(&meta, "replica_fields", "generated_tokens_per_second");
    let second = viewer
        .wait_for_second(|second| second["pools"][0]["replicas"][0][rate].as_f64().is_some_and(|rate| rate > 20.0));
    assert_eq!(second["router"]["in_flight"], 1);
    assert_eq!(second["router"]["outcomes"]["completed"], 0);
}

#[test]
fn viewers_leave_connections_to_health_checks() {
    let replica = start_replica(&["m"]);
    let router = TestRouter::start(&format!("replicas = [{:?}]", replica.url())).wait_until_ready();
    let viewers: Vec<Viewer> = (0..32)
        .map(|_| {
            let mut viewer = Viewer::connect(&router);
            assert_eq!(viewer.next_event().0, "meta");
            viewer
        })
        .collect();
    let ask = |path| send_request(router.admin_addr, "GET", path, "", "");
    let refused = ask("/live");
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert_eq!(ask("/livez").status, 200);
    drop(viewers);
    let mut viewer = Viewer::connect(&router);
    let has_place = (0..50).any(|_| {
        let mut line = String::new();
        viewer.0.read_line(&mut line).unwrap();
        let is_served = line.starts_with("HTTP/1.1 200");
        if !is_served {
            std::thread::sleep(std::time::Duration::from_millis(100));
            viewer = Viewer::connect(&router);
        }
        is_served
    });
    assert!(has_place, "viewers that left make room");
}

#[test]
fn second_of_256_replicas_is_smaller_than_64_kib() {
    let replicas: Vec<String> =
        (1..=256).map(|port| format!("\"http://127.0.0.1:{port} name=replica-{port}\"")).collect();
    let router = TestRouter::start(&format!("paths = \"any\"\nreplicas = [{}]", replicas.join(", ")));
    let mut viewer = Viewer::connect(&router);
    let second = viewer.wait_for_second(|_| true);
    assert_eq!(second["pools"][0]["replicas"].as_array().unwrap().len(), 256);
    let bytes = second.to_string().len();
    assert!(bytes < 64 << 10, "{bytes}");
}

#[test]
fn policy_and_service_of_a_replica_are_changed_live() {
    let replicas = [start_replica(&["m"]), start_replica(&["m"])];
    let router =
        TestRouter::start_with_replicas(replicas.iter().map(|r| r.url()).collect::<Vec<_>>().iter().map(|url| &**url));
    let put = |path: &str, body: Value| {
        send_request(router.admin_addr, "PUT", path, "content-type: application/json\r\n", body.to_string())
    };
    let name = send_request(router.admin_addr, "GET", "/pools", "", "").json()[0]["replicas"][0]["name"]
        .as_str()
        .unwrap()
        .to_owned();
    let changed = put("/pools/default/policy", json!({"policy": "hash $session consistent"}));
    assert_eq!((changed.status, changed.json()["policy"].as_str()), (200, Some("hash $session consistent")));
    assert_eq!(put("/pools/default/policy", json!({"policy": "fastest"})).status, 400);
    assert_eq!(put("/pools/none/policy", json!({"policy": "random"})).status, 404);
    let down = put(&format!("/pools/default/replicas/{name}"), json!({"down": true})).json();
    assert_eq!(down["replicas"][0]["state"], "down");
    let up = put(&format!("/pools/default/replicas/{name}"), json!({"down": false, "weight": 3})).json();
    assert_eq!((&up["replicas"][0]["state"], &up["replicas"][0]["weight"]), (&json!("admitted"), &json!(3)));
}
