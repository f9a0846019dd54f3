//! The text that Claude Code puts in front of its system prompt: kept or cut, and the engine's cache either way.

use serde_json::{Value, json};

use crate::harness::scripted::{ScriptedReplica, respond_ok};
use crate::harness::{TestRouter, start_replica};

const HEADER: &str = "x-anthropic-billing-header: cc_version=2.1.100.7b4; cc_entrypoint=cli; cch=";

fn chat_body(cch: &str) -> String {
    let system = "You are an agent. Be brief. ".repeat(100);
    json!({"model": "alias", "stream": true, "messages": [
        {"role": "system", "content": [
            {"type": "text", "text": format!("{HEADER}{cch};")},
            {"type": "text", "text": system},
        ]},
        {"role": "user", "content": format!("{HEADER}{cch};")},
    ]})
    .to_string()
}

#[test]
fn metadata_is_cut_with_the_other_edits_and_only_where_the_pool_says_so() {
    for cuts in [true, false] {
        let replica = ScriptedReplica::start(&["m"], respond_ok);
        let text = format!("replicas = [{:?}]\nmodel = \"alias\"\ncut_client_metadata = {cuts}", replica.url());
        let router = TestRouter::start(&text).wait_until_ready();
        let sent = chat_body("eb6c6");
        assert_eq!(router.post("/v1/chat/completions", &sent).status, 200);
        let received = String::from_utf8(replica.last_request().body).unwrap();
        let mut wanted = sent;
        if cuts {
            let block = json!({"type": "text", "text": format!("{HEADER}eb6c6;")}).to_string();
            wanted = wanted.replace(&format!("{block},"), "");
        }
        wanted = wanted.replacen('{', "{\"stream_options\":{\"include_usage\":true},", 1);
        assert_eq!(received.replace("\"model\":\"m\"", "\"model\":\"alias\""), wanted);
    }
}

/// Returns the prompt tokens that an engine had cached for the second of two requests.
fn cached_tokens(path: &str, keys: &str, body: impl Fn(&str) -> Value) -> u64 {
    let replica = start_replica(&["m"]);
    let router = TestRouter::start(&format!("replicas = [\"http://{}\"]\n{keys}", replica.addr())).wait_until_ready();
    let mut last = Value::Null;
    for cch in ["00001", "00002"] {
        let response = router.post(path, body(cch).to_string());
        assert_eq!(response.status, 200, "{}", response.text());
        last = response.json();
    }
    let usage = &last["usage"];
    let cached = usage["prompt_tokens_details"]["cached_tokens"].as_u64();
    cached.or(usage["cache_read_input_tokens"].as_u64()).unwrap_or_default()
}

#[test]
fn cut_metadata_no_longer_defeats_the_cache_of_an_engine_that_keeps_it() {
    // An engine that keeps it, as vLLM does with the role `developer`.
    let body = |cch: &str| {
        let system = format!("{HEADER}{cch};\n{}", "You are an agent. Be brief. ".repeat(100));
        json!({"model": "m", "max_tokens": 1, "messages": [
            {"role": "developer", "content": system}, {"role": "user", "content": "hi"},
        ]})
    };
    assert!(cached_tokens("/v1/chat/completions", "", body) < 50);
    assert!(cached_tokens("/v1/chat/completions", "cut_client_metadata = true", body) > 500);
}

#[test]
fn emulated_engine_drops_metadata_from_system_texts_as_vllm_does() {
    let body = |cch: &str| {
        let blocks = [format!("{HEADER}{cch};"), "You are an agent. Be brief. ".repeat(100)];
        let system: Vec<Value> = blocks.iter().map(|text| json!({"type": "text", "text": text})).collect();
        json!({"model": "m", "max_tokens": 1, "system": system, "messages": [{"role": "user", "content": "hi"}]})
    };
    assert!(cached_tokens("/v1/messages", "", body) > 500);
}
