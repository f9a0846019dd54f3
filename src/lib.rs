//! tokenweir: an LLM-aware, OpenAI-compatible inference router.
//!
//! Built in floors; a file may use its own floor and lower ones, never a higher one, and the folders of a floor never
//! use each other in a circle (`tests/it/config/layers.rs` keeps it so). ARCHITECTURE.md has the picture.

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
pub mod server;
pub mod sse;
pub mod telemetry;
pub mod tenants;
pub mod tls;
pub mod units;
pub mod upstream;
