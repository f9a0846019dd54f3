//! An estimate of a prompt's tokens from its counts, learned from the usage that replicas report.

use super::text_stats::TextStats;
use crate::units::Tokens;

/// The features of a prompt, each with a learned weight.
const FEATURE_COUNT: usize = 11;
/// Tokens per feature before anything is learned, in the order of [`extract_features`]. They are right within a sixth
/// on English and code, and within a third on Chinese and JSON (`tests/it/tokens/token_estimate.rs`).
const PRIOR_WEIGHTS: [f64; FEATURE_COUNT] = [3.0, 4.0, 0.80, 0.07, 0.42, 0.55, 0.35, 0.6, 0.75, 0.6, 1.0];
/// The standard deviation of each weight's prior.
const PRIOR_STD_DEVS: [f64; FEATURE_COUNT] = [10.0, 6.0, 0.4, 0.06, 0.3, 0.3, 0.4, 0.5, 0.4, 0.6, 0.05];
/// The expected error of an estimate, as a share of the prompt.
const RELATIVE_NOISE: f64 = 0.02;
/// The weight of past observations per request, so that the estimate follows a change of the tokenizer.
const FORGETTING_FACTOR: f64 = 0.998;
/// Prompts that differ from their estimate by more than this factor are not learned from: their tokens come from
/// something that is not in the body.
const OUTLIER_FACTOR: f64 = 8.0;

/// Tokens of media.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MediaTokens {
    /// Tokens of an image.
    pub image: Tokens,
    /// Tokens of a sound.
    pub audio: Tokens,
}

impl Default for MediaTokens {
    /// Returns the tokens of an image of one megapixel and a minute of sound on common models.
    fn default() -> Self {
        Self { image: Tokens(1_000), audio: Tokens(750) }
    }
}

/// Estimates the length of one model's prompts.
///
/// *Method*: a linear model of a prompt's [`TextStats`], fitted by recursive least squares to the lengths that replicas
/// report, weighted by relative error. *Cost*: 0.1 us to learn; 1.1 KB.
/// *Source*: recursive least squares with forgetting, as in Ljung, "System Identification", section 11.2.
#[derive(Clone, Debug)]
pub struct TokenEstimator {
    weights: [f64; FEATURE_COUNT],
    /// The weights' covariance.
    covariance: [[f64; FEATURE_COUNT]; FEATURE_COUNT],
    media_tokens: MediaTokens,
}

impl TokenEstimator {
    /// Returns an estimator with its prior weights.
    pub fn new(media: MediaTokens) -> Self {
        let mut covariance = [[0.0; FEATURE_COUNT]; FEATURE_COUNT];
        for (at, (row, spread)) in covariance.iter_mut().zip(PRIOR_STD_DEVS).enumerate() {
            row[at] = spread * spread;
        }
        Self { weights: PRIOR_WEIGHTS, covariance, media_tokens: media }
    }

    /// Returns the estimated tokens of a prompt, at least 1.
    pub fn estimate(&self, stats: &TextStats) -> Tokens {
        Tokens(self.estimate_text(stats).round() as u64) + self.fixed_tokens(stats)
    }

    /// Learns from a prompt that had `actual` tokens.
    pub fn learn(&mut self, stats: &TextStats, actual: Tokens) {
        // Tokens of media and ids are not learned: their error would be attributed to the text.
        let text = (actual - self.fixed_tokens(stats)).0 as f64;
        let estimate = self.estimate_text(stats);
        if stats.images + stats.audio > 0
            || text < 1.0
            || text > OUTLIER_FACTOR * estimate
            || estimate > OUTLIER_FACTOR * text
        {
            return;
        }
        // Relative to the prompt's length, so that a long prompt does not weigh more than a short one.
        let features = extract_features(stats).map(|feature| feature / text);
        let error = 1.0 - dot_product(&self.weights, &features);
        let spread: [f64; FEATURE_COUNT] = std::array::from_fn(|row| dot_product(&self.covariance[row], &features));
        let gain = 1.0 / (FORGETTING_FACTOR * RELATIVE_NOISE * RELATIVE_NOISE + dot_product(&spread, &features));
        for (row, weight) in self.weights.iter_mut().enumerate() {
            *weight += spread[row] * gain * error;
        }
        for (at, row) in self.covariance.iter_mut().enumerate() {
            for (cell, other) in row.iter_mut().zip(spread) {
                // In this order the matrix stays exactly symmetric.
                *cell -= spread[at] * other * gain;
            }
        }
        self.inflate_covariance();
    }

    /// Lets old observations fade. The variance of a feature that no prompt has for long stays at most its prior, or
    /// the next prompt with that feature would change all weights.
    ///
    /// A row and its column grow by one factor: a matrix bounded cell by cell is no longer a covariance, and learning
    /// diverges.
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

    fn estimate_text(&self, stats: &TextStats) -> f64 {
        let tokens = dot_product(&self.weights, &extract_features(stats));
        // Weights are learned together and may be implausible one by one, so the estimate of an unusual prompt is
        // clamped.
        let characters =
            f64::from(stats.letters + stats.digits + stats.punctuation + stats.ideographs + stats.other_chars);
        tokens.clamp(1.0f64.max(characters / 16.0), 16.0 * f64::from(stats.turns) + 2.0 * characters + 512.0)
    }

    fn fixed_tokens(&self, stats: &TextStats) -> Tokens {
        let images = self.media_tokens.image.0.saturating_mul(stats.images.into());
        let audio = self.media_tokens.audio.0.saturating_mul(stats.audio.into());
        Tokens(images) + Tokens(audio) + Tokens(stats.token_ids.into())
    }
}

/// Returns a prompt's features in the order of [`PRIOR_WEIGHTS`], 1 for the prompt itself first.
fn extract_features(stats: &TextStats) -> [f64; FEATURE_COUNT] {
    if let Some(counted) = stats.counted_tokens {
        return [1.0, stats.turns.into(), 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, counted.into()];
    }
    let counts = [
        stats.turns,
        stats.words,
        stats.letters,
        stats.digits,
        stats.punctuation,
        stats.line_breaks,
        stats.blank_runs,
        stats.ideographs,
        stats.other_chars,
    ];
    let [turns, words, letters, digits, marks, breaks, blanks, ideographs, others] = counts.map(f64::from);
    [1.0, turns, words, letters, digits, marks, breaks, blanks, ideographs, others, 0.0]
}

fn dot_product(a: &[f64; FEATURE_COUNT], b: &[f64; FEATURE_COUNT]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
