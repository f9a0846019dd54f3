//! How fast the members of a pool are, each beside the others, learned from what they do.

use std::time::Duration;

use crate::balance::SlowdownFactors;

/// Before so many samples a member counts as fast as the others.
const MIN_SAMPLES: f64 = 20.0;
/// A sample's share in what is known is one in this many.
const EWMA_DIVISOR: f64 = 64.0;
/// The slowest counts as so many times slower at most, the fastest as so many times faster.
const MAX_SPEED_RATIO: f64 = 4.0;
/// What differs by less than this is chance, and equal members are to be treated alike.
const NOISE_RATIO: f64 = 1.2;

/// What an answer has shown of its replica's speed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::fleet) struct SpeedSample {
    /// From the choice to the first token, and how many tokens there were to prefill; only where nothing waited before
    /// them, so that load is not taken for slowness.
    pub(in crate::fleet) prefill: Option<(Duration, u64)>,
    /// The mean time between two tokens, and the streams there were when the first came.
    pub(in crate::fleet) decode: Option<(Duration, u32)>,
}

/// The speeds of a pool's members.
#[derive(Clone, Debug)]
pub(in crate::fleet) struct SpeedEstimator {
    /// Seconds by tokens to prefill, of all members together.
    prefill_regression: LinearRegression,
    /// Seconds by streams.
    decode_regression: LinearRegression,
    member_ratios: Vec<(SpeedRatio, SpeedRatio)>,
    slowdowns: Vec<SlowdownFactors>,
}

/// A straight line through samples, of which later ones count more.
#[derive(Clone, Copy, Debug, Default)]
struct LinearRegression {
    n: f64,
    sum_x: f64,
    sum_y: f64,
    sum_xx: f64,
    sum_xy: f64,
}

/// What was seen beside what the line says.
#[derive(Clone, Copy, Debug, Default)]
struct SpeedRatio {
    samples: f64,
    observed: f64,
    predicted: f64,
}

impl SpeedEstimator {
    pub(in crate::fleet) fn new(members: usize) -> Self {
        Self {
            prefill_regression: LinearRegression::default(),
            decode_regression: LinearRegression::default(),
            member_ratios: vec![<(SpeedRatio, SpeedRatio)>::default(); members],
            slowdowns: vec![SlowdownFactors::default(); members],
        }
    }

    /// How fast the member at `at` is.
    pub(in crate::fleet) fn slowdown(&self, at: usize) -> SlowdownFactors {
        self.slowdowns.get(at).copied().unwrap_or_default()
    }

    /// Learns from an answer of the member at `at`. O(members).
    pub(in crate::fleet) fn record(&mut self, at: usize, sample: SpeedSample) {
        let Some((prefill, decode)) = self.member_ratios.get_mut(at) else { return };
        if let Some((time, tokens)) = sample.prefill {
            prefill.record(time.as_secs_f64(), self.prefill_regression.predict(tokens as f64));
            self.prefill_regression.record(tokens as f64, time.as_secs_f64());
        }
        if let Some((time, streams)) = sample.decode {
            decode.record(time.as_secs_f64(), self.decode_regression.predict(streams.into()));
            self.decode_regression.record(streams.into(), time.as_secs_f64());
        }
        let prefill = relative_to_median(self.member_ratios.iter().map(|(prefill, _)| prefill));
        let decode = relative_to_median(self.member_ratios.iter().map(|(_, decode)| decode));
        self.slowdowns =
            prefill.into_iter().zip(decode).map(|(prefill, decode)| SlowdownFactors { prefill, decode }).collect();
    }
}

/// Each ratio relative to the median of those that are known, in parts of [`SlowdownFactors::ONE`].
fn relative_to_median<'a>(ratios: impl Iterator<Item = &'a SpeedRatio> + Clone) -> Vec<u32> {
    let mut known: Vec<f64> = ratios.clone().filter_map(SpeedRatio::value).collect();
    known.sort_by(f64::total_cmp);
    // With an even number the lower middle: of two members the slow one is slow, and the fast one is not fast.
    let median = known.get(known.len().saturating_sub(1) / 2).copied().unwrap_or(1.0);
    let pace = |ratio: &SpeedRatio| {
        let pace = ratio.value().map_or(1.0, |value| value / median);
        let pace = if (1.0 / NOISE_RATIO..=NOISE_RATIO).contains(&pace) {
            1.0
        } else {
            pace.clamp(1.0 / MAX_SPEED_RATIO, MAX_SPEED_RATIO)
        };
        (pace * f64::from(SlowdownFactors::ONE)).round() as u32
    };
    ratios.map(pace).collect()
}

impl LinearRegression {
    fn record(&mut self, x: f64, y: f64) {
        let keep = 1.0 - 1.0 / (8.0 * EWMA_DIVISOR);
        for sum in [&mut self.n, &mut self.sum_x, &mut self.sum_y, &mut self.sum_xx, &mut self.sum_xy] {
            *sum *= keep;
        }
        self.n += 1.0;
        self.sum_x += x;
        self.sum_y += y;
        self.sum_xx += x * x;
        self.sum_xy += x * y;
    }

    /// What the line says, never less than half of the least that it says of anything; `None` before there are samples.
    fn predict(&self, x: f64) -> Option<f64> {
        if self.n < MIN_SAMPLES / 2.0 {
            return None;
        }
        let spread = self.sum_xx - self.sum_x * self.sum_x / self.n;
        let slope =
            if spread > 1e-9 { ((self.sum_xy - self.sum_x * self.sum_y / self.n) / spread).max(0.0) } else { 0.0 };
        let mean = self.sum_y / self.n;
        Some((mean + slope * (x - self.sum_x / self.n)).max(mean / 16.0))
    }
}

impl SpeedRatio {
    fn record(&mut self, seen: f64, said: Option<f64>) {
        let Some(said) = said.filter(|said| *said > 0.0) else { return };
        let keep = 1.0 - 1.0 / EWMA_DIVISOR;
        self.samples += 1.0;
        self.observed = self.observed * keep + seen;
        self.predicted = self.predicted * keep + said;
    }

    fn value(&self) -> Option<f64> {
        (self.samples >= MIN_SAMPLES && self.predicted > 0.0).then(|| (self.observed / self.predicted).max(1e-3))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::SeededRng;

    /// A fleet whose members take so many times as long; each sample is off by up to a tenth.
    fn learn_speeds(slowness: &[f64], samples: u32) -> Vec<SlowdownFactors> {
        let mut speeds = SpeedEstimator::new(slowness.len());
        let mut dice = SeededRng::from_seed(3);
        for _ in 0..samples {
            for (at, slow) in slowness.iter().enumerate() {
                let off = 0.9 + dice.next_below(200) as f64 / 1000.0;
                let (tokens, streams) = (dice.next_below(20_000), dice.next_below(60) as u32);
                let prefill = (0.008 + tokens as f64 * 32e-6) * slow * off;
                let decode = (0.006 + f64::from(streams) * 50e-6) * slow * off;
                let sample = SpeedSample {
                    prefill: Some((Duration::from_secs_f64(prefill), tokens)),
                    decode: Some((Duration::from_secs_f64(decode), streams)),
                };
                speeds.record(at, sample);
            }
        }
        (0..slowness.len()).map(|at| speeds.slowdown(at)).collect()
    }

    #[test]
    fn equal_members_count_as_equal() {
        assert_eq!(learn_speeds(&[1.0; 8], 500), [SlowdownFactors::default(); 8]);
    }

    #[test]
    fn a_slow_member_is_found_after_twenty_samples_and_not_before() {
        assert_eq!(learn_speeds(&[1.0, 1.0, 2.0, 1.0], 19), [SlowdownFactors::default(); 4]);
        for slowness in [&[1.0, 1.0, 2.0, 1.0][..], &[1.0, 2.0]] {
            let paces = learn_speeds(slowness, 200);
            for (pace, slow) in paces.iter().zip(slowness) {
                let times = [pace.prefill, pace.decode].map(|pace| f64::from(pace) / f64::from(SlowdownFactors::ONE));
                assert!(times.iter().all(|times| (times - slow).abs() < 0.2 * slow), "{times:?} for {slow}");
            }
        }
    }

    #[test]
    fn nobody_counts_as_more_than_four_times_slower() {
        assert_eq!(learn_speeds(&[1.0, 1.0, 50.0], 300)[2].prefill, 4 * SlowdownFactors::ONE);
    }
}
