//! The access log, the error log and the traffic recorder.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::log_format::LogFormat;
use crate::units::{LogLevel, LogSink};

/// The access log and the error log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// The access log of routes that have none of their own: one line per request.
    pub access: LogSink,
    /// The format of a line of that log, and of logs that name none.
    pub format: LogFormat,
    /// Named formats.
    pub formats: BTreeMap<String, LogFormat>,
    /// The error log.
    pub error: LogSink,
    /// The lowest level written to the error log.
    pub level: LogLevel,
}

/// The traffic recorder, which writes a trace without any text of prompts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordSettings {
    /// The file; `None` if it is off.
    pub path: Option<PathBuf>,
    /// The size in bytes from which a new file is started.
    pub max_bytes: u64,
    /// Older files kept.
    pub max_files: usize,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self {
            access: LogSink::Stdout,
            format: LogFormat::default(),
            formats: BTreeMap::new(),
            error: LogSink::Stderr,
            level: LogLevel::Info,
        }
    }
}

impl Default for RecordSettings {
    fn default() -> Self {
        Self { path: None, max_bytes: 100 << 20, max_files: 3 }
    }
}
