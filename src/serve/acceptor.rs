//! The acceptor: a plain thread that hands each connection to the worker with the fewest open streams.

use std::io;
use std::net::{IpAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, watch};

use super::worker::Tally;
use super::{App, Stage};
use crate::telemetry::Level;

/// How long accepting rests when the process has no file descriptor left.
const REST: Duration = Duration::from_millis(100);

/// A connection on its way to its worker.
pub(super) enum Socket {
    Tcp(TcpStream, IpAddr),
    Unix(UnixStream),
}

/// A bound listener.
pub(super) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    fn accept(&self) -> io::Result<Socket> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept()?;
                stream.set_nonblocking(true)?;
                stream.set_nodelay(true)?;
                Ok(Socket::Tcp(stream, peer.ip()))
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept()?;
                stream.set_nonblocking(true)?;
                Ok(Socket::Unix(stream))
            }
        }
    }
}

impl std::os::fd::AsRawFd for Listener {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        match self {
            Self::Tcp(listener) => listener.as_raw_fd(),
            Self::Unix(listener) => listener.as_raw_fd(),
        }
    }
}

/// One worker as the acceptor knows it.
pub(super) struct Desk {
    pub(super) tally: Arc<Tally>,
    pub(super) inbox: mpsc::Sender<Socket>,
}

/// Accepts from one listener until the process drains. Closes the listener then.
pub(super) async fn run(app: Arc<App>, listener: Listener, desks: Arc<[Desk]>, mut stage: watch::Receiver<Stage>) {
    let listener = match AsyncFd::register(listener) {
        Ok(listener) => listener,
        Err(error) => return app.errors.write(Level::Error, format_args!("a listener cannot be watched: {error}")),
    };
    loop {
        tokio::select! {
            ready = listener.readable() => match ready {
                Ok(mut guard) => {
                    if let Ok(accepted) = guard.try_io(|l| l.get_ref().accept()) {
                        take(&app, accepted, &desks).await;
                    }
                }
                Err(error) => {
                    return app.errors.write(Level::Error, format_args!("a listener cannot be watched: {error}"));
                }
            },
            _ = stage.wait_for(|stage| *stage != Stage::Running) => return,
        }
    }
}

async fn take(app: &App, accepted: io::Result<Socket>, desks: &[Desk]) {
    let socket = match accepted {
        Ok(socket) => socket,
        // The client was gone before we came to it.
        Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) => {
            return;
        }
        Err(error) => {
            app.errors.write(Level::Error, format_args!("no connection can be accepted: {error}"));
            return tokio::time::sleep(REST).await;
        }
    };
    let open: usize = desks.iter().map(|d| d.tally.connections.load(Ordering::Relaxed)).sum();
    if open >= app.settings.limits.connections {
        app.errors.write(Level::Warn, format_args!("a connection was closed: {open} are open (`limits.connections`)"));
        return;
    }
    let busy =
        |desk: &&Desk| (desk.tally.streams.load(Ordering::Relaxed), desk.tally.connections.load(Ordering::Relaxed));
    if let Some(desk) = desks.iter().min_by_key(busy) {
        // Counted here, so that a burst of connections spreads before the workers come to them.
        desk.tally.connections.fetch_add(1, Ordering::Relaxed);
        if desk.inbox.send(socket).await.is_err() {
            desk.tally.connections.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
