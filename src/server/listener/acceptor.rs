//! The acceptor: a plain thread that hands each connection to the worker with the fewest open streams.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Duration;

use mio::{Events, Interest, Poll, Token, Waker};
use tokio::sync::mpsc;

use super::handle::ListenerHandle;
use crate::config::ListenAddr;
use crate::server::AppState;
use crate::server::connection::worker_load::{ConnectionGuard, WorkerLoad};
use crate::telemetry::LogLevel;

/// How long accepting rests when the process has no file descriptor left.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);
/// The event that means that there is a change, or that the thread should end; listeners are numbered from 0.
const WAKE_TOKEN: Token = Token(usize::MAX);

/// A connection on its way to its worker, counted as the worker's already, so that a burst spreads before the workers
/// come to it.
pub(in crate::server) struct AcceptedConnection {
    pub(in crate::server) socket: ClientSocket,
    pub(in crate::server) guard: ConnectionGuard,
}

/// What clients connect by.
pub(in crate::server) enum ClientSocket {
    Tcp(TcpStream, IpAddr),
    /// The worker shakes hands, so that nobody waits at the door for it.
    Tls(TcpStream, IpAddr),
    Unix(UnixStream),
}

/// A bound listener, not blocking.
pub(in crate::server) enum Listener {
    Tcp(mio::net::TcpListener),
    Tls(mio::net::TcpListener),
    Unix(mio::net::UnixListener),
}

/// One worker as the acceptor knows it.
pub(in crate::server) struct WorkerHandle {
    pub(in crate::server) load: Arc<WorkerLoad>,
    pub(in crate::server) queue: mpsc::Sender<AcceptedConnection>,
}

/// Accepts from all listeners. Dropping it closes them.
pub(in crate::server) struct Acceptor {
    app: Arc<AppState>,
    workers: Vec<WorkerHandle>,
    /// By token, with what each was bound for.
    listeners: BTreeMap<usize, BoundListener>,
    next_token: usize,
    poll: Poll,
    updates: Receiver<ListenerUpdate>,
}

/// A listener and what is configured of it.
pub(in crate::server) struct BoundListener {
    pub(in crate::server) listen: ListenAddr,
    pub(in crate::server) listener: Listener,
}

/// What is listened at from now on: what is kept of the present doors, by what they are to be, and new ones.
pub(in crate::server) struct ListenerUpdate {
    pub(in crate::server) kept_addresses: Vec<ListenAddr>,
    pub(in crate::server) new_listeners: Vec<BoundListener>,
}

impl Listener {
    fn accept(&self) -> io::Result<ClientSocket> {
        match self {
            Self::Tcp(listener) | Self::Tls(listener) => {
                let (stream, peer) = listener.accept()?;
                stream.set_nodelay(true)?;
                let socket = if matches!(self, Self::Tls(_)) { ClientSocket::Tls } else { ClientSocket::Tcp };
                Ok(socket(stream.into(), peer.ip()))
            }
            Self::Unix(listener) => Ok(ClientSocket::Unix(listener.accept()?.0.into())),
        }
    }
}

impl Acceptor {
    /// Gets ready to accept. Woken, it looks for a change, and ends when nobody can send any more.
    pub(in crate::server) fn new(
        app: Arc<AppState>,
        doors: Vec<BoundListener>,
        desks: Vec<WorkerHandle>,
    ) -> io::Result<(Self, ListenerHandle)> {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), WAKE_TOKEN)?;
        let (sender, changes) = std::sync::mpsc::channel();
        let mut acceptor =
            Self { app, workers: desks, listeners: BTreeMap::new(), next_token: 0, poll, updates: changes };
        for door in doors {
            acceptor.register_listener(door)?;
        }
        Ok((acceptor, ListenerHandle::new(sender, waker)))
    }

    /// Accepts until nobody can change anything any more.
    pub(in crate::server) fn run(mut self) {
        let mut events = Events::with_capacity(64);
        let mut rest = None;
        loop {
            match self.poll.poll(&mut events, rest) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    return self.app.logs.error.write(LogLevel::Error, format_args!("accepting has ended: {error}"));
                }
            }
            if events.iter().any(|event| event.token() == WAKE_TOKEN) && !self.apply_updates() {
                return;
            }
            // Readiness is told once, so what is left over for want of descriptors is asked for again after a rest.
            let starved = self.listeners.values().filter(|door| self.accept_ready(&door.listener).is_err()).count() > 0;
            rest = starved.then_some(ACCEPT_BACKOFF);
        }
    }

    /// Takes over what was sent. Returns whether there can be more.
    fn apply_updates(&mut self) -> bool {
        loop {
            match self.updates.try_recv() {
                Ok(ListenerUpdate { kept_addresses: kept, new_listeners: opened }) => {
                    let doors = std::mem::take(&mut self.listeners);
                    self.listeners =
                        doors.into_iter().filter_map(|(at, door)| Some((at, door.reconfigure(&kept)?))).collect();
                    for door in opened {
                        let listen = door.listen.clone();
                        if let Err(error) = self.register_listener(door) {
                            let message = format_args!("cannot accept at {listen}: {error}");
                            self.app.logs.error.write(LogLevel::Error, message);
                        }
                    }
                }
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn register_listener(&mut self, mut door: BoundListener) -> io::Result<()> {
        let registry = self.poll.registry();
        match &mut door.listener {
            Listener::Tcp(listener) | Listener::Tls(listener) => {
                registry.register(listener, Token(self.next_token), Interest::READABLE)?;
            }
            Listener::Unix(listener) => registry.register(listener, Token(self.next_token), Interest::READABLE)?,
        }
        self.listeners.insert(self.next_token, door);
        self.next_token += 1;
        Ok(())
    }

    /// Accepts all that waits at one listener.
    ///
    /// *Errors*: the process has no descriptor or memory left for another connection.
    fn accept_ready(&self, listener: &Listener) -> io::Result<()> {
        loop {
            match listener.accept() {
                Ok(socket) => self.dispatch(socket),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                // The client was gone before we came to it.
                Err(error) if is_connection_gone(&error) => {}
                Err(error) => {
                    self.app.logs.error.write(LogLevel::Error, format_args!("no connection can be accepted: {error}"));
                    return Err(error);
                }
            }
        }
    }

    fn dispatch(&self, socket: ClientSocket) {
        let open: usize = self.workers.iter().map(|desk| desk.load.open_connections()).sum();
        if open >= self.app.settings().limits.connections {
            let message = format_args!("a connection was closed: {open} are open (`limits.connections`)");
            return self.app.logs.error.write(LogLevel::Warn, message);
        }
        if let Some(desk) = self.workers.iter().min_by_key(|desk| desk.load.load_key()) {
            // A worker that has ended takes the connection down with it.
            let _ = desk.queue.blocking_send(AcceptedConnection { socket, guard: ConnectionGuard::start(&desk.load) });
        }
    }
}

impl BoundListener {
    /// The door as it is to be now; closed if it is in none of `kept`.
    fn reconfigure(mut self, kept: &[ListenAddr]) -> Option<Self> {
        let same = kept.iter().find(|listen| **listen == self.listen);
        let Some(wanted) = same.or_else(|| kept.iter().find(|listen| listen.has_same_address(&self.listen))) else {
            if let ListenAddr::Unix(path) = &self.listen {
                // Somebody may have taken it away already.
                let _ = std::fs::remove_file(path);
            }
            return None;
        };
        // A port goes from plain to TLS and back without being closed.
        self.listener = match (self.listener, wanted) {
            (Listener::Tcp(listener) | Listener::Tls(listener), ListenAddr::Tls(_)) => Listener::Tls(listener),
            (Listener::Tcp(listener) | Listener::Tls(listener), _) => Listener::Tcp(listener),
            (listener @ Listener::Unix(_), _) => listener,
        };
        self.listen = wanted.clone();
        Some(self)
    }
}

fn is_connection_gone(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}
