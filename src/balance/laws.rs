//! Laws that every row of the policy table keeps, with each of its sample arguments.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use super::{
    Candidate, Policy, PolicyMember, PolicyRequest, PolicySpec, SeededRng, SlowdownFactors, TokenLoad, policy_table,
};
use crate::units::{Slot, Tokens, Weight};

pub(super) fn members(weights: &[u32]) -> Vec<PolicyMember> {
    let member = |(index, &weight): (usize, &u32)| PolicyMember {
        slot: Slot(index as u32),
        name: format!("10.0.0.{index}:8000"),
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
            let spec = PolicySpec::parse(&format!("{} {sample}", entry.name)).expect("samples are valid");
            let mut policy = spec.build(&members(weights)).expect("a parsed policy can be built");
            law(&spec.to_string(), policy.as_mut());
        }
    }
}

/// Returns the choice for the `n`th of many clients, each with a key of its own.
fn pick_nth(policy: &mut dyn Policy, offered: &[Candidate], n: usize, rng: &mut SeededRng) -> Slot {
    let key = format!("/v1/files/{n}");
    let client = IpAddr::V4(Ipv4Addr::from((n as u32).wrapping_mul(0x9e37_79b9)));
    policy
        .choose(&PolicyRequest { key: key.as_bytes(), client_addr: client, ..request() }, offered, rng)
        .expect("there are candidates")
}

/// Picks `n` times; every request ends before the next one starts.
fn pick_many(policy: &mut dyn Policy, offered: &[Candidate], n: usize, seed: u64) -> Vec<Slot> {
    let mut rng = SeededRng::from_seed(seed);
    (0..n).map(|n| pick_nth(policy, offered, n, &mut rng)).collect()
}

/// Picks `n` times with `load` requests running, all of the same length.
fn pick_under_load(policy: &mut dyn Policy, mut offered: Vec<Candidate>, load: usize, n: usize) -> Vec<Slot> {
    let mut rng = SeededRng::from_seed(5);
    let mut running = VecDeque::new();
    let mut pick = |n| {
        if running.len() == load {
            let done: Slot = running.pop_front().expect("requests are running");
            offered[done.index()].in_flight -= 1;
            offered[done.index()].load.prefill = offered[done.index()].load.prefill - request().prompt;
            offered[done.index()].load.resident = offered[done.index()].load.resident - request().prompt;
        }
        let chosen = pick_nth(policy, &offered, n, &mut rng);
        offered[chosen.index()].in_flight += 1;
        offered[chosen.index()].load.prefill += request().prompt;
        offered[chosen.index()].load.resident += request().prompt;
        running.push_back(chosen);
        chosen
    };
    (0..n).map(&mut pick).collect()
}

#[test]
fn no_candidates_give_no_choice() {
    for_each_policy(&[1, 2], |name, policy| {
        assert_eq!(policy.choose(&request(), &[], &mut SeededRng::from_seed(1)), None, "{name}");
        let keyed = PolicyRequest { key: b"k", ..request() };
        assert_eq!(policy.choose(&keyed, &[], &mut SeededRng::from_seed(1)), None, "{name}");
    });
}

#[test]
fn policy_without_members_gives_no_choice() {
    for_each_policy(&[], |name, policy| {
        let keyed = PolicyRequest { key: b"k", ..request() };
        assert_eq!(policy.choose(&keyed, &[], &mut SeededRng::from_seed(1)), None, "{name}");
    });
}

#[test]
fn only_candidates_are_chosen() {
    for_each_policy(&[1, 5, 2, 1], |name, policy| {
        let offered: Vec<Candidate> = candidates(&[1, 5, 2, 1]).into_iter().filter(|c| c.slot.0 % 2 == 1).collect();
        for slot in pick_many(policy, &offered, 500, 3) {
            assert!(offered.iter().any(|c| c.slot == slot), "{name} chose {slot:?}");
        }
    });
}

#[test]
fn backups_are_chosen_when_only_backups_are_offered() {
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
fn same_seed_gives_the_same_picks() {
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
        let mut picks = BTreeMap::new();
        for slot in pick_under_load(policy, candidates(&weights), 100, 10_000) {
            *picks.entry(slot.index()).or_insert(0u32) += 1;
        }
        // The points of a ring are unevenly spaced, and the better of two has only two to choose from.
        let slack = if ["consistent", "two", "prefix_hash"].iter().any(|word| name.contains(word)) { 0.5 } else { 0.2 };
        for (index, weight) in weights.iter().enumerate() {
            let share = f64::from(picks[&index]) / 1_000.0;
            let is_close = (share - f64::from(*weight)).abs() < slack;
            assert!(is_close, "{name} gave slot {index} {share} of 10, expected {weight}");
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
fn ring_moves_only_the_keys_of_a_removed_replica() {
    let cases = [2usize, 3, 10, 50].into_iter().flat_map(|n| [(n, "hash $user consistent"), (n, "prefix_hash $user")]);
    for (n, policy) in cases {
        let all = members(&vec![1; n]);
        let removed = &all[n / 2];
        let mut shrunk: Vec<PolicyMember> = all.iter().filter(|m| m.slot != removed.slot).cloned().collect();
        (0u32..).zip(&mut shrunk).for_each(|(index, member)| member.slot = Slot(index));
        let names = |members: &[PolicyMember], offered: &[Candidate]| -> Vec<String> {
            let mut ring = PolicySpec::parse(policy).unwrap().build(members).unwrap();
            pick_many(ring.as_mut(), offered, 10_000, 1).iter().map(|slot| members[slot.index()].name.clone()).collect()
        };
        let offered = candidates(&vec![1; n]);
        let before = names(&all, &offered);
        let without: Vec<Candidate> = offered.iter().filter(|c| c.slot != removed.slot).copied().collect();
        // Removed from the configuration, then from the candidates only.
        for after in [names(&shrunk, &candidates(&vec![1; n - 1])), names(&all, &without)] {
            let moved: Vec<&String> = before.iter().zip(&after).filter(|(b, a)| b != a).map(|(b, _)| b).collect();
            assert!(moved.len() as f64 / 10_000.0 <= 1.0 / n as f64 + 0.03, "{} of 10,000 moved at {n}", moved.len());
            assert!(moved.iter().all(|name| **name == removed.name), "keys of others moved at {n}");
        }
    }
}
