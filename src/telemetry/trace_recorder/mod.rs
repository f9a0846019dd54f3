//! Records traffic, without its text, as a trace for `tokenweir replay`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;

use super::metrics::Metrics;
use crate::fleet::{LeaseObserver, LeaseReport, Outcome, Phase};
use crate::prompt::PromptFingerprint;
use crate::units::{Moment, Tokens};

/// Capacity of the queue. A line that does not fit is dropped and counted, so that no request waits for the file.
const MAX_QUEUED_LINES: usize = 1_024;
/// Tokens of a block of the trace: the estimate for the 256 bytes that a fingerprint hashes.
const BLOCK_TOKENS: u64 = 64;
/// Block ids kept in each of the two generations.
const MAX_KNOWN_BLOCKS: usize = 1 << 17;

/// The file of a traffic record and its rotation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceFile {
    /// The file. Rotated files are next to it, with the suffixes `.1`, `.2` and so on.
    pub path: PathBuf,
    /// Size at which the file is rotated.
    pub max_bytes: u64,
    /// Number of rotated files that are kept.
    pub max_files: usize,
}

/// An answered request.
struct TraceLine {
    timestamp: Moment,
    input: Tokens,
    output: Tokens,
    prefix: Option<Arc<PromptFingerprint>>,
}

/// Records answered requests on a thread of its own and forwards every report to the metrics. On drop it writes the
/// queued lines.
pub struct TrafficRecorder {
    metrics: Arc<Metrics>,
    line_sender: Option<SyncSender<TraceLine>>,
    dropped_lines: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl TrafficRecorder {
    /// Starts a new file; an existing one is rotated.
    ///
    /// *Errors*: the file cannot be created, or the thread cannot be started.
    pub fn start(file: TraceFile, metrics: Arc<Metrics>) -> io::Result<Self> {
        if fs::metadata(&file.path).is_ok_and(|metadata| metadata.len() > 0) {
            file.rotate();
        }
        let output =
            RotatingFile { written_bytes: 0, writer: BufWriter::new(File::create(&file.path)?), trace_file: file };
        let (line_sender, receiver) = sync_channel(MAX_QUEUED_LINES);
        let dropped_lines = Arc::new(AtomicU64::new(0));
        let thread_dropped = dropped_lines.clone();
        let thread = std::thread::Builder::new()
            .name("record".to_owned())
            .spawn(move || write_until_closed(&receiver, output, &thread_dropped))?;
        Ok(Self { metrics, line_sender: Some(line_sender), dropped_lines, thread: Some(thread) })
    }

    /// Returns the number of requests dropped so far because the record could not be written, or not fast enough.
    pub fn dropped_lines(&self) -> u64 {
        self.dropped_lines.load(Ordering::Relaxed)
    }
}

impl LeaseObserver for TrafficRecorder {
    fn on_settled(&self, report: &LeaseReport<'_>) {
        self.metrics.on_settled(report);
        // A failure before the stream may be retried, which gives another report.
        let answered = match report.outcome {
            Outcome::Completed | Outcome::Failed { phase: Phase::Stream } => true,
            Outcome::ClientGone => report.timeline.first_token.is_some(),
            _ => false,
        };
        let usage = report.usage.filter(|usage| usage.prompt.0 > 0).unwrap_or(report.estimated_usage);
        if !answered || usage.prompt.0 == 0 {
            return;
        }
        let (input, output) = (usage.prompt, usage.completion.max(Tokens(1)));
        let line = TraceLine { timestamp: report.timeline.chosen_at, input, output, prefix: report.prefix.cloned() };
        if self.line_sender.as_ref().is_none_or(|sender| sender.try_send(line).is_err()) {
            self.dropped_lines.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for TrafficRecorder {
    fn drop(&mut self) {
        self.line_sender = None;
        if let Some(thread) = self.thread.take() {
            // The thread only writes. If it panicked, nothing can be saved.
            drop(thread.join());
        }
    }
}

impl TraceFile {
    /// Returns the path of the rotated file `number`, from 1.
    fn rotated_path(&self, number: usize) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{number}"));
        name.into()
    }

    /// Renames the files so that a new one can be created. A file that cannot be renamed is overwritten.
    fn rotate(&self) {
        for number in (1..self.max_files).rev() {
            drop(fs::rename(self.rotated_path(number), self.rotated_path(number + 1)));
        }
        if self.max_files > 0 {
            drop(fs::rename(&self.path, self.rotated_path(1)));
        }
    }
}

/// The open file.
struct RotatingFile {
    trace_file: TraceFile,
    writer: BufWriter<File>,
    written_bytes: u64,
}

impl RotatingFile {
    fn write_line(&mut self, line: &str) -> io::Result<()> {
        if self.written_bytes > 0 && self.written_bytes + line.len() as u64 > self.trace_file.max_bytes {
            self.writer.flush()?;
            self.trace_file.rotate();
            self.writer = BufWriter::new(File::create(&self.trace_file.path)?);
            self.written_bytes = 0;
        }
        self.written_bytes += line.len() as u64;
        self.writer.write_all(line.as_bytes())
    }
}

/// Writes lines until the sender is dropped. A full disk must not end the router: a line that cannot be written is
/// counted.
fn write_until_closed(receiver: &Receiver<TraceLine>, mut output: RotatingFile, dropped_lines: &AtomicU64) {
    let mut block_ids = BlockIds::default();
    let mut text = String::new();
    loop {
        let line = match receiver.try_recv() {
            Ok(line) => line,
            Err(TryRecvError::Disconnected) => break,
            Err(TryRecvError::Empty) => {
                if output.writer.flush().is_err() {
                    dropped_lines.fetch_add(1, Ordering::Relaxed);
                }
                match receiver.recv() {
                    Ok(line) => line,
                    Err(_) => break,
                }
            }
        };
        text.clear();
        line.write(&mut block_ids, &mut text);
        if output.write_line(&text).is_err() {
            dropped_lines.fetch_add(1, Ordering::Relaxed);
        }
    }
    if output.writer.flush().is_err() {
        dropped_lines.fetch_add(1, Ordering::Relaxed);
    }
}

impl TraceLine {
    fn write(&self, block_ids: &mut BlockIds, text: &mut String) {
        let micros = self.timestamp.since(Moment::ZERO).as_micros();
        let (input, output) = (self.input.0, self.output.0);
        // Writing to a string cannot fail.
        let _ = write!(text, "{{\"timestamp_ms\":{}.{:03}", micros / 1_000, micros % 1_000);
        let _ = write!(text, ",\"input_tokens\":{input},\"output_tokens\":{output},\"block_tokens\":{BLOCK_TOKENS}");
        text.push_str(",\"block_runs\":[");
        // A prompt with more bytes per token than usual has fewer blocks than its fingerprint.
        let runs =
            self.prefix.as_ref().map(|prefix| block_ids.assign_runs(prefix, input / BLOCK_TOKENS)).unwrap_or_default();
        for (index, (first, count)) in runs.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            let _ = write!(text, "{comma}{first},{count}");
        }
        text.push_str("]}\n");
    }
}

/// Ids for the blocks of prompts; blocks that first appear in sequence get sequential ids.
///
/// *Shape*: two generations of [`MAX_KNOWN_BLOCKS`] each. A block that was not seen for that long gets a new id.
#[derive(Default)]
struct BlockIds {
    next_id: u64,
    /// First id by hash.
    young: BTreeMap<u64, u64>,
    old: BTreeMap<u64, u64>,
}

impl BlockIds {
    /// Returns the ids of the prompt's first `max_blocks` blocks as `(first, count)`.
    fn assign_runs(&mut self, prefix: &PromptFingerprint, max_blocks: u64) -> Vec<(u64, u64)> {
        let mut runs: Vec<(u64, u64)> = Vec::new();
        let mut remaining = max_blocks;
        for (hash, units) in prefix.hashes_with_units() {
            let first = self.assign_ids(hash, units);
            let count = units.min(remaining);
            remaining -= count;
            match runs.last_mut() {
                _ if count == 0 => {}
                Some((start, length)) if *start + *length == first => *length += count,
                _ => runs.push((first, count)),
            }
        }
        runs
    }

    /// Returns the first of the `units` ids of a hash.
    fn assign_ids(&mut self, hash: u64, units: u64) -> u64 {
        if let Some(first) = self.young.get(&hash) {
            return *first;
        }
        let first = self.old.get(&hash).copied().unwrap_or_else(|| {
            let first = self.next_id;
            self.next_id += units;
            first
        });
        if self.young.len() >= MAX_KNOWN_BLOCKS {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(hash, first);
        first
    }
}

#[cfg(test)]
mod tests;
