//! Explanations of routing decisions: the admin listener, the `explain` command and the response header.

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::process::Command;
use std::thread;

use crate::harness::client::build_request;
use crate::harness::{TestRouter, chat_body, send_request, start_replica, unused_addr, wait_until};
use serde_json::Value;

const CHAT_PATH: &str = "/v1/chat/completions";
/// The start of a decision's header.
const DECISION_START: &str =
    "pool=default policy=token_cost replica=one candidates=1 reason=only_candidate prompt_tokens=";

fn explain_request(router: &TestRouter, id: &str) -> Value {
    let reply = send_request(router.admin_addr, "GET", &format!("/explain/{id}"), "", "");
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()
}

fn object_keys(object: &Value) -> Vec<&str> {
    object.as_object().unwrap().keys().map(String::as_str).collect()
}

#[test]
fn request_is_explained_in_its_policys_terms() {
    let replicas = [start_replica(&["m"]), start_replica(&["m"])];
    let urls = [format!("{} name=one weight=2", replicas[0].url()), format!("{} name=two down", replicas[1].url())];
    let router = TestRouter::start(&format!("explain_header = true\nreplicas = {urls:?}"));
    wait_until("the first replica is ready", || {
        send_request(router.admin_addr, "GET", "/readyz", "", "").status == 200
    });
    let reply = router.send_request("POST", CHAT_PATH, "x-request-id: job/1\r\n", chat_body("m", 5, true));
    assert_eq!(reply.status, 200);
    let header = reply.header("x-decision").unwrap();
    assert!(header.starts_with(DECISION_START), "{header}");
    wait_until("the lease has settled", || router.in_flight() == 0);
    let explanation = explain_request(&router, "job/1");
    let attempts = explanation["attempts"].as_array().unwrap();
    assert_eq!((explanation["request_id"].as_str(), attempts.len()), (Some("job/1"), 1));
    let one = &attempts[0];
    assert_eq!(
        (&one["pool"], &one["policy"], &one["chosen"]),
        (&"default".into(), &"token_cost".into(), &"one".into())
    );
    assert_eq!((&one["reason"], &one["skipped"][0]["name"]), (&"only_candidate".into(), &"two".into()));
    assert_eq!((&one["skipped"][0]["reason"], &one["omitted_replicas"]), (&"down".into(), &0.into()));
    let mut terms = object_keys(&one["candidates"][0]["terms"]);
    terms.sort_unstable();
    assert_eq!(
        terms,
        ["cost", "decode_pace", "prefill_pace", "prompts", "resident", "streams", "uncached", "waiting", "weight"]
    );
    assert_eq!((&one["candidates"][0]["terms"]["weight"], &one["estimated_cached_tokens"]), (&2.0.into(), &0.into()));
    let result = &one["result"];
    assert_eq!((&result["outcome"], &result["completion_tokens"]), (&"completed".into(), &5.into()));
    assert!(result["ttft_seconds"].as_f64().unwrap() <= result["duration_seconds"].as_f64().unwrap(), "{result}");
    assert!(!explanation.to_string().contains("hello"), "no text of a prompt: {explanation}");
}

#[test]
fn explanation_lists_attempts_and_skipped_replicas() {
    let replica = start_replica(&["m"]);
    let urls = [format!("http://{} name=gone", unused_addr()), format!("{} name=there backup", replica.url())];
    let router = TestRouter::start(&format!("paths = \"any\"\npolicy = \"least_conn\"\nreplicas = {urls:?}"));
    let reply = router.send_request("POST", CHAT_PATH, "x-request-id: twice\r\n", chat_body("m", 3, false));
    assert_eq!((reply.status, reply.header("x-decision")), (200, None));
    wait_until("the lease has settled", || router.in_flight() == 0);
    let explanation = explain_request(&router, "twice");
    let attempts = explanation["attempts"].as_array().unwrap();
    let words = |index: usize| -> (&str, &str, &str) {
        let skipped = &attempts[index]["skipped"][0];
        let outcome = attempts[index]["result"]["outcome"].as_str().unwrap();
        (attempts[index]["chosen"].as_str().unwrap(), outcome, skipped["reason"].as_str().unwrap())
    };
    assert_eq!([words(0), words(1)], [("gone", "failed", "backup"), ("there", "completed", "has failed this request")]);
    assert!(object_keys(&attempts[0]["candidates"][0]["terms"]).contains(&"in_flight"));
    assert_eq!(attempts[0]["estimated_cached_tokens"], Value::Null);
}

#[test]
fn unserved_and_running_requests_are_explained() {
    let router = TestRouter::start(&format!("paths = \"any\"\nreplicas = [\"http://{} name=a down\"]", unused_addr()));
    let reply = router.send_request("POST", CHAT_PATH, "x-request-id: none\r\n", chat_body("m", 3, false));
    assert_ne!(reply.status, 200);
    let attempt = &explain_request(&router, "none")["attempts"][0];
    assert_eq!((&attempt["chosen"], &attempt["result"]), (&Value::Null, &Value::Null));
    assert!(attempt["reason"].as_str().unwrap().contains("down"), "{attempt}");
    let replica = start_replica(&["m"]);
    let router = TestRouter::start_with_replicas([&*replica.url()]);
    let mut client = router.connect();
    let body = chat_body("m", 2_000, true);
    client.send(build_request("POST", CHAT_PATH, "x-request-id: runs\r\n", body));
    assert_eq!(client.read_head().status, 200);
    assert!(client.read_piece().is_some());
    assert_eq!(explain_request(&router, "runs")["attempts"][0]["result"], Value::Null);
    drop(client);
    wait_until("the disconnect is recorded", || {
        explain_request(&router, "runs")["attempts"][0]["result"]["outcome"] == "client_gone"
    });
}

#[test]
fn forgotten_decision_is_reported_as_unknown() {
    let replica = start_replica(&["m"]);
    let url = replica.url();
    let router = TestRouter::start(&format!("explain = 1\nreplicas = [{url:?}]")).wait_until_ready();
    for id in ["a", "b"] {
        assert_eq!(
            router.send_request("POST", CHAT_PATH, &format!("x-request-id: {id}\r\n"), chat_body("m", 1, false)).status,
            200
        );
    }
    assert_eq!(send_request(router.admin_addr, "GET", "/explain/a", "", "").status, 404);
    explain_request(&router, "b");
    let off =
        TestRouter::start(&format!("explain = 0\nexplain_header = true\nreplicas = [{url:?}]")).wait_until_ready();
    let reply = off.send_request("POST", CHAT_PATH, "x-request-id: a\r\n", chat_body("m", 1, false));
    assert_eq!((reply.status, reply.header("x-decision")), (200, None));
    let missing = send_request(off.admin_addr, "GET", "/explain/a", "", "");
    assert_eq!((missing.status, missing.text().contains("the latest 0 are kept")), (404, true));
    assert_eq!(off.get("/explain/a").status, 404, "not on the clients' listener");
}

#[test]
fn explain_command_sends_the_admin_token() {
    let replica = start_replica(&["m"]);
    // Of `abc`, from FIPS 180-2.
    let hash = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    let router =
        TestRouter::start(&format!("admin_token = {hash:?}\nreplicas = [{:?}]", replica.url())).wait_until_ready();
    assert_eq!(router.send_request("POST", CHAT_PATH, "x-request-id: a\r\n", chat_body("m", 1, false)).status, 200);
    assert_eq!(send_request(router.admin_addr, "GET", "/explain/a", "", "").status, 401);
    let run = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tokenweir"));
        let output = command.args(["explain", "a", "--admin", &router.admin_addr.to_string()]).args(args);
        let output = output.env("ITS_TOKEN", "abc").output().unwrap();
        (output.status.code(), output.stdout.len() + output.stderr.len())
    };
    assert_eq!(run(&["--token-env", "ITS_TOKEN"]).0, Some(0));
    let (code, length) = run(&[]);
    assert!(code == Some(1) && length > 0);
    assert_eq!(run(&["--token-env", "UNSET_TOKEN"]).0, Some(1));
}

#[test]
fn explain_command_names_the_cause_if_no_admin_listener_responds() {
    let run = |admin: SocketAddr| {
        let args = ["explain", "a", "--admin", &admin.to_string()];
        // A proxy of the environment must not be used.
        let mut command = Command::new(env!("CARGO_BIN_EXE_tokenweir"));
        let output = command.args(args).env("http_proxy", "http://127.0.0.1:1").output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let closed = unused_addr();
    let (code, error) = run(closed);
    let cause = format!("cannot reach the admin listener at {closed}: Connection refused (os error 111); name the");
    assert!(code == Some(1) && error.contains(&cause), "{error}");
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = other.local_addr().unwrap();
    let greeting = thread::spawn(move || other.accept().unwrap().0.write_all(b"220 mail.example ready\r\n\r\n"));
    let (code, error) = run(addr);
    assert!(code == Some(1) && error.contains(&format!("{addr} is not an admin listener: ")), "{error}");
    greeting.join().unwrap().unwrap();
}

#[test]
fn explain_command_queries_a_running_router() {
    let replicas = [start_replica(&["m"]), start_replica(&["m"])];
    let router = TestRouter::start_with_replicas([&*replicas[0].url(), &*replicas[1].url()]);
    assert_eq!(router.send_request("POST", CHAT_PATH, "x-request-id: a/b=1\r\n", chat_body("m", 4, true)).status, 200);
    wait_until("the lease has settled", || router.in_flight() == 0);
    let run = |id: &str| {
        let args = ["explain", id, "--admin", &router.admin_addr.to_string()];
        let output = Command::new(env!("CARGO_BIN_EXE_tokenweir")).args(args).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let (code, text, _) = run("a/b=1");
    assert_eq!(code, Some(0));
    for part in
        ["a/b=1 attempt 1\n", "policy least_conn", "in_flight", "  * ", "by the policy", "ended: completed after"]
    {
        assert!(text.contains(part), "{part:?} in\n{text}");
    }
    let (code, _, error) = run("unknown");
    assert!(code == Some(1) && error.contains("no decision found for this request"), "{error}");
}
