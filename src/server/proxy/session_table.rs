//! Which replica a session that clients name belongs to.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dashmap::DashMap;

use crate::units::{Moment, ReplicaId};

/// The most sessions remembered, those of all pools together. At most 512 bytes of name each: about 70 MB at worst.
const MAX_SESSIONS: usize = 100_000;
/// The longest name, pool included; longer ones are not remembered.
const MAX_SESSION_KEY_BYTES: usize = 512;
/// Sessions in use that one new session may step over in search of an old one to drop.
const MAX_EVICTION_STEPS: usize = 8;

/// A session's replica.
#[derive(Clone, Copy, Debug)]
struct SessionEntry {
    replica: ReplicaId,
    /// Forgotten then unless it is used before.
    expires_at: Moment,
    /// Used since it was last stepped over.
    recently_used: bool,
}

/// What a session is called: pools do not share theirs.
#[derive(Clone, Copy, Debug)]
pub(in crate::server) struct SessionKey<'a> {
    pub(in crate::server) pool: &'a str,
    pub(in crate::server) id: &'a [u8],
}

impl SessionKey<'_> {
    /// What the session is kept under; `None` if it would be too long.
    fn to_bytes(self) -> Option<Vec<u8>> {
        let fits = self.pool.len() + 1 + self.id.len() <= MAX_SESSION_KEY_BYTES;
        fits.then(|| [self.pool.as_bytes(), b"\0", self.id].concat())
    }
}

/// A bounded map from sessions to replicas; those that are not used go first.
#[derive(Default)]
pub(in crate::server) struct SessionTable {
    by_key: DashMap<Arc<[u8]>, SessionEntry>,
    /// Guards the order in which sessions are looked at to be dropped.
    eviction_order: Mutex<VecDeque<Arc<[u8]>>>,
}

impl SessionTable {
    /// Finds a session's replica and keeps the session for another `timeout`.
    pub(in crate::server) fn get(&self, name: SessionKey<'_>, timeout: Duration, now: Moment) -> Option<ReplicaId> {
        let mut session = self.by_key.get_mut(&*name.to_bytes()?)?;
        if now > session.expires_at {
            return None;
        }
        session.expires_at = now + timeout;
        session.recently_used = true;
        Some(session.replica)
    }

    /// Remembers a session, or that it has moved; drops what has not been used for longest if there are too many.
    pub(in crate::server) fn insert(&self, name: SessionKey<'_>, replica: ReplicaId, timeout: Duration, now: Moment) {
        let Some(name) = name.to_bytes() else { return };
        let name: Arc<[u8]> = name.into();
        let session = SessionEntry { replica, expires_at: now + timeout, recently_used: false };
        if self.by_key.insert(name.clone(), session).is_some() {
            return;
        }
        let mut order = self.eviction_order.lock().unwrap_or_else(PoisonError::into_inner);
        order.push_back(name);
        self.evict(&mut order, now);
    }

    /// Drops sessions whose time is over from the front, and others while there are too many.
    fn evict(&self, order: &mut VecDeque<Arc<[u8]>>, now: Moment) {
        let mut steps = 0;
        while let Some(first) = order.pop_front() {
            let full = order.len() >= MAX_SESSIONS;
            let kept = self.by_key.get_mut(&first).is_some_and(|mut session| {
                let keep = !full || std::mem::take(&mut session.recently_used) && steps < MAX_EVICTION_STEPS;
                keep && now <= session.expires_at
            });
            if !kept {
                self.by_key.remove(&first);
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

    fn moment_at(seconds: u64) -> Moment {
        Moment::ZERO + Duration::from_secs(seconds)
    }

    fn session_key(id: &[u8]) -> SessionKey<'_> {
        SessionKey { pool: "p", id }
    }

    #[test]
    fn a_session_is_forgotten_when_it_is_not_used_for_its_timeout() {
        let sessions = SessionTable::default();
        sessions.insert(session_key(b"a"), ReplicaId(1), HOUR, moment_at(0));
        assert_eq!(sessions.get(session_key(b"a"), HOUR, moment_at(3_000)), Some(ReplicaId(1)));
        assert_eq!(
            sessions.get(session_key(b"a"), HOUR, moment_at(6_000)),
            Some(ReplicaId(1)),
            "it was used in between"
        );
        assert_eq!(sessions.get(session_key(b"a"), HOUR, moment_at(9_601)), None);
        assert_eq!(
            sessions.get(SessionKey { pool: "q", id: b"a" }, HOUR, moment_at(6_000)),
            None,
            "another pool's sessions are others"
        );
        sessions.insert(session_key(b"b"), ReplicaId(1), HOUR, moment_at(9_700));
        assert_eq!(sessions.by_key.len(), 1);
    }

    #[test]
    fn a_session_that_moves_is_one_session() {
        let sessions = SessionTable::default();
        sessions.insert(session_key(b"a"), ReplicaId(1), HOUR, moment_at(0));
        sessions.insert(session_key(b"a"), ReplicaId(2), HOUR, moment_at(1));
        assert_eq!(sessions.get(session_key(b"a"), HOUR, moment_at(2)), Some(ReplicaId(2)));
        assert_eq!(sessions.eviction_order.lock().unwrap().len(), 1);
    }

    #[test]
    fn the_map_stays_bounded_and_what_is_used_stays() {
        let sessions = SessionTable::default();
        sessions.insert(session_key(b"used"), ReplicaId(7), HOUR, moment_at(0));
        for i in 0..MAX_SESSIONS + 10 {
            sessions.insert(session_key(&i.to_le_bytes()), ReplicaId(1), HOUR, moment_at(1));
            if i % 1_000 == 0 {
                sessions.get(session_key(b"used"), HOUR, moment_at(1));
            }
        }
        assert_eq!(sessions.by_key.len(), MAX_SESSIONS);
        assert_eq!(sessions.eviction_order.lock().unwrap().len(), MAX_SESSIONS);
        assert_eq!(sessions.get(session_key(b"used"), HOUR, moment_at(2)), Some(ReplicaId(7)));
        assert_eq!(sessions.get(session_key(&0usize.to_le_bytes()), HOUR, moment_at(2)), None);
        sessions.insert(session_key(&[b'x'; MAX_SESSION_KEY_BYTES]), ReplicaId(1), HOUR, moment_at(3));
        assert_eq!(sessions.by_key.len(), MAX_SESSIONS, "a name that is too long is not kept");
    }
}
