//! TCP keep-alive: the kernel probes the peer of a connection on which nothing is sent.

use std::io;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

/// Time between two probes. The kernel gives a peer up that leaves some of them unanswered: nine on Linux.
const PROBE_INTERVAL: Duration = Duration::from_secs(15);

/// Makes the kernel probe the peer after `idle` without data; zero turns probes off. Connections inherit it from their
/// listener.
///
/// *Errors*: the socket is closed.
pub fn set_tcp_keepalive(socket: &SockRef<'_>, idle: Duration) -> io::Result<()> {
    if idle.is_zero() {
        return socket.set_keepalive(false);
    }
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(idle).with_interval(PROBE_INTERVAL))
}
