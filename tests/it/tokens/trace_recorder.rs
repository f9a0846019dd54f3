//! Traces recorded from live traffic, without prompt text, and replayed under other policies.

use std::fs;
use std::process::Command;

use crate::harness::{TestRouter, send_request, start_replica, wait_until};
use tokenweir::replay;
use tokenweir::units::Tokens;

fn chat_body(texts: &[&str]) -> String {
    let turns: Vec<String> = texts.iter().map(|text| format!(r#"{{"role":"user","content":"{text}"}}"#)).collect();
    format!(r#"{{"model":"m","messages":[{}],"max_tokens":7,"stream":true}}"#, turns.join(","))
}

#[test]
fn recorded_traffic_replays() {
    let folder = std::env::temp_dir().join(format!("tokenweir-{}-record", std::process::id()));
    drop(fs::remove_dir_all(&folder));
    fs::create_dir_all(&folder).unwrap();
    let path = folder.join("trace.jsonl");
    let replica = start_replica(&["m"]);
    // A policy that needs no fingerprints.
    let text = format!("policy = \"round_robin\"\nreplicas = [{:?}]\n[record]\npath = {path:?}", replica.url());
    let router = TestRouter::start(&text).wait_until_ready();
    let secret = "the secret of the house is kept ".repeat(40);
    for texts in [&[&*secret][..], &[&secret, "and then?"], &["something else altogether"]] {
        assert_eq!(router.post("/v1/chat/completions", chat_body(texts)).status, 200);
    }
    wait_until("all leases have settled", || router.sum_metric("tokenweir_attempts_total", &["completed"]) == 3.0);
    assert!(
        send_request(router.admin_addr, "GET", "/metrics", "", "")
            .text()
            .contains("\ntokenweir_log_lines_lost_total 0")
    );
    drop(router);
    let written = fs::read_to_string(&path).unwrap();
    assert!(!written.contains("secret"), "{written}");
    let trace = replay::parse_trace(written.as_bytes(), "trace").unwrap();
    let [first, second, third] = trace.requests() else { panic!("{written}") };
    assert!(first.output == Tokens(7) && second.prompt > first.prompt && first.sent_at <= second.sent_at, "{written}");
    let blocks: Vec<Vec<u64>> = [first, second, third].iter().map(|request| request.block_ids().collect()).collect();
    assert!(blocks[0].len() >= 4 && blocks[1].starts_with(&blocks[0]) && blocks[2].is_empty(), "{written}");
    let path = path.to_str().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_tokenweir"))
        .args(["replay", path, "--policy", "least_conn,token_cost"])
        .output()
        .unwrap();
    let (table, why) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success() && table.contains("token_cost"), "{table}{why}");
    fs::remove_dir_all(folder).unwrap();
}
