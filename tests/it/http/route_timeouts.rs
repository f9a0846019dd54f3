//! `timeouts.keepalive` and `timeouts.client_send` of routes, and hosts of one of the addresses of a wildcard listener.

use std::io::Write as _;
use std::time::Duration;

use tokenweir::clock::Clock;
use tokenweir::units::Moment;

use crate::harness::client::{TestClient, build_request};
use crate::harness::scripted::ScriptedReplica;
use crate::harness::{TestRouter, chat_body, start_reloadable_router, start_replica, unused_addr, wait_until};

const CHAT_PATH: &str = "/v1/chat/completions";

#[test]
fn idle_connection_has_the_keepalive_of_its_last_route() {
    let router = TestRouter::start(
        "[timeouts]\nkeepalive = \"60s\"\n[[host]]\n\
         [[host.route]]\npath = \"/long\"\nanswer = \"200 long\"\n\
         [[host.route]]\npath = \"/short\"\nanswer = \"200 short\"\ntimeouts = { keepalive = \"200ms\" }\n\
         [[host.route]]\npath = \"/none\"\nanswer = \"200 none\"\ntimeouts = { keepalive = 0 }\n\
         [[host.route]]\npath = \"/v1/\"\npools = \"p\"\n[[pool]]\nname = \"p\"\nreplicas = [\"http://127.0.0.1:1\"]\n",
    );
    let ask = |client: &mut TestClient<_>, path: &str| {
        client.send(build_request("GET", path, "", ""));
        let reply = client.read_response();
        assert_eq!(reply.status, 200, "{path}");
        reply.header("connection").map(str::to_owned)
    };
    let mut idle = router.connect();
    assert_eq!((ask(&mut idle, "/short"), ask(&mut idle, "/long")), (None, None));
    let mut short = router.connect();
    assert_eq!((ask(&mut short, "/long"), ask(&mut short, "/short")), (None, None));
    let clock = Clock::start();
    assert!(short.wait_for_close());
    assert!(clock.now().since(Moment::ZERO) >= Duration::from_millis(150), "the route's time is not over");
    // Kept at the end of that of `/short`.
    assert_eq!(ask(&mut idle, "/long"), None);
    assert_eq!(ask(&mut idle, "/none").as_deref(), Some("close"));
    assert!(idle.wait_for_close());
    let mut first = router.connect();
    assert_eq!(ask(&mut first, "/none").as_deref(), Some("close"));
    assert!(first.wait_for_close());
}

#[test]
fn client_that_reads_nothing_has_the_time_of_its_route() {
    let endless = ScriptedReplica::start(&["m"], |_, to| {
        let head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
        let chunk = [b"10000\r\n", &[b'x'; 0x10000][..], b"\r\n"].concat();
        to.write_all(head).unwrap();
        while to.write_all(&chunk).is_ok() {}
        false
    });
    let text = format!(
        "[timeouts]\nclient_send = \"60s\"\n[[host]]\n\
         [[host.route]]\npath = \"/v1/\"\npools = \"p\"\n\
         [[host.route]]\npath = \"= {CHAT_PATH}\"\npools = \"p\"\ntimeouts = {{ client_send = \"300ms\" }}\n\
         [[pool]]\nname = \"p\"\nreplicas = [{:?}]\n",
        endless.url()
    );
    let router = TestRouter::start(&text).wait_until_ready();
    let stop_reading = |path: &str| {
        let mut client = router.connect();
        client.send(build_request("POST", path, "", chat_body("m", 1, true)));
        assert_eq!(client.read_head().status, 200);
        client
    };
    let patient = stop_reading("/v1/completions");
    let _hasty = stop_reading(CHAT_PATH);
    assert_eq!(router.in_flight(), 2);
    wait_until("the client of the route with the short time is closed", || router.in_flight() == 1);
    std::thread::sleep(Duration::from_millis(600));
    assert_eq!(router.in_flight(), 1, "the other route has its own time");
    drop(patient);
}

#[test]
fn host_of_one_address_of_a_wildcard_listener_is_found_there_only() {
    let replica = start_replica(&["m"]);
    let port = unused_addr().port();
    let wildcard = format!(
        "listen = \"0.0.0.0:{port}\"\n[[host]]\n[[host.route]]\npath = \"/\"\nanswer = \"200 wildcard\"\n\
         [[host.route]]\npath = \"/v1/\"\npools = \"p\"\n[[pool]]\nname = \"p\"\nreplicas = [{:?}]\n",
        replica.url()
    );
    let specific =
        format!("[[host]]\nlisten = \"127.0.0.2:{port}\"\n[[host.route]]\npath = \"/\"\nanswer = \"200 specific\"\n");
    let (router, file) = start_reloadable_router(&wildcard);
    let answer_at = |address: &str| {
        let mut client = TestClient::connect(format!("{address}:{port}").parse().unwrap());
        client.send(build_request("GET", "/", "", ""));
        client.read_response().text()
    };
    assert_eq!((answer_at("127.0.0.1"), answer_at("127.0.0.2")), ("wildcard".to_owned(), "wildcard".to_owned()));
    *file.lock().unwrap() = format!("{wildcard}{specific}");
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
        router.server.reload().await.unwrap();
    });
    assert_eq!((answer_at("127.0.0.1"), answer_at("127.0.0.2")), ("wildcard".to_owned(), "specific".to_owned()));
}
