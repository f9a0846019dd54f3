//! What has been learned of one model's requests: how long prompts are, how long answers get.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::prompt::{Census, Estimator, MediaTokens};
use crate::units::{ModelName, Tokens, Usage};

/// Models of one pool that are learned apart; more share one meter.
const MODELS: usize = 256;
/// Keys of one model whose answers are learned apart; two keys in one place replace each other.
const KEYS: usize = 1024;
/// An answer's share in an average is one in this many.
const MEMORY: f64 = 16.0;

/// How a request was measured, and what is to learn from its end.
#[derive(Clone, Debug)]
pub struct Measured {
    /// The prompt's length.
    pub prompt: Tokens,
    /// The answer's length, as far as one can tell.
    pub output: Tokens,
    census: Census,
    key: u64,
    meter: Arc<Meter>,
}

/// Measures the requests for one model.
#[derive(Debug)]
pub struct Meter {
    /// `None`: it measures what has no model, or no meter of its own.
    model: Option<ModelName>,
    /// Guards what was learned. Never held while another lock is.
    learned: Mutex<Learned>,
}

#[derive(Debug)]
struct Learned {
    estimator: Estimator,
    outputs: Mean,
    /// By the key's hash: whose it is, and its answers.
    by_key: Vec<(u64, Mean)>,
}

/// An average in which later values count more; of the first few it is the plain mean.
#[derive(Clone, Copy, Debug, Default)]
struct Mean {
    mean: f64,
    values: f64,
}

/// The meters of one pool, by model.
#[derive(Debug, Default)]
pub(super) struct Meters {
    media: MediaTokens,
    /// Guards the table.
    by_model: Mutex<BTreeMap<ModelName, Arc<Meter>>>,
    /// For requests without a model and for models that there is no room for.
    shared: Arc<Meter>,
}

impl Measured {
    /// The model that was asked for, if the pool has it: never a name that a client made up.
    pub fn model(&self) -> Option<&ModelName> {
        self.meter.model.as_ref()
    }

    /// Takes note of what the replica counted.
    pub(super) fn learn(&self, usage: Usage) {
        self.meter.learn(self, usage);
    }
}

impl Meter {
    fn new(model: Option<ModelName>, media: MediaTokens) -> Self {
        let learned = Learned { estimator: Estimator::new(media), outputs: Mean::default(), by_key: Vec::new() };
        Self { model, learned: Mutex::new(learned) }
    }

    /// Measures a request: its prompt by its makeup, its answer by what was asked for and by those before it, of the
    /// same key where there were any. `key` may be empty. *Cost*: one lock.
    pub fn measure(self: &Arc<Self>, census: &Census, key: &[u8], most: Option<Tokens>) -> Measured {
        let key = hash(key);
        let learned = self.lock();
        let usual = learned.of_key(key).unwrap_or(learned.outputs).tokens();
        let output = most.map_or(usual, |most| most.min(usual));
        let prompt = learned.estimator.estimate(census);
        drop(learned);
        Measured { prompt, output, census: *census, key, meter: self.clone() }
    }

    fn learn(&self, request: &Measured, usage: Usage) {
        let mut learned = self.lock();
        learned.estimator.learn(&request.census, usage.prompt);
        learned.outputs.add(usage.completion);
        if request.key != 0 {
            if learned.by_key.is_empty() {
                learned.by_key.resize(KEYS, (0, Mean::default()));
            }
            if let Some((whose, mean)) = learned.by_key.get_mut(place(request.key)) {
                if *whose != request.key {
                    (*whose, *mean) = (request.key, Mean::default());
                }
                mean.add(usage.completion);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Learned> {
        // Nothing under the lock can leave it half-changed.
        self.learned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Meter {
    fn default() -> Self {
        Self::new(None, MediaTokens::default())
    }
}

impl Learned {
    fn of_key(&self, key: u64) -> Option<Mean> {
        let (whose, mean) = self.by_key.get(place(key))?;
        (key != 0 && *whose == key).then_some(*mean)
    }
}

impl Mean {
    fn add(&mut self, value: Tokens) {
        self.values = (self.values + 1.0).min(MEMORY);
        self.mean += (value.0 as f64 - self.mean) / self.values;
    }

    fn tokens(self) -> Tokens {
        Tokens(self.mean.round() as u64)
    }
}

impl Meters {
    pub(super) fn new(media: MediaTokens) -> Self {
        Self { media, by_model: Mutex::default(), shared: Arc::new(Meter::new(None, media)) }
    }

    /// The meter of `model`, made when it is first asked for.
    pub(super) fn of(&self, model: Option<&ModelName>) -> Arc<Meter> {
        let Some(model) = model else { return self.shared.clone() };
        let mut by_model = self.by_model.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(meter) = by_model.get(model) {
            return meter.clone();
        }
        if by_model.len() >= MODELS {
            return self.shared.clone();
        }
        by_model.entry(model.clone()).or_insert_with(|| Arc::new(Meter::new(Some(model.clone()), self.media))).clone()
    }
}

fn hash(key: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(key);
    if key.is_empty() { 0 } else { hasher.finish().max(1) }
}

fn place(key: u64) -> usize {
    usize::try_from(key % KEYS as u64).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(prompt: u64, completion: u64) -> Usage {
        Usage { prompt: Tokens(prompt), cached: None, completion: Tokens(completion) }
    }

    #[test]
    fn answers_are_expected_as_long_as_those_before_and_no_longer_than_asked_for() {
        let meter = Arc::new(Meter::default());
        let output = |key: &[u8], most| meter.measure(&Census::default(), key, most).output;
        assert_eq!(output(b"", None), Tokens(0));
        for (key, tokens) in [(b"a", 100), (b"b", 500), (b"a", 200), (b"b", 700)] {
            meter.measure(&Census::default(), key, None).learn(usage(1, tokens));
        }
        assert_eq!([output(b"", None), output(b"a", None), output(b"b", None)], [375, 150, 600].map(Tokens));
        assert_eq!([output(b"c", None), output(b"b", Some(Tokens(20)))], [375, 20].map(Tokens));
    }

    #[test]
    fn models_are_measured_apart_until_there_are_too_many() {
        let meters = Meters::default();
        let names: Vec<ModelName> = (0..300).map(|at| ModelName::from(format!("m{at}").as_str())).collect();
        assert!(Arc::ptr_eq(&meters.of(Some(&names[0])), &meters.of(Some(&names[0]))));
        assert!(!Arc::ptr_eq(&meters.of(Some(&names[0])), &meters.of(Some(&names[1]))));
        names.iter().for_each(|name| drop(meters.of(Some(name))));
        assert!(Arc::ptr_eq(&meters.of(Some(&names[299])), &meters.of(None)));
    }
}
