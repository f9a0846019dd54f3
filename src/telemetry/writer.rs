//! A bounded way from many threads to one file: lines are handed over under a short lock and written by one thread.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

/// The most bytes that wait to be written; a line that finds no room is counted as lost instead of holding up a request.
const MAX_QUEUED_BYTES: usize = 1 << 20;

#[derive(Default)]
struct WriteQueue {
    lines: Vec<u8>,
    /// Another file, for what was handed over behind this many bytes.
    next_file: Option<(usize, File)>,
    closed: bool,
}

#[derive(Default)]
struct WriterShared {
    /// Guards the lines that are not written yet.
    queue: Mutex<WriteQueue>,
    filled: Condvar,
    dropped_lines: AtomicU64,
}

/// Writes lines to a file or a standard stream on a thread of its own. Dropping it writes what is left.
pub struct LogWriter {
    shared: Arc<WriterShared>,
    path: Option<PathBuf>,
    thread: Option<JoinHandle<()>>,
}

impl LogWriter {
    /// Writes to standard output.
    pub fn stdout() -> Self {
        Self::spawn(io::stdout(), None)
    }

    /// Writes to standard error.
    pub fn stderr() -> Self {
        Self::spawn(io::stderr(), None)
    }

    /// Appends to the file at `path`.
    ///
    /// *Errors*: it cannot be opened.
    pub fn open_file(path: &Path) -> io::Result<Self> {
        Ok(Self::spawn(open_append(path)?, Some(path.to_owned())))
    }

    /// Opens the file anew; what was handed over before still goes to the old one. Standard streams stay as they are.
    ///
    /// *Errors*: it cannot be opened, and the old file goes on.
    pub fn reopen(&self) -> io::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let file = open_append(path).map_err(|error| io::Error::other(format!("{}: {error}", path.display())))?;
        let mut waiting = self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.next_file = Some((waiting.lines.len(), file));
        drop(waiting);
        self.shared.filled.notify_one();
        Ok(())
    }

    fn spawn(out: impl Write + Send + 'static, path: Option<PathBuf>) -> Self {
        let shared = Arc::new(WriterShared::default());
        let theirs = shared.clone();
        let thread = std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || write_until_closed(&theirs, Box::new(out)))
            .ok();
        Self { shared, path, thread }
    }

    /// Hands a line over, its newline included. Never blocks on the file.
    pub fn write(&self, line: &[u8]) {
        let mut waiting = self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if self.thread.is_none() || waiting.lines.len() + line.len() > MAX_QUEUED_BYTES {
            self.shared.dropped_lines.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let was_empty = waiting.lines.is_empty();
        waiting.lines.extend_from_slice(line);
        drop(waiting);
        if was_empty {
            self.shared.filled.notify_one();
        }
    }

    /// Lines dropped so far because the file was too slow.
    pub fn dropped_lines(&self) -> u64 {
        self.shared.dropped_lines.load(Ordering::Relaxed)
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.shared.filled.notify_one();
        if let Some(thread) = self.thread.take() {
            // The thread only writes; if it panicked there is nothing left to save.
            drop(thread.join());
        }
    }
}

fn open_append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

fn write_until_closed(shared: &WriterShared, mut out: Box<dyn Write>) {
    let mut batch = Vec::new();
    loop {
        let mut waiting = shared.queue.lock().unwrap_or_else(PoisonError::into_inner);
        while waiting.lines.is_empty() && waiting.next_file.is_none() && !waiting.closed {
            waiting = shared.filled.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        let instead = waiting.next_file.take();
        if waiting.lines.is_empty() && instead.is_none() {
            return;
        }
        std::mem::swap(&mut batch, &mut waiting.lines);
        drop(waiting);
        let (before, after) = batch.split_at(instead.as_ref().map_or(batch.len(), |(at, _)| *at));
        write_lines(shared, &mut *out, before);
        if let Some((_, file)) = instead {
            out = Box::new(file);
            write_lines(shared, &mut *out, after);
        }
        batch.clear();
    }
}

/// A full disk or a closed pipe must not end the router; what cannot be written is lost and counted.
fn write_lines(shared: &WriterShared, out: &mut dyn Write, lines: &[u8]) {
    if !lines.is_empty() && out.write_all(lines).and_then(|()| out.flush()).is_err() {
        shared.dropped_lines.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_every_thread_is_written_whole() {
        let path = std::env::temp_dir().join(format!("tokenweir-writer-{}", std::process::id()));
        let writer = LogWriter::open_file(&path).unwrap();
        std::thread::scope(|scope| {
            for name in ["a", "b", "c"] {
                let writer = &writer;
                scope.spawn(move || (0..1_000).for_each(|_| writer.write(format!("{name}\n").as_bytes())));
            }
        });
        assert_eq!(writer.dropped_lines(), 0);
        drop(writer);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(text.lines().filter(|l| ["a", "b", "c"].contains(l)).count(), 3_000);
    }
}
