//! The acceptor: a plain thread that hands each connection to the worker with the fewest open streams.

use std::io;
use std::net::{IpAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use mio::{Events, Interest, Poll, Token, Waker};
use tokio::sync::mpsc;

use super::App;
use super::tally::{Open, Tally};
use crate::telemetry::Level;

/// How long accepting rests when the process has no file descriptor left.
const REST: Duration = Duration::from_millis(100);
/// The event that means that the thread should end; listeners are numbered from 0.
const STOP: Token = Token(usize::MAX);

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

/// Accepts from all listeners until it is woken by its waker. Dropping it closes them.
pub(super) struct Acceptor {
    app: Arc<App>,
    desks: Vec<Desk>,
    listeners: Vec<Listener>,
    poll: Poll,
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
    /// Gets ready to accept; the waker ends it.
    pub(super) fn new(app: Arc<App>, mut listeners: Vec<Listener>, desks: Vec<Desk>) -> io::Result<(Self, Waker)> {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), STOP)?;
        for (token, listener) in (0..).map(Token).zip(&mut listeners) {
            match listener {
                Listener::Tcp(listener) | Listener::Tls(listener) => {
                    poll.registry().register(listener, token, Interest::READABLE)?;
                }
                Listener::Unix(listener) => poll.registry().register(listener, token, Interest::READABLE)?,
            }
        }
        Ok((Self { app, desks, listeners, poll }, waker))
    }

    /// Accepts until woken.
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
            if events.iter().any(|event| event.token() == STOP) {
                return;
            }
            // Readiness is told once, so what is left over for want of descriptors is asked for again after a rest.
            let starved = self.listeners.iter().filter(|listener| self.drain(listener).is_err()).count() > 0;
            rest = starved.then_some(REST);
        }
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

fn is_gone(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}
