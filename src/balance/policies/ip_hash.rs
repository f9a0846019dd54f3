//! `ip_hash`: nginx's hash of the client's address.
//!
//! Source: nginx `ngx_http_upstream_ip_hash_module.c`.

use std::iter;
use std::net::IpAddr;

use crate::balance::hash_probe::HashProbe;
use crate::balance::{Candidate, Policy, PolicyError, PolicyMember, PolicyRequest, SeededRng};
use crate::units::Slot;

/// Sends all clients of a network to one replica. Hashes the first three bytes of an IPv4 address, all of an IPv6 one.
struct IpHash(HashProbe);

impl Policy for IpHash {
    /// O(log n) while all members are eligible.
    fn choose(&mut self, request: &PolicyRequest<'_>, candidates: &[Candidate], _: &mut SeededRng) -> Option<Slot> {
        let (four, six);
        let bytes = match request.client_addr {
            IpAddr::V4(address) => {
                four = address.octets();
                &four[..3]
            }
            IpAddr::V6(address) => {
                six = address.octets();
                &six[..]
            }
        };
        self.0.record_key(crc32fast::hash(bytes));
        if self.0.needs_no_hash(candidates) {
            return self.0.choose_by_rotation(candidates);
        }
        let next_hash = |hash: u64| bytes.iter().fold(hash, |hash, byte| (hash * 113 + u64::from(*byte)) % 6271);
        self.0.choose_by_hashes(
            iter::successors(Some(next_hash(89)), |hash| Some(next_hash(*hash))),
            request,
            candidates,
        )
    }

    fn on_failure(&mut self, slot: Slot) {
        self.0.on_failure(slot);
    }

    fn needs_client_addr(&self) -> bool {
        true
    }

    fn has_hot_key(&self) -> bool {
        self.0.has_hot_key()
    }
}

pub(super) fn build(members: &[PolicyMember], args: &[&str]) -> Result<Box<dyn Policy>, PolicyError> {
    PolicyError::reject_arguments(args)?;
    Ok(Box::new(IpHash(HashProbe::new(members))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::laws::{candidates, members, request};

    fn choose(client: &str, offered: &[Candidate]) -> u32 {
        let mut policy = build(&members(&[1, 1, 1]), &[]).unwrap();
        let request = PolicyRequest { client_addr: client.parse().unwrap(), ..request() };
        policy.choose(&request, offered, &mut SeededRng::from_seed(0)).unwrap().0
    }

    #[test]
    fn ipv4_network_of_256_addresses_has_one_replica() {
        let offered = candidates(&[1, 1, 1]);
        assert_eq!(choose("10.1.2.3", &offered), choose("10.1.2.250", &offered));
        let picks: Vec<u32> = (0..9).map(|n| choose(&format!("10.1.{n}.3"), &offered)).collect();
        assert!((0..3).all(|slot| picks.contains(&slot)), "{picks:?}");
        let picks: Vec<u32> = (0..9).map(|n| choose(&format!("2001:db8::{n}"), &offered)).collect();
        assert!((0..3).all(|slot| picks.contains(&slot)), "{picks:?}");
    }

    #[test]
    fn ineligible_member_is_skipped_and_others_keep_their_clients() {
        let all = candidates(&[1, 1, 1]);
        for n in 0..50 {
            let client = format!("10.1.{n}.3");
            let slot = choose(&client, &all);
            let without: Vec<Candidate> = all.iter().filter(|c| c.slot.0 != 1).copied().collect();
            assert!(slot == 1 || choose(&client, &without) == slot, "{client}");
        }
    }
}
