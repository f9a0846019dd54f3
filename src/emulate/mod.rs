//! Layer 3: emulated replicas and clients for the demo and the tests.
//!
//! An emulated replica is an HTTP face on [`crate::engine`] in real time. It responds as vLLM 0.32 does, byte for byte
//! where it matters (field order, event framing, errors). Generated text is filler, a word per token; a prompt has a
//! token per four bytes. Beyond vLLM's API every request may carry:
//!
//! - `x-emulate-fault: NAME[=ARG]`: meet a fault, see [`EmulatedFault`];
//! - `x-emulate-tokens: N`: output length if the body sets no bound (default 64);
//! - `x-emulate-tokens-per-event: N`: tokens in one event;
//! - `x-emulate-lockstep: 1`: send the first event, and each further one after a `POST /emulate/next/{x-request-id}`.
//!
//! An answer is a tool call if `tool_choice` demands one, or if the last message, a user's, has a line
//! `emulate-tool-call: NAME ARGUMENTS`: a tool of the request and a JSON object.
//!
//! `POST /emulate/faults` with `{"fault": NAME, "count": N, "path": PATH}` injects a fault into the next N requests
//! (null: all) of the path (absent: every POST); `DELETE /emulate/faults` clears it. `GET /metrics` also has
//! `emulated:resident_tokens`: prompt and generated tokens of all requests, which real engines do not report.

mod api_error;
mod dialects;
mod emulated_request;
mod endpoints;
mod faults;
mod faulty_socket;
mod generate;
mod http_response;
mod json;
pub mod load;
mod prompt;
mod replica;
mod response_body;
mod runner;
mod server;
mod settings;
mod state;

pub use faults::EmulatedFault;
pub use replica::{EmulatedReplica, serve_replicas};
pub use response_body::EmulatorCounters;
pub use settings::EmulatorSettings;
