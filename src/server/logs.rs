//! The logs of the process: opened at the start, reopened by a signal, replaced by a reload.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwapOption;

use super::StartError;
use crate::clock::Clock;
use crate::config::{LogSink, RecordSettings, Settings};
use crate::fleet::DecisionLog;
use crate::telemetry::{AccessLog, ErrorLog, LogLevel, LogWriter, Metrics, TraceFile, TrafficRecorder};

/// The access log, the error log, the decision log and the traffic recording.
pub(super) struct Logs {
    /// `None` if it is off. A request keeps the log that it started with.
    pub(super) access: ArcSwapOption<AccessLog>,
    pub(super) error: Arc<ErrorLog>,
    /// The latest choices of a replica, for `explain`.
    pub(super) decisions: Arc<DecisionLog>,
    /// `None` unless `record` is configured.
    pub(super) recorder: Option<Arc<TrafficRecorder>>,
    /// Lines dropped by logs that a reload has replaced.
    dropped_before: AtomicU64,
}

/// Access and error log as a new configuration wants them: open, not written to yet.
pub(super) struct PreparedLogs {
    access: Option<AccessLog>,
    error_writer: Option<LogWriter>,
    level: LogLevel,
}

impl Logs {
    /// Opens every configured log.
    ///
    /// *Errors*: a file cannot be opened.
    pub(super) fn open(settings: &Settings, metrics: &Arc<Metrics>, clock: Clock) -> Result<Self, StartError> {
        let error = Arc::new(ErrorLog::new(open_sink(&settings.log.error)?, settings.log.level, clock));
        let access = open_access_log(settings)?.map(Arc::new);
        let recorder = trace_file(&settings.record).map(|file| start_recorder(file, metrics)).transpose()?;
        Ok(Self {
            access: ArcSwapOption::from(access),
            error,
            decisions: Arc::new(DecisionLog::new(settings.explain)),
            recorder,
            dropped_before: AtomicU64::new(0),
        })
    }

    /// Opens the files of both logs again, after log rotation has moved them. A file that cannot be opened again stays
    /// in use, and the error log reports it.
    pub(super) fn reopen(&self) {
        let access = self.access.load().as_ref().map_or(Ok(()), |log| log.reopen());
        for (log, reopened) in [("error", self.error.reopen()), ("access", access)] {
            match reopened {
                Ok(()) => self.error.write_unlimited(LogLevel::Info, format_args!("reopened the {log} log")),
                Err(cause) => {
                    let message = format_args!("cannot reopen the {log} log, its old file is kept: {cause}");
                    self.error.write_unlimited(LogLevel::Error, message);
                }
            }
        }
    }

    /// Replaces access and error log. Requests under way keep the old access log.
    pub(super) fn replace(&self, new: PreparedLogs) {
        let old_access = self.access.swap(new.access.map(Arc::new));
        let dropped = old_access.map_or(0, |log| log.dropped_lines());
        let dropped = dropped + self.error.replace_output(new.error_writer, new.level);
        self.dropped_before.fetch_add(dropped, Ordering::Relaxed);
    }

    /// Returns the number of lines that were dropped since the start, of all logs together.
    pub(super) fn dropped_lines(&self) -> u64 {
        let access = self.access.load().as_ref().map_or(0, |log| log.dropped_lines());
        let recorded = self.recorder.as_ref().map_or(0, |recorder| recorder.dropped_lines());
        access + self.error.dropped_lines() + recorded + self.dropped_before.load(Ordering::Relaxed)
    }
}

impl PreparedLogs {
    /// Opens both logs if a key of `log` has changed.
    ///
    /// *Errors*: a file cannot be opened.
    pub(super) fn prepare(old: &Settings, new: &Settings) -> Result<Option<Self>, StartError> {
        if old.log == new.log {
            return Ok(None);
        }
        let access = open_access_log(new)?;
        Ok(Some(Self { access, error_writer: open_sink(&new.log.error)?, level: new.log.level }))
    }
}

fn open_access_log(settings: &Settings) -> Result<Option<AccessLog>, StartError> {
    Ok(open_sink(&settings.log.access)?.map(|writer| AccessLog::new(writer, settings.log.format.clone())))
}

fn open_sink(sink: &LogSink) -> Result<Option<LogWriter>, StartError> {
    Ok(match sink {
        LogSink::Off => None,
        LogSink::Stdout => Some(LogWriter::stdout()),
        LogSink::Stderr => Some(LogWriter::stderr()),
        LogSink::File(path) => {
            let failed = |error| StartError::Log(path.display().to_string(), error);
            Some(LogWriter::open_file(path).map_err(failed)?)
        }
    })
}

/// Returns the file that traffic is recorded to; `None` if recording is off.
fn trace_file(settings: &RecordSettings) -> Option<TraceFile> {
    let RecordSettings { path, max_bytes, max_files } = settings;
    path.clone().map(|path| TraceFile { path, max_bytes: *max_bytes, max_files: *max_files })
}

fn start_recorder(file: TraceFile, metrics: &Arc<Metrics>) -> Result<Arc<TrafficRecorder>, StartError> {
    let path = file.path.display().to_string();
    let recorder = TrafficRecorder::start(file, metrics.clone()).map_err(|error| StartError::Record(path, error))?;
    Ok(Arc::new(recorder))
}
