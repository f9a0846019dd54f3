//! The acceptor: a plain thread that hands each connection to the worker with the fewest open requests.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Duration;

use mio::{Events, Poll, Token, Waker};
use tokio::sync::mpsc;

use super::bound_listener::BoundListener;
use super::handle::{ListenerHandle, ListenerUpdate};
use crate::routes::ListenAddr;
use crate::server::AppState;
use crate::server::connection::accepted::{AcceptedConnection, ClientSocket};
use crate::server::connection::worker_load::{ConnectionGuard, WorkerLoad};
use crate::telemetry::LogLevel;

/// Wait before accepting again after the process has run out of file descriptors.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);
/// The event of an update or of the end; listeners are numbered from 0.
const WAKE_TOKEN: Token = Token(usize::MAX);

/// One worker as the acceptor sees it.
pub(in crate::server) struct WorkerHandle {
    pub(in crate::server) load: Arc<WorkerLoad>,
    pub(in crate::server) queue: mpsc::Sender<AcceptedConnection>,
}

/// Accepts connections from all listeners. Dropping it closes them.
pub(in crate::server) struct Acceptor {
    app: Arc<AppState>,
    workers: Vec<WorkerHandle>,
    /// Listeners by token.
    listeners: BTreeMap<usize, BoundListener>,
    next_token: usize,
    poll: Poll,
    updates: Receiver<ListenerUpdate>,
}

impl Acceptor {
    /// Returns an acceptor, not running yet, and the handle that updates and ends it.
    ///
    /// *Errors*: the system provides no event queue, or the queue rejects a listener.
    pub(in crate::server) fn new(
        app: Arc<AppState>,
        listeners: Vec<BoundListener>,
        workers: Vec<WorkerHandle>,
    ) -> io::Result<(Self, ListenerHandle)> {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), WAKE_TOKEN)?;
        let (sender, updates) = std::sync::mpsc::channel();
        let mut acceptor = Self { app, workers, listeners: BTreeMap::new(), next_token: 0, poll, updates };
        for listener in listeners {
            acceptor.register_listener(listener)?;
        }
        acceptor.set_tcp_keepalive();
        Ok((acceptor, ListenerHandle::new(sender, waker)))
    }

    /// Accepts connections until the handle is closed.
    pub(in crate::server) fn run(mut self) {
        let mut events = Events::with_capacity(64);
        let mut backoff = None;
        loop {
            match self.poll.poll(&mut events, backoff) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    return self.app.logs.error.write(LogLevel::Error, format_args!("acceptor stopped: {error}"));
                }
            }
            if events.iter().any(|event| event.token() == WAKE_TOKEN) && !self.apply_updates() {
                return;
            }
            // Readiness is reported once. Connections left pending are accepted after a backoff.
            let starved = self.listeners.values().filter(|listener| self.accept_pending(listener).is_err()).count() > 0;
            backoff = starved.then_some(ACCEPT_BACKOFF);
        }
    }

    /// Applies all pending updates. Returns whether more can follow: `false` once the handle is closed.
    fn apply_updates(&mut self) -> bool {
        loop {
            match self.updates.try_recv() {
                Ok(update) => self.apply_update(update),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn apply_update(&mut self, update: ListenerUpdate) {
        let present = std::mem::take(&mut self.listeners);
        let kept = present.into_iter();
        self.listeners = kept.filter_map(|(token, l)| Some((token, l.reconfigure(&update.kept_addresses)?))).collect();
        for listener in update.new_listeners {
            let listen = listener.listen.clone();
            if let Err(error) = self.register_listener(listener) {
                let message = format_args!("cannot accept connections at {listen}: {error} (`listen`)");
                self.app.logs.error.write(LogLevel::Error, message);
            }
        }
        self.set_tcp_keepalive();
    }

    fn set_tcp_keepalive(&self) {
        let idle = self.app.settings().scope.timeouts.tcp_keepalive;
        for listener in self.listeners.values() {
            if let Err(error) = listener.set_tcp_keepalive(idle) {
                let message =
                    format_args!("no TCP keep-alive at {}: {error} (`timeouts.tcp_keepalive`)", listener.listen);
                self.app.logs.error.write(LogLevel::Error, message);
            }
        }
    }

    fn register_listener(&mut self, mut listener: BoundListener) -> io::Result<()> {
        listener.register(self.poll.registry(), Token(self.next_token))?;
        self.listeners.insert(self.next_token, listener);
        self.next_token += 1;
        Ok(())
    }

    /// Accepts all pending connections of one listener.
    ///
    /// *Errors*: the process has no descriptor or memory for another connection.
    fn accept_pending(&self, listener: &BoundListener) -> io::Result<()> {
        loop {
            match listener.accept() {
                Ok(socket) => self.dispatch(socket, &listener.listen),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                // The client left before its connection was accepted.
                Err(error) if is_connection_gone(&error) => {}
                Err(error) => {
                    let message = format_args!("no connection can be accepted: {error}");
                    self.app.logs.error.write(LogLevel::Error, message);
                    return Err(error);
                }
            }
        }
    }

    /// Sends a connection to the least loaded worker, or closes it at the limit.
    fn dispatch(&self, socket: ClientSocket, listen: &ListenAddr) {
        let open: usize = self.workers.iter().map(|worker| worker.load.open_connections()).sum();
        if open >= self.app.settings().limits.connections {
            let message = format_args!("connection closed: {open} are open (`limits.connections`)");
            return self.app.logs.error.write(LogLevel::Warn, message);
        }
        if let Some(worker) = self.workers.iter().min_by_key(|worker| worker.load.load_key()) {
            let guard = ConnectionGuard::start(&worker.load);
            // Fails if the worker has ended; the connection is closed then.
            let _ = worker.queue.blocking_send(AcceptedConnection { socket, listen: listen.clone(), guard });
        }
    }
}

fn is_connection_gone(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}
