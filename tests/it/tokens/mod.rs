//! Token counts, metrics, emulated engines and replays.

mod emulate;
mod engine_metrics;
mod ledger;
mod metrics;
mod replay;
mod token_accuracy;
mod token_estimate;
mod trace_recorder;
