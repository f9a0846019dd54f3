//! The access logs of a route.

use crate::log_format::LogFormat;
use crate::units::LogSink;

/// One access log: the destination of its lines, and their format.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AccessLogSpec {
    /// The destination.
    pub sink: LogSink,
    /// The format of a line.
    pub format: LogFormat,
}
