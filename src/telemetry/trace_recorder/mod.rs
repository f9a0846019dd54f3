//! Traffic written down as a trace, without its text: what `tokenweir replay` reads.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;

use super::Metrics;
use crate::fleet::{LeaseObserver, LeaseReport, Outcome, Phase};
use crate::prompt::PromptFingerprint;
use crate::units::{Moment, Tokens};

/// Requests that wait to be written. One that finds no room is counted as lost instead of holding anything up.
const MAX_QUEUED_LINES: usize = 1_024;
/// Tokens that a block of the trace stands for: what 256 bytes of a prompt are taken for.
const BLOCK_TOKENS: u64 = 64;
/// Blocks that are known by their numbers; as many more are about to be forgotten.
const MAX_KNOWN_BLOCKS: usize = 1 << 17;

/// Where traffic is written to, and how much of it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceFile {
    /// The file; older ones are beside it, with `.1`, `.2` and so on behind the name.
    pub path: PathBuf,
    /// The size from which a new one is begun.
    pub max_bytes: u64,
    /// How many older ones are kept.
    pub max_files: usize,
}

/// A request that was answered.
struct TraceLine {
    timestamp: Moment,
    input: Tokens,
    output: Tokens,
    prefix: Option<Arc<PromptFingerprint>>,
}

/// Writes what was asked and answered on a thread of its own, and hands all on to the metrics. Dropping it writes what is
/// left.
pub struct TrafficRecorder {
    metrics: Arc<Metrics>,
    line_sender: Option<SyncSender<TraceLine>>,
    dropped_lines: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl TrafficRecorder {
    /// Begins a new file; one that is there already becomes the first of the older ones.
    ///
    /// *Errors*: it cannot be opened.
    pub fn start(file: TraceFile, metrics: Arc<Metrics>) -> io::Result<Self> {
        if fs::metadata(&file.path).is_ok_and(|known| known.len() > 0) {
            file.rotate();
        }
        let out =
            RotatingFile { written_bytes: 0, writer: BufWriter::new(File::create(&file.path)?), trace_file: file };
        let (lines, waiting) = sync_channel(MAX_QUEUED_LINES);
        let lost = Arc::new(AtomicU64::new(0));
        let theirs = lost.clone();
        let thread = std::thread::Builder::new()
            .name("record".to_owned())
            .spawn(move || write_until_closed(&waiting, out, &theirs))?;
        Ok(Self { metrics, line_sender: Some(lines), dropped_lines: lost, thread: Some(thread) })
    }

    /// Requests that are not in the record because it could not be written, or not fast enough.
    pub fn dropped_lines(&self) -> u64 {
        self.dropped_lines.load(Ordering::Relaxed)
    }
}

impl LeaseObserver for TrafficRecorder {
    fn on_settled(&self, report: &LeaseReport<'_>) {
        self.metrics.on_settled(report);
        // A request that is tried again is told once more.
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
        if self.line_sender.as_ref().is_none_or(|lines| lines.try_send(line).is_err()) {
            self.dropped_lines.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for TrafficRecorder {
    fn drop(&mut self) {
        self.line_sender = None;
        if let Some(thread) = self.thread.take() {
            // The thread only writes; if it panicked there is nothing left to save.
            drop(thread.join());
        }
    }
}

impl TraceFile {
    /// The `at`th older file.
    fn rotated_path(&self, at: usize) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{at}"));
        name.into()
    }

    /// Makes room for a new file. What cannot be renamed is written over.
    fn rotate(&self) {
        for at in (1..self.max_files).rev() {
            drop(fs::rename(self.rotated_path(at), self.rotated_path(at + 1)));
        }
        if self.max_files > 0 {
            drop(fs::rename(&self.path, self.rotated_path(1)));
        }
    }
}

/// The file that is written.
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

/// A full disk must not end the router; what cannot be written is lost and counted.
fn write_until_closed(waiting: &Receiver<TraceLine>, mut out: RotatingFile, lost: &AtomicU64) {
    let mut names = BlockIds::default();
    let mut text = String::new();
    loop {
        let line = match waiting.try_recv() {
            Ok(line) => line,
            Err(TryRecvError::Disconnected) => break,
            Err(TryRecvError::Empty) => {
                if out.writer.flush().is_err() {
                    lost.fetch_add(1, Ordering::Relaxed);
                }
                match waiting.recv() {
                    Ok(line) => line,
                    Err(_) => break,
                }
            }
        };
        text.clear();
        line.write(&mut names, &mut text);
        if out.write_line(&text).is_err() {
            lost.fetch_add(1, Ordering::Relaxed);
        }
    }
    if out.writer.flush().is_err() {
        lost.fetch_add(1, Ordering::Relaxed);
    }
}

impl TraceLine {
    fn write(&self, names: &mut BlockIds, text: &mut String) {
        let micros = self.timestamp.since(Moment::ZERO).as_micros();
        let (input, output) = (self.input.0, self.output.0);
        // Writing to a string cannot fail.
        let _ = write!(text, "{{\"timestamp_ms\":{}.{:03}", micros / 1_000, micros % 1_000);
        let _ = write!(text, ",\"input_tokens\":{input},\"output_tokens\":{output},\"block_tokens\":{BLOCK_TOKENS}");
        text.push_str(",\"block_runs\":[");
        // No more than the prompt has, where its bytes are more tokens than usual.
        let runs =
            self.prefix.as_ref().map(|prefix| names.assign_runs(prefix, input / BLOCK_TOKENS)).unwrap_or_default();
        for (at, (first, count)) in runs.iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            let _ = write!(text, "{comma}{first},{count}");
        }
        text.push_str("]}\n");
    }
}

/// Small numbers for beginnings of prompts, in a row where they were first seen in a row.
///
/// *Shape*: forgets what was not seen for [`MAX_KNOWN_BLOCKS`] others; what comes back then has another number.
#[derive(Default)]
struct BlockIds {
    next_id: u64,
    /// By hash: the number of its first block.
    young: BTreeMap<u64, u64>,
    old: BTreeMap<u64, u64>,
}

impl BlockIds {
    /// The prompt's blocks, as `(first, count)`.
    fn assign_runs(&mut self, prefix: &PromptFingerprint, most: u64) -> Vec<(u64, u64)> {
        let mut runs: Vec<(u64, u64)> = Vec::new();
        let mut left = most;
        for (hash, units) in prefix.hashes_with_units() {
            let first = self.assign_ids(hash, units);
            let count = units.min(left);
            left -= count;
            match runs.last_mut() {
                _ if count == 0 => {}
                Some((begun, so_far)) if *begun + *so_far == first => *so_far += count,
                _ => runs.push((first, count)),
            }
        }
        runs
    }

    /// The first of the numbers of a block that is so many units long.
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
