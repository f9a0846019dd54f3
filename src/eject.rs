//! Floor 1: when a replica that failed is left alone, and when it is asked again. nginx's `max_fails` and `fail_timeout`.

use std::time::Duration;

use crate::units::Moment;

/// Whether a replica may be chosen now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It may.
    Admitted,
    /// Its time away is over: it may be chosen, and the next failure ejects it again at once.
    Probing,
    /// It may not, before this moment.
    Ejected {
        /// When it may be asked again.
        until: Moment,
    },
}

/// When failures eject: nginx's words with nginx's meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Failures within `fail_timeout` that eject; 0 never ejects.
    pub max_fails: u32,
    /// The time in which failures are counted, and the time an ejection lasts.
    pub fail_timeout: Duration,
}

impl Default for Limits {
    /// nginx's: one failure ejects for 10 s.
    fn default() -> Self {
        Self { max_fails: 1, fail_timeout: Duration::from_secs(10) }
    }
}

/// Counts the failures of one replica.
///
/// Source: nginx `ngx_http_upstream_round_robin.c`, `fails`, `accessed` and `checked`.
#[derive(Clone, Debug)]
pub struct Ejector {
    limits: Limits,
    fails: u32,
    failed_at: Moment,
    /// The start of the time away that counts: the last failure, or the last probe.
    checked_at: Moment,
}

impl Ejector {
    /// An ejector that has seen nothing yet.
    pub const fn new(limits: Limits) -> Self {
        Self { limits, fails: 0, failed_at: Moment::ZERO, checked_at: Moment::ZERO }
    }

    /// The same history under other limits.
    #[must_use]
    pub const fn with(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// Tells whether the replica may be chosen.
    pub fn admits(&self, now: Moment) -> Admission {
        if self.limits.max_fails == 0 || self.fails < self.limits.max_fails {
            return Admission::Admitted;
        }
        let until = self.checked_at + self.limits.fail_timeout;
        if now > until { Admission::Probing } else { Admission::Ejected { until } }
    }

    /// How often the replica could have been looked at again since it was last chosen for that, or failed: whole times of
    /// `fail_timeout` and a second. nginx believes what it knows of a replica half as much after each.
    pub fn rounds_missed(&self, now: Moment) -> u32 {
        let away = now.since(self.checked_at);
        if away <= self.limits.fail_timeout {
            return 0;
        }
        u32::try_from(away.as_secs() / (self.limits.fail_timeout.as_secs() + 1)).unwrap_or(u32::MAX)
    }

    /// Is told that the replica was chosen: while it is probing, the next request waits another `fail_timeout`.
    pub fn chosen(&mut self, now: Moment) {
        if now.since(self.checked_at) > self.limits.fail_timeout {
            self.checked_at = now;
        }
    }

    /// Counts a failure that was the replica's fault.
    pub const fn failed(&mut self, now: Moment) {
        self.fails = self.fails.saturating_add(1);
        self.failed_at = now;
        self.checked_at = now;
    }

    /// Counts an answer: it clears the failures that came before the request was sent.
    pub fn served(&mut self) {
        if self.failed_at < self.checked_at {
            self.fails = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::ZERO + Duration::from_secs(seconds)
    }

    fn ejector(max_fails: u32) -> Ejector {
        Ejector::new(Limits { max_fails, fail_timeout: Duration::from_secs(10) })
    }

    #[test]
    fn max_fails_within_fail_timeout_eject_for_fail_timeout() {
        let mut ejector = ejector(2);
        ejector.failed(at(100));
        assert_eq!(ejector.admits(at(100)), Admission::Admitted);
        ejector.failed(at(101));
        assert_eq!(ejector.admits(at(111)), Admission::Ejected { until: at(111) });
        assert_eq!(ejector.admits(at(112)), Admission::Probing);
    }

    #[test]
    fn one_request_probes_and_its_failure_ejects_again() {
        let mut ejector = ejector(1);
        ejector.failed(at(100));
        ejector.chosen(at(111));
        assert_eq!(ejector.admits(at(112)), Admission::Ejected { until: at(121) });
        ejector.failed(at(113));
        assert_eq!(ejector.admits(at(123)), Admission::Ejected { until: at(123) });
    }

    #[test]
    fn a_served_probe_readmits() {
        let mut ejector = ejector(1);
        ejector.failed(at(100));
        ejector.chosen(at(111));
        ejector.served();
        assert_eq!(ejector.admits(at(111)), Admission::Admitted);
    }

    #[test]
    fn a_replica_that_is_not_chosen_misses_a_round_each_fail_timeout() {
        let mut ejector = ejector(1);
        ejector.chosen(at(100));
        let missed = [105, 110, 111, 121, 122, 133].map(|second| ejector.rounds_missed(at(second)));
        assert_eq!(missed, [0, 0, 1, 1, 2, 3]);
        ejector.chosen(at(133));
        assert_eq!(ejector.rounds_missed(at(133)), 0);
    }

    #[test]
    fn max_fails_zero_never_ejects() {
        let mut ejector = ejector(0);
        for _ in 0..100 {
            ejector.failed(at(5));
        }
        assert_eq!(ejector.admits(at(5)), Admission::Admitted);
    }

    #[test]
    fn failures_further_apart_than_fail_timeout_do_not_add_up() {
        let mut ejector = ejector(2);
        ejector.failed(at(100));
        ejector.chosen(at(120));
        ejector.served();
        ejector.failed(at(121));
        assert_eq!(ejector.admits(at(121)), Admission::Admitted);
    }
}
