//! The last 15 minutes, a value per second, in fixed memory.

use std::collections::VecDeque;
use std::sync::Arc;

use serde_json::{Value, json};

use super::rounded::rounded;
use crate::fleet::Outcome;

/// The seconds that are kept.
const SECONDS: usize = 900;
/// Replicas with a history; further ones have none.
const MAX_REPLICAS: usize = 256;
/// Marks a second without a value.
const MISSING: u32 = u32::MAX;

/// The figures of one second that are kept.
pub(super) struct HistorySample {
    /// The Unix time in seconds.
    pub(super) time: u64,
    /// The quantiles 50, 95 and 99 of the time to first token, in seconds.
    pub(super) ttft: [Option<f64>; 3],
    /// Requests that ended in the second, by [`Outcome::index`].
    pub(super) outcomes: [u64; Outcome::ALL.len()],
    /// Each replica's generated tokens per second and resident tokens.
    pub(super) replicas: Vec<(Arc<str>, f64, u64)>,
}

/// The past of the router.
///
/// *Shape*: 900 values of 4 bytes for each of 9 series, and for two more of each of at most 256 replicas: 1.9 MB.
#[derive(Default)]
pub(super) struct History {
    /// The Unix time of the last value.
    last_time: u64,
    /// In milliseconds.
    ttft: [Series; 3],
    outcomes: [Series; Outcome::ALL.len()],
    replicas: Vec<ReplicaHistory>,
}

struct ReplicaHistory {
    name: Arc<str>,
    tokens_per_second: Series,
    resident_tokens: Series,
}

/// The values of the last seconds, oldest first.
#[derive(Default)]
struct Series(VecDeque<u32>);

impl Series {
    /// Returns a series that had no value for `seconds`.
    fn missing(seconds: usize) -> Self {
        Self(std::iter::repeat_n(MISSING, seconds).collect())
    }

    fn push(&mut self, value: Option<u64>) {
        if self.0.len() == SECONDS {
            self.0.pop_front();
        }
        self.0.push_back(value.map_or(MISSING, |value| u32::try_from(value).unwrap_or(MISSING).min(MISSING - 1)));
    }

    fn is_missing(&self) -> bool {
        self.0.iter().all(|value| *value == MISSING)
    }

    fn to_json(&self, scale: f64) -> Value {
        let value = |value: &u32| if *value == MISSING { Value::Null } else { rounded(f64::from(*value) * scale, 3) };
        self.0.iter().map(value).collect()
    }
}

impl History {
    /// Adds a second. Seconds that the sampler has missed, because the process stood still, have no values. The past is
    /// dropped if all of it is too old, or if the machine's clock was set back.
    pub(super) fn push(&mut self, sample: &HistorySample) {
        if sample.time <= self.last_time || sample.time - self.last_time > SECONDS as u64 {
            *self = Self::default();
        } else {
            (self.last_time + 1..sample.time).for_each(|_| self.push_values(None));
        }
        self.last_time = sample.time;
        self.push_values(Some(sample));
    }

    fn push_values(&mut self, sample: Option<&HistorySample>) {
        let seconds = self.ttft.first().map_or(0, |series| series.0.len());
        for (name, ..) in sample.iter().flat_map(|sample| &sample.replicas) {
            if self.replicas.len() < MAX_REPLICAS && !self.replicas.iter().any(|known| known.name == *name) {
                self.replicas.push(ReplicaHistory {
                    name: name.clone(),
                    tokens_per_second: Series::missing(seconds),
                    resident_tokens: Series::missing(seconds),
                });
            }
        }
        for (index, series) in self.ttft.iter_mut().enumerate() {
            let seconds = sample.and_then(|sample| *sample.ttft.get(index)?);
            series.push(seconds.map(|seconds| (seconds * 1_000.0) as u64));
        }
        for (index, series) in self.outcomes.iter_mut().enumerate() {
            series.push(sample.and_then(|sample| sample.outcomes.get(index).copied()));
        }
        for replica in &mut self.replicas {
            let found = sample.and_then(|sample| sample.replicas.iter().find(|(name, ..)| *name == replica.name));
            replica.tokens_per_second.push(found.map(|(_, rate, _)| (rate * 10.0) as u64));
            replica.resident_tokens.push(found.map(|(.., resident)| *resident));
        }
        self.replicas.retain(|replica| !replica.resident_tokens.is_missing());
    }

    /// Returns the message `history`, with the rows of the last requests.
    pub(super) fn to_json(&self, requests: &[Value]) -> String {
        let [p50, p95, p99] = &self.ttft;
        let seconds = p50.0.len();
        let outcomes = Outcome::ALL.iter().zip(&self.outcomes);
        let outcomes: serde_json::Map<String, Value> =
            outcomes.map(|(outcome, series)| (outcome.as_str().to_owned(), series.to_json(1.0))).collect();
        let replicas: Vec<Value> = self
            .replicas
            .iter()
            .map(|replica| {
                json!({
                    "name": &*replica.name,
                    "tokens_per_second": replica.tokens_per_second.to_json(0.1),
                    "resident_tokens": replica.resident_tokens.to_json(1.0),
                })
            })
            .collect();
        json!({
            "from": (self.last_time + 1).saturating_sub(seconds as u64),
            "seconds": seconds,
            "ttft_p50": p50.to_json(0.001),
            "ttft_p95": p95.to_json(0.001),
            "ttft_p99": p99.to_json(0.001),
            "outcomes": outcomes,
            "replicas": replicas,
            "requests": requests,
        })
        .to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(time: u64, replicas: &[&str]) -> HistorySample {
        let replica = |name: &&str| (Arc::from(*name), 12.34, 1_000 + time);
        HistorySample {
            time,
            ttft: [Some(0.25), None, None],
            outcomes: [time; 6],
            replicas: replicas.iter().map(replica).collect(),
        }
    }

    #[test]
    fn a_quarter_of_an_hour_is_kept_and_gaps_have_no_value() {
        let mut history = History::default();
        (1..=1_000).for_each(|time| history.push(&sample(time, &["a"])));
        history.push(&sample(1_003, &["a", "b"]));
        let json: Value = serde_json::from_str(&history.to_json(&[])).unwrap();
        assert_eq!((&json["from"], &json["seconds"]), (&json!(104), &json!(900)));
        let last = |values: &Value| values.as_array().unwrap()[896..].to_vec();
        assert_eq!(last(&json["ttft_p50"]), [json!(0.25), Value::Null, Value::Null, json!(0.25)]);
        assert_eq!(last(&json["ttft_p95"]), [Value::Null, Value::Null, Value::Null, Value::Null]);
        assert_eq!(last(&json["outcomes"]["completed"]), [json!(1000), Value::Null, Value::Null, json!(1003)]);
        assert_eq!(last(&json["replicas"][0]["tokens_per_second"])[3], json!(12.3));
        assert_eq!(last(&json["replicas"][1]["resident_tokens"]), [Value::Null, Value::Null, Value::Null, json!(2003)]);
    }

    #[test]
    fn values_keep_their_time_when_the_clock_is_set() {
        let mut history = History::default();
        let times = |history: &History| -> (u64, Vec<Value>) {
            let json: Value = serde_json::from_str(&history.to_json(&[])).unwrap();
            (json["from"].as_u64().unwrap(), json["outcomes"]["completed"].as_array().unwrap().clone())
        };
        (5_000..=5_002).for_each(|time| history.push(&sample(time, &["a"])));
        assert_eq!(times(&history), (5_000, vec![json!(5000), json!(5001), json!(5002)]));
        history.push(&sample(5_001, &["a"]));
        assert_eq!(times(&history), (5_001, vec![json!(5001)]), "set back");
        history.push(&sample(9_000, &["a"]));
        assert_eq!(times(&history), (9_000, vec![json!(9000)]), "set forward by more than is kept");
    }

    #[test]
    fn removed_replica_leaves_after_the_time_that_is_kept() {
        let mut history = History::default();
        history.push(&sample(1, &["a", "b"]));
        (2..=900).for_each(|time| history.push(&sample(time, &["a"])));
        assert_eq!(history.replicas.len(), 2);
        history.push(&sample(901, &["a"]));
        assert_eq!(history.replicas.len(), 1);
    }
}
