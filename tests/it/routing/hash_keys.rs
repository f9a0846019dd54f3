//! Hash policies and their keys, over real sockets.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use crate::harness::scripted::{ScriptedReplica, build_response, respond_ok};
use crate::harness::{TestRouter, wait_until};
use tokenweir::config::{self, LogSink};
use tokenweir::routes::ListenAddr;
use tokenweir::server::Server;

fn start_four_replicas() -> Vec<ScriptedReplica> {
    (0..4).map(|_| ScriptedReplica::start(&["m"], respond_ok)).collect()
}

fn start_router(policy: &str, replicas: &[ScriptedReplica]) -> TestRouter {
    let urls: Vec<String> = replicas.iter().map(ScriptedReplica::url).collect();
    TestRouter::start(&format!("policy = \"{policy}\"\nreplicas = {urls:?}")).wait_until_ready()
}

/// Returns the replica that answers a chat; `more` are further members of its body.
fn chosen_replica(router: &TestRouter, headers: &str, more: &str, messages: &str) -> String {
    let body = format!(r#"{{"model":"m"{more},"messages":{messages}}}"#);
    let reply = router.send_request("POST", "/v1/chat/completions", headers, body);
    reply.header("x-upstream").expect("a replica answered").to_owned()
}

const HELLO_MESSAGES: &str = r#"[{"role":"user","content":"hello"}]"#;

/// Returns messages of a chat that no other request shares.
fn fresh_messages(index: usize) -> String {
    format!(r#"[{{"role":"system","content":"be kind"}},{{"role":"user","content":"question {index}"}}]"#)
}

#[test]
fn session_key_is_the_first_available_identifier() {
    let replicas = start_four_replicas();
    let router = start_router("hash $session consistent", &replicas);
    let pick = |headers: &str, more: &str| {
        let picks = (0..6).map(|at| chosen_replica(&router, headers, more, &fresh_messages(at)));
        picks.collect::<BTreeSet<String>>()
    };
    let cache = r#","prompt_cache_key":"c1","user":"u1""#;
    let user = r#","user":"u1""#;
    let header = "x-session-id: s1\r\n";
    for (headers, more) in [("", cache), (header, cache), (header, user), (header, ""), ("", user)] {
        assert_eq!(pick(headers, more).len(), 1, "{headers:?} {more:?}");
    }
    assert_eq!(pick("", cache), pick(header, cache), "prompt_cache_key comes before the header");
    assert_eq!(pick(header, user), pick(header, ""), "the header comes before user");
    assert!(pick("", "").len() > 1, "different conversations are spread");
}

#[test]
fn conversation_without_id_follows_its_first_message() {
    let replicas = start_four_replicas();
    let router = start_router("hash $session consistent", &replicas);
    for at in 0..6 {
        let first = chosen_replica(&router, "", "", &fresh_messages(at));
        let grown =
            fresh_messages(at).replace(']', r#",{"role":"assistant","content":"x"},{"role":"user","content":"y"}]"#);
        assert_eq!(chosen_replica(&router, "", "", &grown), first);
    }
}

#[test]
fn hash_key_variable_has_its_documented_value() {
    let replicas = start_four_replicas();
    for (policy, steady, moving) in [
        ("hash $user", r#","user":"u""#, ""),
        ("hash $model", "", ""),
        ("hash $http_x_team consistent", "x-team: a\r\n", ""),
        ("hash $remote_addr consistent", "", ""),
        ("hash $request_uri consistent", "", ""),
    ] {
        let router = start_router(policy, &replicas);
        let (headers, more) = if steady.starts_with('x') { (steady, moving) } else { ("", steady) };
        let picks: BTreeSet<String> =
            (0..6).map(|at| chosen_replica(&router, headers, more, &fresh_messages(at))).collect();
        assert_eq!(picks.len(), 1, "{policy}");
    }
    // An absent member is empty, and requests with an empty key take turns.
    let router = start_router("hash $user consistent", &replicas);
    let picks: BTreeSet<String> = (0..4).map(|_| chosen_replica(&router, "", "", HELLO_MESSAGES)).collect();
    assert_eq!(picks.len(), 4);
}

/// A key that a header names is the reference: each variable must lead to the replica of its value.
#[test]
fn variables_of_the_access_log_are_keys() {
    let replicas = start_four_replicas();
    let reference = start_router("hash $http_x_key consistent", &replicas);
    let pick = |router: &TestRouter, target: &str, headers: &str| {
        let body = format!(r#"{{"model":"m","messages":{HELLO_MESSAGES}}}"#);
        let reply = router.send_request("POST", target, headers, body);
        reply.header("x-upstream").expect("a replica answered").to_owned()
    };
    for (policy, target, headers, value) in [
        ("hash $arg_user consistent", "/v1/chat/completions?a=1&User=N", "", "N"),
        ("hash $args consistent", "/v1/chat/completions?a=N", "", "a=N"),
        ("hash $cookie_sid consistent", "/v1/chat/completions", "cookie: a=b; SID=N\r\n", "N"),
        ("hash $http_cookie consistent", "/v1/chat/completions", "cookie: a\r\ncookie: N\r\n", "a; N"),
        ("hash $host-$http_host consistent", "/v1/chat/completions", "host: AN.:80\r\n", "aN-AN.:80"),
        ("hash $uri$is_args consistent", "/v1/chat/completions?N", "", "/v1/chat/completions?"),
        ("hash $request_method/$scheme consistent", "/v1/chat/completions", "", "POST/http"),
        ("hash $content_type$arg_n consistent", "/v1/chat/completions?n=N", "", "application/jsonN"),
    ] {
        let router = start_router(policy, &replicas);
        for number in 0..8 {
            let [target, headers, value] = [target, headers, value].map(|text| text.replace('N', &number.to_string()));
            let expected = pick(&reference, "/v1/chat/completions", &format!("x-key: {value}\r\n"));
            assert_eq!(pick(&router, &target, &headers), expected, "{policy} {value}");
        }
    }
}

#[test]
fn fallback_pool_uses_its_own_key() {
    let (replicas, gone) = (start_four_replicas(), crate::harness::unused_addr());
    let urls: Vec<String> = replicas.iter().map(ScriptedReplica::url).collect();
    let router = TestRouter::start(&format!(
        "[[pool]]\nname = \"first\"\nmodel = \"m\"\npolicy = \"hash $request_uri\"\nfallback = \"second\"\n\
         replicas = [\"http://{gone} down\"]\n\
         [[pool]]\nname = \"second\"\nmodel = \"n\"\npolicy = \"hash $user consistent\"\nreplicas = {urls:?}"
    ));
    wait_until("the second pool is ready", || !router.server.fleet().pools()[1].is_waiting_for_models());
    let by_user = |user: usize| {
        let more = format!(r#","user":"u{user}""#);
        (0..3).map(|at| chosen_replica(&router, "", &more, &fresh_messages(at))).collect::<BTreeSet<String>>()
    };
    let all: Vec<BTreeSet<String>> = (0..12).map(by_user).collect();
    assert!(all.iter().all(|picks| picks.len() == 1));
    assert!(all.iter().collect::<BTreeSet<_>>().len() > 1);
}

#[test]
fn least_time_prefers_the_faster_replica() {
    let slow = ScriptedReplica::start(&["m"], |_, to| {
        std::thread::sleep(Duration::from_millis(120));
        std::io::Write::write_all(to, &build_response(200, "application/json", "{}")).is_ok()
    });
    let fast = ScriptedReplica::start(&["m"], respond_ok);
    for policy in ["least_time first_byte", "least_time last_byte"] {
        let urls = [slow.url(), fast.url()];
        let router = TestRouter::start(&format!("policy = \"{policy}\"\nreplicas = {urls:?}")).wait_until_ready();
        let picks: Vec<String> = (0..20).map(|_| chosen_replica(&router, "", "", HELLO_MESSAGES)).collect();
        let to_slow = picks.iter().filter(|pick| slow.url().ends_with(pick.as_str())).count();
        // Both replicas are unknown at first, so the slow one is tried.
        assert!((1..=2).contains(&to_slow), "{policy}: {to_slow} of 20");
    }
}

#[test]
fn hot_key_is_reported_once() {
    let replicas = start_four_replicas();
    let urls: Vec<String> = replicas.iter().map(ScriptedReplica::url).collect();
    let text = format!("listen = \"127.0.0.1:0\"\npolicy = \"hash $user consistent\"\nreplicas = {urls:?}");
    let mut settings = config::load(&text, "router.toml", []).unwrap().settings;
    let log = std::env::temp_dir().join(format!("tokenweir-keys-{}.log", std::process::id()));
    settings.admin = None;
    settings.log.access = LogSink::Off;
    settings.log.error = LogSink::File(log.clone());
    let server = Server::start(settings).unwrap();
    let Some(ListenAddr::Tcp(addr)) = server.listen_addresses().first() else {
        panic!("the router has no TCP listener")
    };
    wait_until("the replicas are known", || !server.fleet().pools()[0].is_waiting_for_models());
    let mut client = crate::harness::client::TestClient::connect(*addr);
    let body = format!(r#"{{"model":"m","user":"u","messages":{HELLO_MESSAGES}}}"#);
    for _ in 0..4_100 {
        client.send(crate::harness::client::build_request("POST", "/v1/chat/completions", "", &body));
        assert_eq!(client.read_response().status, 200);
    }
    let log_count = || fs::read_to_string(&log).unwrap_or_default().matches("had one hash key").count();
    wait_until("the shared key is logged", || log_count() > 0);
    server.stop();
    assert_eq!(log_count(), 1);
    fs::remove_file(&log).unwrap();
}
