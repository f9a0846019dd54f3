//! Engines that give no list of models: the reason is named to operators and clients, and they count as not ready.

use super::engines::ChangingEngine;
use crate::harness::scripted::build_response;
use crate::harness::{TestRouter, chat_body, send_request, unused_addr, wait_until};

const CHAT: &str = "/v1/chat/completions";

/// Answers to `/v1/models`, and what is said of them.
fn faults() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let json = |status: u16, body: &str| build_response(status, "application/json", body);
    let redirect = b"HTTP/1.1 307 X\r\nlocation: http://10.9.8.7/v1/models\r\ncontent-length: 0\r\n\r\n".to_vec();
    vec![
        ("key missing", json(401, r#"{"error":"Unauthorized"}"#), "returned 401: set the pool's `api_key`"),
        ("key without the right", json(403, "{}"), "returned 403: the pool's `api_key` may not list the models"),
        ("loading", json(503, r#"{"error":"Loading model"}"#), "returned 503: it is still loading, or broken"),
        ("broken", json(500, "Internal Server Error"), "returned 500: it is still loading, or broken"),
        (
            "no list",
            json(404, r#"{"detail":"Not Found"}"#),
            "returned 404: set the pool's `model`, or `paths = \"any\"`",
        ),
        ("redirect", redirect, "returned 307, a redirect"),
        ("login page", build_response(200, "text/html", "<html>Sign in</html>"), "returned no JSON"),
        ("cut", json(200, r#"{"data":[{"id":"#), "returned malformed JSON"),
        ("another API", json(200, r#"{"models":[]}"#), "returned JSON without a list of models"),
        ("nothing loaded", json(200, r#"{"object":"list","data":[]}"#), "lists no model"),
    ]
}

fn replica_view(router: &TestRouter) -> serde_json::Value {
    send_request(router.admin_addr, "GET", "/pools", "", "").json()[0]["replicas"][0].clone()
}

#[test]
fn reason_is_named_in_log_pools_readyz_and_errors() {
    for (name, answer, reason) in faults() {
        let engine = ChangingEngine::start_with_list_answer(&answer);
        let log = std::env::temp_dir().join(format!("tokenweir-{}-{}.log", std::process::id(), name.replace(' ', "-")));
        let router = TestRouter::start(&format!(
            "replicas = [\"{} name=gpu1\"]\n[log]\nerror = {:?}\nlevel = \"info\"",
            engine.url(),
            log.to_str().unwrap()
        ));
        wait_until("the reason is shown", || {
            replica_view(&router)["reason"].as_str().is_some_and(|r| r.contains(reason))
        });
        assert_eq!(replica_view(&router)["state"], "not_ready", "{name}");
        let ready = router.get("/readyz");
        assert!(ready.status == 503 && ready.text().contains(reason), "{name}: {}", ready.text());
        for body in [chat_body("m", 1, false), r#"{"messages":[]}"#.to_owned()] {
            let reply = router.post(CHAT, body);
            assert_eq!((reply.status, reply.header("retry-after")), (503, Some("5")), "{name}: {}", reply.text());
            let error = reply.openai_error();
            assert_eq!(error["code"], "no_replica", "{name}");
            assert!(error["message"].as_str().unwrap().contains(reason), "{name}: {error}");
            assert!(
                !reply.text().contains("10.9.8.7") && !reply.text().contains("127.0.0.1"),
                "{name}: {}",
                reply.text()
            );
        }
        assert_eq!(engine.client_requests().len(), 0, "{name}");
        let line = format!("replica gpu1 is not ready: /v1/models {}", reason.trim_start_matches("/v1/models "));
        wait_until("the log has it", || std::fs::read_to_string(&log).unwrap().contains(&line));
        if name == "redirect" {
            assert!(
                std::fs::read_to_string(&log).unwrap().contains("http://10.9.8.7/v1/models"),
                "operators see where to"
            );
        }
        engine.set_list_answer(None);
        wait_until("it is asked again", || router.post(CHAT, chat_body("m", 1, false)).status == 200);
        std::fs::remove_file(log).unwrap();
    }
}

#[test]
fn engine_without_a_list_serves_a_pool_with_named_models() {
    for (name, answer, _) in faults() {
        if matches!(name, "loading" | "broken") {
            continue;
        }
        let engine = ChangingEngine::start_with_list_answer(&answer);
        let router = TestRouter::start(&format!("model = \"m\"\nreplicas = [{:?}]", engine.url())).wait_until_ready();
        assert_eq!(router.post(CHAT, chat_body("m", 1, false)).status, 200, "{name}");
        assert_eq!(router.get("/readyz").status, 200, "{name}");
    }
}

#[test]
fn server_without_models_does_not_hide_that_a_model_is_unknown() {
    let other = ChangingEngine::start_with_list_answer(&build_response(404, "application/json", "{}"));
    let engine = ChangingEngine::start(&["m"]);
    let router = TestRouter::start(&format!("replicas = [{:?}, {:?}]", other.url(), engine.url())).wait_until_ready();
    for _ in 0..3 {
        assert_eq!(router.post(CHAT, chat_body("m", 1, false)).status, 200);
    }
    assert_eq!(router.post(CHAT, chat_body("x", 1, false)).status, 404);
    other.set_list_answer(Some(&build_response(401, "application/json", "{}")));
    wait_until("the missing key is seen", || router.post(CHAT, chat_body("x", 1, false)).status == 503);
    assert_eq!(other.client_requests().len(), 0);
}

#[test]
fn key_of_any_pool_of_a_shared_engine_reads_its_models() {
    let engine = crate::harness::scripted::ScriptedReplica::start(&[], |received, to| {
        let answer = match (received.target(), received.header("authorization")) {
            ("/e/v1/models", Some("Bearer sk-engine")) => {
                build_response(200, "application/json", r#"{"data":[{"id":"m"}]}"#)
            }
            ("/e/v1/models", _) => build_response(401, "application/json", "{}"),
            _ => build_response(200, "application/json", "{}"),
        };
        std::io::Write::write_all(to, &answer).is_ok()
    });
    let url = format!("{}/e", engine.url());
    let router = TestRouter::start(&format!(
        "[[pool]]\nname = \"a\"\nreplicas = [{url:?}]\n[[pool]]\nname = \"b\"\npath = \"/b\"\napi_key = \"sk-engine\"\nreplicas = [{url:?}]"
    ))
    .wait_until_ready();
    assert_eq!(router.post("/b/v1/chat/completions", chat_body("m", 1, false)).status, 200);
}

#[test]
fn dead_engine_is_reported_without_its_address() {
    let router = TestRouter::start(&format!("replicas = [\"http://{}\"]", unused_addr()));
    wait_until("the reason is shown", || replica_view(&router)["reason"] == "/v1/models cannot be reached");
    let reply = router.post(CHAT, r#"{"messages":[]}"#);
    assert_eq!(reply.status, 503);
    assert_eq!(reply.openai_error()["message"], "no replica is ready: none has answered /v1/models yet");
}
