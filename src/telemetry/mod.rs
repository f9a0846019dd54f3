//! Floor 3: what people see: metrics, the access log and the error log.

mod access;
mod errors;
mod metrics;
mod time;
mod writer;

pub use access::{AccessLog, Line};
pub use errors::{ErrorLog, Level};
pub use metrics::Metrics;
pub use writer::Writer;
