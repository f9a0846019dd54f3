//! An emulated replica, in the process or as a command.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::response_body::EmulatorCounters;
use super::server;
use super::settings::EmulatorSettings;
use super::state::ReplicaState;
use crate::clock::Clock;
use crate::engine::SchedulerStats;

/// An emulated replica on a thread of its own. Stops on drop.
#[derive(Debug)]
pub struct EmulatedReplica {
    addr: SocketAddr,
    state: Arc<ReplicaState>,
    stop_sender: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl EmulatedReplica {
    /// Serves `listener` until stopped.
    ///
    /// *Errors*: the thread, its runtime or the socket cannot be set up.
    pub fn start(listener: TcpListener, settings: EmulatorSettings, clock: Clock) -> io::Result<Self> {
        let addr = listener.local_addr()?;
        listener.set_nonblocking(true)?;
        let state = Arc::new(ReplicaState::new(settings, clock));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = {
            let _guard = runtime.enter();
            tokio::net::TcpListener::from_std(listener)?
        };
        let (stop_sender, stopped) = oneshot::channel::<()>();
        let thread_state = state.clone();
        let serve = move || {
            runtime.block_on(async move {
                tokio::select! {
                    never = server::serve(listener, thread_state) => match never {},
                    _ = stopped => {}
                }
            });
        };
        let thread = thread::Builder::new().name(format!("replica-{}", addr.port())).spawn(serve)?;
        Ok(Self { addr, state, stop_sender: Some(stop_sender), thread: Some(thread) })
    }

    /// Returns the address on which it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Returns its base URL, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Returns its counters of connections and requests.
    pub fn counters(&self) -> &EmulatorCounters {
        &self.state.counters
    }

    /// Returns the statistics of its engine.
    pub fn stats(&self) -> SchedulerStats {
        self.state.runner.stats()
    }

    /// Sets the speed of its engine, as [`EngineModel::speed`](crate::engine::EngineModel::speed).
    pub fn set_speed(&self, speed: f64) {
        self.state.runner.set_speed(speed);
    }

    /// Stops as if killed: closes the listener and all connections at once, which cuts open responses.
    pub fn stop(&mut self) {
        if let Some(stop_sender) = self.stop_sender.take() {
            // Fails only if the thread has ended.
            let _ = stop_sender.send(());
        }
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been reported by its test.
            let _ = thread.join();
        }
    }
}

impl Drop for EmulatedReplica {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Serves `count` replicas on the ports from `port` upwards, on the caller's runtime, until SIGINT or SIGTERM.
///
/// *Errors*: a port cannot be bound, or is above 65535.
pub async fn serve_replicas(
    host: IpAddr,
    port: u16,
    count: u16,
    settings: &EmulatorSettings,
    clock: Clock,
) -> io::Result<()> {
    let mut replicas = JoinSet::new();
    for index in 0..count {
        let port = port.checked_add(index).ok_or_else(|| io::Error::other("there is no port above 65535"))?;
        let listener = tokio::net::TcpListener::bind((host, port)).await?;
        let state = Arc::new(ReplicaState::new(settings.clone(), clock));
        replicas.spawn(server::serve(listener, state));
    }
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}
