//! The share of keys that move when a pool's members or policy change.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use super::{Candidate, Policy, PolicyMember, PolicyRequest, PolicySpec, SeededRng, SlowdownFactors, TokenLoad};
use crate::units::Tokens;

/// Sampled keys.
const SAMPLE_KEYS: u32 = 10_000;

/// Returns the share of 10,000 fixed keys, or clients, whose member differs between `before` and `after`, from 0 to 1.
///
/// `None` unless both policies are key-based. All members but backups count as eligible. *Cost*: milliseconds.
pub fn moved_share(before: (&PolicySpec, &[PolicyMember]), after: (&PolicySpec, &[PolicyMember])) -> Option<f64> {
    let (mut old, mut new) = (KeyOwners::new(before)?, KeyOwners::new(after)?);
    let differ = (0..SAMPLE_KEYS).filter(|key| old.choose_owner(*key) != new.choose_owner(*key)).count();
    Some(differ as f64 / f64::from(SAMPLE_KEYS))
}

/// A policy of its own, so that the pool's policy keeps its state.
struct KeyOwners<'a> {
    policy: Box<dyn Policy>,
    members: &'a [PolicyMember],
    candidates: Vec<Candidate>,
    rng: SeededRng,
}

impl<'a> KeyOwners<'a> {
    fn new((spec, members): (&PolicySpec, &'a [PolicyMember])) -> Option<Self> {
        if !spec.is_key_based() {
            return None;
        }
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
        let candidates = members.iter().filter(|m| !m.backup).map(candidate).collect();
        Some(Self { policy: spec.build(members).ok()?, members, candidates, rng: SeededRng::from_seed(0) })
    }

    fn choose_owner(&mut self, key: u32) -> Option<&str> {
        // Spreads the clients over all networks.
        let client_addr = IpAddr::V4(Ipv4Addr::from(key.wrapping_mul(0x9e37_79b9)));
        let key = key.to_string();
        let request =
            PolicyRequest { prompt: Tokens(0), output: Tokens(0), key: key.as_bytes(), client_addr, tried_slots: &[] };
        let slot = self.policy.choose(&request, &self.candidates, &mut self.rng)?;
        self.members.get(slot.index()).map(|member| member.name.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::super::laws::members;
    use super::*;

    fn parsed_moved_share(before: (&str, &[u32]), after: (&str, &[u32])) -> Option<f64> {
        let (old, new) = (PolicySpec::parse(before.0).unwrap(), PolicySpec::parse(after.0).unwrap());
        moved_share((&old, &members(before.1)), (&new, &members(after.1)))
    }

    #[test]
    fn fifth_replica_moves_a_fifth_of_a_ring_and_most_of_a_hash() {
        let ring = parsed_moved_share(("hash $user consistent", &[1; 4]), ("hash $user consistent", &[1; 5])).unwrap();
        assert!((0.15..0.25).contains(&ring), "{ring}");
        let hash = parsed_moved_share(("hash $user", &[1; 4]), ("hash $user", &[1; 5])).unwrap();
        assert!((0.75..0.85).contains(&hash), "{hash}");
        let clients = parsed_moved_share(("ip_hash", &[1; 4]), ("ip_hash", &[1; 5])).unwrap();
        assert!((0.7..0.9).contains(&clients), "{clients}");
    }

    #[test]
    fn no_change_moves_no_key_and_other_policies_have_no_share() {
        assert_eq!(parsed_moved_share(("hash $user", &[1, 2]), ("hash $user", &[1, 2])), Some(0.0));
        assert_eq!(parsed_moved_share(("least_conn", &[1; 2]), ("hash $user", &[1; 2])), None);
        assert_eq!(parsed_moved_share(("random", &[1; 2]), ("random", &[1; 2])), None);
        assert_eq!(parsed_moved_share(("hash $user", &[]), ("hash $user", &[1])), Some(1.0));
    }
}
