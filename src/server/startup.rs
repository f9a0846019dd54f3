//! Starts the router: binds the listeners, starts the threads. Drains and stops it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{Builder, JoinHandle, available_parallelism};

use tokio::sync::{mpsc, watch};

use super::connection::worker;
use super::connection::worker_load::WorkerLoad;
use super::control::ControlThread;
use super::listener::acceptor::{Acceptor, WorkerHandle};
use super::listener::bind::{bind_listener, bind_tcp};
use super::reload::reload;
use super::runtime_thread::spawn_runtime_thread;
use super::{AppState, ConfigSource, Lifecycle, StartError, open_files};
use crate::clock::Clock;
use crate::config::Settings;
use crate::fleet::Fleet;
use crate::routes::ListenAddr;

/// Connections that wait for one worker at most; the acceptor waits beyond that.
const WORKER_QUEUE_LENGTH: usize = 1024;

/// A running router. Dropping it stops it.
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
    /// Binds every address and starts every thread. Nothing keeps running after an error.
    ///
    /// *Errors*: an address is in use or not permitted, a log or a certificate cannot be opened, a pool's policy cannot
    /// be built, or the system provides no thread.
    pub fn start(settings: Settings) -> Result<Self, StartError> {
        let clock = Clock::start();
        let listeners = settings.listen.iter().map(bind_listener).collect::<Result<Vec<_>, _>>()?;
        let admin = settings.admin.map(|address| bind_tcp(address, "admin")).transpose()?;
        let cores = available_parallelism().map_or(1, usize::from);
        let workers = settings.workers.map_or(cores, usize::from);
        let app = Arc::new(AppState::new(settings, clock, cores)?);
        open_files::warn_if_too_few(&app.settings().limits, &app.logs.error);
        let mut server = Self {
            listen_addresses: listeners.iter().map(|listener| listener.local_address.clone()).collect(),
            admin_address: admin.as_ref().map(std::net::TcpListener::local_addr).transpose()?,
            control_thread: Some(ControlThread::spawn(app.clone(), admin)?),
            acceptor_thread: None,
            worker_threads: Vec::new(),
            lifecycle: watch::Sender::new(Lifecycle::Running),
            app,
        };
        let workers = (0..workers).map(|_| server.spawn_worker()).collect::<Result<Vec<_>, _>>()?;
        let (acceptor, handle) = Acceptor::new(server.app.clone(), listeners, workers)?;
        // The cells are empty: this is the only place that sets them.
        let _ = server.app.control.listeners.set(handle);
        let _ = server.app.control.bound_addresses.set(server.listen_addresses.clone());
        server.acceptor_thread = Some(Builder::new().name("acceptor".to_owned()).spawn(move || acceptor.run())?);
        Ok(server)
    }

    fn spawn_worker(&mut self) -> io::Result<WorkerHandle> {
        let (sender, queue) = mpsc::channel(WORKER_QUEUE_LENGTH);
        let load = Arc::new(WorkerLoad::default());
        let (app, worker_load, lifecycle) = (self.app.clone(), load.clone(), self.lifecycle.subscribe());
        let run = move || worker::run(app, worker_load, queue, lifecycle);
        self.worker_threads.push(spawn_runtime_thread("worker", run)?);
        Ok(WorkerHandle { load, queue: sender })
    }

    /// Returns the listener addresses of the start. A port 0 of the configuration is replaced by the port of the
    /// system.
    pub fn listen_addresses(&self) -> &[ListenAddr] {
        &self.listen_addresses
    }

    /// Returns the address of the admin listener, if one is configured.
    pub const fn admin_address(&self) -> Option<SocketAddr> {
        self.admin_address
    }

    /// Returns the pools and replicas of this router.
    pub fn fleet(&self) -> &Arc<Fleet> {
        &self.app.fleet
    }

    /// Opens the files of all logs again, after log rotation has moved them. A file that cannot be opened again stays
    /// in use, and the error log reports it.
    pub fn reopen_logs(&self) {
        self.app.logs.reopen();
    }

    /// Sets where [`Server::reload`] reads the configuration from. Calls after the first have no effect.
    pub fn set_config_source(&self, source: ConfigSource) {
        let _ = self.app.control.config_source.set(source);
    }

    /// Reads the configuration again and replaces the present one in one step. Returns a summary of the changes.
    ///
    /// *Errors*: the new configuration is invalid. The present one stays.
    pub async fn reload(&self) -> Result<String, String> {
        reload(&self.app).await.map(|report| report.to_string())
    }

    /// Stops accepting connections and makes `/readyz` of the admin listener fail. Requests under way may finish.
    pub fn drain(&mut self) {
        self.app.control.draining.store(true, Ordering::Relaxed);
        if let Some((thread, listeners)) = self.acceptor_thread.take().zip(self.app.control.listeners.get()) {
            listeners.close();
            // A panic of the thread has been reported on standard error.
            drop(thread.join());
        }
        self.lifecycle.send_if_modified(|phase| {
            let is_running = *phase == Lifecycle::Running;
            if is_running {
                *phase = Lifecycle::Draining;
            }
            is_running
        });
    }

    /// Returns whether all requests have finished after [`Server::drain`].
    pub fn is_drained(&self) -> bool {
        self.worker_threads.iter().all(JoinHandle::is_finished)
    }

    /// Cuts off the requests under way and waits for the threads.
    pub fn stop(mut self) {
        self.shutdown();
    }

    fn shutdown(&mut self) {
        self.drain();
        self.lifecycle.send_replace(Lifecycle::Ended);
        let control = self.control_thread.take().map(ControlThread::stop);
        for thread in self.worker_threads.drain(..).chain(control) {
            // A panic of the thread has been reported on standard error.
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
