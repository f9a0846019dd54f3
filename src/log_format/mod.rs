//! Layer 1: nginx's `log_format` language: text with variables, compiled once and rendered per request.

mod error;
mod escape;
mod format;
mod part;
mod record;
mod request_target;
mod required_fields;
mod time;
mod value;
mod variables;

#[cfg(test)]
mod tests;

pub use error::LogFormatError;
pub use escape::LogEscape;
pub use format::{BUILT_IN_FORMATS, LogFormat};
pub use part::available_variable_names;
pub use record::{
    AttemptRecord, AttemptRecords, CapturedFields, ConnectionInfo, PoolInfo, RequestLine, RequestRecord, RequestTimes,
    ResponseInfo, TlsSession, TokenInfo,
};
pub use required_fields::RequiredFields;
pub use time::format_rfc3339;
pub use value::ValueAvailability;
