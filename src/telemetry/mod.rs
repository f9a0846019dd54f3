//! Layer 3: metrics, access logs, error log and traffic record.

mod access_log;
mod access_log_table;
mod error_log;
mod metrics;
mod time_zone;
mod trace_recorder;
mod writer;

pub use crate::units::LogLevel;
pub use access_log::AccessLogSet;
pub use access_log_table::AccessLogTable;
pub use error_log::ErrorLog;
pub use metrics::{Metrics, ReplicaTotals, ShadowTotals, metrics_markdown, ttft_bounds};
pub use time_zone::utc_offset_seconds;
pub use trace_recorder::{TraceFile, TrafficRecorder};
pub use writer::{DroppedLines, LogWriter};
