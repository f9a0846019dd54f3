//! The error log: what an operator should know, at most a bounded number of lines a second.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;

use super::time::rfc3339;
use super::writer::Writer;
use crate::clock::Clock;

/// Lines let through each second; the rest are counted and their number is told with the next one.
const LINES_PER_SECOND: u32 = 20;

/// How much a line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Worth knowing.
    Info,
    /// Something is wrong, and the router copes.
    Warn,
    /// Something is wrong, and a request was lost by it.
    Error,
}

/// Writes error lines, from any thread.
pub struct ErrorLog {
    target: ArcSwap<Target>,
    clock: Clock,
    second: AtomicU64,
    written: AtomicU32,
    held_back: AtomicU64,
}

/// Where lines go, and which.
struct Target {
    writer: Option<Writer>,
    least: Level,
}

impl ErrorLog {
    /// A log of what matters at least as much as `least`, to `writer`; `None` writes nothing.
    pub fn new(writer: Option<Writer>, least: Level, clock: Clock) -> Self {
        let (second, written, held_back) = (AtomicU64::new(0), AtomicU32::new(0), AtomicU64::new(0));
        let target = ArcSwap::from_pointee(Target { writer, least });
        Self { target, clock, second, written, held_back }
    }

    /// Goes on with another writer and another level. Returns the lines that were dropped until now.
    pub fn replace(&self, writer: Option<Writer>, least: Level) -> u64 {
        let lost = self.lost();
        self.target.store(Target { writer, least }.into());
        lost
    }

    /// Opens the file anew, so that a log that was moved away is left behind.
    ///
    /// *Errors*: it cannot be opened, and the old file goes on.
    pub fn reopen(&self) -> io::Result<()> {
        self.target.load().writer.as_ref().map_or(Ok(()), Writer::reopen)
    }

    /// Writes one line, unless there are too many. Control characters are taken out.
    pub fn write(&self, level: Level, message: fmt::Arguments<'_>) {
        if level < self.target.load().least {
            return;
        }
        if self.lets_through(self.clock.time_of_day()) {
            self.tell(level, message);
        } else {
            self.held_back.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Writes one line that somebody waits for, however many others there are: what has come of a reload.
    pub fn tell(&self, level: Level, message: fmt::Arguments<'_>) {
        let target = self.target.load();
        let Some(writer) = target.writer.as_ref().filter(|_| level >= target.least) else { return };
        let level = match level {
            Level::Info => "info",
            Level::Warn => "warn",
            Level::Error => "error",
        };
        let clean: String = message.to_string().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let time = rfc3339(self.clock.time_of_day());
        let line = match self.held_back.swap(0, Ordering::Relaxed) {
            0 => format!("{time} {level} {clean}\n"),
            n => format!("{time} {level} {clean} ({n} lines before this one were held back)\n"),
        };
        writer.write(line.as_bytes());
    }

    /// Lines dropped so far because the log was written too slowly.
    pub fn lost(&self) -> u64 {
        self.target.load().writer.as_ref().map_or(0, Writer::lost)
    }

    fn lets_through(&self, now: Duration) -> bool {
        let second = now.as_secs();
        if self.second.swap(second, Ordering::Relaxed) != second {
            self.written.store(0, Ordering::Relaxed);
        }
        self.written.fetch_add(1, Ordering::Relaxed) < LINES_PER_SECOND
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_cut_short_and_its_rest_counted() {
        let log = ErrorLog::new(None, Level::Info, Clock::start());
        let at = Duration::from_secs(7);
        assert_eq!((0..100).filter(|_| log.lets_through(at)).count(), LINES_PER_SECOND as usize);
        assert!(log.lets_through(Duration::from_secs(8)));
    }

    #[test]
    fn no_burst_holds_back_what_somebody_waits_for() {
        let path = std::env::temp_dir().join(format!("tokenweir-errors-{}", std::process::id()));
        let log = ErrorLog::new(Some(Writer::file(&path).unwrap()), Level::Info, Clock::start());
        for at in 0..10 * LINES_PER_SECOND {
            log.write(Level::Error, format_args!("request {at} failed"));
        }
        log.tell(Level::Info, format_args!("reloaded"));
        drop(log);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let last = text.lines().last().unwrap();
        assert!(last.contains("info reloaded (") && last.ends_with("lines before this one were held back)"), "{text}");
    }
}
