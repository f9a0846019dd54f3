//! The access log: one line per request.

use std::io;

use super::facts::Facts;
use super::format::Format;
use super::needs::Needs;
use super::writer::Writer;

/// Most lines fit.
const LINE_BYTES: usize = 256;

/// Writes access lines in the configured format.
pub struct AccessLog {
    writer: Writer,
    format: Format,
}

impl AccessLog {
    /// A log in `format` to `writer`.
    pub const fn new(writer: Writer, format: Format) -> Self {
        Self { writer, format }
    }

    /// What must be kept of a request for its line.
    pub fn needs(&self) -> &Needs {
        self.format.needs()
    }

    /// Writes one line.
    pub fn write(&self, facts: &Facts<'_>) {
        let mut line = Vec::with_capacity(LINE_BYTES);
        self.format.write(facts, &mut line);
        self.writer.write(&line);
    }

    /// Opens the file anew, so that a log that was moved away is left behind.
    ///
    /// *Errors*: it cannot be opened, and the old file goes on.
    pub fn reopen(&self) -> io::Result<()> {
        self.writer.reopen()
    }

    /// Lines dropped so far.
    pub fn lost(&self) -> u64 {
        self.writer.lost()
    }
}
