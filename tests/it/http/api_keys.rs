//! API keys of clients, the admin token, and the models each key may use.

use std::io::Write as _;

use crate::harness::client::build_request;
use crate::harness::scripted::{ScriptedReplica, respond_ok};
use crate::harness::{TestRouter, chat_body, send_request, start_replica, wait_until};

const CHAT_PATH: &str = "/v1/chat/completions";
/// The keys that clients send.
const WIDE_KEY: &str = "key-of-all-models";
const NARROW_KEY: &str = "key-of-some-models";
const ADMIN_TOKEN: &str = "token-of-the-admin-listener";

/// Returns a configuration of two keys: one for all models and one for `m` alone.
fn keys_config() -> String {
    let hash = |key: &str| {
        let digest = ring::digest::digest(&ring::digest::SHA256, key.as_bytes());
        digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    format!(
        "\n[[key]]\nname = \"wide\"\nhash = \"sha256:{}\"\n\
         [[key]]\nname = \"narrow\"\nhash = \"sha256:{}\"\nmodels = [\"m\"]\n",
        hash(WIDE_KEY),
        hash(NARROW_KEY)
    )
}

fn bearer_header(key: &str) -> String {
    format!("authorization: Bearer {key}\r\n")
}

fn start_guarded_router(top: &str, url: &str) -> TestRouter {
    TestRouter::start(&format!("{top}\nreplicas = [{url:?}]\n{}", keys_config())).wait_until_ready()
}

#[test]
fn answer_of_a_route_needs_the_keys_and_methods_that_its_scope_names() {
    let replica = ScriptedReplica::start(&["m"], respond_ok);
    let router = TestRouter::start(&format!(
        "{}[[pool]]\nname = 'a'\npaths = 'any'\nreplicas = [{:?}]\n[[host]]\nkeys = ['wide']\n\
         [[host.route]]\npath = '/'\npools = 'a'\n[[host.route]]\npath = '= /asks'\nanswer = '200 ok'\n\
         [[host.route]]\npath = '= /open'\nanswer = '200 ok'\nkeys = 'none'\naccess = ['deny all']\n\
         [[host.route]]\npath = '= /any'\nanswer = '200 ok'\nkeys = 'any'\nmethods = ['GET']\n",
        keys_config(),
        replica.url()
    ));
    for (method, path, key, status) in [
        ("GET", "/asks", "", 401),
        ("GET", "/asks", NARROW_KEY, 401),
        ("GET", "/asks", WIDE_KEY, 200),
        ("GET", "/open", "", 200),
        ("GET", "/any", "", 200),
        ("POST", "/any", "", 403),
        ("GET", "/", "", 401),
    ] {
        let headers = if key.is_empty() { String::new() } else { bearer_header(key) };
        let reply = send_request(router.addr, method, path, &headers, "");
        assert_eq!(reply.status, status, "{method} {path} {key}");
    }
}

#[test]
fn request_without_key_reaches_no_replica() {
    let replica = ScriptedReplica::start(&["m", "n"], respond_ok);
    let router = start_guarded_router("paths = ['/extra']", &replica.url());
    let wrong = [
        String::new(),
        bearer_header("key-of-all-model"),
        bearer_header(""),
        "authorization: key-of-all-models\r\n".to_owned(),
        "authorization: Basic a2V5LW9mLWFsbC1tb2RlbHM6\r\n".to_owned(),
        "x-api-key: no\r\n".to_owned(),
        "cookie: key=key-of-all-models\r\n".to_owned(),
        "x-forwarded-for: 127.0.0.1\r\nconnection: authorization\r\n".to_owned(),
    ];
    for headers in &wrong {
        for (method, path) in [
            ("POST", CHAT_PATH),
            ("POST", "/v1/completions?key=key-of-all-models"),
            ("POST", "/v1/messages"),
            ("POST", "/tokenize"),
            ("POST", "/extra"),
            ("GET", "/v1/models"),
            ("GET", "/v1/models/m"),
            ("GET", "/v1/responses/resp_1"),
            ("DELETE", "/v1/responses/resp_1"),
            ("OPTIONS", CHAT_PATH),
            ("PATCH", CHAT_PATH),
            ("GET", "/sleep"),
            ("POST", "//livez"),
            ("GET", "/livez/"),
            ("GET", "/livez/../v1/models"),
            ("GET", "/%6civez"),
            ("GET", "http://127.0.0.1/v1/models"),
        ] {
            let reply =
                router.send_request(method, path, headers, if method == "POST" { "{\"model\":\"m\"}" } else { "" });
            assert_eq!(
                (reply.status, reply.header("www-authenticate")),
                (401, Some("Bearer")),
                "{method} {path} {headers}"
            );
            let error = reply.openai_error();
            assert_eq!(error["code"], "invalid_api_key", "{method} {path}");
            let kind = if path == "/v1/messages" { "authentication_error" } else { "invalid_request_error" };
            assert_eq!(error["type"], kind, "{method} {path}");
            assert!(!reply.text().contains("key-of-all"), "{}", reply.text());
        }
    }
    for path in ["/livez", "/readyz", "/health", "/readyz?x=1"] {
        assert_eq!(router.get(path).status, 200, "{path}");
    }
    assert!(replica.received_requests().is_empty(), "{:?}", replica.received_requests());
    assert_eq!(router.send_request("POST", CHAT_PATH, &bearer_header(WIDE_KEY), chat_body("m", 1, false)).status, 200);
}

#[test]
fn body_is_not_read_for_a_wrong_key() {
    let replica = ScriptedReplica::start(&["m"], respond_ok);
    let router = start_guarded_router("", &replica.url());
    let mut client = router.connect();
    let head =
        format!("POST {CHAT_PATH} HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 30000000\r\n\r\n");
    client.send(head);
    let reply = client.read_response();
    assert_eq!(reply.status, 401, "no 100 Continue without a key");
    assert!(client.wait_for_close());
}

#[test]
fn keys_are_accepted_in_both_headers_and_not_forwarded() {
    let replica = ScriptedReplica::start(&["m"], respond_ok);
    let router = start_guarded_router("", &replica.url());
    for headers in [
        bearer_header(WIDE_KEY),
        format!("AUTHORIZATION: bearer  {WIDE_KEY} \r\n"),
        format!("x-api-key: {WIDE_KEY}\r\n"),
    ] {
        let headers = format!("{headers}x-kept: 1\r\n");
        assert_eq!(router.send_request("POST", CHAT_PATH, &headers, chat_body("m", 1, false)).status, 200, "{headers}");
        let received = replica.last_request();
        assert_eq!(
            (received.header("authorization"), received.header("x-api-key"), received.header("x-kept")),
            (None, None, Some("1"))
        );
        assert!(!received.head.contains(WIDE_KEY));
    }
    let both = format!("{}x-api-key: {WIDE_KEY}\r\n", bearer_header("unknown-key"));
    assert_eq!(router.send_request("POST", CHAT_PATH, &both, chat_body("m", 1, false)).status, 200);
    assert_eq!(replica.last_request().header("authorization"), None, "with configured keys no client key is passed on");
    // The pool's own key replaces the client's.
    let router = start_guarded_router("api_key = 'of-the-engine'", &replica.url());
    assert_eq!(router.send_request("POST", CHAT_PATH, &bearer_header(WIDE_KEY), chat_body("m", 1, false)).status, 200);
    assert_eq!(replica.last_request().header("authorization"), Some("Bearer of-the-engine"));
    // Without configured keys the client's key is passed on.
    let router = TestRouter::start_with_replicas([&*replica.url()]);
    assert_eq!(router.send_request("POST", CHAT_PATH, &bearer_header("theirs"), chat_body("m", 1, false)).status, 200);
    assert_eq!(replica.last_request().header("authorization"), Some("Bearer theirs"));
}

#[test]
fn model_closed_to_a_key_is_404() {
    let replica = ScriptedReplica::start(&["m", "n"], respond_ok);
    let router = start_guarded_router("", &replica.url());
    let answer = |key: &str, model: &str| {
        let reply = router.send_request("POST", CHAT_PATH, &bearer_header(key), chat_body(model, 1, false));
        (reply.status, reply.text().replace(&format!("`{model}`"), "``"))
    };
    assert_eq!((answer(WIDE_KEY, "m").0, answer(WIDE_KEY, "n").0, answer(NARROW_KEY, "m").0), (200, 200, 200));
    let (closed, absent) = (answer(NARROW_KEY, "n"), answer(NARROW_KEY, "x"));
    assert_eq!((closed.0, &closed), (404, &absent));
    assert_eq!(closed, answer(WIDE_KEY, "x"));
    for body in [
        r#"{"model":"\u006e"}"#,
        r#"{"model":"m","model":"n"}"#,
        r#"{"model":"m","mod\u0065l":"n"}"#,
        r#"{"messages":[]}"#,
        r#"{"model":null}"#,
        r#"{"model":"N"}"#,
        r#"{"model":"n "}"#,
    ] {
        for path in [CHAT_PATH, "/v1/embeddings", "/v1/responses", "/tokenize"] {
            let status = router.send_request("POST", path, &bearer_header(NARROW_KEY), body).status;
            assert!(status == 400 || status == 404, "{path} {body}: {status}");
        }
    }
    let form = |parts: &[&str]| {
        let part = |value: &&str| format!("--b\r\ncontent-disposition: form-data; name=model\r\n\r\n{value}\r\n");
        parts.iter().map(part).collect::<String>() + "--b--\r\n"
    };
    let audio = |form: String| {
        let headers = format!("{}content-type: multipart/form-data; boundary=b\r\n", bearer_header(NARROW_KEY));
        router.send_request("POST", "/v1/audio/transcriptions", &headers, form).status
    };
    assert_eq!([form(&["m"]), form(&["n"]), form(&["m", "n"]), form(&[])].map(audio), [200, 404, 400, 400]);
    let received: Vec<_> =
        replica.received_requests().iter().map(|h| String::from_utf8_lossy(&h.body).into_owned()).collect();
    assert_eq!(received.len(), 4, "{received:?}");
    let listed = |key: &str| {
        let data = router.send_request("GET", "/v1/models", &bearer_header(key), "").json()["data"].clone();
        data.as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!((listed(WIDE_KEY), listed(NARROW_KEY)), (vec!["m".to_owned(), "n".to_owned()], vec!["m".to_owned()]));
    let card = |key: &str| router.send_request("GET", "/v1/models/n", &bearer_header(key), "").status;
    assert_eq!((card(WIDE_KEY), card(NARROW_KEY)), (200, 404));
}

#[test]
fn key_with_models_needs_a_named_model() {
    let replica = ScriptedReplica::start(&["m"], respond_ok);
    let router = TestRouter::start(&format!("paths = 'any'\nreplicas = [{:?}]\n{}", replica.url(), keys_config()));
    let status = |key: &str| router.send_request("POST", "/anything", &bearer_header(key), "{\"model\":\"m\"}").status;
    assert_eq!((status(NARROW_KEY), status(WIDE_KEY)), (400, 200));
    // With `paths = 'any'` the health path is the replica's and requires a key like any other path.
    assert_eq!((router.get("/livez").status, replica.received_requests().len()), (401, 1));
}

#[test]
fn stored_response_belongs_to_its_key() {
    let replica = start_replica(&["m"]);
    let router = start_guarded_router("", &replica.url());
    let made = router.send_request(
        "POST",
        "/v1/responses",
        &bearer_header(NARROW_KEY),
        r#"{"model":"m","input":"hi","max_output_tokens":2}"#,
    );
    assert_eq!(made.status, 200, "{}", made.text());
    let path = format!("/v1/responses/{}", made.json()["id"].as_str().unwrap());
    let get = |key: &str| router.send_request("GET", &path, &bearer_header(key), "").status;
    assert_eq!((get(NARROW_KEY), get(WIDE_KEY)), (200, 404));
    let next = format!(r#"{{"model":"m","input":"and?","previous_response_id":{}}}"#, made.json()["id"]);
    let follow = |key: &str| router.send_request("POST", "/v1/responses", &bearer_header(key), &next).status;
    assert_eq!((follow(NARROW_KEY), follow(WIDE_KEY)), (200, 404));
    let unknown = router.send_request("GET", "/v1/responses/resp_unheard_of", &bearer_header(NARROW_KEY), "");
    assert_eq!(unknown.status, 404);
}

#[test]
fn key_name_is_logged_and_the_key_never() {
    let replica = ScriptedReplica::start(&["m"], respond_ok);
    let folder = std::env::temp_dir().join(format!("tokenweir-tenants-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let log = folder.join("access.log");
    let top = format!(
        "listen = '127.0.0.1:0'\nadmin = '127.0.0.1:0'\nworkers = 2\nreplicas = [{:?}]\n\
         request_headers = {{ X-Tenant = '$tenant', X-Leak = '$http_authorization$http_x_api_key' }}\n\
         [log]\naccess = {:?}\nerror = 'off'\n\
         format = '$tenant|$status|$http_authorization|$http_x_api_key|$remote_user'\n",
        replica.url(),
        log.to_str().unwrap()
    );
    let router = TestRouter::start(&(top + &keys_config())).wait_until_ready();
    let both = format!("{}x-api-key: {NARROW_KEY}\r\n", bearer_header(NARROW_KEY));
    assert_eq!(router.send_request("POST", CHAT_PATH, &both, chat_body("m", 1, false)).status, 200);
    assert_eq!(
        (replica.last_request().header("x-tenant"), replica.last_request().header("x-leak")),
        (Some("narrow"), None)
    );
    assert_eq!(
        router.send_request("POST", CHAT_PATH, &bearer_header("a-wrong-key"), chat_body("m", 1, false)).status,
        401
    );
    let lines = || std::fs::read_to_string(&log).unwrap();
    wait_until("both are logged", || lines().lines().count() == 2);
    assert_eq!(lines(), "narrow|200|-|-|-\n-|401|-|-|-\n");
    assert_eq!(router.sum_metric("tokenweir_tenant_requests_total", &["tenant=\"narrow\"", "status=\"2xx\""]), 1.0);
    assert_eq!(router.sum_metric("tokenweir_requests_total", &["4xx"]), 1.0);
    let page = send_request(router.admin_addr, "GET", "/metrics", "", "").text();
    assert!(!page.contains("key-of") && !page.contains("a-wrong-key"), "{page}");
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn reload_changes_the_keys() {
    let replica = ScriptedReplica::start(&["m"], respond_ok);
    let path = std::env::temp_dir().join(format!("tokenweir-tenants-{}.toml", std::process::id()));
    let plain = format!("replicas = [{:?}]\n", replica.url());
    let write = |text: &str| std::fs::File::create(&path).unwrap().write_all(text.as_bytes()).unwrap();
    let router = TestRouter::start(&plain).wait_until_ready();
    let file = path.clone();
    router.server.set_config_source(Box::new(move || {
        let text = std::fs::read_to_string(&file).unwrap();
        tokenweir::config::load(&text, "router.toml", crate::harness::router_env(&text))
            .map_err(|report| report.to_string())
    }));
    let status = |headers: &str| router.send_request("POST", CHAT_PATH, headers, chat_body("m", 1, false)).status;
    let reload = || send_request(router.admin_addr, "POST", "/reload", "", "").status;
    assert_eq!(status(""), 200);
    write(&(plain.clone() + &keys_config()));
    assert_eq!((reload(), status(""), status(&bearer_header(WIDE_KEY))), (200, 401, 200));
    // An invalid key configuration is refused.
    write(&(plain.clone() + &keys_config() + "[[key]]\nname = 'third'\n"));
    assert_eq!((reload(), status(""), status(&bearer_header(WIDE_KEY))), (400, 401, 200));
    write(&plain);
    assert_eq!((reload(), status("")), (200, 200));
    std::fs::remove_file(path).unwrap();
}

#[test]
fn admin_listener_requires_its_token() {
    let replica = ScriptedReplica::start(&["m"], respond_ok);
    let start = |more: &str| {
        let text = format!("admin_token_env = 'ADMIN'\n{more}\nreplicas = [{:?}]\n", replica.url());
        let env = crate::harness::router_env(&text).into_iter().chain([("ADMIN".to_owned(), ADMIN_TOKEN.to_owned())]);
        let loaded = tokenweir::config::load(&text, "router.toml", env).unwrap();
        tokenweir::server::Server::start(loaded.settings).unwrap()
    };
    let server = start("");
    let admin = server.admin_address().unwrap();
    let status = |method: &str, path: &str, headers: &str| send_request(admin, method, path, headers, "").status;
    for headers in ["", "authorization: Bearer no\r\n", "x-api-key: token-of-the-admin-listener\r\n"] {
        for (method, path) in [
            ("GET", "/metrics"),
            ("GET", "/pools"),
            ("GET", "/pools/default"),
            ("POST", "/reload"),
            ("POST", "/livez"),
            ("POST", "/replicas/a/drain"),
            ("DELETE", "/pools/default/replicas/a"),
            ("GET", "/nowhere"),
            ("GET", "//metrics"),
        ] {
            let reply = send_request(admin, method, path, headers, "");
            assert_eq!(
                (reply.status, &reply.openai_error()["code"]),
                (401, &"invalid_api_key".into()),
                "{method} {path}"
            );
        }
        assert_eq!(
            (status("GET", "/livez", headers), status("GET", "/health", headers)),
            (200, status("GET", "/readyz", headers))
        );
    }
    let token = bearer_header(ADMIN_TOKEN);
    assert_eq!(
        (status("GET", "/metrics", &token), status("GET", "/pools", &token), status("GET", "/x", &token)),
        (200, 200, 404)
    );
    let server = start("metrics_need_token = false");
    let admin = server.admin_address().unwrap();
    assert_eq!(
        (send_request(admin, "GET", "/metrics", "", "").status, send_request(admin, "GET", "/pools", "", "").status),
        (200, 401)
    );
}

#[test]
fn cross_origin_request_changes_nothing() {
    let replica = ScriptedReplica::start(&["m"], respond_ok);
    let router = TestRouter::start_with_replicas([&*replica.url()]);
    let page = "origin: http://evil.example\r\n";
    let drain = format!("/replicas/{}/drain", replica.addr);
    for (method, path) in [("POST", "/reload"), ("POST", &*drain), ("DELETE", &*drain)] {
        assert_eq!(send_request(router.admin_addr, method, path, page, "").status, 403, "{method} {path}");
    }
    assert!(!router.server.fleet().replicas()[0].is_drained());
    assert_eq!(send_request(router.admin_addr, "POST", &drain, "", "").status, 200);
}

#[test]
fn pipelined_requests_each_need_a_key() {
    let replica = ScriptedReplica::start(&["m"], respond_ok);
    let router = start_guarded_router("", &replica.url());
    let mut client = router.connect();
    let with = build_request("POST", CHAT_PATH, &bearer_header(WIDE_KEY), chat_body("m", 1, false));
    let without = build_request("POST", CHAT_PATH, "", "");
    client.send([with.clone(), without, with].concat());
    assert_eq!(
        [client.read_response().status, client.read_response().status, client.read_response().status],
        [200, 401, 200]
    );
    assert_eq!(replica.received_requests().len(), 2);
}
