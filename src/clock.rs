//! Layer 3: the only file that reads a clock or the operating system's randomness. All other code gets a [`Moment`] or
//! a seed as an argument.
#![expect(clippy::disallowed_methods, reason = "clippy.toml bans clocks everywhere except in this file")]

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::units::Moment;

/// A clock with the time since its start and the time of day.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// Returns a clock whose `Moment::ZERO` is now.
    pub fn start() -> Self {
        Self { start: Instant::now() }
    }

    /// Returns the monotonic time. *Cost*: about 25 ns.
    pub fn now(&self) -> Moment {
        Moment::ZERO + self.start.elapsed()
    }

    /// Returns `moment` as a deadline for the runtime's timers.
    pub fn deadline(&self, moment: Moment) -> tokio::time::Instant {
        (self.start + moment.since(Moment::ZERO)).into()
    }

    /// Returns the time since the Unix epoch; zero if the machine's clock is before 1970.
    pub fn unix_time(&self) -> Duration {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
    }
}

/// Returns a new seed from the operating system's randomness.
pub fn random_seed() -> u64 {
    RandomState::new().hash_one(0u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_monotonic_and_seeds_differ() {
        let clock = Clock::start();
        let first = clock.now();
        assert!(clock.now() >= first);
        assert_ne!(random_seed(), random_seed());
    }
}
