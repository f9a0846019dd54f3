//! Compressed answers.

use std::io::{Read, Write};

use crate::harness::client::{Reply, request};
use crate::harness::scripted::{Scripted, whole};
use crate::harness::{Router, chat, fast, replica_with};
use flate2::read::GzDecoder;

const TAKES: &str = "Accept-Encoding: br, gzip\r\n";

fn unpacked(reply: &Reply) -> String {
    let mut text = String::new();
    GzDecoder::new(&*reply.body).read_to_string(&mut text).unwrap();
    text
}

/// A router over a replica that answers with `more` header lines and this body, framed by its length.
fn answering(more: &'static str, kind: &'static str, body: String) -> (Scripted, Router) {
    let replica = Scripted::start(&["m"], move |_, to| {
        let answer = String::from_utf8(whole(200, kind, &body)).unwrap();
        to.write_all(answer.replacen("200 X", &format!("200 X{more}"), 1).as_bytes()).is_ok()
    });
    let router = Router::start(&format!("gzip = '1KiB'\nreplicas = [{:?}]", replica.url())).ready();
    (replica, router)
}

fn ask(router: &Router, headers: &str) -> Reply {
    router.ask("POST", "/v1/chat/completions", headers, chat("m", 1, false))
}

#[test]
fn json_is_compressed_for_clients_that_take_it() {
    let body = format!("[{}1]", "1234567, ".repeat(100_000));
    let (replica, router) =
        answering("\r\nETag: \"a\"\r\nVary: Origin", "application/json; charset=utf-8", body.clone());
    let reply = ask(&router, TAKES);
    assert_eq!((reply.header("content-encoding"), reply.header("content-length")), (Some("gzip"), None));
    assert_eq!(reply.header("etag"), Some("W/\"a\""));
    assert!(
        reply.head.contains("vary: Origin\r\n") && reply.head.contains("vary: accept-encoding\r\n"),
        "{}",
        reply.head
    );
    assert!(reply.whole && reply.body.len() < body.len() / 50, "{}", reply.body.len());
    assert!(unpacked(&reply) == body);
    assert_eq!(replica.last().header("accept-encoding"), None);
    let plain = ask(&router, "");
    assert_eq!((plain.header("content-encoding"), plain.header("etag")), (None, Some("\"a\"")));
    assert_eq!(plain.header("content-length"), Some(&*body.len().to_string()));
    assert!(plain.head.contains("vary: accept-encoding\r\n") && plain.text() == body);
}

#[test]
fn small_answers_other_types_and_what_is_compressed_already_stay_as_they_are() {
    let long = "x".repeat(5_000);
    for (more, kind, body) in [
        ("", "application/json", "x".repeat(1_023)),
        ("", "text/plain", long.clone()),
        ("\r\nContent-Encoding: br", "application/json", long.clone()),
        ("\r\nCache-Control: no-transform", "application/json", long),
    ] {
        let (_replica, router) = answering(more, kind, body.clone());
        let reply = ask(&router, TAKES);
        assert_eq!(reply.text(), body, "{more} {kind}");
        assert_ne!(reply.header("content-encoding"), Some("gzip"), "{more} {kind}");
    }
}

#[test]
fn streams_are_never_compressed() {
    let emulated = replica_with(fast(&["m"]));
    let router = Router::start(&format!("gzip = '1'\nreplicas = ['{}']", emulated.url())).ready();
    let stream = router.ask("POST", "/v1/chat/completions", TAKES, chat("m", 20, true));
    assert_eq!((stream.header("content-encoding"), stream.header("vary")), (None, None));
    assert!(stream.text().ends_with("data: [DONE]\n\n"));
    let models = router.ask("GET", "/v1/models", TAKES, "");
    assert!(models.header("content-encoding") == Some("gzip") && unpacked(&models).contains("\"m\""));
}

#[test]
fn an_answer_that_breaks_off_is_not_made_whole() {
    let replica = Scripted::start(&["m"], |_, to| {
        // Too large to be held until it is complete.
        let head = "HTTP/1.1 200 X\r\ncontent-type: application/json\r\ncontent-length: 3000000\r\n\r\n";
        let _ = to.write_all(format!("{head}{}", "x".repeat(2_000_000)).as_bytes());
        false
    });
    let router = Router::start(&format!("gzip = '1KiB'\nreplicas = [{:?}]", replica.url())).ready();
    let mut client = router.client();
    client.send(request("POST", "/v1/chat/completions", TAKES, chat("m", 1, false)));
    // The head may not have gone out yet.
    if client.try_head().is_some() {
        client.rest();
        assert!(client.is_broken());
    }
}

#[test]
fn it_is_off_unless_it_is_asked_for() {
    let replica =
        Scripted::start(&["m"], |_, to| to.write_all(&whole(200, "application/json", &"1".repeat(9_000))).is_ok());
    let router = Router::over([&*replica.url()]);
    let reply = ask(&router, TAKES);
    assert_eq!((reply.header("content-encoding"), reply.header("vary"), reply.body.len()), (None, None, 9_000));
}
