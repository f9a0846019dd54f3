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
pub use errors::{ErrorLog, LogLevel};
pub use escape::LogEscape;
pub use facts::{
    AttemptRecord, AttemptRecords, CapturedFields, ConnectionInfo, RequestLine, RequestRecord, RequestTimes,
    ResponseInfo, TlsSession, TokenInfo,
};
pub use format::{BUILT_IN_FORMATS, LogFormat, LogFormatError, available_variable_names, variable_names};
pub use metrics::Metrics;
pub use needs::RequiredFields;
pub use record::{TraceFile, TrafficRecorder};
pub use target::normalize_path as normal_path;
pub use time::format_rfc3339;
pub use variables::ValueAvailability;
pub use writer::LogWriter;
