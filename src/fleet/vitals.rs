//! What an engine says of itself, and what that tells of load that did not come through this router.

use std::time::Duration;

use crate::balance::Load;
use crate::units::{Moment, Tokens};

/// What an engine says of itself at one moment; `None` where it does not say. Totals count since it was started.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Vitals {
    /// Requests in the batch.
    pub running: u32,
    /// Requests in the queue.
    pub waiting: u32,
    /// Share of the KV memory that requests hold, 0 to 1.
    pub kv_usage: Option<f64>,
    /// Tokens that the KV memory has room for.
    pub kv_capacity: Option<Tokens>,
    /// Tokens in a block of the prefix cache.
    pub block: Option<Tokens>,
    /// Prompt tokens so far.
    pub prompt: Option<Tokens>,
    /// Prompt tokens so far that were found in the prefix cache.
    pub cached: Option<Tokens>,
    /// Tokens generated so far.
    pub generated: Option<Tokens>,
    /// The requests that `prompt` is the sum of.
    pub requests: Option<u64>,
}

/// Load on an engine from elsewhere: other routers, clients that ask it directly. An estimate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Foreign {
    /// Requests, running and waiting.
    pub requests: u32,
    /// What they come to in our terms: every token in `resident`, the prompts of those that wait in `prefill` too.
    pub load: Load,
}

/// What is taken to be true of an engine from one look at it until the next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Truth {
    /// What it said.
    pub vitals: Vitals,
    /// What of it is not ours.
    pub foreign: Foreign,
    /// When it said so.
    pub at: Moment,
    /// When that is too old to be believed.
    pub until: Moment,
    /// Its requests less ours, at this look alone.
    excess: u32,
}

/// What of ours was on the engine when it spoke.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ours {
    pub(super) in_flight: u32,
    pub(super) load: Load,
}

impl Vitals {
    /// Requests in the engine.
    pub const fn present(&self) -> u32 {
        self.running.saturating_add(self.waiting)
    }

    /// Tokens in the KV memory that requests hold.
    pub fn held(&self) -> Option<Tokens> {
        let (usage, capacity) = self.kv_usage.zip(self.kv_capacity)?;
        Some(Tokens((usage.clamp(0.0, 1.0) * capacity.0 as f64).round() as u64))
    }

    /// The length of the prompts so far, on average; zero if nothing is known.
    pub fn mean_prompt(&self) -> Tokens {
        let (prompt, requests) = self.prompt.zip(self.requests).unwrap_or_default();
        Tokens(prompt.0.checked_div(requests).unwrap_or_default())
    }
}

impl Truth {
    /// Judges what an engine said at `at`; `before` is what was taken to be true until then.
    ///
    /// Requests are foreign if they were too many at both looks: one of ours that has just ended here, or has not quite
    /// arrived there, is not.
    pub(super) fn new(vitals: Vitals, ours: Ours, before: Option<&Self>, at: Moment, good_for: Duration) -> Self {
        let excess = vitals.present().saturating_sub(ours.in_flight);
        let requests = before.map_or(0, |before| before.excess.min(excess));
        Self { vitals, foreign: Foreign::of(vitals, ours, requests), at, until: at + good_for, excess }
    }
}

impl Foreign {
    fn of(vitals: Vitals, ours: Ours, requests: u32) -> Self {
        if requests == 0 {
            return Self::default();
        }
        let waiting = waiting(vitals, ours, requests);
        let mean = vitals.mean_prompt().0;
        let prefill = Tokens(mean.saturating_mul(waiting.into()));
        // Requests that wait hold no memory yet. Those that share a prefix hold less of it than they weigh by themselves.
        let held = vitals.held().map_or(Tokens(0), |held| (held + prefill) - ours.load.resident);
        let resident = held.max(Tokens(mean.saturating_mul(requests.into())));
        let decoding = (requests - waiting).min(vitals.running);
        Self { requests, load: Load { prefill, waiting, decoding, resident } }
    }
}

/// How many of `requests` foreign ones wait: their share of the queue, and at least what our own requests without a
/// first token cannot account for.
fn waiting(vitals: Vitals, ours: Ours, requests: u32) -> u32 {
    let share = u64::from(vitals.waiting) * u64::from(requests) / u64::from(vitals.present().max(1));
    let unexplained = vitals.waiting.saturating_sub(ours.in_flight.saturating_sub(ours.load.decoding));
    u32::try_from(share).unwrap_or(u32::MAX).max(unexplained).min(requests)
}

#[cfg(test)]
mod tests {
    use super::*;

    const VITALS: Vitals = Vitals {
        running: 0,
        waiting: 0,
        kv_usage: Some(0.0),
        kv_capacity: Some(Tokens(10_000)),
        block: Some(Tokens(16)),
        prompt: Some(Tokens(3_000)),
        cached: None,
        generated: None,
        requests: Some(10),
    };

    fn busy(running: u32, waiting: u32, kv_usage: f64) -> Vitals {
        Vitals { running, waiting, kv_usage: Some(kv_usage), ..VITALS }
    }

    fn ours(in_flight: u32, decoding: u32, resident: u64) -> Ours {
        Ours {
            in_flight,
            load: Load {
                waiting: in_flight.saturating_sub(decoding),
                decoding,
                resident: Tokens(resident),
                ..Load::default()
            },
        }
    }

    /// What is foreign after two looks.
    fn foreign(looks: [(Vitals, Ours); 2]) -> Foreign {
        let mut truth = None;
        for (vitals, ours) in looks {
            truth = Some(Truth::new(vitals, ours, truth.as_ref(), Moment::ZERO, Duration::from_secs(15)));
        }
        truth.unwrap().foreign
    }

    fn steady(vitals: Vitals, ours: Ours) -> (u32, u32, u64, u64) {
        let Foreign { requests, load } = foreign([(vitals, ours); 2]);
        (requests, load.waiting, load.prefill.0, load.resident.0)
    }

    #[test]
    fn what_the_engine_has_more_than_we_sent_is_foreign() {
        assert_eq!(steady(busy(3, 0, 0.2), ours(1, 1, 500)), (2, 0, 0, 1_500));
        assert_eq!(steady(busy(3, 0, 0.2), ours(3, 3, 500)), (0, 0, 0, 0), "all are ours, whatever they hold");
        assert_eq!(steady(busy(3, 0, 0.2), ours(5, 3, 500)), (0, 0, 0, 0), "some of ours have not arrived");
        assert_eq!(steady(busy(0, 0, 0.0), ours(0, 0, 0)), (0, 0, 0, 0));
    }

    #[test]
    fn foreign_requests_weigh_at_least_a_mean_prompt_each() {
        assert_eq!(steady(busy(4, 0, 0.01), ours(0, 0, 0)), (4, 0, 0, 1_200));
        let silent = Vitals { kv_usage: None, kv_capacity: None, ..busy(4, 0, 0.0) };
        assert_eq!(steady(silent, ours(0, 0, 0)), (4, 0, 0, 1_200));
        let new = Vitals { prompt: None, requests: Some(0), ..silent };
        assert_eq!(steady(new, ours(0, 0, 0)), (4, 0, 0, 0));
    }

    #[test]
    fn those_that_wait_count_for_prefill_and_again_as_resident() {
        assert_eq!(steady(busy(2, 6, 0.5), ours(0, 0, 0)), (8, 6, 1_800, 6_800));
        assert_eq!(steady(busy(4, 4, 0.5), ours(4, 4, 2_000)), (4, 4, 1_200, 4_200), "ours all decode");
        assert_eq!(steady(busy(4, 4, 0.5), ours(4, 0, 2_000)), (4, 2, 600, 3_600), "nobody knows: by shares");
    }

    #[test]
    fn one_look_is_not_enough_and_the_smaller_excess_counts() {
        let (idle, full) = ((busy(0, 0, 0.0), ours(0, 0, 0)), (busy(9, 0, 0.5), ours(0, 0, 0)));
        assert_eq!(Truth::new(full.0, full.1, None, Moment::ZERO, Duration::ZERO).foreign, Foreign::default());
        assert_eq!(foreign([idle, full]).requests, 0);
        assert_eq!(foreign([full, idle]).requests, 0);
        assert_eq!(foreign([(busy(4, 0, 0.5), ours(1, 1, 10)), full]).requests, 3);
    }

    #[test]
    fn absurd_numbers_saturate() {
        let vitals = Vitals {
            running: u32::MAX,
            waiting: u32::MAX,
            kv_usage: Some(f64::INFINITY),
            kv_capacity: Some(Tokens(u64::MAX)),
            prompt: Some(Tokens(u64::MAX)),
            requests: Some(1),
            ..VITALS
        };
        let (requests, waiting, prefill, resident) = steady(vitals, ours(0, 0, 0));
        assert_eq!((requests, waiting, prefill, resident), (u32::MAX, u32::MAX, u64::MAX, u64::MAX));
        assert_eq!(Vitals { kv_usage: Some(f64::NAN), ..vitals }.held(), Some(Tokens(0)));
    }
}
