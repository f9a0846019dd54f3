//! Clients of Azure OpenAI: the model in the path, the key in `api-key`, the version in the query.

use crate::harness::scripted::{ScriptedReplica, build_response, respond_ok};
use crate::harness::{TestRouter, router_env, send_request, wait_until};
use tokenweir::config;
use tokenweir::routes::ListenAddr;
use tokenweir::server::Server;

const KEY: &str = "sk-0123456789abcdef";
const DEPLOYMENT_CHAT: &str = "/openai/deployments/m/chat/completions?api-version=2024-06-01";
const NAMELESS: &str = r#"{"messages": [{"role": "user", "content": "hi"}]}"#;

fn start_router(lines: &str, replica: &ScriptedReplica) -> TestRouter {
    TestRouter::start(&format!("azure = true\n{lines}\nreplicas = [{:?}]", replica.url())).wait_until_ready()
}

/// Starts a router with one client key; the address of its data listener comes with it.
fn start_with_key(text: &str) -> (Server, std::net::SocketAddr) {
    let text = format!("{text}\n[[key]]\nname = \"t\"\nenv = \"KEY\"");
    let env = router_env(&text).into_iter().chain([("KEY".to_owned(), KEY.to_owned())]);
    let server = Server::start(config::load(&text, "router.toml", env).unwrap().settings).unwrap();
    let Some(ListenAddr::Tcp(addr)) = server.listen_addresses().first().cloned() else { panic!("no TCP listener") };
    wait_until("the router is ready", || send_request(addr, "GET", "/readyz", "", "").status == 200);
    (server, addr)
}

#[test]
fn key_and_deployment_of_azure_are_taken_where_configured() {
    let replica = ScriptedReplica::start(&["m"], respond_ok);
    let (_server, addr) = start_with_key(&format!("azure = true\nreplicas = [{:?}]", replica.url()));
    let key = format!("api-key: {KEY}\r\n");
    let model_body = r#"{"model": "m", "messages": [{"role": "user", "content": "hi"}]}"#;
    for (path, body) in [("/v1/chat/completions", model_body), (DEPLOYMENT_CHAT, NAMELESS)] {
        let reply = send_request(addr, "POST", path, &key, body);
        assert_eq!(reply.status, 200, "{path}: {}", reply.text());
        let received = replica.last_request();
        assert_eq!(received.target(), "/v1/chat/completions", "{path}");
        assert!(!received.head.contains(KEY), "no key reaches a replica: {}", received.head);
        assert_eq!(send_request(addr, "POST", path, "api-key: sk-wrong\r\n", body).status, 401);
        assert_eq!(send_request(addr, "POST", path, "", body).status, 401);
    }
    for path in ["/openai/v1/models", "/openai/models?api-version=2024-10-21", "/openai/v1/models/m"] {
        assert_eq!(send_request(addr, "GET", path, &key, "").status, 200, "{path}");
    }
}

#[test]
fn neither_is_taken_elsewhere() {
    let replica = ScriptedReplica::start(&["m"], respond_ok);
    let (_server, addr) = start_with_key(&format!("replicas = [{:?}]", replica.url()));
    let key = format!("api-key: {KEY}\r\n");
    assert_eq!(send_request(addr, "POST", "/v1/chat/completions", &key, NAMELESS).status, 401);
    let both = format!("{key}authorization: Bearer {KEY}\r\n");
    assert_eq!(send_request(addr, "POST", DEPLOYMENT_CHAT, &both, NAMELESS).status, 404);
    assert_eq!(send_request(addr, "POST", "/v1/chat/completions", &both, NAMELESS).status, 200);
    assert!(!replica.last_request().head.contains(KEY), "{}", replica.last_request().head);
}

#[test]
fn model_of_the_path_is_written_into_the_body() {
    let replica = ScriptedReplica::start(&["m", "Org/n"], respond_ok);
    let router = start_router("", &replica);
    for (deployment, body, wanted) in [
        ("m", NAMELESS.to_owned(), NAMELESS.replace('{', "{\"model\":\"m\",").replace("[{\"model\":\"m\",", "[{")),
        ("Org/n", "{}".to_owned(), r#"{"model":"Org/n"}"#.to_owned()),
        ("m", r#" { "model": "other", "x": 1 }"#.to_owned(), r#" { "model": "m", "x": 1 }"#.to_owned()),
        ("m", r#"{"model": null, "x": 1}"#.to_owned(), r#"{"model": "m", "x": 1}"#.to_owned()),
    ] {
        let path = format!("/openai/deployments/{deployment}/chat/completions?api-version=2024-06-01&a=1");
        let reply = router.post(&path, body);
        assert_eq!(reply.status, 200, "{}", reply.text());
        let received = replica.last_request();
        assert_eq!(
            (received.target(), String::from_utf8(received.body.clone()).unwrap()),
            ("/v1/chat/completions?a=1", wanted)
        );
    }
    let form = "--b\r\ncontent-disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\n\r\nRIFF\r\n--b--\r\n";
    for preamble in ["", "ignored\r\n"] {
        let kind = "content-type: multipart/form-data; boundary=b\r\n";
        let path = "/openai/deployments/m/audio/transcriptions?api-version=2024-06-01";
        let reply = router.send_request("POST", path, kind, format!("{preamble}{form}"));
        assert_eq!(reply.status, 200, "{}", reply.text());
        let part = "--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nm\r\n";
        assert_eq!(String::from_utf8(replica.last_request().body).unwrap(), format!("{preamble}{part}{form}"));
    }
    let unknown = router.post("/openai/deployments/x/chat/completions?api-version=1", NAMELESS);
    assert_eq!((unknown.status, &unknown.openai_error()["code"]), (404, &"model_not_found".into()));
}

#[test]
fn alias_of_the_path_becomes_the_replicas_name_and_usage_is_still_asked_for() {
    let replica = ScriptedReplica::start(&["real"], |_, to| {
        let stream = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\ndata: [DONE]\n\n";
        std::io::Write::write_all(to, &build_response(200, "text/event-stream", stream)).is_ok()
    });
    let router = start_router("model = \"gpt-4o\"", &replica);
    let reply = router
        .post("/openai/deployments/gpt-4o/chat/completions?api-version=2024-06-01", r#"{"stream":true,"messages":[]}"#);
    assert_eq!(reply.status, 200, "{}", reply.text());
    let body: serde_json::Value = serde_json::from_slice(&replica.last_request().body).unwrap();
    assert_eq!((&body["model"], &body["stream_options"]["include_usage"]), (&"real".into(), &true.into()));
}

#[test]
fn paths_of_azure_open_nothing_else() {
    let replica = ScriptedReplica::start(&["m"], respond_ok);
    let router = start_router("block_paths = { \"/v1/audio\" = 403 }", &replica);
    for path in [
        "/openai/deployments/m/sleep",
        "/openai/deployments/m/../../sleep",
        "/openai/deployments/m/%2e%2e/sleep",
        "/openai/deployments/..%2f..%2fsleep/chat/completions",
        "/openai/sleep",
        "/openai/v1/../sleep",
        "/openai/v1/load_lora_adapter",
        "/openai/deployments/m",
    ] {
        assert_eq!(router.post(path, NAMELESS).status, 404, "{path}");
    }
    assert_eq!(router.post("/openai/deployments/m/audio/speech", r#"{"input":"hi"}"#).status, 403);
    assert_eq!(router.post("/openai/v1/audio/speech", r#"{"model":"m","input":"hi"}"#).status, 403);
    let wrong = router.send_request("GET", DEPLOYMENT_CHAT, "", "");
    assert_eq!((wrong.status, wrong.header("allow")), (405, Some("POST")));
    assert!(replica.received_requests().is_empty());
}

#[test]
fn key_of_azure_reaches_no_log() {
    let replica = ScriptedReplica::start(&["m"], respond_ok);
    let log = std::env::temp_dir().join(format!("tokenweir-azure-{}.log", std::process::id()));
    let format = "formats = { f = '$status [$http_api_key] [$http_x_api_key]' }\nformat = \"f\"";
    let (server, addr) = start_with_key(&format!(
        "azure = true\nreplicas = [{:?}]\n[log]\naccess = {:?}\n{format}",
        replica.url(),
        log.to_str().unwrap()
    ));
    assert_eq!(send_request(addr, "POST", DEPLOYMENT_CHAT, &format!("api-key: {KEY}\r\n"), NAMELESS).status, 200);
    let has_line = || std::fs::read_to_string(&log).unwrap().contains("200 [-] [-]");
    wait_until("the line is written", has_line);
    assert!(!std::fs::read_to_string(&log).unwrap().contains(KEY));
    drop(server);
    std::fs::remove_file(log).unwrap();
}

#[test]
fn reload_opens_and_closes_azures_paths() {
    let replica = ScriptedReplica::start(&["m"], respond_ok);
    let file = std::env::temp_dir().join(format!("tokenweir-azure-{}.toml", std::process::id()));
    let write =
        |azure: bool| std::fs::write(&file, format!("azure = {azure}\nreplicas = [{:?}]", replica.url())).unwrap();
    write(false);
    let load = {
        let file = file.clone();
        move || {
            let text = std::fs::read_to_string(&file).unwrap();
            config::load(&text, "router.toml", router_env(&text)).map_err(|report| report.to_string())
        }
    };
    let router = TestRouter::start(&std::fs::read_to_string(&file).unwrap()).wait_until_ready();
    router.server.set_config_source(Box::new(load));
    for (azure, status) in [(true, 200), (false, 404)] {
        write(azure);
        assert_eq!(send_request(router.admin_addr, "POST", "/reload", "", "").status, 200);
        assert_eq!(router.post(DEPLOYMENT_CHAT, NAMELESS).status, status);
    }
    std::fs::remove_file(file).unwrap();
}
