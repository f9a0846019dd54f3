//! Emulated replicas over real sockets, compared with captured responses of real engines.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use eventsource_stream::Eventsource;
use futures_util::StreamExt;
use serde_json::{Value, json};
use tokenweir::clock::Clock;
use tokenweir::emulate::load::{self, LoadCounters, LoadSettings};
use tokenweir::emulate::{EmulatedReplica, EmulatorSettings};
use tokenweir::engine::EngineModel;

/// Returns settings a thousand times faster than an H100, with the model names of the captures.
fn fast_settings() -> EmulatorSettings {
    let constants = EngineModel { speed: 1000.0, ..EngineModel::default() };
    EmulatorSettings {
        models: vec!["tiny".into(), "my-lora".into()],
        engine_model: constants,
        ..EmulatorSettings::default()
    }
}

/// Returns settings with steps of 100 ms.
fn slow_settings() -> EmulatorSettings {
    let constants = EngineModel { step_time: Duration::from_millis(100), ..EngineModel::default() };
    EmulatorSettings { engine_model: constants, ..fast_settings() }
}

fn start_replica(settings: EmulatorSettings) -> EmulatedReplica {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    EmulatedReplica::start(listener, settings, Clock::start()).unwrap()
}

fn connect(replica: &EmulatedReplica) -> TcpStream {
    let stream = TcpStream::connect(replica.addr()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream
}

/// A response as raw bytes.
struct RawResponse {
    head: String,
    body: Vec<u8>,
}

impl RawResponse {
    fn parse(bytes: &[u8]) -> Self {
        let Some(at) = bytes.windows(4).position(|w| w == b"\r\n\r\n") else {
            return Self { head: String::from_utf8_lossy(bytes).into_owned(), body: Vec::new() };
        };
        Self { head: String::from_utf8(bytes[..at].to_vec()).unwrap(), body: bytes[at + 4..].to_vec() }
    }

    fn status(&self) -> u16 {
        self.head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or_default()
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|l| l.split_once(": ").filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v))
    }

    /// Returns the body without chunk framing, and whether it is complete.
    fn text(&self) -> (String, bool) {
        if self.header("transfer-encoding") != Some("chunked") {
            let length: usize = self.header("content-length").unwrap_or("0").parse().unwrap();
            return (String::from_utf8(self.body.clone()).unwrap(), self.body.len() == length);
        }
        let (mut rest, mut text) = (&self.body[..], Vec::new());
        while let Some(at) = rest.windows(2).position(|w| w == b"\r\n") {
            let line = std::str::from_utf8(&rest[..at]).unwrap();
            let Ok(size) = usize::from_str_radix(line, 16) else { break };
            if size == 0 {
                return (String::from_utf8(text).unwrap(), true);
            }
            let Some(chunk) = rest.get(at + 2..at + 2 + size) else { break };
            text.extend_from_slice(chunk);
            rest = rest.get(at + 4 + size..).unwrap_or_default();
        }
        (String::from_utf8(text).unwrap(), false)
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.text().0).unwrap()
    }

    fn events(&self) -> Vec<String> {
        self.text().0.split_terminator("\n\n").map(str::to_owned).collect()
    }
}

fn format_request(method: &str, path: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    let kind = if headers.contains("content-type") { "" } else { "content-type: application/json\r\n" };
    format!("{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n{kind}{headers}\r\n{body}")
}

/// Sends one request on its own connection and reads until the connection is closed.
fn send_request(replica: &EmulatedReplica, method: &str, path: &str, headers: &str, body: &str) -> RawResponse {
    let mut stream = connect(replica);
    let headers = format!("connection: close\r\n{headers}");
    stream.write_all(format_request(method, path, &headers, body).as_bytes()).unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    RawResponse::parse(&bytes)
}

fn get(replica: &EmulatedReplica, path: &str) -> RawResponse {
    send_request(replica, "GET", path, "", "")
}

fn post(replica: &EmulatedReplica, path: &str, body: &Value) -> RawResponse {
    send_request(replica, "POST", path, "", &body.to_string())
}

fn chat_body(tokens: u64, stream: bool) -> Value {
    let mut body = json!({"model": "tiny", "messages": [{"role": "user", "content": "hello"}], "max_tokens": tokens});
    if stream {
        body["stream"] = json!(true);
        body["stream_options"] = json!({"include_usage": true});
    }
    body
}

fn post_with_fault(replica: &EmulatedReplica, fault: &str, stream: bool) -> RawResponse {
    let headers = format!("x-emulate-fault: {fault}\r\n");
    send_request(replica, "POST", "/v1/chat/completions", &headers, &chat_body(4, stream).to_string())
}

/// Waits until a condition holds; fails after `limit`.
fn wait_at_most(limit: Duration, what: &str, fact: impl Fn() -> bool) {
    let clock = Clock::start();
    while !fact() {
        assert!(clock.now().since(Default::default()) < limit, "{what} did not come true in {limit:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Returns the keys of a JSON text in order, each with its path; only a list's first item counts.
fn collect_json_keys(json: &str) -> Vec<String> {
    struct JsonKeyCollector<'a>(&'a str, &'a mut Vec<String>);
    impl<'de> serde::de::DeserializeSeed<'de> for JsonKeyCollector<'_> {
        type Value = ();
        fn deserialize<D: serde::Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
            from.deserialize_any(self)
        }
    }
    impl<'de> serde::de::Visitor<'de> for JsonKeyCollector<'_> {
        type Value = ();
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("JSON")
        }
        fn visit_bool<E>(self, _: bool) -> Result<(), E> {
            Ok(())
        }
        fn visit_u64<E>(self, _: u64) -> Result<(), E> {
            Ok(())
        }
        fn visit_i64<E>(self, _: i64) -> Result<(), E> {
            Ok(())
        }
        fn visit_f64<E>(self, _: f64) -> Result<(), E> {
            Ok(())
        }
        fn visit_str<E>(self, _: &str) -> Result<(), E> {
            Ok(())
        }
        fn visit_unit<E>(self) -> Result<(), E> {
            Ok(())
        }
        fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
            let path = format!("{}[]", self.0);
            items.next_element_seed(JsonKeyCollector(&path, self.1))?;
            while items.next_element::<serde::de::IgnoredAny>()?.is_some() {}
            Ok(())
        }
        fn visit_map<A: serde::de::MapAccess<'de>>(self, mut fields: A) -> Result<(), A::Error> {
            while let Some(key) = fields.next_key::<String>()? {
                let path = format!("{}.{key}", self.0);
                self.1.push(path.clone());
                fields.next_value_seed(JsonKeyCollector(&path, self.1))?;
            }
            Ok(())
        }
    }
    let mut found = Vec::new();
    let seed = JsonKeyCollector("", &mut found);
    serde::de::DeserializeSeed::deserialize(seed, &mut serde_json::Deserializer::from_str(json)).unwrap();
    found
}

/// Returns the names and keys of a stream's events.
fn event_shapes(raw: &RawResponse) -> BTreeSet<String> {
    let kind = |event: String| {
        let (name, data) = event.split_once("data: ").unwrap_or((&event, ""));
        let keys = if data.starts_with('{') { collect_json_keys(data).join(" ") } else { data.to_owned() };
        format!("{name}{keys}")
    };
    raw.events().into_iter().map(kind).collect()
}

#[test]
fn answers_have_the_shape_of_captured_ones() {
    // Truncated captures, and features that are not emulated.
    let other = [
        "chat-long",
        "echo-logprobs",
        "chat-stream-stop",
        "json-schema",
        "embeddings",
        "too-long",
        "midstream",
        "sigterm",
        "killed",
    ];
    let replica = start_replica(fast_settings());
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/captures/vllm-0.32.0");
    let mut compared = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if path.extension().is_none_or(|e| e != "req") || other.iter().any(|o| name.contains(o)) {
            continue;
        }
        let request = std::fs::read_to_string(&path).unwrap();
        let (line, body) = request.split_once('\n').unwrap_or((&request, ""));
        let [method, target, kind] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{name}: {line}") };
        let theirs = RawResponse::parse(&std::fs::read(path.with_extension("http")).unwrap());
        let headers = format!("content-type: {kind}\r\nx-request-id: cap-{name}\r\n");
        let ours = send_request(&replica, method, target, &headers, body);
        assert_eq!(ours.status(), theirs.status(), "{name}");
        for header in ["content-type", "x-request-id", "allow", "transfer-encoding"] {
            assert_eq!(ours.header(header), theirs.header(header), "{name}: {header}");
        }
        if theirs.header("transfer-encoding").is_some() {
            assert!(ours.text().1);
            let differ: Vec<_> = event_shapes(&ours).symmetric_difference(&event_shapes(&theirs)).cloned().collect();
            assert!(differ.is_empty(), "{name}: {differ:#?}");
        } else if !theirs.body.is_empty() {
            assert_eq!(collect_json_keys(&ours.text().0), collect_json_keys(&theirs.text().0), "{name}");
            assert_eq!(ours.json()["id"].is_string(), theirs.json()["id"].is_string());
            if !name.starts_with("responses") {
                assert_eq!(ours.json()["id"], theirs.json()["id"], "{name}");
            }
            assert_eq!(ours.json()["error"]["type"], theirs.json()["error"]["type"], "{name}");
        }
        compared += 1;
    }
    assert!(compared > 40, "only {compared} captures were compared");
}

#[test]
fn compute_and_info_endpoints_answer() {
    let replica = start_replica(fast_settings());
    let text = json!({"model": "tiny", "input": ["one", "two"]});
    let pair = json!({"model": "tiny", "query": "one", "documents": ["a", "b", "c"], "top_n": 2});
    let score = json!({"model": "tiny", "text_1": "one", "text_2": ["a", "b"]});
    for (path, body, list) in [
        ("/v1/embeddings", &text, "data"),
        ("/pooling", &text, "data"),
        ("/classify", &text, "data"),
        ("/v1/rerank", &pair, "results"),
        ("/v1/score", &score, "data"),
    ] {
        let raw = post(&replica, path, body);
        assert_eq!(raw.status(), 200, "{path}");
        let answer = raw.json();
        assert_eq!(answer[list].as_array().unwrap().len(), 2, "{path}");
        assert!(answer["usage"]["prompt_tokens"].as_u64().unwrap() >= 2, "{path}");
        assert_eq!(post(&replica, path, &json!({"model": "nope", "input": "x"})).status(), 404, "{path}");
    }
    let speech = post(&replica, "/v1/audio/speech", &json!({"model": "tiny", "input": "hello"}));
    assert!(speech.header("content-type") == Some("audio/wav") && speech.body.starts_with(b"RIFF"));
    for control in ["/sleep", "/wake_up", "/pause", "/resume", "/reset_prefix_cache", "/v1/load_lora_adapter"] {
        assert_eq!(post(&replica, control, &json!({})).status(), 200, "{control}");
    }
    assert_eq!(replica.counters().request_count("/sleep"), 1);
    let form = "--b\r\ncontent-disposition: form-data; name=\"model\"\r\n\r\ntiny\r\n--b--\r\n";
    for path in ["/v1/audio/transcriptions", "/v1/audio/translations"] {
        let kind = "content-type: multipart/form-data; boundary=b\r\n";
        let raw = send_request(&replica, "POST", path, kind, form);
        assert!(raw.json()["text"].as_str().unwrap().contains("water"), "{path}");
        assert_eq!(send_request(&replica, "POST", path, kind, &form.replace("tiny", "nope")).status(), 404);
    }
}

#[test]
fn too_long_prompt_is_refused() {
    let replica = start_replica(EmulatorSettings { max_model_len: 100, ..fast_settings() });
    let raw = post(&replica, "/v1/chat/completions", &chat_body(99, false));
    assert_eq!((raw.status(), &raw.json()["error"]["code"]), (400, &json!(400)));
    assert!(raw.json()["error"]["message"].as_str().unwrap().contains("maximum context length is 100 tokens"));
    let tight = EngineModel { kv_capacity: tokenweir::units::Tokens(64), ..fast_settings().engine_model };
    let replica = start_replica(EmulatorSettings { engine_model: tight, ..fast_settings() });
    assert_eq!(post(&replica, "/v1/chat/completions", &chat_body(99, false)).status(), 400);
}

#[test]
fn messages_report_cached_and_input_tokens() {
    let replica = start_replica(fast_settings());
    let mut body = chat_body(2, false);
    body["messages"][0]["content"] = json!("water flows over the weir ".repeat(40));
    let usage = || post(&replica, "/v1/messages", &body).json()["usage"].clone();
    let (first, second) = (usage(), usage());
    let prompt = first["input_tokens"].as_u64().unwrap();
    let cached = (prompt - 1) / 16 * 16;
    assert_eq!(first["cache_read_input_tokens"], 0);
    assert_eq!(
        (&second["input_tokens"], &second["cache_read_input_tokens"]),
        (&json!(prompt - cached), &json!(cached))
    );
}

#[test]
fn second_equal_prompt_hits_the_prefix_cache() {
    let replica = start_replica(fast_settings());
    let mut body = chat_body(2, false);
    body["messages"][0]["content"] = json!("water flows over the weir ".repeat(40));
    let usage = |body: &Value| post(&replica, "/v1/chat/completions", body).json()["usage"].clone();
    let (first, second) = (usage(&body), usage(&body));
    assert_eq!(first["prompt_tokens_details"]["cached_tokens"], 0);
    let prompt = first["prompt_tokens"].as_u64().unwrap();
    assert_eq!(second["prompt_tokens_details"]["cached_tokens"], (prompt - 1) / 16 * 16);
    body["cache_salt"] = json!("other");
    assert_eq!(usage(&body)["prompt_tokens_details"]["cached_tokens"], 0);
    let metrics = get(&replica, "/metrics").text().0;
    for line in [
        "vllm:num_requests_running{engine=\"0\",model_name=\"tiny\"} 0.0".to_owned(),
        "vllm:num_requests_waiting{engine=\"0\",model_name=\"tiny\"} 0.0".to_owned(),
        "vllm:kv_cache_usage_perc{engine=\"0\",model_name=\"tiny\"} 0.0".to_owned(),
        format!(
            "vllm:prefix_cache_queries_total{{engine=\"0\",model_name=\"tiny\"}} {prompt:.1}",
            prompt = 3.0 * prompt as f64
        ),
        format!(
            "vllm:prefix_cache_hits_total{{engine=\"0\",model_name=\"tiny\"}} {:.1}",
            ((prompt - 1) / 16 * 16) as f64
        ),
        "vllm:generation_tokens_total{engine=\"0\",model_name=\"tiny\"} 6.0".to_owned(),
        "emulated:resident_tokens{model_name=\"tiny\"} 0.0".to_owned(),
    ] {
        assert!(metrics.lines().any(|l| l == line), "{line} is not in\n{metrics}");
    }
    assert!(metrics.contains("block_size=\"16\"") && metrics.contains("num_gpu_blocks=\"26875\""));
}

#[test]
fn stream_has_every_token_and_usage_only_if_requested() {
    let replica = start_replica(fast_settings());
    let raw = post(&replica, "/v1/chat/completions", &chat_body(5, true));
    let events = raw.events();
    // Role, five words, usage, [DONE].
    assert_eq!(events.len(), 8);
    let usage: Value = serde_json::from_str(events[6].strip_prefix("data: ").unwrap()).unwrap();
    assert_eq!((&usage["usage"]["completion_tokens"], &usage["choices"]), (&json!(5), &json!([])));
    let mut body = chat_body(5, true);
    body["stream_options"] = json!({});
    let raw = post(&replica, "/v1/chat/completions", &body);
    assert!(raw.events().len() == 7 && !raw.text().0.contains("usage"));
    let merged =
        send_request(&replica, "POST", "/v1/chat/completions", "x-emulate-tokens-per-event: 4\r\n", &body.to_string());
    assert_eq!(merged.events().len(), 4);
    body["max_tokens"] = Value::Null;
    let raw = send_request(&replica, "POST", "/v1/chat/completions", "x-emulate-tokens: 3\r\n", &body.to_string());
    assert!(raw.events().len() == 5 && raw.text().0.contains(r#""finish_reason":"stop""#));
}

/// Returns the JSON of a stream's events, without `[DONE]`.
fn event_data(raw: &RawResponse) -> Vec<Value> {
    let data = |event: &String| serde_json::from_str(event.split_once("data: ")?.1).ok();
    raw.events().iter().filter_map(data).collect()
}

/// Joins the strings at `pointer` in all events.
fn join_strings(events: &[Value], pointer: &str) -> String {
    events.iter().filter_map(|event| event.pointer(pointer)?.as_str()).collect()
}

/// The arguments of the tool call in [`check_tool_call`].
const TOOL_ARGUMENTS: &str = r#"{"command":"echo \"ä\" > file","timeout":5}"#;

/// Checks that a prompt with the marker is answered by the call of the only one of `tools`, `sh`: `whole` are strings
/// of the answer, `streamed` strings of its events, and `parts` the place of the streamed arguments.
fn check_tool_call(
    (path, member): (&str, &str),
    tools: &Value,
    whole: &[(&str, &str)],
    streamed: &[(&str, &str)],
    parts: &str,
) {
    let replica = start_replica(fast_settings());
    let prompt = format!("go\nemulate-tool-call: sh {TOOL_ARGUMENTS}");
    let mut body = json!({"model": "tiny", "tools": tools, "max_tokens": 500});
    body[member] = json!([{"role": "user", "content": prompt}]);
    let answer = post(&replica, path, &body).json();
    for (pointer, expected) in whole {
        let found = answer.pointer(pointer).unwrap_or_else(|| panic!("no {pointer} in {answer}"));
        assert_eq!(found.as_str().map_or_else(|| found.to_string(), str::to_owned), *expected, "{pointer}");
    }
    body["stream"] = json!(true);
    let events = event_data(&post(&replica, path, &body));
    for (pointer, expected) in streamed {
        assert_eq!(join_strings(&events, pointer), *expected, "{pointer}");
    }
    assert_eq!(join_strings(&events, parts), TOOL_ARGUMENTS);
    body[member] = json!([{"role": "user", "content": "no call"}]);
    assert!(!post(&replica, path, &body).text().0.contains(r#""sh""#), "a call without the marker");
}

#[test]
fn marked_tool_call_is_answered_in_chat() {
    let call = "/choices/0/message/tool_calls/0/function";
    check_tool_call(
        ("/v1/chat/completions", "messages"),
        &json!([{"type": "function", "function": {"name": "sh"}}]),
        &[
            (&format!("{call}/name"), "sh"),
            (&format!("{call}/arguments"), TOOL_ARGUMENTS),
            ("/choices/0/finish_reason", "tool_calls"),
        ],
        &[("/choices/0/delta/tool_calls/0/function/name", "sh"), ("/choices/0/finish_reason", "tool_calls")],
        "/choices/0/delta/tool_calls/0/function/arguments",
    );
}

#[test]
fn marked_tool_call_is_answered_in_responses() {
    check_tool_call(
        ("/v1/responses", "input"),
        &json!([{"type": "function", "name": "sh"}]),
        &[
            ("/output/0/type", "function_call"),
            ("/output/0/name", "sh"),
            ("/output/0/arguments", TOOL_ARGUMENTS),
            ("/status", "completed"),
        ],
        &[("/response/output/0/arguments", TOOL_ARGUMENTS), ("/name", "sh"), ("/arguments", TOOL_ARGUMENTS)],
        "/delta",
    );
}

#[test]
fn marked_tool_call_is_answered_in_messages() {
    check_tool_call(
        ("/v1/messages", "messages"),
        &json!([{"name": "sh", "input_schema": {}}]),
        &[
            ("/content/0/type", "tool_use"),
            ("/content/0/name", "sh"),
            ("/content/0/input", TOOL_ARGUMENTS),
            ("/stop_reason", "tool_use"),
        ],
        &[("/content_block/name", "sh"), ("/delta/stop_reason", "tool_use")],
        "/delta/partial_json",
    );
}

#[test]
fn answer_ends_by_itself_before_the_bound_of_the_request() {
    let replica = start_replica(EmulatorSettings { stop_after: Some(3), ..fast_settings() });
    let ends = |tokens: u64| {
        let answer = post(&replica, "/v1/chat/completions", &chat_body(tokens, false)).json();
        (answer["usage"]["completion_tokens"].clone(), answer["choices"][0]["finish_reason"].clone())
    };
    assert_eq!(ends(32_000), (json!(3), json!("stop")));
    assert_eq!(ends(3), (json!(3), json!("length")));
    assert_eq!(ends(2), (json!(2), json!("length")));
}

#[tokio::test]
async fn independent_parser_reads_the_stream() {
    let replica = start_replica(fast_settings());
    let client = load::build_client().unwrap();
    let request = client.post(format!("{}/v1/chat/completions", replica.url())).json(&chat_body(20, true));
    let mut events = request.send().await.unwrap().bytes_stream().eventsource();
    let mut words = String::new();
    let mut last = String::new();
    while let Some(event) = events.next().await {
        last = event.unwrap().data;
        if let Ok(json) = serde_json::from_str::<Value>(&last) {
            words.push_str(json.pointer("/choices/0/delta/content").and_then(Value::as_str).unwrap_or_default());
        }
    }
    assert_eq!(last, "[DONE]");
    assert_eq!(words.split(' ').count(), 20);
}

#[test]
fn stored_responses_are_read_cancelled_and_deleted() {
    let replica = start_replica(fast_settings());
    let body = json!({"model": "tiny", "input": "hello", "max_output_tokens": 3});
    let id = post(&replica, "/v1/responses", &body).json()["id"].as_str().unwrap().to_owned();
    let path = format!("/v1/responses/{id}");
    assert_eq!(get(&replica, &path).json()["id"], json!(id));
    assert_eq!(send_request(&replica, "POST", &format!("{path}/cancel"), "", "").status(), 200);
    let mut next = body;
    next["previous_response_id"] = json!(id);
    assert_eq!(post(&replica, "/v1/responses", &next).status(), 200);
    assert_eq!(send_request(&replica, "DELETE", &path, "", "").json()["deleted"], true);
    assert_eq!(get(&replica, &path).status(), 404);
    assert_eq!(post(&replica, "/v1/responses", &next).status(), 404);
    let streamed = post(&replica, "/v1/responses", &json!({"model": "tiny", "input": "x", "stream": true}));
    let last = streamed.events().pop().unwrap();
    let done: Value = serde_json::from_str(last.split_once("data: ").unwrap().1).unwrap();
    let id = done["response"]["id"].as_str().unwrap();
    assert_eq!(get(&replica, &format!("/v1/responses/{id}")).json(), done["response"]);
}

#[test]
fn disconnect_frees_the_engine() {
    let replica = start_replica(slow_settings());
    for stream in [true, false] {
        let mut client = connect(&replica);
        let body = chat_body(1000, stream).to_string();
        client.write_all(format_request("POST", "/v1/chat/completions", "", &body).as_bytes()).unwrap();
        wait_at_most(Duration::from_secs(2), "the request runs", || replica.stats().running == 1);
        assert_eq!(replica.counters().open_requests(), 1);
        drop(client);
        let limit = Duration::from_millis(100);
        wait_at_most(limit, "the engine is idle", || replica.stats().running == 0 && replica.stats().kv_usage == 0.0);
        wait_at_most(limit, "the request is closed", || replica.counters().open_requests() == 0);
    }
    assert_eq!(replica.counters().aborted_requests(), 2);
}

#[test]
fn head_comes_before_the_first_token() {
    let replica = start_replica(slow_settings());
    let mut client = connect(&replica);
    client
        .write_all(format_request("POST", "/v1/chat/completions", "", &chat_body(2, true).to_string()).as_bytes())
        .unwrap();
    let mut bytes = [0; 4096];
    let read = client.read(&mut bytes).unwrap();
    assert!(bytes[..read].starts_with(b"HTTP/1.1 200 OK") && bytes[..read].ends_with(b"\r\n\r\n"));
    assert_eq!(replica.stats().generated.0, 0);
}

#[test]
fn faults_of_refusal() {
    let replica = start_replica(fast_settings());
    for (fault, status) in [("500", 500), ("refuse-500", 500), ("503", 503), ("429", 429)] {
        let raw = post_with_fault(&replica, fault, true);
        assert_eq!((raw.status(), &raw.json()["error"]["code"]), (status, &json!(status)));
        assert_eq!(raw.header("retry-after").is_some(), status == 503);
    }
    assert_eq!(post_with_fault(&replica, "close-before-head", true).head, "");
    let raw = post_with_fault(&replica, "close-after-head", true);
    assert_eq!((raw.status(), raw.body.len()), (200, 0));
    let raw = post_with_fault(&replica, "close-after-head", false);
    assert!(raw.status() == 200 && !raw.text().1);
    assert_eq!(replica.stats().running, 0);
}

#[test]
fn faults_in_mid_stream() {
    let replica = start_replica(fast_settings());
    for n in [0, 1, 3] {
        let died = post_with_fault(&replica, &format!("die-midstream={n}"), true);
        assert_eq!((died.events().len(), died.text().1), (n, false));
        let cut = post_with_fault(&replica, &format!("cut-midstream={n}"), true);
        assert_eq!((cut.events().len(), cut.text().1), (n, true));
        let error = post_with_fault(&replica, &format!("error-event={n}"), true);
        assert_eq!((error.events().len(), error.text().1), (n + 2, true));
        let sent: Value = serde_json::from_str(error.events()[n].strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(sent["error"]["code"], 500);
        let bad = post_with_fault(&replica, &format!("bad-chunk={n}"), true);
        assert_eq!((bad.events().len(), bad.text().1), (n, false));
        assert!(bad.body.windows(1).any(|w| w == b"?"));
        let aborted = post_with_fault(&replica, &format!("abort-event={n}"), true);
        // Abort, usage, [DONE].
        assert_eq!((aborted.events().len(), aborted.text().1), (n + 3, true));
        assert!(aborted.events()[n].contains(r#""finish_reason":"abort""#));
    }
    let halved = post_with_fault(&replica, "die-midstream", false);
    assert!(halved.status() == 200 && !halved.body.is_empty() && !halved.text().1);
    assert_eq!(post_with_fault(&replica, "error-event", false).status(), 500);
    assert_eq!(post_with_fault(&replica, "abort-event", false).json()["choices"][0]["finish_reason"], "abort");
    wait_at_most(Duration::from_secs(1), "the engine is idle", || replica.stats().running == 0);
}

#[test]
fn faults_of_usage() {
    let replica = start_replica(fast_settings());
    let silent = post_with_fault(&replica, "no-usage", true);
    assert!(silent.text().1 && !silent.text().0.contains("usage"));
    assert_eq!(post_with_fault(&replica, "no-usage", false).json().get("usage"), None);
    let talkative = post_with_fault(&replica, "usage-everywhere", true);
    let without = |event: &&String| !event.contains("\"usage\":{");
    assert_eq!(talkative.events().iter().filter(without).count(), 1);
}

#[test]
fn faults_of_time() {
    let replica = start_replica(fast_settings());
    for (fault, early) in [("slow-headers=60", false), ("slow-first=60", true)] {
        let mut client = connect(&replica);
        let headers = format!("connection: close\r\nx-emulate-fault: {fault}\r\n");
        let request = format_request("POST", "/v1/chat/completions", &headers, &chat_body(2, true).to_string());
        let clock = Clock::start();
        client.write_all(request.as_bytes()).unwrap();
        let mut bytes = [0; 4096];
        let read = client.read(&mut bytes).unwrap();
        let passed = || clock.now().since(Default::default()) >= Duration::from_millis(60);
        assert!(read > 0 && (early || passed()), "{fault}");
        let mut rest = bytes[..read].to_vec();
        client.read_to_end(&mut rest).unwrap();
        assert!(passed() && rest.ends_with(b"0\r\n\r\n"), "{fault}");
    }
    let mut client = connect(&replica);
    client.set_read_timeout(Some(Duration::from_millis(80))).unwrap();
    let request =
        format_request("POST", "/v1/chat/completions", "x-emulate-fault: stall=2\r\n", &chat_body(9, true).to_string());
    client.write_all(request.as_bytes()).unwrap();
    let mut bytes = Vec::new();
    let silence = client.read_to_end(&mut bytes).unwrap_err();
    assert!(matches!(silence.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut));
    let raw = RawResponse::parse(&bytes);
    assert_eq!((raw.events().len(), raw.text().1), (2, false));
    assert_eq!(replica.counters().open_requests(), 1);
}

#[test]
fn active_fault_hits_its_number_of_posts_and_is_cleared() {
    let replica = start_replica(fast_settings());
    let status = || post(&replica, "/v1/chat/completions", &chat_body(1, false)).status();
    assert_eq!(post(&replica, "/emulate/faults", &json!({"fault": "503", "count": 2})).status(), 200);
    assert_eq!(get(&replica, "/health").status(), 200);
    assert_eq!([status(), status(), status()], [503, 503, 200]);
    post(&replica, "/emulate/faults", &json!({"fault": "500", "path": "/health"}));
    assert_eq!((get(&replica, "/health").status(), get(&replica, "/health").status(), status()), (500, 500, 200));
    assert_eq!(send_request(&replica, "DELETE", "/emulate/faults", "", "").status(), 200);
    assert_eq!(get(&replica, "/health").status(), 200);
    assert_eq!(post(&replica, "/emulate/faults", &json!({"fault": "no-such"})).status(), 400);
}

#[test]
fn idle_connections_are_closed_and_one_may_be_closed_unannounced() {
    let replica = start_replica(EmulatorSettings { keepalive_timeout: Duration::from_millis(50), ..fast_settings() });
    for fault in ["", "x-emulate-fault: close-keepalive\r\n"] {
        let mut client = connect(&replica);
        client
            .write_all(
                format_request("POST", "/v1/chat/completions", fault, &chat_body(1, false).to_string()).as_bytes(),
            )
            .unwrap();
        let mut bytes = Vec::new();
        client.read_to_end(&mut bytes).unwrap();
        let raw = RawResponse::parse(&bytes);
        assert!(raw.status() == 200 && raw.text().1 && raw.header("connection").is_none());
    }
    let replica = start_replica(EmulatorSettings { keepalive_timeout: Duration::from_secs(60), ..fast_settings() });
    for stream in [false, true] {
        let mut client = connect(&replica);
        let request = |fault| format_request("POST", "/v1/chat/completions", fault, &chat_body(1, stream).to_string());
        let (keeps, closes) = (request(""), request("x-emulate-fault: close-keepalive\r\n"));
        client.write_all((keeps + &closes).as_bytes()).unwrap();
        let mut bytes = Vec::new();
        client.read_to_end(&mut bytes).unwrap();
        assert_eq!(String::from_utf8(bytes).unwrap().matches("HTTP/1.1 200 OK").count(), 2);
    }
    assert_eq!(replica.counters().accepted_connections(), 2);
}

#[test]
fn lockstep_sends_an_event_per_permit() {
    let replica = start_replica(fast_settings());
    let mut client = connect(&replica);
    let headers = "x-emulate-lockstep: 1\r\nx-request-id: step\r\nconnection: close\r\n";
    client
        .write_all(format_request("POST", "/v1/chat/completions", headers, &chat_body(2, true).to_string()).as_bytes())
        .unwrap();
    let mut bytes = Vec::new();
    // Role, two words, usage, [DONE].
    for expected in 1..=5 {
        while RawResponse::parse(&bytes).events().len() < expected {
            let mut more = [0; 4096];
            let read = client.read(&mut more).unwrap();
            assert!(read > 0, "closed after {} bytes", bytes.len());
            bytes.extend_from_slice(&more[..read]);
        }
        assert_eq!(RawResponse::parse(&bytes).events().len(), expected);
        let known = send_request(&replica, "POST", "/emulate/next/step", "", "").status();
        assert!(known == 200 || expected == 5);
    }
    client.read_to_end(&mut bytes).unwrap();
    assert!(RawResponse::parse(&bytes).text().1);
    assert_eq!(send_request(&replica, "POST", "/emulate/next/step", "", "").status(), 404);
}

#[test]
fn stopped_replica_cuts_its_connections_and_refuses_new_ones() {
    let mut replica = start_replica(slow_settings());
    let mut client = connect(&replica);
    client
        .write_all(format_request("POST", "/v1/chat/completions", "", &chat_body(1000, true).to_string()).as_bytes())
        .unwrap();
    wait_at_most(Duration::from_secs(2), "the request runs", || replica.stats().running == 1);
    replica.stop();
    let mut bytes = Vec::new();
    let _ = client.read_to_end(&mut bytes);
    assert!(!RawResponse::parse(&bytes).text().1);
    assert!(TcpStream::connect(replica.addr()).is_err());
    assert_eq!(replica.counters().open_requests(), 0);
}

#[test]
fn echo_describes_the_request() {
    let replica = start_replica(EmulatorSettings { echo: true, ..fast_settings() });
    let raw = send_request(&replica, "PUT", "/any/path?q=1", "x-one: 1\r\nx-two: 2\r\n", "the body");
    let (text, _) = raw.text();
    assert!(text.starts_with("client: 127.0.0.1:") && text.contains("\nPUT /any/path?q=1\n"));
    assert!(text.find("x-one: 1\n") < text.find("x-two: 2\n") && text.ends_with("\n\nthe body"));
}

#[tokio::test]
async fn emulated_clients_count_what_they_see() {
    let replica = start_replica(fast_settings());
    let counters = Arc::new(LoadCounters::default());
    let settings = LoadSettings {
        base_url: replica.url(),
        model: "tiny".into(),
        requests_per_second: 400.0,
        max_open_requests: 1000,
        max_tokens: 8,
        max_requests: Some(60),
        seed: 1,
    };
    assert!(
        send_request(&replica, "POST", "/emulate/faults", "", r#"{"fault":"die-midstream=1","count":5}"#).status()
            == 200
    );
    load::run_load(settings.clone(), counters.clone(), std::future::pending()).await.unwrap();
    let count = |c: &std::sync::atomic::AtomicU64| c.load(Ordering::Relaxed);
    assert_eq!((count(&counters.sent), count(&counters.completed), count(&counters.failed)), (60, 55, 5));
    assert!(count(&counters.generated_tokens) >= 55);
    assert!(replica.stats().cache_hits.0 > 0);
    let stopped = LoadSettings { max_requests: None, ..settings };
    load::run_load(stopped, counters, tokio::time::sleep(Duration::from_millis(20))).await.unwrap();
}

#[tokio::test]
async fn replicas_are_served_on_consecutive_ports_or_not_at_all() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap();
    let serve = |port, count| async move {
        tokenweir::emulate::serve_replicas(addr.ip(), port, count, &fast_settings(), Clock::start()).await
    };
    assert_eq!(serve(addr.port(), 1).await.unwrap_err().kind(), std::io::ErrorKind::AddrInUse);
    assert!(serve(u16::MAX, 2).await.is_err());
    drop(taken);
    let health = async {
        let client = load::build_client().unwrap();
        let url = format!("http://{addr}/health");
        // The replica listens after the first poll of its future.
        while client.get(&url).send().await.is_err() {}
        client.get(&url).send().await.unwrap().status()
    };
    tokio::select! {
        ended = serve(addr.port(), 1) => panic!("the emulator stopped: {ended:?}"),
        status = health => assert_eq!(status, 200),
    }
}
