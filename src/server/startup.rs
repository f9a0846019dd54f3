//! Starting the threads, and stopping them.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{Builder, JoinHandle, available_parallelism};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::runtime::{self, LocalOptions};
use tokio::sync::{Notify, Semaphore, mpsc, oneshot, watch};

use super::api::admin_listener;
use super::connection::worker;
use super::connection::worker_load::WorkerLoad;
use super::listener::acceptor::{Acceptor, BoundListener, WorkerHandle};
use super::listener::bind::{bind_listener, bind_tcp};
use super::proxy::response_table::ResponseTable;
use super::proxy::session_table::SessionTable;
use super::reload::{ConfigSource, reload};
use super::request::body::BodyMemoryBudget;
use super::request::concurrency::ConcurrencyLimits;
use super::{AppState, Lifecycle, StartError, open_files};
use crate::clock::{self, Clock};
use crate::config::{ListenAddr, LogSink, Settings};
use crate::discover;
use crate::dns::{DnsContext, DnsNames};
use crate::fleet::{DecisionLog, Fleet, LeaseObserver};
use crate::telemetry::{AccessLog, ErrorLog, LogLevel, LogWriter, Metrics, TraceFile, TrafficRecorder};
use crate::tls::TlsStore;

/// Connections that wait for their worker.
const WORKER_QUEUE_LENGTH: usize = 1024;
/// How often metrics that nobody reads are looked through for replicas that have left.
const METRICS_SWEEP_INTERVAL: Duration = Duration::from_secs(60);
/// Threads of one worker that read large bodies.
const MAX_BLOCKING_THREADS: usize = 2;

/// The control thread and the way to end it.
struct ControlThread {
    thread: JoinHandle<()>,
    quit: oneshot::Sender<()>,
}

/// A running router.
pub struct Server {
    app: Arc<AppState>,
    lifecycle: watch::Sender<Lifecycle>,
    control_thread: Option<ControlThread>,
    acceptor_thread: Option<JoinHandle<()>>,
    worker_threads: Vec<JoinHandle<()>>,
    listen_addresses: Vec<ListenAddr>,
    admin_address: Option<SocketAddr>,
}

impl Server {
    /// Binds every address and starts every thread. Nothing runs if anything fails.
    ///
    /// *Errors*: an address is taken or may not be used, a log cannot be opened, a certificate cannot be used,
    /// a policy cannot be made.
    pub fn start(settings: Settings) -> Result<Self, StartError> {
        let clock = Clock::start();
        let mut listening = Vec::with_capacity(settings.listen.len());
        let open = |listen: &ListenAddr| {
            let (listener, bound) = bind_listener(listen)?;
            listening.push(bound);
            Ok(BoundListener { listen: listen.clone(), listener })
        };
        let doors = settings.listen.iter().map(open).collect::<Result<Vec<_>, StartError>>()?;
        let admin = settings.admin.map(|address| bind_tcp(address, "admin")).transpose()?;
        let app = Arc::new(build_state(settings, clock)?);
        open_files::warn_if_too_few(&app.settings().limits, &app.error_log);
        let (stage, watching) = watch::channel(Lifecycle::Running);
        let mut server = Self {
            listen_addresses: listening,
            acceptor_thread: None,
            admin_address: admin.as_ref().map(std::net::TcpListener::local_addr).transpose()?,
            control_thread: Some(spawn_control_thread(app.clone(), admin)?),
            worker_threads: Vec::new(),
            app,
            lifecycle: stage,
        };
        let cores = cores();
        let workers = server.app.settings().workers.map_or(cores, usize::from);
        let mut desks = Vec::with_capacity(workers);
        for _ in 0..workers {
            let (inbox, arriving) = mpsc::channel(WORKER_QUEUE_LENGTH);
            let tally = Arc::new(WorkerLoad::default());
            desks.push(WorkerHandle { load: tally.clone(), queue: inbox });
            let (app, stage) = (server.app.clone(), watching.clone());
            server
                .worker_threads
                .push(spawn_runtime_thread("worker", move || worker::run(app, tally, arriving, stage))?);
        }
        let (acceptor, doors) = Acceptor::new(server.app.clone(), doors, desks)?;
        // Set here and nowhere else.
        let _ = server.app.listeners.set(doors);
        server.acceptor_thread = Some(Builder::new().name("acceptor".to_owned()).spawn(move || acceptor.run())?);
        Ok(server)
    }

    /// Where clients were accepted from the start, ports that the system chose included.
    pub fn listen_addresses(&self) -> &[ListenAddr] {
        &self.listen_addresses
    }

    /// Where metrics and health are served.
    pub const fn admin_address(&self) -> Option<SocketAddr> {
        self.admin_address
    }

    /// The replicas and pools behind this router.
    pub fn fleet(&self) -> &Arc<Fleet> {
        &self.app.fleet
    }

    /// Opens the files of both logs anew, for whoever has moved them away. Where that fails the old file is kept, and
    /// the error log says so.
    pub fn reopen_logs(&self) {
        let errors = &self.app.error_log;
        let access = self.app.access_log.load().as_ref().map_or(Ok(()), |log| log.reopen());
        for (log, reopened) in [("error", errors.reopen()), ("access", access)] {
            match reopened {
                Ok(()) => errors.write_unlimited(LogLevel::Info, format_args!("reopened the {log} log")),
                Err(why) => {
                    let message = format_args!("cannot reopen the {log} log, its old file is kept: {why}");
                    errors.write_unlimited(LogLevel::Error, message);
                }
            }
        }
    }

    /// Sets where [`Server::reload`] reads the configuration from; only the first call counts.
    pub fn set_config_source(&self, source: ConfigSource) {
        let _ = self.app.config_source.set(source);
    }

    /// Reads the configuration again and puts it in the place of the present one, in one step. Says what has changed.
    ///
    /// *Errors*: the new one is bad; nothing has changed then.
    pub async fn reload(&self) -> Result<String, String> {
        reload(&self.app).await.map(|reloaded| reloaded.to_string())
    }

    /// Fails `/readyz` on the admin listener and stops accepting; what runs may finish.
    pub fn drain(&mut self) {
        self.app.draining.store(true, Ordering::Relaxed);
        if let Some((thread, doors)) = self.acceptor_thread.take().zip(self.app.listeners.get()) {
            doors.close();
            // A thread that panicked has told so on standard error.
            drop(thread.join());
        }
        self.lifecycle.send_if_modified(|stage| {
            let running = *stage == Lifecycle::Running;
            if running {
                *stage = Lifecycle::Draining;
            }
            running
        });
    }

    /// Tells whether all requests have finished after [`Server::drain`].
    pub fn is_drained(&self) -> bool {
        self.worker_threads.iter().all(JoinHandle::is_finished)
    }

    /// Ends what still runs and waits for the threads.
    pub fn stop(mut self) {
        self.shutdown();
    }

    fn shutdown(&mut self) {
        self.drain();
        self.lifecycle.send_replace(Lifecycle::Ended);
        let control = self.control_thread.take().map(|control| {
            // It may have ended by itself.
            let _ = control.quit.send(());
            control.thread
        });
        for thread in self.worker_threads.drain(..).chain(control) {
            // A thread that panicked has told so on standard error.
            drop(thread.join());
        }
        for listen in self.listen_addresses.iter().chain(&self.app.settings().listen) {
            if let ListenAddr::Unix(path) = listen {
                drop(std::fs::remove_file(path));
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shutdown();
    }
}

fn build_state(settings: Settings, clock: Clock) -> Result<AppState, StartError> {
    let errors = Arc::new(ErrorLog::new(open_sink(&settings.log.error)?, settings.log.level, clock));
    let access = open_sink(&settings.log.access)?.map(|writer| AccessLog::new(writer, settings.log.format.clone()));
    let metrics = Arc::new(Metrics::new());
    let record = |file: TraceFile| {
        let why = |name, error| StartError::Record(name, error);
        let name = file.path.display().to_string();
        TrafficRecorder::start(file, metrics.clone()).map(Arc::new).map_err(|error| why(name, error))
    };
    let recorder = settings.record.trace_file().map(record).transpose()?;
    let observer: Arc<dyn LeaseObserver> = match &recorder {
        Some(recorder) => recorder.clone(),
        None => metrics.clone(),
    };
    let keyring = TlsStore::read(&settings.tls, &settings.pools)?;
    let names = DnsNames::default();
    Ok(AppState {
        tls_store: Arc::new(ArcSwap::from_pointee(keyring)),
        fleet: Arc::new(Fleet::new(names.expand_members(&settings.pools), &observer, clock::random_seed())?),
        dns_names: names,
        config_reloaded: Notify::new(),
        concurrency_limits: ConcurrencyLimits::default(),
        body_budget: BodyMemoryBudget::new(settings.limits.in_flight_bytes),
        start_time: clock.unix_time(),
        response_table: ResponseTable::default(),
        tokenizer_slots: Arc::new(Semaphore::new(cores())),
        session_table: SessionTable::default(),
        draining: AtomicBool::new(false),
        connections_accepted: AtomicU64::new(0),
        replicas_changed: Notify::new(),
        config_source: OnceLock::new(),
        decision_log: Arc::new(DecisionLog::new(settings.explain)),
        settings: ArcSwap::from_pointee(settings),
        metrics,
        recorder,
        access_log: ArcSwapOption::from(access.map(Arc::new)),
        dropped_log_lines: AtomicU64::new(0),
        listeners: OnceLock::new(),
        error_log: errors,
        clock,
    })
}

fn cores() -> usize {
    available_parallelism().map_or(1, usize::from)
}

pub(super) fn open_sink(sink: &LogSink) -> Result<Option<LogWriter>, StartError> {
    Ok(match sink {
        LogSink::Off => None,
        LogSink::Stdout => Some(LogWriter::stdout()),
        LogSink::Stderr => Some(LogWriter::stderr()),
        LogSink::File(path) => {
            let why = |error| StartError::Log(path.display().to_string(), error);
            Some(LogWriter::open_file(path).map_err(why)?)
        }
    })
}

/// The thread that asks replicas for their models and DNS for their addresses, looks for replicas from which nothing
/// comes, and serves the admin listener, until the process ends.
fn spawn_control_thread(app: Arc<AppState>, admin: Option<std::net::TcpListener>) -> io::Result<ControlThread> {
    let (quit, quitting) = oneshot::channel();
    let work = move || async move {
        let discovery = async {
            loop {
                // It ends by itself only where there is nobody to ask.
                let asking = async {
                    let (fleet, log, keyring) = (app.fleet.clone(), app.error_log.clone(), app.tls_store.load_full());
                    discover::run_probes(fleet, log, keyring, app.clock, discover::PollIntervals::default()).await;
                    std::future::pending::<()>().await;
                };
                tokio::select! {
                    () = asking => {}
                    () = app.replicas_changed.notified() => {}
                }
            }
        };
        let resolving = async {
            loop {
                let settings = app.settings();
                let keyring = app.tls_store.load_full();
                let shelf = DnsContext {
                    fleet: &app.fleet,
                    log: &app.error_log,
                    replicas_changed: &app.replicas_changed,
                    tls_store: &keyring,
                };
                let asking = async {
                    app.dns_names.refresh_all(&settings.pools, &settings.dns, &shelf).await;
                    std::future::pending::<()>().await;
                };
                tokio::select! {
                    () = asking => {}
                    () = app.config_reloaded.notified() => {}
                }
            }
        };
        let watching = discover::watch_stalls(&app.fleet, &app.error_log, app.clock);
        let keeping = async {
            loop {
                tokio::time::sleep(METRICS_SWEEP_INTERVAL).await;
                app.metrics.sync_replicas(&app.fleet, app.clock.now());
            }
        };
        let serving = async {
            match admin.map(tokio::net::TcpListener::from_std) {
                Some(Ok(listener)) => admin_listener::run(app.clone(), listener).await,
                Some(Err(_)) | None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = async { tokio::join!(discovery, resolving, watching, keeping, serving).4 } => {}
            _ = quitting => {}
        }
    };
    Ok(ControlThread { thread: spawn_runtime_thread("control", work)?, quit })
}

/// Runs the work that `begin` makes on a thread with a runtime of its own.
fn spawn_runtime_thread<W: Future<Output = ()>>(
    name: &str,
    begin: impl FnOnce() -> W + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    let mut builder = runtime::Builder::new_current_thread();
    builder.enable_all().max_blocking_threads(MAX_BLOCKING_THREADS);
    let (started, starting) = std::sync::mpsc::sync_channel(1);
    let thread = Builder::new().name(name.to_owned()).spawn(move || {
        // A local runtime cannot move between threads, so it is made on its own.
        match builder.build_local(LocalOptions::default()) {
            Ok(runtime) => {
                drop(started.send(Ok(())));
                runtime.block_on(begin());
            }
            Err(error) => drop(started.send(Err(error))),
        }
    })?;
    starting.recv().unwrap_or_else(|_| Err(io::Error::other("it ended at once")))?;
    Ok(thread)
}
