//! The error log: what an operator should know, at most a bounded number of lines a second.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;

use super::writer::LogWriter;
use crate::clock::Clock;
use crate::log_format::time::format_rfc3339;

/// Lines let through each second; the rest are counted and their number is told with the next one.
const MAX_LINES_PER_SECOND: u32 = 20;

/// How much a line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Worth knowing.
    Info,
    /// Something is wrong, and the router copes.
    Warn,
    /// Something is wrong, and a request was lost by it.
    Error,
}

/// Writes error lines, from any thread.
pub struct ErrorLog {
    output: ArcSwap<LogOutput>,
    clock: Clock,
    current_second: AtomicU64,
    lines_this_second: AtomicU32,
    suppressed_lines: AtomicU64,
}

/// Where lines go, and which.
struct LogOutput {
    writer: Option<LogWriter>,
    min_level: LogLevel,
}

impl ErrorLog {
    /// A log of what matters at least as much as `least`, to `writer`; `None` writes nothing.
    pub fn new(writer: Option<LogWriter>, least: LogLevel, clock: Clock) -> Self {
        let (second, written, held_back) = (AtomicU64::new(0), AtomicU32::new(0), AtomicU64::new(0));
        let target = ArcSwap::from_pointee(LogOutput { writer, min_level: least });
        Self { output: target, clock, current_second: second, lines_this_second: written, suppressed_lines: held_back }
    }

    /// Goes on with another writer and another level. Returns the lines that were dropped until now.
    pub fn replace_output(&self, writer: Option<LogWriter>, least: LogLevel) -> u64 {
        let lost = self.dropped_lines();
        self.output.store(LogOutput { writer, min_level: least }.into());
        lost
    }

    /// Opens the file anew, so that a log that was moved away is left behind.
    ///
    /// *Errors*: it cannot be opened, and the old file goes on.
    pub fn reopen(&self) -> io::Result<()> {
        self.output.load().writer.as_ref().map_or(Ok(()), LogWriter::reopen)
    }

    /// Writes one line, unless there are too many. Control characters are taken out.
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

    /// Writes one line that somebody waits for, however many others there are: what has come of a reload.
    pub fn write_unlimited(&self, level: LogLevel, message: fmt::Arguments<'_>) {
        let target = self.output.load();
        let Some(writer) = target.writer.as_ref().filter(|_| level >= target.min_level) else { return };
        let level = match level {
            LogLevel::Info => "info",
            LogLevel::Warn => "warn",
            LogLevel::Error => "error",
        };
        let clean: String = message.to_string().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let time = format_rfc3339(self.clock.unix_time());
        let line = match self.suppressed_lines.swap(0, Ordering::Relaxed) {
            0 => format!("{time} {level} {clean}\n"),
            n => format!("{time} {level} {clean} ({n} lines before this one were held back)\n"),
        };
        writer.write(line.as_bytes());
    }

    /// Lines dropped so far because the log was written too slowly.
    pub fn dropped_lines(&self) -> u64 {
        self.output.load().writer.as_ref().map_or(0, LogWriter::dropped_lines)
    }

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

    #[test]
    fn a_burst_is_cut_short_and_its_rest_counted() {
        let log = ErrorLog::new(None, LogLevel::Info, Clock::start());
        let at = Duration::from_secs(7);
        assert_eq!((0..100).filter(|_| log.check_rate(at)).count(), MAX_LINES_PER_SECOND as usize);
        assert!(log.check_rate(Duration::from_secs(8)));
    }

    #[test]
    fn no_burst_holds_back_what_somebody_waits_for() {
        let path = std::env::temp_dir().join(format!("tokenweir-errors-{}", std::process::id()));
        let log = ErrorLog::new(Some(LogWriter::open_file(&path).unwrap()), LogLevel::Info, Clock::start());
        for at in 0..10 * MAX_LINES_PER_SECOND {
            log.write(LogLevel::Error, format_args!("request {at} failed"));
        }
        log.write_unlimited(LogLevel::Info, format_args!("reloaded"));
        drop(log);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let last = text.lines().last().unwrap();
        assert!(last.contains("info reloaded (") && last.ends_with("lines before this one were held back)"), "{text}");
    }
}
