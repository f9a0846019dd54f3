//! Floor 3: what people see: metrics, the access log and the error log.

mod access;
mod errors;
mod escape;
mod facts;
mod failing;
mod families;
mod format;
mod histogram;
mod metrics;
mod needs;
mod record;
mod series;
mod shadows;
mod target;
mod tenants;
mod time;
mod variables;
mod writer;
mod zone;

pub use access::AccessLog;
pub use errors::{ErrorLog, Level};
pub use escape::Escape;
pub use facts::{Asked, Facts, Generated, Kept, Sent, Session, Spent, Tries, Try, Wire};
pub use format::{BUILT_IN, BadFormat, Format, known_variables, variables};
pub use metrics::Metrics;
pub use needs::Needs;
pub use record::{RecordFile, Recorder};
pub use target::normal as normal_path;
pub use time::rfc3339;
pub use variables::Known;
pub use writer::Writer;
