//! Promises about secrets and access.

use std::io::Write;

use ring::digest::{SHA256, digest};

use super::process::{ServerProcess, tokenweir_command};
use super::setup::{
    CHAT_PATH, JSON_CONTENT_TYPE, StageRouter, post_chat, start_fixed_replica, start_good_replica, start_router,
};
use crate::harness::client::HttpResponse;
use crate::harness::scripted::{ScriptedReplica, build_response};
use crate::harness::tls::{CertificateAuthority, TlsTerminator};
use crate::harness::{chat_body, send_request, unused_addr, wait_until};

/// The keys of three clients.
const CLIENT_KEYS: [&str; 3] = ["first-secret-key", "second-secret-key", "third-secret-key"];
const SECRET_PROMPT: &str = "my-secret-prompt-text";

fn hashed_keys_config() -> String {
    let hash =
        |key: &str| digest(&SHA256, key.as_bytes()).as_ref().iter().map(|b| format!("{b:02x}")).collect::<String>();
    let key = |(at, key): (usize, &&str)| format!("[[key]]\nname = \"client-{at}\"\nhash = \"sha256:{}\"\n", hash(key));
    CLIENT_KEYS.iter().enumerate().map(key).collect()
}

fn bearer_header(key: &str) -> String {
    format!("authorization: Bearer {key}\r\n")
}

/// "API keys (hashes), all keys tried." A constant-time comparison cannot be seen over a socket.
#[test]
fn valid_keys_open_and_similar_ones_do_not() {
    let replica = start_good_replica();
    let router = start_router([&replica], &hashed_keys_config());
    let status =
        |key: &str| router.send_request("POST", CHAT_PATH, &bearer_header(key), chat_body("m", 1, false)).status;
    assert_eq!(CLIENT_KEYS.map(status), [200; 3]);
    let before = replica.received_requests().len();
    let hash = hashed_keys_config().split('"').find(|word| word.starts_with("sha256:")).unwrap().to_owned();
    for wrong in ["", "first-secret-ke", "first-secret-key1", "FIRST-SECRET-KEY", "client-0", &hash, &hash[7..]] {
        assert_eq!(status(wrong), 401, "{wrong}");
    }
    assert_eq!(replica.received_requests().len(), before);
}

/// "No path around them, refusals are OpenAI error objects."
#[test]
fn no_path_bypasses_the_keys() {
    let replica = start_good_replica();
    let router = start_router([&replica], &hashed_keys_config());
    for (method, path) in [
        ("POST", CHAT_PATH),
        ("POST", "//v1/chat/completions"),
        ("POST", "/livez/../v1/chat/completions"),
        ("POST", "/v1/%63hat/completions"),
        ("GET", "/v1/models"),
        ("GET", "/v1/models/m"),
        ("GET", "/v1/responses/x"),
        ("GET", "/nowhere"),
        ("GET", "/metrics"),
        ("POST", "http://127.0.0.1/v1/chat/completions"),
    ] {
        for headers in ["", "authorization: Basic Zmlyc3Q6\r\n", "x-forwarded-for: 127.0.0.1\r\n", "x-api-key: no\r\n"]
        {
            let reply =
                router.send_request(method, path, headers, if method == "POST" { "{\"model\":\"m\"}" } else { "" });
            assert_eq!(
                (reply.status, &reply.openai_error()["code"]),
                (401, &"invalid_api_key".into()),
                "{method} {path}"
            );
        }
    }
    assert!(replica.received_requests().is_empty(), "{:?}", replica.received_requests());
    assert_eq!(router.get("/livez").status, 200);
}

/// "Admin and metrics on their own listener, loopback by default."
#[test]
fn admin_listener_is_on_loopback_by_default() {
    let taken = std::net::TcpListener::bind("127.0.0.1:9464");
    // The port may be free or in use; the error about it names it in both cases.
    let output = tokenweir_command(&["serve", &format!("http://{}", unused_addr())])
        .env_remove("TOKENWEIR__ADMIN")
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && stderr.contains("127.0.0.1:9464 (admin)"), "{stderr}");
    drop(taken);
}

/// "The data port can never add or redirect a replica."
#[test]
fn data_port_has_no_admin_endpoints() {
    let (replica, other) = (start_good_replica(), start_good_replica());
    let router = start_router([&replica], "");
    let added = format!("{{\"replica\":{:?}}}", other.url());
    for (method, path) in [
        ("POST", "/pools/default/replicas".to_owned()),
        ("POST", "/add_worker".to_owned()),
        ("POST", format!("/replicas/{}/drain", replica.addr)),
        ("DELETE", format!("/pools/default/replicas/{}", replica.addr)),
        ("POST", "/reload".to_owned()),
        ("GET", "/pools".to_owned()),
        ("GET", "/metrics".to_owned()),
    ] {
        assert_eq!(router.send_request(method, &path, "", &added).status, 404, "{method} {path}");
    }
    let pointing = format!("x-upstream: {0}\r\nx-forwarded-host: {0}\r\nhost: {0}\r\n", other.addr);
    assert!((0..4).all(|_| router.send_request("POST", CHAT_PATH, &pointing, chat_body("m", 1, false)).status == 200));
    assert_eq!((replica.received_requests().len(), other.received_requests().len()), (4, 0));
}

/// Starts a router process with keys, over a healthy replica, a failing one and a closed port.
fn start_guarded_router(name: &str, more: &str) -> (ServerProcess, Vec<ScriptedReplica>, [String; 3]) {
    let replicas = vec![start_fixed_replica(500, "{}"), start_good_replica()];
    let gone = unused_addr().to_string();
    let addrs = [replicas[0].addr.to_string(), replicas[1].addr.to_string(), gone.clone()];
    let urls = format!("[{:?}, {:?}, \"http://{gone}\"]", replicas[0].url(), replicas[1].url());
    let text = format!("policy = \"round_robin\"\nreplicas = {urls}\n{more}\n{}", hashed_keys_config());
    (ServerProcess::start(name, &text, 1024), replicas, addrs)
}

/// "No key or prompt text in logs, metrics labels, headers or error bodies."
#[test]
fn keys_and_prompts_appear_nowhere() {
    for format in ["text", "json"] {
        let (process, _replicas, _) =
            start_guarded_router(&format!("logs-{format}"), &format!("[log]\nformat = \"{format}\""));
        let body = |model: &str| chat_body(model, 2, false).replace("hello", SECRET_PROMPT);
        let mut replies = Vec::new();
        for key in [CLIENT_KEYS[0], CLIENT_KEYS[1], "wrong-secret-key"] {
            for body in [body("m"), body("m"), body("m"), body("none"), format!("{{\"model\":\"m\",{SECRET_PROMPT}")] {
                replies.push(send_request(process.data_addr, "POST", CHAT_PATH, &bearer_header(key), &body));
            }
        }
        replies.push(send_request(process.data_addr, "GET", "/nowhere", &bearer_header(CLIENT_KEYS[2]), ""));
        wait_until("all are logged", || process.read_log("access.log").lines().count() == replies.len());
        let page = send_request(process.admin_addr(), "GET", "/metrics", "", "").text();
        let pools = send_request(process.admin_addr(), "GET", "/pools", "", "").text();
        let texts = replies.iter().map(|reply| format!("{}{}", reply.head, reply.text()));
        for text in texts.chain([page, pools, process.read_log("access.log"), process.read_log("error.log")]) {
            assert!(!text.contains("secret"), "{text}");
        }
    }
}

/// "No replica address in error bodies."
#[test]
fn error_bodies_contain_no_replica_address() {
    let closing = ScriptedReplica::start(&["m"], |_, _| false);
    let begun =
        format!("{}{}", crate::harness::captures::STREAM_HEAD, super::setup::encode_chunk(super::setup::CONTENT_EVENT));
    let dying = ScriptedReplica::start(&["m"], move |_, to| to.write_all(begun.as_bytes()).is_err());
    let silent = ScriptedReplica::start(&["m"], |_, to| super::setup::read_until_closed(to));
    for replica in [&closing, &dying, &silent] {
        let router =
            start_router([replica], "[timeouts]\nfirst_byte = \"200ms\"\nplain_answer = \"200ms\"\nidle = \"200ms\"");
        for stream in [false, true] {
            let reply = router.post(CHAT_PATH, chat_body("m", 2, stream));
            let text = reply.text();
            assert!(text.contains("\"error\"") && !text.contains("127.0.0.1"), "{text}");
            assert!(!text.contains(&replica.addr.port().to_string()), "{text}");
        }
    }
    let gone = unused_addr();
    let router = StageRouter::start(&format!("paths = \"any\"\nmodel = \"m\"\nreplicas = [\"http://{gone}\"]"));
    for reply in [post_chat(&router), router.get("/x")] {
        let text = reply.text();
        assert!(
            reply.status == 503 && !text.contains("127.0.0.1") && !text.contains(&gone.port().to_string()),
            "{text}"
        );
    }
}

/// "A replica's configured name (default `host:port`) appears in the access log, in metrics labels and in `X-Upstream`
/// (can be switched off)."
#[test]
fn replica_name_is_shown_only_in_promised_places() {
    let replica = start_good_replica();
    let addr = replica.addr.to_string();
    for (at, (words, more, name, shown)) in
        [("", "", &*addr, true), (" name=gpu1", "", "gpu1", true), (" name=gpu2", "x_upstream = false", "gpu2", false)]
            .into_iter()
            .enumerate()
    {
        let text = format!("replicas = [\"{}{words}\"]\n{more}", replica.url());
        let process = ServerProcess::start(&format!("names-{at}"), &text, 1024);
        let reply: HttpResponse = send_request(process.data_addr, "POST", CHAT_PATH, "", chat_body("m", 1, false));
        assert_eq!((reply.status, reply.header("x-upstream")), (200, shown.then_some(name)));
        wait_until("the request is logged", || process.read_log("access.log").contains(&format!(" {name} ")));
        let page = send_request(process.admin_addr(), "GET", "/metrics", "", "").text();
        assert!(page.contains(&format!("replica=\"{name}\"")));
        if name != addr {
            assert!(![&*page, &process.read_log("access.log"), &reply.head].iter().any(|text| text.contains(&addr)));
        }
    }
}

/// "Control characters never reach a log raw."
#[test]
fn control_characters_never_reach_a_log_raw() {
    let replica =
        ScriptedReplica::start(&["m"], |_, to| to.write_all(&build_response(200, JSON_CONTENT_TYPE, "{}")).is_ok());
    let own = "'$remote_addr \"$request\" $status \"$http_user_agent\" \"$http_x_request_id\" \"$uri\" \"$args\"'";
    for (at, format) in ["\"text\"", "\"json\"", "\"combined\"", own].into_iter().enumerate() {
        let text = format!("replicas = [{:?}]\n[log]\nformat = {format}", replica.url());
        let process = ServerProcess::start(&format!("raw-{at}"), &text, 1024);
        let headers = "user-agent: a\tb\r\nx-request-id: r\t1\r\nreferer: x\ty\r\n";
        let model = r#"{"model":"evil\n2026 \u001b[31m\u0000\r\u007f","messages":[]}"#;
        send_request(process.data_addr, "POST", "/v1/chat/completions?a=%0a%1b&%00=%0d", headers, model);
        send_request(process.data_addr, "GET", "/%0aforged%1b[31m%00", headers, "");
        wait_until("both are logged", || process.read_log("access.log").lines().count() >= 2);
        let log = process.read_log("access.log") + &process.read_log("error.log");
        let raw: Vec<char> = log.chars().filter(|c| c.is_control() && *c != '\n').collect();
        assert!(raw.is_empty(), "{format}: {raw:?} in {log:?}");
        assert!(!log.lines().any(|line| line.starts_with("forged") || line.starts_with("2026 ")), "{log}");
        assert_eq!(process.read_log("access.log").lines().count(), 2, "{format}: a line each");
    }
}

/// "Control characters never reach a log raw": also those of Unicode, which control a terminal like ESC.
#[test]
fn control_characters_beyond_ascii_never_reach_a_log_raw() {
    let replica = start_good_replica();
    for format in ["text", "json", "combined"] {
        let text = format!("replicas = [{:?}]\n[log]\nformat = {format:?}", replica.url());
        let process = ServerProcess::start(&format!("c1-{format}"), &text, 1024);
        let headers = "user-agent: a\u{9b}31m\r\nx-request-id: r\u{85}2\r\n";
        send_request(process.data_addr, "POST", CHAT_PATH, headers, r#"{"model":"evil\u009b31m\u0085","messages":[]}"#);
        wait_until("the request is logged", || process.read_log("access.log").lines().count() == 1);
        let log = process.read_log("access.log");
        assert!(!log.contains(|c: char| c.is_control() && c != '\n'), "{format}: {log:?}");
    }
}

/// "Control characters never reach a log raw": also those that a replica sends.
#[test]
fn model_names_of_replicas_reach_no_log_raw() {
    let replica = ScriptedReplica::start(&["m", "evil\\n2026 \\u001b[31m\\r"], crate::harness::scripted::respond_ok);
    let process = ServerProcess::start("names-raw", &format!("replicas = [{:?}]", replica.url()), 1024);
    wait_until("the error is logged", || process.read_log("error.log").contains("evil"));
    let log = process.read_log("error.log");
    assert!(!log.contains(|c: char| c.is_control() && c != '\n'), "{log:?}");
    assert!(log.lines().all(|line| !line.starts_with("2026 ")), "{log:?}");
}

/// "Replica TLS verified by default."
#[test]
fn replicas_are_verified_by_default() {
    let authority = CertificateAuthority::new("promises");
    let behind = start_good_replica();
    let front = TlsTerminator::start(&authority.issue_certificate("replica", &["localhost"]), behind.addr);
    let start = |more: &str| {
        StageRouter::start(&format!(
            "{more}\npaths = \"any\"\nmodel = \"m\"\nreplicas = [{:?}]",
            front.url("localhost")
        ))
    };
    assert_eq!(post_chat(&start("")).status, 503, "its issuer is not trusted");
    assert!(behind.received_requests().is_empty());
    assert_eq!(post_chat(&start(&format!("tls_ca = {:?}", authority.ca_path()))).status, 200);
    let other = TlsTerminator::start(&authority.issue_certificate("other", &["elsewhere.test"]), behind.addr);
    let wrong = format!(
        "tls_ca = {:?}\npaths = \"any\"\nmodel = \"m\"\nreplicas = [{:?}]",
        authority.ca_path(),
        other.url("localhost")
    );
    assert_eq!(post_chat(&StageRouter::start(&wrong)).status, 503, "its certificate has another name");
}
