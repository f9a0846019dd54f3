//! The ring that keys and members lie on: ketama as nginx has it, and nginx's `hash KEY consistent`.

use super::crc32::Crc32;
use super::hash_probe::{HashProbe, MAX_MISSES, find_candidate};
use super::{Candidate, HashKey, Policy, PolicyMember, PolicyRequest, SeededRng};
use crate::units::Slot;

/// Points on the ring for each unit of weight.
const POINTS_PER_WEIGHT: u64 = 160;

/// Members' points on a ring: hash and owner, sorted by hash, no hash twice; backups have none.
pub(super) struct RingPoints(Vec<(u32, Slot)>);

/// Sends all requests with one key to one replica; only the keys of a member that comes or goes move.
pub(super) struct RingHash {
    key: HashKey,
    points: RingPoints,
    probe: HashProbe,
}

impl RingPoints {
    /// *Cost*: 1,280 bytes a unit of weight, sorted.
    pub(super) fn new(members: &[PolicyMember]) -> Self {
        let mut points: Vec<(u32, Slot)> = members.iter().filter(|m| !m.backup).flat_map(member_points).collect();
        // Of two members at one place the one configured first has it.
        points.sort_by_key(|(hash, _)| *hash);
        points.dedup_by_key(|(hash, _)| *hash);
        Self(points)
    }

    /// The owners of the points from where `hash` lies on, once around; most come again and again. O(log points) to begin.
    pub(super) fn slots_from(&self, hash: u32) -> impl Iterator<Item = Slot> {
        let start = self.0.partition_point(|(point, _)| *point < hash);
        let (before, after) = self.0.split_at(start);
        after.iter().chain(before).map(|(_, at)| *at)
    }
}

impl RingHash {
    pub(super) fn new(key: HashKey, members: &[PolicyMember]) -> Self {
        Self { key, points: RingPoints::new(members), probe: HashProbe::new(members) }
    }
}

impl Policy for RingHash {
    /// Steps on from point to point while the owner is no candidate, at most 21 times, then takes a turn by round robin.
    /// An empty key takes its turn at once. O(key + log points).
    ///
    /// Source: nginx `ngx_http_upstream_hash_module.c`, which is as Perl's `Cache::Memcached::Fast` has it.
    fn choose(&mut self, job: &PolicyRequest<'_>, candidates: &[Candidate], _: &mut SeededRng) -> Option<Slot> {
        if job.key.is_empty() || self.probe.needs_no_hash(candidates) {
            return self.probe.choose_by_rotation(candidates);
        }
        let hash = Crc32::new().update(job.key).value();
        self.probe.record_key(hash);
        let hit =
            self.points.slots_from(hash).take(MAX_MISSES as usize + 1).find_map(|at| find_candidate(at, candidates));
        self.probe.choose_by_rotation(hit.map_or(candidates, std::slice::from_ref))
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

/// A member's points: each the CRC of host, a zero byte, port and the point before.
fn member_points(member: &PolicyMember) -> impl Iterator<Item = (u32, Slot)> {
    let (host, port) = split_host_port(&member.name);
    let base = Crc32::new().update(host.as_bytes()).update(b"\0").update(port.as_bytes());
    let mut before = 0u32;
    let at = member.slot;
    (0..POINTS_PER_WEIGHT * u64::from(member.weight.get())).map(move |_| {
        before = base.update(&before.to_le_bytes()).value();
        (before, at)
    })
}

/// A member's name as host and port; a name that does not end in `:` and digits has no port.
fn split_host_port(name: &str) -> (&str, &str) {
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
    fn a_unit_of_weight_has_160_points_that_depend_on_the_name_only() {
        let one = RingHash::new(HashKey::parse("$user").unwrap(), &members(&[1, 2]));
        assert_eq!(one.points.0.len(), 480);
        let two = RingHash::new(HashKey::parse("$user").unwrap(), &members(&[1, 2, 1]));
        assert!(one.points.0.iter().all(|point| two.points.0.contains(point)));
    }

    #[test]
    fn ports_are_split_off_names_that_have_one() {
        assert_eq!(split_host_port("127.0.0.1:8000"), ("127.0.0.1", "8000"));
        assert_eq!(split_host_port("[::1]:8000"), ("[::1]", "8000"));
        assert_eq!(split_host_port("gpu1"), ("gpu1", ""));
        assert_eq!(split_host_port("a:b"), ("a:b", ""));
        assert_eq!(split_host_port("a:"), ("a", ""));
    }

    proptest! {
        #[test]
        fn a_walk_meets_every_member_and_one_that_leaves_moves_only_what_it_had(
            weights in prop::collection::vec(1u32..4, 2..8),
            gone in any::<prop::sample::Index>(),
            hashes in any::<[u32; 4]>(),
        ) {
            let all = members(&weights);
            let gone = all[gone.index(all.len())].slot;
            let rest: Vec<PolicyMember> = all.iter().filter(|member| member.slot != gone).cloned().collect();
            let (before, after) = (RingPoints::new(&all), RingPoints::new(&rest));
            prop_assert!(before.0.is_sorted_by(|(one, _), (next, _)| one < next), "no hash twice");
            for hash in hashes {
                let mut met: Vec<Slot> = before.slots_from(hash).collect();
                let heir = met.iter().find(|at| **at != gone).copied();
                prop_assert_eq!(after.slots_from(hash).next(), heir);
                met.sort_unstable();
                met.dedup();
                prop_assert_eq!(met.len(), all.len());
            }
        }
    }
}
