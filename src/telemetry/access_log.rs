//! The access log: one line per request.

use std::io;

use super::writer::LogWriter;
use crate::log_format::{LogFormat, RequestRecord, RequiredFields};

/// Initial capacity of a line; most lines fit.
const LINE_CAPACITY_BYTES: usize = 256;

/// Writes access log lines in the configured format.
pub struct AccessLog {
    writer: LogWriter,
    format: LogFormat,
}

impl AccessLog {
    /// Returns a log in `format` that writes to `writer`.
    pub const fn new(writer: LogWriter, format: LogFormat) -> Self {
        Self { writer, format }
    }

    /// Returns the fields of a request that the format needs.
    pub fn required_fields(&self) -> &RequiredFields {
        self.format.required_fields()
    }

    /// Writes one line.
    pub fn write(&self, record: &RequestRecord<'_>) {
        let mut line = Vec::with_capacity(LINE_CAPACITY_BYTES);
        self.format.write_line(record, &mut line);
        self.writer.write(&line);
    }

    /// Opens the file again, after it was moved away by log rotation.
    ///
    /// *Errors*: the file cannot be opened; lines still go to the old one.
    pub fn reopen(&self) -> io::Result<()> {
        self.writer.reopen()
    }

    /// Returns the number of lines dropped so far.
    pub fn dropped_lines(&self) -> u64 {
        self.writer.dropped_lines()
    }
}
