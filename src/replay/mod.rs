//! Floor 3: traces replayed in virtual time: the fleet and the policies that route live traffic, in front of modelled
//! replicas.
//!
//! No clock and no socket: a [`Trace`], a [`Scenario`] and a policy give [`ReplayResult`], the same ones every time.

mod capacity;
mod figures;
mod read;
mod routers;
mod run;
mod scenario;
mod synthetic;
mod table;
mod tally;
mod trace;

pub use capacity::{CapacityResult, GOODPUT_GOAL_PCT, find_capacity};
pub use figures::{ReplayCounts, ReplayResult};
pub use read::{TraceError, open_trace, parse_trace};
pub use run::replay_trace;
pub use scenario::{ReplayError, Scenario, Slo};
pub use synthetic::{SyntheticKind, synthesize_trace};
pub use table::{format_csv, format_json, format_text};
pub use trace::{BlockRun, Trace, TraceRequest};
