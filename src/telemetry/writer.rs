//! A writer of lines from many threads to one file, with a bounded queue and a thread of its own.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

/// Capacity of the queue. A line that does not fit is dropped and counted, so that no request waits for the file.
const MAX_QUEUED_BYTES: usize = 1 << 20;

#[derive(Default)]
struct WriteQueue {
    lines: Vec<u8>,
    /// A reopened file, for the lines after this many bytes.
    next_file: Option<(usize, File)>,
    closed: bool,
}

struct WriterShared {
    /// Guards the lines that are not written yet.
    queue: Mutex<WriteQueue>,
    filled: Condvar,
    dropped_lines: DroppedLines,
}

/// The number of lines that the writers which share it have dropped.
#[derive(Clone, Debug, Default)]
pub struct DroppedLines(Arc<AtomicU64>);

/// Writes lines to a file or a standard stream on a thread of its own. On drop it writes the queued lines.
pub struct LogWriter {
    shared: Arc<WriterShared>,
    path: Option<PathBuf>,
    thread: Option<JoinHandle<()>>,
}

impl DroppedLines {
    /// Returns the number so far.
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn increment(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl LogWriter {
    /// Returns a writer to standard output, which counts in `dropped_lines`.
    pub fn stdout(dropped_lines: &DroppedLines) -> Self {
        Self::spawn(io::stdout(), None, dropped_lines)
    }

    /// Returns a writer to standard error, which counts in `dropped_lines`.
    pub fn stderr(dropped_lines: &DroppedLines) -> Self {
        Self::spawn(io::stderr(), None, dropped_lines)
    }

    /// Returns a writer that appends to the file at `path` and counts in `dropped_lines`.
    ///
    /// *Errors*: the file cannot be opened.
    pub fn open_file(path: &Path, dropped_lines: &DroppedLines) -> io::Result<Self> {
        Ok(Self::spawn(open_append(path)?, Some(path.to_owned()), dropped_lines))
    }

    /// Opens the file again. Queued lines still go to the old one. Standard streams are not changed.
    ///
    /// *Errors*: the file cannot be opened; lines still go to the old one.
    pub fn reopen(&self) -> io::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let file = open_append(path).map_err(|error| io::Error::other(format!("{}: {error}", path.display())))?;
        let mut queue = self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.next_file = Some((queue.lines.len(), file));
        drop(queue);
        self.shared.filled.notify_one();
        Ok(())
    }

    fn spawn(output: impl Write + Send + 'static, path: Option<PathBuf>, dropped_lines: &DroppedLines) -> Self {
        let (queue, filled) = (Mutex::default(), Condvar::new());
        let shared = Arc::new(WriterShared { queue, filled, dropped_lines: dropped_lines.clone() });
        let thread_shared = shared.clone();
        let thread = std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || write_until_closed(&thread_shared, Box::new(output)))
            .ok();
        Self { shared, path, thread }
    }

    /// Queues a line, its newline included. Never waits for the file.
    pub fn write(&self, line: &[u8]) {
        let mut queue = self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if self.thread.is_none() || queue.lines.len() + line.len() > MAX_QUEUED_BYTES {
            return self.shared.dropped_lines.increment();
        }
        let was_empty = queue.lines.is_empty();
        queue.lines.extend_from_slice(line);
        drop(queue);
        if was_empty {
            self.shared.filled.notify_one();
        }
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.shared.filled.notify_one();
        if let Some(thread) = self.thread.take() {
            // The thread only writes. If it panicked, nothing can be saved.
            drop(thread.join());
        }
    }
}

fn open_append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

fn write_until_closed(shared: &WriterShared, mut output: Box<dyn Write>) {
    let mut batch = Vec::new();
    loop {
        let mut queue = shared.queue.lock().unwrap_or_else(PoisonError::into_inner);
        while queue.lines.is_empty() && queue.next_file.is_none() && !queue.closed {
            queue = shared.filled.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        let next_file = queue.next_file.take();
        if queue.lines.is_empty() && next_file.is_none() {
            return;
        }
        std::mem::swap(&mut batch, &mut queue.lines);
        drop(queue);
        let (before, after) = batch.split_at(next_file.as_ref().map_or(batch.len(), |(bytes, _)| *bytes));
        write_lines(shared, &mut *output, before);
        if let Some((_, file)) = next_file {
            output = Box::new(file);
            write_lines(shared, &mut *output, after);
        }
        batch.clear();
    }
}

/// Writes lines. A full disk or a closed pipe must not end the router: a failure is counted.
fn write_lines(shared: &WriterShared, output: &mut dyn Write, lines: &[u8]) {
    if !lines.is_empty() && output.write_all(lines).and_then(|()| output.flush()).is_err() {
        shared.dropped_lines.increment();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_several_threads_are_written_whole() {
        let path = std::env::temp_dir().join(format!("tokenweir-writer-{}", std::process::id()));
        let dropped_lines = DroppedLines::default();
        let writer = LogWriter::open_file(&path, &dropped_lines).unwrap();
        std::thread::scope(|scope| {
            for name in ["a", "b", "c"] {
                let writer = &writer;
                scope.spawn(move || (0..1_000).for_each(|_| writer.write(format!("{name}\n").as_bytes())));
            }
        });
        drop(writer);
        assert_eq!(dropped_lines.count(), 0);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(text.lines().filter(|l| ["a", "b", "c"].contains(l)).count(), 3_000);
    }
}
