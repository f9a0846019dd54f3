//! Learned lengths of one model's prompts and outputs.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hasher};
use std::sync::{Arc, Mutex};

use crate::fleet::lock::lock;
use crate::prompt::{MediaTokens, TextStats, TokenEstimator};
use crate::units::{ModelName, Tokens, Usage};

/// Models of one pool with an estimator of their own; further ones share one.
const MAX_MODELS: usize = 256;
/// Slots for per-key averages of one model; two keys of one slot replace each other.
const KEY_SLOTS: usize = 1024;
/// Samples that an average spans.
const EWMA_WINDOW: f64 = 16.0;

/// A request's estimated lengths, and the data needed to learn from its end.
#[derive(Clone, Debug)]
pub struct LengthEstimate {
    /// Prompt length.
    pub prompt: Tokens,
    /// Expected output length.
    pub output: Tokens,
    text_stats: TextStats,
    key_hash: u64,
    estimator: Arc<LengthEstimator>,
}

/// Estimates the lengths of one model's requests.
#[derive(Debug)]
pub struct LengthEstimator {
    /// `None` for requests without a model, or whose model has no estimator of its own.
    model: Option<ModelName>,
    /// Guards the learned averages. Never held while another lock is.
    state: Mutex<EstimatorState>,
}

#[derive(Debug)]
struct EstimatorState {
    prompt_estimator: TokenEstimator,
    output_average: MovingAverage,
    /// By slot of the key's hash: the hash and the average output of its requests. Empty before the first key.
    by_key: Vec<(u64, MovingAverage)>,
}

/// The mean of the first values, then an average in which later values count more.
#[derive(Clone, Copy, Debug, Default)]
struct MovingAverage {
    mean: f64,
    count: f64,
}

/// The estimators of one pool, by model.
#[derive(Debug, Default)]
pub(in crate::fleet) struct LengthEstimators {
    media: MediaTokens,
    /// Guards the table.
    by_model: Mutex<BTreeMap<ModelName, Arc<LengthEstimator>>>,
    /// For requests without a model, and for models beyond [`MAX_MODELS`].
    shared: Arc<LengthEstimator>,
}

impl LengthEstimate {
    /// Returns the requested model, if the pool has it: never a name that a client made up.
    pub fn model(&self) -> Option<&ModelName> {
        self.estimator.model.as_ref()
    }

    /// Records the counts that the replica reported.
    pub(in crate::fleet) fn record_usage(&self, usage: Usage) {
        self.estimator.record_usage(self, usage);
    }
}

impl LengthEstimator {
    fn new(model: Option<ModelName>, media: MediaTokens) -> Self {
        let state = EstimatorState {
            prompt_estimator: TokenEstimator::new(media),
            output_average: MovingAverage::default(),
            by_key: Vec::new(),
        };
        Self { model, state: Mutex::new(state) }
    }

    /// Returns the estimated lengths of a request.
    ///
    /// The prompt is estimated from its text; the output from earlier ones, of the same `key` if there are any, at most
    /// `max_output`. `key` may be empty. *Cost*: one lock.
    pub fn estimate(
        self: &Arc<Self>,
        text_stats: &TextStats,
        key: &[u8],
        max_output: Option<Tokens>,
    ) -> LengthEstimate {
        let key_hash = hash_key(key);
        let state = lock(&self.state);
        let usual = state.average_for_key(key_hash).unwrap_or(state.output_average).tokens();
        let prompt = state.prompt_estimator.estimate(text_stats);
        drop(state);
        let output = max_output.map_or(usual, |max| max.min(usual));
        LengthEstimate { prompt, output, text_stats: *text_stats, key_hash, estimator: self.clone() }
    }

    fn record_usage(&self, request: &LengthEstimate, usage: Usage) {
        let mut state = lock(&self.state);
        state.prompt_estimator.learn(&request.text_stats, usage.prompt);
        state.output_average.add(usage.completion);
        if request.key_hash != 0 {
            if state.by_key.is_empty() {
                state.by_key.resize(KEY_SLOTS, (0, MovingAverage::default()));
            }
            if let Some((key_hash, average)) = state.by_key.get_mut(key_slot(request.key_hash)) {
                if *key_hash != request.key_hash {
                    (*key_hash, *average) = (request.key_hash, MovingAverage::default());
                }
                average.add(usage.completion);
            }
        }
    }
}

impl Default for LengthEstimator {
    fn default() -> Self {
        Self::new(None, MediaTokens::default())
    }
}

impl EstimatorState {
    fn average_for_key(&self, key_hash: u64) -> Option<MovingAverage> {
        let (found, average) = self.by_key.get(key_slot(key_hash))?;
        (key_hash != 0 && *found == key_hash).then_some(*average)
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

    /// Returns the estimator of `model`; the first call creates it.
    pub(in crate::fleet) fn for_model(&self, model: Option<&ModelName>) -> Arc<LengthEstimator> {
        let Some(model) = model else { return self.shared.clone() };
        let mut by_model = lock(&self.by_model);
        if let Some(estimator) = by_model.get(model) {
            return estimator.clone();
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

/// Returns a hash other than 0; 0 for an empty key.
fn hash_key(key: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(key);
    if key.is_empty() { 0 } else { hasher.finish().max(1) }
}

fn key_slot(key_hash: u64) -> usize {
    usize::try_from(key_hash % KEY_SLOTS as u64).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(prompt: u64, completion: u64) -> Usage {
        Usage { prompt: Tokens(prompt), cached: None, completion: Tokens(completion) }
    }

    #[test]
    fn output_estimate_follows_earlier_outputs_up_to_the_maximum() {
        let estimator = Arc::new(LengthEstimator::default());
        let output = |key: &[u8], most| estimator.estimate(&TextStats::default(), key, most).output;
        assert_eq!(output(b"", None), Tokens(0));
        for (key, tokens) in [(b"a", 100), (b"b", 500), (b"a", 200), (b"b", 700)] {
            estimator.estimate(&TextStats::default(), key, None).record_usage(usage(1, tokens));
        }
        assert_eq!([output(b"", None), output(b"a", None), output(b"b", None)], [375, 150, 600].map(Tokens));
        assert_eq!([output(b"c", None), output(b"b", Some(Tokens(20)))], [375, 20].map(Tokens));
    }

    #[test]
    fn models_have_own_estimators_up_to_a_limit() {
        let estimators = LengthEstimators::default();
        let names: Vec<ModelName> = (0..300).map(|at| ModelName::from(format!("m{at}").as_str())).collect();
        assert!(Arc::ptr_eq(&estimators.for_model(Some(&names[0])), &estimators.for_model(Some(&names[0]))));
        assert!(!Arc::ptr_eq(&estimators.for_model(Some(&names[0])), &estimators.for_model(Some(&names[1]))));
        names.iter().for_each(|name| drop(estimators.for_model(Some(name))));
        assert!(Arc::ptr_eq(&estimators.for_model(Some(&names[299])), &estimators.for_model(None)));
    }
}
