//! What coding agents call besides the endpoints that generate: lists of models in two shapes, token counts, probes.

use std::io::Write as _;

use crate::harness::scripted::{ScriptedReplica, build_response, respond_ok};
use crate::harness::{TestRouter, fast_settings, start_replica, start_replica_with};
use tokenweir::emulate::EmulatorSettings;

const ANTHROPIC: &str = "anthropic-version: 2023-06-01\r\nx-api-key: sk-x\r\n";
const COUNT: &str = "/v1/messages/count_tokens?beta=true";

fn count_body(text: &str) -> String {
    format!(r#"{{"model":"m","system":"You are terse.","messages":[{{"role":"user","content":"{text}"}}]}}"#)
}

#[test]
fn model_list_has_anthropics_shape_for_its_clients() {
    let replica = start_replica(&["claude-a", "claude-b", "Org/c"]);
    let router = TestRouter::start_with_replicas([&*replica.url()]);
    let get = |path: &str| router.send_request("GET", path, ANTHROPIC, "").json();
    let list = get("/v1/models?limit=1000");
    let ids: Vec<&str> = list["data"].as_array().unwrap().iter().map(|m| m["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["Org/c", "claude-a", "claude-b"]);
    assert_eq!(
        (&list["has_more"], &list["first_id"], &list["last_id"]),
        (&false.into(), &"Org/c".into(), &"claude-b".into())
    );
    for model in list["data"].as_array().unwrap() {
        assert_eq!((&model["type"], &model["display_name"]), (&"model".into(), &model["id"]), "{model}");
        let created = model["created_at"].as_str().unwrap();
        assert!(created.len() == "2026-11-30T18:05:04.000Z".len() && created.ends_with('Z'), "{created}");
        assert!(model.get("object").is_none());
    }
    let page = get("/v1/models?limit=1&after_id=Org%2Fc");
    assert_eq!((&page["data"][0]["id"], &page["has_more"]), (&"claude-a".into(), &true.into()));
    let page = get("/v1/models?before_id=claude-b&limit=1");
    assert_eq!((&page["data"][0]["id"], &page["has_more"]), (&"claude-a".into(), &true.into()));
    let empty = get("/v1/models?after_id=z");
    assert!(empty["first_id"].is_null() && empty["data"].as_array().unwrap().is_empty());
    for path in ["/v1/models/Org/c", "/v1/models/Org%2Fc"] {
        assert_eq!((&get(path)["id"], &get(path)["type"]), (&"Org/c".into(), &"model".into()), "{path}");
    }
    let missing = router.send_request("GET", "/v1/models/none", ANTHROPIC, "");
    assert_eq!((missing.status, &missing.json()["type"]), (404, &"error".into()));
    let bad = router.send_request("GET", "/v1/models?limit=0", ANTHROPIC, "");
    assert_eq!((bad.status, &bad.json()["error"]["type"]), (400, &"invalid_request_error".into()));
}

#[test]
fn models_have_the_least_context_length_of_their_replicas() {
    let replica = |model: &str, length: u64| {
        start_replica_with(EmulatorSettings { max_model_len: length, ..fast_settings(&[model]) })
    };
    let replicas = [replica("a", 32_768), replica("a", 16_384), replica("b", 8_192)];
    let urls = replicas.each_ref().map(|replica| format!("{:?}", replica.url())).join(", ");
    let router =
        TestRouter::start(&format!("model = [\"a\", \"b\", \"alias\"]\nreplicas = [{urls}]")).wait_until_ready();
    for (model, length) in [("a", 16_384), ("b", 8_192), ("alias", 8_192)] {
        let path = format!("/v1/models/{model}");
        assert_eq!(router.get(&path).json()["max_model_len"], length, "{model}");
        assert_eq!(router.send_request("GET", &path, ANTHROPIC, "").json()["max_input_tokens"], length, "{model}");
    }
    let silent = ScriptedReplica::start(&["a"], respond_ok);
    let model = TestRouter::start_with_replicas([&*silent.url()]).get("/v1/models/a").json();
    assert!(model["id"] == "a" && model.get("max_model_len").is_none(), "{model}");
}

#[test]
fn model_list_has_openais_shape_for_all_others() {
    let replica = start_replica(&["a", "Org/b"]);
    let router = TestRouter::start_with_replicas([&*replica.url()]);
    let list = router.get("/v1/models?limit=1").json();
    assert_eq!((&list["object"], list["data"].as_array().unwrap().len()), (&"list".into(), 2), "it has no pages");
    assert!(list.get("has_more").is_none());
    for path in ["/v1/models/Org/b", "/v1/models/Org%2Fb"] {
        assert_eq!(router.get(path).json()["object"], "model", "{path}");
    }
    assert_eq!(router.get("/v1/models/none").openai_error()["code"], "model_not_found");
}

#[test]
fn head_and_options_are_answered_on_every_path() {
    let replica = start_replica(&["m", "Org/n"]);
    let router = TestRouter::start_with_replicas([&*replica.url()]);
    for path in ["/v1/models", "/v1/models/m", "/v1/models/Org/n", "/v1/models?limit=2"] {
        let get = router.get(path);
        for headers in ["", ANTHROPIC] {
            let head = router.send_request("HEAD", path, headers, "");
            assert_eq!((head.status, head.body.len()), (200, 0), "{path}");
        }
        let head = router.send_request("HEAD", path, "", "");
        assert_eq!(head.header("content-length"), get.header("content-length"), "{path}");
        let options = router.send_request("OPTIONS", path, "", "");
        assert_eq!((options.status, options.header("allow")), (204, Some("GET, HEAD, OPTIONS")), "{path}");
    }
    for path in ["/v1/messages", COUNT, "/v1/chat/completions", "/v1/responses"] {
        let options = router.send_request("OPTIONS", path, "", "");
        assert_eq!((options.status, options.header("allow")), (204, Some("POST, OPTIONS")), "{path}");
        assert_eq!(router.send_request("HEAD", path, "", "").status, 405, "{path}");
    }
    assert_eq!(router.send_request("OPTIONS", "/sleep", "", "").status, 404);
}

#[test]
fn anthropic_headers_and_the_query_reach_the_engine() {
    let replica = ScriptedReplica::start(&["m"], respond_ok);
    let router = TestRouter::start_with_replicas([&*replica.url()]);
    let headers = format!(
        "{ANTHROPIC}anthropic-beta: context-1m-2025-08-07,fine-grained-2025-05-14\r\nx-claude-code-session-id: s1\r\n"
    );
    for path in ["/v1/messages?beta=true", COUNT] {
        let reply = router.send_request("POST", path, &headers, count_body("hi"));
        assert_eq!(reply.status, 200, "{}", reply.text());
        let received = replica.last_request();
        assert_eq!(received.target(), path);
        assert_eq!(received.header("anthropic-version"), Some("2023-06-01"));
        assert_eq!(received.header("anthropic-beta"), Some("context-1m-2025-08-07,fine-grained-2025-05-14"));
        assert_eq!(received.header("x-claude-code-session-id"), Some("s1"));
    }
}

#[test]
fn tokens_are_counted_by_the_engine_if_it_can() {
    let replica = start_replica(&["m"]);
    let router = TestRouter::start_with_replicas([&*replica.url()]);
    let reply = router.post(COUNT, count_body("hello there"));
    assert_eq!(
        (reply.status, &reply.json()["context_management"]["original_input_tokens"]),
        (200, &reply.json()["input_tokens"])
    );
}

#[test]
fn tokens_are_estimated_where_the_engine_has_no_count() {
    for (status, body) in [
        (404, r#"{"detail":"Not Found"}"#),
        (405, r#"{"detail":"Method Not Allowed"}"#),
        (404, "404 page not found"),
        (501, r#"{"error":{"message":"not implemented"}}"#),
    ] {
        let kind = if body.starts_with('{') { "application/json" } else { "text/plain" };
        let answer = build_response(status, kind, body);
        let replica = ScriptedReplica::start(&["m"], move |_, to| to.write_all(&answer).is_ok());
        let router = TestRouter::start_with_replicas([&*replica.url()]);
        let count = |text: &str| {
            let reply = router.send_request("POST", COUNT, ANTHROPIC, count_body(text));
            assert_eq!(
                (reply.status, reply.header("content-type")),
                (200, Some("application/json")),
                "{status}: {}",
                reply.text()
            );
            reply.json()["input_tokens"].as_u64().unwrap()
        };
        let (short, long) = (count("hi"), count(&"all work and no play ".repeat(400)));
        assert!((3..60).contains(&short) && (1_200..4_000).contains(&long), "{short} {long}");
        let pools = crate::harness::send_request(router.admin_addr, "GET", "/pools", "", "").json();
        assert_eq!(pools[0]["replicas"][0]["state"], "admitted");
        assert_eq!(router.in_flight(), 0);
    }
}

#[test]
fn other_refusals_of_a_count_are_relayed() {
    for (status, body) in [
        (400, r#"{"type":"error","error":{"type":"invalid_request_error","message":"messages: too short"}}"#),
        (404, r#"{"type":"error","error":{"type":"not_found_error","message":"model: m"}}"#),
        (401, r#"{"error":"Unauthorized"}"#),
    ] {
        let answer = build_response(status, "application/json", body);
        let replica = ScriptedReplica::start(&["m"], move |_, to| to.write_all(&answer).is_ok());
        let router = TestRouter::start_with_replicas([&*replica.url()]);
        let reply = router.post(COUNT, count_body("hi"));
        assert_eq!((reply.status, reply.text()), (status, body.to_owned()));
    }
}
