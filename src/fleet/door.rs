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
pub struct Door {
    shut: AtomicBool,
    /// The first refusal since the last success, or the last event of a stream after it, in nanoseconds.
    quiet_since: AtomicU64,
}

impl Door {
    /// Takes note of a connection that was refused: nobody listens. To be told of every such attempt, whatever it was for.
    pub fn refused(&self, now: Moment) {
        if !self.shut.load(Ordering::Relaxed) {
            self.quiet_since.store(now.as_nanos(), Ordering::Relaxed);
            self.shut.store(true, Ordering::Release);
        }
    }

    /// Takes note of a connection that came about.
    pub fn opened(&self) {
        if self.shut.load(Ordering::Relaxed) {
            self.shut.store(false, Ordering::Release);
        }
    }

    /// Takes note of a sign of life on a stream. *Cost*: one load while the port takes connections.
    pub fn stirs(&self, now: Moment) {
        if self.shut.load(Ordering::Relaxed) {
            self.quiet_since.fetch_max(now.as_nanos(), Ordering::Relaxed);
        }
    }

    /// Tells whether nothing more will come by the streams that are open: the port has refused connections and all
    /// streams have been silent for [`HUNG_AFTER`].
    pub fn has_hung(&self, now: Moment) -> bool {
        self.is_quiet_for(HUNG_AFTER, now)
    }

    /// Tells whether the port refuses connections and nothing has come for `time`.
    pub fn is_quiet_for(&self, time: Duration, now: Moment) -> bool {
        let quiet_since = || Moment::from_nanos(self.quiet_since.load(Ordering::Relaxed));
        self.shut.load(Ordering::Acquire) && now.since(quiet_since()) >= time
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::ZERO + Duration::from_secs(seconds)
    }

    #[test]
    fn a_port_that_refuses_and_streams_that_are_silent_make_a_hung_replica() {
        let door = Door::default();
        door.stirs(at(1));
        assert!(!door.has_hung(at(100)), "nobody was refused");
        door.refused(at(100));
        door.refused(at(104));
        assert!(!door.has_hung(at(104)) && door.has_hung(at(105)), "counted from the first refusal");
    }

    #[test]
    fn a_replica_that_closes_its_port_and_finishes_its_streams_has_not_hung() {
        let door = Door::default();
        door.refused(at(10));
        for second in 11..60 {
            door.stirs(at(second));
            assert!(!door.has_hung(at(second + 4)), "{second}");
        }
        assert!(door.has_hung(at(64)));
    }

    #[test]
    fn a_connection_that_comes_about_ends_the_suspicion() {
        let door = Door::default();
        door.refused(at(10));
        door.opened();
        assert!(!door.has_hung(at(60)));
        door.refused(at(60));
        assert!(!door.has_hung(at(64)) && door.has_hung(at(65)));
    }
}
