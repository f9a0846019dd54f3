//! Which replica a session that clients name belongs to.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dashmap::DashMap;

use crate::units::{Moment, ReplicaId};

/// The most sessions remembered, those of all pools together. At most 512 bytes of name each: about 70 MB at worst.
const SESSIONS: usize = 100_000;
/// The longest name, pool included; longer ones are not remembered.
const NAME_BYTES: usize = 512;
/// Sessions in use that one new session may step over in search of an old one to drop.
const STEPS: usize = 8;

/// A session's replica.
#[derive(Clone, Copy, Debug)]
struct Session {
    replica: ReplicaId,
    /// Forgotten then unless it is used before.
    until: Moment,
    /// Used since it was last stepped over.
    used: bool,
}

/// What a session is called: pools do not share theirs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Name<'a> {
    pub(super) pool: &'a str,
    pub(super) id: &'a [u8],
}

impl Name<'_> {
    /// What the session is kept under; `None` if it would be too long.
    fn bytes(self) -> Option<Vec<u8>> {
        let fits = self.pool.len() + 1 + self.id.len() <= NAME_BYTES;
        fits.then(|| [self.pool.as_bytes(), b"\0", self.id].concat())
    }
}

/// A bounded map from sessions to replicas; those that are not used go first.
#[derive(Default)]
pub(super) struct Sessions {
    by_name: DashMap<Arc<[u8]>, Session>,
    /// Guards the order in which sessions are looked at to be dropped.
    order: Mutex<VecDeque<Arc<[u8]>>>,
}

impl Sessions {
    /// Finds a session's replica and keeps the session for another `timeout`.
    pub(super) fn get(&self, name: Name<'_>, timeout: Duration, now: Moment) -> Option<ReplicaId> {
        let mut session = self.by_name.get_mut(&*name.bytes()?)?;
        if now > session.until {
            return None;
        }
        session.until = now + timeout;
        session.used = true;
        Some(session.replica)
    }

    /// Remembers a session, or that it has moved; drops what has not been used for longest if there are too many.
    pub(super) fn put(&self, name: Name<'_>, replica: ReplicaId, timeout: Duration, now: Moment) {
        let Some(name) = name.bytes() else { return };
        let name: Arc<[u8]> = name.into();
        let session = Session { replica, until: now + timeout, used: false };
        if self.by_name.insert(name.clone(), session).is_some() {
            return;
        }
        let mut order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        order.push_back(name);
        self.shrink(&mut order, now);
    }

    /// Drops sessions whose time is over from the front, and others while there are too many.
    fn shrink(&self, order: &mut VecDeque<Arc<[u8]>>, now: Moment) {
        let mut steps = 0;
        while let Some(first) = order.pop_front() {
            let full = order.len() >= SESSIONS;
            let kept = self.by_name.get_mut(&first).is_some_and(|mut session| {
                let keep = !full || std::mem::take(&mut session.used) && steps < STEPS;
                keep && now <= session.until
            });
            if !kept {
                self.by_name.remove(&first);
            } else if full {
                steps += 1;
                order.push_back(first);
            } else {
                order.push_front(first);
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    fn at(seconds: u64) -> Moment {
        Moment::ZERO + Duration::from_secs(seconds)
    }

    fn p(id: &[u8]) -> Name<'_> {
        Name { pool: "p", id }
    }

    #[test]
    fn a_session_is_forgotten_when_it_is_not_used_for_its_timeout() {
        let sessions = Sessions::default();
        sessions.put(p(b"a"), ReplicaId(1), HOUR, at(0));
        assert_eq!(sessions.get(p(b"a"), HOUR, at(3_000)), Some(ReplicaId(1)));
        assert_eq!(sessions.get(p(b"a"), HOUR, at(6_000)), Some(ReplicaId(1)), "it was used in between");
        assert_eq!(sessions.get(p(b"a"), HOUR, at(9_601)), None);
        assert_eq!(
            sessions.get(Name { pool: "q", id: b"a" }, HOUR, at(6_000)),
            None,
            "another pool's sessions are others"
        );
        sessions.put(p(b"b"), ReplicaId(1), HOUR, at(9_700));
        assert_eq!(sessions.by_name.len(), 1);
    }

    #[test]
    fn a_session_that_moves_is_one_session() {
        let sessions = Sessions::default();
        sessions.put(p(b"a"), ReplicaId(1), HOUR, at(0));
        sessions.put(p(b"a"), ReplicaId(2), HOUR, at(1));
        assert_eq!(sessions.get(p(b"a"), HOUR, at(2)), Some(ReplicaId(2)));
        assert_eq!(sessions.order.lock().unwrap().len(), 1);
    }

    #[test]
    fn the_map_stays_bounded_and_what_is_used_stays() {
        let sessions = Sessions::default();
        sessions.put(p(b"used"), ReplicaId(7), HOUR, at(0));
        for i in 0..SESSIONS + 10 {
            sessions.put(p(&i.to_le_bytes()), ReplicaId(1), HOUR, at(1));
            if i % 1_000 == 0 {
                sessions.get(p(b"used"), HOUR, at(1));
            }
        }
        assert_eq!(sessions.by_name.len(), SESSIONS);
        assert_eq!(sessions.order.lock().unwrap().len(), SESSIONS);
        assert_eq!(sessions.get(p(b"used"), HOUR, at(2)), Some(ReplicaId(7)));
        assert_eq!(sessions.get(p(&0usize.to_le_bytes()), HOUR, at(2)), None);
        sessions.put(p(&[b'x'; NAME_BYTES]), ReplicaId(1), HOUR, at(3));
        assert_eq!(sessions.by_name.len(), SESSIONS, "a name that is too long is not kept");
    }
}
