//! One request's lease of a replica, from the choice to the end of the response.

use std::sync::Arc;
use std::time::Duration;

use super::Pool;
use crate::fleet::lease_report::LeaseTimeline;
use crate::fleet::load::ledger::LoadReservation;
use crate::fleet::load::relative_speed::SpeedSample;
use crate::fleet::observe::request_observers::RequestObservers;
use crate::fleet::{
    DecisionResult, LeaseReport, LengthEstimate, Outcome, Phase, Replica, ReplicaModels, ResponseProgress,
};
use crate::prompt::PromptFingerprint;
use crate::units::{ModelFit, ModelName, Moment, Slot, Tokens, Usage};

/// Minimum of intervals for a sample of decode speed.
const MIN_INTERVALS: u64 = 8;

/// A reservation on a replica that settles exactly once: by [`Lease::settle`], or as [`Outcome::ClientGone`] on drop.
#[derive(Debug)]
pub struct Lease {
    pool: Arc<Pool>,
    replica: Arc<Replica>,
    slot: Slot,
    timeline: LeaseTimeline,
    prompt: PromptEstimate,
    /// Whether no prompt waited for prefill on the replica at the choice.
    found_idle: bool,
    /// Whether the first byte comes when the whole answer has been generated.
    expects_plain_answer: bool,
    /// Whether the connection is a tunnel now, whose duration says nothing about the replica's speed.
    is_tunnel: bool,
    /// Streams on the replica at the first token.
    streams_at_start: u32,
    /// The last token counts that the replica reported.
    usage: Option<Usage>,
    /// Taken when the lease settles.
    reservation: Option<LoadReservation>,
    /// `None` if the request is not observed.
    observers: Option<Box<RequestObservers>>,
}

/// The prompt as estimated at the choice.
#[derive(Debug)]
pub(super) struct PromptEstimate {
    /// Length of the prompt, as reserved.
    pub(super) tokens: Tokens,
    /// The part estimated to be cached; `None` if the policy does not use prefix caches.
    pub(super) cached: Option<Tokens>,
    pub(super) prefix: Option<Arc<PromptFingerprint>>,
    /// The length estimates, to learn from the reported usage.
    pub(super) lengths: Option<LengthEstimate>,
}

/// The parts of a new lease.
pub(super) struct LeaseParts {
    pub(super) replica: Arc<Replica>,
    pub(super) slot: Slot,
    pub(super) prompt: PromptEstimate,
    pub(super) found_idle: bool,
    pub(super) observers: Option<Box<RequestObservers>>,
}

impl Lease {
    /// Creates a lease from a reservation made under the pool's lock.
    pub(super) fn new(pool: Arc<Pool>, parts: LeaseParts, reservation: LoadReservation, now: Moment) -> Self {
        let LeaseParts { replica, slot, prompt, found_idle, observers } = parts;
        Self {
            pool,
            replica,
            slot,
            timeline: LeaseTimeline::new(now),
            prompt,
            found_idle,
            expects_plain_answer: false,
            is_tunnel: false,
            streams_at_start: 0,
            usage: None,
            reservation: Some(reservation),
            observers,
        }
    }

    /// Returns the chosen replica.
    pub const fn replica(&self) -> &Arc<Replica> {
        &self.replica
    }

    /// Returns the pool that chose it.
    pub const fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Returns the replica's own name for `model`; `None` if it is the same, or unknown.
    ///
    /// An alias maps to the first of the pool's names that the replica lists, else to the first listed name. A name that
    /// fits a pattern maps to what is behind the pattern's beginning, if that is listed, else as an alias does. A replica
    /// without a list is assumed to use the pool's first name, or whatever fits a pattern.
    pub fn upstream_model(&self, model: &str) -> Option<ModelName> {
        let names = self.pool.configured_models();
        let models = self.replica.models();
        let upstream = match &*models {
            ReplicaModels::Listed(_) if models.contains(model) => None,
            ReplicaModels::Listed(listed) => {
                let is_listed = |name: &str| listed.iter().find(|listed| listed.as_str() == name);
                let behind_prefix = match names.find(model) {
                    Some((_, ModelFit::Pattern(length))) => model.get(length..).and_then(is_listed),
                    _ => None,
                };
                let alias = || names.exact().iter().find(|name| is_listed(name.as_str()).is_some());
                behind_prefix.or_else(alias).or(listed.first())
            }
            ReplicaModels::Unlisted | ReplicaModels::Unknown => names.exact().first(),
        };
        upstream.filter(|upstream| upstream.as_str() != model).cloned()
    }

    /// Returns the decision as a line for people; `None` unless it is logged, and not evicted yet.
    pub fn decision_line(&self) -> Option<String> {
        self.observers.as_ref()?.decision_line()
    }

    /// Returns the time of the first generated content.
    pub const fn first_token(&self) -> Option<Moment> {
        self.timeline.first_token
    }

    /// Returns the last token counts that the replica reported.
    pub const fn usage(&self) -> Option<Usage> {
        self.usage
    }

    /// Returns the prompt tokens reserved.
    pub const fn prompt(&self) -> Tokens {
        self.prompt.tokens
    }

    /// Returns this request's tokens resident on the replica, reported or estimated.
    pub fn resident_tokens(&self) -> Tokens {
        let ledger = self.replica.ledger();
        Tokens(self.reservation.as_ref().map_or(0, |reservation| reservation.tokens_held(ledger)))
    }

    /// Records that the first byte comes when the whole answer has been generated: no stream was asked for. To be called
    /// at most once, before any progress.
    pub fn expect_plain_answer(&mut self) {
        self.expects_plain_answer = true;
        self.replica.activity().record_plain_request();
    }

    /// Records that the connection has become a tunnel.
    pub const fn start_tunnel(&mut self) {
        self.is_tunnel = true;
    }

    /// Records a part of the response.
    pub fn record_progress(&mut self, progress: ResponseProgress, now: Moment) {
        self.replica.activity().record_activity(now);
        if self.timeline.first_byte.is_none() {
            self.timeline.first_byte = Some(now);
            self.record_response_started();
        }
        let timeline = &mut self.timeline;
        timeline.last_progress = now;
        if let Some(observers) = &mut self.observers {
            observers.on_progress(progress, now);
        }
        let Some(reservation) = &mut self.reservation else { return };
        let ledger = self.replica.ledger();
        if progress.content_events > 0 {
            match timeline.last_token.replace(now) {
                Some(last) => timeline.token_intervals.record(now.since(last)),
                None => {
                    timeline.first_token = Some(now);
                    let time = now.since(timeline.chosen_at);
                    self.replica.latency_averages().record_prefill(self.prompt.uncached(), time);
                    reservation.record_first_token(ledger);
                    self.streams_at_start = ledger.load().decoding_streams;
                }
            }
            reservation.add_output(ledger, progress.content_events, now);
        }
        if let Some(usage) = progress.usage {
            self.usage = Some(usage);
            reservation.apply_usage(ledger, usage, now);
        }
    }

    /// Records the token counts at the end of the response. Does not count as activity of the replica.
    pub fn set_usage(&mut self, usage: Option<Usage>, now: Moment) {
        if let (Some(usage), Some(reservation)) = (usage, &mut self.reservation) {
            self.usage = Some(usage);
            reservation.apply_usage(self.replica.ledger(), usage, now);
        }
    }

    /// Records that the replica is busy, before the request ends.
    pub fn mark_busy(&self, retry_after: Option<Duration>, now: Moment) {
        self.pool.record_busy(self.slot, retry_after, now);
    }

    fn record_response_started(&self) {
        let activity = self.replica.activity();
        activity.record_response_started();
        if self.expects_plain_answer {
            activity.record_plain_answer_started();
        }
    }

    /// Releases the reservation and reports how the request ended.
    pub fn settle(mut self, outcome: Outcome, now: Moment) {
        if let Some(reservation) = self.reservation.take() {
            self.finish(reservation, outcome, now);
        }
    }

    fn finish(&mut self, reservation: LoadReservation, outcome: Outcome, now: Moment) {
        let completed = outcome == Outcome::Completed;
        let completion = Tokens(reservation.output_tokens(self.replica.ledger()));
        reservation.release(self.replica.ledger(), completed);
        // A fast refusal or failure must not make a replica look fast.
        if completed && !self.is_tunnel {
            self.record_latency(completion, now);
        }
        if self.timeline.first_byte.is_none() {
            self.record_response_started();
        }
        if matches!(outcome, Outcome::Completed | Outcome::Refused) {
            self.replica.activity().record_activity(now);
        }
        self.correct_prefix_cache(outcome);
        self.pool.record_outcome(self.slot, outcome, now);
        self.pool.observer().on_settled(&LeaseReport {
            pool: self.pool.name(),
            replica: &self.replica,
            outcome,
            timeline: &self.timeline,
            ended_at: now,
            model: self.prompt.lengths.as_ref().and_then(LengthEstimate::model),
            estimated_usage: Usage { prompt: self.prompt.tokens, cached: self.prompt.cached, completion },
            usage: self.usage,
            prefix: self.prompt.prefix.as_ref(),
            shadow_result: self.observers.as_ref().and_then(|observers| observers.shadow_result()),
        });
        if let Some(observers) = self.observers.take() {
            let LeaseTimeline { chosen_at, first_token, .. } = self.timeline;
            let time_to_first_token = first_token.map(|first| first.since(chosen_at));
            let duration = now.since(chosen_at);
            observers.finish(self.slot, DecisionResult { outcome, duration, time_to_first_token, usage: self.usage });
        }
    }

    /// Records the latency and speed of a completed response, and its lengths if they were reported.
    fn record_latency(&self, completion: Tokens, now: Moment) {
        let chosen_at = self.timeline.chosen_at;
        let first_byte = self.timeline.first_byte.unwrap_or(now).since(chosen_at);
        self.replica.latency_averages().record(first_byte, now.since(chosen_at));
        if let (Some(lengths), Some(usage)) = (&self.prompt.lengths, self.usage) {
            lengths.record_usage(usage);
        }
        self.pool.record_speed(self.slot, self.speed_sample(completion));
    }

    /// Returns the speed that the response has shown.
    fn speed_sample(&self, completion: Tokens) -> SpeedSample {
        let LeaseTimeline { chosen_at, first_token, last_token, .. } = self.timeline;
        let reported = self.usage.and_then(|usage| Some(usage.prompt - usage.cached?));
        let uncached = reported.unwrap_or(self.prompt.uncached());
        let prefill = first_token.filter(|_| self.found_idle).map(|first| (first.since(chosen_at), uncached.0));
        let intervals = completion.0.saturating_sub(1);
        let decode = first_token.zip(last_token).filter(|_| intervals >= MIN_INTERVALS).map(|(first, last)| {
            let mean_interval = Duration::from_secs_f64(last.since(first).as_secs_f64() / intervals as f64);
            (mean_interval, self.streams_at_start)
        });
        SpeedSample { prefill, decode }
    }

    /// Corrects the estimate of the replica's prefix cache after a request that was not completed.
    fn correct_prefix_cache(&self, outcome: Outcome) {
        let PromptEstimate { tokens, cached: Some(cached), prefix: Some(prefix), .. } = &self.prompt else { return };
        if matches!(outcome, Outcome::Failed { phase: Phase::Connect }) {
            // A replica that is down returns with an empty cache.
            self.replica.cache_slot().clear();
        } else if self.timeline.first_token.is_none() && outcome != Outcome::Completed {
            self.replica.cache_slot().trim(prefix, *tokens, *cached);
        }
    }
}

impl PromptEstimate {
    /// Returns the part to be prefilled.
    fn uncached(&self) -> Tokens {
        self.tokens - self.cached.unwrap_or_default()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(reservation) = self.reservation.take() {
            self.finish(reservation, Outcome::ClientGone, self.timeline.last_progress);
        }
    }
}
