//! How many keys go elsewhere when a pool's members or policy change.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use super::{Candidate, Dice, Job, Load, Member, Pace, Policy, Spec};
use crate::units::Tokens;

/// Keys that are looked at.
const SAMPLE: u32 = 10_000;

/// The share of 10,000 fixed keys, or clients, that another member has with `after` than with `before`, from 0 to 1.
///
/// `None` unless both policies go by a key. Backups aside, all members count as there. *Cost*: milliseconds.
pub fn moved(before: (&Spec, &[Member]), after: (&Spec, &[Member])) -> Option<f64> {
    let (mut old, mut new) = (Owners::of(before)?, Owners::of(after)?);
    let differ = (0..SAMPLE).filter(|at| old.owner(*at) != new.owner(*at)).count();
    Some(differ as f64 / f64::from(SAMPLE))
}

/// A policy made anew, so that asking it changes nothing for requests.
struct Owners<'a> {
    policy: Box<dyn Policy>,
    members: &'a [Member],
    offered: Vec<Candidate>,
    dice: Dice,
}

impl<'a> Owners<'a> {
    fn of((spec, members): (&Spec, &'a [Member])) -> Option<Self> {
        if !spec.goes_by_key() {
            return None;
        }
        let candidate = |m: &Member| {
            let (first_byte, last_byte) = (Duration::ZERO, Duration::ZERO);
            Candidate {
                at: m.at,
                weight: m.weight,
                in_flight: 0,
                load: Load::default(),
                cached: Tokens(0),
                pace: Pace::default(),
                first_byte,
                last_byte,
            }
        };
        let offered = members.iter().filter(|m| !m.backup).map(candidate).collect();
        Some(Self { policy: spec.build(members).ok()?, members, offered, dice: Dice::seeded(0) })
    }

    fn owner(&mut self, at: u32) -> Option<&str> {
        let key = at.to_string();
        // Spread over all networks.
        let client = IpAddr::V4(Ipv4Addr::from(at.wrapping_mul(0x9e37_79b9)));
        let job = Job { prompt: Tokens(0), output: Tokens(0), key: key.as_bytes(), client, tried: &[] };
        let slot = self.policy.choose(&job, &self.offered, &mut self.dice)?;
        self.members.get(slot.index()).map(|member| member.name.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::super::laws::members;
    use super::*;

    fn share(before: (&str, &[u32]), after: (&str, &[u32])) -> Option<f64> {
        let (old, new) = (Spec::parse(before.0).unwrap(), Spec::parse(after.0).unwrap());
        moved((&old, &members(before.1)), (&new, &members(after.1)))
    }

    #[test]
    fn a_ring_moves_a_fifth_of_the_keys_for_a_fifth_replica_and_a_hash_most() {
        let ring = share(("hash $user consistent", &[1; 4]), ("hash $user consistent", &[1; 5])).unwrap();
        assert!((0.15..0.25).contains(&ring), "{ring}");
        let hash = share(("hash $user", &[1; 4]), ("hash $user", &[1; 5])).unwrap();
        assert!((0.75..0.85).contains(&hash), "{hash}");
        let clients = share(("ip_hash", &[1; 4]), ("ip_hash", &[1; 5])).unwrap();
        assert!((0.7..0.9).contains(&clients), "{clients}");
    }

    #[test]
    fn nothing_moves_where_nothing_changed_and_nothing_is_said_of_other_policies() {
        assert_eq!(share(("hash $user", &[1, 2]), ("hash $user", &[1, 2])), Some(0.0));
        assert_eq!(share(("least_conn", &[1; 2]), ("hash $user", &[1; 2])), None);
        assert_eq!(share(("random", &[1; 2]), ("random", &[1; 2])), None);
        assert_eq!(share(("hash $user", &[]), ("hash $user", &[1])), Some(1.0));
    }
}
