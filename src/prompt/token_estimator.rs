//! How many tokens a prompt has, estimated from its makeup and learned from what replicas report.

use super::TextStats;
use crate::units::Tokens;

/// The parts of a prompt that a weight is learned for.
const FEATURE_COUNT: usize = 11;
/// Tokens per part before anything has been learned: one for the prompt itself, then as in [`extract_features`]. A start
/// that is right within a sixth on English and code, within a third on Chinese and JSON (`tests/it/tokens/token_estimate.rs`).
const PRIOR_WEIGHTS: [f64; FEATURE_COUNT] = [3.0, 4.0, 0.80, 0.07, 0.42, 0.55, 0.35, 0.6, 0.75, 0.6, 1.0];
/// How far a weight may be from its prior, as a standard deviation.
const PRIOR_STD_DEVS: [f64; FEATURE_COUNT] = [10.0, 6.0, 0.4, 0.06, 0.3, 0.3, 0.4, 0.5, 0.4, 0.6, 0.05];
/// The expected error of an estimate, as a share of the prompt.
const RELATIVE_NOISE: f64 = 0.02;
/// What was learned counts this much less with every request, so that a change of the model's tokenizer is followed.
const FORGETTING_FACTOR: f64 = 0.998;
/// Prompts longer or shorter than their estimate by more than this factor teach nothing: they were not counted by
/// what is in the body.
const OUTLIER_FACTOR: f64 = 8.0;

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
/// *Method*: a linear model of a prompt's [`TextStats`], fitted by recursive least squares to the lengths that replicas
/// report, each prompt weighing by its relative error. *Cost*: 0.1 us to learn; 1.1 KB.
/// *Source*: recursive least squares with forgetting, as in Ljung, "System Identification", section 11.2.
#[derive(Clone, Debug)]
pub struct TokenEstimator {
    weights: [f64; FEATURE_COUNT],
    /// The weights' covariance.
    covariance: [[f64; FEATURE_COUNT]; FEATURE_COUNT],
    media_tokens: MediaTokens,
}

impl TokenEstimator {
    /// An estimator that has learned nothing yet.
    pub fn new(media: MediaTokens) -> Self {
        let mut covariance = [[0.0; FEATURE_COUNT]; FEATURE_COUNT];
        for (at, (row, spread)) in covariance.iter_mut().zip(PRIOR_STD_DEVS).enumerate() {
            row[at] = spread * spread;
        }
        Self { weights: PRIOR_WEIGHTS, covariance, media_tokens: media }
    }

    /// The tokens of a prompt; at least 1.
    pub fn estimate(&self, census: &TextStats) -> Tokens {
        Tokens(self.estimate_text(census).round() as u64) + self.fixed_tokens(census)
    }

    /// Learns that a prompt had `actual` tokens.
    pub fn learn(&mut self, census: &TextStats, actual: Tokens) {
        // What a picture or an id comes to is not learned: it would be blamed on the text.
        let text = (actual - self.fixed_tokens(census)).0 as f64;
        let estimate = self.estimate_text(census);
        if census.images + census.audio > 0
            || text < 1.0
            || text > OUTLIER_FACTOR * estimate
            || estimate > OUTLIER_FACTOR * text
        {
            return;
        }
        // Relative to the prompt's length, so that a long one does not count for more than a short one.
        let parts = extract_features(census).map(|part| part / text);
        let error = 1.0 - dot_product(&self.weights, &parts);
        let spread: [f64; FEATURE_COUNT] = std::array::from_fn(|row| dot_product(&self.covariance[row], &parts));
        let gain = 1.0 / (FORGETTING_FACTOR * RELATIVE_NOISE * RELATIVE_NOISE + dot_product(&spread, &parts));
        for (row, weight) in self.weights.iter_mut().enumerate() {
            *weight += spread[row] * gain * error;
        }
        for (at, row) in self.covariance.iter_mut().enumerate() {
            for (cell, other) in row.iter_mut().zip(spread) {
                // In this order, so that the matrix stays symmetric to the last bit.
                *cell -= spread[at] * other * gain;
            }
        }
        self.inflate_covariance();
    }

    /// Makes room for what is new. What no prompt has shown for long must not become less certain than it was at the
    /// start, or the next prompt that shows it would throw everything over.
    ///
    /// A row and its column grow by one factor: what is bounded cell by cell is no covariance any more, and learning
    /// from it diverges.
    fn inflate_covariance(&mut self) {
        let grown = FORGETTING_FACTOR.sqrt().recip();
        let factors: [f64; FEATURE_COUNT] = std::array::from_fn(|at| {
            let variance = self.covariance[at][at];
            if variance > 0.0 { grown.min(PRIOR_STD_DEVS[at] / variance.sqrt()) } else { 1.0 }
        });
        for (row, one) in self.covariance.iter_mut().zip(factors) {
            for (cell, other) in row.iter_mut().zip(factors) {
                *cell *= one * other;
            }
        }
    }

    fn estimate_text(&self, census: &TextStats) -> f64 {
        let tokens = dot_product(&self.weights, &extract_features(census));
        // Weights are learned together and may be odd one by one; what they say of an odd prompt is kept within reason.
        let characters =
            f64::from(census.letters + census.digits + census.punctuation + census.ideographs + census.other_chars);
        tokens.clamp(1.0f64.max(characters / 16.0), 16.0 * f64::from(census.turns) + 2.0 * characters + 512.0)
    }

    fn fixed_tokens(&self, census: &TextStats) -> Tokens {
        let images = self.media_tokens.image.0.saturating_mul(census.images.into());
        let sounds = self.media_tokens.audio.0.saturating_mul(census.audio.into());
        Tokens(images) + Tokens(sounds) + Tokens(census.token_ids.into())
    }
}

/// A prompt's parts, in the order of [`PRIOR_WEIGHTS`].
fn extract_features(census: &TextStats) -> [f64; FEATURE_COUNT] {
    if let Some(counted) = census.counted_tokens {
        return [1.0, census.turns.into(), 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, counted.into()];
    }
    let TextStats {
        turns,
        words,
        letters,
        digits,
        punctuation: marks,
        line_breaks: breaks,
        blank_runs: gaps,
        ideographs,
        other_chars: others,
        ..
    } = *census;
    let [turns, words, letters, digits, marks] = [turns, words, letters, digits, marks].map(f64::from);
    let [breaks, gaps, ideographs, others] = [breaks, gaps, ideographs, others].map(f64::from);
    [1.0, turns, words, letters, digits, marks, breaks, gaps, ideographs, others, 0.0]
}

fn dot_product(a: &[f64; FEATURE_COUNT], b: &[f64; FEATURE_COUNT]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
