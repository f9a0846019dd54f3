//! The error log: messages for the operator, at a bounded rate.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;

use super::writer::LogWriter;
use crate::clock::Clock;
use crate::log_format::format_rfc3339;
use crate::units::LogLevel;

/// Lines written each second. Further ones are counted, and the next line states their number.
const MAX_LINES_PER_SECOND: u32 = 20;

/// Writes error log lines from any thread.
pub struct ErrorLog {
    output: ArcSwap<LogOutput>,
    clock: Clock,
    current_second: AtomicU64,
    lines_this_second: AtomicU32,
    suppressed_lines: AtomicU64,
}

/// The destination of lines and the least severity.
struct LogOutput {
    /// `None` drops all lines.
    writer: Option<LogWriter>,
    min_level: LogLevel,
}

impl ErrorLog {
    /// Returns a log that writes lines of at least `min_level` to `writer`; `None` drops all lines.
    pub fn new(writer: Option<LogWriter>, min_level: LogLevel, clock: Clock) -> Self {
        Self {
            output: ArcSwap::from_pointee(LogOutput { writer, min_level }),
            clock,
            current_second: AtomicU64::new(0),
            lines_this_second: AtomicU32::new(0),
            suppressed_lines: AtomicU64::new(0),
        }
    }

    /// Replaces writer and level.
    pub fn replace_output(&self, writer: Option<LogWriter>, min_level: LogLevel) {
        self.output.store(LogOutput { writer, min_level }.into());
    }

    /// Opens the file again, after it was moved away by log rotation.
    ///
    /// *Errors*: the file cannot be opened; lines still go to the old one.
    pub fn reopen(&self) -> io::Result<()> {
        self.output.load().writer.as_ref().map_or(Ok(()), LogWriter::reopen)
    }

    /// Writes one line, unless the rate is exceeded. Control characters become spaces.
    pub fn write(&self, level: LogLevel, message: fmt::Arguments<'_>) {
        if level < self.output.load().min_level {
            return;
        }
        if self.check_rate(self.clock.unix_time()) {
            self.write_unlimited(level, message);
        } else {
            self.suppressed_lines.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Writes one line at any rate: the result of a reload or another command, for which the operator waits.
    pub fn write_unlimited(&self, level: LogLevel, message: fmt::Arguments<'_>) {
        let output = self.output.load();
        let Some(writer) = output.writer.as_ref().filter(|_| level >= output.min_level) else { return };
        let level = match level {
            LogLevel::Info => "info",
            LogLevel::Warn => "warn",
            LogLevel::Error => "error",
        };
        let clean: String = message.to_string().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let time = format_rfc3339(self.clock.unix_time());
        let line = match self.suppressed_lines.swap(0, Ordering::Relaxed) {
            0 => format!("{time} {level} {clean}\n"),
            n => format!("{time} {level} {clean} ({n} lines before this one were suppressed)\n"),
        };
        writer.write(line.as_bytes());
    }

    /// Counts a line; returns whether it may be written.
    fn check_rate(&self, now: Duration) -> bool {
        let second = now.as_secs();
        if self.current_second.swap(second, Ordering::Relaxed) != second {
            self.lines_this_second.store(0, Ordering::Relaxed);
        }
        self.lines_this_second.fetch_add(1, Ordering::Relaxed) < MAX_LINES_PER_SECOND
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::DroppedLines;

    #[test]
    fn burst_is_limited_per_second() {
        let log = ErrorLog::new(None, LogLevel::Info, Clock::start());
        let now = Duration::from_secs(7);
        assert_eq!((0..100).filter(|_| log.check_rate(now)).count(), MAX_LINES_PER_SECOND as usize);
        assert!(log.check_rate(Duration::from_secs(8)));
    }

    #[test]
    fn unlimited_line_is_written_after_a_burst() {
        let path = std::env::temp_dir().join(format!("tokenweir-errors-{}", std::process::id()));
        let writer = LogWriter::open_file(&path, &DroppedLines::default()).unwrap();
        let log = ErrorLog::new(Some(writer), LogLevel::Info, Clock::start());
        for number in 0..10 * MAX_LINES_PER_SECOND {
            log.write(LogLevel::Error, format_args!("request {number} failed"));
        }
        log.write_unlimited(LogLevel::Info, format_args!("reloaded"));
        drop(log);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let last = text.lines().last().unwrap();
        assert!(last.contains("info reloaded (") && last.ends_with("lines before this one were suppressed)"), "{text}");
    }
}
