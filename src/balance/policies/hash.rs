//! `hash KEY [consistent]`: nginx's hashes of whatever a request is known by.

use crate::balance::crc32::Crc32;
use crate::balance::hash_probe::HashProbe;
use crate::balance::hash_ring::RingHash;
use crate::balance::{Candidate, HashKey, Policy, PolicyError, PolicyMember, PolicyRequest, SeededRng};
use crate::units::Slot;

/// Sends all requests with one key to one replica. Most keys move when members come or go.
struct ModuloHash {
    key: HashKey,
    probe: HashProbe,
}

impl Policy for ModuloHash {
    /// An empty key takes its turn by round robin. O(key + log n) unless members are out.
    ///
    /// Source: nginx `ngx_http_upstream_hash_module.c`, which is as Perl's `Cache::Memcached` has it.
    fn choose(&mut self, job: &PolicyRequest<'_>, candidates: &[Candidate], _: &mut SeededRng) -> Option<Slot> {
        if job.key.is_empty() || self.probe.needs_no_hash(candidates) {
            return self.probe.choose_by_rotation(candidates);
        }
        let first = Crc32::new().update(job.key).value();
        self.probe.record_key(first);
        let mut sum = 0;
        let hashes = (0u32..).map(|tries| {
            let crc = match tries {
                0 => first,
                _ => Crc32::new().update(tries.to_string().as_bytes()).update(job.key).value(),
            };
            sum += u64::from(crc >> 16 & 0x7fff);
            sum
        });
        self.probe.choose_by_hashes(hashes, job, candidates)
    }

    fn on_failure(&mut self, at: Slot) {
        self.probe.on_failure(at);
    }

    fn key(&self) -> Option<&HashKey> {
        Some(&self.key)
    }

    fn has_hot_key(&self) -> bool {
        self.probe.has_hot_key()
    }
}

pub(in crate::balance) fn build(members: &[PolicyMember], args: &[&str]) -> Result<Box<dyn Policy>, PolicyError> {
    match args {
        [] => Err(PolicyError::MissingArgument("a key, for example `$session`")),
        [key] => Ok(Box::new(ModuloHash { key: HashKey::parse(key)?, probe: HashProbe::new(members) })),
        [key, "consistent"] => Ok(Box::new(RingHash::new(HashKey::parse(key)?, members))),
        [_, "consistent", more, ..] | [_, more, ..] => Err(PolicyError::InvalidArgument((*more).to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::laws::{candidates, members, request};

    fn choose(weights: &[u32], key: &[u8], tried: &[Slot], out: &[u32]) -> u32 {
        let mut policy = build(&members(weights), &["$request_uri"]).unwrap();
        let mut offered = candidates(weights);
        offered.retain(|c| !tried.contains(&c.slot) && !out.contains(&c.slot.0));
        policy
            .choose(&PolicyRequest { key, tried_slots: tried, ..request() }, &offered, &mut SeededRng::from_seed(0))
            .unwrap()
            .0
    }

    #[test]
    fn a_key_falls_where_its_crc_says() {
        // crc32 is 0xcbf43926, and (0xcbf43926 >> 16) & 0x7fff = 19444.
        for (weights, wanted) in [(&[1, 1, 1][..], 19_444 % 3), (&[1; 7], 19_444 % 7), (&[1, 1], 0)] {
            assert_eq!(choose(weights, b"123456789", &[], &[]), wanted);
        }
        // 19444 mod 10 is 4, which is in the share of the first.
        assert_eq!(choose(&[5, 3, 2], b"123456789", &[], &[]), 0);
    }

    #[test]
    fn a_request_that_comes_back_goes_on_where_it_was() {
        for key in [&b"a"[..], b"b", b"/v1/chat/completions", b"123456789"] {
            let first = choose(&[1, 1, 1, 1], key, &[], &[]);
            let out = choose(&[1, 1, 1, 1], key, &[], &[first]);
            assert_eq!(choose(&[1, 1, 1, 1], key, &[Slot(first)], &[]), out);
        }
    }

    #[test]
    fn a_key_is_needed_and_nothing_but_consistent_follows_it() {
        let why = |args: &[&str]| build(&[], args).err();
        assert!(matches!(why(&[]), Some(PolicyError::MissingArgument(_))));
        assert_eq!(why(&["$user", "consistant"]), Some(PolicyError::InvalidArgument("consistant".to_owned())));
        assert_eq!(why(&["$user", "consistent", "x"]), Some(PolicyError::InvalidArgument("x".to_owned())));
        assert_eq!(why(&["$user", "consistent"]), None);
    }

    #[test]
    fn requests_without_a_key_take_turns() {
        let mut policy = build(&members(&[1, 1]), &["$user"]).unwrap();
        let offered = candidates(&[1, 1]);
        let picks: Vec<u32> =
            (0..4).map(|_| policy.choose(&request(), &offered, &mut SeededRng::from_seed(0)).unwrap().0).collect();
        assert_eq!(picks, [0, 1, 0, 1]);
    }
}
