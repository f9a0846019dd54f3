//! `hash KEY [consistent]`: nginx's hash of a key.
//!
//! Source: nginx `ngx_http_upstream_hash_module.c`; compatible with Perl's `Cache::Memcached`.

use crc32fast::Hasher;

use crate::balance::hash_probe::HashProbe;
use crate::balance::hash_ring::RingHash;
use crate::balance::{Candidate, HashKey, Policy, PolicyError, PolicyMember, PolicyRequest, SeededRng};
use crate::units::Slot;

/// Sends all requests with one key to one replica. Most keys move when a member is added or removed.
struct ModuloHash {
    key: HashKey,
    probe: HashProbe,
}

impl Policy for ModuloHash {
    /// Places requests with an empty key by round robin. O(key + log n) while all members are eligible.
    fn choose(&mut self, request: &PolicyRequest<'_>, candidates: &[Candidate], _: &mut SeededRng) -> Option<Slot> {
        if request.key.is_empty() || self.probe.needs_no_hash(candidates) {
            return self.probe.choose_by_rotation(candidates);
        }
        let first = crc32fast::hash(request.key);
        self.probe.record_key(first);
        let mut sum = 0;
        let hashes = (0u32..).map(|attempt| {
            let crc = match attempt {
                0 => first,
                _ => {
                    let mut hasher = Hasher::new();
                    hasher.update(attempt.to_string().as_bytes());
                    hasher.update(request.key);
                    hasher.finalize()
                }
            };
            sum += u64::from(crc >> 16 & 0x7fff);
            sum
        });
        self.probe.choose_by_hashes(hashes, request, candidates)
    }

    fn on_failure(&mut self, slot: Slot) {
        self.probe.on_failure(slot);
    }

    fn key(&self) -> Option<&HashKey> {
        Some(&self.key)
    }

    fn has_hot_key(&self) -> bool {
        self.probe.has_hot_key()
    }
}

pub(super) fn build(members: &[PolicyMember], args: &[&str]) -> Result<Box<dyn Policy>, PolicyError> {
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
    fn key_is_placed_by_its_crc() {
        // crc32 is 0xcbf43926, and (0xcbf43926 >> 16) & 0x7fff = 19444.
        for (weights, wanted) in [(&[1, 1, 1][..], 19_444 % 3), (&[1; 7], 19_444 % 7), (&[1, 1], 0)] {
            assert_eq!(choose(weights, b"123456789", &[], &[]), wanted);
        }
        // 19444 mod 10 is 4, within the first member's share.
        assert_eq!(choose(&[5, 3, 2], b"123456789", &[], &[]), 0);
    }

    #[test]
    fn retried_request_continues_its_sequence() {
        for key in [&b"a"[..], b"b", b"/v1/chat/completions", b"123456789"] {
            let first = choose(&[1, 1, 1, 1], key, &[], &[]);
            let out = choose(&[1, 1, 1, 1], key, &[], &[first]);
            assert_eq!(choose(&[1, 1, 1, 1], key, &[Slot(first)], &[]), out);
        }
    }

    #[test]
    fn key_is_required_and_only_consistent_may_follow() {
        let error = |args: &[&str]| build(&[], args).err();
        assert!(matches!(error(&[]), Some(PolicyError::MissingArgument(_))));
        assert_eq!(error(&["$user", "consistant"]), Some(PolicyError::InvalidArgument("consistant".to_owned())));
        assert_eq!(error(&["$user", "consistent", "x"]), Some(PolicyError::InvalidArgument("x".to_owned())));
        assert_eq!(error(&["$user", "consistent"]), None);
    }

    #[test]
    fn requests_without_a_key_rotate() {
        let mut policy = build(&members(&[1, 1]), &["$user"]).unwrap();
        let offered = candidates(&[1, 1]);
        let picks: Vec<u32> =
            (0..4).map(|_| policy.choose(&request(), &offered, &mut SeededRng::from_seed(0)).unwrap().0).collect();
        assert_eq!(picks, [0, 1, 0, 1]);
    }
}
