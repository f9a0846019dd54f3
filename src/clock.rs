//! The one file that reads a clock or the operating system's randomness. Everything else is handed a [`Moment`] or a seed.
#![expect(clippy::disallowed_methods, reason = "this is the file that clippy.toml points to")]

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::units::Moment;

/// Tells the time since the process asked first, and the time of day.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// A clock whose `Moment::ZERO` is now.
    pub fn start() -> Self {
        Self { start: Instant::now() }
    }

    /// The monotonic time. *Cost*: about 25 ns.
    pub fn now(&self) -> Moment {
        Moment::ZERO + self.start.elapsed()
    }

    /// `moment` as the runtime's timers want it.
    pub fn deadline(&self, moment: Moment) -> tokio::time::Instant {
        (self.start + moment.since(Moment::ZERO)).into()
    }

    /// The time of day as time since the Unix epoch; zero on a machine whose clock stands before 1970.
    pub fn unix_time(&self) -> Duration {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
    }
}

/// A fresh seed from the operating system's randomness, for the dice that are handed down.
pub fn random_seed() -> u64 {
    RandomState::new().hash_one(0u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_does_not_go_back_and_seeds_differ() {
        let clock = Clock::start();
        let first = clock.now();
        assert!(clock.now() >= first);
        assert_ne!(random_seed(), random_seed());
    }
}
