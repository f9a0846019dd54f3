//! Every path of the table of endpoints, and the page that lists them.

use http::Method;
use tokenweir::prompt::endpoint::{BodyKind, ENDPOINTS};

use crate::harness::TestRouter;
use crate::harness::scripted::{ScriptedReplica, respond_ok};

const FORM: &str = "content-type: multipart/form-data; boundary=xx\r\n";

fn form_body(model: &str) -> String {
    format!("--xx\r\ncontent-disposition: form-data; name=\"model\"\r\n\r\n{model}\r\n--xx--\r\n")
}

#[test]
fn every_path_reaches_the_replica_of_its_model() {
    let (one, two) = (ScriptedReplica::start(&["one"], respond_ok), ScriptedReplica::start(&["two"], respond_ok));
    let router = TestRouter::start(&format!(
        "[[pool]]\nname = \"a\"\nreplicas = [{:?}]\n[[pool]]\nname = \"b\"\nreplicas = [{:?}]",
        one.url(),
        two.url()
    ))
    .wait_until_ready();
    for row in ENDPOINTS.iter().filter(|row| row.body != BodyKind::None) {
        assert_eq!(row.methods, [Method::POST], "{}", row.path);
        let path = row.path.replace("{any}", "transcriptions");
        let json = |model: &str| format!(r#"{{"model":"{model}","input":"hi"}}"#);
        let mut bodies = vec![("content-type: application/json\r\n", json("one"), json("two"))];
        if row.body == BodyKind::Multipart {
            bodies.push((FORM, form_body("one"), form_body("two")));
        }
        for (headers, for_one, for_two) in bodies {
            for (replica, body) in [(&one, for_one), (&two, for_two)] {
                let reply = router.send_request("POST", &path, headers, &body);
                assert_eq!(reply.status, 200, "{path}: {}", reply.text());
                let received = replica.last_request();
                assert_eq!((received.target(), &*received.body), (&*path, body.as_bytes()));
            }
        }
    }
}

#[test]
fn newer_responses_paths_are_posts_as_others_are() {
    let replica = ScriptedReplica::start(&["m"], respond_ok);
    let router = TestRouter::start_with_replicas([&*replica.url()]);
    for path in ["/v1/responses/compact", "/v1/responses/input_tokens"] {
        let reply = router.post(path, r#"{"model": "m", "input": "hi"}"#);
        assert_eq!((reply.status, replica.last_request().target()), (200, path), "{}", reply.text());
    }
}

#[test]
fn input_tokens_are_estimated_where_the_engine_has_no_count() {
    let replica = ScriptedReplica::start(&["m"], |_, to| {
        let answer = crate::harness::scripted::build_response(404, "application/json", r#"{"detail":"Not Found"}"#);
        std::io::Write::write_all(to, &answer).is_ok()
    });
    let router = TestRouter::start_with_replicas([&*replica.url()]);
    let reply = router.post("/v1/responses/input_tokens", r#"{"model": "m", "input": "hello, how are you today?"}"#);
    assert_eq!((reply.status, &reply.json()["object"]), (200, &"response.input_tokens".into()));
    assert!((2..40).contains(&reply.json()["input_tokens"].as_u64().unwrap()), "{}", reply.text());
    let compact = router.post("/v1/responses/compact", r#"{"model": "m", "input": "hi"}"#);
    assert_eq!(compact.status, 404, "only a count can be estimated");
}

#[test]
fn page_lists_every_path() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/routing.md")).unwrap();
    for row in ENDPOINTS {
        let path = row.path.replace("{any}", "*").replace("{id}", "ID").replace("{rest}", "*");
        assert!(page.contains(&format!("`{path}`")), "docs/routing.md does not list `{path}`");
    }
}
