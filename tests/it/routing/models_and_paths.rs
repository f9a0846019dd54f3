//! Routing by stored response, model, alias, host and path; fallbacks, and the headers sent to the replica.

use crate::harness::scripted::{ScriptedReplica, respond_ok};
use crate::harness::{TestRouter, chat_body, send_request, start_replica};
use serde_json::Value;
use tokenweir::emulate::EmulatedReplica;

const RESPONSE_REQUEST: &str = r#"{"model":"m","input":"hi","max_output_tokens":3}"#;

fn start_three() -> (TestRouter, [EmulatedReplica; 3]) {
    let replicas = [(); 3].map(|()| start_replica(&["m"]));
    let urls: Vec<String> = replicas.iter().map(EmulatedReplica::url).collect();
    // Round robin would send follow-ups elsewhere.
    let urls = urls.iter().map(|url| format!("{url:?}")).collect::<Vec<_>>().join(",");
    (TestRouter::start(&format!("policy = \"round_robin\"\nreplicas = [{urls}]")).wait_until_ready(), replicas)
}

/// Returns the id of a complete response or of a stream's first event.
fn response_id(text: &str) -> String {
    let from = text.find("resp_").unwrap();
    text[from..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect()
}

#[test]
fn response_follow_up_goes_to_its_replica() {
    let (router, _replicas) = start_three();
    for stream in [false, true] {
        let body = RESPONSE_REQUEST.replace("\"hi\"", &format!("\"hi\",\"stream\":{stream}"));
        let made = router.post("/v1/responses", body);
        let owner = made.header("x-upstream").unwrap().to_owned();
        let path = format!("/v1/responses/{}", response_id(&made.text()));
        for (method, path) in [("GET", path.clone()), ("POST", format!("{path}/cancel")), ("GET", path.clone())] {
            let reply = router.send_request(method, &path, "", "");
            assert_eq!((reply.status, reply.header("x-upstream")), (200, Some(&*owner)), "{method} {}", reply.text());
        }
        let next = RESPONSE_REQUEST
            .replace("\"hi\"", &format!("\"hi\",\"previous_response_id\":{:?}", response_id(&made.text())));
        for _ in 0..4 {
            let reply = router.post("/v1/responses", &next);
            assert_eq!((reply.status, reply.header("x-upstream")), (200, Some(&*owner)), "{}", reply.text());
        }
        let gone = router.send_request("DELETE", &path, "", "");
        assert_eq!(
            (gone.status, gone.header("x-upstream"), &gone.json()["deleted"]),
            (200, Some(&*owner), &true.into())
        );
        assert_eq!(router.get(&path).status, 404);
    }
}

#[test]
fn unknown_response_is_searched_at_each_replica_and_remembered() {
    let (router, replicas) = start_three();
    for replica in &replicas {
        let id = response_id(&send_request(replica.addr(), "POST", "/v1/responses", "", RESPONSE_REQUEST).text());
        let path = format!("/v1/responses/{id}");
        let reply = router.get(&path);
        assert_eq!((reply.status, &reply.json()["id"]), (200, &Value::from(&*id)));
        assert_eq!(reply.header("x-upstream").unwrap(), replica.addr().to_string());
        let request_count: u64 = replicas.iter().map(|r| r.counters().request_count(&path)).sum();
        assert_eq!(router.get(&path).status, 200);
        assert_eq!(
            replicas.iter().map(|r| r.counters().request_count(&path)).sum::<u64>(),
            request_count + 1,
            "the owner is known now"
        );
    }
    let missing = router.get("/v1/responses/resp_unknown");
    assert_eq!((missing.status, &missing.openai_error()["type"]), (404, &"not_found_error".into()));
    assert!(replicas.iter().all(|r| r.counters().request_count("/v1/responses/resp_unknown") == 1));
    assert_eq!(router.in_flight(), 0);
}

#[test]
fn response_of_a_gone_replica_is_unavailable_not_unknown() {
    let (router, mut replicas) = start_three();
    let made = router.post("/v1/responses", RESPONSE_REQUEST);
    let owner = replicas.iter_mut().find(|r| r.addr().to_string() == made.header("x-upstream").unwrap()).unwrap();
    owner.stop();
    let path = format!("/v1/responses/{}", response_id(&made.text()));
    for _ in 0..3 {
        let reply = router.get(&path);
        assert_eq!((reply.status, reply.header("retry-after").is_some()), (503, true), "{}", reply.text());
        assert!(reply.openai_error()["code"] == "no_replica");
    }
    // An unknown id may belong to the replica that is unavailable.
    assert_eq!(router.get("/v1/responses/resp_unknown").status, 503);
    let next =
        RESPONSE_REQUEST.replace("\"hi\"", &format!("\"hi\",\"previous_response_id\":{:?}", response_id(&made.text())));
    assert_eq!(router.post("/v1/responses", next).status, 503);
    assert_eq!(router.post("/v1/responses", RESPONSE_REQUEST).status, 200);
}

#[test]
fn model_list_merges_pools_and_lists_aliases() {
    let (one, two) = (start_replica(&["base", "lora"]), start_replica(&["other"]));
    let pools = format!(
        "[[pool]]\nname = \"a\"\nreplicas = [{:?}]\n[[pool]]\nmodel = [\"gpt-x\", \"z/y\"]\nreplicas = [{:?}]",
        one.url(),
        two.url()
    );
    let router = TestRouter::start(&pools).wait_until_ready();
    let list = router.get("/v1/models").json();
    assert_eq!(list["object"], "list");
    let ids: Vec<&str> = list["data"].as_array().unwrap().iter().map(|m| m["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["base", "gpt-x", "lora", "z/y"]);
    for id in ids {
        let card = router.get(&format!("/v1/models/{id}"));
        assert_eq!((card.status, &card.json()["object"]), (200, &"model".into()), "{id}");
        assert!(card.json()["created"].as_u64().unwrap() > 1_700_000_000);
    }
    assert_eq!(router.get("/v1/models/other").openai_error()["code"], "model_not_found");
    // An alias and an adapter both work.
    for model in ["gpt-x", "z/y", "lora", "base"] {
        let reply = router.post("/v1/chat/completions", chat_body(model, 2, false));
        assert_eq!(reply.status, 200, "{model}: {}", reply.text());
    }
}

#[test]
fn alias_is_replaced_and_other_bytes_are_unchanged() {
    let replica = ScriptedReplica::start(&["real \"name\""].map(|n| &*n.replace('"', "\\\"").leak()), respond_ok);
    let router = TestRouter::start(&format!("model = \"alias\"\nreplicas = [{:?}]", replica.url())).wait_until_ready();
    let odd = "\n{ \"x\" :1e400, \"model\"\t: MODEL ,\"messages\":[ {\"role\":\"user\",\"content\":\"\\u00e9\\ud83d\\ude00 \u{1f600} model\"}],\
               \"model_kwargs\":{\"model\":\"alias\"}, \"y\":-0.0,\"big\":12345678901234567890123 }\r\n";
    for written in ["\"alias\"", "\"al\\u0069as\""] {
        let reply = router.post("/v1/chat/completions", odd.replace("MODEL", written));
        assert_eq!(reply.status, 200, "{}", reply.text());
        let received = replica.last_request();
        let wanted = odd.replace("MODEL", "\"real \\\"name\\\"\"");
        assert_eq!(String::from_utf8(received.body).unwrap(), wanted);
        assert_eq!(received.head.matches("content-length: ").count(), 1);
    }
    let form = "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"alias\"\r\n\r\n\u{0}alias\r\n\r\n--b\r\n\
                content-disposition: form-data; name=model\r\n\r\nMODEL\r\n--b\r\ncontent-disposition: form-data; name=\"p\"\r\n\r\nalias\r\n--b--\r\n";
    let kind = "content-type: multipart/form-data; boundary=b\r\n";
    let reply = router.send_request("POST", "/v1/audio/transcriptions", kind, form.replace("MODEL", "alias"));
    assert_eq!(reply.status, 200, "{}", reply.text());
    let wanted = form.replace("MODEL", "real \"name\"");
    assert_eq!(String::from_utf8(replica.last_request().body).unwrap(), wanted);
    assert_eq!(replica.last_request().header("content-type").unwrap(), "multipart/form-data; boundary=b");
}

#[test]
fn host_and_path_prefix_select_the_pool() {
    let replicas = ["plain", "team", "deep", "named"].map(|_| ScriptedReplica::start(&["m"], respond_ok));
    let [plain, team, deep, named] = &replicas;
    let config = format!(
        "[[pool]]\nname = \"plain\"\nreplicas = [\"{} name=plain\"]\n\
         [[pool]]\nname = \"team\"\npath = \"/team\"\nreplicas = [\"{} name=team\"]\n\
         [[pool]]\nname = \"deep\"\npath = \"/team/deep\"\nreplicas = [\"{} name=deep\"]\n\
         [[pool]]\nname = \"named\"\nhost = \"llm.example\"\nreplicas = [\"{} name=named\"]\n",
        plain.url(),
        team.url(),
        deep.url(),
        named.url()
    );
    let router = TestRouter::start(&config).wait_until_ready();
    let to = |host: &str, path: &str| {
        let reply = router.send_request("POST", path, &format!("host: {host}\r\n"), chat_body("m", 1, false));
        (reply.status, reply.header("x-upstream").unwrap_or("-").to_owned())
    };
    for (host, path, wanted) in [
        ("a", "/v1/chat/completions", "plain"),
        ("a", "/team/v1/chat/completions", "team"),
        ("a", "/team/deep/v1/chat/completions", "deep"),
        ("llm.example", "/v1/chat/completions", "named"),
        ("LLM.Example:8080", "/v1/chat/completions", "named"),
    ] {
        assert_eq!(to(host, path), (200, wanted.to_owned()), "{host}{path}");
    }
    for (host, path) in [
        ("a", "/teams/v1/chat/completions"),
        ("a", "/team"),
        ("a", "/team/"),
        ("llm.example", "/team/v1/chat/completions"),
    ] {
        assert_eq!(to(host, path).0, 404, "{host}{path}");
    }
    for replica in &replicas {
        assert!(
            replica.received_requests().iter().all(|h| h.target() == "/v1/chat/completions"),
            "the replica does not see the prefix"
        );
    }
    assert_eq!(router.get("/team/v1/models").json()["data"][0]["owned_by"], "team");
}

#[test]
fn fallback_pool_serves_with_its_own_model() {
    let (mut big, small) = (start_replica(&["big"]), ScriptedReplica::start(&["small"], respond_ok));
    let config = format!(
        "[[pool]]\nmodel = \"big\"\nfallback = \"small\"\nreplicas = [{:?}]\n[[pool]]\nmodel = \"small\"\nreplicas = [{:?}]",
        big.url(),
        small.url()
    );
    let router = TestRouter::start(&config).wait_until_ready();
    assert_eq!(router.post("/v1/chat/completions", chat_body("big", 1, false)).json()["model"], "big");
    big.stop();
    for _ in 0..3 {
        let reply = router.post("/v1/chat/completions", chat_body("big", 1, false));
        assert_eq!(
            (reply.status, reply.header("x-upstream")),
            (200, Some(&*small.addr.to_string())),
            "{}",
            reply.text()
        );
        assert_eq!(String::from_utf8(small.last_request().body).unwrap(), chat_body("small", 1, false));
    }
}

#[test]
fn proxy_headers_are_passed_removed_and_added() {
    let replica = ScriptedReplica::start(&["m"], |_, to| {
        let head = "HTTP/1.1 201 Fine\r\nX-Own: 1\r\nset-cookie: a=1\r\nset-cookie: b=2\r\nconnection: keep-alive, x-hop\r\n\
                    x-hop: 1\r\nkeep-alive: timeout=5\r\nproxy-authenticate: Basic\r\ncontent-length: 2\r\n\r\nok";
        std::io::Write::write_all(to, head.as_bytes()).is_ok()
    });
    let router = TestRouter::start_with_replicas([&*replica.url()]);
    let sent = "Host: llm.example:99\r\nAuthorization: Bearer sk-client\r\ntraceparent: 00-1-2-01\r\nX-Forwarded-For: 1.1.1.1\r\n\
                X-Forwarded-For: 2.2.2.2\r\nx-real-ip: 6.6.6.6\r\nX-Mixed-Case: Kept\r\ncookie: c=d\r\nte: trailers\r\n\
                proxy-authorization: Basic x\r\nconnection: close, x-secret\r\nx-secret: s\r\nupgrade: h2c\r\nanthropic-version: 2023-06-01\r\n";
    let mut client = router.connect();
    client.send(crate::harness::client::build_request(
        "POST",
        "/v1/chat/completions?beta=1",
        sent,
        chat_body("m", 1, false),
    ));
    let reply = client.read_response();
    let received = replica.last_request();
    assert_eq!(received.target(), "/v1/chat/completions?beta=1");
    for (name, wanted) in [
        ("host", &*replica.addr.to_string()),
        ("x-forwarded-host", "llm.example:99"),
        ("x-forwarded-for", "1.1.1.1, 2.2.2.2, 127.0.0.1"),
        ("x-forwarded-proto", "http"),
        ("x-real-ip", "127.0.0.1"),
        ("authorization", "Bearer sk-client"),
        ("traceparent", "00-1-2-01"),
        ("cookie", "c=d"),
        ("anthropic-version", "2023-06-01"),
        ("content-type", "application/json"),
    ] {
        assert_eq!(received.header_values(name), [wanted], "{name} in {}", received.head);
    }
    assert_eq!(received.header("x-mixed-case"), Some("Kept"));
    for name in ["te", "proxy-authorization", "connection", "x-secret", "upgrade", "transfer-encoding"] {
        assert_eq!(received.header(name), None, "{name} in {}", received.head);
    }
    assert_eq!((reply.status, &*reply.text()), (201, "ok"));
    assert_eq!((reply.header("x-own"), reply.head.matches("set-cookie: ").count()), (Some("1"), 2));
    for name in ["x-hop", "keep-alive", "proxy-authenticate"] {
        assert_eq!(reply.header(name), None, "{name} in {}", reply.head);
    }
    assert_eq!(reply.header("connection"), Some("close"), "the client requested close");
}

#[test]
fn pool_api_key_replaces_the_clients_and_replica_url_prefix_is_kept() {
    let replica = ScriptedReplica::start(&["m"], respond_ok);
    let text = format!(
        "api_key = \"sk-pool\"\nmodel = \"m\"\npaths = [\"/v1/images/generations\"]\nx_upstream = false\nreplicas = [\"{}/engine/a\"]",
        replica.url()
    );
    let router = TestRouter::start(&text);
    crate::harness::wait_until("the model list is requested under the prefix", || {
        !replica.received_requests().is_empty()
    });
    let discovery = replica.last_request();
    assert_eq!(
        (discovery.target(), discovery.header("authorization")),
        ("/engine/a/v1/models", Some("Bearer sk-pool"))
    );
    let router = router.wait_until_ready();
    for headers in ["authorization: Bearer sk-client\r\n", ""] {
        let reply = router.send_request("POST", "/v1/chat/completions", headers, r#"{"messages":[]}"#);
        assert_eq!((reply.status, reply.header("x-upstream")), (200, None), "{}", reply.text());
        assert_eq!(replica.last_request().header_values("authorization"), ["Bearer sk-pool"]);
        assert_eq!(replica.last_request().target(), "/engine/a/v1/chat/completions");
    }
}
