//! Whether a replica's port takes connections, and how long nothing has come from one that does not.
//!
//! A vLLM that was told to stop and cannot keeps its streams open for ever, without a byte, while its port refuses
//! connections. A server that closes its port and lets its streams finish looks the same but for what comes by them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::units::Moment;

/// A replica whose port refuses connections and that has sent nothing on any stream for so long has hung.
pub const HUNG_AFTER: Duration = Duration::from_secs(5);

/// A replica's port.
#[derive(Debug, Default)]
pub struct PortState {
    closed: AtomicBool,
    /// The first refusal since the last success, or the last event of a stream after it, in nanoseconds.
    silent_since: AtomicU64,
}

impl PortState {
    /// Takes note of a connection that was refused: nobody listens. To be told of every such attempt, whatever it was for.
    pub fn record_refused(&self, now: Moment) {
        if !self.closed.load(Ordering::Relaxed) {
            self.silent_since.store(now.as_nanos(), Ordering::Relaxed);
            self.closed.store(true, Ordering::Release);
        }
    }

    /// Takes note of a connection that came about.
    pub fn record_connected(&self) {
        if self.closed.load(Ordering::Relaxed) {
            self.closed.store(false, Ordering::Release);
        }
    }

    /// Takes note of a sign of life on a stream. *Cost*: one load while the port takes connections.
    pub fn record_activity(&self, now: Moment) {
        if self.closed.load(Ordering::Relaxed) {
            self.silent_since.fetch_max(now.as_nanos(), Ordering::Relaxed);
        }
    }

    /// Tells whether nothing more will come by the streams that are open: the port has refused connections and all
    /// streams have been silent for [`HUNG_AFTER`].
    pub fn is_hung(&self, now: Moment) -> bool {
        self.is_closed_and_silent_for(HUNG_AFTER, now)
    }

    /// Tells whether the port refuses connections and nothing has come for `time`.
    pub fn is_closed_and_silent_for(&self, time: Duration, now: Moment) -> bool {
        let quiet_since = || Moment::from_nanos(self.silent_since.load(Ordering::Relaxed));
        self.closed.load(Ordering::Acquire) && now.since(quiet_since()) >= time
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at_seconds(seconds: u64) -> Moment {
        Moment::ZERO + Duration::from_secs(seconds)
    }

    #[test]
    fn a_port_that_refuses_and_streams_that_are_silent_make_a_hung_replica() {
        let door = PortState::default();
        door.record_activity(at_seconds(1));
        assert!(!door.is_hung(at_seconds(100)), "nobody was refused");
        door.record_refused(at_seconds(100));
        door.record_refused(at_seconds(104));
        assert!(!door.is_hung(at_seconds(104)) && door.is_hung(at_seconds(105)), "counted from the first refusal");
    }

    #[test]
    fn a_replica_that_closes_its_port_and_finishes_its_streams_has_not_hung() {
        let door = PortState::default();
        door.record_refused(at_seconds(10));
        for second in 11..60 {
            door.record_activity(at_seconds(second));
            assert!(!door.is_hung(at_seconds(second + 4)), "{second}");
        }
        assert!(door.is_hung(at_seconds(64)));
    }

    #[test]
    fn a_connection_that_comes_about_ends_the_suspicion() {
        let door = PortState::default();
        door.record_refused(at_seconds(10));
        door.record_connected();
        assert!(!door.is_hung(at_seconds(60)));
        door.record_refused(at_seconds(60));
        assert!(!door.is_hung(at_seconds(64)) && door.is_hung(at_seconds(65)));
    }
}
