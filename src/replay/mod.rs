//! Floor 3: traces replayed in virtual time: the fleet and the policies that route live traffic, in front of modelled
//! replicas.
//!
//! No clock and no socket: a [`Trace`], a [`Scenario`] and a policy give [`Figures`], the same ones every time.

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

pub use capacity::{Capacity, GOAL_PCT, capacity};
pub use figures::{Counts, Figures};
pub use read::{BadTrace, open, parse};
pub use run::run;
pub use scenario::{Problem, Scenario, Slo};
pub use synthetic::{Kind, synthetic};
pub use table::{csv, json, text};
pub use trace::{Request, Run, Trace};
