//! Statuses and error members of engines, and of the proxies in front of them.

use std::io::Write;
use std::net::TcpStream;

use crate::harness::captures::STREAM_HEAD;
use crate::harness::scripted::{KeepConnection, ReceivedRequest, ScriptedReplica, build_response};
use crate::harness::{TestRouter, chat_body, wait_until};

const CHAT_PATH: &str = "/v1/chat/completions";
const JSON: &str = "application/json";
const GOOD_BODY: &str = "{\"choices\":[{\"index\":0,\"message\":{\"content\":\"ok\"},\"finish_reason\":\"stop\"}]}";

fn play_good(_: &ReceivedRequest, to: &mut TcpStream) -> KeepConnection {
    to.write_all(&build_response(200, JSON, GOOD_BODY)).is_ok()
}

/// Starts a router over a replica with `play`, which is tried first, and a good one.
fn start_two(
    play: impl Fn(&ReceivedRequest, &mut TcpStream) -> KeepConnection + Send + Sync + 'static,
) -> (TestRouter, [ScriptedReplica; 2]) {
    let replicas = [ScriptedReplica::start(&["m"], play), ScriptedReplica::start(&["m"], play_good)];
    let [first, second] = replicas.each_ref().map(ScriptedReplica::url);
    let text = format!("policy = \"round_robin\"\nreplicas = [\"{first} weight=100\", \"{second} weight=1\"]");
    (TestRouter::start(&text).wait_until_ready(), replicas)
}

fn request_counts(replicas: &[ScriptedReplica; 2]) -> [usize; 2] {
    replicas.each_ref().map(|replica| replica.received_requests().len())
}

fn ejection_count(router: &TestRouter) -> f64 {
    router.sum_metric("tokenweir_ejections_total", &[])
}

fn attempt_count(router: &TestRouter, outcome: &str) -> f64 {
    router.sum_metric("tokenweir_attempts_total", &[&format!("outcome=\"{outcome}\"")])
}

fn write_stream(text: &str, to: &mut TcpStream) -> KeepConnection {
    to.write_all(format!("{STREAM_HEAD}{:x}\r\n{text}\r\n0\r\n\r\n", text.len()).as_bytes()).is_ok()
}

/// Cloudflare's 520 to 530 in front of a dead server, TGI's 424 after an error on its GPU, and statuses out of use.
#[test]
fn fault_of_a_server_is_asked_elsewhere_and_ejects() {
    for status in [424, 505, 507, 508, 520, 521, 522, 524, 526, 530, 599] {
        let (router, replicas) =
            start_two(move |_, to| to.write_all(&build_response(status, "text/plain", "error code")).is_ok());
        let failed = (0..20).filter(|_| router.post(CHAT_PATH, chat_body("m", 2, false)).status != 200).count();
        assert_eq!((failed, request_counts(&replicas)), (0, [1, 20]), "{status}");
        assert_eq!(ejection_count(&router), 1.0, "{status}");
    }
}

#[test]
fn fault_that_two_servers_share_is_the_requests() {
    for status in [424, 507] {
        let play = move |_: &ReceivedRequest, to: &mut TcpStream| {
            to.write_all(&build_response(status, "text/plain", "both")).is_ok()
        };
        let replicas = [(); 2].map(|()| ScriptedReplica::start(&["m"], play));
        let urls = replicas.each_ref().map(ScriptedReplica::url);
        let router = TestRouter::start_with_replicas(urls.iter().map(String::as_str));
        let reply = router.post(CHAT_PATH, chat_body("m", 2, false));
        assert_eq!((reply.status, reply.text().as_str(), ejection_count(&router)), (status, "both", 0.0));
    }
}

#[test]
fn overload_in_a_status_or_an_error_is_asked_elsewhere_and_ejects_no_replica() {
    let overloaded = "{\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}";
    let plays: [fn(&ReceivedRequest, &mut TcpStream, &str) -> KeepConnection; 3] = [
        |_, to, error| to.write_all(&build_response(529, JSON, error)).is_ok(),
        |_, to, error| to.write_all(&build_response(200, JSON, error)).is_ok(),
        |_, to, error| write_stream(&format!("event: error\ndata: {error}\n\n"), to),
    ];
    for (which, play) in plays.into_iter().enumerate() {
        for path in [CHAT_PATH, "/v1/messages"] {
            let (router, replicas) = start_two(move |received, to| play(received, to, overloaded));
            let failed = (0..4).filter(|_| router.post(path, chat_body("m", 2, true)).text() != GOOD_BODY).count();
            assert_eq!((failed, request_counts(&replicas)[0]), (0, 1), "{which} {path}");
            assert_eq!((attempt_count(&router, "busy"), ejection_count(&router)), (1.0, 0.0), "{which} {path}");
        }
    }
}

#[test]
fn method_that_a_server_does_not_implement_is_the_requests_fault() {
    let (router, replicas) = start_two(|_, to| to.write_all(&build_response(501, JSON, "{}")).is_ok());
    assert_eq!(router.post(CHAT_PATH, chat_body("m", 2, false)).status, 501);
    assert_eq!((request_counts(&replicas), ejection_count(&router)), ([1, 0], 0.0));
}

#[test]
fn error_member_that_says_nothing_is_no_error() {
    let choices = "\"choices\":[{\"index\":0,\"delta\":{\"content\":\"ok\"},\"message\":{\"content\":\"ok\"}}]";
    for nothing in ["\"\"", "{}", "[]", "false", "0", "null", "{\"message\": \"\", \"code\": 0}"] {
        for path in [CHAT_PATH, "/v1/completions", "/v1/responses", "/v1/messages", "/v1/embeddings"] {
            let document = format!("{{\"id\":\"c\",\"error\": {nothing},{choices}}}");
            let stream = format!("data: {document}\n\ndata: [DONE]\n\n");
            let (plain, events) = (document.clone(), stream.clone());
            let (router, replicas) = start_two(move |received, to| {
                match received.body.windows(13).any(|bytes| bytes == b"\"stream\":true") {
                    true => write_stream(&events, to),
                    false => to.write_all(&build_response(200, JSON, &plain)).is_ok(),
                }
            });
            assert_eq!(router.post(path, chat_body("m", 2, false)).text(), document, "{path} {nothing}");
            assert_eq!(router.post(path, chat_body("m", 2, true)).text(), stream, "{path} {nothing}");
            wait_until("both are counted", || attempt_count(&router, "completed") == 2.0);
            assert_eq!((request_counts(&replicas), attempt_count(&router, "failed")), ([2, 0], 0.0));
        }
    }
}
