//! One request's charge on one replica, from the choice to the end of the answer.

use std::sync::Arc;
use std::time::Duration;

use super::load::Charge;
use super::pool::Aside;
use super::speed::Sample;
use super::{End, Gaps, Measured, Models, Outcome, Phase, Pool, Progress, Replica, Report};
use crate::prompt::Prefix;
use crate::units::{ModelName, Moment, Slot, Tokens, Usage};

/// Times between fewer tokens say little.
const ENOUGH_GAPS: u64 = 8;

/// A charge on a replica that is taken back exactly once: by [`Lease::settle`], or as [`Outcome::ClientGone`] when dropped.
#[derive(Debug)]
pub struct Lease {
    pool: Arc<Pool>,
    replica: Arc<Replica>,
    at: Slot,
    chosen: Moment,
    first_byte: Option<Moment>,
    first_token: Option<Moment>,
    last_token: Option<Moment>,
    last_progress: Moment,
    gaps: Gaps,
    usage: Option<Usage>,
    prompt: Tokens,
    /// What of the prompt was taken to be cached; `None` if the policy does not ask.
    cached: Option<Tokens>,
    prefix: Option<Arc<Prefix>>,
    measured: Option<Measured>,
    /// Nothing waited to be prefilled where it was sent.
    found_idle: bool,
    /// Streams there when its own began.
    streams: u32,
    /// Taken when the lease settles.
    charge: Option<Charge>,
    /// For those who look on.
    aside: Option<Box<Aside>>,
}

/// What a lease is made from.
pub(super) struct Chosen {
    pub(super) replica: Arc<Replica>,
    pub(super) at: Slot,
    pub(super) prompt: Tokens,
    pub(super) cached: Option<Tokens>,
    pub(super) found_idle: bool,
    pub(super) prefix: Option<Arc<Prefix>>,
    pub(super) measured: Option<Measured>,
    pub(super) aside: Option<Box<Aside>>,
}

impl Lease {
    /// Takes a charge that was made under the pool's lock.
    pub(super) fn new(pool: Arc<Pool>, chosen: Chosen, charge: Charge, now: Moment) -> Self {
        let Chosen { replica, at, prompt, cached, found_idle, prefix, measured, aside } = chosen;
        Self {
            pool,
            replica,
            at,
            chosen: now,
            first_byte: None,
            first_token: None,
            last_token: None,
            last_progress: now,
            gaps: Gaps::default(),
            usage: None,
            prompt,
            cached,
            prefix,
            measured,
            found_idle,
            streams: 0,
            charge: Some(charge),
            aside,
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
    pub fn model_for(&self, model: &str) -> Option<ModelName> {
        let names = self.pool.configured_models();
        let listed = self.replica.models();
        let own = match &*listed {
            Models::Listed(_) if listed.list(model) => None,
            Models::Listed(theirs) => names.iter().find(|name| theirs.contains(name)).or(theirs.first()),
            Models::Unlisted | Models::Unknown => names.first(),
        };
        own.filter(|own| own.as_str() != model).cloned()
    }

    /// How the choice came about, in a line for people; `None` unless it is kept, and not forgotten yet.
    pub fn decision(&self) -> Option<String> {
        self.aside.as_ref()?.line()
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
    pub fn resident(&self) -> Tokens {
        Tokens(self.charge.as_ref().map_or(0, |charge| charge.weight(self.replica.ledger())))
    }

    /// Follows the answer.
    pub fn progress(&mut self, seen: Progress, now: Moment) {
        self.last_progress = now;
        self.replica.signs().progress(now);
        if self.first_byte.is_none() {
            self.first_byte = Some(now);
            self.replica.signs().begins();
        }
        if let Some(aside) = &mut self.aside {
            aside.follow(seen, now);
        }
        let Some(charge) = &mut self.charge else { return };
        let ledger = self.replica.ledger();
        if seen.content_events > 0 {
            match self.last_token.replace(now) {
                Some(last) => self.gaps.add(now.since(last)),
                None => {
                    self.first_token = Some(now);
                    self.replica
                        .averages()
                        .learn_prefill(self.prompt - self.cached.unwrap_or_default(), now.since(self.chosen));
                    charge.first_token(ledger);
                    self.streams = ledger.load().decoding;
                }
            }
            charge.grow(ledger, seen.content_events, now);
        }
        if let Some(usage) = seen.usage {
            self.usage = Some(usage);
            charge.correct(ledger, usage, now);
        }
    }

    /// Takes note of the token counts where the answer ends, which need not be the replica's doing.
    pub fn counts(&mut self, usage: Option<Usage>, now: Moment) {
        if let (Some(usage), Some(charge)) = (usage, &mut self.charge) {
            self.usage = Some(usage);
            charge.correct(self.replica.ledger(), usage, now);
        }
    }

    /// Takes note that the replica is busy, before the request ends.
    pub fn busy(&self, retry_after: Option<Duration>, now: Moment) {
        self.pool.passes_over(self.at, retry_after, now);
    }

    /// Takes the charge back and tells how the request ended.
    pub fn settle(mut self, outcome: Outcome, now: Moment) {
        if let Some(charge) = self.charge.take() {
            self.end(charge, outcome, now);
        }
    }

    fn end(&mut self, charge: Charge, outcome: Outcome, now: Moment) {
        let whole = outcome == Outcome::Completed;
        let completion = Tokens(charge.generated(self.replica.ledger()));
        charge.release(self.replica.ledger(), whole);
        // A fast refusal or failure must not make a replica look fast.
        if whole {
            let first_byte = self.first_byte.unwrap_or(now).since(self.chosen);
            self.replica.averages().learn(first_byte, now.since(self.chosen));
            if let (Some(measured), Some(usage)) = (&self.measured, self.usage) {
                measured.learn(usage);
            }
            self.pool.learn_speed(self.at, self.sample(completion));
        }
        if self.first_byte.is_none() {
            self.replica.signs().begins();
        }
        if matches!(outcome, Outcome::Completed | Outcome::Refused) {
            self.replica.signs().progress(now);
        }
        self.correct_beliefs(outcome);
        self.pool.judge(self.at, outcome, now);
        self.pool.observer().settled(&Report {
            pool: &self.pool,
            replica: &self.replica,
            outcome,
            chosen: self.chosen,
            first_token: self.first_token,
            last_token: self.last_token,
            gaps: &self.gaps,
            ended: now,
            model: self.measured.as_ref().and_then(Measured::model),
            estimated: Usage { prompt: self.prompt, cached: self.cached, completion },
            usage: self.usage,
            prefix: self.prefix.as_ref(),
            shadowed: self.aside.as_ref().and_then(|aside| aside.shadowed()),
        });
        if let Some(aside) = self.aside.take() {
            let first_token = self.first_token.map(|first| first.since(self.chosen));
            aside.end(self.at, End { outcome, took: now.since(self.chosen), first_token, usage: self.usage });
        }
    }
}

impl Lease {
    /// What the answer has shown of its replica's speed.
    fn sample(&self, completion: Tokens) -> Sample {
        let uncached = self
            .usage
            .and_then(|usage| Some(usage.prompt - usage.cached?))
            .unwrap_or(self.prompt - self.cached.unwrap_or_default());
        let first = self.first_token.filter(|_| self.found_idle);
        let gaps = completion.0.saturating_sub(1);
        let decode = self.first_token.zip(self.last_token).filter(|_| gaps >= ENOUGH_GAPS).map(|(first, last)| {
            (Duration::from_secs_f64(last.since(first).as_secs_f64() / gaps as f64), self.streams)
        });
        Sample { prefill: first.map(|first| (first.since(self.chosen), uncached.0)), decode }
    }

    /// Takes back what was taken to be cached by this request and is not.
    fn correct_beliefs(&self, outcome: Outcome) {
        let (Some(prefix), Some(cached)) = (&self.prefix, self.cached) else { return };
        if matches!(outcome, Outcome::Failed { phase: Phase::Connect }) {
            // Whatever comes back there comes back empty.
            self.replica.seat().clear();
        } else if self.first_token.is_none() && outcome != Outcome::Completed {
            self.replica.seat().trim(prefix, self.prompt, cached);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(charge) = self.charge.take() {
            self.end(charge, Outcome::ClientGone, self.last_progress);
        }
    }
}
