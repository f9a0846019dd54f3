//! Starting the threads, and stopping them.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{Builder, JoinHandle, available_parallelism};
use std::time::Duration;

use tokio::runtime::{self, LocalOptions};
use tokio::sync::{mpsc, oneshot, watch};

use super::api::admin_listener;
use super::connection::worker;
use super::connection::worker_load::WorkerLoad;
use super::listener::acceptor::{Acceptor, BoundListener, WorkerHandle};
use super::listener::bind::{bind_listener, bind_tcp};
use super::reload::reload;
use super::{AppState, ConfigSource, Lifecycle, StartError, open_files};
use crate::clock::Clock;
use crate::config::{ListenAddr, Settings};
use crate::discover;
use crate::dns::DnsContext;
use crate::fleet::Fleet;

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
        let cores = cores();
        let app = Arc::new(AppState::new(settings, clock, cores)?);
        open_files::warn_if_too_few(&app.settings().limits, &app.logs.error);
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
        let _ = server.app.control.listeners.set(doors);
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

    /// Opens the files of both logs again, after log rotation has moved them. A file that cannot be opened again stays
    /// in use, and the error log reports it.
    pub fn reopen_logs(&self) {
        self.app.logs.reopen();
    }

    /// Sets where [`Server::reload`] reads the configuration from; only the first call counts.
    pub fn set_config_source(&self, source: ConfigSource) {
        let _ = self.app.control.config_source.set(source);
    }

    /// Reads the configuration again and puts it in the place of the present one, in one step. Says what has changed.
    ///
    /// *Errors*: the new one is bad; nothing has changed then.
    pub async fn reload(&self) -> Result<String, String> {
        reload(&self.app).await.map(|reloaded| reloaded.to_string())
    }

    /// Fails `/readyz` on the admin listener and stops accepting; what runs may finish.
    pub fn drain(&mut self) {
        self.app.control.draining.store(true, Ordering::Relaxed);
        if let Some((thread, doors)) = self.acceptor_thread.take().zip(self.app.control.listeners.get()) {
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

fn cores() -> usize {
    available_parallelism().map_or(1, usize::from)
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
                    let (fleet, log, keyring) = (app.fleet.clone(), app.logs.error.clone(), app.tls_store.load_full());
                    discover::run_probes(fleet, log, keyring, app.clock, discover::PollIntervals::default()).await;
                    std::future::pending::<()>().await;
                };
                tokio::select! {
                    () = asking => {}
                    () = app.control.replicas_changed.notified() => {}
                }
            }
        };
        let resolving = async {
            loop {
                let settings = app.settings();
                let keyring = app.tls_store.load_full();
                let shelf = DnsContext {
                    fleet: &app.fleet,
                    log: &app.logs.error,
                    replicas_changed: &app.control.replicas_changed,
                    tls_store: &keyring,
                };
                let asking = async {
                    app.dns_names.refresh_all(&settings.pools, &settings.dns, &shelf).await;
                    std::future::pending::<()>().await;
                };
                tokio::select! {
                    () = asking => {}
                    () = app.control.config_reloaded.notified() => {}
                }
            }
        };
        let watching = discover::watch_stalls(&app.fleet, &app.logs.error, app.clock);
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
