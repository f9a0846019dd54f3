//! Floor 3: what people see: metrics, the access log and the error log.

mod access_log;
mod error_log;
mod metrics;
mod trace_recorder;
mod writer;

pub use crate::log_format::escape::LogEscape;
pub use crate::log_format::record::{
    AttemptRecord, AttemptRecords, CapturedFields, ConnectionInfo, RequestLine, RequestRecord, RequestTimes,
    ResponseInfo, TlsSession, TokenInfo,
};
pub use crate::log_format::required_fields::RequiredFields;
pub use crate::log_format::time::format_rfc3339;
pub use crate::log_format::variables::ValueAvailability;
pub use crate::log_format::{BUILT_IN_FORMATS, LogFormat, LogFormatError, available_variable_names, variable_names};
pub use access_log::AccessLog;
pub use error_log::{ErrorLog, LogLevel};
pub use metrics::{Metrics, metrics_markdown};
pub use trace_recorder::{TraceFile, TrafficRecorder};
pub use writer::LogWriter;
