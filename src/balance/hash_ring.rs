//! The ketama hash ring as nginx builds it, and nginx's `hash KEY consistent`.

use crc32fast::Hasher;

use super::hash_probe::{HashProbe, MAX_MISSES, find_candidate};
use super::{Candidate, HashKey, Policy, PolicyMember, PolicyRequest, SeededRng};
use crate::units::Slot;

/// Points on the ring for each unit of weight.
const POINTS_PER_WEIGHT: u64 = 160;

/// The points of a ring: hash and owner, sorted by hash, without duplicate hashes. Backups have no points.
pub(super) struct RingPoints(Vec<(u32, Slot)>);

/// Sends all requests with one key to one replica. Only the keys of an added or removed member move.
pub(super) struct RingHash {
    key: HashKey,
    points: RingPoints,
    probe: HashProbe,
}

impl RingPoints {
    /// Builds the ring. *Cost*: 1,280 bytes per unit of weight, sorted.
    pub(super) fn new(members: &[PolicyMember]) -> Self {
        let mut points: Vec<(u32, Slot)> = members.iter().filter(|m| !m.backup).flat_map(member_points).collect();
        // The sort is stable: of two members with one hash the one configured first keeps the point.
        points.sort_by_key(|(hash, _)| *hash);
        points.dedup_by_key(|(hash, _)| *hash);
        Self(points)
    }

    /// Returns the owners of the points from `hash` on, once around the ring, with repetitions. O(log points) to start.
    pub(super) fn slots_from(&self, hash: u32) -> impl Iterator<Item = Slot> {
        let start = self.0.partition_point(|(point, _)| *point < hash);
        let (before, after) = self.0.split_at(start);
        after.iter().chain(before).map(|(_, slot)| *slot)
    }
}

impl RingHash {
    pub(super) fn new(key: HashKey, members: &[PolicyMember]) -> Self {
        Self { key, points: RingPoints::new(members), probe: HashProbe::new(members) }
    }
}

impl Policy for RingHash {
    /// Returns the first candidate among the owners of 21 points, else the next by round robin, as for an empty key.
    /// O(key + log points).
    ///
    /// Source: nginx `ngx_http_upstream_hash_module.c`, compatible with Perl's `Cache::Memcached::Fast`.
    fn choose(&mut self, request: &PolicyRequest<'_>, candidates: &[Candidate], _: &mut SeededRng) -> Option<Slot> {
        if request.key.is_empty() || self.probe.needs_no_hash(candidates) {
            return self.probe.choose_by_rotation(candidates);
        }
        let hash = crc32fast::hash(request.key);
        self.probe.record_key(hash);
        let mut owners = self.points.slots_from(hash).take(MAX_MISSES as usize + 1);
        let hit = owners.find_map(|slot| find_candidate(slot, candidates));
        self.probe.choose_by_rotation(hit.map_or(candidates, std::slice::from_ref))
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

/// Returns a member's points. Each is the CRC-32 of host, a zero byte, port and the previous point.
fn member_points(member: &PolicyMember) -> impl Iterator<Item = (u32, Slot)> {
    let (host, port) = split_host_port(&member.name);
    let mut base = Hasher::new();
    for part in [host.as_bytes(), b"\0", port.as_bytes()] {
        base.update(part);
    }
    let mut previous = 0u32;
    let slot = member.slot;
    (0..POINTS_PER_WEIGHT * u64::from(member.weight.get())).map(move |_| {
        let mut hasher = base.clone();
        hasher.update(&previous.to_le_bytes());
        previous = hasher.finalize();
        (previous, slot)
    })
}

/// Splits a member's name into host and port; a name that does not end in `:` and digits has an empty port, and of a Unix
/// socket the path is the host.
fn split_host_port(name: &str) -> (&str, &str) {
    if let Some(socket) = name.strip_prefix("unix:") {
        return (socket, "");
    }
    match name.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => (host, port),
        _ => (name, ""),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::laws::members;
    use super::*;

    #[test]
    fn crc_has_the_published_check_value() {
        let mut hasher = Hasher::new();
        hasher.update(b"1234");
        hasher.update(b"56789");
        assert_eq!((hasher.finalize(), crc32fast::hash(b"")), (0xcbf4_3926, 0));
    }

    #[test]
    fn unit_of_weight_has_160_points_that_depend_on_the_name_only() {
        let one = RingHash::new(HashKey::parse("$user").unwrap(), &members(&[1, 2]));
        assert_eq!(one.points.0.len(), 480);
        let two = RingHash::new(HashKey::parse("$user").unwrap(), &members(&[1, 2, 1]));
        assert!(one.points.0.iter().all(|point| two.points.0.contains(point)));
    }

    #[test]
    fn port_is_split_off_a_name_that_has_one() {
        assert_eq!(split_host_port("127.0.0.1:8000"), ("127.0.0.1", "8000"));
        assert_eq!(split_host_port("[::1]:8000"), ("[::1]", "8000"));
        assert_eq!(split_host_port("gpu1"), ("gpu1", ""));
        assert_eq!(split_host_port("a:b"), ("a:b", ""));
        assert_eq!(split_host_port("a:"), ("a", ""));
    }

    proptest! {
        #[test]
        fn ring_has_all_members_and_a_removed_one_moves_only_its_keys(
            weights in prop::collection::vec(1u32..4, 2..8),
            removed in any::<prop::sample::Index>(),
            hashes in any::<[u32; 4]>(),
        ) {
            let all = members(&weights);
            let removed = all[removed.index(all.len())].slot;
            let rest: Vec<PolicyMember> = all.iter().filter(|member| member.slot != removed).cloned().collect();
            let (before, after) = (RingPoints::new(&all), RingPoints::new(&rest));
            prop_assert!(before.0.is_sorted_by(|(one, _), (next, _)| one < next), "no hash twice");
            for hash in hashes {
                let mut owners: Vec<Slot> = before.slots_from(hash).collect();
                let next_owner = owners.iter().find(|slot| **slot != removed).copied();
                prop_assert_eq!(after.slots_from(hash).next(), next_owner);
                owners.sort_unstable();
                owners.dedup();
                prop_assert_eq!(owners.len(), all.len());
            }
        }
    }
}
