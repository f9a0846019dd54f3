//! Layer 1: a model of a vLLM replica as a value.
//!
//! It models continuous batching with chunked prefill, a block prefix cache and preemption. It has no clock of its own:
//! `emulate` runs it in real time, `replay` in simulated time. The result depends only on the sequence of
//! [`SimulatedEngine::submit`] and [`SimulatedEngine::abort`] calls and their moments; [`SimulatedEngine::advance`]
//! only reports what has happened by then.
//!
//! *Source*: vLLM `v1/core/sched/scheduler.py`. Left out: priorities, speculative decoding, LoRA, encoder inputs, and
//! the caching of generated tokens, which hold KV memory only while their sequence runs.

mod block_pool;
mod event;
mod model;
mod request;
mod scheduler;
mod sequence;
mod simulated_engine;
mod stats;
mod step_batch;
#[cfg(test)]
mod tests;

pub use event::{EngineEvent, EngineEventKind};
pub use model::EngineModel;
pub use request::{EngineRequest, SubmitError};
pub use simulated_engine::SimulatedEngine;
pub use stats::SchedulerStats;
