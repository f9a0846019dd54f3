//! Speeds of a pool's members relative to each other, learned from their responses.

use std::time::Duration;

use crate::balance::SlowdownFactors;

/// Samples that a member needs before its speed counts.
const MIN_SAMPLES: f64 = 20.0;
/// A new sample has weight 1/64 in a member's ratio.
const EWMA_DIVISOR: f64 = 64.0;
/// Bound of the ratios, in both directions.
const MAX_SPEED_RATIO: f64 = 4.0;
/// Smaller differences are noise; members within it count as equal.
const NOISE_RATIO: f64 = 1.2;

/// The speed that one response has shown.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::fleet) struct SpeedSample {
    /// Time from the choice to the first token, and the tokens to prefill. `None` if requests waited before it: the
    /// time would show load, not speed.
    pub(in crate::fleet) prefill: Option<(Duration, u64)>,
    /// Mean interval between tokens, and the streams on the replica when the first token came.
    pub(in crate::fleet) decode: Option<(Duration, u32)>,
}

/// The learned speeds of a pool's members.
#[derive(Clone, Debug)]
pub(in crate::fleet) struct SpeedEstimator {
    /// Seconds by tokens to prefill, over all members.
    prefill_regression: LinearRegression,
    /// Seconds by streams, over all members.
    decode_regression: LinearRegression,
    /// By slot.
    members: Vec<MemberSpeed>,
    /// By slot.
    slowdowns: Vec<SlowdownFactors>,
}

#[derive(Clone, Copy, Debug, Default)]
struct MemberSpeed {
    prefill: SpeedRatio,
    decode: SpeedRatio,
}

/// A regression line through samples; later ones count more.
#[derive(Clone, Copy, Debug, Default)]
struct LinearRegression {
    n: f64,
    sum_x: f64,
    sum_y: f64,
    sum_xx: f64,
    sum_xy: f64,
}

/// Decayed sums of observed times and of the times that the line predicts.
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
            members: vec![MemberSpeed::default(); members],
            slowdowns: vec![SlowdownFactors::default(); members],
        }
    }

    /// Returns the slowdown of the member at `index`.
    pub(in crate::fleet) fn slowdown(&self, index: usize) -> SlowdownFactors {
        self.slowdowns.get(index).copied().unwrap_or_default()
    }

    /// Records a response of the member at `index`. O(members).
    pub(in crate::fleet) fn record(&mut self, index: usize, sample: SpeedSample) {
        let Some(member) = self.members.get_mut(index) else { return };
        if let Some((time, tokens)) = sample.prefill {
            member.prefill.record(time.as_secs_f64(), self.prefill_regression.predict(tokens as f64));
            self.prefill_regression.record(tokens as f64, time.as_secs_f64());
        }
        if let Some((time, streams)) = sample.decode {
            member.decode.record(time.as_secs_f64(), self.decode_regression.predict(streams.into()));
            self.decode_regression.record(streams.into(), time.as_secs_f64());
        }
        let prefill = relative_to_median(self.members.iter().map(|member| &member.prefill));
        let decode = relative_to_median(self.members.iter().map(|member| &member.decode));
        self.slowdowns =
            prefill.into_iter().zip(decode).map(|(prefill, decode)| SlowdownFactors { prefill, decode }).collect();
    }
}

/// Returns each ratio relative to the median of the known ones, in parts of [`SlowdownFactors::ONE`].
fn relative_to_median<'a>(ratios: impl Iterator<Item = &'a SpeedRatio> + Clone) -> Vec<u32> {
    let mut known: Vec<f64> = ratios.clone().filter_map(SpeedRatio::value).collect();
    known.sort_by(f64::total_cmp);
    // With an even number the lower middle: of two members the slow one is slow, and the fast one is not fast.
    let median = known.get(known.len().saturating_sub(1) / 2).copied().unwrap_or(1.0);
    let slowdown = |ratio: &SpeedRatio| {
        let relative = ratio.value().map_or(1.0, |value| value / median);
        let relative = if (1.0 / NOISE_RATIO..=NOISE_RATIO).contains(&relative) {
            1.0
        } else {
            relative.clamp(1.0 / MAX_SPEED_RATIO, MAX_SPEED_RATIO)
        };
        (relative * f64::from(SlowdownFactors::ONE)).round() as u32
    };
    ratios.map(slowdown).collect()
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

    /// Returns the line's value at `x`, at least 1/16 of the mean; `None` before there are enough samples.
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
    fn record(&mut self, observed: f64, predicted: Option<f64>) {
        let Some(predicted) = predicted.filter(|predicted| *predicted > 0.0) else { return };
        let keep = 1.0 - 1.0 / EWMA_DIVISOR;
        self.samples += 1.0;
        self.observed = self.observed * keep + observed;
        self.predicted = self.predicted * keep + predicted;
    }

    fn value(&self) -> Option<f64> {
        (self.samples >= MIN_SAMPLES && self.predicted > 0.0).then(|| (self.observed / self.predicted).max(1e-3))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::SeededRng;

    /// Learns from members with these slowdowns; each sample has up to 10 % noise.
    fn learn_speeds(slowdowns: &[f64], samples: u32) -> Vec<SlowdownFactors> {
        let mut speeds = SpeedEstimator::new(slowdowns.len());
        let mut rng = SeededRng::from_seed(3);
        for _ in 0..samples {
            for (index, slowdown) in slowdowns.iter().enumerate() {
                let noise = 0.9 + rng.next_below(200) as f64 / 1000.0;
                let (tokens, streams) = (rng.next_below(20_000), rng.next_below(60) as u32);
                let prefill = (0.008 + tokens as f64 * 32e-6) * slowdown * noise;
                let decode = (0.006 + f64::from(streams) * 50e-6) * slowdown * noise;
                let sample = SpeedSample {
                    prefill: Some((Duration::from_secs_f64(prefill), tokens)),
                    decode: Some((Duration::from_secs_f64(decode), streams)),
                };
                speeds.record(index, sample);
            }
        }
        (0..slowdowns.len()).map(|index| speeds.slowdown(index)).collect()
    }

    #[test]
    fn equal_members_count_as_equal() {
        assert_eq!(learn_speeds(&[1.0; 8], 500), [SlowdownFactors::default(); 8]);
    }

    #[test]
    fn slow_member_is_detected_after_twenty_samples_and_not_before() {
        assert_eq!(learn_speeds(&[1.0, 1.0, 2.0, 1.0], 19), [SlowdownFactors::default(); 4]);
        for slowdowns in [&[1.0, 1.0, 2.0, 1.0][..], &[1.0, 2.0]] {
            let learned = learn_speeds(slowdowns, 200);
            for (factor, slowdown) in learned.iter().zip(slowdowns) {
                let factors =
                    [factor.prefill, factor.decode].map(|factor| f64::from(factor) / f64::from(SlowdownFactors::ONE));
                assert!(
                    factors.iter().all(|factors| (factors - slowdown).abs() < 0.2 * slowdown),
                    "{factors:?} for {slowdown}"
                );
            }
        }
    }

    #[test]
    fn slowdown_is_at_most_four() {
        assert_eq!(learn_speeds(&[1.0, 1.0, 50.0], 300)[2].prefill, 4 * SlowdownFactors::ONE);
    }
}
