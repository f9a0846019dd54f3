//! The control thread: everything that runs in the background of the requests.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::oneshot;

use super::AppState;
use super::api::{self, admin_listener};
use super::live::sampler::run_sampler;
use super::runtime_thread::spawn_runtime_thread;
use crate::discover::{self, PollIntervals, ProbeClients, ProbeContext};
use crate::dns::DnsContext;

/// Interval at which the metrics drop the series of removed replicas, also when nothing scrapes them.
const METRICS_SWEEP_INTERVAL: Duration = Duration::from_secs(60);

/// The running control thread.
pub(super) struct ControlThread {
    thread: JoinHandle<()>,
    stop: oneshot::Sender<()>,
}

impl ControlThread {
    /// Starts the thread. It serves the admin API at `admin`, if there is such a listener.
    ///
    /// *Errors*: the system provides no thread or no event queue.
    pub(super) fn spawn(app: Arc<AppState>, admin: Option<TcpListener>) -> io::Result<Self> {
        let (stop, stopped) = oneshot::channel();
        let work = move || async move {
            let duties = async {
                tokio::join!(
                    probe_replicas(&app),
                    refresh_dns(&app),
                    discover::watch_stalls(&app.fleet, &app.logs.error, app.clock),
                    sweep_metrics(&app),
                    run_sampler(&app),
                    serve_admin(&app, admin),
                )
            };
            tokio::select! {
                _ = duties => {}
                _ = stopped => {}
            }
        };
        Ok(Self { thread: spawn_runtime_thread("control", work)?, stop })
    }

    /// Ends the duties and returns the thread to join.
    pub(super) fn stop(self) -> JoinHandle<()> {
        // Fails if the thread has ended already.
        let _ = self.stop.send(());
        self.thread
    }
}

/// Reads models, health and engine metrics of all replicas; starts again when the replicas change.
async fn probe_replicas(app: &AppState) {
    let mut clients = ProbeClients::default();
    loop {
        let context = ProbeContext {
            log: app.logs.error.clone(),
            tls_store: app.tls_store.load_full(),
            clock: app.clock,
            model_refresh: app.control.model_refresh.clone(),
        };
        let probes = discover::run_probes(app.fleet.clone(), context, &mut clients, PollIntervals::default());
        run_until(probes, app.control.replicas_changed.notified()).await;
    }
}

/// Resolves the host names of the configuration whenever their time to live ends; starts again after a reload.
async fn refresh_dns(app: &AppState) {
    loop {
        let (settings, tls_store) = (app.settings(), app.tls_store.load_full());
        let context = DnsContext {
            fleet: &app.fleet,
            log: &app.logs.error,
            replicas_changed: &app.control.replicas_changed,
            tls_store: &tls_store,
        };
        let refresh = app.dns_names.refresh_all(&settings.pools, &settings.dns, &context);
        run_until(refresh, app.control.config_reloaded.notified()).await;
    }
}

async fn sweep_metrics(app: &AppState) {
    loop {
        tokio::time::sleep(METRICS_SWEEP_INTERVAL).await;
        app.metrics.sync_replicas(&app.fleet, app.clock.now());
    }
}

async fn serve_admin(app: &Arc<AppState>, admin: Option<TcpListener>) {
    match admin.map(tokio::net::TcpListener::from_std) {
        Some(Ok(listener)) => {
            admin_listener::run(app.clone(), listener, api::admin_router(app.clone())).await;
        }
        Some(Err(_)) | None => std::future::pending().await,
    }
}

/// Runs `work` until `changed` ends. Work that ends earlier, for lack of replicas or names, waits for the change.
async fn run_until(work: impl Future<Output = ()>, changed: impl Future<Output = ()>) {
    let forever = async {
        work.await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = forever => {}
        () = changed => {}
    }
}
