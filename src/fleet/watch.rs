//! Engines that take work and do none: their silence, compared with what is to be expected and with the others.

use std::time::Duration;

use super::Replica;
use crate::units::Moment;

/// Others are at work if something came from one of them in this time.
const LATELY: Duration = Duration::from_secs(5);
/// The longest silence that a replica broke by itself is forgotten by one part in this many a look.
const FORGETS: u32 = 1024;

/// What a look at a replica shows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    /// Requests of which nothing has come yet.
    pub(super) unanswered: u32,
    /// When something last came from it.
    pub(super) progressed: Moment,
    /// When its silence began: the later of that and of the first of those requests.
    pub(super) silent_since: Moment,
    /// How long its prompts may take, and an answer that comes whole.
    pub(super) expected: Duration,
}

/// What is known of one member's silences.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Watch {
    looked: Moment,
    silent_since: Moment,
    had_work: bool,
    /// The longest silence that was none of a wedged engine.
    survived: Duration,
    /// When it was found to be stalled.
    stalled: Option<Moment>,
}

impl Seen {
    pub(super) fn of(replica: &Replica) -> Self {
        let signs = replica.signs();
        let (first_byte, _) = replica.averages().after(0);
        Self {
            unanswered: signs.unanswered(),
            progressed: signs.progressed(),
            silent_since: signs.progressed().max(signs.unanswered_since()),
            expected: replica.averages().prefills(replica.load().prefill) + first_byte * 2,
        }
    }

    /// Tells whether somebody else is at work.
    pub(super) fn others_work(all: &[Self], at: usize, now: Moment) -> bool {
        let works = |seen: &Self| seen.progressed > Moment::ZERO && now.since(seen.progressed) <= LATELY;
        all.iter().enumerate().any(|(other, seen)| other != at && works(seen))
    }
}

impl Watch {
    /// Takes note of a look; learns from a silence that has ended.
    pub(super) fn look(&mut self, seen: &Seen, now: Moment) {
        let ended = self.had_work && seen.progressed > self.silent_since;
        if ended && self.stalled.is_none() {
            self.survived = self.survived.max(self.looked.since(self.silent_since));
        }
        self.survived -= self.survived / FORGETS;
        (self.looked, self.silent_since, self.had_work) = (now, seen.silent_since, seen.unanswered > 0);
    }

    /// The longest silence that has ended by itself.
    pub(super) const fn survived(&self) -> Duration {
        self.survived
    }

    /// Tells whether it has been silent for too long: longer than `limit` beyond what is expected.
    pub(super) fn is_stalled(&self, seen: &Seen, limit: Duration, now: Moment) -> bool {
        seen.unanswered > 0 && now.since(seen.silent_since) > limit + seen.expected
    }

    /// Takes note that it was found to be stalled.
    pub(super) const fn stalls(&mut self, now: Moment) {
        self.stalled = Some(now);
    }

    /// Tells, once, that something has come from it since then.
    pub(super) fn revives(&mut self, seen: &Seen) -> bool {
        let revived = self.stalled.is_some_and(|since| seen.progressed > since);
        if revived {
            self.stalled = None;
        }
        revived
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    fn at(seconds: u64) -> Moment {
        Moment::ZERO + Duration::from_secs(seconds)
    }

    fn seen(unanswered: u32, progressed: u64) -> Seen {
        Seen { unanswered, progressed: at(progressed), silent_since: at(progressed), expected: Duration::ZERO }
    }

    #[test]
    fn silence_is_a_fault_only_with_work_and_beyond_what_is_expected() {
        let watch = Watch::default();
        assert!(watch.is_stalled(&seen(1, 100), LIMIT, at(131)));
        assert!(!watch.is_stalled(&seen(1, 100), LIMIT, at(130)));
        assert!(!watch.is_stalled(&seen(0, 100), LIMIT, at(500)));
        let long = Seen { expected: Duration::from_secs(60), ..seen(1, 100) };
        assert!(!watch.is_stalled(&long, LIMIT, at(180)));
        let fresh = Seen { silent_since: at(400), ..seen(1, 100) };
        assert!(!watch.is_stalled(&fresh, LIMIT, at(420)), "it had nothing to do until 400");
    }

    #[test]
    fn others_are_at_work_if_something_came_lately() {
        let all = [seen(1, 100), seen(1, 128), seen(0, 0)];
        assert!(Seen::others_work(&all, 0, at(131)));
        assert!(!Seen::others_work(&all, 1, at(131)));
        assert!(!Seen::others_work(&all, 0, at(140)));
    }

    #[test]
    fn a_silence_that_ends_by_itself_is_remembered_and_one_of_a_wedged_engine_is_not() {
        let mut watch = Watch::default();
        for second in 100..=160 {
            watch.look(&seen(1, if second < 150 { 100 } else { 150 }), at(second));
        }
        assert!((46..=50).contains(&watch.survived().as_secs()), "{:?}", watch.survived());
        let mut wedged = Watch::default();
        for second in 100..=160 {
            let seen = seen(1, if second < 150 { 100 } else { 150 });
            wedged.look(&seen, at(second));
            assert_eq!(wedged.revives(&seen), second == 150);
            if second == 131 {
                wedged.stalls(at(131));
            }
        }
        assert_eq!(wedged.survived(), Duration::ZERO);
    }
}
