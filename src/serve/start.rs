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

use super::acceptor::{Acceptor, Desk, Door};
use super::bind::{bind, bind_tcp};
use super::body::Budget;
use super::crowd::Crowd;
use super::owners::Owners;
use super::reload::{Source, reload};
use super::sessions::Sessions;
use super::tally::Tally;
use super::worker;
use super::{App, Stage, StartError, admin, files};
use crate::clock::{self, Clock};
use crate::config::{Listen, Settings, Sink};
use crate::discover;
use crate::fleet::{Decisions, Fleet, Observer};
use crate::resolve::{Names, Shelf};
use crate::telemetry::{AccessLog, ErrorLog, Level, Metrics, RecordFile, Recorder, Writer};
use crate::tls::Keyring;

/// Connections that wait for their worker.
const INBOX: usize = 1024;
/// How often metrics that nobody reads are looked through for replicas that have left.
const KEEPS_METRICS: Duration = Duration::from_secs(60);
/// Threads of one worker that read large bodies.
const READERS: usize = 2;

/// The control thread and the way to end it.
struct Controlled {
    thread: JoinHandle<()>,
    quit: oneshot::Sender<()>,
}

/// A running router.
pub struct Server {
    app: Arc<App>,
    stage: watch::Sender<Stage>,
    control: Option<Controlled>,
    acceptor: Option<JoinHandle<()>>,
    serving: Vec<JoinHandle<()>>,
    listening: Vec<Listen>,
    admin: Option<SocketAddr>,
}

impl Server {
    /// Binds every address and starts every thread. Nothing runs if anything fails.
    ///
    /// *Errors*: an address is taken or may not be used, a log cannot be opened, a certificate cannot be used,
    /// a policy cannot be made.
    pub fn start(settings: Settings) -> Result<Self, StartError> {
        let clock = Clock::start();
        let mut listening = Vec::with_capacity(settings.listen.len());
        let open = |listen: &Listen| {
            let (listener, bound) = bind(listen)?;
            listening.push(bound);
            Ok(Door { listen: listen.clone(), listener })
        };
        let doors = settings.listen.iter().map(open).collect::<Result<Vec<_>, StartError>>()?;
        let admin = settings.admin.map(|address| bind_tcp(address, "admin")).transpose()?;
        let app = Arc::new(build(settings, clock)?);
        files::compare(&app.settings().limits, &app.errors);
        let (stage, watching) = watch::channel(Stage::Running);
        let mut server = Self {
            listening,
            acceptor: None,
            admin: admin.as_ref().map(std::net::TcpListener::local_addr).transpose()?,
            control: Some(control(app.clone(), admin)?),
            serving: Vec::new(),
            app,
            stage,
        };
        let cores = cores();
        let workers = server.app.settings().workers.map_or(cores, usize::from);
        let mut desks = Vec::with_capacity(workers);
        for _ in 0..workers {
            let (inbox, arriving) = mpsc::channel(INBOX);
            let tally = Arc::new(Tally::default());
            desks.push(Desk { tally: tally.clone(), inbox });
            let (app, stage) = (server.app.clone(), watching.clone());
            server.serving.push(thread("worker", move || worker::run(app, tally, arriving, stage))?);
        }
        let (acceptor, doors) = Acceptor::new(server.app.clone(), doors, desks)?;
        // Set here and nowhere else.
        let _ = server.app.doors.set(doors);
        server.acceptor = Some(Builder::new().name("acceptor".to_owned()).spawn(move || acceptor.run())?);
        Ok(server)
    }

    /// Where clients were accepted from the start, ports that the system chose included.
    pub fn listening(&self) -> &[Listen] {
        &self.listening
    }

    /// Where metrics and health are served.
    pub const fn admin(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// The replicas and pools behind this router.
    pub fn fleet(&self) -> &Arc<Fleet> {
        &self.app.fleet
    }

    /// Opens the files of both logs anew, for whoever has moved them away. Where that fails the old file is kept, and
    /// the error log says so.
    pub fn reopen_logs(&self) {
        let errors = &self.app.errors;
        let access = self.app.access.load().as_ref().map_or(Ok(()), |log| log.reopen());
        for (log, reopened) in [("error", errors.reopen()), ("access", access)] {
            match reopened {
                Ok(()) => errors.tell(Level::Info, format_args!("reopened the {log} log")),
                Err(why) => {
                    let message = format_args!("cannot reopen the {log} log, its old file is kept: {why}");
                    errors.tell(Level::Error, message);
                }
            }
        }
    }

    /// Sets where [`Server::reload`] reads the configuration from; only the first call counts.
    pub fn reloads_from(&self, source: Source) {
        let _ = self.app.source.set(source);
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
        if let Some((thread, doors)) = self.acceptor.take().zip(self.app.doors.get()) {
            doors.close();
            // A thread that panicked has told so on standard error.
            drop(thread.join());
        }
        self.stage.send_if_modified(|stage| {
            let running = *stage == Stage::Running;
            if running {
                *stage = Stage::Draining;
            }
            running
        });
    }

    /// Tells whether all requests have finished after [`Server::drain`].
    pub fn is_drained(&self) -> bool {
        self.serving.iter().all(JoinHandle::is_finished)
    }

    /// Ends what still runs and waits for the threads.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.drain();
        self.stage.send_replace(Stage::Ended);
        let control = self.control.take().map(|control| {
            // It may have ended by itself.
            let _ = control.quit.send(());
            control.thread
        });
        for thread in self.serving.drain(..).chain(control) {
            // A thread that panicked has told so on standard error.
            drop(thread.join());
        }
        for listen in self.listening.iter().chain(&self.app.settings().listen) {
            if let Listen::Unix(path) = listen {
                drop(std::fs::remove_file(path));
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

fn build(settings: Settings, clock: Clock) -> Result<App, StartError> {
    let errors = Arc::new(ErrorLog::new(open(&settings.log.error)?, settings.log.level, clock));
    let access = open(&settings.log.access)?.map(|writer| AccessLog::new(writer, settings.log.format.clone()));
    let metrics = Arc::new(Metrics::new());
    let record = |file: RecordFile| {
        let why = |name, error| StartError::Record(name, error);
        let name = file.path.display().to_string();
        Recorder::start(file, metrics.clone()).map(Arc::new).map_err(|error| why(name, error))
    };
    let recorder = settings.record.file().map(record).transpose()?;
    let observer: Arc<dyn Observer> = match &recorder {
        Some(recorder) => recorder.clone(),
        None => metrics.clone(),
    };
    let keyring = Keyring::read(&settings.tls, &settings.pools)?;
    let names = Names::default();
    Ok(App {
        keyring: Arc::new(ArcSwap::from_pointee(keyring)),
        fleet: Arc::new(Fleet::new(names.expand(&settings.pools), &observer, clock::seed())?),
        names,
        reloaded: Notify::new(),
        crowd: Crowd::default(),
        budget: Budget::new(settings.limits.in_flight_bytes),
        started: clock.time_of_day(),
        owners: Owners::default(),
        counting: Arc::new(Semaphore::new(cores())),
        sessions: Sessions::default(),
        draining: AtomicBool::new(false),
        visits: AtomicU64::new(0),
        changed: Notify::new(),
        source: OnceLock::new(),
        decisions: Arc::new(Decisions::new(settings.explain)),
        settings: ArcSwap::from_pointee(settings),
        metrics,
        recorder,
        access: ArcSwapOption::from(access.map(Arc::new)),
        lines_lost: AtomicU64::new(0),
        doors: OnceLock::new(),
        errors,
        clock,
    })
}

fn cores() -> usize {
    available_parallelism().map_or(1, usize::from)
}

pub(super) fn open(sink: &Sink) -> Result<Option<Writer>, StartError> {
    Ok(match sink {
        Sink::Off => None,
        Sink::Stdout => Some(Writer::stdout()),
        Sink::Stderr => Some(Writer::stderr()),
        Sink::File(path) => {
            let why = |error| StartError::Log(path.display().to_string(), error);
            Some(Writer::file(path).map_err(why)?)
        }
    })
}

/// The thread that asks replicas for their models and DNS for their addresses, looks for replicas from which nothing
/// comes, and serves the admin listener, until the process ends.
fn control(app: Arc<App>, admin: Option<std::net::TcpListener>) -> io::Result<Controlled> {
    let (quit, quitting) = oneshot::channel();
    let work = move || async move {
        let discovery = async {
            loop {
                // It ends by itself only where there is nobody to ask.
                let asking = async {
                    let (fleet, log, keyring) = (app.fleet.clone(), app.errors.clone(), app.keyring.load_full());
                    discover::run(fleet, log, keyring, app.clock, discover::Pace::default()).await;
                    std::future::pending::<()>().await;
                };
                tokio::select! {
                    () = asking => {}
                    () = app.changed.notified() => {}
                }
            }
        };
        let resolving = async {
            loop {
                let settings = app.settings();
                let keyring = app.keyring.load_full();
                let shelf = Shelf { fleet: &app.fleet, log: &app.errors, changed: &app.changed, keyring: &keyring };
                let asking = async {
                    app.names.run(&settings.pools, &settings.dns, &shelf).await;
                    std::future::pending::<()>().await;
                };
                tokio::select! {
                    () = asking => {}
                    () = app.reloaded.notified() => {}
                }
            }
        };
        let watching = discover::watch(&app.fleet, &app.errors, app.clock);
        let keeping = async {
            loop {
                tokio::time::sleep(KEEPS_METRICS).await;
                app.metrics.follow(&app.fleet, app.clock.now());
            }
        };
        let serving = async {
            match admin.map(tokio::net::TcpListener::from_std) {
                Some(Ok(listener)) => admin::run(app.clone(), listener).await,
                Some(Err(_)) | None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = async { tokio::join!(discovery, resolving, watching, keeping, serving).4 } => {}
            _ = quitting => {}
        }
    };
    Ok(Controlled { thread: thread("control", work)?, quit })
}

/// Runs the work that `begin` makes on a thread with a runtime of its own.
fn thread<W: Future<Output = ()>>(
    name: &str,
    begin: impl FnOnce() -> W + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    let mut builder = runtime::Builder::new_current_thread();
    builder.enable_all().max_blocking_threads(READERS);
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
