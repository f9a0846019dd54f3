//! Sticky clients: nginx's `sticky`, and the fallback when their replica is unavailable.

use std::collections::BTreeSet;
use std::io::Write;

use crate::harness::client::HttpResponse;
use crate::harness::scripted::{ScriptedReplica, respond_ok};
use crate::harness::{TestRouter, chat_body, send_request, start_replica, wait_until};

const CHAT_PATH: &str = "/v1/chat/completions";

/// Starts a router over three replicas under round robin, with additional keys.
fn start_router(replicas: &[ScriptedReplica], more: &str) -> TestRouter {
    let urls: Vec<String> = replicas.iter().map(ScriptedReplica::url).collect();
    TestRouter::start(&format!("policy = \"round_robin\"\nreplicas = {urls:?}\n{more}")).wait_until_ready()
}

fn start_three_replicas() -> Vec<ScriptedReplica> {
    (0..3).map(|_| ScriptedReplica::start(&["m"], respond_ok)).collect()
}

fn post_chat(router: &TestRouter, headers: &str) -> HttpResponse {
    let reply = router.send_request("POST", CHAT_PATH, headers, chat_body("m", 1, false));
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply
}

fn chosen_replica(router: &TestRouter, headers: &str) -> String {
    post_chat(router, headers).header("x-upstream").unwrap().to_owned()
}

/// Returns the replicas that many requests with these headers reach.
fn chosen_replicas(router: &TestRouter, headers: &str) -> BTreeSet<String> {
    (0..6).map(|_| chosen_replica(router, headers)).collect()
}

fn set_drained(router: &TestRouter, name: &str, how: &str) {
    assert_eq!(send_request(router.admin_addr, how, &format!("/replicas/{name}/drain"), "", "").status, 200);
}

#[test]
fn sticky_cookie_binds_until_the_replica_is_ineligible() {
    let replicas = start_three_replicas();
    let router =
        start_router(&replicas, "sticky = { cookie = \"route\", expires = \"1h\", path = \"/\", httponly = true }");
    let first = post_chat(&router, "");
    let (home, cookie) = (first.header("x-upstream").unwrap(), first.header("set-cookie").unwrap());
    let (pair, attributes) = cookie.split_once("; ").unwrap();
    assert_eq!(attributes, "Max-Age=3600; Path=/; HttpOnly");
    let port = home.rsplit(':').next().unwrap();
    assert!(!pair.contains("127.0.0") && !pair.contains(port), "the cookie shows no address: {pair}");
    let mine = format!("cookie: other=1; {pair}\r\n");
    assert_eq!(chosen_replicas(&router, &mine), BTreeSet::from([home.to_owned()]));
    assert_eq!(post_chat(&router, &mine).header("set-cookie"), Some(cookie), "its age is counted from the last answer");
    assert_eq!(chosen_replicas(&router, "").len(), 3, "clients without a cookie are spread");
    assert_eq!(chosen_replicas(&router, "cookie: route=nonsense\r\n").len(), 3);

    // A restarted router maps the cookie to the same replica.
    let urls: Vec<String> = replicas.iter().rev().map(ScriptedReplica::url).collect();
    let again =
        TestRouter::start(&format!("sticky = {{ cookie = \"route\" }}\nreplicas = {urls:?}")).wait_until_ready();
    assert_eq!(chosen_replicas(&again, &mine), BTreeSet::from([home.to_owned()]));
    assert_eq!(post_chat(&again, &mine).header("set-cookie"), None, "without `expires` it stays with the browser");

    // When its replica is unavailable, the client moves and then stays on the new replica.
    set_drained(&router, home, "POST");
    let moved = post_chat(&router, &mine);
    let (new, cookie) = (moved.header("x-upstream").unwrap(), moved.header("set-cookie").unwrap());
    assert_ne!(new, home);
    set_drained(&router, home, "DELETE");
    let mine = format!("cookie: {}\r\n", cookie.split(';').next().unwrap());
    assert_eq!(chosen_replicas(&router, &mine), BTreeSet::from([new.to_owned()]));
}

#[test]
fn learned_session_moves_when_its_replica_is_ineligible() {
    // Each replica creates its own sessions for clients without one.
    let replicas: Vec<ScriptedReplica> = (0..3)
        .map(|at| {
            ScriptedReplica::start(&["m"], move |received, to| {
                let known = received.header("cookie").is_some_and(|cookie| cookie.contains("sid="));
                let cookie = if known { String::new() } else { format!("set-cookie: sid=s{at}; Path=/\r\n") };
                let head = format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n{cookie}");
                to.write_all(format!("{head}content-length: 2\r\n\r\n{{}}").as_bytes()).is_ok()
            })
        })
        .collect();
    let router = start_router(&replicas, "sticky = { learn = \"$upstream_cookie_sid\", lookup = \"$cookie_sid\" }");
    for at in 0..3 {
        let home = post_chat(&router, "");
        assert_eq!(home.head.matches("set-cookie").count(), 1, "the replica's own cookie and no other");
        let sid = home.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
        let home = home.header("x-upstream").unwrap().to_owned();
        assert_eq!(chosen_replicas(&router, &format!("cookie: {sid}\r\n")), BTreeSet::from([home]), "{at}");
    }
    assert_eq!(chosen_replicas(&router, "cookie: sid=unknown\r\n").len(), 3, "an unknown session is ignored");

    // The session moves when its replica is gone.
    let home = chosen_replica(&router, "cookie: sid=s1\r\n");
    set_drained(&router, &home, "POST");
    let new = chosen_replica(&router, "cookie: sid=s1\r\n");
    assert_ne!(new, home);
    set_drained(&router, &home, "DELETE");
    assert_eq!(chosen_replicas(&router, "cookie: sid=s1\r\n"), BTreeSet::from([new]));
}

#[test]
fn sticky_header_binds_its_session() {
    let replicas = start_three_replicas();
    let router = start_router(&replicas, "sticky = { header = \"X-Session-Id\", timeout = \"1h\" }");
    let session = |index: usize| format!("x-session-id: s{index}\r\n");
    let homes: Vec<String> = (0..6).map(|at| chosen_replica(&router, &session(at))).collect();
    assert_eq!(homes.iter().collect::<BTreeSet<_>>().len(), 3, "the policy spreads sessions");
    for (at, home) in homes.iter().enumerate() {
        assert_eq!(chosen_replicas(&router, &session(at)), BTreeSet::from([home.clone()]), "session {at}");
    }
    assert_eq!(post_chat(&router, &session(0)).header("set-cookie"), None);
    assert_eq!(chosen_replicas(&router, "").len(), 3, "requests without a session are spread");
}

#[test]
fn session_of_a_dead_or_full_replica_moves_without_failures() {
    let mut replicas = [(); 3].map(|()| start_replica(&["m"]));
    let urls = replicas.each_ref().map(|replica| format!("{} max_conns=1", replica.url()));
    let text = format!("policy = \"round_robin\"\nreplicas = {urls:?}\nsticky = {{ header = \"x-session-id\" }}");
    let router = TestRouter::start(&text).wait_until_ready();
    let session = "x-session-id: mine\r\n";
    let home = chosen_replica(&router, session);
    let mut busy = router.connect();
    let locked = format!("x-request-id: busy\r\nx-emulate-lockstep: 1\r\n{session}");
    busy.send(crate::harness::client::build_request("POST", CHAT_PATH, &locked, chat_body("m", 2, true)));
    assert_eq!(busy.read_head().header("x-upstream"), Some(&*home));
    let new = chosen_replica(&router, session);
    assert_ne!(new, home, "its replica is full");
    assert_eq!(chosen_replicas(&router, session), BTreeSet::from([new.clone()]), "the session has moved");
    drop(busy);
    wait_until("the stream has ended", || router.in_flight() == 0);
    replicas.iter_mut().find(|replica| replica.addr().to_string() == new).unwrap().stop();
    let last = chosen_replicas(&router, session);
    assert!(last.len() == 1 && !last.contains(&new), "{last:?}");
}

#[test]
fn draining_replica_serves_bound_clients_only() {
    let replicas = start_three_replicas();
    let words = |word: &str| {
        let [a, b, c] = [0, 1, 2].map(|at: usize| replicas[at].url());
        format!("policy = \"round_robin\"\nsticky = {{ cookie = \"route\" }}\nreplicas = [\"{a}{word}\", {b:?}, {c:?}]")
    };
    let before = TestRouter::start(&words("")).wait_until_ready();
    let name = replicas[0].addr.to_string();
    let cookie = (0..3).map(|_| post_chat(&before, "")).find(|reply| reply.header("x-upstream") == Some(&name));
    let cookie = cookie.unwrap().header("set-cookie").unwrap().to_owned();

    let router = TestRouter::start(&words(" drain")).wait_until_ready();
    let mine = format!("cookie: {cookie}\r\n");
    assert_eq!(chosen_replicas(&router, &mine), BTreeSet::from([name.clone()]), "its sticky client still reaches it");
    assert!(!chosen_replicas(&router, "").contains(&name), "other clients do not");
    let pools = send_request(router.admin_addr, "GET", "/pools", "", "").json();
    let states: Vec<_> = (0..3).map(|at| pools[0]["replicas"][at]["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["draining", "admitted", "admitted"]);
}

#[test]
fn forged_forwarding_header_moves_no_client() {
    let replicas = start_three_replicas();
    let urls: Vec<String> = replicas.iter().map(ScriptedReplica::url).collect();
    let log = std::env::temp_dir().join(format!("tokenweir-claims-{}.log", std::process::id()));
    let access = format!("[log]\naccess = {log:?}\nformat = '$remote_addr $replica'");
    let router = TestRouter::start(&format!("policy = \"ip_hash\"\nreplicas = {urls:?}\n{access}")).wait_until_ready();
    let claims = (0..20).map(|at| {
        let spoof = format!("X-Forwarded-For: 10.{at}.7.1\r\nX-Real-IP: 10.{at}.7.1\r\nForwarded: for=10.{at}.7.1\r\n");
        chosen_replica(&router, &spoof)
    });
    let chosen: BTreeSet<String> = claims.collect();
    assert_eq!(chosen.len(), 1, "{chosen:?}");
    wait_until("every request is logged", || {
        std::fs::read_to_string(&log).is_ok_and(|text| text.lines().count() == 20)
    });
    let text = std::fs::read_to_string(&log).unwrap();
    assert!(text.lines().all(|line| line.starts_with("127.0.0.1 ")), "{text}");
    std::fs::remove_file(&log).unwrap();
}
