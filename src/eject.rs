//! Layer 1: outlier ejection. Replicas that fail are ejected, by nginx's `max_fails` and `fail_timeout`, and come back
//! by a half-open probe; ejection times may grow.

use std::time::Duration;

use crate::units::Moment;

/// The longest ejection time that backoff reaches.
const MAX_EJECTION_TIME: Duration = Duration::from_secs(300);

/// The state of a replica, as far as failures are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EjectState {
    /// It may be chosen.
    Admitted,
    /// Its ejection time is over: it may be chosen, and the next failure ejects it again at once.
    Probing,
    /// It may not be chosen.
    Ejected {
        /// The end of the ejection.
        ends_at: Moment,
        /// The cause of the ejection.
        cause: EjectCause,
    },
}

/// Why a replica is ejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EjectCause {
    /// Its port refused the connection.
    Refused,
    /// Its requests failed.
    Failed,
    /// Requests were pending on it and it sent no data, while other replicas responded.
    Stalled,
    /// Its health checks failed.
    HealthCheck,
}

impl EjectCause {
    /// All causes.
    pub const ALL: [Self; 4] = [Self::Refused, Self::Failed, Self::Stalled, Self::HealthCheck];

    /// Returns the cause's name in metric labels and on the admin listener.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Stalled => "stalled",
            Self::HealthCheck => "check",
        }
    }

    /// Returns whether the cause is inferred from the outcome of requests, so that it may be wrong, or about the
    /// requests. A refused connection is certain, and a health check is explicit.
    pub const fn is_passive(self) -> bool {
        matches!(self, Self::Failed | Self::Stalled)
    }
}

/// The limits for failures, with nginx's names and meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EjectLimits {
    /// The number of failures within `fail_timeout` that eject; 0 never ejects.
    pub max_fails: u32,
    /// The time in which failures are counted, and the time that an ejection lasts.
    pub fail_timeout: Duration,
    /// Whether the n-th consecutive ejection lasts n times as long, up to 300 s. In nginx it does not.
    pub backoff: bool,
}

impl Default for EjectLimits {
    /// Returns nginx's limits, one failure ejects for 10 s, but with backoff.
    fn default() -> Self {
        Self { max_fails: 1, fail_timeout: Duration::from_secs(10), backoff: true }
    }
}

/// The failures of one replica.
///
/// Source: nginx `ngx_http_upstream_round_robin.c`, `fails`, `accessed` and `checked`.
#[derive(Clone, Debug)]
pub struct Ejector {
    limits: EjectLimits,
    fails: u32,
    failed_at: Moment,
    /// The start of the ejection time: the last failure or the last probe.
    checked_at: Moment,
    /// A request was chosen as a probe.
    probing: bool,
    /// Ejections without a successful probe between them.
    consecutive_ejections: u32,
    /// The cause of the ejection, or of the last failure.
    cause: EjectCause,
}

impl Ejector {
    /// Returns an ejector without failures.
    pub const fn new(limits: EjectLimits) -> Self {
        Self {
            limits,
            fails: 0,
            failed_at: Moment::ZERO,
            checked_at: Moment::ZERO,
            probing: false,
            consecutive_ejections: 0,
            cause: EjectCause::Refused,
        }
    }

    /// Returns the same history with other limits.
    #[must_use]
    pub const fn with_limits(self, limits: EjectLimits) -> Self {
        Self { limits, ..self }
    }

    /// Returns whether the replica may be chosen.
    pub fn state(&self, now: Moment) -> EjectState {
        if !self.is_over_limit() {
            return EjectState::Admitted;
        }
        let ends_at = self.checked_at + self.ejection_time();
        if now > ends_at { EjectState::Probing } else { EjectState::Ejected { ends_at, cause: self.cause } }
    }

    /// Returns the failures that count at `now`.
    pub fn failures(&self, now: Moment) -> u32 {
        if now.since(self.failed_at) > self.limits.fail_timeout && !self.is_over_limit() { 0 } else { self.fails }
    }

    /// Returns whether there are enough failures for an ejection; also true while probing.
    pub const fn is_over_limit(&self) -> bool {
        self.limits.max_fails > 0 && self.fails >= self.limits.max_fails
    }

    /// Returns the cause of the ejection; `None` if the replica is admitted.
    pub fn cause(&self) -> Option<EjectCause> {
        self.is_over_limit().then_some(self.cause)
    }

    /// Returns the time that the current ejection lasts.
    pub fn ejection_time(&self) -> Duration {
        let EjectLimits { fail_timeout, backoff, .. } = self.limits;
        if !backoff || self.consecutive_ejections <= 1 {
            return fail_timeout;
        }
        fail_timeout.saturating_mul(self.consecutive_ejections).min(MAX_EJECTION_TIME).max(fail_timeout)
    }

    /// Returns the number of periods, of `fail_timeout` and a second, since the replica was last chosen or failed.
    /// nginx halves the weight of what it knows about a replica after each.
    pub fn missed_periods(&self, now: Moment) -> u32 {
        let elapsed = now.since(self.checked_at);
        if elapsed <= self.limits.fail_timeout {
            return 0;
        }
        u32::try_from(elapsed.as_secs() / (self.limits.fail_timeout.as_secs() + 1)).unwrap_or(u32::MAX)
    }

    /// Records that the replica was chosen. If that was a probe, the next one is due after another ejection time.
    pub fn record_chosen(&mut self, now: Moment) {
        if now.since(self.checked_at) > self.ejection_time() {
            self.checked_at = now;
            self.probing = self.is_over_limit();
        }
    }

    /// Records a failure that was the replica's fault. Returns whether it begins an ejection, the first or a further
    /// one.
    pub fn record_failure(&mut self, cause: EjectCause, now: Moment) -> bool {
        let was_ejected = self.is_over_limit() && !self.probing;
        self.fails = self.fails.saturating_add(1);
        (self.failed_at, self.checked_at, self.probing) = (now, now, false);
        // Failures of requests that were pending at the ejection do not change its cause.
        if !was_ejected {
            self.cause = cause;
        }
        self.begin_ejection(was_ejected)
    }

    /// Ejects the replica at once, unless `max_fails` is 0. Returns whether that begins an ejection.
    pub fn eject(&mut self, cause: EjectCause, now: Moment) -> bool {
        if self.limits.max_fails == 0 {
            return false;
        }
        self.fails = self.fails.max(self.limits.max_fails - 1);
        self.record_failure(cause, now)
    }

    fn begin_ejection(&mut self, was_ejected: bool) -> bool {
        let begins = self.is_over_limit() && !was_ejected;
        self.consecutive_ejections = self.consecutive_ejections.saturating_add(u32::from(begins));
        begins
    }

    /// Records a success: it clears the failures from before the request was sent.
    pub fn record_success(&mut self) {
        if self.failed_at < self.checked_at {
            self.reset();
        }
    }

    /// Clears all failures.
    pub const fn reset(&mut self) {
        (self.fails, self.consecutive_ejections, self.probing) = (0, 0, false);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at_seconds(seconds: u64) -> Moment {
        Moment::ZERO + Duration::from_secs(seconds)
    }

    fn new_ejector(max_fails: u32) -> Ejector {
        Ejector::new(EjectLimits { max_fails, fail_timeout: Duration::from_secs(10), backoff: false })
    }

    fn ejected_until(seconds: u64) -> EjectState {
        EjectState::Ejected { ends_at: at_seconds(seconds), cause: EjectCause::Refused }
    }

    #[test]
    fn max_fails_within_fail_timeout_eject_for_fail_timeout() {
        let mut ejector = new_ejector(2);
        ejector.record_failure(EjectCause::Refused, at_seconds(100));
        assert_eq!(ejector.state(at_seconds(100)), EjectState::Admitted);
        ejector.record_failure(EjectCause::Refused, at_seconds(101));
        assert_eq!(ejector.state(at_seconds(111)), ejected_until(111));
        assert_eq!(ejector.state(at_seconds(112)), EjectState::Probing);
    }

    #[test]
    fn one_request_probes_and_its_failure_ejects_again() {
        let mut ejector = new_ejector(1);
        ejector.record_failure(EjectCause::Refused, at_seconds(100));
        ejector.record_chosen(at_seconds(111));
        assert_eq!(ejector.state(at_seconds(112)), ejected_until(121));
        ejector.record_failure(EjectCause::Refused, at_seconds(113));
        assert_eq!(ejector.state(at_seconds(123)), ejected_until(123));
    }

    #[test]
    fn successful_probe_readmits() {
        let mut ejector = new_ejector(1);
        ejector.record_failure(EjectCause::Refused, at_seconds(100));
        ejector.record_chosen(at_seconds(111));
        ejector.record_success();
        assert_eq!(ejector.state(at_seconds(111)), EjectState::Admitted);
    }

    #[test]
    fn unchosen_replica_misses_a_period_each_fail_timeout() {
        let mut ejector = new_ejector(1);
        ejector.record_chosen(at_seconds(100));
        let missed = [105, 110, 111, 121, 122, 133].map(|second| ejector.missed_periods(at_seconds(second)));
        assert_eq!(missed, [0, 0, 1, 1, 2, 3]);
        ejector.record_chosen(at_seconds(133));
        assert_eq!(ejector.missed_periods(at_seconds(133)), 0);
    }

    #[test]
    fn max_fails_zero_never_ejects() {
        let mut ejector = new_ejector(0);
        for _ in 0..100 {
            ejector.record_failure(EjectCause::Refused, at_seconds(5));
        }
        assert_eq!(ejector.state(at_seconds(5)), EjectState::Admitted);
    }

    #[test]
    fn failures_further_apart_than_fail_timeout_do_not_add_up() {
        let mut ejector = new_ejector(2);
        ejector.record_failure(EjectCause::Refused, at_seconds(100));
        ejector.record_chosen(at_seconds(120));
        ejector.record_success();
        ejector.record_failure(EjectCause::Refused, at_seconds(121));
        assert_eq!(ejector.state(at_seconds(121)), EjectState::Admitted);
    }

    #[test]
    fn consecutive_ejections_grow_up_to_five_minutes_until_a_probe_succeeds() {
        let mut ejector = Ejector::new(EjectLimits::default());
        let mut now = 100;
        for seconds in [10, 20, 30, 40] {
            assert!(ejector.record_failure(EjectCause::Failed, at_seconds(now)));
            assert!(
                !ejector.record_failure(EjectCause::Failed, at_seconds(now)),
                "pending requests that fail do not count again"
            );
            assert_eq!(ejector.ejection_time(), Duration::from_secs(seconds));
            now += seconds + 1;
            assert_eq!(ejector.state(at_seconds(now)), EjectState::Probing);
            ejector.record_chosen(at_seconds(now));
            assert_ne!(ejector.state(at_seconds(now)), EjectState::Probing, "one request probes");
        }
        ejector.record_success();
        ejector.record_failure(EjectCause::Failed, at_seconds(now + 1));
        assert_eq!(ejector.ejection_time(), Duration::from_secs(10));
        for _ in 0..100 {
            now += 301;
            ejector.record_chosen(at_seconds(now));
            ejector.record_failure(EjectCause::Failed, at_seconds(now));
        }
        assert_eq!(ejector.ejection_time(), MAX_EJECTION_TIME);
        let mut slow = Ejector::new(EjectLimits { fail_timeout: Duration::from_secs(600), ..EjectLimits::default() });
        slow.record_failure(EjectCause::Failed, at_seconds(1));
        slow.record_chosen(at_seconds(700));
        slow.record_failure(EjectCause::Failed, at_seconds(700));
        assert_eq!(slow.ejection_time(), Duration::from_secs(600), "a longer fail_timeout is not cut");
    }

    #[test]
    fn first_cause_stays_until_the_replica_is_readmitted() {
        let mut ejector = new_ejector(1);
        ejector.record_failure(EjectCause::Refused, at_seconds(100));
        ejector.record_failure(EjectCause::Failed, at_seconds(101));
        assert_eq!(ejector.cause(), Some(EjectCause::Refused));
        ejector.record_chosen(at_seconds(120));
        ejector.record_failure(EjectCause::Failed, at_seconds(121));
        assert_eq!(ejector.cause(), Some(EjectCause::Failed));
        ejector.reset();
        assert_eq!((ejector.cause(), ejector.state(at_seconds(121))), (None, EjectState::Admitted));
        let mut never = new_ejector(0);
        assert!(!never.eject(EjectCause::Stalled, at_seconds(5)));
        assert_eq!(never.state(at_seconds(5)), EjectState::Admitted);
    }

    /// Applies the event with this number.
    fn apply_step(ejector: &mut Ejector, event: u8, now: Moment) {
        match event {
            0 => drop(ejector.record_failure(EjectCause::Failed, now)),
            1 => drop(ejector.record_failure(EjectCause::Refused, now)),
            2 => ejector.record_success(),
            3 => drop(ejector.eject(EjectCause::Stalled, now)),
            _ if !matches!(ejector.state(now), EjectState::Ejected { .. }) => ejector.record_chosen(now),
            _ => {}
        }
    }

    proptest! {
        #[test]
        fn every_ejection_ends_and_one_request_probes(
            (max_fails, seconds, backoff) in (0u32..5, 1u64..400, any::<bool>()),
            steps in prop::collection::vec((0u8..6, 0u64..60_000), 1..200),
        ) {
            let fail_timeout = Duration::from_secs(seconds);
            let mut ejector = Ejector::new(EjectLimits { max_fails, fail_timeout, backoff });
            let mut now = at_seconds(1);
            for (event, milliseconds) in steps {
                now = now + Duration::from_millis(milliseconds);
                apply_step(&mut ejector, event, now);
                let max_time = if backoff { fail_timeout.max(MAX_EJECTION_TIME) } else { fail_timeout };
                if let EjectState::Ejected { ends_at, .. } = ejector.state(now) {
                    prop_assert!(max_fails > 0 && ends_at.since(now) <= max_time);
                }
                let later = now + max_time + Duration::from_secs(1);
                match ejector.clone().state(later) {
                    EjectState::Ejected { .. } => prop_assert!(false, "ejected for longer than {max_time:?}"),
                    EjectState::Admitted => {}
                    EjectState::Probing => {
                        let mut probed = ejector.clone();
                        probed.record_chosen(later);
                        let is_ejected = matches!(probed.state(later), EjectState::Ejected { .. });
                        prop_assert!(is_ejected);
                        probed.record_success();
                        prop_assert_eq!(probed.state(later), EjectState::Admitted);
                        prop_assert_eq!(probed.ejection_time(), fail_timeout);
                    }
                }
            }
        }

        #[test]
        fn successes_never_eject(steps in prop::collection::vec((any::<bool>(), 0u64..60), 1..100)) {
            let mut ejector = Ejector::new(EjectLimits::default());
            let mut now = at_seconds(0);
            for (succeeds, seconds) in steps {
                now = now + Duration::from_secs(seconds);
                if succeeds { ejector.record_success() } else { ejector.record_chosen(now) }
                prop_assert_eq!(ejector.state(now), EjectState::Admitted);
            }
        }
    }
}
