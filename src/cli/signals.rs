//! The signals of a running router: SIGHUP reloads, SIGUSR1 reopens the logs, SIGTERM and SIGQUIT stop it after its
//! streams have ended, SIGINT and a second signal at once.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::server::Server;

/// The interval of checks whether a draining router has no request left.
const DRAIN_POLL_INTERVAL: Duration = Duration::from_millis(50);

/// The signals of a router. They are registered before the router announces itself, so that none kills the process.
pub(super) struct Signals {
    hangup: Signal,
    reopen: Signal,
    interrupt: Signal,
    quit: Signal,
    terminate: Signal,
}

/// The way a signal stops the router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StopMode {
    /// After the requests in flight.
    Graceful,
    Immediate,
}

impl Signals {
    /// Registers the signals with the current runtime.
    ///
    /// *Errors*: the system refuses one.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            reopen: signal(SignalKind::user_defined1())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Waits for a signal that stops the router, and handles the others.
    async fn wait_for_stop(&mut self, server: &Server) -> StopMode {
        loop {
            tokio::select! {
                _ = self.interrupt.recv() => return StopMode::Immediate,
                _ = self.quit.recv() => return StopMode::Graceful,
                _ = self.terminate.recv() => return StopMode::Graceful,
                _ = self.reopen.recv() => server.reopen_logs(),
                // The result is in the error log.
                _ = self.hangup.recv() => drop(server.reload().await),
            }
        }
    }
}

/// Waits for a signal and stops the server, at once or after at most `drain`.
///
/// *Errors*: a thread of the server failed.
pub(super) async fn run_until_stopped(mut server: Server, mut signals: Signals, drain: Duration) -> io::Result<()> {
    if signals.wait_for_stop(&server).await == StopMode::Graceful {
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
///
/// *Errors*: those of `work`, or the runtime cannot start.
pub(super) fn block_on<T, E: ToString>(work: impl Future<Output = Result<T, E>>) -> Result<T, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| error.to_string())?.block_on(work).map_err(|error| error.to_string())
}
