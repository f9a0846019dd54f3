//! Paths that reach a replica, paths that the router answers itself, and closed paths.

use crate::harness::client::{HttpResponse, TestClient};
use crate::harness::scripted::{ScriptedReplica, respond_ok};
use crate::harness::{TestRouter, send_request, start_replica};
use tokenweir::emulate::EmulatedReplica;

const JSON_HEADERS: &str = "";
const FORM_HEADERS: &str = "content-type: multipart/form-data; boundary=xx\r\n";
const AUDIO_FORM: &str = "--xx\r\ncontent-disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\ncontent-type: audio/wav\r\n\r\nRIFF\r\n--xx\r\ncontent-disposition: form-data; name=\"model\"\r\n\r\nMODEL\r\n--xx--\r\n";

/// Path, header lines, body, and the end of its stream if it streams.
type EndpointCase = (&'static str, &'static str, &'static str, Option<&'static str>);

const ENDPOINT_CASES: &[EndpointCase] = &[
    (
        "/v1/chat/completions",
        JSON_HEADERS,
        r#"{"model":"MODEL","messages":[{"role":"user","content":"hi"}],"max_tokens":4}"#,
        Some("data: [DONE]\n\n"),
    ),
    ("/v1/completions", JSON_HEADERS, r#"{"model":"MODEL","prompt":"hi","max_tokens":4}"#, Some("data: [DONE]\n\n")),
    ("/v1/embeddings", JSON_HEADERS, r#"{"model":"MODEL","input":"hi"}"#, None),
    (
        "/v1/responses",
        JSON_HEADERS,
        r#"{"model":"MODEL","input":"hi","max_output_tokens":4}"#,
        Some(r#""type":"response.completed"}"#),
    ),
    (
        "/v1/messages",
        JSON_HEADERS,
        r#"{"model":"MODEL","messages":[{"role":"user","content":"hi"}],"max_tokens":4}"#,
        Some(r#""type":"message_stop"}"#),
    ),
    (
        "/v1/messages/count_tokens",
        JSON_HEADERS,
        r#"{"model":"MODEL","messages":[{"role":"user","content":"hi"}]}"#,
        None,
    ),
    ("/v1/rerank", JSON_HEADERS, r#"{"model":"MODEL","query":"q","documents":["a","b"]}"#, None),
    ("/rerank", JSON_HEADERS, r#"{"model":"MODEL","query":"q","documents":["a","b"]}"#, None),
    ("/v1/score", JSON_HEADERS, r#"{"model":"MODEL","text_1":"a","text_2":"b"}"#, None),
    ("/score", JSON_HEADERS, r#"{"model":"MODEL","text_1":"a","text_2":"b"}"#, None),
    ("/pooling", JSON_HEADERS, r#"{"model":"MODEL","input":"hi"}"#, None),
    ("/classify", JSON_HEADERS, r#"{"model":"MODEL","input":"hi"}"#, None),
    ("/tokenize", JSON_HEADERS, r#"{"model":"MODEL","prompt":"hi"}"#, None),
    ("/detokenize", JSON_HEADERS, r#"{"model":"MODEL","tokens":[1,2]}"#, None),
    ("/v1/audio/transcriptions", FORM_HEADERS, AUDIO_FORM, None),
    ("/v1/audio/translations", FORM_HEADERS, AUDIO_FORM, None),
    ("/v1/audio/speech", JSON_HEADERS, r#"{"model":"MODEL","input":"hi"}"#, None),
];

/// Starts a router over two pools with one replica and one model each.
fn start_two_pools() -> (TestRouter, EmulatedReplica, EmulatedReplica) {
    let (alpha, beta) = (start_replica(&["alpha"]), start_replica(&["beta"]));
    let text = format!(
        "[[pool]]\nname = \"a\"\nreplicas = [{:?}]\n[[pool]]\nname = \"b\"\nreplicas = [{:?}]\n",
        alpha.url(),
        beta.url()
    );
    (TestRouter::start(&text).wait_until_ready(), alpha, beta)
}

#[test]
fn endpoint_reaches_the_replica_of_its_model() {
    let (router, alpha, beta) = start_two_pools();
    for (path, headers, body, _) in ENDPOINT_CASES {
        for (model, right, wrong) in [("alpha", &alpha, &beta), ("beta", &beta, &alpha)] {
            let before = (right.counters().request_count(path), wrong.counters().request_count(path));
            let headers = format!("{headers}x-request-id: kept-{model}\r\n");
            let reply = router.send_request("POST", path, &headers, body.replace("MODEL", model));
            assert_eq!(reply.status, 200, "{path}: {}{}", reply.head, reply.text());
            assert!(reply.complete && !reply.body.is_empty(), "{path}");
            assert_eq!(reply.header("x-upstream").unwrap(), right.addr().to_string(), "{path}");
            assert_eq!(reply.header("x-request-id").unwrap(), format!("kept-{model}"), "{path}");
            let after = (right.counters().request_count(path), wrong.counters().request_count(path));
            assert_eq!(after, (before.0 + 1, before.1), "{path} {model}");
        }
    }
}

#[test]
fn streams_disable_proxy_buffering() {
    let (router, _alpha, _beta) = start_two_pools();
    for (path, headers, body, end) in ENDPOINT_CASES {
        let Some(end) = end else { continue };
        let body = body.replace("MODEL", "beta").replace('{', "{\"stream\":true,").replace("[{\"stream\":true,", "[{");
        let reply = router.send_request("POST", path, headers, body);
        assert_eq!(reply.status, 200, "{path}: {}", reply.text());
        assert!(reply.header("content-type").unwrap().starts_with("text/event-stream"), "{path}");
        assert_eq!(reply.header("x-accel-buffering"), Some("no"), "{path}");
        assert_eq!(reply.header("cache-control"), Some("no-cache"), "{path}");
        assert!(reply.complete && reply.text().trim_end().ends_with(end.trim_end()), "{path}: {}", reply.text());
    }
}

#[test]
fn unknown_and_missing_models_get_openai_errors() {
    let (router, alpha, beta) = start_two_pools();
    for (path, headers, body, _) in ENDPOINT_CASES {
        let reply = router.send_request("POST", path, headers, body.replace("MODEL", "gamma"));
        assert_eq!(reply.status, 404, "{path}: {}", reply.text());
        let error = reply.openai_error();
        assert_eq!((&error["code"], &error["param"]), (&"model_not_found".into(), &"model".into()), "{path}");
        assert!(error["message"].as_str().unwrap().contains("`gamma`"), "{path}: {error}");
        let nameless = body.replace(r#""model":"MODEL","#, "").replace("name=\"model\"", "name=\"other\"");
        let reply = router.send_request("POST", path, headers, nameless);
        assert_eq!((reply.status, &reply.openai_error()["param"]), (400, &"model".into()), "{path}: {}", reply.text());
        assert!(reply.header("x-request-id").is_some_and(|id| id.len() == 32), "{path}: {}", reply.head);
        assert_eq!((alpha.counters().request_count(path), beta.counters().request_count(path)), (0, 0), "{path}");
    }
    let anthropic = router.post("/v1/messages", r#"{"model":"gamma","messages":[]}"#).json();
    assert_eq!((&anthropic["type"], &anthropic["error"]["type"]), (&"error".into(), &"not_found_error".into()));
}

#[test]
fn wrong_method_is_405_and_unknown_path_404() {
    let (router, _alpha, _beta) = start_two_pools();
    for (path, ..) in ENDPOINT_CASES {
        for method in ["GET", "PUT", "DELETE", "PATCH"] {
            let reply = router.send_request(method, path, "", "");
            assert_eq!((reply.status, reply.header("allow")), (405, Some("POST")), "{method} {path}: {}", reply.head);
            assert_eq!(reply.openai_error()["code"], "method_not_supported");
        }
    }
    for path in ["/v1/models", "/v1/models/alpha", "/health", "/livez", "/readyz"] {
        let reply = router.post(path, "{}");
        assert_eq!((reply.status, reply.header("allow")), (405, Some("GET, HEAD")), "{path}: {}", reply.head);
    }
    for path in ["/", "/v1", "/v2/chat/completions", "/v1/chat", "/v1/files", "/index.html", "/v1/responses/"] {
        let reply = router.post(path, r#"{"model":"alpha"}"#);
        assert_eq!((reply.status, &reply.openai_error()["code"]), (404, &"unknown_url".into()), "{path}");
    }
}

#[test]
fn valid_request_id_is_kept_and_invalid_replaced() {
    let replica = start_replica(&["m"]);
    let router = TestRouter::start_with_replicas([&*replica.url()]);
    let id = |lines: &str| {
        let reply =
            router.send_request("POST", "/v1/chat/completions", lines, crate::harness::chat_body("m", 2, false));
        let id = reply.header("x-request-id").unwrap().to_owned();
        assert_eq!(reply.json()["id"], format!("chatcmpl-{id}"), "the replica received the same id");
        id
    };
    assert_eq!(id("x-request-id: a.B-3_x:/+=~\r\n"), "a.B-3_x:/+=~");
    let made = [id(""), id("x-request-id: a b\r\n"), id(&format!("x-request-id: {}\r\n", "x".repeat(129)))];
    for id in &made {
        assert!(id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()), "{id}");
    }
    assert!(made[0] != made[1] && made[1] != made[2]);
}

/// Control paths of vLLM, SGLang, llama.cpp and Ollama outside the API; most of them stop or change the engine.
const CONTROL_PATHS: &str = "/sleep /wake_up /is_sleeping /pause /resume /is_paused /reset_prefix_cache /reset_mm_cache \
     /reset_encoder_cache /update_weights /init_weight_transfer_engine /get_world_size /load /collective_rpc \
     /scale_elastic_ep /is_scaling_elastic_ep /start_profile /stop_profile /server_info /v1/load_lora_adapter \
     /v1/unload_lora_adapter /metrics /docs /redoc /docs/oauth2-redirect /openapi.json /ping /version /invocations \
     /inference/v1/generate /generate /abort_requests /finish_weight_update /start_weight_update /emulate/faults /v1/files \
     /flush_cache /abort_request /update_weights_from_disk /set_internal_state /load_lora_adapter /generate_from_file \
     /slots/0 /props /lora-adapters /models/load /models/unload /api/pull /api/delete /api/tags /v1/batches /v1/conversations";

/// Returns other spellings of a path that lenient parsers normalize to it.
fn path_spellings(path: &str, addr: &str) -> Vec<String> {
    let first = path.as_bytes()[1];
    vec![
        format!("/{path}"),
        format!("{path}/"),
        format!("{path}?x=1"),
        format!("/.{path}"),
        format!("/v1/..{path}"),
        format!("/v1/%2e%2e{path}"),
        format!("/v1/%2E%2E%2f{}", &path[1..]),
        format!("/v1/chat/completions/../../..{path}"),
        format!("/v1/responses/..{path}"),
        format!("/v1/responses/%2e%2e/%2e%2e{path}"),
        format!("/v1/audio/..{path}"),
        format!("/v1/audio/%2e%2e{path}"),
        format!("/v1/models/../..{path}"),
        format!("/%{first:02x}{}", &path[2..]),
        format!("{}%00", path),
        format!("{};x=1", path),
        format!("http://{addr}{path}"),
        format!("http://router.test{path}"),
        format!("http://router.test/v1/..{path}"),
        path.to_ascii_uppercase(),
    ]
}

#[test]
fn control_path_reaches_no_replica_in_any_spelling() {
    let replica = ScriptedReplica::start(&["m"], respond_ok);
    let router = TestRouter::start_with_replicas([&*replica.url()]);
    let mut client = router.connect();
    for path in CONTROL_PATHS.split_whitespace() {
        let all = path_spellings(path, &replica.addr.to_string()).into_iter().chain([path.to_owned()]);
        for target in all {
            for (method, body) in [("GET", ""), ("POST", r#"{"model":"m"}"#)] {
                client.send(crate::harness::client::build_request(method, &target, "", body));
                let reply = client.read_response();
                let wanted: &[u16] = match &*target {
                    target if target.contains("%00") => &[400],
                    // The router answers `/v1/models/...` itself; the rest of the path is a model's name.
                    target if target.starts_with("/v1/models/") => &[404, 405],
                    _ => &[404],
                };
                assert!(wanted.contains(&reply.status), "{method} {target}: {}", reply.head);
                if reply.header("connection") == Some("close") {
                    client = router.connect();
                }
            }
        }
    }
    let received: Vec<_> = replica.received_requests().iter().map(|h| h.target().to_owned()).collect();
    assert!(received.is_empty(), "{received:?}");
}

#[test]
fn odd_request_targets_are_refused() {
    let replica = ScriptedReplica::start(&["m"], respond_ok);
    let router = TestRouter::start_with_replicas([&*replica.url()]);
    let host = "host: router.test\r\ncontent-length: 0\r\n\r\n";
    for line in
        ["OPTIONS * HTTP/1.1", "CONNECT router.test:80 HTTP/1.1", "POST sleep HTTP/1.1", "POST /a\\..\\sleep HTTP/1.1"]
    {
        let mut client = router.connect();
        client.send(format!("{line}\r\n{host}"));
        let reply = client.read_head();
        assert!((400..500).contains(&reply.status), "{line}: {}", reply.head);
    }
    assert!(replica.received_requests().is_empty());
    // The absolute form of an allowed path is that path.
    let reply = router.post("http://router.test/v1/chat/completions?a=b", crate::harness::chat_body("m", 1, false));
    assert_eq!(
        (reply.status, replica.last_request().target().to_owned()),
        (200, "/v1/chat/completions?a=b".to_owned())
    );
}

#[test]
fn paths_any_opens_all_and_a_list_its_own() {
    let replica = ScriptedReplica::start(&["m"], respond_ok);
    let any = TestRouter::start(&format!("paths = \"any\"\nreplicas = [{:?}]", replica.url()));
    for path in
        CONTROL_PATHS.split_whitespace().chain(["/v1/chat/completions", "/health", "/v1/models/m", "/a/../b?c=d"])
    {
        let reply = any.post(path, "what?");
        assert_eq!((reply.status, replica.last_request().target()), (200, path), "{}", reply.text());
        assert_eq!(replica.last_request().body, b"what?");
    }
    let listed =
        TestRouter::start(&format!("paths = [\"/v1/videos\"]\nreplicas = [{:?}]", replica.url())).wait_until_ready();
    let before = replica.received_requests().len();
    let reply = listed.post("/v1/videos", r#"{"model":"m","prompt":"a weir"}"#);
    assert_eq!((reply.status, replica.last_request().target().to_owned()), (200, "/v1/videos".to_owned()));
    assert_eq!(listed.post("/v1/videos", r#"{"model":"x"}"#).status, 404, "the request's model is checked");
    for path in ["/v1/videos/edits", "/v1/videos/", "//v1/videos", "/v1/images", "/sleep"] {
        assert_eq!(listed.post(path, r#"{"model":"m"}"#).status, 404, "{path}");
    }
    assert_eq!(replica.received_requests().len(), before + 1);
}

#[test]
fn health_answers_get_and_head_on_both_ports() {
    let replica = start_replica(&["m"]);
    let router = TestRouter::start_with_replicas([&*replica.url()]);
    for addr in [router.addr, router.admin_addr] {
        let mut client = TestClient::connect(addr);
        for path in ["/livez", "/readyz", "/health"] {
            client.send(crate::harness::client::build_request("HEAD", path, "", ""));
            let reply = client.read_response_to_head();
            assert_eq!((reply.status, reply.header("content-length")), (200, Some("3")), "{path}: {}", reply.head);
            // The connection is still in sync.
            client.send(crate::harness::client::build_request("GET", path, "", ""));
            let reply = client.read_response();
            assert_eq!((reply.status, &*reply.text()), (200, "ok\n"), "{path}");
        }
    }
    assert_eq!(router.get("/metrics").status, 404, "metrics are served on the admin port only");
    assert_eq!(send_request(router.admin_addr, "GET", "/v1/models", "", "").status, 404);
    assert_eq!(send_request(router.admin_addr, "POST", "/v1/chat/completions", "", "{}").status, 404);
}

const ORIGIN_HEADER: &str = "origin: https://a.example\r\n";

fn send_preflight(router: &TestRouter, origin: &str) -> HttpResponse {
    let headers = format!("{origin}access-control-request-method: POST\r\naccess-control-request-headers: x-a\r\n");
    router.send_request("OPTIONS", "/v1/chat/completions", &headers, "")
}

#[test]
fn cors_origins_are_configured() {
    let replica = start_replica(&["m"]);
    let cors = format!("replicas = [{:?}]\n[cors]\norigins = [\"https://a.example\"]", replica.url());
    let router = TestRouter::start(&cors).wait_until_ready();
    let reply = send_preflight(&router, ORIGIN_HEADER);
    assert_eq!((reply.status, reply.header("access-control-allow-origin")), (204, Some("https://a.example")));
    assert!(reply.header("access-control-allow-methods").unwrap().contains("POST"));
    assert_eq!(reply.header("access-control-allow-headers"), Some("x-a"));
    let chat = crate::harness::chat_body("m", 2, true);
    for (headers, allowed) in
        [(ORIGIN_HEADER, Some("https://a.example")), ("origin: https://b.example\r\n", None), ("", None)]
    {
        for body in [&*chat, r#"{"model":"unknown"}"#] {
            let reply = router.send_request("POST", "/v1/chat/completions", headers, body);
            assert_eq!(reply.header("access-control-allow-origin"), allowed, "{headers}{}", reply.head);
        }
    }
    assert_eq!(send_preflight(&router, "origin: https://b.example\r\n").header("access-control-allow-origin"), None);
    let closed = TestRouter::start_with_replicas([&*replica.url()]);
    let reply = send_preflight(&closed, ORIGIN_HEADER);
    assert_eq!((reply.status, reply.header("allow")), (204, Some("POST, OPTIONS")));
    assert!(!reply.head.to_ascii_lowercase().contains("access-control-"), "no page is permitted: {}", reply.head);
    let reply = closed.send_request("POST", "/v1/chat/completions", ORIGIN_HEADER, chat);
    assert_eq!((reply.status, reply.header("access-control-allow-origin")), (200, None));
}
