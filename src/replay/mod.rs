//! Layer 3: replays traces in virtual time, with the fleet and policies that route live traffic in front of simulated
//! engines.
//!
//! It uses no clock and no socket: the same [`Trace`], [`Scenario`] and policy always give the same [`ReplayResult`].

mod capacity;
mod output;
mod result;
mod routers;
mod run;
mod scenario;
mod stats;
mod synthetic;
mod trace;
mod trace_reader;
mod traffic_profile;

pub use capacity::{CapacityResult, GOODPUT_GOAL_PCT, find_capacity};
pub use output::{format_csv, format_json, format_text};
pub use result::{ReplayCounts, ReplayResult};
pub use run::replay_trace;
pub use scenario::{ReplayError, Scenario, Slo};
pub use synthetic::{SyntheticKind, synthesize_trace};
pub use trace::{BlockRun, Trace, TraceRequest};
pub use trace_reader::{TraceError, open_trace, parse_trace};
