//! Floor 1: when a replica that failed is left alone, and when it is asked again. nginx's `max_fails` and `fail_timeout`,
//! and times away that grow.

use std::time::Duration;

use crate::units::Moment;

/// The longest that grown times away become.
const MAX_EJECTION_TIME: Duration = Duration::from_secs(300);

/// Whether a replica may be chosen now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EjectState {
    /// It may.
    Admitted,
    /// Its time away is over: it may be chosen, and the next failure ejects it again at once.
    Probing,
    /// It may not, before this moment.
    Ejected {
        /// When it may be asked again.
        ends_at: Moment,
        /// What ejected it.
        cause: EjectCause,
    },
}

/// What a replica did that it is left alone for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EjectCause {
    /// It could not be connected to.
    Refused,
    /// It took requests and failed them.
    Failed,
    /// It took requests and nothing came while others answered.
    Stalled,
    /// It fails its checks.
    HealthCheck,
}

impl EjectCause {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Refused, Self::Failed, Self::Stalled, Self::HealthCheck];

    /// The cause's name in metric labels and on the admin listener.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Stalled => "stalled",
            Self::HealthCheck => "check",
        }
    }

    /// Tells whether it is concluded from what requests met: that may be wrong, or about the requests. A refused connection
    /// is a fact, and a check is asked for.
    pub const fn is_passive(self) -> bool {
        matches!(self, Self::Failed | Self::Stalled)
    }
}

/// When failures eject: nginx's words with nginx's meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EjectLimits {
    /// Failures within `fail_timeout` that eject; 0 never ejects.
    pub max_fails: u32,
    /// The time in which failures are counted, and the time an ejection lasts.
    pub fail_timeout: Duration,
    /// Whether the n-th ejection in a row lasts n times as long, up to 300 s. nginx's do not.
    pub backoff: bool,
}

impl Default for EjectLimits {
    /// nginx's: one failure ejects for 10 s. Unlike nginx's, the times grow.
    fn default() -> Self {
        Self { max_fails: 1, fail_timeout: Duration::from_secs(10), backoff: true }
    }
}

/// Counts the failures of one replica.
///
/// Source: nginx `ngx_http_upstream_round_robin.c`, `fails`, `accessed` and `checked`.
#[derive(Clone, Debug)]
pub struct Ejector {
    limits: EjectLimits,
    fails: u32,
    failed_at: Moment,
    /// The start of the time away that counts: the last failure, or the last probe.
    checked_at: Moment,
    /// A request was chosen to find out whether it is back.
    probing: bool,
    /// Ejections without a served probe between them.
    consecutive_ejections: u32,
    /// What the last failure was.
    cause: EjectCause,
}

impl Ejector {
    /// An ejector that has seen nothing yet.
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

    /// The same history under other limits.
    #[must_use]
    pub const fn with_limits(self, limits: EjectLimits) -> Self {
        Self { limits, ..self }
    }

    /// Tells whether the replica may be chosen.
    pub fn state(&self, now: Moment) -> EjectState {
        if !self.is_over_limit() {
            return EjectState::Admitted;
        }
        let until = self.checked_at + self.ejection_time();
        if now > until { EjectState::Probing } else { EjectState::Ejected { ends_at: until, cause: self.cause } }
    }

    /// Tells whether it has failed so often that it is ejected, or probed.
    pub const fn is_over_limit(&self) -> bool {
        self.limits.max_fails > 0 && self.fails >= self.limits.max_fails
    }

    /// What the last failure was, if it is out.
    pub fn cause(&self) -> Option<EjectCause> {
        self.is_over_limit().then_some(self.cause)
    }

    /// How long it is left alone this time.
    pub fn ejection_time(&self) -> Duration {
        let EjectLimits { fail_timeout, backoff: grows, .. } = self.limits;
        if !grows || self.consecutive_ejections <= 1 {
            return fail_timeout;
        }
        fail_timeout.saturating_mul(self.consecutive_ejections).min(MAX_EJECTION_TIME).max(fail_timeout)
    }

    /// How often the replica could have been looked at again since it was last chosen for that, or failed: whole times of
    /// `fail_timeout` and a second. nginx believes what it knows of a replica half as much after each.
    pub fn missed_periods(&self, now: Moment) -> u32 {
        let away = now.since(self.checked_at);
        if away <= self.limits.fail_timeout {
            return 0;
        }
        u32::try_from(away.as_secs() / (self.limits.fail_timeout.as_secs() + 1)).unwrap_or(u32::MAX)
    }

    /// Is told that the replica was chosen: while it is probing, the next request waits another time away.
    pub fn record_chosen(&mut self, now: Moment) {
        if now.since(self.checked_at) > self.ejection_time() {
            self.checked_at = now;
            self.probing = self.is_over_limit();
        }
    }

    /// Counts a failure that was the replica's fault. Returns whether it begins an ejection, the first or a further one.
    pub fn record_failure(&mut self, cause: EjectCause, now: Moment) -> bool {
        let was_away = self.is_over_limit() && !self.probing;
        self.fails = self.fails.saturating_add(1);
        (self.failed_at, self.checked_at, self.probing) = (now, now, false);
        // Requests that were on it when it went do not tell why it went.
        if !was_away {
            self.cause = cause;
        }
        self.begin_ejection(was_away)
    }

    /// Ejects the replica at once, unless it is never to be. Returns whether that begins an ejection.
    pub fn eject(&mut self, cause: EjectCause, now: Moment) -> bool {
        if self.limits.max_fails == 0 {
            return false;
        }
        self.fails = self.fails.max(self.limits.max_fails - 1);
        self.record_failure(cause, now)
    }

    fn begin_ejection(&mut self, was_away: bool) -> bool {
        let goes = self.is_over_limit() && !was_away;
        self.consecutive_ejections = self.consecutive_ejections.saturating_add(u32::from(goes));
        goes
    }

    /// Counts an answer: it clears the failures that came before the request was sent.
    pub fn record_success(&mut self) {
        if self.failed_at < self.checked_at {
            self.reset();
        }
    }

    /// Forgets every failure: whatever it was is over.
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
    fn a_served_probe_readmits() {
        let mut ejector = new_ejector(1);
        ejector.record_failure(EjectCause::Refused, at_seconds(100));
        ejector.record_chosen(at_seconds(111));
        ejector.record_success();
        assert_eq!(ejector.state(at_seconds(111)), EjectState::Admitted);
    }

    #[test]
    fn a_replica_that_is_not_chosen_misses_a_round_each_fail_timeout() {
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
    fn ejections_in_a_row_grow_up_to_five_minutes_until_a_probe_is_served() {
        let mut ejector = Ejector::new(EjectLimits::default());
        let mut now = 100;
        for away in [10, 20, 30, 40] {
            assert!(ejector.record_failure(EjectCause::Failed, at_seconds(now)));
            assert!(
                !ejector.record_failure(EjectCause::Failed, at_seconds(now)),
                "others that were on it do not count twice"
            );
            assert_eq!(ejector.ejection_time(), Duration::from_secs(away));
            now += away + 1;
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
        assert_eq!(slow.ejection_time(), Duration::from_secs(600), "what was asked for is not cut short");
    }

    #[test]
    fn what_ejected_first_is_the_cause_until_it_is_back() {
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

    /// What can happen to a replica, by number.
    fn apply_step(ejector: &mut Ejector, what: u8, now: Moment) {
        match what {
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
        fn nobody_is_away_for_ever_and_one_request_probes(
            (max_fails, seconds, grows) in (0u32..5, 1u64..400, any::<bool>()),
            steps in prop::collection::vec((0u8..6, 0u64..60_000), 1..200),
        ) {
            let fail_timeout = Duration::from_secs(seconds);
            let mut ejector = Ejector::new(EjectLimits { max_fails, fail_timeout, backoff: grows });
            let mut now = at_seconds(1);
            for (what, milliseconds) in steps {
                now = now + Duration::from_millis(milliseconds);
                apply_step(&mut ejector, what, now);
                let most = if grows { fail_timeout.max(MAX_EJECTION_TIME) } else { fail_timeout };
                if let EjectState::Ejected { ends_at, .. } = ejector.state(now) {
                    prop_assert!(max_fails > 0 && ends_at.since(now) <= most);
                }
                let later = now + most + Duration::from_secs(1);
                match ejector.clone().state(later) {
                    EjectState::Ejected { .. } => prop_assert!(false, "away for longer than {most:?}"),
                    EjectState::Admitted => {}
                    EjectState::Probing => {
                        let mut probed = ejector.clone();
                        probed.record_chosen(later);
                        let still_out = matches!(probed.state(later), EjectState::Ejected { .. });
                        prop_assert!(still_out);
                        probed.record_success();
                        prop_assert_eq!(probed.state(later), EjectState::Admitted);
                        prop_assert_eq!(probed.ejection_time(), fail_timeout);
                    }
                }
            }
        }

        #[test]
        fn answers_alone_never_eject(steps in prop::collection::vec((any::<bool>(), 0u64..60), 1..100)) {
            let mut ejector = Ejector::new(EjectLimits::default());
            let mut now = at_seconds(0);
            for (answers, seconds) in steps {
                now = now + Duration::from_secs(seconds);
                if answers { ejector.record_success() } else { ejector.record_chosen(now) }
                prop_assert_eq!(ejector.state(now), EjectState::Admitted);
            }
        }
    }
}
