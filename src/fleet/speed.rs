//! How fast the members of a pool are, each beside the others, learned from what they do.

use std::time::Duration;

use crate::balance::Pace;

/// Before so many samples a member counts as fast as the others.
const SAMPLES: f64 = 20.0;
/// A sample's share in what is known is one in this many.
const MEMORY: f64 = 64.0;
/// The slowest counts as so many times slower at most, the fastest as so many times faster.
const MOST: f64 = 4.0;
/// What differs by less than this is chance, and equal members are to be treated alike.
const CHANCE: f64 = 1.2;

/// What an answer has shown of its replica's speed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Sample {
    /// From the choice to the first token, and how many tokens there were to prefill; only where nothing waited before
    /// them, so that load is not taken for slowness.
    pub(super) prefill: Option<(Duration, u64)>,
    /// The mean time between two tokens, and the streams there were when the first came.
    pub(super) decode: Option<(Duration, u32)>,
}

/// The speeds of a pool's members.
#[derive(Clone, Debug)]
pub(super) struct Speeds {
    /// Seconds by tokens to prefill, of all members together.
    prefill: Line,
    /// Seconds by streams.
    decode: Line,
    members: Vec<(Ratio, Ratio)>,
    paces: Vec<Pace>,
}

/// A straight line through samples, of which later ones count more.
#[derive(Clone, Copy, Debug, Default)]
struct Line {
    n: f64,
    x: f64,
    y: f64,
    xx: f64,
    xy: f64,
}

/// What was seen beside what the line says.
#[derive(Clone, Copy, Debug, Default)]
struct Ratio {
    samples: f64,
    seen: f64,
    said: f64,
}

impl Speeds {
    pub(super) fn new(members: usize) -> Self {
        Self {
            prefill: Line::default(),
            decode: Line::default(),
            members: vec![<(Ratio, Ratio)>::default(); members],
            paces: vec![Pace::default(); members],
        }
    }

    /// How fast the member at `at` is.
    pub(super) fn pace(&self, at: usize) -> Pace {
        self.paces.get(at).copied().unwrap_or_default()
    }

    /// Learns from an answer of the member at `at`. O(members).
    pub(super) fn learn(&mut self, at: usize, sample: Sample) {
        let Some((prefill, decode)) = self.members.get_mut(at) else { return };
        if let Some((time, tokens)) = sample.prefill {
            prefill.add(time.as_secs_f64(), self.prefill.at(tokens as f64));
            self.prefill.add(tokens as f64, time.as_secs_f64());
        }
        if let Some((time, streams)) = sample.decode {
            decode.add(time.as_secs_f64(), self.decode.at(streams.into()));
            self.decode.add(streams.into(), time.as_secs_f64());
        }
        let prefill = relative(self.members.iter().map(|(prefill, _)| prefill));
        let decode = relative(self.members.iter().map(|(_, decode)| decode));
        self.paces = prefill.into_iter().zip(decode).map(|(prefill, decode)| Pace { prefill, decode }).collect();
    }
}

/// Each ratio relative to the median of those that are known, in parts of [`Pace::ONE`].
fn relative<'a>(ratios: impl Iterator<Item = &'a Ratio> + Clone) -> Vec<u32> {
    let mut known: Vec<f64> = ratios.clone().filter_map(Ratio::value).collect();
    known.sort_by(f64::total_cmp);
    // With an even number the lower middle: of two members the slow one is slow, and the fast one is not fast.
    let median = known.get(known.len().saturating_sub(1) / 2).copied().unwrap_or(1.0);
    let pace = |ratio: &Ratio| {
        let pace = ratio.value().map_or(1.0, |value| value / median);
        let pace = if (1.0 / CHANCE..=CHANCE).contains(&pace) { 1.0 } else { pace.clamp(1.0 / MOST, MOST) };
        (pace * f64::from(Pace::ONE)).round() as u32
    };
    ratios.map(pace).collect()
}

impl Line {
    fn add(&mut self, x: f64, y: f64) {
        let keep = 1.0 - 1.0 / (8.0 * MEMORY);
        for sum in [&mut self.n, &mut self.x, &mut self.y, &mut self.xx, &mut self.xy] {
            *sum *= keep;
        }
        self.n += 1.0;
        self.x += x;
        self.y += y;
        self.xx += x * x;
        self.xy += x * y;
    }

    /// What the line says, never less than half of the least that it says of anything; `None` before there are samples.
    fn at(&self, x: f64) -> Option<f64> {
        if self.n < SAMPLES / 2.0 {
            return None;
        }
        let spread = self.xx - self.x * self.x / self.n;
        let slope = if spread > 1e-9 { ((self.xy - self.x * self.y / self.n) / spread).max(0.0) } else { 0.0 };
        let mean = self.y / self.n;
        Some((mean + slope * (x - self.x / self.n)).max(mean / 16.0))
    }
}

impl Ratio {
    fn add(&mut self, seen: f64, said: Option<f64>) {
        let Some(said) = said.filter(|said| *said > 0.0) else { return };
        let keep = 1.0 - 1.0 / MEMORY;
        self.samples += 1.0;
        self.seen = self.seen * keep + seen;
        self.said = self.said * keep + said;
    }

    fn value(&self) -> Option<f64> {
        (self.samples >= SAMPLES && self.said > 0.0).then(|| (self.seen / self.said).max(1e-3))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::Dice;

    /// A fleet whose members take so many times as long; each sample is off by up to a tenth.
    fn learned(slowness: &[f64], samples: u32) -> Vec<Pace> {
        let mut speeds = Speeds::new(slowness.len());
        let mut dice = Dice::seeded(3);
        for _ in 0..samples {
            for (at, slow) in slowness.iter().enumerate() {
                let off = 0.9 + dice.below(200) as f64 / 1000.0;
                let (tokens, streams) = (dice.below(20_000), dice.below(60) as u32);
                let prefill = (0.008 + tokens as f64 * 32e-6) * slow * off;
                let decode = (0.006 + f64::from(streams) * 50e-6) * slow * off;
                let sample = Sample {
                    prefill: Some((Duration::from_secs_f64(prefill), tokens)),
                    decode: Some((Duration::from_secs_f64(decode), streams)),
                };
                speeds.learn(at, sample);
            }
        }
        (0..slowness.len()).map(|at| speeds.pace(at)).collect()
    }

    #[test]
    fn equal_members_count_as_equal() {
        assert_eq!(learned(&[1.0; 8], 500), [Pace::default(); 8]);
    }

    #[test]
    fn a_slow_member_is_found_after_twenty_samples_and_not_before() {
        assert_eq!(learned(&[1.0, 1.0, 2.0, 1.0], 19), [Pace::default(); 4]);
        for slowness in [&[1.0, 1.0, 2.0, 1.0][..], &[1.0, 2.0]] {
            let paces = learned(slowness, 200);
            for (pace, slow) in paces.iter().zip(slowness) {
                let times = [pace.prefill, pace.decode].map(|pace| f64::from(pace) / f64::from(Pace::ONE));
                assert!(times.iter().all(|times| (times - slow).abs() < 0.2 * slow), "{times:?} for {slow}");
            }
        }
    }

    #[test]
    fn nobody_counts_as_more_than_four_times_slower() {
        assert_eq!(learned(&[1.0, 1.0, 50.0], 300)[2].prefill, 4 * Pace::ONE);
    }
}
