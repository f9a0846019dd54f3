//! `prefix_hash [KEY] [bound=N]`: a ring over the prompt's prefix, with a bound on the tokens at one replica.
//!
//! Source: Mirrokni, Thorup, Zadimoghaddam, "Consistent hashing with bounded loads", SODA 2018. Loads are tokens
//! instead of balls, and the least loaded replica replaces the next on the ring.

use crate::balance::hash_probe::find_candidate;
use crate::balance::hash_ring::RingPoints;
use crate::balance::select::{min_cost, uncached_tokens};
use crate::balance::{Candidate, HashKey, Policy, PolicyError, PolicyMember, PolicyRequest, SeededRng};
use crate::units::{Slot, Tokens};

/// The default bound, in percent of the average load.
const DEFAULT_BOUND_PERCENT: u64 = 100;

/// The bound on the recent load, in percent of the bound.
const RECENT_BOUND_PERCENT: u64 = 125;

/// The divisor of the exponentially weighted moving average: a choice's share in the recent load is 1/256.
const EWMA_DIVISOR: u64 = 256;

/// A replica with no more tokens is always within the bound: at this load no request waits, and routers agree.
const MIN_BOUND_TOKENS: Tokens = Tokens(16_384);

/// The tokens of load that one cached token outweighs.
const CACHED_TOKEN_WEIGHT: u64 = 3;

/// The share of the prompt, 1/10, that must be cached elsewhere for a request to leave its preferred replica.
const MIN_GAIN_DIVISOR: u64 = 10;

/// Keys that are remembered as moved; two with one position replace each other.
const MOVED_KEY_SLOTS: usize = 4_096;

/// Sends all requests with one key to its preferred replica on the ring, while that is within the bound. Else it
/// chooses the replica with the fewest tokens, plus three for each token of the prompt that is not cached there.
///
/// A replica is within the bound if both hold, its cached tokens counted as credit:
/// - its tokens are at most `bound` times the average;
/// - its recent tokens are at most 1.25 times `bound` times the recent average.
///
/// The first keeps requests from waiting, the second moves a few keys for good. Routers that share no state agree on
/// the preferred replicas.
///
/// A key that has once moved follows its cache. Others do not: of a new session, most may be cached where the tools
/// that all sessions share were computed first, and then all sessions would go there.
struct PrefixHash {
    key: HashKey,
    points: RingPoints,
    bound_percent: u64,
    /// By slot: the moving average of the tokens at past choices, times [`EWMA_DIVISOR`].
    recent_tokens: Vec<u64>,
    /// By a key's hash: the last key that was sent elsewhere than to its first replica on the ring; 0 for none.
    moved_keys: Box<[u32]>,
}

/// The bound on a replica's tokens for one request.
struct LoadBound<'a> {
    recent_tokens: &'a [u64],
    percent: u64,
    /// The sums over all candidates, current and recent.
    total_tokens: [u128; 2],
    total_weight: u128,
    prompt: Tokens,
    /// The prompt tokens that every candidate has cached.
    cached_everywhere: Tokens,
}

impl PrefixHash {
    fn record_loads(&mut self, candidates: &[Candidate]) {
        let slots = candidates.last().map_or(0, |last| last.slot.index() + 1);
        self.recent_tokens.resize(slots.max(self.recent_tokens.len()), 0);
        for candidate in candidates {
            if let Some(recent) = self.recent_tokens.get_mut(candidate.slot.index()) {
                *recent = (*recent - *recent / EWMA_DIVISOR).saturating_add(weighted_tokens(candidate));
            }
        }
    }
}

impl<'a> LoadBound<'a> {
    fn new(recent_tokens: &'a [u64], percent: u64, request: &PolicyRequest<'_>, candidates: &[Candidate]) -> Self {
        let mut bound = LoadBound {
            recent_tokens,
            percent,
            total_tokens: [0; 2],
            total_weight: candidates.iter().map(|c| u128::from(c.weight.get())).sum(),
            prompt: request.prompt,
            cached_everywhere: candidates.iter().map(|c| c.cached).min().unwrap_or_default(),
        };
        let sum = |tokens: &dyn Fn(&Candidate) -> u64| candidates.iter().map(|c| u128::from(tokens(c))).sum();
        bound.total_tokens = [sum(&weighted_tokens), sum(&|c| bound.recent_tokens_on(c))];
        bound
    }

    fn recent_tokens_on(&self, candidate: &Candidate) -> u64 {
        self.recent_tokens.get(candidate.slot.index()).copied().unwrap_or_default()
    }

    /// Returns whether `candidate` is within the bound.
    fn has_room(&self, candidate: &Candidate) -> bool {
        let [current_total, recent_total] = self.total_tokens;
        let weight = u128::from(candidate.weight.get()) * u128::from(self.percent);
        let saved = (candidate.cached - self.cached_everywhere).0;
        // The request's own length is always allowed, so that one prompt alone never leaves its preferred replica.
        let current = weighted_tokens(candidate).saturating_sub(
            saved.saturating_mul(CACHED_TOKEN_WEIGHT).saturating_add(self.prompt.0).max(MIN_BOUND_TOKENS.0),
        );
        let recent =
            self.recent_tokens_on(candidate).saturating_sub(saved.max(MIN_BOUND_TOKENS.0).saturating_mul(EWMA_DIVISOR));
        u128::from(current) * self.total_weight * 100 <= current_total * weight
            && u128::from(recent) * self.total_weight * 100 * 100
                <= recent_total * weight * u128::from(RECENT_BOUND_PERCENT)
    }
}

impl Policy for PrefixHash {
    /// Sends a request without a key to the replica with the fewest tokens per weight. O(n + points).
    fn choose(&mut self, request: &PolicyRequest<'_>, candidates: &[Candidate], rng: &mut SeededRng) -> Option<Slot> {
        self.record_loads(candidates);
        if request.key.is_empty() {
            return min_cost(candidates, rng, |c| weighted_tokens(c).into());
        }
        let bound = LoadBound::new(&self.recent_tokens, self.bound_percent, request, candidates);
        let hash = crc32fast::hash(request.key);
        let preferred = self
            .points
            .slots_from(hash)
            .find_map(|slot| find_candidate(slot, candidates))
            .filter(|preferred| bound.has_room(preferred));
        let least_loaded = |rng: &mut SeededRng| {
            let missing = |c: &Candidate| u128::from(uncached_tokens(request, c)) * u128::from(CACHED_TOKEN_WEIGHT);
            find_candidate(min_cost(candidates, rng, |c| u128::from(weighted_tokens(c)) + missing(c))?, candidates)
        };
        let chosen = preferred.or_else(|| least_loaded(rng))?;
        let moved_key = &mut self.moved_keys[hash as usize % MOVED_KEY_SLOTS];
        if self.points.slots_from(hash).next() != Some(chosen.slot) {
            *moved_key = hash;
        } else if *moved_key != hash {
            return Some(chosen.slot);
        }
        // A conversation that once moved to another replica stays there while much more of it is cached there.
        let min_cached = chosen.cached + Tokens(request.prompt.0 / MIN_GAIN_DIVISOR);
        let others = candidates.iter().filter(|c| c.cached > min_cached && bound.has_room(c));
        Some(others.max_by_key(|c| c.cached).unwrap_or(chosen).slot)
    }

    fn key(&self) -> Option<&HashKey> {
        Some(&self.key)
    }

    fn needs_prefix(&self) -> bool {
        true
    }
}

/// Returns the load in tokens. A token to prefill counts four times, since all later requests wait for it.
fn weighted_tokens(replica: &Candidate) -> u64 {
    replica.load.resident.0.saturating_add(replica.load.prefill.0.saturating_mul(3))
}

pub(super) fn build(members: &[PolicyMember], args: &[&str]) -> Result<Box<dyn Policy>, PolicyError> {
    let (key, points) = (HashKey::cache_key(), RingPoints::new(members));
    let mut policy = PrefixHash {
        key,
        points,
        bound_percent: DEFAULT_BOUND_PERCENT,
        recent_tokens: Vec::new(),
        moved_keys: vec![0; MOVED_KEY_SLOTS].into_boxed_slice(),
    };
    for (index, arg) in args.iter().enumerate() {
        let invalid = || PolicyError::InvalidArgument((*arg).to_owned());
        match arg.strip_prefix("bound=") {
            Some(bound) => {
                let bound: f64 = bound.parse().map_err(|_| invalid())?;
                if !(1.0..=100.0).contains(&bound) {
                    return Err(invalid());
                }
                policy.bound_percent = (bound * 100.0).round() as u64;
            }
            None if index == 0 => policy.key = HashKey::parse(arg)?,
            None => return Err(invalid()),
        }
    }
    Ok(Box::new(policy))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::laws::{candidates, members, request};

    fn preferred_slots(policy: &mut dyn Policy, offered: &[Candidate]) -> Vec<Slot> {
        let keys = (0..1_000u32).map(|n| n.to_string());
        keys.map(|key| {
            policy
                .choose(&PolicyRequest { key: key.as_bytes(), ..request() }, offered, &mut SeededRng::from_seed(0))
                .unwrap()
        })
        .collect()
    }

    #[test]
    fn preferred_replica_of_a_key_depends_on_the_members_only() {
        let mut one = build(&members(&[1; 4]), &[]).unwrap();
        let mut other = build(&members(&[1; 4]), &[]).unwrap();
        let (offered, fewer) = (candidates(&[1; 4]), candidates(&[1; 3]));
        let (all, left) = (preferred_slots(one.as_mut(), &offered), preferred_slots(other.as_mut(), &fewer));
        assert_eq!(all, preferred_slots(other.as_mut(), &offered));
        assert!(all.iter().zip(&left).all(|(was, is)| was == is || *was == Slot(3)));
    }

    #[test]
    fn single_key_stays_within_the_bound() {
        for (args, max_percent) in [(&["$prefix"][..], 26), (&["$prefix", "bound=1.25"], 32)] {
            let mut policy = build(&members(&[1; 4]), args).unwrap();
            let mut offered = candidates(&[1; 4]);
            for _ in 0..400 {
                let request = PolicyRequest { key: b"the same system prompt", ..request() };
                let slot = policy.choose(&request, &offered, &mut SeededRng::from_seed(0)).unwrap();
                offered[slot.index()].load.resident += Tokens(10_000);
            }
            let max = offered.iter().map(|c| c.load.resident.0).max().unwrap();
            assert!(max <= 40_000 * max_percent, "{max} of 4,000,000 on one of four");
        }
    }

    #[test]
    fn routers_with_different_loads_agree_while_load_is_low() {
        let mut rng = SeededRng::from_seed(1);
        let mut policies = [0; 2].map(|_| build(&members(&[1; 8]), &[]).unwrap());
        for n in 0..2_000u32 {
            let key = n.to_string();
            let mut choose = |policy: &mut Box<dyn Policy>| {
                let mut offered = candidates(&[1; 8]);
                // One replica is computing a prompt of 4,000 tokens.
                let busy = rng.next_below(8) as usize;
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
    fn full_preferred_replica_is_left_for_the_least_loaded_unless_much_is_cached_there() {
        let mut policy = build(&members(&[1; 3]), &[]).unwrap();
        let mut choose = |cached: u64, loads: [u64; 3]| {
            let mut offered = candidates(&[1; 3]);
            let request = PolicyRequest { key: b"a conversation", prompt: Tokens(20_000), ..request() };
            let preferred = policy.choose(&request, &offered, &mut SeededRng::from_seed(0)).unwrap();
            offered[preferred.index()].cached = Tokens(cached);
            offered.iter_mut().zip(loads).for_each(|(c, load)| c.load.resident = Tokens(load));
            offered[preferred.index()].load.resident = Tokens(100_000);
            let slot = policy.choose(&request, &offered, &mut SeededRng::from_seed(0)).unwrap();
            (slot == preferred, loads[slot.index()])
        };
        let loads = [50_000, 40_000, 60_000];
        let (stays, load) = choose(0, loads);
        assert!(!stays && load <= 50_000, "{load}");
        assert!(choose(15_000, loads).0, "100,000 - 20,000 - 3 x 15,000 is below the average");
    }

    #[test]
    fn shared_tools_attract_no_new_sessions_and_moved_ones_follow_their_cache() {
        let mut policy = build(&members(&[1; 3]), &[]).unwrap();
        let mut offered = candidates(&[1; 3]);
        let mut choose = |offered: &[Candidate], key: u32| {
            let key = key.to_string();
            let request = PolicyRequest { prompt: Tokens(10_000), key: key.as_bytes(), ..request() };
            policy.choose(&request, offered, &mut SeededRng::from_seed(0)).unwrap()
        };
        let unloaded: Vec<Slot> = (0..300).map(|key| choose(&offered, key)).collect();
        offered[0].cached = Tokens(9_000);
        let with_tools: Vec<Slot> = (0..300).map(|key| choose(&offered, key)).collect();
        assert_eq!(with_tools, unloaded);
        // While its replica is away, a session moves; then it stays where it is cached.
        let key = (0..300).find(|key| unloaded[*key as usize] == Slot(2)).unwrap();
        let other = choose(&offered[..2], key);
        offered[0].cached = Tokens(0);
        offered[other.index()].cached = Tokens(9_000);
        assert_eq!(choose(&offered, key), other);
    }

    #[test]
    fn replica_above_its_recent_bound_loses_keys() {
        let mut policy = build(&members(&[1; 4]), &[]).unwrap();
        let mut offered = candidates(&[1; 4]);
        let unloaded = preferred_slots(policy.as_mut(), &offered);
        // For a prompt of 100,000 tokens its current load is always within the bound.
        let mut moved_keys = |loaded: u64, policy: &mut dyn Policy| {
            offered.iter_mut().for_each(|c| c.load.resident = Tokens(60_000));
            offered[2].load.resident = Tokens(loaded);
            let changed = (0..1_000).filter(|n| {
                let key = n.to_string();
                let request = PolicyRequest { prompt: Tokens(100_000), key: key.as_bytes(), ..request() };
                policy.choose(&request, &offered, &mut SeededRng::from_seed(0)).unwrap() != unloaded[*n]
            });
            changed.count()
        };
        assert_eq!(moved_keys(70_000, policy.as_mut()), 0);
        assert!(moved_keys(150_000, policy.as_mut()) > 100);
    }

    #[test]
    fn bound_is_a_number_from_1() {
        for (args, invalid) in [(&["bound=0.9"][..], "bound=0.9"), (&["$user", "x"], "x"), (&["bound=x"], "bound=x")] {
            assert_eq!(build(&[], args).err(), Some(PolicyError::InvalidArgument(invalid.to_owned())));
        }
        assert_eq!(build(&[], &["$unknown"]).err(), Some(PolicyError::UnknownVariable("$unknown".to_owned())));
    }
}
