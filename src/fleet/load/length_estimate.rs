//! What has been learned of one model's requests: how long prompts are, how long answers get.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::prompt::{MediaTokens, TextStats, TokenEstimator};
use crate::units::{ModelName, Tokens, Usage};

/// Models of one pool that are learned apart; more share one meter.
const MAX_MODELS: usize = 256;
/// Keys of one model whose answers are learned apart; two keys in one place replace each other.
const KEY_SLOTS: usize = 1024;
/// An answer's share in an average is one in this many.
const EWMA_WINDOW: f64 = 16.0;

/// How a request was measured, and what is to learn from its end.
#[derive(Clone, Debug)]
pub struct LengthEstimate {
    /// The prompt's length.
    pub prompt: Tokens,
    /// The answer's length, as far as one can tell.
    pub output: Tokens,
    text_stats: TextStats,
    key_hash: u64,
    estimator: Arc<LengthEstimator>,
}

/// Measures the requests for one model.
#[derive(Debug)]
pub struct LengthEstimator {
    /// `None`: it measures what has no model, or no meter of its own.
    model: Option<ModelName>,
    /// Guards what was learned. Never held while another lock is.
    state: Mutex<EstimatorState>,
}

#[derive(Debug)]
struct EstimatorState {
    prompt_estimator: TokenEstimator,
    output_average: MovingAverage,
    /// By the key's hash: whose it is, and its answers.
    by_key: Vec<(u64, MovingAverage)>,
}

/// An average in which later values count more; of the first few it is the plain mean.
#[derive(Clone, Copy, Debug, Default)]
struct MovingAverage {
    mean: f64,
    count: f64,
}

/// The meters of one pool, by model.
#[derive(Debug, Default)]
pub(in crate::fleet) struct LengthEstimators {
    media: MediaTokens,
    /// Guards the table.
    by_model: Mutex<BTreeMap<ModelName, Arc<LengthEstimator>>>,
    /// For requests without a model and for models that there is no room for.
    shared: Arc<LengthEstimator>,
}

impl LengthEstimate {
    /// The model that was asked for, if the pool has it: never a name that a client made up.
    pub fn model(&self) -> Option<&ModelName> {
        self.estimator.model.as_ref()
    }

    /// Takes note of what the replica counted.
    pub(in crate::fleet) fn record_usage(&self, usage: Usage) {
        self.estimator.record_usage(self, usage);
    }
}

impl LengthEstimator {
    fn new(model: Option<ModelName>, media: MediaTokens) -> Self {
        let learned = EstimatorState {
            prompt_estimator: TokenEstimator::new(media),
            output_average: MovingAverage::default(),
            by_key: Vec::new(),
        };
        Self { model, state: Mutex::new(learned) }
    }

    /// Measures a request: its prompt by its makeup, its answer by what was asked for and by those before it, of the
    /// same key where there were any. `key` may be empty. *Cost*: one lock.
    pub fn estimate(self: &Arc<Self>, census: &TextStats, key: &[u8], most: Option<Tokens>) -> LengthEstimate {
        let key = hash_key(key);
        let learned = self.lock_state();
        let usual = learned.average_for_key(key).unwrap_or(learned.output_average).tokens();
        let output = most.map_or(usual, |most| most.min(usual));
        let prompt = learned.prompt_estimator.estimate(census);
        drop(learned);
        LengthEstimate { prompt, output, text_stats: *census, key_hash: key, estimator: self.clone() }
    }

    fn record_usage(&self, request: &LengthEstimate, usage: Usage) {
        let mut learned = self.lock_state();
        learned.prompt_estimator.learn(&request.text_stats, usage.prompt);
        learned.output_average.add(usage.completion);
        if request.key_hash != 0 {
            if learned.by_key.is_empty() {
                learned.by_key.resize(KEY_SLOTS, (0, MovingAverage::default()));
            }
            if let Some((whose, mean)) = learned.by_key.get_mut(key_slot(request.key_hash)) {
                if *whose != request.key_hash {
                    (*whose, *mean) = (request.key_hash, MovingAverage::default());
                }
                mean.add(usage.completion);
            }
        }
    }

    fn lock_state(&self) -> MutexGuard<'_, EstimatorState> {
        // Nothing under the lock can leave it half-changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for LengthEstimator {
    fn default() -> Self {
        Self::new(None, MediaTokens::default())
    }
}

impl EstimatorState {
    fn average_for_key(&self, key: u64) -> Option<MovingAverage> {
        let (whose, mean) = self.by_key.get(key_slot(key))?;
        (key != 0 && *whose == key).then_some(*mean)
    }
}

impl MovingAverage {
    fn add(&mut self, value: Tokens) {
        self.count = (self.count + 1.0).min(EWMA_WINDOW);
        self.mean += (value.0 as f64 - self.mean) / self.count;
    }

    fn tokens(self) -> Tokens {
        Tokens(self.mean.round() as u64)
    }
}

impl LengthEstimators {
    pub(in crate::fleet) fn new(media: MediaTokens) -> Self {
        Self { media, by_model: Mutex::default(), shared: Arc::new(LengthEstimator::new(None, media)) }
    }

    /// The meter of `model`, made when it is first asked for.
    pub(in crate::fleet) fn for_model(&self, model: Option<&ModelName>) -> Arc<LengthEstimator> {
        let Some(model) = model else { return self.shared.clone() };
        let mut by_model = self.by_model.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(meter) = by_model.get(model) {
            return meter.clone();
        }
        if by_model.len() >= MAX_MODELS {
            return self.shared.clone();
        }
        by_model
            .entry(model.clone())
            .or_insert_with(|| Arc::new(LengthEstimator::new(Some(model.clone()), self.media)))
            .clone()
    }
}

fn hash_key(key: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(key);
    if key.is_empty() { 0 } else { hasher.finish().max(1) }
}

fn key_slot(key: u64) -> usize {
    usize::try_from(key % KEY_SLOTS as u64).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(prompt: u64, completion: u64) -> Usage {
        Usage { prompt: Tokens(prompt), cached: None, completion: Tokens(completion) }
    }

    #[test]
    fn answers_are_expected_as_long_as_those_before_and_no_longer_than_asked_for() {
        let meter = Arc::new(LengthEstimator::default());
        let output = |key: &[u8], most| meter.estimate(&TextStats::default(), key, most).output;
        assert_eq!(output(b"", None), Tokens(0));
        for (key, tokens) in [(b"a", 100), (b"b", 500), (b"a", 200), (b"b", 700)] {
            meter.estimate(&TextStats::default(), key, None).record_usage(usage(1, tokens));
        }
        assert_eq!([output(b"", None), output(b"a", None), output(b"b", None)], [375, 150, 600].map(Tokens));
        assert_eq!([output(b"c", None), output(b"b", Some(Tokens(20)))], [375, 20].map(Tokens));
    }

    #[test]
    fn models_are_measured_apart_until_there_are_too_many() {
        let meters = LengthEstimators::default();
        let names: Vec<ModelName> = (0..300).map(|at| ModelName::from(format!("m{at}").as_str())).collect();
        assert!(Arc::ptr_eq(&meters.for_model(Some(&names[0])), &meters.for_model(Some(&names[0]))));
        assert!(!Arc::ptr_eq(&meters.for_model(Some(&names[0])), &meters.for_model(Some(&names[1]))));
        names.iter().for_each(|name| drop(meters.for_model(Some(name))));
        assert!(Arc::ptr_eq(&meters.for_model(Some(&names[299])), &meters.for_model(None)));
    }
}
