//! Hosts and routes: which one takes a request, and the settings that hold for it.

use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokenweir::emulate::EmulatorSettings;
use tokenweir::fleet::ReplicaModels;

use crate::harness::client::{HttpResponse, build_request};
use crate::harness::{
    TestRouter, chat_body, fast_settings, send_request, start_reloadable_router, start_replica, start_replica_with,
    wait_until,
};

const CHAT_PATH: &str = "/v1/chat/completions";

/// Sends a request for a host.
fn ask_host(router: &TestRouter, host: &str, path: &str) -> HttpResponse {
    router.send_request("GET", path, &format!("host: {host}\r\n"), "")
}

/// Starts a router and waits until the models of `chat` are known; `echo` lists none.
fn start_router(text: &str) -> TestRouter {
    let router = TestRouter::start(text);
    let is_known = || router.server.fleet().replicas().iter().any(|r| matches!(*r.models(), ReplicaModels::Listed(_)));
    wait_until("the models are known", is_known);
    router
}

/// Returns the pools and replicas of the tests: `chat` serves a model, `echo` answers with the request it got.
fn pools() -> (Vec<tokenweir::emulate::EmulatedReplica>, String) {
    let chat = start_replica(&["m"]);
    let echo = start_replica_with(EmulatorSettings { echo: true, ..fast_settings(&["m"]) });
    let text = format!(
        "[[pool]]\nname = \"chat\"\nreplicas = [{:?}]\n\
         [[pool]]\nname = \"echo\"\npaths = \"any\"\nreplicas = [{:?}]\n",
        chat.url(),
        echo.url()
    );
    (vec![chat, echo], text)
}

#[test]
fn nearest_body_limit_holds() {
    let (_replicas, pools) = pools();
    let router = start_router(&format!(
        "[limits]\nbody_bytes = 1000\n\
         [[host]]\nname = \"top\"\n[[host.route]]\npath = \"/\"\npools = \"chat\"\n\
         [[host]]\nname = \"own\"\nbody_bytes = 500\n[[host.route]]\npath = \"/\"\npools = \"chat\"\n\
         [[host.route]]\npath = \"= {CHAT_PATH}\"\npools = \"chat\"\nbody_bytes = 200\n{pools}"
    ));
    let send = |host: &str, path: &str, bytes: usize| {
        let body = format!("{:bytes$}", chat_body("m", 1, false));
        assert_eq!(body.len(), bytes);
        let reply = router.send_request("POST", path, &format!("host: {host}\r\n"), body);
        if reply.status == 413 {
            assert_eq!(reply.openai_error()["type"], "invalid_request_error", "{}", reply.text());
        }
        reply.status
    };
    for (host, path, limit) in [("top", CHAT_PATH, 1000), ("own", "/v1/completions", 500), ("own", CHAT_PATH, 200)] {
        assert_ne!(send(host, path, limit), 413, "{host}{path}");
        assert_eq!(send(host, path, limit + 1), 413, "{host}{path}");
    }
}

#[test]
fn host_without_a_route_is_closed_and_unknown_names_have_the_default() {
    let replica = start_replica(&["m"]);
    let pools = format!("[[pool]]\nname = \"chat\"\nreplicas = [{:?}]\n", replica.url());
    let hosts = "[[host]]\nname = \"closed.test\"\n\
                 [[host]]\nname = \"open.test\"\n[[host.route]]\npath = \"/\"\npools = \"chat\"\n";
    let router = start_router(&format!("{hosts}{pools}"));
    for path in ["/", "/health", "/livez", "/v1/models", CHAT_PATH] {
        assert_eq!(ask_host(&router, "closed.test", path).status, 404, "{path}");
        assert_eq!(ask_host(&router, "unknown.test", path).status, 404, "{path}");
    }
    assert_eq!(ask_host(&router, "open.test", "/v1/models").status, 200);
    assert_eq!(ask_host(&router, "open.test", "/health").status, 200);
    let default = "[[host]]\n[[host.route]]\npath = \"/\"\nanswer = \"200 default\"\n";
    let router = start_router(&format!("{hosts}{default}{pools}"));
    assert_eq!(ask_host(&router, "closed.test", "/health").status, 404);
    assert_eq!(ask_host(&router, "unknown.test", "/health").text(), "default");
    assert_eq!(ask_host(&router, "127.0.0.1", "/v1/models").text(), "default");
}

#[test]
fn host_is_compared_in_plain_form() {
    let (_replicas, pools) = pools();
    let router = start_router(&format!(
        "[[host]]\nname = [\"a.test\", \"*.wild.test\"]\n[[host.route]]\npath = \"/\"\nanswer = \"200 a\"\n\
         [[host]]\n[[host.route]]\npath = \"/\"\nanswer = \"200 other\"\n{pools}"
    ));
    for host in ["a.test", "A.TEST", "a.test.", "a.test:80", "a.test.:8080", "x.wild.test", "x.y.Wild.Test."] {
        assert_eq!(ask_host(&router, host, "/").text(), "a", "{host}");
    }
    for host in ["b.test", "wild.test", "aa.test", "[::1]", "127.0.0.1:80"] {
        assert_eq!(ask_host(&router, host, "/").text(), "other", "{host}");
    }
    for host in ["a/b", "a b", "a..test"] {
        assert_eq!(ask_host(&router, host, "/").status, 400, "{host}");
    }
}

#[test]
fn authority_of_http2_names_the_host() {
    let (_replicas, pools) = pools();
    let router = start_router(&format!(
        "[[host]]\nname = \"a.test\"\n[[host.route]]\npath = \"/\"\nanswer = \"403\"\n\
         [[host]]\n[[host.route]]\npath = \"/\"\nanswer = \"204\"\n{pools}"
    ));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let status_of = |url: &str, host: Option<&str>| {
        runtime.block_on(async {
            let stream = tokio::net::TcpStream::connect(router.addr).await.unwrap();
            let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
            tokio::spawn(connection);
            let request = host.into_iter().fold(http::Request::get(url), |request, host| request.header("host", host));
            sender.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await.unwrap().status().as_u16()
        })
    };
    assert_eq!(status_of("http://A.test:80/", None), 403);
    assert_eq!(status_of("http://b.test/", None), 204);
    // A second name that differs is refused, or it would lead past what the first one closes.
    assert_eq!(status_of("http://b.test/", Some("a.test")), 400);
    assert_eq!(status_of("http://a.test/", Some("a.test")), 403);
}

#[test]
fn routes_answer_redirect_and_replace_paths() {
    let (_replicas, pools) = pools();
    let router = start_router(&format!(
        "[[host]]\nname = \"a.test\"\n\
         [[host.route]]\npath = \"= /close\"\nanswer = \"444\"\n\
         [[host.route]]\npath = \"/say\"\nanswer = \"202 $host $arg_x $request_method\"\n\
         [[host.route]]\npath = \"/old/\"\nanswer = \"301 https://$host$request_uri\"\n\
         [[host.route]]\npath = \"/api/\"\npools = \"echo\"\nreplace_path = \"/v2/\"\n\
         [[host.route]]\npath = \"~ ^/id/[0-9]+$\"\npools = \"echo\"\n{pools}"
    ));
    let mut client = router.connect();
    client.send(build_request("GET", "/close", "host: a.test\r\n", ""));
    assert!(client.wait_for_close(), "closed without a byte");
    let said = ask_host(&router, "A.test:1", "/say?x=1&y=2");
    assert_eq!((said.status, said.text().as_str()), (202, "a.test 1 GET"));
    let moved = ask_host(&router, "a.test", "/old/x?y=%20");
    assert_eq!((moved.status, moved.header("location")), (301, Some("https://a.test/old/x?y=%20")));
    let slash = ask_host(&router, "a.test", "/api?x=1");
    let wanted = format!("http://a.test:{}/api/?x=1", router.addr.port());
    assert_eq!((slash.status, slash.header("location")), (301, Some(wanted.as_str())));
    let request_line =
        |path: &str| ask_host(&router, "a.test", path).text().lines().nth(1).unwrap_or_default().to_owned();
    assert_eq!(request_line("/api/models?limit=2"), "GET /v2/models?limit=2");
    assert_eq!(request_line("/id/12?q"), "GET /id/12?q");
    assert_eq!(ask_host(&router, "a.test", "/id/x").status, 404);
}

#[test]
fn refusals_hold_where_they_are_written() {
    let (_replicas, pools) = pools();
    let router = start_router(&format!(
        "[[key]]\nname = \"team\"\nhash = \"sha256:a6c1eaef9d5f23f4e13d9b574cbbe07ae877227d92be87d077005dc6776bcdcc\"\n[[key]]\nname = \"ops\"\nhash = \"sha256:94d34471aab4552c315d1b13f9259af333b99494c47c15999230f576b8478aba\"\n\
         [[host]]\nname = \"a.test\"\nmethods = [\"GET\"]\n\
         [[host.route]]\npath = \"/open\"\npools = \"echo\"\nkeys = \"none\"\n\
         [[host.route]]\npath = \"/any\"\npools = \"echo\"\n\
         [[host.route]]\npath = \"/ops\"\npools = \"echo\"\nkeys = [\"ops\"]\n\
         [[host.route]]\npath = \"/post\"\npools = \"echo\"\nkeys = \"none\"\nmethods = [\"POST\"]\n\
         [[host.route]]\npath = \"/denied\"\npools = \"echo\"\nkeys = \"none\"\naccess = [\"deny 127.0.0.1\", \"allow all\"]\n\
         {pools}"
    ));
    let ask = |method: &str, path: &str, key: &str| {
        let key = if key.is_empty() { String::new() } else { format!("authorization: Bearer {key}\r\n") };
        router.send_request(method, path, &format!("host: a.test\r\n{key}"), "").status
    };
    for (method, path, key, wanted) in [
        ("GET", "/open", "", 200),
        ("HEAD", "/open", "", 200),
        ("POST", "/open", "", 403),
        ("GET", "/any", "", 401),
        ("GET", "/any", "secret-key-1", 200),
        ("GET", "/ops", "secret-key-1", 401),
        ("GET", "/ops", "secret-key-2", 200),
        ("GET", "/post", "", 403),
        ("POST", "/post", "", 200),
        ("GET", "/denied", "", 403),
        ("GET", "/none", "", 404),
    ] {
        assert_eq!(ask(method, path, key), wanted, "{method} {path} {key}");
    }
}

#[test]
fn client_address_is_believed_by_the_rule_of_the_host() {
    let (_replicas, pools) = pools();
    let router = start_router(&format!(
        "[[host]]\nname = \"trusting.test\"\ntrusted_proxies = [\"127.0.0.0/8\"]\n\
         [[host.route]]\npath = \"/\"\npools = \"echo\"\n\
         [[host.route]]\npath = \"/real\"\npools = \"echo\"\nclient_address_header = \"X-Real-IP\"\n\
         [[host]]\nname = \"plain.test\"\n[[host.route]]\npath = \"/\"\npools = \"echo\"\n{pools}"
    ));
    let seen = |host: &str, path: &str| {
        let forged = format!("host: {host}\r\nx-forwarded-for: 192.0.2.1\r\nx-real-ip: 192.0.2.2\r\n");
        let text = router.send_request("GET", path, &forged, "").text().to_lowercase();
        text.lines().find_map(|line| line.strip_prefix("x-real-ip: ").map(str::to_owned))
    };
    assert_eq!(seen("trusting.test", "/").as_deref(), Some("192.0.2.1"));
    assert_eq!(seen("trusting.test", "/real").as_deref(), Some("192.0.2.2"));
    assert_eq!(seen("plain.test", "/").as_deref(), Some("127.0.0.1"));
}

#[test]
fn replica_has_the_time_of_its_route() {
    let (_replicas, pools) = pools();
    let router = start_router(&format!(
        "[timeouts]\nfirst_byte = \"60s\"\n[[host]]\n\
         [[host.route]]\npath = \"/\"\npools = \"chat\"\n\
         [[host.route]]\npath = \"/v1/completions\"\npools = \"chat\"\ntimeouts = {{ first_byte = \"200ms\" }}\n{pools}"
    ));
    let send = |path: &str, body: String| {
        router.send_request("POST", path, "x-emulate-fault: slow-headers=900\r\n", body).status
    };
    let prompt = r#"{"model":"m","prompt":"hi","max_tokens":2,"stream":true}"#.to_owned();
    assert_eq!(send(CHAT_PATH, chat_body("m", 2, true)), 200);
    assert_eq!(send("/v1/completions", prompt), 504);
}

#[test]
fn reload_that_closes_a_host_closes_it_on_open_connections() {
    let replica = start_replica(&["m"]);
    let pool = format!("[[pool]]\nname = \"chat\"\nreplicas = [{:?}]\n", replica.url());
    let host = |name: &str| format!("[[host]]\nname = {name:?}\n[[host.route]]\npath = \"/\"\npools = \"chat\"\n");
    let (router, file) = start_reloadable_router(&format!("{}{pool}", host("a.test")));
    let mut client = router.connect();
    let mut ask = || {
        client.send(build_request("GET", "/v1/models", "host: a.test\r\n", ""));
        client.read_response().status
    };
    assert_eq!(ask(), 200);
    *file.lock().unwrap() = format!("[[host]]\nname = \"a.test\"\n{}{pool}", host("b.test"));
    let reloaded = send_request(router.admin_addr, "POST", "/reload", "", "");
    assert_eq!(reloaded.status, 200, "{}", reloaded.text());
    assert_eq!(ask(), 404);
}
