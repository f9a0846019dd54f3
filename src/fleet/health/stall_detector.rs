//! Detection of stalled engines: requests pending, no data for longer than expected, other replicas active.

use std::time::Duration;

use crate::fleet::Replica;
use crate::units::Moment;

/// A replica is active if it has sent data within this time.
const ACTIVITY_WINDOW: Duration = Duration::from_secs(5);
/// How many plain answers must be missing at once for silence to be a stall. A replica that generates one or two of them
/// sends nothing until they are complete.
const MIN_SILENT_PLAIN_ANSWERS: u32 = 3;
/// The longest recovered silence decays by 1/1024 per observation.
const DECAY_DIVISOR: u32 = 1024;

/// One observation of a replica.
#[derive(Clone, Copy, Debug)]
pub(in crate::fleet) struct ActivitySample {
    /// Requests without a first byte.
    unanswered: u32,
    /// Those among them that ask for a plain answer.
    unanswered_plain: u32,
    /// Time of the last data.
    last_activity: Moment,
    /// Start of its silence: the last data, or the first of the unanswered requests if that is later.
    silent_since: Moment,
    /// Expected time for its prompts and for one unstreamed response.
    expected_silence: Duration,
}

/// The silences of one member.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::fleet) struct StallDetector {
    observed_at: Moment,
    silent_since: Moment,
    had_pending_requests: bool,
    /// The longest silence that ended without an ejection, decaying.
    longest_recovered: Duration,
    /// Time of its ejection as stalled; `None` once data has come since.
    stalled_since: Option<Moment>,
}

impl ActivitySample {
    pub(in crate::fleet) fn from_replica(replica: &Replica) -> Self {
        let activity = replica.activity();
        let (first_byte, _) = replica.latency_averages().decayed(0);
        Self {
            unanswered: activity.unanswered(),
            unanswered_plain: activity.unanswered_plain(),
            last_activity: activity.last_activity(),
            silent_since: activity.last_activity().max(activity.unanswered_since()),
            expected_silence: replica.latency_averages().expected_prefill(replica.load().prefill) + first_byte * 2,
        }
    }

    /// Returns whether a replica other than that of `samples[index]` is active.
    pub(in crate::fleet) fn has_active_peer(samples: &[Self], index: usize, now: Moment) -> bool {
        let is_active =
            |sample: &Self| sample.last_activity > Moment::ZERO && now.since(sample.last_activity) <= ACTIVITY_WINDOW;
        samples.iter().enumerate().any(|(other, sample)| other != index && is_active(sample))
    }
}

impl StallDetector {
    /// Records an observation; learns from a silence that has ended.
    pub(in crate::fleet) fn observe(&mut self, sample: &ActivitySample, now: Moment) {
        let ended = self.had_pending_requests && sample.last_activity > self.silent_since;
        if ended && self.stalled_since.is_none() {
            self.longest_recovered = self.longest_recovered.max(self.observed_at.since(self.silent_since));
        }
        self.longest_recovered -= self.longest_recovered / DECAY_DIVISOR;
        (self.observed_at, self.silent_since, self.had_pending_requests) =
            (now, sample.silent_since, sample.unanswered > 0);
    }

    /// Returns the longest silence that ended without an ejection.
    pub(in crate::fleet) const fn longest_recovered(&self) -> Duration {
        self.longest_recovered
    }

    /// Returns whether the member has been silent for longer than `limit` beyond the expected time, with requests that
    /// should have had a first byte by then.
    pub(in crate::fleet) fn is_stalled(&self, sample: &ActivitySample, limit: Duration, now: Moment) -> bool {
        let lacks_streams = sample.unanswered > sample.unanswered_plain;
        let is_silence_telling = lacks_streams || sample.unanswered_plain >= MIN_SILENT_PLAIN_ANSWERS;
        is_silence_telling && now.since(sample.silent_since) > limit + sample.expected_silence
    }

    /// Records that the member was ejected as stalled.
    pub(super) const fn mark_stalled(&mut self, now: Moment) {
        self.stalled_since = Some(now);
    }

    /// Returns, once, whether data has come since the member was ejected as stalled.
    pub(in crate::fleet) fn take_recovered(&mut self, sample: &ActivitySample) -> bool {
        let recovered = self.stalled_since.is_some_and(|since| sample.last_activity > since);
        if recovered {
            self.stalled_since = None;
        }
        recovered
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STALL_LIMIT: Duration = Duration::from_secs(30);

    fn at_seconds(seconds: u64) -> Moment {
        Moment::ZERO + Duration::from_secs(seconds)
    }

    fn activity_sample(unanswered: u32, last_activity: u64) -> ActivitySample {
        ActivitySample {
            unanswered,
            unanswered_plain: 0,
            last_activity: at_seconds(last_activity),
            silent_since: at_seconds(last_activity),
            expected_silence: Duration::ZERO,
        }
    }

    #[test]
    fn silence_is_a_stall_only_with_requests_and_beyond_the_expected_time() {
        let detector = StallDetector::default();
        assert!(detector.is_stalled(&activity_sample(1, 100), STALL_LIMIT, at_seconds(131)));
        assert!(!detector.is_stalled(&activity_sample(1, 100), STALL_LIMIT, at_seconds(130)));
        assert!(!detector.is_stalled(&activity_sample(0, 100), STALL_LIMIT, at_seconds(500)));
        let long = ActivitySample { expected_silence: Duration::from_secs(60), ..activity_sample(1, 100) };
        assert!(!detector.is_stalled(&long, STALL_LIMIT, at_seconds(180)));
        let fresh = ActivitySample { silent_since: at_seconds(400), ..activity_sample(1, 100) };
        assert!(!detector.is_stalled(&fresh, STALL_LIMIT, at_seconds(420)), "it had no requests until 400");
    }

    #[test]
    fn silence_on_one_or_two_plain_answers_is_no_stall() {
        let detector = StallDetector::default();
        let is_stalled = |unanswered, unanswered_plain| {
            let sample = ActivitySample { unanswered_plain, ..activity_sample(unanswered, 100) };
            detector.is_stalled(&sample, STALL_LIMIT, at_seconds(410))
        };
        assert!(!is_stalled(1, 1) && !is_stalled(2, 2));
        assert!(is_stalled(3, 3), "all of several answers are missing");
        assert!(is_stalled(2, 1), "a stream is missing");
    }

    #[test]
    fn peer_is_active_after_recent_data() {
        let all = [activity_sample(1, 100), activity_sample(1, 128), activity_sample(0, 0)];
        assert!(ActivitySample::has_active_peer(&all, 0, at_seconds(131)));
        assert!(!ActivitySample::has_active_peer(&all, 1, at_seconds(131)));
        assert!(!ActivitySample::has_active_peer(&all, 0, at_seconds(140)));
    }

    #[test]
    fn recovered_silence_is_remembered_unless_it_was_ejected() {
        let mut detector = StallDetector::default();
        for second in 100..=160 {
            detector.observe(&activity_sample(1, if second < 150 { 100 } else { 150 }), at_seconds(second));
        }
        assert!((46..=50).contains(&detector.longest_recovered().as_secs()), "{:?}", detector.longest_recovered());
        let mut stalled = StallDetector::default();
        for second in 100..=160 {
            let sample = activity_sample(1, if second < 150 { 100 } else { 150 });
            stalled.observe(&sample, at_seconds(second));
            assert_eq!(stalled.take_recovered(&sample), second == 150);
            if second == 131 {
                stalled.mark_stalled(at_seconds(131));
            }
        }
        assert_eq!(stalled.longest_recovered(), Duration::ZERO);
    }
}
