//! Layer 0: the units and ids that all other modules use. Plain values: no clock, no I/O, no use of another layer.

use std::fmt;
use std::num::NonZeroU32;
use std::ops::{Add, AddAssign, Sub};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// A point in time: nanoseconds since an arbitrary start, the process's or a simulation's.
///
/// Replaces `std::time::Instant` on the layers that also run in virtual time. Arithmetic saturates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(u64);

impl Moment {
    /// The start.
    pub const ZERO: Self = Self(0);

    /// Returns the moment `nanos` nanoseconds after the start.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Returns the nanoseconds since the start.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Returns the time from `earlier` to `self`; zero if `earlier` is later.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// The times of one attempt to get a response from a replica.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timing {
    /// The start of the attempt.
    pub started_at: Moment,
    /// The time at which a connection was ready; `None` if there was none.
    pub connected_at: Option<Moment>,
    /// The time at which the response head had arrived; `None` if it did not.
    pub head_received_at: Option<Moment>,
    /// The end of the attempt, with or without a response; `None` while it runs.
    pub ended_at: Option<Moment>,
}

/// A number of tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tokens(pub u64);

impl Add for Tokens {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl AddAssign for Tokens {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sub for Tokens {
    type Output = Self;

    /// Saturates at zero.
    fn sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl fmt::Display for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A replica's share of the load relative to the other replicas of its pool: nginx's `weight`, at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Weight(NonZeroU32);

impl Weight {
    /// The default weight.
    pub const ONE: Self = Self(NonZeroU32::MIN);

    /// Returns the weight; `None` if `weight` is zero.
    pub const fn new(weight: u32) -> Option<Self> {
        match NonZeroU32::new(weight) {
            Some(weight) => Some(Self(weight)),
            None => None,
        }
    }

    /// Returns the weight as a number, at least 1.
    pub const fn get(self) -> u32 {
        self.0.get()
    }
}

impl Default for Weight {
    fn default() -> Self {
        Self::ONE
    }
}

/// A replica's identity, unique in a process. Unlike its name or its slot in a pool it is never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplicaId(pub u64);

/// A replica's index among the members of one pool, in configuration order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u32);

impl Slot {
    /// Returns the slot as an index into the pool's members.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A model's name as clients write it. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModelName(Arc<str>);

impl ModelName {
    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for ModelName {
    fn from(name: &str) -> Self {
        Self(name.into())
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Model names as a configuration lists them: exact names, and patterns for all names with a common beginning, such as
/// `claude-*` and `*`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelNames {
    exact: Vec<ModelName>,
    /// With their `*`; the longest first.
    patterns: Vec<ModelName>,
}

/// How well a name fits [`ModelNames`]; a closer fit is greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ModelFit {
    /// By a pattern with this many bytes before the `*`.
    Pattern(usize),
    /// By its own name.
    Exact,
}

impl ModelNames {
    /// Returns whether there is neither a name nor a pattern.
    pub const fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.patterns.is_empty()
    }

    /// Returns the exact names, in the order of the configuration.
    pub fn exact(&self) -> &[ModelName] {
        &self.exact
    }

    /// Returns the beginnings that the patterns stand for, the longest first; that of `*` is empty.
    pub fn prefixes(&self) -> impl Iterator<Item = &str> {
        self.patterns.iter().map(pattern_prefix)
    }

    /// Returns the entry that `model` fits and how well it does: its own name, else the longest pattern, with its `*`.
    pub fn find(&self, model: &str) -> Option<(&ModelName, ModelFit)> {
        if let Some(name) = self.exact.iter().find(|name| name.as_str() == model) {
            return Some((name, ModelFit::Exact));
        }
        let pattern = self.patterns.iter().find(|pattern| model.starts_with(pattern_prefix(pattern)))?;
        Some((pattern, ModelFit::Pattern(pattern_prefix(pattern).len())))
    }
}

impl FromIterator<ModelName> for ModelNames {
    /// Sorts the names that end in `*` out as patterns.
    fn from_iter<I: IntoIterator<Item = ModelName>>(names: I) -> Self {
        let (mut patterns, exact): (Vec<_>, Vec<_>) = names.into_iter().partition(|name| name.as_str().ends_with('*'));
        patterns.sort_by_key(|pattern| std::cmp::Reverse(pattern.as_str().len()));
        Self { exact, patterns }
    }
}

fn pattern_prefix(pattern: &ModelName) -> &str {
    pattern.as_str().strip_suffix('*').unwrap_or(pattern.as_str())
}

/// The token counts that a replica reports for a response (`usage`), under the same names for all dialects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt, cached ones included.
    pub prompt: Tokens,
    /// Prompt tokens found in the replica's prefix cache; `None` if it does not report them.
    pub cached: Option<Tokens>,
    /// Generated tokens.
    pub completion: Tokens,
}

/// The severity of a line of the error log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// An event of interest.
    Info,
    /// A failure that the router handles.
    Warn,
    /// A failure that loses a request.
    Error,
}

/// The destination of one log.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogSink {
    /// Nowhere.
    Off,
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// Appended to a file.
    File(PathBuf),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_saturate_at_both_ends() {
        let late = Moment::from_nanos(u64::MAX);
        assert_eq!(late + Duration::from_secs(1), late);
        assert_eq!(Moment::ZERO.since(late), Duration::ZERO);
        assert_eq!((Moment::ZERO + Duration::from_millis(5)).since(Moment::ZERO), Duration::from_millis(5));
    }

    #[test]
    fn token_arithmetic_saturates() {
        assert_eq!(Tokens(3) - Tokens(5), Tokens(0));
        assert_eq!(Tokens(u64::MAX) + Tokens(5), Tokens(u64::MAX));
    }

    #[test]
    fn model_fits_its_own_name_then_the_longest_pattern() {
        let names: ModelNames =
            ["*", "claude-*", "claude-opus-*", "claude-opus-4"].map(ModelName::from).into_iter().collect();
        let find = |model| names.find(model).map(|(name, fit)| (name.as_str(), fit));
        assert_eq!(find("claude-opus-4"), Some(("claude-opus-4", ModelFit::Exact)));
        assert_eq!(find("claude-opus-5"), Some(("claude-opus-*", ModelFit::Pattern(12))));
        assert_eq!(find("claude-"), Some(("claude-*", ModelFit::Pattern(7))));
        assert_eq!(find("claude"), Some(("*", ModelFit::Pattern(0))));
        assert!(ModelFit::Exact > ModelFit::Pattern(12) && ModelFit::Pattern(12) > ModelFit::Pattern(0));
        let exact: ModelNames = [ModelName::from("m")].into_iter().collect();
        assert_eq!((exact.find("m2"), exact.find("M"), exact.is_empty()), (None, None, false));
    }
}
