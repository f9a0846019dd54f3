//! `prefix_hash`: by what a prompt begins with, on a ring, with a bound on the tokens at one replica.

use super::crc::Crc;
use super::probe::candidate;
use super::ring::Points;
use super::weigh::{cheapest, uncached};
use super::{BadPolicy, Candidate, Dice, Job, Key, Member, Policy};
use crate::units::{Slot, Tokens};

/// What a replica may have of the average, in hundredths, if nothing is said.
const BOUND_PERCENT: u64 = 100;

/// A replica with no more tokens has room in any case: at so low a load nobody waits, and routers are to agree.
const FREE: Tokens = Tokens(16_384);

/// A token that is cached is worth so many of those that are there.
const WORTH: u64 = 3;

/// One part in so many of a prompt is worth leaving its home for.
const PART: u64 = 10;

/// Sends all requests with one key to one replica, their home, as long as the tokens there are no more than `bound` times
/// the average, the request's own and three for each token that is cached there and not elsewhere; else where the fewest
/// tokens are, those counted three times that are not cached there. Routers that share nothing agree on the homes.
///
/// Source: Mirrokni, Thorup, Zadimoghaddam, "Consistent hashing with bounded loads", SODA 2018; with tokens for balls, and
/// the lightest replica instead of the next on the ring.
struct PrefixHash {
    key: Key,
    points: Points,
    bound_percent: u64,
}

/// How much a replica may have for one request.
struct Bound {
    percent: u64,
    /// Tokens on all candidates, and their weights.
    all: u128,
    weights: u128,
    prompt: Tokens,
    /// What every candidate has cached of the prompt.
    everywhere: Tokens,
}

impl Bound {
    fn of(job: &Job<'_>, candidates: &[Candidate], percent: u64) -> Self {
        Self {
            percent,
            all: candidates.iter().map(|c| u128::from(tokens(c))).sum(),
            weights: candidates.iter().map(|c| u128::from(c.weight.get())).sum(),
            prompt: job.prompt,
            everywhere: candidates.iter().map(|c| c.cached).min().unwrap_or_default(),
        }
    }

    /// Tells whether a replica has room.
    fn fits(&self, at: &Candidate) -> bool {
        // Its own length is what a request may bring in any case, so that one prompt alone never leaves its home.
        let saved = (at.cached - self.everywhere).0.saturating_mul(WORTH);
        let granted = self.prompt.0.saturating_add(saved).max(FREE.0);
        let beyond = u128::from(tokens(at).saturating_sub(granted)) * self.weights * 100;
        beyond <= self.all * u128::from(at.weight.get()) * u128::from(self.percent)
    }
}

impl Policy for PrefixHash {
    /// A request without a key goes where the fewest tokens per weight are. O(n + points).
    fn choose(&mut self, job: &Job<'_>, candidates: &[Candidate], dice: &mut Dice) -> Option<Slot> {
        if job.key.is_empty() {
            return cheapest(candidates, dice, |c| tokens(c).into());
        }
        let bound = Bound::of(job, candidates, self.bound_percent);
        let hash = Crc::new().add(job.key).value();
        let home = self.points.from(hash).find_map(|at| candidate(at, candidates)).filter(|home| bound.fits(home));
        let lightest = |dice: &mut Dice| {
            let missing = |c: &Candidate| u128::from(uncached(job, c)) * u128::from(WORTH);
            let at = cheapest(candidates, dice, |c| u128::from(tokens(c)) + missing(c))?;
            candidate(at, candidates)
        };
        let home = home.or_else(|| lightest(dice))?;
        // Where it was sent while its home was full it goes on, if much more of it is cached there.
        let more = home.cached + Tokens(job.prompt.0 / PART);
        let others = candidates.iter().filter(|c| c.cached > more && bound.fits(c));
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
