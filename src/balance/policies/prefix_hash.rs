//! `prefix_hash`: by what a prompt begins with, on a ring, with a bound on the tokens at one replica.

use crate::balance::crc32::Crc32;
use crate::balance::hash_probe::find_candidate;
use crate::balance::hash_ring::RingPoints;
use crate::balance::select::{min_cost, uncached_tokens};
use crate::balance::{Candidate, HashKey, Policy, PolicyError, PolicyMember, PolicyRequest, SeededRng};
use crate::units::{Slot, Tokens};

/// What a replica may have of the average, in hundredths, if nothing is said.
const DEFAULT_BOUND_PERCENT: u64 = 100;

/// What it may have had lately, in hundredths of that.
const RECENT_BOUND_PERCENT: u64 = 125;

/// A choice's share in what is known of the loads lately is one in this many.
const EWMA_DIVISOR: u64 = 256;

/// A replica with no more tokens has room in any case: at so low a load nobody waits, and routers are to agree.
const MIN_BOUND_TOKENS: Tokens = Tokens(16_384);

/// A token that is cached is worth so many of those that are there.
const CACHED_TOKEN_WEIGHT: u64 = 3;

/// One part in so many of a prompt is worth leaving its home for.
const MIN_GAIN_DIVISOR: u64 = 10;

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
    key: HashKey,
    points: RingPoints,
    bound_percent: u64,
    /// By slot: the tokens there at past choices, a choice weighing less the longer ago it is; times [`EWMA_DIVISOR`].
    recent_tokens: Vec<u64>,
}

/// How much a replica may have for one request.
struct LoadBound<'a> {
    recent_tokens: &'a [u64],
    percent: u64,
    /// On all candidates, now and lately.
    total_tokens: [u128; 2],
    total_weight: u128,
    prompt: Tokens,
    /// What every candidate has cached of the prompt.
    cached_everywhere: Tokens,
}

impl PrefixHash {
    fn record_loads(&mut self, candidates: &[Candidate]) {
        let slots = candidates.last().map_or(0, |last| last.slot.index() + 1);
        self.recent_tokens.resize(slots.max(self.recent_tokens.len()), 0);
        for candidate in candidates {
            if let Some(lately) = self.recent_tokens.get_mut(candidate.slot.index()) {
                *lately = (*lately - *lately / EWMA_DIVISOR).saturating_add(weighted_tokens(candidate));
            }
        }
    }

    fn load_bound(&self, job: &PolicyRequest<'_>, candidates: &[Candidate]) -> LoadBound<'_> {
        let mut bound = LoadBound {
            recent_tokens: &self.recent_tokens,
            percent: self.bound_percent,
            total_tokens: [0; 2],
            total_weight: candidates.iter().map(|c| u128::from(c.weight.get())).sum(),
            prompt: job.prompt,
            cached_everywhere: candidates.iter().map(|c| c.cached).min().unwrap_or_default(),
        };
        let sum = |of: &dyn Fn(&Candidate) -> u64| candidates.iter().map(|c| u128::from(of(c))).sum();
        bound.total_tokens = [sum(&weighted_tokens), sum(&|c| bound.recent_tokens_on(c))];
        bound
    }
}

impl LoadBound<'_> {
    fn recent_tokens_on(&self, at: &Candidate) -> u64 {
        self.recent_tokens.get(at.slot.index()).copied().unwrap_or_default()
    }

    /// Tells whether a replica has room.
    fn has_room(&self, at: &Candidate) -> bool {
        let [all_now, all_lately] = self.total_tokens;
        let weight = u128::from(at.weight.get()) * u128::from(self.percent);
        let saved = (at.cached - self.cached_everywhere).0;
        // Its own length is what a request may bring in any case, so that one prompt alone never leaves its home.
        let now = weighted_tokens(at).saturating_sub(
            saved.saturating_mul(CACHED_TOKEN_WEIGHT).saturating_add(self.prompt.0).max(MIN_BOUND_TOKENS.0),
        );
        let lately =
            self.recent_tokens_on(at).saturating_sub(saved.max(MIN_BOUND_TOKENS.0).saturating_mul(EWMA_DIVISOR));
        u128::from(now) * self.total_weight * 100 <= all_now * weight
            && u128::from(lately) * self.total_weight * 100 * 100
                <= all_lately * weight * u128::from(RECENT_BOUND_PERCENT)
    }
}

impl Policy for PrefixHash {
    /// A request without a key goes where the fewest tokens per weight are. O(n + points).
    fn choose(&mut self, job: &PolicyRequest<'_>, candidates: &[Candidate], dice: &mut SeededRng) -> Option<Slot> {
        self.record_loads(candidates);
        if job.key.is_empty() {
            return min_cost(candidates, dice, |c| weighted_tokens(c).into());
        }
        let bound = self.load_bound(job, candidates);
        let hash = Crc32::new().update(job.key).value();
        let home = self
            .points
            .slots_from(hash)
            .find_map(|at| find_candidate(at, candidates))
            .filter(|home| bound.has_room(home));
        let lightest = |dice: &mut SeededRng| {
            let missing = |c: &Candidate| u128::from(uncached_tokens(job, c)) * u128::from(CACHED_TOKEN_WEIGHT);
            find_candidate(min_cost(candidates, dice, |c| u128::from(weighted_tokens(c)) + missing(c))?, candidates)
        };
        let home = home.or_else(|| lightest(dice))?;
        // Where it was sent while its home was full it goes on, if much more of it is cached there.
        let more = home.cached + Tokens(job.prompt.0 / MIN_GAIN_DIVISOR);
        let others = candidates.iter().filter(|c| c.cached > more && bound.has_room(c));
        Some(others.max_by_key(|c| c.cached).unwrap_or(home).slot)
    }

    fn key(&self) -> Option<&HashKey> {
        Some(&self.key)
    }

    fn needs_prefix(&self) -> bool {
        true
    }
}

/// What is there; what waits to be computed counts more, since all that comes waits for it.
fn weighted_tokens(replica: &Candidate) -> u64 {
    replica.load.resident.0.saturating_add(replica.load.prefill.0.saturating_mul(3))
}

pub(in crate::balance) fn build(members: &[PolicyMember], args: &[&str]) -> Result<Box<dyn Policy>, PolicyError> {
    let (key, points) = (HashKey::cache_key(), RingPoints::new(members));
    let mut policy = PrefixHash { key, points, bound_percent: DEFAULT_BOUND_PERCENT, recent_tokens: Vec::new() };
    for (at, arg) in args.iter().enumerate() {
        let wrong = || PolicyError::InvalidArgument((*arg).to_owned());
        match arg.strip_prefix("bound=") {
            Some(bound) => {
                let bound: f64 = bound.parse().map_err(|_| wrong())?;
                if !(1.0..=100.0).contains(&bound) {
                    return Err(wrong());
                }
                policy.bound_percent = (bound * 100.0).round() as u64;
            }
            None if at == 0 => policy.key = HashKey::parse(arg)?,
            None => return Err(wrong()),
        }
    }
    Ok(Box::new(policy))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::laws::{candidates, members, request};

    fn preferred_slots(policy: &mut dyn Policy, offered: &[Candidate]) -> Vec<Slot> {
        let keys = (0..1_000).map(|at: u32| at.to_string());
        keys.map(|key| {
            policy
                .choose(&PolicyRequest { key: key.as_bytes(), ..request() }, offered, &mut SeededRng::from_seed(0))
                .unwrap()
        })
        .collect()
    }

    #[test]
    fn a_key_has_a_home_that_depends_on_the_members_only() {
        let mut one = build(&members(&[1; 4]), &[]).unwrap();
        let mut other = build(&members(&[1; 4]), &[]).unwrap();
        let (offered, fewer) = (candidates(&[1; 4]), candidates(&[1; 3]));
        let (all, left) = (preferred_slots(one.as_mut(), &offered), preferred_slots(other.as_mut(), &fewer));
        assert_eq!(all, preferred_slots(other.as_mut(), &offered));
        assert!(all.iter().zip(&left).all(|(was, is)| was == is || *was == Slot(3)));
    }

    #[test]
    fn one_key_alone_fills_no_replica() {
        for (args, most_percent) in [(&["$prefix"][..], 26), (&["$prefix", "bound=1.25"], 32)] {
            let mut policy = build(&members(&[1; 4]), args).unwrap();
            let mut offered = candidates(&[1; 4]);
            for _ in 0..400 {
                let job = PolicyRequest { key: b"the same system prompt", ..request() };
                let at = policy.choose(&job, &offered, &mut SeededRng::from_seed(0)).unwrap();
                offered[at.index()].load.resident += Tokens(10_000);
            }
            let most = offered.iter().map(|c| c.load.resident.0).max().unwrap();
            assert!(most <= 40_000 * most_percent, "{most} of 4,000,000 on one of four");
        }
    }

    #[test]
    fn routers_that_see_different_requests_agree_while_there_are_few() {
        let mut dice = SeededRng::from_seed(1);
        let mut policies = [0; 2].map(|_| build(&members(&[1; 8]), &[]).unwrap());
        for at in 0..2_000u32 {
            let key = at.to_string();
            let mut choose = |policy: &mut Box<dyn Policy>| {
                let mut offered = candidates(&[1; 8]);
                // A prompt of 4,000 tokens is being computed somewhere.
                let busy = dice.next_below(8) as usize;
                (offered[busy].load.prefill, offered[busy].load.resident) = (Tokens(4_000), Tokens(4_000));
                policy
                    .choose(&PolicyRequest { key: key.as_bytes(), ..request() }, &offered, &mut SeededRng::from_seed(0))
                    .unwrap()
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
            let job = PolicyRequest { key: b"a conversation", prompt: Tokens(20_000), ..request() };
            let home = policy.choose(&job, &offered, &mut SeededRng::from_seed(0)).unwrap();
            offered[home.index()].cached = Tokens(cached);
            offered.iter_mut().zip(loads).for_each(|(c, load)| c.load.resident = Tokens(load));
            offered[home.index()].load.resident = Tokens(100_000);
            let at = policy.choose(&job, &offered, &mut SeededRng::from_seed(0)).unwrap();
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
        let empty = preferred_slots(policy.as_mut(), &offered);
        // It never has too much at once for a prompt of 100,000 tokens.
        let mut left = |loaded: u64, policy: &mut dyn Policy| {
            offered.iter_mut().for_each(|c| c.load.resident = Tokens(60_000));
            offered[2].load.resident = Tokens(loaded);
            let changed = (0..1_000).filter(|at| {
                let key = at.to_string();
                let job = PolicyRequest { prompt: Tokens(100_000), key: key.as_bytes(), ..request() };
                policy.choose(&job, &offered, &mut SeededRng::from_seed(0)).unwrap() != empty[*at]
            });
            changed.count()
        };
        assert_eq!(left(70_000, policy.as_mut()), 0);
        assert!(left(150_000, policy.as_mut()) > 100);
    }

    #[test]
    fn a_bound_is_a_number_from_1() {
        for (args, wrong) in [(&["bound=0.9"][..], "bound=0.9"), (&["$user", "x"], "x"), (&["bound=x"], "bound=x")] {
            assert_eq!(build(&[], args).err(), Some(PolicyError::InvalidArgument(wrong.to_owned())));
        }
        assert_eq!(build(&[], &["$nobody"]).err(), Some(PolicyError::UnknownVariable("$nobody".to_owned())));
    }
}
