//! An engine whose answers to `/v1/models` and whose models the test changes while it runs.

use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::harness::scripted::{KeepConnection, ReceivedRequest, ScriptedReplica, build_response};

/// The engine's models, and the words in which it refuses others.
pub struct ChangingEngine {
    replica: ScriptedReplica,
    state: Arc<EngineState>,
}

struct EngineState {
    models: Mutex<Vec<String>>,
    /// Replaces the answer to `/v1/models`: a whole response.
    list_answer: Mutex<Option<Vec<u8>>>,
    /// The response for an unknown model, with `MODEL` for its name.
    refusal: (u16, String),
    list_reads: AtomicUsize,
}

/// vLLM's words for an unknown model.
pub const VLLM_REFUSAL: (u16, &str) = (
    404,
    r#"{"error":{"message":"The model `MODEL` does not exist.","type":"NotFoundError","param":"model","code":404}}"#,
);

impl ChangingEngine {
    pub fn start(models: &[&str]) -> Self {
        Self::start_with_refusal(models, VLLM_REFUSAL)
    }

    pub fn start_with_refusal(models: &[&str], (status, body): (u16, &str)) -> Self {
        let state = Arc::new(EngineState {
            models: Mutex::new(models.iter().map(|model| (*model).to_owned()).collect()),
            list_answer: Mutex::default(),
            refusal: (status, body.to_owned()),
            list_reads: AtomicUsize::default(),
        });
        let shared = state.clone();
        Self { replica: ScriptedReplica::start(&[], move |received, to| shared.play(received, to)), state }
    }

    /// Starts an engine that answers `/v1/models` with these bytes.
    pub fn start_with_list_answer(answer: &[u8]) -> Self {
        let engine = Self::start(&["m"]);
        engine.set_list_answer(Some(answer));
        engine
    }

    /// Returns its URL. The path prefix sends requests for the model list to the script.
    pub fn url(&self) -> String {
        format!("{}/e", self.replica.url())
    }

    pub fn set_models(&self, models: &[&str]) {
        *self.state.models.lock().unwrap() = models.iter().map(|model| (*model).to_owned()).collect();
    }

    pub fn set_list_answer(&self, answer: Option<&[u8]>) {
        *self.state.list_answer.lock().unwrap() = answer.map(<[u8]>::to_vec);
    }

    /// Returns how often its model list was read.
    pub fn list_reads(&self) -> usize {
        self.state.list_reads.load(Ordering::Relaxed)
    }

    /// Returns the requests of clients so far.
    pub fn client_requests(&self) -> Vec<ReceivedRequest> {
        self.replica.received_requests().into_iter().filter(|request| request.target() != "/e/v1/models").collect()
    }
}

impl EngineState {
    fn play(&self, received: &ReceivedRequest, to: &mut TcpStream) -> KeepConnection {
        let models = self.models.lock().unwrap().clone();
        let answer = if received.target() == "/e/v1/models" {
            self.list_reads.fetch_add(1, Ordering::Relaxed);
            let cards: Vec<Value> = models.iter().map(|id| json!({"id": id, "object": "model"})).collect();
            let list = || build_response(200, "application/json", &json!({"data": cards}).to_string());
            self.list_answer.lock().unwrap().clone().unwrap_or_else(list)
        } else {
            let body: Value = serde_json::from_slice(&received.body).unwrap_or_default();
            match body["model"].as_str() {
                Some(model) if !models.iter().any(|known| known == model) => {
                    let (status, text) = &self.refusal;
                    build_response(*status, "application/json", &text.replace("MODEL", model))
                }
                _ => build_response(200, "application/json", r#"{"object":"chat.completion"}"#),
            }
        };
        to.write_all(&answer).is_ok()
    }
}
