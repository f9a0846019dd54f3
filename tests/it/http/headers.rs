//! Headers that the configuration sets on requests and responses, and paths that it refuses.

use std::io::Write;

use crate::harness::client::HttpResponse;
use crate::harness::scripted::{ScriptedReplica, build_response, respond_ok};
use crate::harness::{TestRouter, chat_body, fast_settings, start_replica_with, unused_addr, wait_until};

/// Starts a router over `replica`; `lines` come first in its configuration.
fn start_router(replica: &ScriptedReplica, lines: &str) -> TestRouter {
    TestRouter::start(&format!("{lines}\nreplicas = [{:?}]", replica.url())).wait_until_ready()
}

fn header_values<'a>(reply: &'a HttpResponse, name: &str) -> Vec<&'a str> {
    let lines = reply.head.lines().filter_map(|line| line.split_once(':'));
    lines.filter(|(this, _)| this.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).collect()
}

#[test]
fn request_headers_are_set_on_requests() {
    let replica = ScriptedReplica::start(&["m"], respond_ok);
    let router = start_router(
        &replica,
        "request_headers = { Host = '$host', X-Real-IP = '$remote_addr', X-Forwarded-For = '$proxy_add_x_forwarded_for', \
         X-Gone = '', X-Two = ['a', 'b $request_method'], X-None = '$http_absent', X-To = '$replica' }",
    );
    let headers = "Host: LLM.Example:81\r\nX-Forwarded-For: 1.1.1.1\r\nX-Gone: here\r\nx-two: c\r\nX-None: mine\r\n";
    assert_eq!(router.send_request("POST", "/v1/chat/completions", headers, chat_body("m", 1, false)).status, 200);
    let received = replica.last_request();
    for (name, wanted) in [
        ("host", vec!["llm.example"]),
        ("x-real-ip", vec!["127.0.0.1"]),
        ("x-forwarded-for", vec!["1.1.1.1, 127.0.0.1"]),
        ("x-gone", vec![]),
        ("x-two", vec!["a", "b POST"]),
        ("x-none", vec![]),
        ("x-to", vec![&*replica.addr.to_string()]),
    ] {
        assert_eq!(received.header_values(name), wanted, "{name}");
    }
}

#[test]
fn host_header_is_the_replicas_unless_set() {
    let replica = ScriptedReplica::start(&["m"], respond_ok);
    let router = start_router(&replica, "request_headers = { X-A = 'a' }");
    router.send_request("POST", "/v1/chat/completions", "Host: llm.example\r\n", chat_body("m", 1, false));
    assert_eq!(replica.last_request().header_values("host"), [replica.addr.to_string()]);
}

#[test]
fn client_values_cannot_end_a_header_line() {
    let replica = ScriptedReplica::start(&[], respond_ok);
    let router = TestRouter::start(&format!(
        "replicas = [{:?}]\npaths = 'any'\nrequest_headers = {{ X-Path = '$uri', X-Own = 'a$uri' }}\nresponse_headers = {{ X-Path = '$uri' }}",
        replica.url()
    ));
    let reply = router.send_request("GET", "/a%0d%0aX-Evil:%201", "X-Path: mine\r\n", "");
    assert_eq!(reply.status, 200);
    assert!(
        !reply.head.to_lowercase().contains("x-evil") && header_values(&reply, "x-path").is_empty(),
        "{}",
        reply.head
    );
    let received = replica.last_request();
    assert!(
        received.header_values("x-evil").is_empty()
            && received.header_values("x-path").is_empty()
            && received.header_values("x-own").is_empty()
    );
    router.get("/plain");
    assert_eq!(
        (replica.last_request().header_values("x-path"), replica.last_request().header_values("x-own")),
        (vec!["/plain"], vec!["a/plain"])
    );
}

#[test]
fn response_headers_are_added_to_the_replicas() {
    let replica = ScriptedReplica::start(&["m"], |_, to| {
        let answer = String::from_utf8(build_response(200, "application/json", "{}")).unwrap();
        let more = "200 X\r\nx-kind: theirs\r\nserver: engine\r\nx-swap: old";
        to.write_all(answer.replace("200 X", more).as_bytes()).is_ok()
    });
    let router = start_router(
        &replica,
        "response_headers = { X-Kind = 'ours', Server = '', X-Swap = ['', 'new'], X-Us = '$upstream_status', \
         X-Theirs = '$upstream_http_x_kind' }",
    );
    let reply = router.post("/v1/chat/completions", chat_body("m", 1, false));
    for (name, wanted) in [
        ("x-kind", vec!["theirs", "ours"]),
        ("server", vec![]),
        ("x-swap", vec!["new"]),
        ("x-us", vec!["200"]),
        ("x-theirs", vec!["theirs"]),
        ("x-upstream", vec![&*replica.addr.to_string()]),
    ] {
        assert_eq!(header_values(&reply, name), wanted, "{name}");
    }
}

#[test]
fn response_headers_are_added_to_errors_and_streams() {
    let dead = unused_addr();
    let text = "response_headers = { X-Upstream = '$upstream_addr', X-S = '$status' }\npaths = 'any'\n";
    let router = TestRouter::start(&format!("{text}replicas = ['http://{dead}']"));
    let reply = router.get("/v1/models");
    assert_eq!(
        (reply.status, header_values(&reply, "x-upstream"), header_values(&reply, "x-s")),
        (503, vec![&*dead.to_string()], vec!["503"])
    );
    let emulated = start_replica_with(fast_settings(&["m"]));
    let text = text.replace("paths = 'any'", "");
    let router = TestRouter::start(&format!("{text}replicas = ['{}']", emulated.url())).wait_until_ready();
    let stream = router.post("/v1/chat/completions", chat_body("m", 3, true));
    assert_eq!(stream.header("content-type").map(|kind| &kind[..17]), Some("text/event-stream"));
    assert_eq!(header_values(&stream, "x-upstream"), [emulated.url().trim_start_matches("http://")]);
    let unknown = router.post("/v1/chat/completions", chat_body("other", 3, true));
    assert_eq!(
        (unknown.status, header_values(&unknown, "x-s"), header_values(&unknown, "x-upstream").len()),
        (404, vec!["404"], 0)
    );
    assert_eq!(header_values(&router.get("/nowhere"), "x-s"), ["404"]);
}

#[test]
fn pool_without_a_replica_is_the_upstream_of_the_answer() {
    let text =
        "response_headers = { X-Up = '<$upstream_addr|$upstream_status>' }\n[[pool]]\nname = 'chat'\npaths = 'any'\n";
    let (down, refusing) = (unused_addr(), unused_addr());
    let router = TestRouter::start(&format!("{text}replicas = ['http://{down} down', 'http://{refusing} down']"));
    let reply = router.get("/x");
    assert_eq!((reply.status, header_values(&reply, "x-up")), (503, vec!["<chat|502>"]));
    let router = TestRouter::start(&format!("{text}replicas = ['http://{down} down', 'http://{refusing}']"));
    let reply = router.get("/x");
    let attempt = format!("<{refusing}|502>");
    assert_eq!((reply.status, header_values(&reply, "x-up")), (503, vec![&*attempt]));
}

#[test]
fn success_headers_are_not_added_to_errors() {
    let replica = ScriptedReplica::start(&["m"], |received, to| {
        let status = received.target().trim_start_matches('/').parse().unwrap_or(200);
        to.write_all(&build_response(status, "application/json", "{}")).is_ok()
    });
    let router = TestRouter::start(&format!(
        "paths = 'any'\nreplicas = ['{}']\nresponse_headers = {{ X-A = 'all' }}\nsuccess_headers = {{ X-A = 'good', X-S = '$status' }}",
        replica.url()
    ));
    for (status, values) in
        [(200, vec!["all", "good"]), (201, vec!["all", "good"]), (202, vec!["all"]), (404, vec!["all"])]
    {
        let reply = router.get(&format!("/{status}"));
        assert_eq!((reply.status, header_values(&reply, "x-a")), (status, values));
        let wanted = if status < 202 { vec![status.to_string()] } else { Vec::new() };
        assert_eq!(header_values(&reply, "x-s"), wanted);
    }
}

#[test]
fn x_upstream_names_a_replica_that_failed() {
    let closing = ScriptedReplica::start(&["m"], |_, _| false);
    let router = TestRouter::start_with_replicas([&*closing.url()]);
    let reply = router.post("/v1/chat/completions", chat_body("m", 1, false));
    assert_eq!((reply.status, header_values(&reply, "x-upstream")), (502, vec![&*closing.addr.to_string()]));
}

#[test]
fn pool_header_table_replaces_the_top_level_one() {
    let (one, two) = (ScriptedReplica::start(&["a"], respond_ok), ScriptedReplica::start(&["b"], respond_ok));
    let router = TestRouter::start(&format!(
        "request_headers = {{ X-A = 'top' }}\nresponse_headers = {{ X-R = 'top' }}\n\
         [[pool]]\nname = 'a'\nreplicas = [{:?}]\nrequest_headers = {{ X-B = 'own' }}\n\
         [[pool]]\nname = 'b'\nreplicas = [{:?}]\nresponse_headers = {{}}",
        one.url(),
        two.url()
    ))
    .wait_until_ready();
    let first = router.post("/v1/chat/completions", chat_body("a", 1, false));
    let second = router.post("/v1/chat/completions", chat_body("b", 1, false));
    assert_eq!((one.last_request().header("x-a"), one.last_request().header("x-b")), (None, Some("own")));
    assert_eq!((two.last_request().header("x-a"), two.last_request().header("x-b")), (Some("top"), None));
    assert_eq!((first.header("x-r"), second.header("x-r")), (Some("top"), None));
}

#[test]
fn fallback_pool_sets_its_own_headers_only() {
    let (dead, alive) = (unused_addr(), ScriptedReplica::start(&["m"], respond_ok));
    let router = TestRouter::start(&format!(
        "[[pool]]\nname = 'a'\nmodel = 'm'\nfallback = 'b'\nreplicas = ['http://{dead}']\nrequest_headers = {{ X-A = 'a' }}\n\
         [[pool]]\nname = 'b'\nmodel = 'n'\nreplicas = [{:?}]\nrequest_headers = {{ X-B = 'b' }}",
        alive.url()
    ));
    wait_until("the fallback pool serves", || {
        router.post("/v1/chat/completions", chat_body("m", 1, false)).status == 200
    });
    assert_eq!((alive.last_request().header("x-a"), alive.last_request().header("x-b")), (None, Some("b")));
}

#[test]
fn blocked_path_reaches_no_replica_in_any_spelling() {
    let replica = ScriptedReplica::start(&[], respond_ok);
    let router = TestRouter::start(&format!(
        "[[pool]]\npaths = 'any'\nreplicas = [{0:?}]\nblock_paths = {{ '/admin' = 403, '= /ping' = 404, '/admin/v2' = 410 }}\n\
         [[pool]]\nname = 'open'\npath = '/open'\npaths = 'any'\nreplicas = [{0:?}]",
        replica.url()
    ));
    for (path, status) in [
        ("/admin", 403),
        ("/admin/v2/x", 410),
        ("/administrator?a=1", 403),
        ("/%61dmin", 403),
        ("//admin", 403),
        ("/x/../admin", 403),
        ("/open/../admin", 403),
        ("/open/%2e%2e/admin", 403),
        ("/ping", 404),
    ] {
        let reply = router.get(path);
        assert_eq!(reply.status, status, "{path}");
        assert!(reply.openai_error()["message"].is_string());
    }
    assert!(replica.received_requests().is_empty());
    for path in ["/ping/x", "/open/admin", "/Admin"] {
        assert_eq!(router.get(path).status, 200, "{path}");
    }
}
