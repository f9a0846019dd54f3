//! Models that move from one engine to another while the router runs.

use super::engines::{ChangingEngine, VLLM_REFUSAL};
use crate::harness::{TestRouter, chat_body, wait_until};
use tokenweir::clock::Clock;
use tokenweir::units::Moment;

const CHAT: &str = "/v1/chat/completions";

fn start_router(engines: &[&ChangingEngine]) -> TestRouter {
    let urls: Vec<String> = engines.iter().map(|engine| format!("{:?}", engine.url())).collect();
    TestRouter::start(&format!("policy = \"round_robin\"\nreplicas = [{}]", urls.join(", "))).wait_until_ready()
}

fn post(router: &TestRouter, model: &str) -> u16 {
    router.post(CHAT, chat_body(model, 1, false)).status
}

#[test]
fn model_that_one_engine_lost_is_asked_of_the_other() {
    for refusal in [
        VLLM_REFUSAL,
        (404, r#"{"object":"error","message":"The model `MODEL` does not exist.","type":"NotFoundError","code":404}"#),
        (404, r#"{"error":"model \"MODEL\" not found, try pulling it first"}"#),
        (400, r#"{"error":{"code":400,"message":"model 'MODEL' not found","type":"invalid_request_error"}}"#),
        (404, r#"{"error":{"message":"no access","type":"invalid_request_error","code":"model_not_found"}}"#),
    ] {
        let moved = ChangingEngine::start_with_refusal(&["one"], refusal);
        let stays = ChangingEngine::start(&["one"]);
        let router = start_router(&[&moved, &stays]);
        let reads = moved.list_reads();
        moved.set_models(&["two"]);
        for _ in 0..4 {
            assert_eq!(post(&router, "one"), 200, "{}", refusal.1);
        }
        assert!(!moved.client_requests().is_empty(), "it was asked before its list was read anew");
        wait_until("its list is read anew", || moved.list_reads() > reads);
        wait_until("its new model is known", || router.get("/v1/models/two").status == 200);
        assert_eq!(post(&router, "two"), 200);
        let asked = moved.client_requests().len();
        for _ in 0..4 {
            assert_eq!(post(&router, "one"), 200);
        }
        assert_eq!(moved.client_requests().len(), asked, "it is asked for its own model only");
        assert_eq!(router.in_flight(), 0);
    }
}

#[test]
fn models_that_swap_engines_are_found_at_once() {
    let (first, second) = (ChangingEngine::start(&["one"]), ChangingEngine::start(&["two"]));
    let router = start_router(&[&first, &second]);
    first.set_models(&["two"]);
    second.set_models(&["one"]);
    assert_eq!((post(&router, "one"), post(&router, "two")), (200, 200));
}

#[test]
fn model_that_moves_to_another_pool_is_found_at_once() {
    let (first, second) = (ChangingEngine::start(&["one"]), ChangingEngine::start(&["two"]));
    let router = TestRouter::start(&format!(
        "[[pool]]\nname = \"a\"\nreplicas = [{:?}]\n[[pool]]\nname = \"b\"\nreplicas = [{:?}]",
        first.url(),
        second.url()
    ))
    .wait_until_ready();
    first.set_models(&["three"]);
    second.set_models(&["one", "two"]);
    assert_eq!(post(&router, "one"), 200);
}

#[test]
fn refusal_by_all_is_relayed_unchanged_and_ejects_none() {
    // Aliases are not replaced where the engine lists the name, so both get a name that they then refuse.
    let (first, second) = (ChangingEngine::start(&["one"]), ChangingEngine::start(&["one"]));
    let router = start_router(&[&first, &second]);
    for engine in [&first, &second] {
        let list = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 23\r\n\r\n{\"data\":[{\"id\":\"one\"}]}";
        engine.set_list_answer(Some(list));
        engine.set_models(&[]);
    }
    for round in 1..=3 {
        let reply = router.post(CHAT, chat_body("one", 1, false));
        assert_eq!((reply.status, reply.text()), (404, VLLM_REFUSAL.1.replace("MODEL", "one")));
        assert_eq!((first.client_requests().len(), second.client_requests().len()), (round, round));
    }
    let pools = crate::harness::send_request(router.admin_addr, "GET", "/pools", "", "").json();
    for replica in pools[0]["replicas"].as_array().unwrap() {
        assert_eq!(replica["state"], "admitted", "{pools}");
    }
    assert_eq!(router.in_flight(), 0);
}

#[test]
fn unknown_model_asks_all_engines_once_a_second() {
    let (first, second) = (ChangingEngine::start(&["one"]), ChangingEngine::start(&["one"]));
    let router = start_router(&[&first, &second]);
    let reads = (first.list_reads(), second.list_reads());
    second.set_models(&["one", "new"]);
    assert_eq!(post(&router, "new"), 200, "it was loaded a moment ago");
    assert_eq!((first.list_reads(), second.list_reads()), (reads.0 + 1, reads.1 + 1));
    let clock = Clock::start();
    let handles: Vec<_> = (0..8)
        .map(|client| {
            let addr = router.addr;
            std::thread::spawn(move || {
                let model = format!("invented-{client}");
                crate::harness::send_request(addr, "POST", CHAT, "", chat_body(&model, 1, false)).status
            })
        })
        .collect();
    for handle in handles {
        assert_eq!(handle.join().unwrap(), 404);
    }
    let rounds = 1 + clock.now().since(Moment::ZERO).as_secs() as usize;
    assert!(first.list_reads() <= reads.0 + 1 + rounds, "{} reads", first.list_reads() - reads.0);
    assert_eq!(first.client_requests().len(), 0);
}

#[test]
fn configured_names_are_not_looked_up() {
    let engine = ChangingEngine::start(&["one"]);
    let router = TestRouter::start(&format!("model = \"one\"\nreplicas = [{:?}]", engine.url())).wait_until_ready();
    let reads = engine.list_reads();
    assert_eq!(post(&router, "invented"), 404);
    assert_eq!(engine.list_reads(), reads);
}
