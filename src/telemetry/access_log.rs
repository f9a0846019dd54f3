//! The access logs: a line per request in each log of its route.

use std::sync::Arc;

use super::writer::LogWriter;
use crate::log_format::{LogFormat, RequestRecord, RequiredFields};

/// Initial capacity of a line; most lines fit.
const LINE_CAPACITY_BYTES: usize = 256;

/// One access log. Several may share a writer.
struct AccessLog {
    writer: Arc<LogWriter>,
    format: LogFormat,
}

/// The access logs of one request.
pub struct AccessLogSet {
    /// At least one.
    logs: Vec<AccessLog>,
    required_fields: RequiredFields,
}

impl AccessLogSet {
    /// Returns the set of logs in these formats; `None` without any.
    pub(super) fn new(logs: impl IntoIterator<Item = (Arc<LogWriter>, LogFormat)>) -> Option<Self> {
        let logs: Vec<AccessLog> = logs.into_iter().map(|(writer, format)| AccessLog { writer, format }).collect();
        let mut required_fields = RequiredFields::default();
        logs.iter().for_each(|log| required_fields.merge(log.format.required_fields()));
        (!logs.is_empty()).then_some(Self { logs, required_fields })
    }

    /// Returns the fields of a request that the formats need.
    pub const fn required_fields(&self) -> &RequiredFields {
        &self.required_fields
    }

    /// Writes a line to each log.
    pub fn write(&self, record: &RequestRecord<'_>) {
        let mut line = Vec::with_capacity(LINE_CAPACITY_BYTES);
        for AccessLog { writer, format } in &self.logs {
            line.clear();
            format.write_line(record, &mut line);
            writer.write(&line);
        }
    }
}
