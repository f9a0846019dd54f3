//! The logs of the process: opened at the start, reopened by a signal, replaced by a reload.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::StartError;
use crate::clock::Clock;
use crate::config::{LogSink, RecordSettings, Settings};
use crate::fleet::DecisionLog;
use crate::routes::AccessLogSpec;
use crate::telemetry::{
    AccessLogSet, AccessLogTable, DroppedLines, ErrorLog, LogLevel, LogWriter, Metrics, TraceFile, TrafficRecorder,
};

/// The access logs, the error log, the decision log and the traffic recording.
pub(super) struct Logs {
    /// A request keeps the logs that it started with.
    pub(super) access: ArcSwap<AccessLogTable>,
    pub(super) error: Arc<ErrorLog>,
    /// The latest choices of a replica, for `explain`.
    pub(super) decisions: Arc<DecisionLog>,
    /// `None` unless `record` is configured.
    pub(super) recorder: Option<Arc<TrafficRecorder>>,
    /// Lines that access logs and the error log have dropped, those of a reload before this one included.
    dropped_lines: DroppedLines,
}

/// The logs as a new configuration wants them: open, not written to yet.
pub(super) struct PreparedLogs {
    access: AccessLogTable,
    /// `None` if the error log stays as it is.
    error: Option<(Option<LogWriter>, LogLevel)>,
}

impl Logs {
    /// Opens every configured log.
    ///
    /// *Errors*: a file cannot be opened.
    pub(super) fn open(settings: &Settings, metrics: &Arc<Metrics>, clock: Clock) -> Result<Self, StartError> {
        let dropped_lines = DroppedLines::default();
        let error = open_sink(&settings.log.error, &dropped_lines)?;
        let access = open_access_logs(settings, None, &dropped_lines)?;
        let recorder = trace_file(&settings.record).map(|file| start_recorder(file, metrics)).transpose()?;
        Ok(Self {
            access: ArcSwap::from_pointee(access),
            error: Arc::new(ErrorLog::new(error, settings.log.level, clock)),
            decisions: Arc::new(DecisionLog::new(settings.explain)),
            recorder,
            dropped_lines,
        })
    }

    /// Opens the files of all logs again, after log rotation has moved them. A file that cannot be opened again stays
    /// in use, and the error log reports it.
    pub(super) fn reopen(&self) {
        let error = self.error.reopen().err().into_iter().collect();
        for (log, failures) in [("error", error), ("access", self.access.load().reopen())] {
            if failures.is_empty() {
                self.error.write_unlimited(LogLevel::Info, format_args!("reopened the {log} log"));
            }
            for cause in failures {
                let message = format_args!("cannot reopen the {log} log, its old file is kept: {cause}");
                self.error.write_unlimited(LogLevel::Error, message);
            }
        }
    }

    /// Opens the logs of a new configuration; those that it keeps stay open.
    ///
    /// *Errors*: a file cannot be opened.
    pub(super) fn prepare(&self, old: &Settings, new: &Settings) -> Result<PreparedLogs, StartError> {
        let access = open_access_logs(new, Some(&self.access.load()), &self.dropped_lines)?;
        let error = match old.log == new.log {
            true => None,
            false => Some((open_sink(&new.log.error, &self.dropped_lines)?, new.log.level)),
        };
        Ok(PreparedLogs { access, error })
    }

    /// Adds the new access logs to those in use, for requests that are routed by either configuration.
    ///
    /// Returns the previous ones.
    pub(super) fn add_access_logs(&self, new: &PreparedLogs) -> Arc<AccessLogTable> {
        let previous = self.access.load_full();
        self.access.store(new.access.with_replaced(previous.clone()).into());
        previous
    }

    /// Replaces all logs. Requests under way keep the old access logs.
    pub(super) fn replace(&self, new: PreparedLogs) {
        self.access.store(new.access.into());
        if let Some((writer, level)) = new.error {
            self.error.replace_output(writer, level);
        }
    }

    /// Returns the access logs of a route whose own are `specs`; `None` if they are off. `loaded` are those in use before
    /// the request was routed.
    pub(super) fn find_access_logs(
        &self,
        loaded: &AccessLogTable,
        specs: Option<&Arc<[AccessLogSpec]>>,
    ) -> Option<Arc<AccessLogSet>> {
        // A reload may have replaced both between that and the routing. If it has replaced the logs alone since, the
        // present ones may lack those of the old route.
        loaded.find(specs).cloned().or_else(|| self.access.load().find(specs).cloned()).flatten()
    }

    /// Returns the number of lines that were dropped since the start, of all logs together.
    pub(super) fn dropped_lines(&self) -> u64 {
        let recorded = self.recorder.as_ref().map_or(0, |recorder| recorder.dropped_lines());
        self.dropped_lines.count() + recorded
    }
}

/// Opens the access logs of all routes. Those that are open in `previous` stay open.
fn open_access_logs(
    settings: &Settings,
    previous: Option<&AccessLogTable>,
    dropped_lines: &DroppedLines,
) -> Result<AccessLogTable, StartError> {
    let default = AccessLogSpec { sink: settings.log.access.clone(), format: settings.log.format.clone() };
    let scoped = settings.routes.routes().iter().filter_map(|route| route.scope.access_logs.as_ref());
    AccessLogTable::open(&default, scoped, previous, |sink| open_sink(sink, dropped_lines))
}

fn open_sink(sink: &LogSink, dropped_lines: &DroppedLines) -> Result<Option<LogWriter>, StartError> {
    Ok(match sink {
        LogSink::Off => None,
        LogSink::Stdout => Some(LogWriter::stdout(dropped_lines)),
        LogSink::Stderr => Some(LogWriter::stderr(dropped_lines)),
        LogSink::File(path) => {
            let failed = |error| StartError::Log(path.display().to_string(), error);
            Some(LogWriter::open_file(path, dropped_lines).map_err(failed)?)
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
