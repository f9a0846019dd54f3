//! `prefix_hash`: by what a prompt begins with, on a ring, with a bound on the tokens at one replica.

use super::crc::Crc;
use super::probe::candidate;
use super::ring::Points;
use super::weigh::cheapest;
use super::{BadPolicy, Candidate, Dice, Job, Key, Member, Policy};
use crate::units::{Slot, Tokens};

/// What a replica may have more than the average, in hundredths, if nothing is said.
const BOUND_PERCENT: u64 = 125;

/// One part in so many of a prompt is worth leaving its home for.
const WORTH: u64 = 10;

/// Sends all requests with one key to one replica as long as the tokens there are no more than `bound` times the average and
/// its own; then to the next on the ring. Routers that share nothing agree on the homes.
///
/// Source: Mirrokni, Thorup, Zadimoghaddam, "Consistent hashing with bounded loads", SODA 2018; with tokens for balls.
struct PrefixHash {
    key: Key,
    points: Points,
    bound_percent: u64,
}

impl Policy for PrefixHash {
    /// A request without a key goes where the fewest tokens per weight are. O(n + points).
    fn choose(&mut self, job: &Job<'_>, candidates: &[Candidate], dice: &mut Dice) -> Option<Slot> {
        let fewest = |dice: &mut Dice| cheapest(candidates, dice, |c| tokens(c).into());
        if job.key.is_empty() {
            return fewest(dice);
        }
        let all: u128 = candidates.iter().map(|c| u128::from(tokens(c))).sum();
        let weights: u128 = candidates.iter().map(|c| u128::from(c.weight.get())).sum();
        // Its own length is what a request may bring in any case, so that an empty fleet has room at every home.
        let fits = |c: &Candidate| {
            let beyond = u128::from(tokens(c).saturating_sub(job.prompt.0)) * weights * 100;
            beyond <= all * u128::from(c.weight.get()) * u128::from(self.bound_percent)
        };
        let hash = Crc::new().add(job.key).value();
        let home = self.points.from(hash).find_map(|at| candidate(at, candidates).filter(|c| fits(c)));
        let Some(home) = home else { return fewest(dice) };
        // Where it was sent while its home was full it goes on, if much more of it is cached there.
        let others = candidates.iter().filter(|c| fits(c) && c.cached > home.cached + Tokens(job.prompt.0 / WORTH));
        Some(others.max_by_key(|c| c.cached).unwrap_or(home).at)
    }

    fn key(&self) -> Option<&Key> {
        Some(&self.key)
    }

    fn asks_prefix(&self) -> bool {
        true
    }
}

/// What is there; what waits to be computed counts more, since all that comes waits for it.
fn tokens(replica: &Candidate) -> u64 {
    replica.load.resident.0.saturating_add(replica.load.prefill.0.saturating_mul(3))
}

pub(super) fn build(members: &[Member], args: &[&str]) -> Result<Box<dyn Policy>, BadPolicy> {
    let mut policy = PrefixHash { key: Key::cache(), points: Points::new(members), bound_percent: BOUND_PERCENT };
    for (at, arg) in args.iter().enumerate() {
        let wrong = || BadPolicy::Argument((*arg).to_owned());
        match arg.strip_prefix("bound=") {
            Some(bound) => {
                let bound: f64 = bound.parse().map_err(|_| wrong())?;
                if !(1.0..=100.0).contains(&bound) {
                    return Err(wrong());
                }
                policy.bound_percent = (bound * 100.0).round() as u64;
            }
            None if at == 0 => policy.key = Key::parse(arg)?,
            None => return Err(wrong()),
        }
    }
    Ok(Box::new(policy))
}

#[cfg(test)]
mod tests {
    use super::super::laws::{candidates, job, members};
    use super::*;

    fn homes(policy: &mut dyn Policy, offered: &[Candidate]) -> Vec<Slot> {
        let keys = (0..1_000).map(|at: u32| at.to_string());
        keys.map(|key| policy.choose(&Job { key: key.as_bytes(), ..job() }, offered, &mut Dice::seeded(0)).unwrap())
            .collect()
    }

    #[test]
    fn a_key_has_a_home_that_depends_on_the_members_only() {
        let mut one = build(&members(&[1; 4]), &[]).unwrap();
        let mut other = build(&members(&[1; 4]), &[]).unwrap();
        let (offered, fewer) = (candidates(&[1; 4]), candidates(&[1; 3]));
        let (all, left) = (homes(one.as_mut(), &offered), homes(other.as_mut(), &fewer));
        assert_eq!(all, homes(other.as_mut(), &offered));
        assert!(all.iter().zip(&left).all(|(was, is)| was == is || *was == Slot(3)));
    }

    #[test]
    fn one_key_alone_fills_no_replica() {
        let mut policy = build(&members(&[1; 4]), &["$prefix", "bound=1.25"]).unwrap();
        let mut offered = candidates(&[1; 4]);
        for _ in 0..400 {
            let job = Job { key: b"the same system prompt", ..job() };
            let at = policy.choose(&job, &offered, &mut Dice::seeded(0)).unwrap();
            offered[at.index()].load.resident += Tokens(100);
        }
        let most = offered.iter().map(|c| c.load.resident.0).max().unwrap();
        assert!((12_500..=12_700).contains(&most), "{most} of 40,000 on one of four");
    }

    #[test]
    fn a_bound_is_a_number_from_1() {
        for (args, wrong) in [(&["bound=0.9"][..], "bound=0.9"), (&["$user", "x"], "x"), (&["bound=x"], "bound=x")] {
            assert_eq!(build(&[], args).err(), Some(BadPolicy::Argument(wrong.to_owned())));
        }
        assert_eq!(build(&[], &["$nobody"]).err(), Some(BadPolicy::Variable("$nobody".to_owned())));
    }
}
