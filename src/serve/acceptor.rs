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

use super::App;
use super::doors::Doors;
use super::tally::{Open, Tally};
use crate::config::Listen;
use crate::telemetry::Level;

/// How long accepting rests when the process has no file descriptor left.
const REST: Duration = Duration::from_millis(100);
/// The event that means that there is a change, or that the thread should end; listeners are numbered from 0.
const WAKE: Token = Token(usize::MAX);

/// A connection on its way to its worker, counted as the worker's already, so that a burst spreads before the workers
/// come to it.
pub(super) struct Arrival {
    pub(super) socket: Socket,
    pub(super) open: Open,
}

/// What clients connect by.
pub(super) enum Socket {
    Tcp(TcpStream, IpAddr),
    /// The worker shakes hands, so that nobody waits at the door for it.
    Tls(TcpStream, IpAddr),
    Unix(UnixStream),
}

/// A bound listener, not blocking.
pub(super) enum Listener {
    Tcp(mio::net::TcpListener),
    Tls(mio::net::TcpListener),
    Unix(mio::net::UnixListener),
}

/// One worker as the acceptor knows it.
pub(super) struct Desk {
    pub(super) tally: Arc<Tally>,
    pub(super) inbox: mpsc::Sender<Arrival>,
}

/// Accepts from all listeners. Dropping it closes them.
pub(super) struct Acceptor {
    app: Arc<App>,
    desks: Vec<Desk>,
    /// By token, with what each was bound for.
    doors: BTreeMap<usize, Door>,
    next: usize,
    poll: Poll,
    changes: Receiver<Change>,
}

/// A listener and what is configured of it.
pub(super) struct Door {
    pub(super) listen: Listen,
    pub(super) listener: Listener,
}

/// What is listened at from now on: what is kept of the present doors, by what they are to be, and new ones.
pub(super) struct Change {
    pub(super) kept: Vec<Listen>,
    pub(super) opened: Vec<Door>,
}

impl Listener {
    fn accept(&self) -> io::Result<Socket> {
        match self {
            Self::Tcp(listener) | Self::Tls(listener) => {
                let (stream, peer) = listener.accept()?;
                stream.set_nodelay(true)?;
                let socket = if matches!(self, Self::Tls(_)) { Socket::Tls } else { Socket::Tcp };
                Ok(socket(stream.into(), peer.ip()))
            }
            Self::Unix(listener) => Ok(Socket::Unix(listener.accept()?.0.into())),
        }
    }
}

impl Acceptor {
    /// Gets ready to accept. Woken, it looks for a change, and ends when nobody can send any more.
    pub(super) fn new(app: Arc<App>, doors: Vec<Door>, desks: Vec<Desk>) -> io::Result<(Self, Doors)> {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), WAKE)?;
        let (sender, changes) = std::sync::mpsc::channel();
        let mut acceptor = Self { app, desks, doors: BTreeMap::new(), next: 0, poll, changes };
        for door in doors {
            acceptor.open(door)?;
        }
        Ok((acceptor, Doors::new(sender, waker)))
    }

    /// Accepts until nobody can change anything any more.
    pub(super) fn run(mut self) {
        let mut events = Events::with_capacity(64);
        let mut rest = None;
        loop {
            match self.poll.poll(&mut events, rest) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    return self.app.errors.write(Level::Error, format_args!("accepting has ended: {error}"));
                }
            }
            if events.iter().any(|event| event.token() == WAKE) && !self.change() {
                return;
            }
            // Readiness is told once, so what is left over for want of descriptors is asked for again after a rest.
            let starved = self.doors.values().filter(|door| self.drain(&door.listener).is_err()).count() > 0;
            rest = starved.then_some(REST);
        }
    }

    /// Takes over what was sent. Returns whether there can be more.
    fn change(&mut self) -> bool {
        loop {
            match self.changes.try_recv() {
                Ok(Change { kept, opened }) => {
                    let doors = std::mem::take(&mut self.doors);
                    self.doors = doors.into_iter().filter_map(|(at, door)| Some((at, door.kept(&kept)?))).collect();
                    for door in opened {
                        let listen = door.listen.clone();
                        if let Err(error) = self.open(door) {
                            let message = format_args!("cannot accept at {listen}: {error}");
                            self.app.errors.write(Level::Error, message);
                        }
                    }
                }
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn open(&mut self, mut door: Door) -> io::Result<()> {
        let registry = self.poll.registry();
        match &mut door.listener {
            Listener::Tcp(listener) | Listener::Tls(listener) => {
                registry.register(listener, Token(self.next), Interest::READABLE)?;
            }
            Listener::Unix(listener) => registry.register(listener, Token(self.next), Interest::READABLE)?,
        }
        self.doors.insert(self.next, door);
        self.next += 1;
        Ok(())
    }

    /// Accepts all that waits at one listener.
    ///
    /// *Errors*: the process has no descriptor or memory left for another connection.
    fn drain(&self, listener: &Listener) -> io::Result<()> {
        loop {
            match listener.accept() {
                Ok(socket) => self.hand_over(socket),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                // The client was gone before we came to it.
                Err(error) if is_gone(&error) => {}
                Err(error) => {
                    self.app.errors.write(Level::Error, format_args!("no connection can be accepted: {error}"));
                    return Err(error);
                }
            }
        }
    }

    fn hand_over(&self, socket: Socket) {
        let open: usize = self.desks.iter().map(|desk| desk.tally.connections()).sum();
        if open >= self.app.settings().limits.connections {
            let message = format_args!("a connection was closed: {open} are open (`limits.connections`)");
            return self.app.errors.write(Level::Warn, message);
        }
        if let Some(desk) = self.desks.iter().min_by_key(|desk| desk.tally.busy()) {
            // A worker that has ended takes the connection down with it.
            let _ = desk.inbox.blocking_send(Arrival { socket, open: Open::on(&desk.tally) });
        }
    }
}

impl Door {
    /// The door as it is to be now; closed if it is in none of `kept`.
    fn kept(mut self, kept: &[Listen]) -> Option<Self> {
        let same = kept.iter().find(|listen| **listen == self.listen);
        let Some(wanted) = same.or_else(|| kept.iter().find(|listen| listen.is_at(&self.listen))) else {
            if let Listen::Unix(path) = &self.listen {
                // Somebody may have taken it away already.
                let _ = std::fs::remove_file(path);
            }
            return None;
        };
        // A port goes from plain to TLS and back without being closed.
        self.listener = match (self.listener, wanted) {
            (Listener::Tcp(listener) | Listener::Tls(listener), Listen::Tls(_)) => Listener::Tls(listener),
            (Listener::Tcp(listener) | Listener::Tls(listener), _) => Listener::Tcp(listener),
            (listener @ Listener::Unix(_), _) => listener,
        };
        self.listen = wanted.clone();
        Some(self)
    }
}

fn is_gone(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}
