//! `random [two [METHOD]]`: nginx's weighted random choice, and the better of two.

use super::least_time::{Metric, eta};
use super::{BadPolicy, Candidate, Dice, Job, Member, Policy, lighter};
use crate::units::Slot;

/// Chooses at random in proportion to the weights.
struct Random;

/// Chooses two at random and takes the better one; the second of equals.
struct Two(Better);

/// How two replicas are compared.
#[derive(Clone, Copy)]
enum Better {
    LeastConn,
    LeastTime(Metric),
}

impl Policy for Random {
    /// One throw over the weights of those that may be chosen: the distribution nginx reaches by throwing again.
    /// O(n). Source: nginx `ngx_http_upstream_random_module.c`.
    fn choose(&mut self, _: &Job<'_>, candidates: &[Candidate], dice: &mut Dice) -> Option<Slot> {
        throw(candidates, None, dice).map(|chosen| chosen.at)
    }
}

impl Policy for Two {
    /// O(n). Source: nginx `ngx_http_upstream_random_module.c`, which throws until the second differs from the first.
    fn choose(&mut self, _: &Job<'_>, candidates: &[Candidate], dice: &mut Dice) -> Option<Slot> {
        let first = throw(candidates, None, dice)?;
        let Some(second) = throw(candidates, Some(first.at), dice) else { return Some(first.at) };
        let first_wins = match self.0 {
            Better::LeastConn => lighter(first, second),
            Better::LeastTime(metric) => {
                let known = metric.least_known(candidates);
                let share =
                    |one: &Candidate, other: &Candidate| eta(metric, one, known) * u128::from(other.weight.get());
                share(first, second) < share(second, first)
            }
        };
        Some(if first_wins { first.at } else { second.at })
    }
}

/// One of the candidates by weight, but not the one at `except`.
fn throw<'a>(candidates: &'a [Candidate], except: Option<Slot>, dice: &mut Dice) -> Option<&'a Candidate> {
    let weight = |c: &Candidate| if Some(c.at) == except { 0 } else { u64::from(c.weight.get()) };
    let mut left = dice.below(candidates.iter().map(weight).sum());
    for candidate in candidates {
        if left < weight(candidate) {
            return Some(candidate);
        }
        left -= weight(candidate);
    }
    None
}

pub(super) fn build(_: &[Member], args: &[&str]) -> Result<Box<dyn Policy>, BadPolicy> {
    Ok(match args {
        [] => Box::new(Random),
        ["two"] | ["two", "least_conn"] => Box::new(Two(Better::LeastConn)),
        ["two", method] => match method.strip_prefix("least_time=").and_then(Metric::named) {
            Some(metric) => Box::new(Two(Better::LeastTime(metric))),
            None => return Err(BadPolicy::Argument((*method).to_owned())),
        },
        ["two", _, more, ..] | [more, ..] => return Err(BadPolicy::Argument((*more).to_owned())),
    })
}

#[cfg(test)]
mod tests {
    use super::super::laws::{candidates, job};
    use super::*;

    fn shares(args: &[&str], in_flight: [u32; 3]) -> [u32; 3] {
        let mut offered = candidates(&[1, 1, 1]);
        offered.iter_mut().zip(in_flight).for_each(|(c, n)| c.in_flight = n);
        let mut policy = build(&[], args).unwrap();
        let mut dice = Dice::seeded(3);
        let mut seen = [0; 3];
        for _ in 0..9_000 {
            seen[policy.choose(&job(), &offered, &mut dice).unwrap().index()] += 1;
        }
        seen
    }

    #[test]
    fn the_busiest_of_three_is_never_the_better_of_two() {
        let [idle, some, most] = shares(&["two"], [0, 5, 9]);
        assert_eq!(most, 0);
        // The idle one is in two of three pairs.
        assert!((5_800..6_200).contains(&idle) && some == 9_000 - idle, "{idle} {some}");
        assert!(shares(&["two", "least_conn"], [1, 1, 1]).iter().all(|n| (2_800..3_200).contains(n)));
        assert!(shares(&[], [0, 5, 9]).iter().all(|n| (2_800..3_200).contains(n)));
    }

    #[test]
    fn picks_fit_the_weights_by_chi_square() {
        let weights = [5, 3, 1, 1];
        let offered = candidates(&weights);
        let mut all = 0.0;
        for seed in 0..100 {
            let (mut policy, mut dice) = (build(&[], &[]).unwrap(), Dice::seeded(seed));
            let mut seen = [0u32; 4];
            for _ in 0..10_000 {
                seen[policy.choose(&job(), &offered, &mut dice).unwrap().index()] += 1;
            }
            let off = |(seen, weight): (&u32, u32)| {
                let wanted = f64::from(weight) * 1_000.0;
                (f64::from(*seen) - wanted).powi(2) / wanted
            };
            all += seen.iter().zip(weights).map(off).sum::<f64>();
        }
        // 300 degrees of freedom: 300 on average, and once in 400 times further off than three times 24.5. Both ends
        // count, for picks that are more even than chance are not random.
        assert!((226.0..374.0).contains(&all), "{all}");
    }

    #[test]
    fn methods_are_nginx_words() {
        for good in [&["two", "least_time=last_byte"][..], &["two", "least_time=header"], &["two", "least_conn"]] {
            assert!(build(&[], good).is_ok(), "{good:?}");
        }
        for (bad, word) in [(&["three"][..], "three"), (&["two", "x"], "x"), (&["two", "least_conn", "y"], "y")] {
            assert_eq!(build(&[], bad).err(), Some(BadPolicy::Argument(word.to_owned())));
        }
    }
}
