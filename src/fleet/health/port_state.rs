//! Whether a replica's port accepts connections, and since when a replica with a closed port has been silent.
//!
//! A vLLM server that fails to shut down keeps its streams open without sending a byte, while its port refuses
//! connections. A server that shuts down gracefully closes its port too, but its streams still send data.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::units::Moment;

/// Time after which a replica with a closed port and silent streams has hung.
pub const HUNG_AFTER: Duration = Duration::from_secs(5);

/// The state of a replica's port.
#[derive(Debug, Default)]
pub struct PortState {
    closed: AtomicBool,
    /// In nanoseconds: the first refusal since the last connection, or the last stream data after it.
    silent_since: AtomicU64,
}

impl PortState {
    /// Records a refused connection. Call it for every attempt, whatever its purpose.
    pub fn record_refused(&self, now: Moment) {
        if !self.closed.load(Ordering::Relaxed) {
            self.silent_since.store(now.as_nanos(), Ordering::Relaxed);
            self.closed.store(true, Ordering::Release);
        }
    }

    /// Records an accepted connection.
    pub fn record_connected(&self) {
        if self.closed.load(Ordering::Relaxed) {
            self.closed.store(false, Ordering::Release);
        }
    }

    /// Records data on a stream. *Cost*: one load while the port is open.
    pub fn record_activity(&self, now: Moment) {
        if self.closed.load(Ordering::Relaxed) {
            self.silent_since.fetch_max(now.as_nanos(), Ordering::Relaxed);
        }
    }

    /// Returns whether the replica has hung: its port refuses connections and no stream has sent data for
    /// [`HUNG_AFTER`].
    pub fn is_hung(&self, now: Moment) -> bool {
        self.is_closed_and_silent_for(HUNG_AFTER, now)
    }

    /// Returns whether the port refuses connections and no stream has sent data for `time`.
    pub fn is_closed_and_silent_for(&self, time: Duration, now: Moment) -> bool {
        let silent_since = || Moment::from_nanos(self.silent_since.load(Ordering::Relaxed));
        self.closed.load(Ordering::Acquire) && now.since(silent_since()) >= time
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at_seconds(seconds: u64) -> Moment {
        Moment::ZERO + Duration::from_secs(seconds)
    }

    #[test]
    fn replica_with_closed_port_and_silent_streams_is_hung() {
        let port = PortState::default();
        port.record_activity(at_seconds(1));
        assert!(!port.is_hung(at_seconds(100)), "no connection was refused");
        port.record_refused(at_seconds(100));
        port.record_refused(at_seconds(104));
        assert!(!port.is_hung(at_seconds(104)) && port.is_hung(at_seconds(105)), "counted from the first refusal");
    }

    #[test]
    fn replica_with_closed_port_and_active_streams_is_not_hung() {
        let port = PortState::default();
        port.record_refused(at_seconds(10));
        for second in 11..60 {
            port.record_activity(at_seconds(second));
            assert!(!port.is_hung(at_seconds(second + 4)), "{second}");
        }
        assert!(port.is_hung(at_seconds(64)));
    }

    #[test]
    fn accepted_connection_reopens_the_port() {
        let port = PortState::default();
        port.record_refused(at_seconds(10));
        port.record_connected();
        assert!(!port.is_hung(at_seconds(60)));
        port.record_refused(at_seconds(60));
        assert!(!port.is_hung(at_seconds(64)) && port.is_hung(at_seconds(65)));
    }
}
