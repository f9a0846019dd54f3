//! The signals of a running router: SIGHUP reloads, SIGUSR1 opens the logs anew; SIGTERM and SIGQUIT
//! let streams finish, SIGINT and a second signal do not.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::server::Server;

/// How often a draining router is asked whether it is empty.
const DRAIN_POLL_INTERVAL: Duration = Duration::from_millis(50);

/// The signals that concern a router. Made before it announces itself, so that none ends the process the system's way.
pub(super) struct Signals {
    hangup: Signal,
    reopen: Signal,
    interrupt: Signal,
    quit: Signal,
    terminate: Signal,
}

impl Signals {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            reopen: signal(SignalKind::user_defined1())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Waits for a signal to end, and does what other signals ask for before; true if what runs may finish.
    async fn wait_for_stop(&mut self, server: &Server) -> bool {
        loop {
            tokio::select! {
                _ = self.interrupt.recv() => return false,
                _ = self.quit.recv() => return true,
                _ = self.terminate.recv() => return true,
                _ = self.reopen.recv() => server.reopen_logs(),
                // What came of it is in the log.
                _ = self.hangup.recv() => drop(server.reload().await),
            }
        }
    }
}

/// Waits for the end of the process on the current runtime, and brings it about.
pub(super) async fn run_until_stopped(mut server: Server, mut signals: Signals, drain: Duration) -> io::Result<()> {
    if signals.wait_for_stop(&server).await {
        server.drain();
        tokio::select! {
            () = wait_until_drained(&server) => {}
            () = tokio::time::sleep(drain) => {}
            _ = signals.wait_for_stop(&server) => {}
        }
    }
    server.stop();
    Ok(())
}

async fn wait_until_drained(server: &Server) {
    while !server.is_drained() {
        tokio::time::sleep(DRAIN_POLL_INTERVAL).await;
    }
}

/// Runs `work` on this thread.
pub(super) fn block_on<T>(work: impl Future<Output = io::Result<T>>) -> Result<T, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.and_then(|runtime| runtime.block_on(work)).map_err(|error| error.to_string())
}
