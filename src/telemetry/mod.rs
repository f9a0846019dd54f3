//! Floor 3: what people see: metrics, the access log and the error log.

mod access;
mod errors;
mod escape;
mod facts;
mod format;
mod metrics;
mod target;
mod time;
mod variables;
mod writer;

pub use access::AccessLog;
pub use errors::{ErrorLog, Level};
pub use escape::Escape;
pub use facts::{Asked, Facts, Generated, Kept, Sent, Session, Spent, Tries, Try, Wire};
pub use format::{BUILT_IN, BadFormat, Format, Needs, variables};
pub use metrics::Metrics;
pub use writer::Writer;
