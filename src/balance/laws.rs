//! Laws that every row of the policy table keeps, with each of its sample arguments.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use super::{
    Candidate, Policy, PolicyMember, PolicyRequest, PolicySpec, SeededRng, SlowdownFactors, TokenLoad, policy_table,
};
use crate::units::{Slot, Tokens, Weight};

pub(super) fn members(weights: &[u32]) -> Vec<PolicyMember> {
    let member = |(at, &weight): (usize, &u32)| PolicyMember {
        slot: Slot(at as u32),
        name: format!("10.0.0.{at}:8000"),
        weight: Weight::new(weight).expect("tests use weights above zero"),
        max_fails: 1,
        backup: false,
    };
    weights.iter().enumerate().map(member).collect()
}

pub(super) fn candidates(weights: &[u32]) -> Vec<Candidate> {
    let candidate = |m: &PolicyMember| Candidate {
        slot: m.slot,
        weight: m.weight,
        in_flight: 0,
        load: TokenLoad::default(),
        cached: Tokens(0),
        slowdown: SlowdownFactors::default(),
        first_byte: Duration::ZERO,
        last_byte: Duration::ZERO,
    };
    members(weights).iter().map(candidate).collect()
}

pub(super) fn request() -> PolicyRequest<'static> {
    PolicyRequest {
        prompt: Tokens(100),
        output: Tokens(100),
        key: b"",
        client_addr: IpAddr::V4(Ipv4Addr::LOCALHOST),
        tried_slots: &[],
    }
}

fn for_each_policy(weights: &[u32], mut law: impl FnMut(&str, &mut dyn Policy)) {
    for entry in policy_table() {
        for sample in entry.samples {
            let spec = PolicySpec::parse(&format!("{} {sample}", entry.name)).expect("samples are good");
            let mut policy = spec.build(&members(weights)).expect("what is parsed can be built");
            law(&spec.to_string(), policy.as_mut());
        }
    }
}

/// The choice for the `at`th of many clients, each with a key of its own.
fn pick_nth(policy: &mut dyn Policy, offered: &[Candidate], at: usize, dice: &mut SeededRng) -> Slot {
    let key = format!("/v1/files/{at}");
    let client = IpAddr::V4(Ipv4Addr::from((at as u32).wrapping_mul(0x9e37_79b9)));
    policy
        .choose(&PolicyRequest { key: key.as_bytes(), client_addr: client, ..request() }, offered, dice)
        .expect("there are candidates")
}

/// Picks while every request ends before the next one comes.
fn pick_many(policy: &mut dyn Policy, offered: &[Candidate], n: usize, seed: u64) -> Vec<Slot> {
    let mut dice = SeededRng::from_seed(seed);
    (0..n).map(|at| pick_nth(policy, offered, at, &mut dice)).collect()
}

/// Picks while there are always `load` requests, each as long as the others.
fn pick_under_load(policy: &mut dyn Policy, mut offered: Vec<Candidate>, load: usize, n: usize) -> Vec<Slot> {
    let mut dice = SeededRng::from_seed(5);
    let mut running = VecDeque::new();
    let mut turn = |at| {
        if running.len() == load {
            let done: Slot = running.pop_front().expect("some run");
            offered[done.index()].in_flight -= 1;
            offered[done.index()].load.prefill = offered[done.index()].load.prefill - request().prompt;
            offered[done.index()].load.resident = offered[done.index()].load.resident - request().prompt;
        }
        let chosen = pick_nth(policy, &offered, at, &mut dice);
        offered[chosen.index()].in_flight += 1;
        offered[chosen.index()].load.prefill += request().prompt;
        offered[chosen.index()].load.resident += request().prompt;
        running.push_back(chosen);
        chosen
    };
    (0..n).map(&mut turn).collect()
}

#[test]
fn nothing_is_chosen_from_nothing() {
    for_each_policy(&[1, 2], |name, policy| {
        assert_eq!(policy.choose(&request(), &[], &mut SeededRng::from_seed(1)), None, "{name}");
        let keyed = PolicyRequest { key: b"k", ..request() };
        assert_eq!(policy.choose(&keyed, &[], &mut SeededRng::from_seed(1)), None, "{name}");
    });
}

#[test]
fn nothing_is_chosen_from_nothing_by_a_policy_without_members() {
    for_each_policy(&[], |name, policy| {
        let keyed = PolicyRequest { key: b"k", ..request() };
        assert_eq!(policy.choose(&keyed, &[], &mut SeededRng::from_seed(1)), None, "{name}");
    });
}

#[test]
fn only_what_is_offered_is_chosen() {
    for_each_policy(&[1, 5, 2, 1], |name, policy| {
        let offered: Vec<Candidate> = candidates(&[1, 5, 2, 1]).into_iter().filter(|c| c.slot.0 % 2 == 1).collect();
        for at in pick_many(policy, &offered, 500, 3) {
            assert!(offered.iter().any(|c| c.slot == at), "{name} chose {at:?}");
        }
    });
}

#[test]
fn backups_are_chosen_when_only_they_are_offered() {
    for entry in policy_table() {
        for sample in entry.samples {
            let mut all = members(&[1, 1, 1, 1]);
            all[2].backup = true;
            all[3].backup = true;
            let mut policy = PolicySpec::parse(&format!("{} {sample}", entry.name)).unwrap().build(&all).unwrap();
            let (primaries, backups) = (&candidates(&[1; 4])[..2], &candidates(&[1; 4])[2..]);
            for offered in [primaries, backups] {
                let chosen = pick_many(policy.as_mut(), offered, 100, 3);
                for candidate in offered {
                    assert!(chosen.contains(&candidate.slot), "{} {sample} left {:?} out", entry.name, candidate.slot);
                }
            }
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_picks() {
    let mut first = Vec::new();
    for_each_policy(&[3, 2, 1], |_, policy| first.push(pick_many(policy, &candidates(&[3, 2, 1]), 200, 11)));
    let mut again = Vec::new();
    for_each_policy(&[3, 2, 1], |_, policy| again.push(pick_many(policy, &candidates(&[3, 2, 1]), 200, 11)));
    assert_eq!(first, again);
}

#[test]
fn weights_hold_in_the_long_run_under_equal_load() {
    let weights = [5, 3, 2];
    for_each_policy(&weights, |name, policy| {
        let mut seen = BTreeMap::new();
        for at in pick_under_load(policy, candidates(&weights), 100, 10_000) {
            *seen.entry(at.index()).or_insert(0u32) += 1;
        }
        // The points of a ring lie as they fall, and the better of two can only choose among the two.
        let slack = if ["consistent", "two", "prefix_hash"].iter().any(|word| name.contains(word)) { 0.5 } else { 0.2 };
        for (at, weight) in weights.iter().enumerate() {
            let share = f64::from(seen[&at]) / 1_000.0;
            assert!((share - f64::from(*weight)).abs() < slack, "{name} gave slot {at} {share} of 10, wanted {weight}");
        }
    });
}

#[test]
fn no_replica_starves_after_failing() {
    for_each_policy(&[2, 2, 2], |name, policy| {
        for _ in 0..50 {
            policy.on_failure(Slot(1));
        }
        let chosen = pick_many(policy, &candidates(&[2, 2, 2]), 100, 9);
        assert!(chosen.contains(&Slot(1)), "{name} never came back to slot 1");
    });
}

#[test]
fn a_ring_moves_the_keys_of_a_removed_replica_and_no_others() {
    let cases = [2usize, 3, 10, 50].into_iter().flat_map(|n| [(n, "hash $user consistent"), (n, "prefix_hash $user")]);
    for (n, policy) in cases {
        let all = members(&vec![1; n]);
        let gone = &all[n / 2];
        let mut shrunk: Vec<PolicyMember> = all.iter().filter(|m| m.slot != gone.slot).cloned().collect();
        (0u32..).zip(&mut shrunk).for_each(|(at, member)| member.slot = Slot(at));
        let names = |members: &[PolicyMember], offered: &[Candidate]| -> Vec<String> {
            let mut ring = PolicySpec::parse(policy).unwrap().build(members).unwrap();
            pick_many(ring.as_mut(), offered, 10_000, 1).iter().map(|at| members[at.index()].name.clone()).collect()
        };
        let offered = candidates(&vec![1; n]);
        let before = names(&all, &offered);
        let out: Vec<Candidate> = offered.iter().filter(|c| c.slot != gone.slot).copied().collect();
        // Out of the configuration, and only out of the candidates.
        for after in [names(&shrunk, &candidates(&vec![1; n - 1])), names(&all, &out)] {
            let moved: Vec<&String> = before.iter().zip(&after).filter(|(b, a)| b != a).map(|(b, _)| b).collect();
            assert!(moved.len() as f64 / 10_000.0 <= 1.0 / n as f64 + 0.03, "{} of 10,000 moved at {n}", moved.len());
            assert!(moved.iter().all(|name| **name == gone.name), "keys of others moved at {n}");
        }
    }
}
