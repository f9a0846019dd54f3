//! How many tokens a prompt has, estimated from its makeup and learned from what replicas report.

use super::Census;
use crate::units::Tokens;

/// The parts of a prompt that a weight is learned for.
const PARTS: usize = 11;
/// Tokens per part before anything has been learned: one for the prompt itself, then as in [`parts`]. A start
/// that is right within a sixth on English and code, within a third on Chinese and JSON (`tests/it/tokens/token_estimate.rs`).
const PRIOR: [f64; PARTS] = [3.0, 4.0, 0.80, 0.07, 0.42, 0.55, 0.35, 0.6, 0.75, 0.6, 1.0];
/// How far a weight may be from its prior, as a standard deviation.
const SPREAD: [f64; PARTS] = [10.0, 6.0, 0.4, 0.06, 0.3, 0.3, 0.4, 0.5, 0.4, 0.6, 0.05];
/// The expected error of an estimate, as a share of the prompt.
const NOISE: f64 = 0.02;
/// What was learned counts this much less with every request, so that a change of the model's tokenizer is followed.
const MEMORY: f64 = 0.998;
/// Prompts longer or shorter than their estimate by more than this factor teach nothing: they were not counted by
/// what is in the body.
const ODD: f64 = 8.0;

/// Tokens for what is not text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MediaTokens {
    /// Tokens of a picture.
    pub image: Tokens,
    /// Tokens of a sound.
    pub audio: Tokens,
}

impl Default for MediaTokens {
    /// What a picture of a megapixel and a minute of sound come to on common models.
    fn default() -> Self {
        Self { image: Tokens(1_000), audio: Tokens(750) }
    }
}

/// Estimates the length of one model's prompts.
///
/// *Method*: a linear model of a prompt's [`Census`], fitted by recursive least squares to the lengths that replicas
/// report, each prompt weighing by its relative error. *Cost*: 0.1 us to learn; 1.1 KB.
/// *Source*: recursive least squares with forgetting, as in Ljung, "System Identification", section 11.2.
#[derive(Clone, Debug)]
pub struct Estimator {
    weights: [f64; PARTS],
    /// The weights' covariance.
    covariance: [[f64; PARTS]; PARTS],
    media: MediaTokens,
}

impl Estimator {
    /// An estimator that has learned nothing yet.
    pub fn new(media: MediaTokens) -> Self {
        let mut covariance = [[0.0; PARTS]; PARTS];
        for (at, (row, spread)) in covariance.iter_mut().zip(SPREAD).enumerate() {
            row[at] = spread * spread;
        }
        Self { weights: PRIOR, covariance, media }
    }

    /// The tokens of a prompt; at least 1.
    pub fn estimate(&self, census: &Census) -> Tokens {
        Tokens(self.text(census).round() as u64) + self.fixed(census)
    }

    /// Learns that a prompt had `actual` tokens.
    pub fn learn(&mut self, census: &Census, actual: Tokens) {
        // What a picture or an id comes to is not learned: it would be blamed on the text.
        let text = (actual - self.fixed(census)).0 as f64;
        let estimate = self.text(census);
        if census.images + census.sounds > 0 || text < 1.0 || text > ODD * estimate || estimate > ODD * text {
            return;
        }
        // Relative to the prompt's length, so that a long one does not count for more than a short one.
        let parts = parts(census).map(|part| part / text);
        let error = 1.0 - dot(&self.weights, &parts);
        let spread: [f64; PARTS] = std::array::from_fn(|row| dot(&self.covariance[row], &parts));
        let gain = 1.0 / (MEMORY * NOISE * NOISE + dot(&spread, &parts));
        for (row, weight) in self.weights.iter_mut().enumerate() {
            *weight += spread[row] * gain * error;
        }
        for (at, row) in self.covariance.iter_mut().enumerate() {
            for (cell, other) in row.iter_mut().zip(spread) {
                // In this order, so that the matrix stays symmetric to the last bit.
                *cell -= spread[at] * other * gain;
            }
        }
        self.forget();
    }

    /// Makes room for what is new. What no prompt has shown for long must not become less certain than it was at the
    /// start, or the next prompt that shows it would throw everything over.
    ///
    /// A row and its column grow by one factor: what is bounded cell by cell is no covariance any more, and learning
    /// from it diverges.
    fn forget(&mut self) {
        let grown = MEMORY.sqrt().recip();
        let factors: [f64; PARTS] = std::array::from_fn(|at| {
            let variance = self.covariance[at][at];
            if variance > 0.0 { grown.min(SPREAD[at] / variance.sqrt()) } else { 1.0 }
        });
        for (row, one) in self.covariance.iter_mut().zip(factors) {
            for (cell, other) in row.iter_mut().zip(factors) {
                *cell *= one * other;
            }
        }
    }

    fn text(&self, census: &Census) -> f64 {
        let tokens = dot(&self.weights, &parts(census));
        // Weights are learned together and may be odd one by one; what they say of an odd prompt is kept within reason.
        let characters = f64::from(census.letters + census.digits + census.marks + census.ideographs + census.others);
        tokens.clamp(1.0f64.max(characters / 16.0), 16.0 * f64::from(census.turns) + 2.0 * characters + 512.0)
    }

    fn fixed(&self, census: &Census) -> Tokens {
        let images = self.media.image.0.saturating_mul(census.images.into());
        let sounds = self.media.audio.0.saturating_mul(census.sounds.into());
        Tokens(images) + Tokens(sounds) + Tokens(census.tokens.into())
    }
}

/// A prompt's parts, in the order of [`PRIOR`].
fn parts(census: &Census) -> [f64; PARTS] {
    if let Some(counted) = census.counted {
        return [1.0, census.turns.into(), 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, counted.into()];
    }
    let Census { turns, words, letters, digits, marks, breaks, gaps, ideographs, others, .. } = *census;
    let [turns, words, letters, digits, marks] = [turns, words, letters, digits, marks].map(f64::from);
    let [breaks, gaps, ideographs, others] = [breaks, gaps, ideographs, others].map(f64::from);
    [1.0, turns, words, letters, digits, marks, breaks, gaps, ideographs, others, 0.0]
}

fn dot(a: &[f64; PARTS], b: &[f64; PARTS]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
