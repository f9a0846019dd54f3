//! The state that all threads of the router share.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Notify, Semaphore};

use super::StartError;
use super::admin_sessions::AdminSessions;
use super::listener::handle::ListenerHandle;
use super::live::feed::LiveFeed;
use super::logs::Logs;
use super::proxy::response_table::ResponseTable;
use super::proxy::session_table::SessionTable;
use super::request::body::BodyMemoryBudget;
use super::request::concurrency::ConcurrencyLimits;
use crate::clock::{self, Clock};
use crate::config::{LoadedConfig, Settings};
use crate::discover::ModelRefresh;
use crate::dns::DnsNames;
use crate::fleet::{Fleet, FleetSpec, LeaseObserver};
use crate::routes::ListenAddr;
use crate::telemetry::Metrics;
use crate::tls::TlsStore;
use crate::upstream::UpstreamClient;

/// Reads the configuration: its file and the environment.
pub type ConfigSource = Box<dyn Fn() -> Result<LoadedConfig, String> + Send + Sync>;

/// The phases of the process, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lifecycle {
    /// Connections and requests are accepted.
    Running,
    /// No connection is accepted; requests under way may finish.
    Draining,
    /// Requests under way are cut off.
    Ended,
}

/// The state that all threads share.
pub(super) struct AppState {
    pub(super) clock: Clock,
    /// The Unix time of the start.
    pub(super) start_time: Duration,
    pub(super) settings: ArcSwap<Settings>,
    pub(super) fleet: Arc<Fleet>,
    /// The addresses of the host names in the configuration.
    pub(super) dns_names: DnsNames,
    /// Certificates and keys for new connections, of clients and to replicas.
    pub(super) tls_store: Arc<ArcSwap<TlsStore>>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) logs: Logs,
    pub(super) limits: RequestLimits,
    pub(super) tables: AffinityTables,
    pub(super) control: ControlState,
    pub(super) live: LiveFeed,
    pub(super) admin_sessions: AdminSessions,
    /// Client connections since the start.
    pub(super) connections_accepted: AtomicU64,
}

/// The limits that all requests share.
pub(super) struct RequestLimits {
    pub(super) concurrency: ConcurrencyLimits,
    pub(super) body_budget: Arc<BodyMemoryBudget>,
    /// Permits to tokenize a prompt; one per core.
    pub(super) tokenizer_slots: Arc<Semaphore>,
    /// Permits to decode a large body; one per core.
    pub(super) decoder_slots: Semaphore,
}

/// The replicas that later requests must or should return to.
#[derive(Default)]
pub(super) struct AffinityTables {
    /// Stored responses and the replica that holds each.
    pub(super) responses: Arc<ResponseTable>,
    /// Sticky sessions and the replica of each.
    pub(super) sessions: SessionTable,
}

/// Drain, reload, and the signals that these send.
#[derive(Default)]
pub(super) struct ControlState {
    pub(super) draining: AtomicBool,
    /// Empty until the acceptor runs.
    pub(super) listeners: OnceLock<ListenerHandle>,
    /// The addresses of the listeners as they were bound at the start.
    pub(super) bound_addresses: OnceLock<Vec<ListenAddr>>,
    /// Empty if the replicas were given as arguments.
    pub(super) config_source: OnceLock<ConfigSource>,
    /// Notified when there may be replicas whose models are unknown.
    pub(super) replicas_changed: Notify,
    /// Has models read before their interval ends.
    pub(super) model_refresh: Arc<ModelRefresh>,
    /// Notified after a reload.
    pub(super) config_reloaded: Notify,
}

/// The state that the requests of one worker share.
pub(super) struct WorkerContext {
    pub(super) app: Arc<AppState>,
    pub(super) upstream: UpstreamClient,
}

impl AppState {
    /// Builds the state from the first configuration: opens the logs, reads the certificates, makes the pools.
    ///
    /// *Errors*: a log or a certificate cannot be opened, or a pool's policy cannot be made.
    pub(super) fn new(settings: Settings, clock: Clock, cores: usize) -> Result<Self, StartError> {
        let metrics = Arc::new(Metrics::new());
        let logs = Logs::open(&settings, &metrics, clock)?;
        let observer: Arc<dyn LeaseObserver> = match &logs.recorder {
            Some(recorder) => recorder.clone(),
            None => metrics.clone(),
        };
        let tls_store = TlsStore::read(&settings.tls, &settings.routes, &settings.pools)?;
        let dns_names = DnsNames::default();
        let pools = dns_names.expand_members(&settings.pools);
        let fleet = FleetSpec { pools, routes: settings.routes.clone() };
        Ok(Self {
            clock,
            start_time: clock.unix_time(),
            fleet: Arc::new(Fleet::new(fleet, &observer, clock::random_seed())?),
            dns_names,
            tls_store: Arc::new(ArcSwap::from_pointee(tls_store)),
            metrics,
            logs,
            limits: RequestLimits {
                concurrency: ConcurrencyLimits::default(),
                body_budget: BodyMemoryBudget::new(settings.limits.in_flight_bytes),
                tokenizer_slots: Arc::new(Semaphore::new(cores)),
                decoder_slots: Semaphore::new(cores),
            },
            tables: AffinityTables::default(),
            control: ControlState::default(),
            live: LiveFeed::default(),
            admin_sessions: AdminSessions::default(),
            connections_accepted: AtomicU64::new(0),
            settings: ArcSwap::from_pointee(settings),
        })
    }

    /// Returns the current configuration. A request keeps the one that it started with.
    pub(super) fn settings(&self) -> Arc<Settings> {
        self.settings.load_full()
    }

    pub(super) fn is_draining(&self) -> bool {
        self.control.draining.load(Ordering::Relaxed)
    }
}
