//! How many keys go elsewhere when a pool's members or policy change.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use super::{Candidate, Policy, PolicyMember, PolicyRequest, PolicySpec, SeededRng, SlowdownFactors, TokenLoad};
use crate::units::Tokens;

/// Keys that are looked at.
const SAMPLE_KEYS: u32 = 10_000;

/// The share of 10,000 fixed keys, or clients, that another member has with `after` than with `before`, from 0 to 1.
///
/// `None` unless both policies go by a key. Backups aside, all members count as there. *Cost*: milliseconds.
pub fn moved_share(before: (&PolicySpec, &[PolicyMember]), after: (&PolicySpec, &[PolicyMember])) -> Option<f64> {
    let (mut old, mut new) = (KeyOwners::new(before)?, KeyOwners::new(after)?);
    let differ = (0..SAMPLE_KEYS).filter(|at| old.choose_owner(*at) != new.choose_owner(*at)).count();
    Some(differ as f64 / f64::from(SAMPLE_KEYS))
}

/// A policy made anew, so that asking it changes nothing for requests.
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
        let candidate = |m: &PolicyMember| {
            let (first_byte, last_byte) = (Duration::ZERO, Duration::ZERO);
            Candidate {
                slot: m.slot,
                weight: m.weight,
                in_flight: 0,
                load: TokenLoad::default(),
                cached: Tokens(0),
                slowdown: SlowdownFactors::default(),
                first_byte,
                last_byte,
            }
        };
        let offered = members.iter().filter(|m| !m.backup).map(candidate).collect();
        Some(Self { policy: spec.build(members).ok()?, members, candidates: offered, rng: SeededRng::from_seed(0) })
    }

    fn choose_owner(&mut self, at: u32) -> Option<&str> {
        let key = at.to_string();
        // Spread over all networks.
        let client = IpAddr::V4(Ipv4Addr::from(at.wrapping_mul(0x9e37_79b9)));
        let job = PolicyRequest {
            prompt: Tokens(0),
            output: Tokens(0),
            key: key.as_bytes(),
            client_addr: client,
            tried_slots: &[],
        };
        let slot = self.policy.choose(&job, &self.candidates, &mut self.rng)?;
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
    fn a_ring_moves_a_fifth_of_the_keys_for_a_fifth_replica_and_a_hash_most() {
        let ring = parsed_moved_share(("hash $user consistent", &[1; 4]), ("hash $user consistent", &[1; 5])).unwrap();
        assert!((0.15..0.25).contains(&ring), "{ring}");
        let hash = parsed_moved_share(("hash $user", &[1; 4]), ("hash $user", &[1; 5])).unwrap();
        assert!((0.75..0.85).contains(&hash), "{hash}");
        let clients = parsed_moved_share(("ip_hash", &[1; 4]), ("ip_hash", &[1; 5])).unwrap();
        assert!((0.7..0.9).contains(&clients), "{clients}");
    }

    #[test]
    fn nothing_moves_where_nothing_changed_and_nothing_is_said_of_other_policies() {
        assert_eq!(parsed_moved_share(("hash $user", &[1, 2]), ("hash $user", &[1, 2])), Some(0.0));
        assert_eq!(parsed_moved_share(("least_conn", &[1; 2]), ("hash $user", &[1; 2])), None);
        assert_eq!(parsed_moved_share(("random", &[1; 2]), ("random", &[1; 2])), None);
        assert_eq!(parsed_moved_share(("hash $user", &[]), ("hash $user", &[1])), Some(1.0));
    }
}
