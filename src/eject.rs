//! Floor 1: when a replica that failed is left alone, and when it is asked again. nginx's `max_fails` and `fail_timeout`,
//! and times away that grow.

use std::time::Duration;

use crate::units::Moment;

/// The longest that grown times away become.
const LONGEST: Duration = Duration::from_secs(300);

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
        /// What ejected it.
        cause: Cause,
    },
}

/// What a replica did that it is left alone for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// It could not be connected to.
    Refused,
    /// It took requests and failed them.
    Failed,
    /// It took requests and nothing came while others answered.
    Stalled,
    /// It fails its checks.
    Check,
}

impl Cause {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Refused, Self::Failed, Self::Stalled, Self::Check];

    /// The cause's name in metric labels and on the admin listener.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Stalled => "stalled",
            Self::Check => "check",
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
pub struct Limits {
    /// Failures within `fail_timeout` that eject; 0 never ejects.
    pub max_fails: u32,
    /// The time in which failures are counted, and the time an ejection lasts.
    pub fail_timeout: Duration,
    /// Whether the n-th ejection in a row lasts n times as long, up to 300 s. nginx's do not.
    pub grows: bool,
}

impl Default for Limits {
    /// nginx's: one failure ejects for 10 s. Unlike nginx's, the times grow.
    fn default() -> Self {
        Self { max_fails: 1, fail_timeout: Duration::from_secs(10), grows: true }
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
    /// A request was chosen to find out whether it is back.
    probing: bool,
    /// Ejections without a served probe between them.
    in_a_row: u32,
    /// What the last failure was.
    cause: Cause,
}

impl Ejector {
    /// An ejector that has seen nothing yet.
    pub const fn new(limits: Limits) -> Self {
        Self {
            limits,
            fails: 0,
            failed_at: Moment::ZERO,
            checked_at: Moment::ZERO,
            probing: false,
            in_a_row: 0,
            cause: Cause::Refused,
        }
    }

    /// The same history under other limits.
    #[must_use]
    pub const fn with(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// Tells whether the replica may be chosen.
    pub fn admits(&self, now: Moment) -> Admission {
        if !self.is_out() {
            return Admission::Admitted;
        }
        let until = self.checked_at + self.away();
        if now > until { Admission::Probing } else { Admission::Ejected { until, cause: self.cause } }
    }

    /// Tells whether it has failed so often that it is ejected, or probed.
    pub const fn is_out(&self) -> bool {
        self.limits.max_fails > 0 && self.fails >= self.limits.max_fails
    }

    /// What the last failure was, if it is out.
    pub fn cause(&self) -> Option<Cause> {
        self.is_out().then_some(self.cause)
    }

    /// How long it is left alone this time.
    pub fn away(&self) -> Duration {
        let Limits { fail_timeout, grows, .. } = self.limits;
        if !grows || self.in_a_row <= 1 {
            return fail_timeout;
        }
        fail_timeout.saturating_mul(self.in_a_row).min(LONGEST).max(fail_timeout)
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

    /// Is told that the replica was chosen: while it is probing, the next request waits another time away.
    pub fn chosen(&mut self, now: Moment) {
        if now.since(self.checked_at) > self.away() {
            self.checked_at = now;
            self.probing = self.is_out();
        }
    }

    /// Counts a failure that was the replica's fault. Returns whether it begins an ejection, the first or a further one.
    pub fn failed(&mut self, cause: Cause, now: Moment) -> bool {
        let was_away = self.is_out() && !self.probing;
        self.fails = self.fails.saturating_add(1);
        (self.failed_at, self.checked_at, self.probing) = (now, now, false);
        // Requests that were on it when it went do not tell why it went.
        if !was_away {
            self.cause = cause;
        }
        self.goes(was_away)
    }

    /// Ejects the replica at once, unless it is never to be. Returns whether that begins an ejection.
    pub fn eject(&mut self, cause: Cause, now: Moment) -> bool {
        if self.limits.max_fails == 0 {
            return false;
        }
        self.fails = self.fails.max(self.limits.max_fails - 1);
        self.failed(cause, now)
    }

    fn goes(&mut self, was_away: bool) -> bool {
        let goes = self.is_out() && !was_away;
        self.in_a_row = self.in_a_row.saturating_add(u32::from(goes));
        goes
    }

    /// Counts an answer: it clears the failures that came before the request was sent.
    pub fn served(&mut self) {
        if self.failed_at < self.checked_at {
            self.cleared();
        }
    }

    /// Forgets every failure: whatever it was is over.
    pub const fn cleared(&mut self) {
        (self.fails, self.in_a_row, self.probing) = (0, 0, false);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::ZERO + Duration::from_secs(seconds)
    }

    fn ejector(max_fails: u32) -> Ejector {
        Ejector::new(Limits { max_fails, fail_timeout: Duration::from_secs(10), grows: false })
    }

    fn out(seconds: u64) -> Admission {
        Admission::Ejected { until: at(seconds), cause: Cause::Refused }
    }

    #[test]
    fn max_fails_within_fail_timeout_eject_for_fail_timeout() {
        let mut ejector = ejector(2);
        ejector.failed(Cause::Refused, at(100));
        assert_eq!(ejector.admits(at(100)), Admission::Admitted);
        ejector.failed(Cause::Refused, at(101));
        assert_eq!(ejector.admits(at(111)), out(111));
        assert_eq!(ejector.admits(at(112)), Admission::Probing);
    }

    #[test]
    fn one_request_probes_and_its_failure_ejects_again() {
        let mut ejector = ejector(1);
        ejector.failed(Cause::Refused, at(100));
        ejector.chosen(at(111));
        assert_eq!(ejector.admits(at(112)), out(121));
        ejector.failed(Cause::Refused, at(113));
        assert_eq!(ejector.admits(at(123)), out(123));
    }

    #[test]
    fn a_served_probe_readmits() {
        let mut ejector = ejector(1);
        ejector.failed(Cause::Refused, at(100));
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
            ejector.failed(Cause::Refused, at(5));
        }
        assert_eq!(ejector.admits(at(5)), Admission::Admitted);
    }

    #[test]
    fn failures_further_apart_than_fail_timeout_do_not_add_up() {
        let mut ejector = ejector(2);
        ejector.failed(Cause::Refused, at(100));
        ejector.chosen(at(120));
        ejector.served();
        ejector.failed(Cause::Refused, at(121));
        assert_eq!(ejector.admits(at(121)), Admission::Admitted);
    }

    #[test]
    fn ejections_in_a_row_grow_up_to_five_minutes_until_a_probe_is_served() {
        let mut ejector = Ejector::new(Limits::default());
        let mut now = 100;
        for away in [10, 20, 30, 40] {
            assert!(ejector.failed(Cause::Failed, at(now)));
            assert!(!ejector.failed(Cause::Failed, at(now)), "others that were on it do not count twice");
            assert_eq!(ejector.away(), Duration::from_secs(away));
            now += away + 1;
            assert_eq!(ejector.admits(at(now)), Admission::Probing);
            ejector.chosen(at(now));
            assert_ne!(ejector.admits(at(now)), Admission::Probing, "one request probes");
        }
        ejector.served();
        ejector.failed(Cause::Failed, at(now + 1));
        assert_eq!(ejector.away(), Duration::from_secs(10));
        for _ in 0..100 {
            now += 301;
            ejector.chosen(at(now));
            ejector.failed(Cause::Failed, at(now));
        }
        assert_eq!(ejector.away(), LONGEST);
        let mut slow = Ejector::new(Limits { fail_timeout: Duration::from_secs(600), ..Limits::default() });
        slow.failed(Cause::Failed, at(1));
        slow.chosen(at(700));
        slow.failed(Cause::Failed, at(700));
        assert_eq!(slow.away(), Duration::from_secs(600), "what was asked for is not cut short");
    }

    #[test]
    fn what_ejected_first_is_the_cause_until_it_is_back() {
        let mut ejector = ejector(1);
        ejector.failed(Cause::Refused, at(100));
        ejector.failed(Cause::Failed, at(101));
        assert_eq!(ejector.cause(), Some(Cause::Refused));
        ejector.chosen(at(120));
        ejector.failed(Cause::Failed, at(121));
        assert_eq!(ejector.cause(), Some(Cause::Failed));
        ejector.cleared();
        assert_eq!((ejector.cause(), ejector.admits(at(121))), (None, Admission::Admitted));
        let mut never = self::ejector(0);
        assert!(!never.eject(Cause::Stalled, at(5)));
        assert_eq!(never.admits(at(5)), Admission::Admitted);
    }

    /// What can happen to a replica, by number.
    fn happen(ejector: &mut Ejector, what: u8, now: Moment) {
        match what {
            0 => drop(ejector.failed(Cause::Failed, now)),
            1 => drop(ejector.failed(Cause::Refused, now)),
            2 => ejector.served(),
            3 => drop(ejector.eject(Cause::Stalled, now)),
            _ if !matches!(ejector.admits(now), Admission::Ejected { .. }) => ejector.chosen(now),
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
            let mut ejector = Ejector::new(Limits { max_fails, fail_timeout, grows });
            let mut now = at(1);
            for (what, milliseconds) in steps {
                now = now + Duration::from_millis(milliseconds);
                happen(&mut ejector, what, now);
                let most = if grows { fail_timeout.max(LONGEST) } else { fail_timeout };
                if let Admission::Ejected { until, .. } = ejector.admits(now) {
                    prop_assert!(max_fails > 0 && until.since(now) <= most);
                }
                let later = now + most + Duration::from_secs(1);
                match ejector.clone().admits(later) {
                    Admission::Ejected { .. } => prop_assert!(false, "away for longer than {most:?}"),
                    Admission::Admitted => {}
                    Admission::Probing => {
                        let mut probed = ejector.clone();
                        probed.chosen(later);
                        let still_out = matches!(probed.admits(later), Admission::Ejected { .. });
                        prop_assert!(still_out);
                        probed.served();
                        prop_assert_eq!(probed.admits(later), Admission::Admitted);
                        prop_assert_eq!(probed.away(), fail_timeout);
                    }
                }
            }
        }

        #[test]
        fn answers_alone_never_eject(steps in prop::collection::vec((any::<bool>(), 0u64..60), 1..100)) {
            let mut ejector = Ejector::new(Limits::default());
            let mut now = at(0);
            for (answers, seconds) in steps {
                now = now + Duration::from_secs(seconds);
                if answers { ejector.served() } else { ejector.chosen(now) }
                prop_assert_eq!(ejector.admits(now), Admission::Admitted);
            }
        }
    }
}
