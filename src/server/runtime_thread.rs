//! Threads with a Tokio runtime of their own.

use std::io;
use std::sync::mpsc;
use std::thread::{Builder, JoinHandle};

use tokio::runtime::{self, LocalOptions};

/// Blocking threads of one runtime, for large request bodies.
const MAX_BLOCKING_THREADS: usize = 2;

/// Starts a thread that runs the future of `make_future` on a runtime of its own. Returns once the runtime runs.
///
/// *Errors*: the system provides no thread or no event queue.
pub(super) fn spawn_runtime_thread<F: Future<Output = ()>>(
    name: &str,
    make_future: impl FnOnce() -> F + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    let mut builder = runtime::Builder::new_current_thread();
    builder.enable_all().max_blocking_threads(MAX_BLOCKING_THREADS);
    let (sender, started) = mpsc::sync_channel(1);
    let thread = Builder::new().name(name.to_owned()).spawn(move || {
        // A local runtime cannot move between threads, so its own thread builds it.
        match builder.build_local(LocalOptions::default()) {
            Ok(runtime) => {
                drop(sender.send(Ok(())));
                runtime.block_on(make_future());
            }
            Err(error) => drop(sender.send(Err(error))),
        }
    })?;
    started.recv().unwrap_or_else(|_| Err(io::Error::other("the thread ended at once")))?;
    Ok(thread)
}
