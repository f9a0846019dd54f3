//! Patterns in `model`: names that no list has, such as those that an agent is built with.

use serde_json::Value;

use super::engines::ChangingEngine;
use crate::harness::{TestRouter, chat_body, send_request};

const CHAT: &str = "/v1/chat/completions";

fn start_router(text: &str) -> TestRouter {
    TestRouter::start(text).wait_until_ready()
}

/// Returns the model that the engine was last asked for.
fn requested_model(engine: &ChangingEngine) -> String {
    let requests = engine.client_requests();
    let body: Value = serde_json::from_slice(&requests.last().expect("a request").body).unwrap();
    body["model"].as_str().unwrap().to_owned()
}

fn listed_ids(router: &TestRouter, path: &str) -> Vec<String> {
    let list = router.get(path).json();
    list["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn any_claude_name_is_served_by_the_engines_model() {
    for pattern in ["claude-*", "*"] {
        let engine = ChangingEngine::start(&["m"]);
        let router = start_router(&format!("model = [{pattern:?}]\nreplicas = [{:?}]", engine.url()));
        let body = r#"{"model": "claude-haiku-4-5", "max_tokens": 8, "messages": [{"role": "user", "content": "hi"}]}"#;
        let reply = router.post("/v1/messages", body);
        assert_eq!(reply.status, 200, "{pattern}: {}", reply.text());
        let request = engine.client_requests().pop().unwrap();
        assert_eq!(String::from_utf8(request.body).unwrap(), body.replace("claude-haiku-4-5", "m"), "a splice");
        let other = router.post(CHAT, chat_body("gpt-9", 1, false)).status;
        assert_eq!(other, if pattern == "*" { 200 } else { 404 });
    }
}

#[test]
fn exact_name_comes_before_the_longest_pattern_and_both_before_all() {
    let engines = ["all", "claude", "opus", "exact", "learned"].map(|name| ChangingEngine::start(&[name]));
    let pool = |index: usize, models: &str| {
        format!("[[pool]]\nname = \"{index}\"\n{models}\nreplicas = [\"{} name=r{index}\"]\n", engines[index].url())
    };
    let router = start_router(&format!(
        "{}{}{}{}{}",
        pool(0, "model = \"*\""),
        pool(1, "model = \"claude-*\""),
        pool(2, "model = \"claude-opus-*\""),
        pool(3, "model = \"claude-opus-4\""),
        pool(4, "")
    ));
    for (model, wanted) in [
        ("claude-opus-4", "r3"),
        ("claude-opus-4-5", "r2"),
        ("claude-haiku", "r1"),
        ("claude", "r0"),
        ("gpt-9", "r0"),
        ("learned", "r4"),
    ] {
        let reply = router.post(CHAT, chat_body(model, 1, false));
        assert_eq!((reply.status, reply.header("x-upstream")), (200, Some(wanted)), "{model}");
    }
}

#[test]
fn list_names_what_patterns_stand_for() {
    let engine = ChangingEngine::start(&["qwen3", "Org/lora"]);
    let lists = |models: &str| {
        let router = start_router(&format!("model = {models}\nreplicas = [{:?}]", engine.url()));
        (listed_ids(&router, "/v1/models"), router)
    };
    assert_eq!(lists("\"*\"").0, ["Org/lora", "qwen3"]);
    assert_eq!(lists("\"qw*\"").0, ["qwen3"], "a listed model fits");
    assert_eq!(lists("[\"claude-sonnet-4-5\", \"*\"]").0, ["Org/lora", "claude-sonnet-4-5", "qwen3"]);
    let (ids, router) = lists("\"claude-*\"");
    assert_eq!(ids, ["claude-Org/lora", "claude-qwen3"], "an agent that shows claude names only can pick them");
    for (id, wanted) in [("claude-Org/lora", "Org/lora"), ("claude-qwen3", "qwen3"), ("claude-x", "qwen3")] {
        assert_eq!(router.post(CHAT, chat_body(id, 1, false)).status, 200);
        assert_eq!(requested_model(&engine), wanted);
        assert_eq!(router.get(&format!("/v1/models/{id}")).json()["id"], id);
    }
    assert_eq!(router.get("/v1/models/claude-*").status, 404, "a pattern is no model");
    assert_eq!(router.get("/v1/models/gpt-9").status, 404);
}

#[test]
fn exact_name_in_the_list_is_what_a_pattern_leads_to() {
    let engine = ChangingEngine::start(&["small", "large"]);
    let router = start_router(&format!("model = [\"large\", \"gpt-*\"]\nreplicas = [{:?}]", engine.url()));
    assert_eq!(router.post(CHAT, chat_body("gpt-5", 1, false)).status, 200);
    assert_eq!(requested_model(&engine), "large");
    assert_eq!(router.post(CHAT, chat_body("gpt-small", 1, false)).status, 200);
    assert_eq!(requested_model(&engine), "small", "it is listed as that");
}

#[test]
fn metrics_name_the_pattern_and_never_the_clients_name() {
    let engine = crate::harness::start_replica(&["m"]);
    let router = start_router(&format!("model = \"claude-*\"\nreplicas = [{:?}]", engine.url()));
    for index in 0..5 {
        let reply = router.post(CHAT, chat_body(&format!("claude-invented-{index}"), 2, false));
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
    let metrics = send_request(router.admin_addr, "GET", "/metrics", "", "").text();
    assert!(metrics.contains("model=\"claude-*\""), "{metrics}");
    assert!(!metrics.contains("invented"));
}

#[test]
fn key_may_open_names_by_a_pattern() {
    let engine = ChangingEngine::start(&["m", "claude-a"]);
    let text = format!(
        "model = [\"m\", \"claude-*\"]\nreplicas = [{:?}]\n[[key]]\nname = \"agents\"\nenv = \"AGENTS\"\nmodels = [\"claude-*\"]",
        engine.url()
    );
    let env =
        crate::harness::router_env(&text).into_iter().chain([("AGENTS".to_owned(), "sk-0123456789abcdef".to_owned())]);
    let loaded = tokenweir::config::load(&text, "router.toml", env).unwrap();
    let server = tokenweir::server::Server::start(loaded.settings).unwrap();
    let Some(tokenweir::routes::ListenAddr::Tcp(addr)) = server.listen_addresses().first().cloned() else { panic!() };
    let post = |model: &str| {
        send_request(addr, "POST", CHAT, "authorization: Bearer sk-0123456789abcdef\r\n", chat_body(model, 1, false))
            .status
    };
    crate::harness::wait_until("the router is ready", || post("claude-a") == 200);
    assert_eq!((post("claude-b"), post("m")), (200, 404));
    let list = send_request(addr, "GET", "/v1/models", "authorization: Bearer sk-0123456789abcdef\r\n", "").json();
    assert_eq!(list["data"].as_array().unwrap().len(), 1, "{list}");
}

#[test]
fn star_within_a_name_is_refused() {
    for model in ["a*b", "**", "*-x"] {
        let text = format!("model = {model:?}\nreplicas = [\"http://127.0.0.1:1\"]");
        let report = tokenweir::config::load(&text, "router.toml", []).unwrap_err().to_string();
        assert!(report.contains("has a `*` that is not at its end"), "{report}");
    }
}
