//! What signals do: SIGUSR1 opens the logs anew; SIGTERM and SIGQUIT let streams finish, SIGINT and a second one do not.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::serve::Server;

/// How often a draining router is asked whether it is empty.
const LOOK: Duration = Duration::from_millis(50);

struct Signals {
    reopen: Signal,
    interrupt: Signal,
    quit: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            reopen: signal(SignalKind::user_defined1())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Waits for a signal that ends the process; true if what runs may finish.
    async fn next(&mut self, server: &Server) -> bool {
        loop {
            tokio::select! {
                _ = self.reopen.recv() => server.reopen_logs(),
                _ = self.interrupt.recv() => return false,
                _ = self.quit.recv() => return true,
                _ = self.terminate.recv() => return true,
            }
        }
    }
}

/// Waits for the end of the process on the current runtime, and brings it about.
pub(super) async fn wait(mut server: Server, drain: Duration) -> io::Result<()> {
    let mut signals = Signals::new()?;
    if signals.next(&server).await {
        server.drain();
        tokio::select! {
            () = emptied(&server) => {}
            () = tokio::time::sleep(drain) => {}
            _ = signals.next(&server) => {}
        }
    }
    server.stop();
    Ok(())
}

async fn emptied(server: &Server) {
    while !server.is_drained() {
        tokio::time::sleep(LOOK).await;
    }
}

/// Runs `work` on this thread.
pub(super) fn block_on<T>(work: impl Future<Output = io::Result<T>>) -> Result<T, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.and_then(|runtime| runtime.block_on(work)).map_err(|error| error.to_string())
}
