//! Laws that every row of the policy table keeps.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use super::{Candidate, Dice, Job, Member, Policy, Spec, table};
use crate::units::{Slot, Tokens, Weight};

pub(super) fn members(weights: &[u32]) -> Vec<Member> {
    let member = |(at, &weight): (usize, &u32)| Member {
        at: Slot(at as u32),
        name: format!("10.0.0.{at}:8000"),
        weight: Weight::new(weight).expect("tests use weights above zero"),
        max_fails: 1,
    };
    weights.iter().enumerate().map(member).collect()
}

pub(super) fn candidates(weights: &[u32]) -> Vec<Candidate> {
    members(weights).iter().map(|m| Candidate { at: m.at, weight: m.weight, in_flight: 0 }).collect()
}

pub(super) fn job() -> Job<'static> {
    Job { prompt: Tokens(100), key: b"", client: IpAddr::V4(Ipv4Addr::LOCALHOST) }
}

fn each(weights: &[u32], mut law: impl FnMut(&str, &mut dyn Policy)) {
    for entry in table() {
        let mut policy = Spec::from(entry).build(&members(weights)).expect("rows build without arguments");
        law(entry.name, policy.as_mut());
    }
}

/// Picks under equal load: every request ends before the next one comes.
fn picks(policy: &mut dyn Policy, offered: &[Candidate], n: usize, seed: u64) -> Vec<Slot> {
    let mut dice = Dice::seeded(seed);
    let pick = |_| policy.choose(&job(), offered, &mut dice).expect("there are candidates");
    (0..n).map(pick).collect()
}

#[test]
fn nothing_is_chosen_from_nothing() {
    each(&[1, 2], |name, policy| assert_eq!(policy.choose(&job(), &[], &mut Dice::seeded(1)), None, "{name}"));
}

#[test]
fn only_what_is_offered_is_chosen() {
    each(&[1, 5, 2, 1], |name, policy| {
        let offered: Vec<Candidate> = candidates(&[1, 5, 2, 1]).into_iter().filter(|c| c.at.0 % 2 == 1).collect();
        for at in picks(policy, &offered, 500, 3) {
            assert!(offered.iter().any(|c| c.at == at), "{name} chose {at:?}");
        }
    });
}

#[test]
fn the_same_seed_gives_the_same_picks() {
    let mut first = Vec::new();
    each(&[3, 2, 1], |_, policy| first.push(picks(policy, &candidates(&[3, 2, 1]), 200, 11)));
    let mut again = Vec::new();
    each(&[3, 2, 1], |_, policy| again.push(picks(policy, &candidates(&[3, 2, 1]), 200, 11)));
    assert_eq!(first, again);
}

#[test]
fn weights_hold_in_the_long_run_under_equal_load() {
    let weights = [5, 3, 2];
    each(&weights, |name, policy| {
        let mut seen = BTreeMap::new();
        for at in picks(policy, &candidates(&weights), 10_000, 5) {
            *seen.entry(at.index()).or_insert(0u32) += 1;
        }
        for (at, weight) in weights.iter().enumerate() {
            let share = f64::from(seen[&at]) / 1_000.0;
            assert!((share - f64::from(*weight)).abs() < 0.2, "{name} gave slot {at} {share} of 10, wanted {weight}");
        }
    });
}

#[test]
fn no_replica_starves_after_failing() {
    each(&[2, 2, 2], |name, policy| {
        for _ in 0..50 {
            policy.failed(Slot(1));
        }
        let chosen = picks(policy, &candidates(&[2, 2, 2]), 100, 9);
        assert!(chosen.contains(&Slot(1)), "{name} never came back to slot 1");
    });
}
