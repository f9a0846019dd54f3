//! Clients that compress their requests: `Content-Encoding` of gzip, deflate or zstd.

use std::io::Write;

use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use ruzstd::encoding::{CompressionLevel, compress_to_vec};

use crate::harness::client::HttpResponse;
use crate::harness::scripted::{ScriptedReplica, respond_ok};
use crate::harness::{TestRouter, chat_body};
use tokenweir::balance::SeededRng;

const CHAT_PATH: &str = "/v1/chat/completions";

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

fn zlib(text: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

fn deflate(text: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

fn zstd(text: &[u8]) -> Vec<u8> {
    compress_to_vec(text, CompressionLevel::Fastest)
}

fn start(options: &str) -> (TestRouter, ScriptedReplica) {
    let replica = ScriptedReplica::start(&["m"], respond_ok);
    let router = TestRouter::start(&format!("replicas = [{:?}]\n{options}", replica.url())).wait_until_ready();
    (router, replica)
}

fn post_coded(router: &TestRouter, coding: &str, body: impl AsRef<[u8]>) -> HttpResponse {
    router.send_request("POST", CHAT_PATH, &format!("content-encoding: {coding}\r\n"), body)
}

#[test]
fn compressed_requests_reach_the_replica_decoded() {
    let (router, replica) = start("");
    // The second is decoded on another thread, since it becomes large.
    let bodies = [chat_body("m", 4, false), chat_body("m", 4, false).replace("hello", &"hello ".repeat(100_000))];
    for body in bodies.map(String::into_bytes) {
        for (coding, coded) in [
            ("gzip", gzip(&body)),
            ("x-gzip", gzip(&body)),
            ("deflate", zlib(&body)),
            ("deflate", deflate(&body)),
            ("zstd", zstd(&body)),
            ("identity", body.clone()),
            ("deflate, gzip", gzip(&zlib(&body))),
        ] {
            let reply = post_coded(&router, coding, &coded);
            assert_eq!(reply.status, 200, "{coding}: {}", reply.text());
            let received = replica.last_request();
            assert!(received.body == body, "{coding}");
            assert_eq!(received.header("content-length"), Some(&*body.len().to_string()), "{coding}");
            assert_eq!(received.header("content-encoding"), None, "{coding}");
            assert_eq!(received.header("content-type"), Some("application/json"), "{coding}");
        }
    }
    // The decoded body is read: its model decides about the pool.
    let unknown = post_coded(&router, "gzip", gzip(chat_body("no-such-model", 4, false).as_bytes()));
    assert_eq!((unknown.status, unknown.openai_error()["code"].as_str()), (404, Some("model_not_found")));
}

#[test]
fn unknown_coding_is_415_and_names_those_that_are_decoded() {
    let (router, replica) = start("");
    for (coding, named) in
        [("br", "`br`"), ("gzip, br", "`br`"), ("a b", "`a b`"), ("gzip, gzip, gzip, gzip", "zip, gzip`")]
    {
        let reply = post_coded(&router, coding, chat_body("m", 4, false));
        assert_eq!(reply.status, 415, "{coding}: {}", reply.text());
        assert_eq!(reply.header("accept-encoding"), Some("gzip, deflate, zstd"));
        let message = reply.openai_error()["message"].as_str().unwrap().to_owned();
        assert!(message.contains(named) && message.contains("zstd"), "{message}");
    }
    assert!(replica.received_requests().is_empty());
}

#[test]
fn corrupt_coding_is_400() {
    let (router, replica) = start("");
    let body = chat_body("m", 4, false).into_bytes();
    for (coding, mut coded) in [("gzip", gzip(&body)), ("deflate", zlib(&body)), ("zstd", zstd(&body))] {
        coded.truncate(coded.len() - 3);
        for coded in [&coded, &body] {
            let reply = post_coded(&router, coding, coded);
            assert_eq!(reply.status, 400, "{coding}: {}", reply.text());
            let message = reply.openai_error()["message"].as_str().unwrap().to_owned();
            assert!(message.contains("Content-Encoding"), "{coding}: {message}");
        }
    }
    assert!(replica.received_requests().is_empty());
}

#[test]
fn decoded_bodies_count_against_the_limit_and_the_memory_budget() {
    let (router, replica) = start("[limits]\nbody_bytes = \"1MiB\"\nin_flight_bytes = \"1100KiB\"\n");
    let bomb = vec![b' '; 8 << 20];
    let coded =
        [("gzip", gzip(&bomb)), ("deflate", zlib(&bomb)), ("zstd", zstd(&bomb)), ("gzip, gzip", gzip(&gzip(&bomb)))];
    for (coding, coded) in coded.iter().cycle().take(12) {
        let reply = post_coded(&router, coding, coded);
        assert_eq!(reply.status, 413, "{coding} of {} bytes: {}", coded.len(), reply.text());
    }
    let fits = chat_body("m", 4, false).replace("hello", &" ".repeat(1_000_000));
    for _ in 0..3 {
        let reply = post_coded(&router, "gzip", gzip(fits.as_bytes()));
        assert_eq!(reply.status, 200, "the budget is given back: {}", reply.text());
    }
    // It fits the limit of a body, and with its coded form not the memory of all.
    let (router, _replica) = start("[limits]\nbody_bytes = \"1MiB\"\nin_flight_bytes = \"1MiB\"\n");
    let mut dice = SeededRng::from_seed(1);
    let noise: Vec<u8> = (0..900_000).map(|_| dice.next_u64() as u8).collect();
    assert_eq!(post_coded(&router, "gzip", gzip(&noise)).status, 503);
    assert_eq!(replica.received_requests().len(), 3);
}

#[test]
fn body_that_the_router_does_not_read_keeps_its_coding() {
    let replica = ScriptedReplica::start(&["m"], respond_ok);
    let router = TestRouter::start(&format!("replicas = [{:?}]\npaths = \"any\"\n", replica.url()));
    for coding in ["gzip", "br"] {
        let reply = router.send_request("POST", "/upload", &format!("content-encoding: {coding}\r\n"), b"\x1f\x8bxyz");
        assert_eq!(reply.status, 200, "{}", reply.text());
        let received = replica.last_request();
        assert_eq!((received.header("content-encoding"), &*received.body), (Some(coding), &b"\x1f\x8bxyz"[..]));
    }
}
