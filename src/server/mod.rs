//! Floor 4: the HTTP face: accept, the path of a request, what we answer ourselves, the admin listener.

mod api;
mod connection;
mod listener;
mod open_files;
mod proxy;
mod reload;
mod request;
mod response;
mod startup;

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use listener::handle::ListenerHandle;
use proxy::response_table::ResponseTable;
use proxy::session_table::SessionTable;
pub use reload::ConfigSource;
use request::body::BodyMemoryBudget;
use request::concurrency::ConcurrencyLimits;
use response::error::RequestError;
pub use startup::Server;
use thiserror::Error;
use tokio::sync::{Notify, Semaphore};

use crate::balance::PolicyError;
use crate::clock::Clock;
use crate::config::Settings;
use crate::dns::DnsNames;
use crate::fleet::{DecisionLog, Fleet};
use crate::telemetry::{AccessLog, ErrorLog, Metrics, TrafficRecorder};
use crate::tls::{TlsFileError, TlsStore};
use crate::upstream::UpstreamClient;

/// Why the router cannot start.
#[derive(Debug, Error)]
pub enum StartError {
    /// An address cannot be listened at.
    #[error("cannot listen at {address} ({key}): {error}{hint}")]
    Listen {
        /// The address.
        address: String,
        /// The configuration key it comes from.
        key: &'static str,
        /// What the system said.
        error: io::Error,
        /// What may help.
        hint: &'static str,
    },
    /// A log cannot be opened.
    #[error("cannot open the log {0}: {1}")]
    Log(String, io::Error),
    /// The file that traffic is written to cannot be opened.
    #[error("cannot record to {0}: {1}")]
    Record(String, io::Error),
    /// A file of certificates or keys cannot be used.
    #[error("{0}; {help}", help = .0.help)]
    Tls(#[from] TlsFileError),
    /// A pool's policy cannot be made.
    #[error("{0}")]
    Policy(#[from] PolicyError),
    /// The system gives no threads or no event queue.
    #[error("cannot start a thread: {0}")]
    Thread(#[from] io::Error),
}

/// How far the process is on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lifecycle {
    /// Serving.
    Running,
    /// Nothing new is accepted; what runs may finish.
    Draining,
    /// What still runs is cut.
    Ended,
}

/// What all workers share.
struct AppState {
    fleet: Arc<Fleet>,
    settings: ArcSwap<Settings>,
    /// What connections from now on are secured with.
    tls_store: Arc<ArcSwap<TlsStore>>,
    metrics: Arc<Metrics>,
    /// Writes traffic down.
    recorder: Option<Arc<TrafficRecorder>>,
    /// The last choices, to be explained.
    decision_log: Arc<DecisionLog>,
    /// A request goes on with the one it began with.
    access_log: ArcSwapOption<AccessLog>,
    /// Lines lost by logs that are no more.
    dropped_log_lines: AtomicU64,
    /// Where clients are accepted; set once the acceptor runs.
    listeners: OnceLock<ListenerHandle>,
    error_log: Arc<ErrorLog>,
    body_budget: Arc<BodyMemoryBudget>,
    concurrency_limits: ConcurrencyLimits,
    response_table: ResponseTable,
    /// Places for prompts that are given to a tokenizer.
    tokenizer_slots: Arc<Semaphore>,
    session_table: SessionTable,
    clock: Clock,
    /// The time of day at the start.
    start_time: Duration,
    draining: AtomicBool,
    /// Connections so far.
    connections_accepted: AtomicU64,
    /// Told when there may be replicas that have not been asked for their models.
    replicas_changed: Notify,
    /// What names in the configuration stand for.
    dns_names: DnsNames,
    /// Told when there is another configuration.
    config_reloaded: Notify,
    /// Where the configuration is read from again.
    config_source: OnceLock<ConfigSource>,
}

/// What the requests of one worker share.
struct WorkerContext {
    app: Arc<AppState>,
    upstream: UpstreamClient,
}

impl AppState {
    /// What is configured now. A request keeps what it began with.
    fn settings(&self) -> Arc<Settings> {
        self.settings.load_full()
    }

    fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }
}
