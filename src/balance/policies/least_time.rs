//! `least_time first_byte|last_byte`: nginx's least time.
//!
//! Source: nginx 1.31 `ngx_http_upstream_least_time_module.c`. That module starts unknown averages at 20 ms and treats
//! averages above 5 s as equal, which LLM responses often exceed.

use std::time::Duration;

use crate::balance::smooth_round_robin::SmoothRoundRobin;
use crate::balance::{Candidate, Policy, PolicyError, PolicyMember, PolicyRequest, SeededRng};
use crate::units::Slot;

/// Averages in one bucket are equal, so that replicas of the same speed rotate.
const LATENCY_BUCKET_MS: u128 = 20;

/// The average that is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LatencyMetric {
    FirstByte,
    LastByte,
}

impl LatencyMetric {
    /// Parses tokenweir's name or nginx's.
    pub(super) fn from_name(name: &str) -> Option<Self> {
        match name {
            "first_byte" | "header" => Some(Self::FirstByte),
            "last_byte" => Some(Self::LastByte),
            _ => None,
        }
    }

    const fn average(self, candidate: &Candidate) -> Duration {
        match self {
            Self::FirstByte => candidate.first_byte,
            Self::LastByte => candidate.last_byte,
        }
    }

    /// Returns the least known average; zero if none is known.
    pub(super) fn min_known_average(self, candidates: &[Candidate]) -> Duration {
        candidates.iter().map(|c| self.average(c)).filter(|average| !average.is_zero()).min().unwrap_or_default()
    }
}

/// Returns the time that a candidate needs for its requests and this one, in milliseconds.
///
/// It is the average, rounded up past the next multiple of 20 ms, times the requests with this one. An unknown average
/// counts as the fastest known one, so that a new replica is tried, and not with all requests at once.
pub(super) fn eta_ms(metric: LatencyMetric, candidate: &Candidate, min_known: Duration) -> u128 {
    let average = metric.average(candidate);
    let millis = if average.is_zero() { min_known } else { average }.as_millis();
    (millis / LATENCY_BUCKET_MS + 1) * LATENCY_BUCKET_MS * (1 + u128::from(candidate.in_flight))
}

/// Chooses the replica with the least time per weight; ties rotate by smooth round robin.
struct LeastTime {
    metric: LatencyMetric,
    rotation: SmoothRoundRobin,
}

impl Policy for LeastTime {
    /// O(n).
    fn choose(&mut self, _: &PolicyRequest<'_>, candidates: &[Candidate], _: &mut SeededRng) -> Option<Slot> {
        let min_known = self.metric.min_known_average(candidates);
        // Cross-multiplied, so no division and no rounding.
        let scaled_eta = |one: &Candidate, other: &Candidate| {
            eta_ms(self.metric, one, min_known).saturating_mul(u128::from(other.weight.get()))
        };
        let is_faster = |one: &Candidate, other: &Candidate| scaled_eta(one, other) < scaled_eta(other, one);
        let mut best = candidates.first()?;
        for candidate in &candidates[1..] {
            if is_faster(candidate, best) {
                best = candidate;
            }
        }
        let is_tied = |c: &&Candidate| !is_faster(c, best) && !is_faster(best, c);
        // As in nginx, a single minimum leaves the rotation unchanged.
        if candidates.iter().filter(is_tied).nth(1).is_none() {
            return Some(best.slot);
        }
        self.rotation.choose_next(candidates.iter().filter(is_tied))
    }

    fn on_failure(&mut self, slot: Slot) {
        self.rotation.on_failure(slot);
    }
}

pub(super) fn build(members: &[PolicyMember], args: &[&str]) -> Result<Box<dyn Policy>, PolicyError> {
    let metric = match args {
        [] => return Err(PolicyError::MissingArgument("`first_byte` or `last_byte`")),
        [name] => LatencyMetric::from_name(name).ok_or_else(|| PolicyError::InvalidArgument((*name).to_owned()))?,
        [_, more, ..] => return Err(PolicyError::InvalidArgument((*more).to_owned())),
    };
    Ok(Box::new(LeastTime { metric, rotation: SmoothRoundRobin::new(members) }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::laws::{candidates, members, request};

    fn choose_twice(weights: &[u32], averages_ms: &[u64], in_flight: &[u32]) -> [u32; 2] {
        let mut offered = candidates(weights);
        for ((candidate, ms), n) in offered.iter_mut().zip(averages_ms).zip(in_flight) {
            candidate.last_byte = Duration::from_millis(*ms);
            candidate.in_flight = *n;
        }
        let mut policy = build(&members(weights), &["last_byte"]).unwrap();
        [0; 2].map(|_| policy.choose(&request(), &offered, &mut SeededRng::from_seed(0)).unwrap().0)
    }

    #[test]
    fn time_for_all_requests_is_compared_per_weight() {
        assert_eq!(choose_twice(&[1, 1], &[900, 100], &[0, 0]), [1, 1]);
        assert_eq!(choose_twice(&[1, 1], &[900, 100], &[0, 9]), [0, 0]);
        assert_eq!(choose_twice(&[4, 1], &[200, 100], &[0, 0]), [0, 0]);
        assert_eq!(choose_twice(&[1, 1, 1], &[8_000, 7_000, 6_000], &[0, 0, 0]), [2, 2]);
    }

    #[test]
    fn averages_within_20_ms_rotate() {
        assert_eq!(choose_twice(&[1, 1], &[105, 119], &[0, 0]), [0, 1]);
    }

    #[test]
    fn unknown_average_counts_as_the_fastest() {
        assert_eq!(choose_twice(&[1, 1, 1], &[900, 0, 100], &[0, 0, 0]), [1, 2]);
        assert_eq!(choose_twice(&[1, 1, 1], &[900, 0, 100], &[0, 1, 0]), [2, 2]);
        assert_eq!(choose_twice(&[1, 1], &[0, 0], &[1, 0]), [1, 1]);
    }

    #[test]
    fn metric_is_required() {
        assert!(matches!(build(&[], &[]).err(), Some(PolicyError::MissingArgument(_))));
        assert_eq!(build(&[], &["fastest"]).err(), Some(PolicyError::InvalidArgument("fastest".to_owned())));
        assert!(build(&[], &["header"]).is_ok());
    }
}
