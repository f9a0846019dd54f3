//! One request's charge on one replica, from the choice to the end of the answer.

use std::sync::Arc;
use std::time::Duration;

use super::RequestObservers;
use crate::fleet::load::ledger::LoadReservation;
use crate::fleet::load::relative_speed::SpeedSample;
use crate::fleet::{
    DecisionResult, LeaseReport, LengthEstimate, Outcome, Phase, Pool, Replica, ReplicaModels, ResponseProgress,
    TokenIntervals,
};
use crate::prompt::PromptFingerprint;
use crate::units::{ModelName, Moment, Slot, Tokens, Usage};

/// Times between fewer tokens say little.
const MIN_INTERVALS: u64 = 8;

/// A charge on a replica that is taken back exactly once: by [`Lease::settle`], or as [`Outcome::ClientGone`] when dropped.
#[derive(Debug)]
pub struct Lease {
    pool: Arc<Pool>,
    replica: Arc<Replica>,
    slot: Slot,
    chosen_at: Moment,
    first_byte: Option<Moment>,
    first_token: Option<Moment>,
    last_token: Option<Moment>,
    last_progress: Moment,
    token_intervals: TokenIntervals,
    usage: Option<Usage>,
    prompt: Tokens,
    /// What of the prompt was taken to be cached; `None` if the policy does not ask.
    cached: Option<Tokens>,
    prefix: Option<Arc<PromptFingerprint>>,
    estimate: Option<LengthEstimate>,
    /// Nothing waited to be prefilled where it was sent.
    found_idle: bool,
    /// Streams there when its own began.
    streams_at_start: u32,
    /// Taken when the lease settles.
    reservation: Option<LoadReservation>,
    /// For those who look on.
    observers: Option<Box<RequestObservers>>,
}

/// What a lease is made from.
pub(in crate::fleet) struct LeaseParts {
    pub(in crate::fleet) replica: Arc<Replica>,
    pub(in crate::fleet) slot: Slot,
    pub(in crate::fleet) prompt: Tokens,
    pub(in crate::fleet) cached: Option<Tokens>,
    pub(in crate::fleet) found_idle: bool,
    pub(in crate::fleet) prefix: Option<Arc<PromptFingerprint>>,
    pub(in crate::fleet) estimate: Option<LengthEstimate>,
    pub(in crate::fleet) observers: Option<Box<RequestObservers>>,
}

impl Lease {
    /// Takes a charge that was made under the pool's lock.
    pub(in crate::fleet) fn new(pool: Arc<Pool>, chosen: LeaseParts, charge: LoadReservation, now: Moment) -> Self {
        let LeaseParts { replica, slot: at, prompt, cached, found_idle, prefix, estimate: measured, observers: aside } =
            chosen;
        Self {
            pool,
            replica,
            slot: at,
            chosen_at: now,
            first_byte: None,
            first_token: None,
            last_token: None,
            last_progress: now,
            token_intervals: TokenIntervals::default(),
            usage: None,
            prompt,
            cached,
            prefix,
            estimate: measured,
            found_idle,
            streams_at_start: 0,
            reservation: Some(charge),
            observers: aside,
        }
    }

    /// The replica that was chosen.
    pub const fn replica(&self) -> &Arc<Replica> {
        &self.replica
    }

    /// The pool that chose it.
    pub const fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// The replica's own name for `model`; `None` if that is what it is called there, or nothing better is known.
    ///
    /// An alias becomes the first of the pool's names that the replica lists, else the first it lists. A replica that
    /// lists nothing is taken to use the pool's first name.
    pub fn upstream_model(&self, model: &str) -> Option<ModelName> {
        let names = self.pool.configured_models();
        let listed = self.replica.models();
        let own = match &*listed {
            ReplicaModels::Listed(_) if listed.contains(model) => None,
            ReplicaModels::Listed(theirs) => names.iter().find(|name| theirs.contains(name)).or(theirs.first()),
            ReplicaModels::Unlisted | ReplicaModels::Unknown => names.first(),
        };
        own.filter(|own| own.as_str() != model).cloned()
    }

    /// How the choice came about, in a line for people; `None` unless it is kept, and not forgotten yet.
    pub fn decision_line(&self) -> Option<String> {
        self.observers.as_ref()?.decision_line()
    }

    /// When the first generated content came.
    pub const fn first_token(&self) -> Option<Moment> {
        self.first_token
    }

    /// The token counts seen so far.
    pub const fn usage(&self) -> Option<Usage> {
        self.usage
    }

    /// The prompt's length as it was charged.
    pub const fn prompt(&self) -> Tokens {
        self.prompt
    }

    /// Tokens of this request that are taken to be resident on the replica.
    pub fn resident_tokens(&self) -> Tokens {
        Tokens(self.reservation.as_ref().map_or(0, |charge| charge.tokens_held(self.replica.ledger())))
    }

    /// Follows the answer.
    pub fn record_progress(&mut self, seen: ResponseProgress, now: Moment) {
        self.last_progress = now;
        self.replica.activity().record_activity(now);
        if self.first_byte.is_none() {
            self.first_byte = Some(now);
            self.replica.activity().record_response_started();
        }
        if let Some(aside) = &mut self.observers {
            aside.on_progress(seen, now);
        }
        let Some(charge) = &mut self.reservation else { return };
        let ledger = self.replica.ledger();
        if seen.content_events > 0 {
            match self.last_token.replace(now) {
                Some(last) => self.token_intervals.record(now.since(last)),
                None => {
                    self.first_token = Some(now);
                    self.replica
                        .latency_averages()
                        .record_prefill(self.prompt - self.cached.unwrap_or_default(), now.since(self.chosen_at));
                    charge.record_first_token(ledger);
                    self.streams_at_start = ledger.load().decoding_streams;
                }
            }
            charge.add_output(ledger, seen.content_events, now);
        }
        if let Some(usage) = seen.usage {
            self.usage = Some(usage);
            charge.apply_usage(ledger, usage, now);
        }
    }

    /// Takes note of the token counts where the answer ends, which need not be the replica's doing.
    pub fn set_usage(&mut self, usage: Option<Usage>, now: Moment) {
        if let (Some(usage), Some(charge)) = (usage, &mut self.reservation) {
            self.usage = Some(usage);
            charge.apply_usage(self.replica.ledger(), usage, now);
        }
    }

    /// Takes note that the replica is busy, before the request ends.
    pub fn mark_busy(&self, retry_after: Option<Duration>, now: Moment) {
        self.pool.record_busy(self.slot, retry_after, now);
    }

    /// Takes the charge back and tells how the request ended.
    pub fn settle(mut self, outcome: Outcome, now: Moment) {
        if let Some(charge) = self.reservation.take() {
            self.finish(charge, outcome, now);
        }
    }

    fn finish(&mut self, charge: LoadReservation, outcome: Outcome, now: Moment) {
        let whole = outcome == Outcome::Completed;
        let completion = Tokens(charge.output_tokens(self.replica.ledger()));
        charge.release(self.replica.ledger(), whole);
        // A fast refusal or failure must not make a replica look fast.
        if whole {
            let first_byte = self.first_byte.unwrap_or(now).since(self.chosen_at);
            self.replica.latency_averages().record(first_byte, now.since(self.chosen_at));
            if let (Some(measured), Some(usage)) = (&self.estimate, self.usage) {
                measured.record_usage(usage);
            }
            self.pool.record_speed(self.slot, self.speed_sample(completion));
        }
        if self.first_byte.is_none() {
            self.replica.activity().record_response_started();
        }
        if matches!(outcome, Outcome::Completed | Outcome::Refused) {
            self.replica.activity().record_activity(now);
        }
        self.correct_prefix_cache(outcome);
        self.pool.record_outcome(self.slot, outcome, now);
        self.pool.observer().on_settled(&LeaseReport {
            pool: &self.pool,
            replica: &self.replica,
            outcome,
            chosen_at: self.chosen_at,
            first_token: self.first_token,
            last_token: self.last_token,
            token_intervals: &self.token_intervals,
            ended_at: now,
            model: self.estimate.as_ref().and_then(LengthEstimate::model),
            estimated_usage: Usage { prompt: self.prompt, cached: self.cached, completion },
            usage: self.usage,
            prefix: self.prefix.as_ref(),
            shadow_result: self.observers.as_ref().and_then(|aside| aside.shadow_result()),
        });
        if let Some(aside) = self.observers.take() {
            let first_token = self.first_token.map(|first| first.since(self.chosen_at));
            aside.finish(
                self.slot,
                DecisionResult {
                    outcome,
                    duration: now.since(self.chosen_at),
                    time_to_first_token: first_token,
                    usage: self.usage,
                },
            );
        }
    }
}

impl Lease {
    /// What the answer has shown of its replica's speed.
    fn speed_sample(&self, completion: Tokens) -> SpeedSample {
        let uncached = self
            .usage
            .and_then(|usage| Some(usage.prompt - usage.cached?))
            .unwrap_or(self.prompt - self.cached.unwrap_or_default());
        let first = self.first_token.filter(|_| self.found_idle);
        let gaps = completion.0.saturating_sub(1);
        let decode = self.first_token.zip(self.last_token).filter(|_| gaps >= MIN_INTERVALS).map(|(first, last)| {
            (Duration::from_secs_f64(last.since(first).as_secs_f64() / gaps as f64), self.streams_at_start)
        });
        SpeedSample { prefill: first.map(|first| (first.since(self.chosen_at), uncached.0)), decode }
    }

    /// Takes back what was taken to be cached by this request and is not.
    fn correct_prefix_cache(&self, outcome: Outcome) {
        let (Some(prefix), Some(cached)) = (&self.prefix, self.cached) else { return };
        if matches!(outcome, Outcome::Failed { phase: Phase::Connect }) {
            // Whatever comes back there comes back empty.
            self.replica.cache_slot().clear();
        } else if self.first_token.is_none() && outcome != Outcome::Completed {
            self.replica.cache_slot().trim(prefix, self.prompt, cached);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(charge) = self.reservation.take() {
            self.finish(charge, Outcome::ClientGone, self.last_progress);
        }
    }
}
