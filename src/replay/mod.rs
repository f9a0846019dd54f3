//! Floor 3: traces replayed in virtual time: the fleet and the policies that route live traffic, in front of modelled
//! replicas.
//!
//! No clock and no socket: a [`Trace`], a [`Scenario`] and a policy give [`ReplayResult`], the same ones every time.

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

pub use capacity::{CapacityResult, GOODPUT_GOAL_PCT, find_capacity};
pub use output::{format_csv, format_json, format_text};
pub use result::{ReplayCounts, ReplayResult};
pub use run::replay_trace;
pub use scenario::{ReplayError, Scenario, Slo};
pub use synthetic::{SyntheticKind, synthesize_trace};
pub use trace::{BlockRun, Trace, TraceRequest};
pub use trace_reader::{TraceError, open_trace, parse_trace};
