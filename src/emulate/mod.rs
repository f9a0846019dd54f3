//! Floor 3: emulated replicas and clients for the demo and the tests.
//!
//! A replica here is an HTTP face on [`crate::engine`] in real time that speaks as vLLM 0.32 does, byte for byte where
//! it matters (field order, event framing, errors). Text is filler: a word per token; a prompt has a token per four
//! bytes. Beyond vLLM's API it obeys, on any request:
//!
//! - `x-emulate-fault: NAME[=ARG]`: misbehave, see [`EmulatedFault`];
//! - `x-emulate-tokens: N`: output length where the body bounds none (default 64);
//! - `x-emulate-tokens-per-event: N`: put so many tokens into one event;
//! - `x-emulate-lockstep: 1`: send the first event, and each further one after a `POST /emulate/next/{x-request-id}`.
//!
//! `POST /emulate/faults` with `{"fault": NAME, "count": N, "path": PATH}` makes the next N requests (null: all) of the
//! path (absent: every POST) meet a fault; `DELETE /emulate/faults` ends it. `GET /metrics` tells
//! `emulated:resident_tokens` as well: prompt and generated tokens of all requests, which no engine tells exactly.

mod api_error;
mod compute_endpoints;
mod dialects;
mod endpoints;
mod faults;
mod faulty_socket;
mod generate;
mod info_endpoints;
pub mod load;
mod prompt;
mod request;
mod response_body;
mod runner;
mod server;

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

pub use faults::EmulatedFault;
pub use response_body::EmulatorCounters;

use crate::clock::Clock;
use crate::engine::{EngineModel, SchedulerStats};
use server::ReplicaState;

/// What an emulated replica is like.
#[derive(Clone, Debug, PartialEq)]
pub struct EmulatorSettings {
    /// Names it serves under; requests without one get the first.
    pub models: Vec<String>,
    /// What its engine can do.
    pub engine_model: EngineModel,
    /// Longest prompt and output together, in tokens.
    pub max_model_len: u64,
    /// Time after which an idle connection is closed.
    pub keepalive_timeout: Duration,
    /// Answer every request with a description of it, instead of emulating anything.
    pub echo: bool,
}

impl Default for EmulatorSettings {
    fn default() -> Self {
        Self {
            models: vec!["emulated-8b".to_owned()],
            engine_model: EngineModel::default(),
            max_model_len: 131_072,
            keepalive_timeout: Duration::from_secs(5),
            echo: false,
        }
    }
}

/// An emulated replica on a thread of its own. Dropped, it stops.
#[derive(Debug)]
pub struct EmulatedReplica {
    addr: SocketAddr,
    state: Arc<ReplicaState>,
    stop_sender: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl EmulatedReplica {
    /// Serves `listener` until stopped. *Errors*: the thread, its runtime or the socket cannot be set up.
    pub fn start(listener: TcpListener, settings: EmulatorSettings, clock: Clock) -> io::Result<Self> {
        let addr = listener.local_addr()?;
        listener.set_nonblocking(true)?;
        let shared = Arc::new(ReplicaState::new(settings, clock));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = {
            let _inside = runtime.enter();
            tokio::net::TcpListener::from_std(listener)?
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = shared.clone();
        let serve = move || {
            runtime.block_on(async move {
                tokio::select! {
                    never = server::serve(listener, serving) => match never {},
                    _ = stopped => {}
                }
            });
        };
        let thread = thread::Builder::new().name(format!("replica-{}", addr.port())).spawn(serve)?;
        Ok(Self { addr, state: shared, stop_sender: Some(stop), thread: Some(thread) })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Its base URL, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// What it has seen.
    pub fn counters(&self) -> &EmulatorCounters {
        &self.state.counters
    }

    /// What its engine does.
    pub fn stats(&self) -> SchedulerStats {
        self.state.runner.stats()
    }

    /// Stops as if killed: listener and connections are closed at once, answers under way are cut.
    pub fn stop(&mut self) {
        // Both are gone if it was stopped before.
        if let Some(stop) = self.stop_sender.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for EmulatedReplica {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Serves `count` replicas on the ports from `port` upwards, on the runtime it is called in, until SIGINT or SIGTERM.
///
/// *Errors*: a port cannot be listened on, or does not exist.
pub async fn serve_replicas(
    host: IpAddr,
    port: u16,
    count: u16,
    settings: &EmulatorSettings,
    clock: Clock,
) -> io::Result<()> {
    let mut replicas = JoinSet::new();
    for at in 0..count {
        let port = port.checked_add(at).ok_or_else(|| io::Error::other("there is no port above 65535"))?;
        let listener = tokio::net::TcpListener::bind((host, port)).await?;
        let shared = Arc::new(ReplicaState::new(settings.clone(), clock));
        replicas.spawn(server::serve(listener, shared));
    }
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}
