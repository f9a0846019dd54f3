//! tokenweir: an LLM-aware, OpenAI-compatible inference router.
//!
//! Built in layers. A module uses its own layer and lower ones, and the modules of a layer form no circle;
//! `tests/it/config/layers` checks it. ARCHITECTURE.md has the picture.

pub mod balance;
pub mod cli;
pub mod clock;
pub mod config;
pub mod dialect;
pub mod discover;
pub mod dns;
pub mod eject;
pub mod emulate;
pub mod engine;
pub mod fleet;
pub mod http;
pub mod import;
pub mod log_format;
pub mod prefix_index;
pub mod prompt;
pub mod replay;
pub mod routes;
pub mod server;
pub mod sse;
pub mod telemetry;
pub mod tenants;
pub mod tls;
pub mod units;
pub mod upstream;
