//! `token_cost`: what a request would cost there, itself and those around it, in tokens.

use super::crc::Crc;
use super::probe::candidate;
use super::ring::Points;
use super::weigh::{cheapest, uncached};
use super::{BadPolicy, Candidate, Dice, Job, Key, Member, Pace, Policy};
use crate::units::Slot;

/// Where other routers send to the same replicas, a prompt counts as computed at its home by this share at least.
const HOME_PERCENT: u64 = 30;

/// Chooses the replica where `P + u (3 + W + D / 4) + T / 4` is least per weight, equals at random: `P` prompt tokens wait to
/// be computed there, of `W` requests, `u` are this request's that are not cached, `D` streams decode and `T` tokens are in
/// memory.
///
/// What is slower than the others counts as much more. One `u` is our own wait, two are for what our prompt takes from the
/// cache and delays; `u (W + D / 4)` keeps long prompts away from those who wait, and from streams, whose every token waits
/// for them; `T / 4` spreads memory.
struct TokenCost {
    home: Option<Home>,
}

/// Where a key belongs, whichever router asks.
struct Home {
    key: Key,
    points: Points,
}

impl Home {
    fn of(&self, job: &Job<'_>, candidates: &[Candidate]) -> Option<Slot> {
        let hash = Crc::new().add(job.key).value();
        self.points.from(hash).find(|at| candidate(*at, candidates).is_some()).filter(|_| !job.key.is_empty())
    }
}

impl Policy for TokenCost {
    /// O(n).
    fn choose(&mut self, job: &Job<'_>, candidates: &[Candidate], dice: &mut Dice) -> Option<Slot> {
        let home = self.home.as_ref().and_then(|home| home.of(job, candidates));
        cheapest(candidates, dice, |replica| cost(to_compute(job, replica, home == Some(replica.at)), replica))
    }

    /// `cost` is `(waiting + uncached (3 + prompts + streams / 4)) prefill_pace + resident / 4 decode_pace`.
    fn terms(&self, job: &Job<'_>, of: &Candidate, among: &[Candidate]) -> Vec<(&'static str, f64)> {
        let is_home = self.home.as_ref().and_then(|home| home.of(job, among)) == Some(of.at);
        let uncached = to_compute(job, of, is_home);
        let mut terms = vec![
            ("waiting", of.load.prefill.0 as f64),
            ("prompts", f64::from(of.load.waiting)),
            ("uncached", uncached as f64),
            ("streams", f64::from(of.load.decoding)),
            ("resident", of.load.resident.0 as f64),
            ("prefill_pace", f64::from(of.pace.prefill) / f64::from(Pace::ONE)),
            ("decode_pace", f64::from(of.pace.decode) / f64::from(Pace::ONE)),
            ("cost", cost(uncached, of) as f64 / 4.0 / f64::from(Pace::ONE)),
        ];
        if self.home.is_some() {
            terms.push(("home", f64::from(u8::from(is_home))));
        }
        terms
    }

    fn key(&self) -> Option<&Key> {
        self.home.as_ref().map(|home| &home.key)
    }

    fn asks_prefix(&self) -> bool {
        true
    }
}

/// Tokens of the prompt that count as to be computed there.
fn to_compute(job: &Job<'_>, replica: &Candidate, is_home: bool) -> u64 {
    let uncached = uncached(job, replica);
    if is_home { uncached.min(job.prompt.0 - job.prompt.0 / 100 * HOME_PERCENT) } else { uncached }
}

/// In quarters of a token, and parts of [`Pace::ONE`].
fn cost(uncached: u64, replica: &Candidate) -> u128 {
    let (load, pace) = (replica.load, replica.pace);
    let [waiting, uncached, resident] = [load.prefill.0, uncached, load.resident.0].map(u128::from);
    let computing = 4 * waiting + uncached * (12 + 4 * u128::from(load.waiting) + u128::from(load.decoding));
    computing * u128::from(pace.prefill) + resident * u128::from(pace.decode)
}

pub(super) fn build(members: &[Member], args: &[&str]) -> Result<Box<dyn Policy>, BadPolicy> {
    let routers: u32 = match args {
        [] => 1,
        [arg] => {
            let number = arg.strip_prefix("routers=").and_then(|number| number.parse().ok());
            number.filter(|n| *n > 0).ok_or_else(|| BadPolicy::Argument((*arg).to_owned()))?
        }
        [_, more, ..] => return Err(BadPolicy::Argument((*more).to_owned())),
    };
    let home = || Home { key: Key::cache(), points: Points::new(members) };
    Ok(Box::new(TokenCost { home: (routers > 1).then(home) }))
}

#[cfg(test)]
mod tests {
    use super::super::laws::{candidates, job, members};
    use super::*;
    use crate::balance::Load;
    use crate::units::Tokens;

    fn choose(job: &Job<'_>, change: impl Fn(&mut [Candidate])) -> u32 {
        let mut offered = candidates(&[1, 1]);
        change(&mut offered);
        TokenCost { home: None }.choose(job, &offered, &mut Dice::seeded(0)).unwrap().0
    }

    #[test]
    fn the_cache_decides_until_waiting_there_costs_more() {
        let job = Job { prompt: Tokens(10_000), ..job() };
        // 3 x 8,000 tokens are saved there.
        let waits = |tokens| {
            choose(&job, |offered| {
                offered[0].cached = Tokens(8_000);
                offered[0].load = Load { prefill: Tokens(tokens), waiting: 0, decoding: 0, resident: Tokens(tokens) };
            })
        };
        assert_eq!((waits(19_000), waits(20_000)), (0, 1));
    }

    #[test]
    fn long_prompts_keep_away_from_streams_and_short_ones_from_memory() {
        let busy = |prompt| {
            choose(&Job { prompt: Tokens(prompt), ..job() }, |offered| {
                offered[0].load = Load { prefill: Tokens(0), waiting: 0, decoding: 40, resident: Tokens(10_000) };
                offered[1].load = Load { prefill: Tokens(0), waiting: 0, decoding: 4, resident: Tokens(20_000) };
            })
        };
        assert_eq!((busy(200), busy(400)), (0, 1));
    }

    #[test]
    fn long_prompts_keep_away_from_those_who_wait_and_short_ones_from_long() {
        let busy = |prompt| {
            choose(&Job { prompt: Tokens(prompt), ..job() }, |offered| {
                offered[0].load = Load { prefill: Tokens(3_000), waiting: 6, ..Load::default() };
                offered[1].load = Load { prefill: Tokens(8_000), waiting: 1, ..Load::default() };
            })
        };
        assert_eq!((busy(900), busy(1_100)), (0, 1));
    }

    #[test]
    fn weights_divide_the_cost_and_equals_are_chosen_at_random() {
        let mut offered = candidates(&[1, 2]);
        offered[1].load.prefill = Tokens(290);
        let mut policy = TokenCost { home: None };
        let mut choose =
            |offered: &[Candidate], seed| policy.choose(&job(), offered, &mut Dice::seeded(seed)).unwrap().0;
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
        assert_eq!(policies[0].key(), Some(&Key::cache()));
        let offered = candidates(&[1; 8]);
        for at in 0..100u64 {
            let key = at.to_string();
            let job = Job { key: key.as_bytes(), ..job() };
            let [one, other] = [0, 1].map(|n| policies[n].choose(&job, &offered, &mut Dice::seeded(at + n as u64)));
            assert_eq!(one, other);
        }
    }

    #[test]
    fn its_terms_add_up_to_what_it_compares() {
        let mut offered = candidates(&[1, 1]);
        offered[0].load = Load { prefill: Tokens(40), waiting: 2, decoding: 6, resident: Tokens(800) };
        offered[0].cached = Tokens(60);
        offered[0].pace = Pace { prefill: 2 * Pace::ONE, decode: Pace::ONE };
        let terms = TokenCost { home: None }.terms(&job(), &offered[0], &offered);
        let load = [("waiting", 40.0), ("prompts", 2.0), ("uncached", 40.0), ("streams", 6.0), ("resident", 800.0)];
        let price = [("prefill_pace", 2.0), ("decode_pace", 1.0), ("cost", 800.0)];
        assert_eq!(terms, [&load[..], &price].concat(), "2 (40 + 40 (3 + 2 + 6 / 4)) + 800 / 4");
        let policy = build(&members(&[1; 2]), &["routers=2"]).unwrap();
        let keyed = Job { key: b"k", ..job() };
        let home = |at: usize| policy.terms(&keyed, &offered[at], &offered).pop().unwrap();
        assert_eq!([home(0), home(1)].iter().map(|(name, is)| (*name, *is)).filter(|t| *t == ("home", 1.0)).count(), 1);
    }

    #[test]
    fn routers_are_the_only_argument() {
        for (args, wrong) in [(&["routers=0"][..], "routers=0"), (&["x"], "x"), (&["routers=2", "y"], "y")] {
            assert_eq!(build(&[], args).err(), Some(BadPolicy::Argument(wrong.to_owned())));
        }
    }
}
