//! `random [two [METHOD]]`: nginx's weighted random choice, and the better of two.
//!
//! Source: nginx `ngx_http_upstream_random_module.c`.

use super::least_time::{LatencyMetric, eta_ms};
use crate::balance::{Candidate, Policy, PolicyError, PolicyMember, PolicyRequest, SeededRng};
use crate::units::Slot;

/// Chooses at random in proportion to the weights.
struct Random;

/// Chooses two replicas at random and takes the better one; the second of equals.
struct RandomTwo(ComparisonMethod);

/// The comparison of two replicas.
#[derive(Clone, Copy)]
enum ComparisonMethod {
    LeastConn,
    LeastTime(LatencyMetric),
}

impl Policy for Random {
    /// Draws once over the weights of the candidates, with the distribution that nginx reaches by redrawing. O(n).
    fn choose(&mut self, _: &PolicyRequest<'_>, candidates: &[Candidate], rng: &mut SeededRng) -> Option<Slot> {
        choose_by_weight(candidates, None, rng).map(|chosen| chosen.slot)
    }
}

impl Policy for RandomTwo {
    /// O(n). nginx redraws until the second differs from the first; this excludes the first from the second draw.
    fn choose(&mut self, _: &PolicyRequest<'_>, candidates: &[Candidate], rng: &mut SeededRng) -> Option<Slot> {
        let first = choose_by_weight(candidates, None, rng)?;
        let Some(second) = choose_by_weight(candidates, Some(first.slot), rng) else { return Some(first.slot) };
        let first_wins = match self.0 {
            ComparisonMethod::LeastConn => first.is_less_loaded(second),
            ComparisonMethod::LeastTime(metric) => {
                let min_known = metric.min_known_average(candidates);
                let scaled_eta = |one: &Candidate, other: &Candidate| {
                    eta_ms(metric, one, min_known) * u128::from(other.weight.get())
                };
                scaled_eta(first, second) < scaled_eta(second, first)
            }
        };
        Some(if first_wins { first.slot } else { second.slot })
    }
}

/// Returns a random candidate by weight, but not the one at `except`.
fn choose_by_weight<'a>(
    candidates: &'a [Candidate],
    except: Option<Slot>,
    rng: &mut SeededRng,
) -> Option<&'a Candidate> {
    let weight = |c: &Candidate| if Some(c.slot) == except { 0 } else { u64::from(c.weight.get()) };
    let mut rest = rng.next_below(candidates.iter().map(weight).sum());
    for candidate in candidates {
        if rest < weight(candidate) {
            return Some(candidate);
        }
        rest -= weight(candidate);
    }
    None
}

pub(super) fn build(_: &[PolicyMember], args: &[&str]) -> Result<Box<dyn Policy>, PolicyError> {
    Ok(match args {
        [] => Box::new(Random),
        ["two"] | ["two", "least_conn"] => Box::new(RandomTwo(ComparisonMethod::LeastConn)),
        ["two", method] => match method.strip_prefix("least_time=").and_then(LatencyMetric::from_name) {
            Some(metric) => Box::new(RandomTwo(ComparisonMethod::LeastTime(metric))),
            None => return Err(PolicyError::InvalidArgument((*method).to_owned())),
        },
        ["two", _, more, ..] | [more, ..] => return Err(PolicyError::InvalidArgument((*more).to_owned())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::laws::{candidates, request};

    fn count_picks(args: &[&str], in_flight: [u32; 3]) -> [u32; 3] {
        let mut offered = candidates(&[1, 1, 1]);
        offered.iter_mut().zip(in_flight).for_each(|(c, n)| c.in_flight = n);
        let mut policy = build(&[], args).unwrap();
        let mut rng = SeededRng::from_seed(3);
        let mut picks = [0; 3];
        for _ in 0..9_000 {
            picks[policy.choose(&request(), &offered, &mut rng).unwrap().index()] += 1;
        }
        picks
    }

    #[test]
    fn busiest_of_three_is_never_the_better_of_two() {
        let [idle, busy, busiest] = count_picks(&["two"], [0, 5, 9]);
        assert_eq!(busiest, 0);
        // The idle one is in two of three pairs.
        assert!((5_800..6_200).contains(&idle) && busy == 9_000 - idle, "{idle} {busy}");
        assert!(count_picks(&["two", "least_conn"], [1, 1, 1]).iter().all(|n| (2_800..3_200).contains(n)));
        assert!(count_picks(&[], [0, 5, 9]).iter().all(|n| (2_800..3_200).contains(n)));
    }

    #[test]
    fn picks_fit_the_weights_by_chi_square() {
        let weights = [5, 3, 1, 1];
        let offered = candidates(&weights);
        let mut chi_square = 0.0;
        for seed in 0..100 {
            let (mut policy, mut rng) = (build(&[], &[]).unwrap(), SeededRng::from_seed(seed));
            let mut picks = [0u32; 4];
            for _ in 0..10_000 {
                picks[policy.choose(&request(), &offered, &mut rng).unwrap().index()] += 1;
            }
            let deviation = |(count, weight): (&u32, u32)| {
                let expected = f64::from(weight) * 1_000.0;
                (f64::from(*count) - expected).powi(2) / expected
            };
            chi_square += picks.iter().zip(weights).map(deviation).sum::<f64>();
        }
        // 300 degrees of freedom: 300 on average, and once in 400 times further off than three times 24.5. Both ends
        // count: picks that are more even than chance are not random.
        assert!((226.0..374.0).contains(&chi_square), "{chi_square}");
    }

    #[test]
    fn methods_have_nginx_names() {
        for good in [&["two", "least_time=last_byte"][..], &["two", "least_time=header"], &["two", "least_conn"]] {
            assert!(build(&[], good).is_ok(), "{good:?}");
        }
        for (bad, word) in [(&["three"][..], "three"), (&["two", "x"], "x"), (&["two", "least_conn", "y"], "y")] {
            assert_eq!(build(&[], bad).err(), Some(PolicyError::InvalidArgument(word.to_owned())));
        }
    }
}
