//! `prefix_hash`: by what a prompt begins with, on a ring, with a bound on the tokens at one replica.

use super::crc::Crc;
use super::probe::candidate;
use super::ring::Points;
use super::weigh::{cheapest, uncached};
use super::{BadPolicy, Candidate, Dice, Job, Key, Member, Policy};
use crate::units::{Slot, Tokens};

/// What a replica may have of the average, in hundredths, if nothing is said.
const BOUND_PERCENT: u64 = 100;

/// What it may have had lately, in hundredths of that.
const LATELY_PERCENT: u64 = 125;

/// A choice's share in what is known of the loads lately is one in this many.
const LATELY: u64 = 256;

/// A replica with no more tokens has room in any case: at so low a load nobody waits, and routers are to agree.
const FREE: Tokens = Tokens(16_384);

/// A token that is cached is worth so many of those that are there.
const WORTH: u64 = 3;

/// One part in so many of a prompt is worth leaving its home for.
const PART: u64 = 10;

/// Sends all requests with one key to one replica, their home, while there is room; else where the fewest tokens are, three
/// more counted for each of the prompt's that is not cached there. Routers that share nothing agree on the homes.
///
/// There is room as long as the tokens there are no more than `bound` times the average, the request's own and three for
/// each token that is cached there and not everywhere; and have lately been no more than 1.25 times `bound` the average and
/// those that are cached. The one keeps requests from waiting, the other moves a few keys for good.
///
/// Source: Mirrokni, Thorup, Zadimoghaddam, "Consistent hashing with bounded loads", SODA 2018; with tokens for balls, and
/// the lightest replica instead of the next on the ring.
struct PrefixHash {
    key: Key,
    points: Points,
    bound_percent: u64,
    /// By slot: the tokens there at past choices, a choice weighing less the longer ago it is; times [`LATELY`].
    lately: Vec<u64>,
}

/// How much a replica may have for one request.
struct Bound<'a> {
    lately: &'a [u64],
    percent: u64,
    /// On all candidates, now and lately.
    all: [u128; 2],
    weights: u128,
    prompt: Tokens,
    /// What every candidate has cached of the prompt.
    everywhere: Tokens,
}

impl PrefixHash {
    fn remember(&mut self, candidates: &[Candidate]) {
        let slots = candidates.last().map_or(0, |last| last.at.index() + 1);
        self.lately.resize(slots.max(self.lately.len()), 0);
        for candidate in candidates {
            if let Some(lately) = self.lately.get_mut(candidate.at.index()) {
                *lately = (*lately - *lately / LATELY).saturating_add(tokens(candidate));
            }
        }
    }

    fn bound(&self, job: &Job<'_>, candidates: &[Candidate]) -> Bound<'_> {
        let mut bound = Bound {
            lately: &self.lately,
            percent: self.bound_percent,
            all: [0; 2],
            weights: candidates.iter().map(|c| u128::from(c.weight.get())).sum(),
            prompt: job.prompt,
            everywhere: candidates.iter().map(|c| c.cached).min().unwrap_or_default(),
        };
        let sum = |of: &dyn Fn(&Candidate) -> u64| candidates.iter().map(|c| u128::from(of(c))).sum();
        bound.all = [sum(&tokens), sum(&|c| bound.lately(c))];
        bound
    }
}

impl Bound<'_> {
    fn lately(&self, at: &Candidate) -> u64 {
        self.lately.get(at.at.index()).copied().unwrap_or_default()
    }

    /// Tells whether a replica has room.
    fn fits(&self, at: &Candidate) -> bool {
        let [all_now, all_lately] = self.all;
        let weight = u128::from(at.weight.get()) * u128::from(self.percent);
        let saved = (at.cached - self.everywhere).0;
        // Its own length is what a request may bring in any case, so that one prompt alone never leaves its home.
        let now = tokens(at).saturating_sub(saved.saturating_mul(WORTH).saturating_add(self.prompt.0).max(FREE.0));
        let lately = self.lately(at).saturating_sub(saved.max(FREE.0).saturating_mul(LATELY));
        u128::from(now) * self.weights * 100 <= all_now * weight
            && u128::from(lately) * self.weights * 100 * 100 <= all_lately * weight * u128::from(LATELY_PERCENT)
    }
}

impl Policy for PrefixHash {
    /// A request without a key goes where the fewest tokens per weight are. O(n + points).
    fn choose(&mut self, job: &Job<'_>, candidates: &[Candidate], dice: &mut Dice) -> Option<Slot> {
        self.remember(candidates);
        if job.key.is_empty() {
            return cheapest(candidates, dice, |c| tokens(c).into());
        }
        let bound = self.bound(job, candidates);
        let hash = Crc::new().add(job.key).value();
        let home = self.points.from(hash).find_map(|at| candidate(at, candidates)).filter(|home| bound.fits(home));
        let lightest = |dice: &mut Dice| {
            let missing = |c: &Candidate| u128::from(uncached(job, c)) * u128::from(WORTH);
            candidate(cheapest(candidates, dice, |c| u128::from(tokens(c)) + missing(c))?, candidates)
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
    let (key, points) = (Key::cache(), Points::new(members));
    let mut policy = PrefixHash { key, points, bound_percent: BOUND_PERCENT, lately: Vec::new() };
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
        for (args, most_percent) in [(&["$prefix"][..], 26), (&["$prefix", "bound=1.25"], 32)] {
            let mut policy = build(&members(&[1; 4]), args).unwrap();
            let mut offered = candidates(&[1; 4]);
            for _ in 0..400 {
                let job = Job { key: b"the same system prompt", ..job() };
                let at = policy.choose(&job, &offered, &mut Dice::seeded(0)).unwrap();
                offered[at.index()].load.resident += Tokens(10_000);
            }
            let most = offered.iter().map(|c| c.load.resident.0).max().unwrap();
            assert!(most <= 40_000 * most_percent, "{most} of 4,000,000 on one of four");
        }
    }

    #[test]
    fn routers_that_see_different_requests_agree_while_there_are_few() {
        let mut dice = Dice::seeded(1);
        let mut policies = [0; 2].map(|_| build(&members(&[1; 8]), &[]).unwrap());
        for at in 0..2_000u32 {
            let key = at.to_string();
            let mut choose = |policy: &mut Box<dyn Policy>| {
                let mut offered = candidates(&[1; 8]);
                // A prompt of 4,000 tokens is being computed somewhere.
                let busy = dice.below(8) as usize;
                (offered[busy].load.prefill, offered[busy].load.resident) = (Tokens(4_000), Tokens(4_000));
                policy.choose(&Job { key: key.as_bytes(), ..job() }, &offered, &mut Dice::seeded(0)).unwrap()
            };
            let [one, other] = &mut policies;
            assert_eq!(choose(one), choose(other), "{key}");
        }
    }

    #[test]
    fn a_full_home_is_left_for_the_lightest_unless_much_is_cached_there() {
        let mut policy = build(&members(&[1; 3]), &[]).unwrap();
        let mut choose = |cached: u64, loads: [u64; 3]| {
            let mut offered = candidates(&[1; 3]);
            let job = Job { key: b"a conversation", prompt: Tokens(20_000), ..job() };
            let home = policy.choose(&job, &offered, &mut Dice::seeded(0)).unwrap();
            offered[home.index()].cached = Tokens(cached);
            offered.iter_mut().zip(loads).for_each(|(c, load)| c.load.resident = Tokens(load));
            offered[home.index()].load.resident = Tokens(100_000);
            let at = policy.choose(&job, &offered, &mut Dice::seeded(0)).unwrap();
            (at == home, loads[at.index()])
        };
        let loads = [50_000, 40_000, 60_000];
        let (stays, there) = choose(0, loads);
        assert!(!stays && there <= 50_000, "{there}");
        assert!(choose(15_000, loads).0, "100,000 - 20,000 - 3 x 15,000 is below the average");
    }

    #[test]
    fn a_replica_that_has_long_had_more_than_its_share_gives_keys_away() {
        let mut policy = build(&members(&[1; 4]), &[]).unwrap();
        let mut offered = candidates(&[1; 4]);
        let empty = homes(policy.as_mut(), &offered);
        // It never has too much at once for a prompt of 100,000 tokens.
        let mut left = |loaded: u64, policy: &mut dyn Policy| {
            offered.iter_mut().for_each(|c| c.load.resident = Tokens(60_000));
            offered[2].load.resident = Tokens(loaded);
            let changed = (0..1_000).filter(|at| {
                let key = at.to_string();
                let job = Job { prompt: Tokens(100_000), key: key.as_bytes(), ..job() };
                policy.choose(&job, &offered, &mut Dice::seeded(0)).unwrap() != empty[*at]
            });
            changed.count()
        };
        assert_eq!(left(70_000, policy.as_mut()), 0);
        assert!(left(150_000, policy.as_mut()) > 100);
    }

    #[test]
    fn a_bound_is_a_number_from_1() {
        for (args, wrong) in [(&["bound=0.9"][..], "bound=0.9"), (&["$user", "x"], "x"), (&["bound=x"], "bound=x")] {
            assert_eq!(build(&[], args).err(), Some(BadPolicy::Argument(wrong.to_owned())));
        }
        assert_eq!(build(&[], &["$nobody"]).err(), Some(BadPolicy::Variable("$nobody".to_owned())));
    }
}
