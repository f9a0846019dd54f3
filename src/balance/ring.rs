//! The ring that keys and members lie on: ketama as nginx has it, and nginx's `hash KEY consistent`.

use super::crc::Crc;
use super::probe::{MISSES, Probe, candidate};
use super::{Candidate, Dice, Job, Key, Member, Policy};
use crate::units::Slot;

/// Points on the ring for each unit of weight.
const POINTS: u64 = 160;

/// Members' points on a ring: hash and owner, sorted by hash, no hash twice; backups have none.
pub(super) struct Points(Vec<(u32, Slot)>);

/// Sends all requests with one key to one replica; only the keys of a member that comes or goes move.
pub(super) struct Ring {
    key: Key,
    points: Points,
    probe: Probe,
}

impl Points {
    /// *Cost*: 1,280 bytes a unit of weight, sorted.
    pub(super) fn new(members: &[Member]) -> Self {
        let mut points: Vec<(u32, Slot)> = members.iter().filter(|m| !m.backup).flat_map(points).collect();
        // Of two members at one place the one configured first has it.
        points.sort_by_key(|(hash, _)| *hash);
        points.dedup_by_key(|(hash, _)| *hash);
        Self(points)
    }

    /// The owners of the points from where `hash` lies on, once around; most come again and again. O(log points) to begin.
    pub(super) fn from(&self, hash: u32) -> impl Iterator<Item = Slot> {
        let start = self.0.partition_point(|(point, _)| *point < hash);
        let (before, after) = self.0.split_at(start);
        after.iter().chain(before).map(|(_, at)| *at)
    }
}

impl Ring {
    pub(super) fn new(key: Key, members: &[Member]) -> Self {
        Self { key, points: Points::new(members), probe: Probe::new(members) }
    }
}

impl Policy for Ring {
    /// Steps on from point to point while the owner is no candidate, at most 21 times, then takes a turn by round robin.
    /// An empty key takes its turn at once. O(key + log points).
    ///
    /// Source: nginx `ngx_http_upstream_hash_module.c`, which is as Perl's `Cache::Memcached::Fast` has it.
    fn choose(&mut self, job: &Job<'_>, candidates: &[Candidate], _: &mut Dice) -> Option<Slot> {
        if job.key.is_empty() || self.probe.is_moot(candidates) {
            return self.probe.turn(candidates);
        }
        let hash = Crc::new().add(job.key).value();
        self.probe.saw(hash);
        let hit = self.points.from(hash).take(MISSES as usize + 1).find_map(|at| candidate(at, candidates));
        self.probe.turn(hit.map_or(candidates, std::slice::from_ref))
    }

    fn failed(&mut self, at: Slot) {
        self.probe.failed(at);
    }

    fn key(&self) -> Option<&Key> {
        Some(&self.key)
    }

    fn is_lopsided(&self) -> bool {
        self.probe.is_lopsided()
    }
}

/// A member's points: each the CRC of host, a zero byte, port and the point before.
fn points(member: &Member) -> impl Iterator<Item = (u32, Slot)> {
    let (host, port) = split(&member.name);
    let base = Crc::new().add(host.as_bytes()).add(b"\0").add(port.as_bytes());
    let mut before = 0u32;
    let at = member.at;
    (0..POINTS * u64::from(member.weight.get())).map(move |_| {
        before = base.add(&before.to_le_bytes()).value();
        (before, at)
    })
}

/// A member's name as host and port; a name that does not end in `:` and digits has no port.
fn split(name: &str) -> (&str, &str) {
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
        let one = Ring::new(Key::parse("$user").unwrap(), &members(&[1, 2]));
        assert_eq!(one.points.0.len(), 480);
        let two = Ring::new(Key::parse("$user").unwrap(), &members(&[1, 2, 1]));
        assert!(one.points.0.iter().all(|point| two.points.0.contains(point)));
    }

    #[test]
    fn ports_are_split_off_names_that_have_one() {
        assert_eq!(split("127.0.0.1:8000"), ("127.0.0.1", "8000"));
        assert_eq!(split("[::1]:8000"), ("[::1]", "8000"));
        assert_eq!(split("gpu1"), ("gpu1", ""));
        assert_eq!(split("a:b"), ("a:b", ""));
        assert_eq!(split("a:"), ("a", ""));
    }

    proptest! {
        #[test]
        fn a_walk_meets_every_member_and_one_that_leaves_moves_only_what_it_had(
            weights in prop::collection::vec(1u32..4, 2..8),
            gone in any::<prop::sample::Index>(),
            hashes in any::<[u32; 4]>(),
        ) {
            let all = members(&weights);
            let gone = all[gone.index(all.len())].at;
            let rest: Vec<Member> = all.iter().filter(|member| member.at != gone).cloned().collect();
            let (before, after) = (Points::new(&all), Points::new(&rest));
            prop_assert!(before.0.is_sorted_by(|(one, _), (next, _)| one < next), "no hash twice");
            for hash in hashes {
                let mut met: Vec<Slot> = before.from(hash).collect();
                let heir = met.iter().find(|at| **at != gone).copied();
                prop_assert_eq!(after.from(hash).next(), heir);
                met.sort_unstable();
                met.dedup();
                prop_assert_eq!(met.len(), all.len());
            }
        }
    }
}
