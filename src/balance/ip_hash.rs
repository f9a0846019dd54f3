//! `ip_hash`: nginx's hash of the client's address.

use std::iter;
use std::net::IpAddr;

use super::crc::Crc;
use super::probe::Probe;
use super::{BadPolicy, Candidate, Dice, Job, Member, Policy};
use crate::units::Slot;

/// Sends all clients of a network to one replica: an IPv4 address counts by its first three bytes, an IPv6 one whole.
struct IpHash(Probe);

impl Policy for IpHash {
    /// Source: nginx `ngx_http_upstream_ip_hash_module.c`. O(log n) unless members are out.
    fn choose(&mut self, job: &Job<'_>, candidates: &[Candidate], _: &mut Dice) -> Option<Slot> {
        let (four, six);
        let bytes = match job.client {
            IpAddr::V4(address) => {
                four = address.octets();
                &four[..3]
            }
            IpAddr::V6(address) => {
                six = address.octets();
                &six[..]
            }
        };
        self.0.saw(Crc::new().add(bytes).value());
        if self.0.is_moot(candidates) {
            return self.0.turn(candidates);
        }
        let again = |hash: u64| bytes.iter().fold(hash, |hash, byte| (hash * 113 + u64::from(*byte)) % 6271);
        self.0.first(iter::successors(Some(again(89)), |hash| Some(again(*hash))), job, candidates)
    }

    fn failed(&mut self, at: Slot) {
        self.0.failed(at);
    }

    fn asks_client(&self) -> bool {
        true
    }

    fn is_lopsided(&self) -> bool {
        self.0.is_lopsided()
    }
}

pub(super) fn build(members: &[Member], args: &[&str]) -> Result<Box<dyn Policy>, BadPolicy> {
    BadPolicy::unless_empty(args)?;
    Ok(Box::new(IpHash(Probe::new(members))))
}

#[cfg(test)]
mod tests {
    use super::super::laws::{candidates, job, members};
    use super::*;

    fn choose(client: &str, offered: &[Candidate]) -> u32 {
        let mut policy = build(&members(&[1, 1, 1]), &[]).unwrap();
        let job = Job { client: client.parse().unwrap(), ..job() };
        policy.choose(&job, offered, &mut Dice::seeded(0)).unwrap().0
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
            let without: Vec<Candidate> = all.iter().filter(|c| c.at.0 != 1).copied().collect();
            assert!(home == 1 || choose(&client, &without) == home, "{client}");
        }
    }
}
