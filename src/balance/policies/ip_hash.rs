//! `ip_hash`: nginx's hash of the client's address.

use std::iter;
use std::net::IpAddr;

use crate::balance::crc32::Crc32;
use crate::balance::hash_probe::HashProbe;
use crate::balance::{Candidate, Policy, PolicyError, PolicyMember, PolicyRequest, SeededRng};
use crate::units::Slot;

/// Sends all clients of a network to one replica: an IPv4 address counts by its first three bytes, an IPv6 one whole.
struct IpHash(HashProbe);

impl Policy for IpHash {
    /// Source: nginx `ngx_http_upstream_ip_hash_module.c`. O(log n) unless members are out.
    fn choose(&mut self, job: &PolicyRequest<'_>, candidates: &[Candidate], _: &mut SeededRng) -> Option<Slot> {
        let (four, six);
        let bytes = match job.client_addr {
            IpAddr::V4(address) => {
                four = address.octets();
                &four[..3]
            }
            IpAddr::V6(address) => {
                six = address.octets();
                &six[..]
            }
        };
        self.0.record_key(Crc32::new().update(bytes).value());
        if self.0.needs_no_hash(candidates) {
            return self.0.choose_by_rotation(candidates);
        }
        let again = |hash: u64| bytes.iter().fold(hash, |hash, byte| (hash * 113 + u64::from(*byte)) % 6271);
        self.0.choose_by_hashes(iter::successors(Some(again(89)), |hash| Some(again(*hash))), job, candidates)
    }

    fn on_failure(&mut self, at: Slot) {
        self.0.on_failure(at);
    }

    fn needs_client_addr(&self) -> bool {
        true
    }

    fn has_hot_key(&self) -> bool {
        self.0.has_hot_key()
    }
}

pub(in crate::balance) fn build(members: &[PolicyMember], args: &[&str]) -> Result<Box<dyn Policy>, PolicyError> {
    PolicyError::reject_arguments(args)?;
    Ok(Box::new(IpHash(HashProbe::new(members))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::laws::{candidates, members, request};

    fn choose(client: &str, offered: &[Candidate]) -> u32 {
        let mut policy = build(&members(&[1, 1, 1]), &[]).unwrap();
        let job = PolicyRequest { client_addr: client.parse().unwrap(), ..request() };
        policy.choose(&job, offered, &mut SeededRng::from_seed(0)).unwrap().0
    }

    #[test]
    fn an_ipv4_network_of_256_addresses_goes_to_one_replica() {
        let offered = candidates(&[1, 1, 1]);
        assert_eq!(choose("10.1.2.3", &offered), choose("10.1.2.250", &offered));
        let seen: Vec<u32> = (0..9).map(|at| choose(&format!("10.1.{at}.3"), &offered)).collect();
        assert!((0..3).all(|at| seen.contains(&at)), "{seen:?}");
        let seen: Vec<u32> = (0..9).map(|at| choose(&format!("2001:db8::{at}"), &offered)).collect();
        assert!((0..3).all(|at| seen.contains(&at)), "{seen:?}");
    }

    #[test]
    fn a_member_that_is_out_is_stepped_over_and_the_others_keep_their_clients() {
        let all = candidates(&[1, 1, 1]);
        for at in 0..50 {
            let client = format!("10.1.{at}.3");
            let home = choose(&client, &all);
            let without: Vec<Candidate> = all.iter().filter(|c| c.slot.0 != 1).copied().collect();
            assert!(home == 1 || choose(&client, &without) == home, "{client}");
        }
    }
}
