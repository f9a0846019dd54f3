//! Policies that know a request by a key, over real sockets.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use crate::harness::scripted::{Scripted, friendly, whole};
use crate::harness::{Router, wait_until};
use tokenweir::config::{self, Listen, Sink};
use tokenweir::serve::Server;

fn four() -> Vec<Scripted> {
    (0..4).map(|_| Scripted::start(&["m"], friendly)).collect()
}

fn router(policy: &str, replicas: &[Scripted]) -> Router {
    let urls: Vec<String> = replicas.iter().map(Scripted::url).collect();
    Router::start(&format!("policy = \"{policy}\"\nreplicas = {urls:?}")).ready()
}

/// The replica that a chat goes to; `more` are members of its body.
fn chosen(router: &Router, headers: &str, more: &str, messages: &str) -> String {
    let body = format!(r#"{{"model":"m"{more},"messages":{messages}}}"#);
    let reply = router.ask("POST", "/v1/chat/completions", headers, body);
    reply.header("x-upstream").expect("a replica answered").to_owned()
}

const HELLO: &str = r#"[{"role":"user","content":"hello"}]"#;

/// A chat whose messages no other has.
fn fresh(at: usize) -> String {
    format!(r#"[{{"role":"system","content":"be kind"}},{{"role":"user","content":"question {at}"}}]"#)
}

#[test]
fn a_session_stays_where_it_is_by_the_first_thing_it_has() {
    let replicas = four();
    let router = router("hash $session consistent", &replicas);
    let go = |headers: &str, more: &str| {
        let picks = (0..6).map(|at| chosen(&router, headers, more, &fresh(at)));
        picks.collect::<BTreeSet<String>>()
    };
    let cache = r#","prompt_cache_key":"c1","user":"u1""#;
    let user = r#","user":"u1""#;
    let header = "x-session-id: s1\r\n";
    for (headers, more) in [("", cache), (header, cache), (header, user), (header, ""), ("", user)] {
        assert_eq!(go(headers, more).len(), 1, "{headers:?} {more:?}");
    }
    assert_eq!(go("", cache), go(header, cache), "prompt_cache_key comes before the header");
    assert_eq!(go(header, user), go(header, ""), "the header comes before user");
    assert!(go("", "").len() > 1, "different conversations are spread");
}

#[test]
fn a_conversation_without_any_name_stays_where_its_first_message_went() {
    let replicas = four();
    let router = router("hash $session consistent", &replicas);
    for at in 0..6 {
        let first = chosen(&router, "", "", &fresh(at));
        let grown = fresh(at).replace(']', r#",{"role":"assistant","content":"x"},{"role":"user","content":"y"}]"#);
        assert_eq!(chosen(&router, "", "", &grown), first);
    }
}

#[test]
fn each_variable_is_what_its_name_says() {
    let replicas = four();
    for (policy, steady, moving) in [
        ("hash $user", r#","user":"u""#, ""),
        ("hash $model", "", ""),
        ("hash $http_x_team consistent", "x-team: a\r\n", ""),
        ("hash $remote_addr consistent", "", ""),
        ("hash $request_uri consistent", "", ""),
    ] {
        let router = router(policy, &replicas);
        let (headers, more) = if steady.starts_with('x') { (steady, moving) } else { ("", steady) };
        let picks: BTreeSet<String> = (0..6).map(|at| chosen(&router, headers, more, &fresh(at))).collect();
        assert_eq!(picks.len(), 1, "{policy}");
    }
    // An absent member is empty, and requests with an empty key take turns.
    let router = router("hash $user consistent", &replicas);
    let picks: BTreeSet<String> = (0..4).map(|_| chosen(&router, "", "", HELLO)).collect();
    assert_eq!(picks.len(), 4);
}

#[test]
fn a_pool_that_takes_over_uses_its_own_key() {
    let (replicas, gone) = (four(), crate::harness::nowhere());
    let urls: Vec<String> = replicas.iter().map(Scripted::url).collect();
    let router = Router::start(&format!(
        "[[pool]]\nname = \"first\"\nmodel = \"m\"\npolicy = \"hash $request_uri\"\nfallback = \"second\"\n\
         replicas = [\"http://{gone} down\"]\n\
         [[pool]]\nname = \"second\"\nmodel = \"n\"\npolicy = \"hash $user consistent\"\nreplicas = {urls:?}"
    ));
    wait_until("the second pool is ready", || !router.server.fleet().pools()[1].is_waiting());
    let by_user = |user: usize| {
        let more = format!(r#","user":"u{user}""#);
        (0..3).map(|at| chosen(&router, "", &more, &fresh(at))).collect::<BTreeSet<String>>()
    };
    let all: Vec<BTreeSet<String>> = (0..12).map(by_user).collect();
    assert!(all.iter().all(|picks| picks.len() == 1));
    assert!(all.iter().collect::<BTreeSet<_>>().len() > 1);
}

#[test]
fn the_replica_that_answers_sooner_gets_the_requests() {
    let slow = Scripted::start(&["m"], |_, to| {
        std::thread::sleep(Duration::from_millis(120));
        std::io::Write::write_all(to, &whole(200, "application/json", "{}")).is_ok()
    });
    let fast = Scripted::start(&["m"], friendly);
    for policy in ["least_time first_byte", "least_time last_byte"] {
        let urls = [slow.url(), fast.url()];
        let router = Router::start(&format!("policy = \"{policy}\"\nreplicas = {urls:?}")).ready();
        let picks: Vec<String> = (0..20).map(|_| chosen(&router, "", "", HELLO)).collect();
        let to_slow = picks.iter().filter(|pick| slow.url().ends_with(pick.as_str())).count();
        // Both are unknown at first, so the slow one is tried.
        assert!((1..=2).contains(&to_slow), "{policy}: {to_slow} of 20");
    }
}

#[test]
fn one_key_for_nearly_all_requests_is_reported_once() {
    let replicas = four();
    let urls: Vec<String> = replicas.iter().map(Scripted::url).collect();
    let text = format!("listen = \"127.0.0.1:0\"\npolicy = \"hash $user consistent\"\nreplicas = {urls:?}");
    let mut settings = config::load(&text, "router.toml", []).unwrap().settings;
    let log = std::env::temp_dir().join(format!("tokenweir-keys-{}.log", std::process::id()));
    settings.admin = None;
    settings.log.access = Sink::Off;
    settings.log.error = Sink::File(log.clone());
    let server = Server::start(settings).unwrap();
    let Some(Listen::Tcp(addr)) = server.listening().first() else { panic!("it listens at a TCP port") };
    wait_until("the replicas are known", || !server.fleet().pools()[0].is_waiting());
    let mut client = crate::harness::client::Client::connect(*addr);
    let body = format!(r#"{{"model":"m","user":"u","messages":{HELLO}}}"#);
    for _ in 0..4_100 {
        client.send(crate::harness::client::request("POST", "/v1/chat/completions", "", &body));
        assert_eq!(client.reply().status, 200);
    }
    let said = || fs::read_to_string(&log).unwrap_or_default().matches("had one key").count();
    wait_until("it is reported", || said() > 0);
    server.stop();
    assert_eq!(said(), 1);
    fs::remove_file(&log).unwrap();
}
