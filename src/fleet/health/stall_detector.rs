//! Engines that take work and do none: their silence, compared with what is to be expected and with the others.

use std::time::Duration;

use crate::fleet::Replica;
use crate::units::Moment;

/// Others are at work if something came from one of them in this time.
const ACTIVITY_WINDOW: Duration = Duration::from_secs(5);
/// The longest silence that a replica broke by itself is forgotten by one part in this many a look.
const DECAY_DIVISOR: u32 = 1024;

/// What a look at a replica shows.
#[derive(Clone, Copy, Debug)]
pub(in crate::fleet) struct ActivitySample {
    /// Requests of which nothing has come yet.
    pub(in crate::fleet) unanswered: u32,
    /// When something last came from it.
    pub(in crate::fleet) last_activity: Moment,
    /// When its silence began: the later of that and of the first of those requests.
    pub(in crate::fleet) silent_since: Moment,
    /// How long its prompts may take, and an answer that comes whole.
    pub(in crate::fleet) expected_silence: Duration,
}

/// What is known of one member's silences.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::fleet) struct StallDetector {
    observed_at: Moment,
    silent_since: Moment,
    had_pending_requests: bool,
    /// The longest silence that was none of a wedged engine.
    longest_recovered: Duration,
    /// When it was found to be stalled.
    stalled_since: Option<Moment>,
}

impl ActivitySample {
    pub(in crate::fleet) fn from_replica(replica: &Replica) -> Self {
        let signs = replica.activity();
        let (first_byte, _) = replica.latency_averages().decayed(0);
        Self {
            unanswered: signs.unanswered(),
            last_activity: signs.last_activity(),
            silent_since: signs.last_activity().max(signs.unanswered_since()),
            expected_silence: replica.latency_averages().expected_prefill(replica.load().prefill) + first_byte * 2,
        }
    }

    /// Tells whether somebody else is at work.
    pub(in crate::fleet) fn has_active_peer(all: &[Self], at: usize, now: Moment) -> bool {
        let works = |seen: &Self| seen.last_activity > Moment::ZERO && now.since(seen.last_activity) <= ACTIVITY_WINDOW;
        all.iter().enumerate().any(|(other, seen)| other != at && works(seen))
    }
}

impl StallDetector {
    /// Takes note of a look; learns from a silence that has ended.
    pub(in crate::fleet) fn observe(&mut self, seen: &ActivitySample, now: Moment) {
        let ended = self.had_pending_requests && seen.last_activity > self.silent_since;
        if ended && self.stalled_since.is_none() {
            self.longest_recovered = self.longest_recovered.max(self.observed_at.since(self.silent_since));
        }
        self.longest_recovered -= self.longest_recovered / DECAY_DIVISOR;
        (self.observed_at, self.silent_since, self.had_pending_requests) =
            (now, seen.silent_since, seen.unanswered > 0);
    }

    /// The longest silence that has ended by itself.
    pub(in crate::fleet) const fn longest_recovered(&self) -> Duration {
        self.longest_recovered
    }

    /// Tells whether it has been silent for too long: longer than `limit` beyond what is expected.
    pub(in crate::fleet) fn is_stalled(&self, seen: &ActivitySample, limit: Duration, now: Moment) -> bool {
        seen.unanswered > 0 && now.since(seen.silent_since) > limit + seen.expected_silence
    }

    /// Takes note that it was found to be stalled.
    pub(in crate::fleet) const fn mark_stalled(&mut self, now: Moment) {
        self.stalled_since = Some(now);
    }

    /// Tells, once, that something has come from it since then.
    pub(in crate::fleet) fn take_recovered(&mut self, seen: &ActivitySample) -> bool {
        let revived = self.stalled_since.is_some_and(|since| seen.last_activity > since);
        if revived {
            self.stalled_since = None;
        }
        revived
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STALL_LIMIT: Duration = Duration::from_secs(30);

    fn at_seconds(seconds: u64) -> Moment {
        Moment::ZERO + Duration::from_secs(seconds)
    }

    fn activity_sample(unanswered: u32, progressed: u64) -> ActivitySample {
        ActivitySample {
            unanswered,
            last_activity: at_seconds(progressed),
            silent_since: at_seconds(progressed),
            expected_silence: Duration::ZERO,
        }
    }

    #[test]
    fn silence_is_a_fault_only_with_work_and_beyond_what_is_expected() {
        let watch = StallDetector::default();
        assert!(watch.is_stalled(&activity_sample(1, 100), STALL_LIMIT, at_seconds(131)));
        assert!(!watch.is_stalled(&activity_sample(1, 100), STALL_LIMIT, at_seconds(130)));
        assert!(!watch.is_stalled(&activity_sample(0, 100), STALL_LIMIT, at_seconds(500)));
        let long = ActivitySample { expected_silence: Duration::from_secs(60), ..activity_sample(1, 100) };
        assert!(!watch.is_stalled(&long, STALL_LIMIT, at_seconds(180)));
        let fresh = ActivitySample { silent_since: at_seconds(400), ..activity_sample(1, 100) };
        assert!(!watch.is_stalled(&fresh, STALL_LIMIT, at_seconds(420)), "it had nothing to do until 400");
    }

    #[test]
    fn others_are_at_work_if_something_came_lately() {
        let all = [activity_sample(1, 100), activity_sample(1, 128), activity_sample(0, 0)];
        assert!(ActivitySample::has_active_peer(&all, 0, at_seconds(131)));
        assert!(!ActivitySample::has_active_peer(&all, 1, at_seconds(131)));
        assert!(!ActivitySample::has_active_peer(&all, 0, at_seconds(140)));
    }

    #[test]
    fn a_silence_that_ends_by_itself_is_remembered_and_one_of_a_wedged_engine_is_not() {
        let mut watch = StallDetector::default();
        for second in 100..=160 {
            watch.observe(&activity_sample(1, if second < 150 { 100 } else { 150 }), at_seconds(second));
        }
        assert!((46..=50).contains(&watch.longest_recovered().as_secs()), "{:?}", watch.longest_recovered());
        let mut wedged = StallDetector::default();
        for second in 100..=160 {
            let seen = activity_sample(1, if second < 150 { 100 } else { 150 });
            wedged.observe(&seen, at_seconds(second));
            assert_eq!(wedged.take_recovered(&seen), second == 150);
            if second == 131 {
                wedged.mark_stalled(at_seconds(131));
            }
        }
        assert_eq!(wedged.longest_recovered(), Duration::ZERO);
    }
}
