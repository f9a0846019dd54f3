//! `token_cost [routers=N]`: the cost of a request on a replica, to itself and to the other requests there, in tokens.
//!
//! Source: own.

use crate::balance::hash_probe::find_candidate;
use crate::balance::hash_ring::RingPoints;
use crate::balance::select::{min_cost, uncached_tokens};
use crate::balance::{
    Candidate, HashKey, Policy, PolicyError, PolicyMember, PolicyRequest, SeededRng, SlowdownFactors,
};
use crate::units::Slot;

/// With several routers, the least share of a prompt that counts as cached on its preferred replica.
const MIN_PREFERRED_CACHED_PERCENT: u64 = 30;

/// Chooses the replica with the least `P + u (3 + W + D / 4) + T / 4` per weight; ties at random.
///
/// `P` prompt tokens of `W` requests wait for prefill there, `u` tokens of this prompt are not cached there, `D`
/// streams decode, and `T` tokens are resident. The terms are multiplied by the replica's slowdown.
///
/// - `3 u`: one `u` is the request's own prefill; two are for the cache entries that it evicts and the requests it
///   delays.
/// - `u (W + D / 4)` keeps long prompts away from waiting requests and from streams, whose next tokens they delay.
/// - `T / 4` spreads the memory use.
struct TokenCost {
    /// Set if several routers send to these replicas.
    preferred: Option<PreferredReplica>,
}

/// The ring that gives every router the same preferred replica for a key.
struct PreferredReplica {
    key: HashKey,
    points: RingPoints,
}

impl PreferredReplica {
    fn slot_for(&self, request: &PolicyRequest<'_>, candidates: &[Candidate]) -> Option<Slot> {
        let hash = crc32fast::hash(request.key);
        self.points
            .slots_from(hash)
            .find(|slot| find_candidate(*slot, candidates).is_some())
            .filter(|_| !request.key.is_empty())
    }
}

impl Policy for TokenCost {
    /// O(n).
    fn choose(&mut self, request: &PolicyRequest<'_>, candidates: &[Candidate], rng: &mut SeededRng) -> Option<Slot> {
        let preferred = self.preferred.as_ref().and_then(|ring| ring.slot_for(request, candidates));
        min_cost(candidates, rng, |replica| scaled_cost(tokens_to_compute(request, replica, preferred), replica))
    }

    /// `cost` is `(waiting + uncached (3 + prompts + streams / 4)) prefill_pace + resident / 4 decode_pace`.
    fn explain(
        &self,
        request: &PolicyRequest<'_>,
        candidate: &Candidate,
        candidates: &[Candidate],
    ) -> Vec<(&'static str, f64)> {
        let preferred = self.preferred.as_ref().and_then(|ring| ring.slot_for(request, candidates));
        let uncached = tokens_to_compute(request, candidate, preferred);
        let (load, slowdown) = (candidate.load, candidate.slowdown);
        let mut terms = vec![
            ("waiting", load.prefill.0 as f64),
            ("prompts", f64::from(load.waiting_requests)),
            ("uncached", uncached as f64),
            ("streams", f64::from(load.decoding_streams)),
            ("resident", load.resident.0 as f64),
            ("prefill_pace", f64::from(slowdown.prefill) / f64::from(SlowdownFactors::ONE)),
            ("decode_pace", f64::from(slowdown.decode) / f64::from(SlowdownFactors::ONE)),
            ("cost", scaled_cost(uncached, candidate) as f64 / 4.0 / f64::from(SlowdownFactors::ONE)),
        ];
        if self.preferred.is_some() {
            terms.push(("preferred", f64::from(u8::from(preferred == Some(candidate.slot)))));
        }
        terms
    }

    fn key(&self) -> Option<&HashKey> {
        self.preferred.as_ref().map(|ring| &ring.key)
    }

    fn needs_prefix(&self) -> bool {
        true
    }
}

/// Returns the tokens of the prompt that count as not cached there.
fn tokens_to_compute(request: &PolicyRequest<'_>, replica: &Candidate, preferred: Option<Slot>) -> u64 {
    let uncached = uncached_tokens(request, replica);
    if preferred != Some(replica.slot) {
        return uncached;
    }
    uncached.min(request.prompt.0 - request.prompt.0 / 100 * MIN_PREFERRED_CACHED_PERCENT)
}

/// Returns the cost in quarters of a token, times [`SlowdownFactors::ONE`].
fn scaled_cost(uncached: u64, replica: &Candidate) -> u128 {
    let (load, slowdown) = (replica.load, replica.slowdown);
    let [waiting, uncached, resident] = [load.prefill.0, uncached, load.resident.0].map(u128::from);
    let computing =
        4 * waiting + uncached * (12 + 4 * u128::from(load.waiting_requests) + u128::from(load.decoding_streams));
    computing * u128::from(slowdown.prefill) + resident * u128::from(slowdown.decode)
}

pub(super) fn build(members: &[PolicyMember], args: &[&str]) -> Result<Box<dyn Policy>, PolicyError> {
    let routers: u32 = match args {
        [] => 1,
        [arg] => {
            let number = arg.strip_prefix("routers=").and_then(|number| number.parse().ok());
            number.filter(|n| *n > 0).ok_or_else(|| PolicyError::InvalidArgument((*arg).to_owned()))?
        }
        [_, more, ..] => return Err(PolicyError::InvalidArgument((*more).to_owned())),
    };
    let ring = || PreferredReplica { key: HashKey::cache_key(), points: RingPoints::new(members) };
    Ok(Box::new(TokenCost { preferred: (routers > 1).then(ring) }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::TokenLoad;
    use crate::balance::laws::{candidates, members, request};
    use crate::units::Tokens;

    fn choose(request: &PolicyRequest<'_>, change: impl Fn(&mut [Candidate])) -> u32 {
        let mut offered = candidates(&[1, 1]);
        change(&mut offered);
        TokenCost { preferred: None }.choose(request, &offered, &mut SeededRng::from_seed(0)).unwrap().0
    }

    #[test]
    fn cached_replica_wins_until_waiting_there_costs_more() {
        let request = PolicyRequest { prompt: Tokens(10_000), ..request() };
        // 3 x 8,000 tokens are saved there.
        let waits = |tokens| {
            choose(&request, |offered| {
                offered[0].cached = Tokens(8_000);
                offered[0].load = TokenLoad {
                    prefill: Tokens(tokens),
                    waiting_requests: 0,
                    decoding_streams: 0,
                    resident: Tokens(tokens),
                };
            })
        };
        assert_eq!((waits(19_000), waits(20_000)), (0, 1));
    }

    #[test]
    fn long_prompt_avoids_streams_and_short_one_avoids_memory() {
        let busy = |prompt| {
            choose(&PolicyRequest { prompt: Tokens(prompt), ..request() }, |offered| {
                offered[0].load = TokenLoad {
                    prefill: Tokens(0),
                    waiting_requests: 0,
                    decoding_streams: 40,
                    resident: Tokens(10_000),
                };
                offered[1].load = TokenLoad {
                    prefill: Tokens(0),
                    waiting_requests: 0,
                    decoding_streams: 4,
                    resident: Tokens(20_000),
                };
            })
        };
        assert_eq!((busy(200), busy(400)), (0, 1));
    }

    #[test]
    fn long_prompt_avoids_many_waiting_and_short_one_avoids_long_waiting() {
        let busy = |prompt| {
            choose(&PolicyRequest { prompt: Tokens(prompt), ..request() }, |offered| {
                offered[0].load = TokenLoad { prefill: Tokens(3_000), waiting_requests: 6, ..TokenLoad::default() };
                offered[1].load = TokenLoad { prefill: Tokens(8_000), waiting_requests: 1, ..TokenLoad::default() };
            })
        };
        assert_eq!((busy(900), busy(1_100)), (0, 1));
    }

    #[test]
    fn weights_divide_the_cost_and_ties_are_random() {
        let mut offered = candidates(&[1, 2]);
        offered[1].load.prefill = Tokens(290);
        let mut policy = TokenCost { preferred: None };
        let mut choose = |offered: &[Candidate], seed| {
            policy.choose(&request(), offered, &mut SeededRng::from_seed(seed)).unwrap().0
        };
        assert_eq!(choose(&offered, 0), 1, "(290 + 300) / 2 against 300");
        offered[1].load.prefill = Tokens(310);
        assert_eq!(choose(&offered, 0), 0);
        let equal = candidates(&[1, 1, 1]);
        let mut picks = [0; 3];
        (0..300).for_each(|seed| picks[choose(&equal, seed) as usize] += 1);
        assert!(picks.iter().all(|n| (60..140).contains(n)), "{picks:?}");
    }

    #[test]
    fn routers_without_shared_state_prefer_the_same_replica() {
        let mut policies = [0; 2].map(|_| build(&members(&[1; 8]), &["routers=2"]).unwrap());
        assert_eq!(policies[0].key(), Some(&HashKey::cache_key()));
        let offered = candidates(&[1; 8]);
        for seed in 0..100u64 {
            let key = seed.to_string();
            let request = PolicyRequest { key: key.as_bytes(), ..request() };
            let [one, other] =
                [0, 1].map(|n| policies[n].choose(&request, &offered, &mut SeededRng::from_seed(seed + n as u64)));
            assert_eq!(one, other);
        }
    }

    #[test]
    fn explained_terms_add_up_to_the_cost() {
        let mut offered = candidates(&[1, 1]);
        offered[0].load =
            TokenLoad { prefill: Tokens(40), waiting_requests: 2, decoding_streams: 6, resident: Tokens(800) };
        offered[0].cached = Tokens(60);
        offered[0].slowdown = SlowdownFactors { prefill: 2 * SlowdownFactors::ONE, decode: SlowdownFactors::ONE };
        let terms = TokenCost { preferred: None }.explain(&request(), &offered[0], &offered);
        let load = [("waiting", 40.0), ("prompts", 2.0), ("uncached", 40.0), ("streams", 6.0), ("resident", 800.0)];
        let price = [("prefill_pace", 2.0), ("decode_pace", 1.0), ("cost", 800.0)];
        assert_eq!(terms, [&load[..], &price].concat(), "2 (40 + 40 (3 + 2 + 6 / 4)) + 800 / 4");
        let policy = build(&members(&[1; 2]), &["routers=2"]).unwrap();
        let keyed = PolicyRequest { key: b"k", ..request() };
        let last_term = |index: usize| policy.explain(&keyed, &offered[index], &offered).pop().unwrap();
        assert_eq!([last_term(0), last_term(1)].iter().filter(|term| **term == ("preferred", 1.0)).count(), 1);
    }

    #[test]
    fn routers_is_the_only_argument() {
        for (args, invalid) in [(&["routers=0"][..], "routers=0"), (&["x"], "x"), (&["routers=2", "y"], "y")] {
            assert_eq!(build(&[], args).err(), Some(PolicyError::InvalidArgument(invalid.to_owned())));
        }
    }
}
