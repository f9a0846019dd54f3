//! `token_cost`: what a request would cost there, itself and those around it, in tokens.

use crate::balance::crc32::Crc32;
use crate::balance::hash_probe::find_candidate;
use crate::balance::hash_ring::RingPoints;
use crate::balance::select::{min_cost, uncached_tokens};
use crate::balance::{
    Candidate, HashKey, Policy, PolicyError, PolicyMember, PolicyRequest, SeededRng, SlowdownFactors,
};
use crate::units::Slot;

/// Where other routers send to the same replicas, a prompt counts as computed at its home by this share at least.
const MIN_PREFERRED_CACHED_PERCENT: u64 = 30;

/// Chooses the replica where `P + u (3 + W + D / 4) + T / 4` is least per weight, equals at random: `P` prompt tokens wait to
/// be computed there, of `W` requests, `u` are this request's that are not cached, `D` streams decode and `T` tokens are in
/// memory.
///
/// What is slower than the others counts as much more. One `u` is our own wait, two are for what our prompt takes from the
/// cache and delays; `u (W + D / 4)` keeps long prompts away from those who wait, and from streams, whose every token waits
/// for them; `T / 4` spreads memory.
struct TokenCost {
    preferred: Option<PreferredReplica>,
}

/// Where a key belongs, whichever router asks.
struct PreferredReplica {
    key: HashKey,
    points: RingPoints,
}

impl PreferredReplica {
    fn slot_for(&self, job: &PolicyRequest<'_>, candidates: &[Candidate]) -> Option<Slot> {
        let hash = Crc32::new().update(job.key).value();
        self.points
            .slots_from(hash)
            .find(|at| find_candidate(*at, candidates).is_some())
            .filter(|_| !job.key.is_empty())
    }
}

impl Policy for TokenCost {
    /// O(n).
    fn choose(&mut self, job: &PolicyRequest<'_>, candidates: &[Candidate], dice: &mut SeededRng) -> Option<Slot> {
        let home = self.preferred.as_ref().and_then(|home| home.slot_for(job, candidates));
        min_cost(candidates, dice, |replica| {
            scaled_cost(tokens_to_compute(job, replica, home == Some(replica.slot)), replica)
        })
    }

    /// `cost` is `(waiting + uncached (3 + prompts + streams / 4)) prefill_pace + resident / 4 decode_pace`.
    fn explain(&self, job: &PolicyRequest<'_>, of: &Candidate, among: &[Candidate]) -> Vec<(&'static str, f64)> {
        let is_home = self.preferred.as_ref().and_then(|home| home.slot_for(job, among)) == Some(of.slot);
        let uncached = tokens_to_compute(job, of, is_home);
        let mut terms = vec![
            ("waiting", of.load.prefill.0 as f64),
            ("prompts", f64::from(of.load.waiting_requests)),
            ("uncached", uncached as f64),
            ("streams", f64::from(of.load.decoding_streams)),
            ("resident", of.load.resident.0 as f64),
            ("prefill_pace", f64::from(of.slowdown.prefill) / f64::from(SlowdownFactors::ONE)),
            ("decode_pace", f64::from(of.slowdown.decode) / f64::from(SlowdownFactors::ONE)),
            ("cost", scaled_cost(uncached, of) as f64 / 4.0 / f64::from(SlowdownFactors::ONE)),
        ];
        if self.preferred.is_some() {
            terms.push(("home", f64::from(u8::from(is_home))));
        }
        terms
    }

    fn key(&self) -> Option<&HashKey> {
        self.preferred.as_ref().map(|home| &home.key)
    }

    fn needs_prefix(&self) -> bool {
        true
    }
}

/// Tokens of the prompt that count as to be computed there.
fn tokens_to_compute(job: &PolicyRequest<'_>, replica: &Candidate, is_home: bool) -> u64 {
    let uncached = uncached_tokens(job, replica);
    if is_home { uncached.min(job.prompt.0 - job.prompt.0 / 100 * MIN_PREFERRED_CACHED_PERCENT) } else { uncached }
}

/// In quarters of a token, and parts of [`SlowdownFactors::ONE`].
fn scaled_cost(uncached: u64, replica: &Candidate) -> u128 {
    let (load, pace) = (replica.load, replica.slowdown);
    let [waiting, uncached, resident] = [load.prefill.0, uncached, load.resident.0].map(u128::from);
    let computing =
        4 * waiting + uncached * (12 + 4 * u128::from(load.waiting_requests) + u128::from(load.decoding_streams));
    computing * u128::from(pace.prefill) + resident * u128::from(pace.decode)
}

pub(in crate::balance) fn build(members: &[PolicyMember], args: &[&str]) -> Result<Box<dyn Policy>, PolicyError> {
    let routers: u32 = match args {
        [] => 1,
        [arg] => {
            let number = arg.strip_prefix("routers=").and_then(|number| number.parse().ok());
            number.filter(|n| *n > 0).ok_or_else(|| PolicyError::InvalidArgument((*arg).to_owned()))?
        }
        [_, more, ..] => return Err(PolicyError::InvalidArgument((*more).to_owned())),
    };
    let home = || PreferredReplica { key: HashKey::cache_key(), points: RingPoints::new(members) };
    Ok(Box::new(TokenCost { preferred: (routers > 1).then(home) }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::TokenLoad;
    use crate::balance::laws::{candidates, members, request};
    use crate::units::Tokens;

    fn choose(job: &PolicyRequest<'_>, change: impl Fn(&mut [Candidate])) -> u32 {
        let mut offered = candidates(&[1, 1]);
        change(&mut offered);
        TokenCost { preferred: None }.choose(job, &offered, &mut SeededRng::from_seed(0)).unwrap().0
    }

    #[test]
    fn the_cache_decides_until_waiting_there_costs_more() {
        let job = PolicyRequest { prompt: Tokens(10_000), ..request() };
        // 3 x 8,000 tokens are saved there.
        let waits = |tokens| {
            choose(&job, |offered| {
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
    fn long_prompts_keep_away_from_streams_and_short_ones_from_memory() {
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
    fn long_prompts_keep_away_from_those_who_wait_and_short_ones_from_long() {
        let busy = |prompt| {
            choose(&PolicyRequest { prompt: Tokens(prompt), ..request() }, |offered| {
                offered[0].load = TokenLoad { prefill: Tokens(3_000), waiting_requests: 6, ..TokenLoad::default() };
                offered[1].load = TokenLoad { prefill: Tokens(8_000), waiting_requests: 1, ..TokenLoad::default() };
            })
        };
        assert_eq!((busy(900), busy(1_100)), (0, 1));
    }

    #[test]
    fn weights_divide_the_cost_and_equals_are_chosen_at_random() {
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
        let mut seen = [0; 3];
        (0..300).for_each(|seed| seen[choose(&equal, seed) as usize] += 1);
        assert!(seen.iter().all(|n| (60..140).contains(n)), "{seen:?}");
    }

    #[test]
    fn routers_that_share_nothing_lean_to_the_same_home() {
        let mut policies = [0; 2].map(|_| build(&members(&[1; 8]), &["routers=2"]).unwrap());
        assert_eq!(policies[0].key(), Some(&HashKey::cache_key()));
        let offered = candidates(&[1; 8]);
        for at in 0..100u64 {
            let key = at.to_string();
            let job = PolicyRequest { key: key.as_bytes(), ..request() };
            let [one, other] =
                [0, 1].map(|n| policies[n].choose(&job, &offered, &mut SeededRng::from_seed(at + n as u64)));
            assert_eq!(one, other);
        }
    }

    #[test]
    fn its_terms_add_up_to_what_it_compares() {
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
        let home = |at: usize| policy.explain(&keyed, &offered[at], &offered).pop().unwrap();
        assert_eq!([home(0), home(1)].iter().map(|(name, is)| (*name, *is)).filter(|t| *t == ("home", 1.0)).count(), 1);
    }

    #[test]
    fn routers_are_the_only_argument() {
        for (args, wrong) in [(&["routers=0"][..], "routers=0"), (&["x"], "x"), (&["routers=2", "y"], "y")] {
            assert_eq!(build(&[], args).err(), Some(PolicyError::InvalidArgument(wrong.to_owned())));
        }
    }
}
