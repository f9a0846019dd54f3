//! Starting the threads, and stopping them.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{Builder, JoinHandle, available_parallelism};

use socket2::{Domain, Protocol, Socket, Type};
use thiserror::Error;
use tokio::runtime::{self, LocalOptions};
use tokio::sync::{mpsc, oneshot, watch};

use super::acceptor::{Acceptor, Desk, Listener};
use super::body::Budget;
use super::owners::Owners;
use super::worker::{self, Tally};
use super::{App, Stage, admin};
use crate::balance::BadPolicy;
use crate::clock::{self, Clock};
use crate::config::{Listen, Settings, Sink};
use crate::discover;
use crate::fleet::{Fleet, Observer};
use crate::telemetry::{AccessLog, ErrorLog, Level, Metrics, Writer};

/// Connections that wait for their worker.
const INBOX: usize = 1024;
/// Connections that the kernel keeps for us to accept.
const BACKLOG: i32 = 4096;
/// Threads of one worker that read large bodies.
const READERS: usize = 2;

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
    /// A pool's policy cannot be made.
    #[error("{0}")]
    Policy(#[from] BadPolicy),
    /// The system gives no threads or no event queue.
    #[error("cannot start a thread: {0}")]
    Thread(#[from] io::Error),
}

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
    acceptor: Option<(JoinHandle<()>, mio::Waker)>,
    serving: Vec<JoinHandle<()>>,
    listening: Vec<Listen>,
    admin: Option<SocketAddr>,
}

impl Server {
    /// Binds every address and starts every thread. Nothing runs if anything fails.
    ///
    /// *Errors*: an address is taken or may not be used, a log cannot be opened, a policy cannot be made.
    pub fn start(settings: Settings) -> Result<Self, StartError> {
        let clock = Clock::start();
        let bound = settings.listen.iter().map(bind).collect::<Result<Vec<_>, _>>()?;
        let (listeners, listening) = bound.into_iter().unzip();
        let admin = settings.admin.map(|address| bind_tcp(address, "admin")).transpose()?;
        let app = Arc::new(build(settings, clock)?);
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
        let cores = available_parallelism().map_or(1, usize::from);
        let workers = server.app.settings.workers.map_or(cores, usize::from);
        let mut desks = Vec::with_capacity(workers);
        for _ in 0..workers {
            let (inbox, arriving) = mpsc::channel(INBOX);
            let tally = Arc::new(Tally::default());
            desks.push(Desk { tally: tally.clone(), inbox });
            let (app, stage) = (server.app.clone(), watching.clone());
            server.serving.push(thread("worker", move || worker::run(app, tally, arriving, stage))?);
        }
        let (acceptor, waker) = Acceptor::new(server.app.clone(), listeners, desks)?;
        let thread = Builder::new().name("acceptor".to_owned()).spawn(move || acceptor.run())?;
        server.acceptor = Some((thread, waker));
        Ok(server)
    }

    /// Where clients are accepted, ports that the system chose included.
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
        let (log, errors) = (&self.app.settings.log, &self.app.errors);
        let access = self.app.access.as_ref().map_or(Ok(()), AccessLog::reopen);
        for (sink, reopened) in [(&log.error, errors.reopen()), (&log.access, access)] {
            match (sink, reopened) {
                (Sink::File(path), Ok(())) => errors.write(Level::Info, format_args!("reopened {}", path.display())),
                (Sink::File(path), Err(error)) => {
                    let path = path.display();
                    errors.write(Level::Error, format_args!("cannot reopen {path}, the old file is kept: {error}"));
                }
                _ => {}
            }
        }
    }

    /// Stops accepting; what runs may finish, and `/readyz` on the admin listener fails.
    pub fn drain(&mut self) {
        if let Some((thread, waker)) = self.acceptor.take() {
            // Both fail only if the thread has ended already.
            let _ = waker.wake();
            drop(thread.join());
        }
        self.app.draining.store(true, Ordering::Relaxed);
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
        for listen in &self.listening {
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
    let observer: Arc<dyn Observer> = metrics.clone();
    Ok(App {
        fleet: Arc::new(Fleet::new(settings.pools.clone(), &observer, clock::seed())?),
        budget: Budget::new(settings.limits.in_flight_bytes),
        started: clock.time_of_day(),
        owners: Owners::default(),
        draining: AtomicBool::new(false),
        visits: AtomicU64::new(0),
        settings,
        metrics,
        access,
        errors,
        clock,
    })
}

fn open(sink: &Sink) -> Result<Option<Writer>, StartError> {
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

/// Binds one of `listen`; returns it with the port that the system chose where it was 0.
fn bind(listen: &Listen) -> Result<(Listener, Listen), StartError> {
    match listen {
        Listen::Tcp(address) => {
            let listener = bind_tcp(*address, "listen")?;
            let bound = listener.local_addr()?;
            Ok((Listener::Tcp(mio::net::TcpListener::from_std(listener)), Listen::Tcp(bound)))
        }
        Listen::Unix(path) => {
            let refused = |error| StartError::Listen { address: listen.to_string(), key: "listen", error, hint: "" };
            let listener = mio::net::UnixListener::from_std(bind_unix(path).map_err(refused)?);
            Ok((Listener::Unix(listener), listen.clone()))
        }
    }
}

fn bind_tcp(address: SocketAddr, key: &'static str) -> Result<std::net::TcpListener, StartError> {
    let bound = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        Ok(socket.into())
    };
    bound().map_err(|error: io::Error| {
        let hint = match error.kind() {
            io::ErrorKind::AddrInUse => "; another process has the port: stop it, or choose another one",
            io::ErrorKind::PermissionDenied => "; ports below 1024 need a privilege (CAP_NET_BIND_SERVICE)",
            io::ErrorKind::AddrNotAvailable => "; this machine has no such address",
            _ => "",
        };
        StartError::Listen { address: address.to_string(), key, error, hint }
    })
}

/// Binds a Unix socket, in place of one that a dead process has left.
fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    let left_over = std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket())
        && std::os::unix::net::UnixStream::connect(path).is_err();
    if left_over {
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// The thread that asks replicas for their models and serves the admin listener, until the process ends.
fn control(app: Arc<App>, admin: Option<std::net::TcpListener>) -> io::Result<Controlled> {
    let (quit, quitting) = oneshot::channel();
    let work = move || async move {
        let discovery = discover::run(app.fleet.clone(), app.errors.clone(), discover::Pace::default());
        let serving = async {
            match admin.map(tokio::net::TcpListener::from_std) {
                Some(Ok(listener)) => admin::run(app.clone(), listener).await,
                Some(Err(_)) | None => std::future::pending().await,
            }
        };
        tokio::select! {
            ((), ()) = async { tokio::join!(discovery, serving) } => {}
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
