//! The access log: one line per request.

use std::io;

use super::writer::LogWriter;
use crate::log_format::LogFormat;
use crate::log_format::record::RequestRecord;
use crate::log_format::required_fields::RequiredFields;

/// Most lines fit.
const LINE_CAPACITY_BYTES: usize = 256;

/// Writes access lines in the configured format.
pub struct AccessLog {
    writer: LogWriter,
    format: LogFormat,
}

impl AccessLog {
    /// A log in `format` to `writer`.
    pub const fn new(writer: LogWriter, format: LogFormat) -> Self {
        Self { writer, format }
    }

    /// What must be kept of a request for its line.
    pub fn required_fields(&self) -> &RequiredFields {
        self.format.required_fields()
    }

    /// Writes one line.
    pub fn write(&self, facts: &RequestRecord<'_>) {
        let mut line = Vec::with_capacity(LINE_CAPACITY_BYTES);
        self.format.write_line(facts, &mut line);
        self.writer.write(&line);
    }

    /// Opens the file anew, so that a log that was moved away is left behind.
    ///
    /// *Errors*: it cannot be opened, and the old file goes on.
    pub fn reopen(&self) -> io::Result<()> {
        self.writer.reopen()
    }

    /// Lines dropped so far.
    pub fn dropped_lines(&self) -> u64 {
        self.writer.dropped_lines()
    }
}
